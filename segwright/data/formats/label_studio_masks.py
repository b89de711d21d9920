"""Label Studio's export of brushes as PNG or NPY (``task-1-annotation-1-by-1-tag-Road-0.png``) with its JSON.

The names hold task, annotation and label, and the JSON names the image of a task. Where the JSON holds the regions,
it is read instead (``label_studio``); this is for a JSON of tasks alone. Of several annotations of a task the newest is
read (that of the highest number), with a note. A pixel belongs to the label where the mask is not 0; where labels
overlap the smaller is on top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.types import MAX_CLASSES
from segwright.data.annotations.rasterize import Drawable, Drawing, RasterizedReader, Region, annotated_space, fill_name
from segwright.data.formats.base import Format
from segwright.data.formats.file_references import Reference, resolve_all
from segwright.data.formats.file_tree import Tree, read_ends, read_json
from segwright.data.formats.label_studio import CHOOSE_IMAGE
from segwright.data.formats.label_studio_tasks import (
    Interface,
    file_address,
    interface_beside,
    named_images,
    task_images,
)
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import class_names
from segwright.data.mask_files import read_mask_file
from segwright.data.records import Dataset, Problem, Record

MASK = re.compile(r"task-(\d+)-annotation-(\d+)-by-.+?-tag-(.+)-(\d+)\.(?:png|npy)")
_PREFIX = re.compile(r"^[0-9a-f]{8}-")
LOOKED_AT = 8


@dataclass(frozen=True)
class _Mask:
    path: Path
    task: int
    annotation: int
    label: str


@dataclass
class MasksReader(RasterizedReader):
    """``payload`` of a record: (path, class index) of its masks."""

    background: int = 0

    def drawing(self, record: Record) -> Drawing | None:
        height, width = self.size(record)
        objects = [Drawable(index, _Draw(index, path, height, width)) for path, index in record.payload]
        return Drawing(height, width, objects, self.background, sort_by_area=True, where=record.id)


@dataclass(frozen=True, slots=True)
class _Draw:
    index: int
    path: Path
    height: int
    width: int

    def __call__(self) -> Region:
        pixels = read_mask_file(self.path)
        inside = np.asarray(pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(axis=2))
        if inside.shape != (self.height, self.width):
            raise LabelError(
                "a mask differs in size from its task's image",
                expected=f"{self.width}×{self.height}",
                found=f"{inside.shape[1]}×{inside.shape[0]}",
                where=self.path,
                fix="use the images that were annotated",
            )
        return Region(self.index, inside)


def _masks(tree: Tree) -> list[_Mask]:
    found = []
    for _, listing in () if tree.is_file else tree.walk(depth=4):
        for name in listing.files:
            match = MASK.fullmatch(name)
            if match:
                found.append(_Mask(Path(listing.path, name), int(match[1]), int(match[2]), match[3]))
    return found


def _tasks(tree: Tree) -> tuple[Path, list[Mapping[str, Any]]] | None:
    """(JSON, its tasks)."""
    for _, listing in () if tree.is_file else tree.walk(depth=2):
        for name in [name for name in listing.files if name.lower().endswith(".json")][:LOOKED_AT]:
            path = Path(listing.path, name)
            if not re.match(r"\ufeff?\s*\[", read_ends(path)) or '"id"' not in read_ends(path):
                continue
            try:
                data = read_json(path)
            except DataError:
                continue
            tasks = [task for task in data if isinstance(task, Mapping) and _is_id(task.get("id"))]
            if any(named_images(fields) for task in tasks if isinstance(fields := task.get("data", task), Mapping)):
                return path, tasks
    return None


def _is_id(value: Any) -> bool:
    return (isinstance(value, int) and 0 <= value < 10**15) or (isinstance(value, str) and value.isdecimal())


def _image(task: Mapping[str, Any], interface: Interface | None, where: str) -> str:
    """The address of a task's image; LabelError if there are several and nothing names the right one."""
    found = task_images(task.get("data", task), interface, where, CHOOSE_IMAGE)
    if len(found) > 1:
        raise LabelError(
            "masks of tasks with several annotated images", expected="one <Image> with labels",
            found=", ".join(one.name for one in found), where=where,
            fix="export the project as JSON, which names the image",
        )  # fmt: skip
    return file_address(found[0].address) if found else ""


def detect(tree: Tree) -> str | None:
    masks = _masks(tree)
    return (
        f"{counted(len(masks), 'mask')} named by task and label, and tasks in a JSON"
        if masks and _tasks(tree)
        else None
    )


def open_label_studio_masks(tree: Tree) -> Dataset:
    masks, tasks = _masks(tree), _tasks(tree)
    if not masks or tasks is None:
        raise FormatError(
            "no masks of Label Studio with their tasks",
            expected="task-1-annotation-1-by-1-tag-Road-0.png and the project's JSON",
            found=tree.summary(),
            where=tree.root,
        )
    path, listed = tasks
    interface = interface_beside(path.parent)
    images = {int(task["id"]): _image(task, interface, f"{path}, task {task['id']}") for task in listed}
    named = {number: image for number, image in images.items() if image}
    found, problems = _images(tree, path, named)
    names, names_note = class_names(tree, {mask.label for mask in masks})
    if len(names) >= MAX_CLASSES:
        raise LabelError("1 to 254 classes are supported", found=f"{len(names)} labels", where=tree.root)
    space, index, background = annotated_space(names)
    newest = {task: max(mask.annotation for mask in masks if mask.task == task) for task in {m.task for m in masks}}
    several = sorted({mask.task for mask in masks if mask.annotation != newest[mask.task]})
    if several:
        message = f"{counted(len(several), 'task', 'has')} masks of several annotations: the newest of each is read"
        files = tuple(str(mask.path) for mask in masks if mask.annotation != newest[mask.task])
        problems.append(Problem("warning", "several masks per image", message, files, "export the one that is right"))
    held: dict[int, list[tuple[Path, int]]] = {}
    for mask in masks:
        if mask.annotation == newest[mask.task]:
            held.setdefault(mask.task, []).append((mask.path, index[mask.label]))
    lone = [path for task, parts in held.items() if task not in found for path, _ in parts]
    if not found.keys() & held.keys():
        raise FormatError(
            "masks of Label Studio, and none of their tasks' images is here",
            expected=", ".join(named.get(task, f"the image of task {task}") for task in sorted(held)[:3]),
            found=tree.summary(),
            where=path,
            fix="put the images beside the masks, under the names that the JSON gives",
        )
    order = sorted(found)
    return assemble(
        tree,
        "label_studio_masks",
        [(None, found[task], None) for task in order],
        MasksReader(space, background=background),
        [
            f"tasks and images by {path.name}; {len(names)} labels{names_note}; what none covers is "
            f"{fill_name(space, background)}; of overlapping ones the smaller is on top"
        ],
        problems,
        lone,
        [tuple(held[task]) if task in held else None for task in order],
    )


def _images(tree: Tree, path: Path, named: Mapping[int, str]) -> tuple[dict[int, Path], list[Problem]]:
    """(task → image, findings); uploads are found with and without the prefix that Label Studio gives them."""
    tasks = sorted(named)
    resolved = resolve_all(tree, [Reference(named[task], path) for task in tasks])
    problems = list(resolved.problems)
    found = {task: image for task, image in zip(tasks, resolved.paths, strict=True) if image is not None}
    open_ones = [task for task in tasks if task not in found]
    if open_ones:
        plain = [_PREFIX.sub("", Path(unquote(urlparse(named[task]).path)).name) for task in open_ones]
        again = resolve_all(tree, [Reference(name, path) for name in plain])
        found |= {task: image for task, image in zip(open_ones, again.paths, strict=True) if image is not None}
        problems = [p for p in problems if p.kind != "image missing"] + list(again.problems)
    return _distinct(found, tree), problems


def _distinct(found: Mapping[int, Path], tree: Tree) -> dict[int, Path]:
    """FormatError where two tasks are one image."""
    owner: dict[Path, int] = {}
    for task, image in found.items():
        if image in owner:
            raise FormatError(
                "two tasks are one image",
                expected="one task per image",
                found=f"tasks {owner[image]} and {task}: {image}",
                where=tree.root,
                fix="export the project without one of them",
            )
        owner[image] = task
    return dict(found)


FORMAT = Format(
    "label_studio_masks",
    "Label Studio's masks",
    "task-1-annotation-1-by-1-tag-Road-0.png and the project's JSON",
    detect,
    open_label_studio_masks,
)

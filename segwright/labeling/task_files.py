"""The images of a selection as files that a labeling tool imports, most valuable first, with the model's masks.

``cvat``: ``annotations.xml`` (CVAT for images 1.1), ``labels.json`` and ``images.txt`` for ``cvat-cli task create``.
``label-studio``: ``tasks.json`` with predictions, ``config.xml``. ``labelme``: a JSON per image, ``labels.txt``. All
have one mask per class, exact to the pixel; images are not copied.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.atomic_io import refuse_used_folder, write_folder
from segwright.core.errors import SegwrightError, UsageError
from segwright.core.progress import track
from segwright.core.types import LabelSpace
from segwright.data.formats.cvat import header_lines, image_lines
from segwright.data.formats.label_studio_writing import IMAGE_KEY, class_brushes, labeling_config, local_file
from segwright.data.formats.labelme import mask_page
from segwright.data.formats.writing import IGNORE_NAME, class_table, uncovered_index, written_labels, written_names
from segwright.imageio import write_bytes
from segwright.inference.prediction import Prediction
from segwright.labeling.questions import SelectedImage, Selection

TOOLS = ("cvat", "label-studio", "labelme")
Predict = Callable[[Path], Prediction]


@dataclass(frozen=True)
class Tasks:
    """What was written: ``images`` in their order, ``failed`` (file, why), ``notes`` on what a tool cannot hold."""

    folder: Path
    tool: str
    images: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Writing:
    out: Path
    selection: Selection
    space: LabelSpace
    version: str
    failed: list[tuple[str, str]]
    written: list[str]

    def predictions(self, predict: Predict | None) -> Iterator[tuple[int, SelectedImage, Prediction | None]]:
        """Number from 1, image and prediction; an image that cannot be read is listed and left out."""
        for image in track(self.selection.images, "pre-labeling", len(self.selection.images)):
            try:
                found = None if predict is None else predict(self.selection.path(image))
            except SegwrightError as error:
                self.failed.append((image.image, error.message))
                continue
            self.written.append(image.image)
            yield len(self.written), image, found


def write_tasks(
    selection: Selection,
    tool: str,
    out: str | Path,
    predict: Predict | None = None,
    *,
    version: str = "segwright",
    root: str | Path | None = None,
) -> Tasks:
    """Write the files of one of TOOLS into the new folder ``out``.

    ``predict``: gives the masks; without it there are none. ``version``: the model's name in Label Studio. ``root``:
    Label Studio's document root for local files; the parent of the images' folder if left out. UsageError for an
    unknown tool, a folder that is not empty, or a selection without classes.
    """
    out = Path(out)
    if tool not in TOOLS:
        raise UsageError("unknown labeling tool", expected=", ".join(TOOLS), found=tool)
    refuse_used_folder(out, fix="name a new folder")
    if selection.label_space is None:
        raise UsageError("the selection was made without a model and names no classes", fix="select with a model")
    with write_folder(out) as beside:
        work = _Writing(beside, selection, selection.label_space, version, [], [])
        if tool == "cvat":
            notes = _write_cvat(work, predict)
        elif tool == "label-studio":
            notes = _write_label_studio(work, predict, _document_root(selection, root))
        else:
            notes = _write_labelme(work, predict, out)
        if not work.written:
            raise UsageError("none of the images can be used", found="; ".join(why for _, why in work.failed)[:300])
    return Tasks(out, tool, tuple(work.written), tuple(work.failed), tuple(notes))


def _write_cvat(work: _Writing, predict: Predict | None) -> list[str]:
    names, fill = written_names(work.space), uncovered_index(work.space)
    lines = header_lines(written_labels(work.space))
    for number, image, found in work.predictions(predict):
        labels = None if found is None else found.labels
        lines += image_lines(number - 1, image.image, None, image.image_size, labels, names, fill, source="auto")
    write_bytes(work.out / "annotations.xml", "\n".join([*lines, "</annotations>"]).encode())
    labels_json = [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color), "type": "mask", "attributes": []}
        for name, color in written_labels(work.space)
    ]
    write_bytes(work.out / "labels.json", json.dumps(labels_json, indent=1, ensure_ascii=False).encode())
    paths = [str(work.selection.root / name) for name in work.written]
    write_bytes(work.out / "images.txt", "".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape"))
    same = [name for name, count in Counter(Path(name).name for name in work.written).items() if count > 1]
    if same:
        return [f"{len(same)} file names occur in several folders ({same[0]}): upload the images as an archive, which "
                "keeps folders"]  # fmt: skip
    return []


def _write_label_studio(work: _Writing, predict: Predict | None, prefix: str) -> list[str]:
    names, fill = written_names(work.space), uncovered_index(work.space)
    tasks = []
    for number, image, found in work.predictions(predict):
        data: dict[str, Any] = {
            IMAGE_KEY: local_file(f"{prefix}{image.image}"), "file": image.image, "rank": number,
            "value": round(image.score, 6), "random": image.random,
        }  # fmt: skip
        task: dict[str, Any] = {"data": data}
        if found is not None:
            score = float(found.confidence.mean(dtype=np.float64))
            brushes = class_brushes(found.labels, names, fill)
            task["predictions"] = [{"model_version": work.version, "score": score, "result": brushes}]
        tasks.append(task)
    write_bytes(work.out / "tasks.json", json.dumps(tasks, ensure_ascii=False).encode())
    write_bytes(work.out / "config.xml", labeling_config(written_labels(work.space)).encode())
    write_bytes(work.out / "classes.csv", class_table(work.space, IGNORE_NAME).encode())
    return []


def _document_root(selection: Selection, root: str | Path | None) -> str:
    """The images' folder below Label Studio's document root, with a slash at the end."""
    folder = selection.root.resolve()
    below = folder.parent if root is None else Path(root).resolve()
    if below != folder and below not in folder.parents:
        raise UsageError(
            "the images are not below Label Studio's document root", expected=f"a folder in {below}", found=str(folder)
        )
    relative = folder.relative_to(below).as_posix()
    return "" if relative == "." else f"{relative}/"


def _write_labelme(work: _Writing, predict: Predict | None, out: Path) -> list[str]:
    names, fill = written_names(work.space), uncovered_index(work.space)
    for _, image, found in work.predictions(predict):
        if found is None:
            continue
        file = Path(image.image).with_suffix(".json")
        here = (out / file).parent.resolve()
        place = Path(os.path.relpath(work.selection.path(image).resolve(), here)).as_posix()
        page = mask_page(found.labels, place, names, fill)
        write_bytes(work.out / file, json.dumps(page, indent=1, ensure_ascii=False).encode())
    lines = "".join(f"{name}\n" for name, _ in written_labels(work.space))
    write_bytes(work.out / "labels.txt", lines.encode())
    write_bytes(work.out / "classes.csv", class_table(work.space, IGNORE_NAME).encode())
    stems = Counter(str(Path(name).with_suffix("")) for name in work.written)
    twice = [name for name, count in stems.items() if count > 1]
    if twice:
        raise UsageError("labelme's files are named as their images without the ending, and two images differ in it "
                         "alone", found=twice[0], fix="rename one of them")  # fmt: skip
    order = ["labelme opens images in the order of their names: images.txt has that of the selection"]
    paths = "".join(f"{work.selection.root / name}\n" for name in work.written)
    write_bytes(work.out / "images.txt", paths.encode("utf-8", "surrogateescape"))
    return order


def next_steps(tasks: Tasks, selection: Selection) -> Mapping[str, str]:
    """What to do with the files, as lines for the screen: what → command."""
    folder = tasks.folder

    def file(name: str) -> str:
        return shlex.quote(str(folder / name))

    if tasks.tool == "cvat":
        # Names may hold spaces, so a shell must not split the list; -x: all in one command, or none.
        return {
            "create the task": f"tr '\\n' '\\0' < {file('images.txt')} | xargs -0 -x -n 1000000 cvat-cli task create "
            f"NAME --labels {file('labels.json')} --sorting-method predefined local",
            "import the masks": f"cvat-cli task import-dataset ID {file('annotations.xml')} --format 'CVAT 1.1'",
        }
    root, parent = shlex.quote(str(selection.root)), shlex.quote(str(selection.root.parent))
    if tasks.tool == "label-studio":
        return {
            "labeling interface": f"{file('config.xml')}, in the project's settings",
            "import": f"{file('tasks.json')}, with LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={parent}",
        }
    return {
        "open": f"labelme {root} --output {shlex.quote(str(folder))} --labels {file('labels.txt')} --nodata",
        "back": f"copy the JSON files of {folder} beside their images: segwright check {root}",
    }

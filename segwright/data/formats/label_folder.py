"""A label folder, as ``segwright label`` writes it: sparse label masks, 255 where nobody labeled.

``label_folder.json`` names the images' folder and the classes. ``strokes.jsonl`` holds every stroke
(:mod:`segwright.data.strokes`), ``masks/`` what they give, and ``labels.json`` the counts and how much of the journal
each mask holds: a mask that is behind, after a kill, is made from the journal in memory. Only images with labels are
samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import write_json
from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import LabelSpace
from segwright.data.formats.base import Format, sort_splits, unique_ids
from segwright.data.formats.file_tree import Tree
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.data.strokes import (
    JOURNAL,
    ImageStrokes,
    check_inside,
    labels_from_journal,
    read_journal,
)
from segwright.imageio import UInt8Array

FOLDER_FILE = "label_folder.json"
COUNTS_FILE = "labels.json"
MASKS = "masks"
FORMAT_MARK = "segwright label folder"
VERSIONS = (1, 2)  # 2: the journal was made shorter, and programs that know 1 alone would read it wrongly
MOST_BYTES = 256 << 20  # of labels.json: about a million images


@dataclass(frozen=True)
class FolderInfo:
    """The content of label_folder.json."""

    images: Path  # the images' folder, absolute
    label_space: LabelSpace
    val: tuple[str, ...] = ()  # images that are the val split; the others are train. Empty: no splits are given
    model: str | None = None
    key: str = ""  # what a browser's kept strokes are recognized by, so that they never reach another folder
    version: int = 1

    def write(self, folder: Path) -> Path:
        """Write it into a label folder. The images are named relative to it if both lie in one folder."""
        here, images = folder.resolve(), self.images.resolve()
        near = here.parent == images.parent or here == images.parent or images == here.parent
        space = self.label_space
        tree = {
            "format": FORMAT_MARK,
            "version": self.version,
            "images": Path(os.path.relpath(images, here)).as_posix() if near else str(images),
            "classes": [
                {"name": name, "color": list(color)} for name, color in zip(space.names, space.colors, strict=True)
            ],
            "model": self.model,
            "key": self.key,
        }
        if self.val:
            tree["val"] = list(self.val)
        return write_json(folder / FOLDER_FILE, tree)


def is_label_folder(folder: Path) -> bool:
    """Whether a folder has the file that makes it one."""
    return (folder / FOLDER_FILE).is_file()


def read_info(folder: Path) -> FolderInfo:
    """The content of label_folder.json; FormatError if it is damaged or the images are gone."""
    path = folder / FOLDER_FILE
    try:
        tree = json.loads(_read(path, 8 << 20))
        if tree["format"] != FORMAT_MARK or tree["version"] not in VERSIONS:
            raise FormatError(
                "another version of a label folder", expected=f"{FORMAT_MARK}, version {VERSIONS[-1]} at most",
                found=f"{tree['format']}, version {tree['version']}"[:80], where=path, fix="update segwright",
            )  # fmt: skip
        classes = [(str(one["name"]), tuple(int(value) for value in one["color"])) for one in tree["classes"]]
        space = LabelSpace(tuple(name for name, _ in classes), tuple((c[0], c[1], c[2]) for _, c in classes))
        images = Path(os.path.normpath(folder.resolve() / str(tree["images"])))
        val = tuple(check_inside(str(name)) for name in tree.get("val", ()))
    except FormatError:
        raise
    except (LabelError, OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        text = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FormatError(
            "the label folder's description is damaged", found=text[:200], where=path,
            fix="run segwright label on the images again with --out and this folder",
        ) from error  # fmt: skip
    if not images.is_dir():
        raise FormatError(
            "the images of the label folder are not there", expected=f"the folder {images}", found="nothing",
            where=path, fix=f'put them back, or write their new place into "images" of {FOLDER_FILE}',
        )  # fmt: skip
    model = tree.get("model")
    return FolderInfo(
        images, space, val, None if model is None else str(model), str(tree.get("key", "")), int(tree["version"])
    )


def _read(path: Path, most: int) -> bytes:
    if path.stat().st_size > most:
        raise ValueError(f"more than {most} bytes")
    return path.read_bytes()


def image_file(images: Path, name: str) -> Path:
    """The file of an image; LabelError if its path, or a link on it, leaves the images' folder."""
    path = images / check_inside(name)
    root = images.resolve()
    if root not in path.resolve().parents:
        raise LabelError("an image's path leaves the folder of the images", found=name[:200], where=images)
    return path


def read_counts(folder: Path) -> dict[str, dict[str, Any]]:
    """Image → what labels.json holds about it; empty if there is none or it is damaged, for it can be made again."""
    try:
        images = json.loads(_read(folder / COUNTS_FILE, MOST_BYTES))["images"]
        return {str(name): dict(entry) for name, entry in images.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def holds_all(entry: Mapping[str, Any], end: int, generation: int) -> bool:
    """Whether a mask holds all strokes of a journal up to ``end``: its entry is about this very journal."""
    return int(entry.get("bytes", -1)) >= end and int(entry.get("generation", 0)) == generation


def mask_names(names: Sequence[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Image → its mask's path below ``masks/``: the image's with the suffix .png.

    Images that differ in their suffix alone keep it before the ``.png``; names that are ``given`` stay.
    """
    found = dict(given or {})
    taken = {name.casefold() for name in found.values()}
    for name in names:
        if name in found:
            continue
        stem, _ = os.path.splitext(name)
        candidates = [f"{stem}.png", f"{name}.png", *(f"{name}.{n}.png" for n in range(2, 1000))]
        chosen = next(one for one in candidates if one.casefold() not in taken)
        found[name] = chosen
        taken.add(chosen.casefold())
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Reading it as a dataset


@dataclass(frozen=True)
class JournaledMask:
    """A label mask that is made from the journal."""

    journal: Path
    strokes: ImageStrokes
    generation: int  # of the journal


class LabelFolderReader(FileReader):
    """Masks in files, or made from the journal where a file is behind it."""

    def read_mask_values(self, record: Record) -> UInt8Array | None:
        if isinstance(record.payload, JournaledMask):
            return labels_from_journal(record.payload.journal, record.payload.strokes, record.payload.generation)
        found = super().read_mask_values(record)
        return None if found is None else found.astype("uint8", copy=False)


def detect(tree: Tree) -> str | None:
    if tree.is_file or FOLDER_FILE not in tree.folder().files:
        return None
    try:
        mark = json.loads(_read(tree.root / FOLDER_FILE, 8 << 20))
    except (OSError, ValueError, RecursionError):
        return None
    return f"{FOLDER_FILE} and {JOURNAL}" if isinstance(mark, dict) and mark.get("format") == FORMAT_MARK else None


def open_label_folder(tree: Tree) -> Dataset:
    folder = tree.root
    info = read_info(folder)
    journal = read_journal(folder / JOURNAL)
    counts = read_counts(folder)
    masks = {name: str(entry["mask"]) for name, entry in counts.items() if "mask" in entry}
    rows: list[tuple[str, Path, Path | None, JournaledMask | None]] = []
    gone: list[str] = []
    problems: list[Problem] = []
    behind = 0
    for name in sorted(set(journal.images) | set(counts)):
        found = journal.images.get(name, ImageStrokes())
        entry = counts.get(name, {})
        try:
            path = image_file(info.images, name)
            mask = folder / MASKS / check_inside(masks[name]) if name in masks else None
        except LabelError as error:
            problems.append(Problem("error", "path leaves the folder", str(error), (name,), "remove it"))
            continue
        current = mask is not None and mask.is_file() and holds_all(entry, found.end, journal.generation)
        if (not int(entry.get("pixels", 1)) and current) or not (current or found.spans):
            continue  # skipped or erased: nothing is labeled
        if not path.is_file():
            gone.append(name)
            continue
        behind += not current
        made = None if current else JournaledMask(folder / JOURNAL, found, journal.generation)
        rows.append((name, path, mask if current else None, made))
    if not rows:
        raise FormatError(
            "nothing is labeled yet", expected="at least one answer or stroke", found="none", where=folder,
            fix=f"segwright label {info.images} --out {folder}",
        )  # fmt: skip
    if gone:
        problems.append(
            Problem(
                "warning", "mask without image", f"{len(gone)} labeled images are gone", tuple(gone), "put them back"
            )
        )
    ids = unique_ids([(path.parent.name, path.stem, path.suffix) for _, path, _, _ in rows])
    records = [Record(one, path, mask, made) for one, (_, path, mask, made) in zip(ids, rows, strict=True)]
    given: dict[str, list[Record]] = {}
    for record, (name, *_) in zip(records, rows, strict=True):
        if info.val:
            given.setdefault("val" if name in info.val else "train", []).append(record)
    return Dataset(
        root=folder,
        format=FORMAT.name,
        reader=LabelFolderReader(info.label_space),
        records=tuple(records),
        given=sort_splits(given),
        notes=_notes(info, len(rows), behind, journal.torn),
        problems=problems,
    )


def _notes(info: FolderInfo, labeled: int, behind: int, torn: int) -> list[str]:
    notes = [
        f"images are read from {info.images}",
        f"{counted(labeled, 'image', 'has')} labels; pixels without are 255 (ignored)",
    ]
    if behind:
        notes.append(f"{counted(behind, 'mask', 'is')} behind the journal: made from it")
    if torn:
        notes.append(f"{torn} lines of the journal were cut short and hold no stroke")
    return notes


FORMAT = Format("label_folder", "label folder", f"{FOLDER_FILE}, {JOURNAL} and masks/", detect, open_label_folder)

"""Annotations of Label Studio as a folder of images and masks, which ``check``, ``train`` and ``refine`` open.

``images/`` holds the images, ``masks/`` their masks of class indices with 255 where nobody labeled, ``classes.csv`` the
classes, ``annotations.json`` which task and annotation each mask is from, by whom, in how many clicks and seconds.
Label Studio does not record the clicks of brushes: their regions are counted. Of several annotations of a task one
counts (:mod:`segwright.data.formats.label_studio_tasks`); the masks of the others lie in ``.others/``, where no reader
looks, and take its place when it is deleted.

A model that gets further classes after the old ones goes on with the same folder: the table is extended.
"""

from __future__ import annotations

import csv
import glob
import json
import threading
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segwright.core.atomic_io import write_bytes, write_json
from segwright.core.errors import DataError, UsageError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace, UInt8Array
from segwright.data.formats.label_studio import count_clicks
from segwright.data.formats.label_studio_tasks import file_path, preferred
from segwright.data.formats.writing import class_table, safe_names, written_names
from segwright.imageio import encode_png

INDEX, TABLE = "annotations.json", "classes.csv"
OTHERS = ".others"
FORMAT = "segwright labels of Label Studio"

Entry = dict[str, Any]


class AnnotationFolder:
    """The folder at ``root``. UsageError if it holds something else, or labels of other classes."""

    def __init__(self, root: str | Path, space: LabelSpace) -> None:
        self.root, self.space = Path(root), space
        self._lock = threading.Lock()
        self.images: dict[str, Entry] = {}  # name → what is known about its mask
        path = self.root / INDEX
        if path.is_file():
            self.images = _read(path)
        elif self.root.exists() and (not self.root.is_dir() or {one.name for one in self.root.iterdir()} - {TABLE}):
            raise UsageError(
                "the label folder holds something else", expected=f"a new folder, or one with {INDEX}", where=self.root,
                fix="name another folder with --label-folder",
            )  # fmt: skip
        with self._lock:
            self._use(space)
            self._save()

    def use(self, space: LabelSpace) -> None:
        """Go on with the classes of another model. UsageError if they are others than those of the folder: one list
        must begin with the other; the longer one is the folder's."""
        with self._lock:
            self._use(space)

    def _use(self, space: LabelSpace) -> None:
        path = self.root / TABLE
        table = path.read_bytes() if path.is_file() else b""
        known = _classes(table)
        names, written = [name for name, _ in known], written_names(space)
        shorter = min(len(names), len(written))
        if names[:shorter] != written[:shorter]:
            raise UsageError(
                "the label folder has other classes than the model",
                expected=", ".join(space.names),
                found=", ".join(names),
                where=self.root,
                fix="name another folder with --label-folder",
            )
        colors = [color for _, color in known] + list(space.colors[len(known) :])
        if len(set(colors)) < len(colors):
            colors = list(space.colors) + [color for _, color in known[len(space) :]]
        self.space = LabelSpace((*space.names, *names[len(space) :]), tuple(colors))
        if (new := class_table(self.space).encode()) != table:
            write_bytes(path, new)

    def store(
        self, task: int, annotation: Mapping[str, Any], address: str, image: bytes, ending: str, mask: UInt8Array
    ) -> str:
        """Write an image, its mask (H, W) and the index; returns the image's name. OutputError.

        The mask lies in ``masks/`` if the annotation is the one of its task that counts.
        """
        name = _name(task, address)
        clicks, unknown = count_clicks(annotation)
        entry: Entry = {
            "task": task,
            "annotation": annotation.get("id"),
            "updated_at": annotation.get("updated_at"),
            "ground_truth": bool(annotation.get("ground_truth")),
            "by": _person(annotation.get("completed_by")),
            "seconds": annotation.get("lead_time"),
            "clicks": clicks,
            "uncounted": unknown,
            "pixels": int(np.count_nonzero(mask != IGNORE_INDEX)),
            "address": address,
        }
        with self._lock:
            write_bytes(self.root / "images" / f"{name}{ending}", image)
            kept = [one for one in self._entries(name) if one["annotation"] != entry["annotation"]]
            self._settle(name, [*kept, entry], encode_png(mask, self.space.palette()))
        return name

    def remove(self, annotation: int) -> str | None:
        """Remove the mask that an annotation gave; returns its name, None if no mask is from it. Another annotation of
        the task takes its place."""
        with self._lock:
            for name in self.images:
                entries = self._entries(name)
                kept = [one for one in entries if one["annotation"] != annotation]
                if len(kept) < len(entries):
                    self._drop(name, kept)
                    return name
        return None

    def keep(self, task: int, annotations: Collection[Any]) -> None:
        """Remove the masks of a task's other annotations: those that are gone."""
        with self._lock:
            for name in [name for name, entry in self.images.items() if entry.get("task") == task]:
                entries = self._entries(name)
                kept = [one for one in entries if one["annotation"] in annotations]
                if len(kept) < len(entries):
                    self._drop(name, kept)

    def _entries(self, name: str) -> list[Entry]:
        """What is known of an image's annotations, the one that counts last; those whose mask is lost are left out."""
        held = self.images.get(name)
        if held is None:
            return []
        others = [one for one in held.get("others", ()) if self._aside(name, one).is_file()]
        return [*others, {key: value for key, value in held.items() if key != "others"}]

    def _aside(self, name: str, entry: Mapping[str, Any]) -> Path:
        return self.root / OTHERS / f"{name}.{entry['annotation']}.png"

    def _drop(self, name: str, kept: list[Entry]) -> None:
        if kept:
            self._settle(name, kept)
            return
        (self.root / "masks" / f"{name}.png").unlink(missing_ok=True)
        for path in (self.root / "images").glob(f"{glob.escape(name)}.*"):
            path.unlink(missing_ok=True)
        del self.images[name]
        self._save()

    def _settle(self, name: str, entries: list[Entry], new: bytes | None = None) -> None:
        """Put the mask of the annotation that counts into ``masks/``, the others aside. ``new``: the mask of the last
        entry."""
        place, held = self.root / "masks" / f"{name}.png", self.images.get(name, {}).get("annotation")
        last = entries[-1]["annotation"] if new is not None else None
        ranked = preferred({**one, "id": one["annotation"], "entry": one} for one in entries)
        assert ranked is not None
        best: Entry = ranked["entry"]
        before = {str(one["annotation"]): one for one in entries}.get(str(held))
        if before is not None and before is not best and not (new is not None and held == last):
            write_bytes(self._aside(name, before), place.read_bytes())
        if new is not None:
            write_bytes(place if entries[-1] is best else self._aside(name, entries[-1]), new)
        if best is not before and not (new is not None and entries[-1] is best):
            write_bytes(place, self._aside(name, best).read_bytes())
        others = [one for one in entries if one is not best]
        self.images[name] = best | ({"others": others} if others else {})
        self._save()
        wanted = {self._aside(name, one) for one in others}
        for path in (self.root / OTHERS).glob(f"{glob.escape(name)}.*.png"):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _save(self) -> None:
        seconds = [entry["seconds"] for entry in self.images.values() if isinstance(entry.get("seconds"), int | float)]
        write_json(
            self.root / INDEX,
            {
                "format": FORMAT,
                "answers": len(self.images),
                "annotators": sorted({entry["by"] for entry in self.images.values() if entry.get("by")}),
                "seconds": round(sum(seconds), 1),
                "clicks": sum(entry.get("clicks", 0) for entry in self.images.values()),
                "uncounted": sum(entry.get("uncounted", 1) for entry in self.images.values()),  # of before: not known
                "images": self.images,
            },
        )


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = json.loads(path.read_bytes())
        if tree["format"] != FORMAT:
            raise UsageError("the label folder is of another kind", expected=FORMAT, found=str(tree["format"])[:80],
                             where=path.parent, fix="name another folder with --label-folder")  # fmt: skip
        return {str(name): dict(entry) for name, entry in tree["images"].items()}
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "the label folder's index is damaged", found=str(error)[:200], where=path,
            fix="name another folder with --label-folder; the masks stay where they are",
        ) from error  # fmt: skip


def _classes(table: bytes) -> list[tuple[str, Color]]:
    """(name, color) of the classes in a table that was written here; DataError if it is none."""
    try:
        rows = list(csv.reader(table.decode().splitlines()))[1:-1]
        return [(name, (int(red), int(green), int(blue))) for _, name, red, green, blue in rows]
    except ValueError as error:
        raise DataError("the label folder's classes are damaged", found=str(error)[:200], where=TABLE,
                        fix="name another folder with --label-folder") from error  # fmt: skip


def _name(task: int, address: str) -> str:
    """task-12-street: the task's number makes it unique, whatever folder the image is in."""
    return safe_names([f"task-{task}-{PurePosixPath(file_path(address)).stem}"])[0]


def _person(value: Any) -> str:
    """Who made an annotation: an email address, or a number."""
    if isinstance(value, Mapping):
        return str(value.get("email") or value.get("id") or "")
    return "" if value is None else str(value)

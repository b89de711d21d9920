"""Annotations of Label Studio as a folder of images and masks, which ``check``, ``train`` and ``refine`` open.

``images/`` holds the images, ``masks/`` their masks of class indices with 255 where nobody labeled, ``classes.csv`` the
classes, ``annotations.json`` which task and annotation each mask is from, by whom, in how many clicks and seconds.
Label Studio does not record the clicks of brushes: their regions are counted. A later annotation of a task replaces the
earlier one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from segwright.core.atomic_io import write_bytes, write_json
from segwright.core.errors import DataError, UsageError
from segwright.core.types import IGNORE_INDEX, LabelSpace, UInt8Array
from segwright.data.formats.label_studio import count_clicks
from segwright.data.formats.writing import class_table, safe_names
from segwright.imageio import encode_png

INDEX = "annotations.json"
FORMAT = "segwright labels of Label Studio"


class AnnotationFolder:
    """The folder at ``root``. UsageError if it holds something else, or labels of other classes."""

    def __init__(self, root: str | Path, space: LabelSpace) -> None:
        self.root, self.space = Path(root), space
        self._lock = threading.Lock()
        self.images: dict[str, dict[str, Any]] = {}  # name → what is known about its mask
        table = class_table(space).encode()
        path = self.root / INDEX
        if path.is_file():
            self.images = _read(path)
            found = (self.root / "classes.csv").read_bytes() if (self.root / "classes.csv").is_file() else b""
            if found != table:
                raise UsageError(
                    "the label folder has other classes than the model",
                    expected=", ".join(space.names),
                    found=", ".join(line.split(",")[1] for line in found.decode("utf-8", "replace").splitlines()[1:-1]),
                    where=self.root,
                    fix="name another folder with --label-folder",
                )
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise UsageError(
                "the label folder holds something else", expected=f"a new folder, or one with {INDEX}", where=self.root,
                fix="name another folder with --label-folder",
            )  # fmt: skip
        write_bytes(self.root / "classes.csv", table)

    def store(
        self, task: int, annotation: Mapping[str, Any], address: str, image: bytes, ending: str, mask: UInt8Array
    ) -> str:
        """Write an image, then its mask (H, W), then the index; returns the image's name. OutputError."""
        name = _name(task, address)
        labeled = int(np.count_nonzero(mask != IGNORE_INDEX))
        clicks, unknown = count_clicks(annotation)
        entry = {
            "task": task,
            "annotation": annotation.get("id"),
            "updated_at": annotation.get("updated_at"),
            "by": _person(annotation.get("completed_by")),
            "seconds": annotation.get("lead_time"),
            "clicks": clicks,
            "uncounted": unknown,
            "pixels": labeled,
            "address": address,
        }
        with self._lock:
            write_bytes(self.root / "images" / f"{name}{ending}", image)
            write_bytes(self.root / "masks" / f"{name}.png", encode_png(mask, self.space.palette()))
            self.images[name] = entry
            self._save()
        return name

    def remove(self, annotation: int) -> str | None:
        """Remove the mask that an annotation gave; returns its name, None if no mask is from it."""
        with self._lock:
            name = next((name for name, entry in self.images.items() if entry.get("annotation") == annotation), None)
            if name is not None:
                (self.root / "masks" / f"{name}.png").unlink(missing_ok=True)
                for path in (self.root / "images").glob(f"{name}.*"):
                    path.unlink(missing_ok=True)
                del self.images[name]
                self._save()
            return name

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


def _name(task: int, address: str) -> str:
    """task-12-street: the task's number makes it unique, whatever folder the image is in."""
    parts = urlsplit(address)
    query = parts.query.removeprefix("d=") if parts.query.startswith("d=") else ""
    stem = PurePosixPath(unquote(query or parts.path)).stem
    return safe_names([f"task-{task}-{stem}"])[0]


def _person(value: Any) -> str:
    """Who made an annotation: an email address, or a number."""
    if isinstance(value, Mapping):
        return str(value.get("email") or value.get("id") or "")
    return "" if value is None else str(value)

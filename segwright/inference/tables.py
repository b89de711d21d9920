"""Files over all images of a run, written as the run goes on: memory does not grow with the number of images."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import atomic_file
from segwright.core.types import LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.vectorize import CocoWriter

AREA_COLUMNS = ("file", "class", "pixels", "share", "area", "area_unit")


class AreaTable:
    """A CSV file of pixels, share and area per image and class. It is in its place when :meth:`finish` was called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        beside = self._stack.enter_context(atomic_file(path))
        file = open(beside, "w", encoding="utf-8", newline="", errors="backslashreplace")  # noqa: SIM115
        self._file = self._stack.enter_context(file)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(AREA_COLUMNS)

    def add(self, rows: Iterable[Iterable[object]]) -> None:
        """Add the rows of one image."""
        self._writer.writerows(rows)

    def finish(self) -> None:
        """Put the file into its place."""
        self._stack.close()


class CocoTable:
    """A COCO file whose annotations are kept in a temporary file until :meth:`finish`."""

    def __init__(self, folder: Path, space: LabelSpace, tolerance: float) -> None:
        self._coco = CocoWriter(space, tolerance)
        self._spool = _Spool(folder)
        self._count = 0

    @property
    def images(self) -> int:
        """The number of images so far."""
        return len(self._coco.images)

    def add(self, labels: UInt8Array, file: str) -> None:
        """Add the regions of one image."""
        self._coco.add(labels, file)
        for one in self._coco.annotations:
            self._count += 1
            self._spool.write((", " if self._count > 1 else "") + json.dumps({**one, "id": self._count}))
        self._coco.annotations.clear()

    def save(self, path: Path) -> None:
        """Write the file."""
        tree = self._coco.tree()
        head = json.dumps({"images": tree["images"], "categories": tree["categories"]})[:-1]
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'{head}, "annotations": [')
            self._spool.copy_to(file)
            file.write("]}")

    def close(self) -> None:
        """Remove the temporary file."""
        self._spool.close()


class _Spool:
    def __init__(self, folder: Path) -> None:
        import tempfile

        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115

    def write(self, text: str) -> None:
        self._file.write(text)

    def copy_to(self, file: Any) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 20)

    def close(self) -> None:
        self._file.close()

"""The output of a raster while it is predicted window by window: files on the disk, which a killed run leaves behind.

A window's labels are written before its line in the list of windows, so a run that continues repeats no window and
misses none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import typed_output
from segwright.imageio import UInt8Array
from segwright.inference.cog import ReadRows
from segwright.inference.sliding_window import Window

PREFIX = ".segwright-part-"
Core = tuple[int, int, int, int]


class RasterFiles:
    """Labels, and confidence if wanted, of a raster (H, W); ``settings``: JSON values that a later run must share."""

    def __init__(
        self,
        folder: Path,
        name: str,
        shape: tuple[int, int],
        settings: Mapping[str, Any],
        *,
        confidence: bool,
        resume: bool,
    ) -> None:
        self.shape = shape
        key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.folder = folder / f"{PREFIX}{key}"
        self._settings = json.loads(json.dumps({**settings, "shape": shape, "confidence": confidence}))
        self._kinds = ("labels", "confidence") if confidence else ("labels",)
        self.done: dict[Core, dict[str, float]] = {}
        if resume:
            self._read()
        if not self.done:
            shutil.rmtree(self.folder, ignore_errors=True)
        with typed_output(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files: dict[str, Any] = {}
            for kind in self._kinds:
                place = self.folder / kind
                place.touch()
                self._files[kind] = open(place, "r+b", buffering=0)  # noqa: SIM115
                self._files[kind].truncate(shape[0] * shape[1])
            fresh = not self.done
            self._list = open(self.folder / "windows", "a", encoding="utf-8")  # noqa: SIM115
            self._list.write(json.dumps({"run": self._settings}) + "\n" if fresh else "\n")  # ends a line cut off
            self._list.flush()

    def _read(self) -> None:
        try:
            lines = (self.folder / "windows").read_text(encoding="utf-8", errors="replace").splitlines()
            if not lines or json.loads(lines[0]).get("run") != self._settings:
                return
        except (OSError, ValueError, AttributeError):
            return
        for line in lines[1:]:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                top, left, bottom, right = (int(value) for value in entry["core"])
                self.done[top, left, bottom, right] = {k: float(v) for k, v in entry["sums"].items()}

    def has(self, part: Window) -> bool:
        """Whether a window is done."""
        return core_of(part) in self.done

    def write(self, part: Window, layers: Mapping[str, UInt8Array], sums: Mapping[str, float]) -> None:
        """Keep a window's core (h, w) of each layer, and numbers that :meth:`total` adds up."""
        with typed_output(self.folder):
            for kind in self._kinds:
                values, file = np.ascontiguousarray(layers[kind]), self._files[kind]
                for row in range(values.shape[0]):
                    _write(file, values[row].data, (part.core_top + row) * self.shape[1] + part.core_left)
                os.fsync(file.fileno())
            self._list.write(json.dumps({"core": core_of(part), "sums": dict(sums)}) + "\n")
            self._list.flush()
        self.done[core_of(part)] = dict(sums)

    def total(self, parts: list[Window], key: str) -> float:
        """The sum of a number over windows."""
        return sum(self.done[core_of(part)].get(key, 0.0) for part in parts if core_of(part) in self.done)

    def rows(self, kind: str) -> ReadRows:
        """The rows of a layer."""
        file, width = self._files[kind], self.shape[1]

        def read(top: int, bottom: int, step: int) -> npt.NDArray[np.uint8]:
            if step == 1:
                return _bytes(file, top * width, (bottom - top) * width).reshape(bottom - top, width)
            return np.stack([_bytes(file, y * width, width)[::step] for y in range(top, bottom, step)])

        return read

    def close(self, *, remove: bool) -> None:
        """Close the files, and remove them unless a later run may continue with them."""
        for file in self._files.values():
            file.close()
        self._list.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)


def core_of(part: Window) -> Core:
    """The core's top, left, bottom and right."""
    return part.core_top, part.core_left, part.core_bottom, part.core_right


def _write(file: Any, data: memoryview, offset: int) -> None:
    file.seek(offset)
    while len(data):
        data = data[file.write(data) :]


def _bytes(file: Any, offset: int, count: int) -> npt.NDArray[np.uint8]:
    file.seek(offset)
    found = np.empty(count, np.uint8)
    view, done = found.data, 0
    while done < count:
        more = file.readinto(view[done:])
        if not more:
            raise OSError(f"the file of labels ends after {offset + done} bytes")
        done += more
    return found

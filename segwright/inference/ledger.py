"""What of a run is done, kept beside its outputs, so that a run that was killed continues where it stopped.

``.segwright-progress`` has one JSON line for the model and the options, then one per finished image or frame. A line is
written after the outputs are in place; what a kill left without a line is predicted again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import typed_output
from segwright.core.errors import UsageError

LEDGER = ".segwright-progress"
OUTPUTS = ("mask", "overlay", "confidence", "probabilities", "uncertainty", "geojson", "labelme", "video")

Stamp = list[int]  # size and time of a source


class Ledger:
    """The finished images of a run by the names of their outputs. ``settings``: JSON values that every run must share.

    With ``resume`` an earlier run's lines are taken over; UsageError if its settings were others.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = folder / LEDGER
        self.where: Path | str = folder  # for messages
        self._done: dict[str, dict[str, Any]] = {}
        self._file: Any = None
        self._settings = json.loads(json.dumps(settings))
        if resume:
            self._read()

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return  # no earlier run
        for number, line in enumerate(text.splitlines()):
            try:
                entry = json.loads(line)
                if number == 0:
                    compare_settings(entry["run"], self._settings, self.where)
                else:
                    self._done[str(entry["done"])] = entry
            except (ValueError, KeyError, TypeError, RecursionError):
                if number == 0:
                    return
                continue  # a line that a kill cut off

    def __len__(self) -> int:
        return len(self._done)

    def finished(self, name: str, stamp: Stamp | None) -> dict[str, Any] | None:
        """The entry of an image whose source is unchanged and whose outputs are all there; None otherwise."""
        entry = self._done.get(name)
        if entry is None or entry.get("stamp") != stamp:
            return None
        item = entry.get("item")
        if not isinstance(item, dict):
            return None
        return entry if all(self.there(str(item[key])) for key in OUTPUTS if key in item) else None

    def there(self, output: str) -> bool:
        """Whether an output is in its place."""
        return Path(output).exists()

    def add(self, name: str, stamp: Stamp | None, item: Mapping[str, Any], rows: list[Any]) -> None:
        """Add an image with what was written, and its rows of the table of areas."""
        with typed_output(self.path):
            if self._file is None:
                self._start()
            entry = {"done": name, "stamp": stamp, "item": dict(item), "rows": rows}
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def _start(self) -> None:
        """Open the file; earlier lines are kept if they were read."""
        lines = [json.dumps({"run": self._settings}), *(json.dumps(entry) for entry in self._done.values())]
        beside = self.path.with_name(f"{self.path.name}.new")
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        beside.replace(self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def close(self) -> None:
        """Close the file, which stays: a later run with ``resume`` predicts what is new."""
        if self._file is not None:
            self._file.close()
            self._file = None


def compare_settings(earlier: Mapping[str, Any], now: Mapping[str, Any], where: str | Path) -> None:
    """Raise UsageError if a run that is to be resumed had other settings."""
    keys = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    if keys:
        raise UsageError(
            "the run that is to be resumed had another model or other options",
            expected="; ".join(f"{key}: {earlier.get(key)}" for key in keys[:6]),
            found="; ".join(f"{key}: {now.get(key)}" for key in keys[:6]),
            where=where,
            fix="the same options, or without --resume, which predicts everything again",
        )


def stamp_of(path: Path) -> Stamp | None:
    """Size and time of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]

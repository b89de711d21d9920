"""A reader that notes every image and mask that it decodes, in whatever process, for tests that count decodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from segwright.data.dataset import Dataset, open_dataset
from segwright.data.readers import FileReader
from segwright.data.records import Record
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import UInt8Array


@dataclass
class CountingReader(FileReader):
    log: Path = field(default_factory=Path)

    def image(self, record: Record) -> UInt8Array:
        self._note("image", record)
        return super().image(record)

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        self._note("mask", record)
        return super().read_mask_values(record)

    def _note(self, what: str, record: Record) -> None:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{what} {record.id}\n")


def count_decodes(data: Dataset, log: Path) -> None:
    """Have the reader of ``data`` write to ``log``."""
    reader: Any = data.reader
    fields = {name: getattr(reader, name) for name in reader.__dataclass_fields__ if not name.startswith("_")}
    data.reader = CountingReader(**fields, log=log)
    log.touch()


def decodes(log: Path) -> Counter[str]:
    """Line ("image ID", "mask ID") → how many times it was decoded."""
    return Counter(log.read_text(encoding="utf-8").splitlines())


def without_splits(folder: Path, count: int = 12) -> Dataset:
    """Street scenes in one folder, whose splits are made."""
    root = write_street_scenes(folder, train=count, val=0, test=0, size=(64, 64))
    for kind in ("images", "masks"):
        for path in sorted((root / kind / "train").iterdir()):
            path.rename(root / kind / path.name)
        (root / kind / "train").rmdir()
    return open_dataset(root)

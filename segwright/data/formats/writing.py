"""Shared parts of the writers of all formats: the samples to write, portable file names, class lists.

A writer stands beside its reader in the format's file. Masks are written as class indices with 255 for ignored pixels:
in the file formats as palette PNGs, in the annotation formats as run lengths or mask shapes, which are exact; polygons
would not be.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError
from segwright.core.progress import visible
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.label_maps import IGNORED_NAMES
from segwright.data.records import Dataset, Record
from segwright.imageio import UInt8Array, encode_png, read_file, read_header, write_bytes

IGNORE_NAME = "__ignore__"
LONGEST_NAME = 150  # bytes; file systems take 255, endings and splits need some


@dataclass
class OutputSample:
    """One image on its way: its new name, its encoded bytes and its mask."""

    name: str  # unique, safe as a file name, without ending
    record: Record
    split: str | None
    dataset: Dataset

    @cached_property
    def image(self) -> tuple[bytes, str]:
        """(encoded image, ending): the file's own bytes where they are what we read, else PNG."""
        path, reader = self.record.image_path, self.dataset.reader
        if not reader.is_full_file(self.record):
            return encode_tiff(reader.read_bands(self.record)), ".tif"
        if path is not None and read_header(path).orientation == 1:
            return read_file(path), path.suffix.lower()
        pixels = self.dataset.reader.image(self.record)
        if pixels.shape[2] not in (1, 3, 4):
            raise DataError("an image of this many bands cannot be written as PNG", found=f"{pixels.shape[2]} bands",
                            where=path or self.record.id)  # fmt: skip
        return encode_png(pixels), ".png"

    @cached_property
    def mask(self) -> UInt8Array | None:
        """H×W class indices."""
        return self.dataset.reader.mask(self.record)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        if self.mask is not None:
            return self.mask.shape[0], self.mask.shape[1]
        reader = self.dataset.reader
        if self.record.image_path is not None and reader.is_full_file(self.record):
            return read_header(self.record.image_path).size
        image = self.dataset.reader.image(self.record)
        return image.shape[0], image.shape[1]

    def mask_png(self, palette: UInt8Array) -> bytes | None:
        return None if self.mask is None else encode_png(self.mask, palette)


def encode_tiff(raster: npt.NDArray[Any]) -> bytes:
    """A part of a raster with all its bands in their own number type."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, raster, planarconfig="contig", photometric="minisblack", compression="zlib")
    return buffer.getvalue()


Writer = Callable[[Dataset, Iterator[OutputSample], Path], None]


def split_names(dataset: Dataset) -> dict[str, str]:
    """Split → its name as a safe part of a path: a list of the data may name a split ``../x``."""
    return dict(zip(dataset.given, safe_names(list(dataset.given), "split"), strict=True))


def safe_names(ids: list[str], unnamed: str = "image") -> list[str]:
    """Portable file names for ids: no separators, dots, controls or stray bytes, not too long, unique ignoring case.

    ``unnamed``: for an id of which nothing is left.
    """
    names, seen = [], set()
    for identity in ids:
        name = re.sub(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|.]+', "_", identity).strip(" _") or unnamed
        name = name.encode()[:LONGEST_NAME].decode(errors="ignore")
        unique, number = name, 2
        while unique.casefold() in seen:
            unique, number = f"{name}-{number}", number + 1
        seen.add(unique.casefold())
        names.append(unique)
    return names


def class_names(dataset: Dataset) -> list[str]:
    """The class names of a dataset as :func:`written_names`."""
    return written_names(dataset.label_space)


def written_names(space: LabelSpace) -> list[str]:
    """The class names to write: one that readers take for "ignored" gets the suffix " class"."""
    return [visible(f"{n} class" if n.lower() in IGNORED_NAMES else n) for n in space.names]


def write_classes(dataset: Dataset, out: Path, ignored: str = "ignore") -> None:
    """classes.csv: every class with its value and color, and 255 as what is ignored."""
    write_bytes(out / "classes.csv", class_table(dataset.label_space, ignored).encode())


def class_table(space: LabelSpace, ignored: str = "ignore") -> str:
    """The content of classes.csv."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "name", "r", "g", "b"))
    table.writerows((i, name, *space.colors[i]) for i, name in enumerate(written_names(space)))
    table.writerow((IGNORE_INDEX, ignored, 0, 0, 0))
    return text.getvalue()


def background_index(dataset: Dataset) -> int:
    """The index that annotation formats leave out: the background, else 255 (ignored)."""
    return uncovered_index(dataset.label_space)


def uncovered_index(space: LabelSpace) -> int:
    """The index of what no shape covers: the background, else 255 (ignored)."""
    names = written_names(space)
    return next((i for i, name in enumerate(names) if name.strip().lower() in BACKGROUND_NAMES), IGNORE_INDEX)


def annotation_labels(dataset: Dataset) -> list[tuple[str, Color]]:
    """(name, color), ``__ignore__`` first; readers then add no background where there is none."""
    return written_labels(dataset.label_space)


def written_labels(space: LabelSpace) -> list[tuple[str, Color]]:
    """:func:`annotation_labels` of a label space."""
    return [(IGNORE_NAME, (0, 0, 0)), *zip(written_names(space), space.colors, strict=True)]


def bounding_box(region: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the set pixels, the ends excluded."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def class_regions(mask: UInt8Array, fill: int) -> Iterator[tuple[int, int, int, npt.NDArray[np.bool_]]]:
    """(class index or 255, top, left, its pixels cut to their box) of every class but the fill."""
    for label in np.unique(mask).tolist():
        if label != fill:
            region = mask == label
            top, left, bottom, right = bounding_box(region)
            yield label, top, left, region[top:bottom, left:right]

"""Stacks: a TIFF of many pages beside a mask of as many, as microscopes and the ISBI challenge of 2012 have them.

Each page is a sample, ``x_p003`` with page 3 of both files. An image of several pages beside a mask of one is an image
of several bands instead. A split word in the name (``train-volume.tif``, ``test-volume.tif``) is the stack's split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from segwright.core.errors import ImageReadError, LabelError
from segwright.data.formats.file_tree import stem
from segwright.data.formats.name_parts import split_of_part
from segwright.data.mask_files import tiff_facts
from segwright.data.records import Record
from segwright.imageio import DEFAULT_LIMITS, Limits, read_header, read_image, read_raster

TIFF = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Page:
    """The page of both files that is a sample, from 0 on."""

    number: int


def _pages(path: Path | None) -> int:
    return tiff_facts(path)[0] if path is not None and path.name.lower().endswith(TIFF) else 1


def read_page(path: Path, number: int, limits: Limits = DEFAULT_LIMITS) -> npt.NDArray[Any]:
    """H×W×C of one page in its own number type; 8-bit pages in any compression that Pillow reads."""
    try:
        return read_raster(path, limits, page=number)
    except ImageReadError:
        if read_header(path, limits).bits > 8:
            raise
        return read_image(path, limits, page=number)


def find_stacks(records: Sequence[Record]) -> dict[str, int]:
    """Record → how many pages its image and mask both have; records that are no stacks are left out.

    LabelError where both have several pages, and not equally many. Where stacks are found, images of several pages
    without a mask count as stacks, too.
    """
    found: dict[str, int] = {}
    for record in records:
        if record.mask_path is None or record.payload is not None:
            continue
        in_mask = _pages(record.mask_path)
        if in_mask < 2:
            continue
        in_image = _pages(record.image_path)
        if in_image != in_mask:
            raise LabelError(
                "image and mask are stacks of different length", expected=f"{in_image} pages, as the image",
                found=f"{in_mask} pages", where=record.mask_path, fix="give both the same pages, or one file per page",
            )  # fmt: skip
        found[record.id] = in_mask
    if found:
        for record in records:
            if record.mask_path is None and record.payload is None and (count := _pages(record.image_path)) > 1:
                found[record.id] = count
    return found


def paged(records: Sequence[Record], stacks: Mapping[str, int]) -> tuple[Record, ...]:
    """The records with each stack as its pages."""
    out: list[Record] = []
    for record in records:
        count = stacks.get(record.id)
        if count is None:
            out.append(record)
            continue
        width = max(3, len(str(count - 1)))
        out += [replace(record, id=f"{record.id}_p{i:0{width}d}", payload=Page(i)) for i in range(count)]
    return tuple(out)


def splits_by_name(records: Sequence[Record], stacks: Mapping[str, int]) -> dict[str, list[Record]]:
    """Split → the stacks whose names contain it."""
    given: dict[str, list[Record]] = {}
    for record in records:
        if record.id in stacks and record.image_path is not None:
            split = split_of_part(stem(os.path.basename(record.image_path)))
            if split is not None:
                given.setdefault(split, []).append(record)
    return given

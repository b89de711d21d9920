"""Label maps from regions: what the annotation formats (COCO, labelme, CVAT, Label Studio, YOLO) share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.data.readers import FileReader
from segwright.data.records import Record
from segwright.data.rle import BoolMask
from segwright.errors import DataError
from segwright.images import UInt8Array, read_header
from segwright.types import IGNORE_INDEX, LabelSpace

BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "bg"})


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels of one class: a mask and where its upper left corner lies; parts outside the picture are cut off."""

    index: int  # class index, or 255 for ignored
    mask: BoolMask
    top: int = 0
    left: int = 0


def paint(regions: Iterable[Region], height: int, width: int, background: int) -> UInt8Array:
    """H×W class indices: the regions in their order, later ones over earlier ones."""
    labels = np.full((height, width), background, np.uint8)
    for region in regions:
        top, left = max(region.top, 0), max(region.left, 0)
        mask = region.mask[top - region.top :, left - region.left :][: max(height - top, 0), : max(width - left, 0)]
        labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = region.index
    return labels


def smaller_on_top(regions: Sequence[Region]) -> list[Region]:
    """The rule for overlaps where a format states none: ignored regions first, then by area, the largest first."""
    return sorted(regions, key=lambda r: (r.index != IGNORE_INDEX, -int(np.count_nonzero(r.mask))))


def annotated_space(
    names: Sequence[str], colours: Sequence[tuple[int, int, int] | None] = ()
) -> tuple[LabelSpace, dict[str, int], int]:
    """(label space, name → class index, index of what no annotation covers) for names in their order.

    A background among the names is what nothing covers and keeps its place; where there is none, but ``__ignore__``,
    what nothing covers is ignored; else a background is put before them. Names that mean "ignored" become 255.
    """
    from segwright.data.classes import IGNORED_NAMES

    unique = list(dict.fromkeys(names))
    kept = [name for name in unique if name.strip().lower() not in IGNORED_NAMES]
    background = next((name for name in kept if name.strip().lower() in BACKGROUND_NAMES), None)
    added = background is None and "__ignore__" not in unique
    classes = ["background", *kept] if added else kept
    if not classes:
        raise DataError("the annotations name no class", found=", ".join(unique) or "no label")
    index = {name: i for i, name in enumerate(classes)}
    index |= {name: IGNORE_INDEX for name in unique if name not in index}
    given = {**dict(zip(names, colours, strict=False)), **({"background": (0, 0, 0)} if added else {})}
    known = [colour for colour in (given.get(name) for name in classes) if colour is not None]
    space = LabelSpace(tuple(classes), tuple(known) if len(known) == len(classes) else ())
    return space, index, index["background"] if added else index.get(background or "", IGNORE_INDEX)


class DrawnReader(FileReader):
    """Pictures that are files, masks that are drawn: a format implements :meth:`draw`."""

    def raw(self, record: Record) -> npt.NDArray[Any] | None:
        return None if record.payload is None else self.draw(record)

    def draw(self, record: Record) -> UInt8Array:
        """H×W class indices of a record with a payload."""
        raise DataError("this format draws no masks", where=record.id)

    def size(self, record: Record) -> tuple[int, int]:
        """(height, width) of the picture, from its header."""
        if record.image_path is None:
            raise DataError("the record has no picture", found=record.id)
        return read_header(record.image_path, self.limits).size


def fill_name(space: LabelSpace, background: int) -> str:
    """What nothing covers, for notes."""
    return "ignored" if background == IGNORE_INDEX else space.names[background]


def describe_source(path: Path | None, name: str) -> str:
    """Where an annotation stands, for errors: the file and the picture in it."""
    return f"{path}, {name}" if path is not None else name

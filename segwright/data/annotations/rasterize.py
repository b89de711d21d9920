"""Label maps from annotated objects: what the annotation formats (COCO, labelme, CVAT, Label Studio, YOLO) share.

A format lists the objects of a record; they are rasterized one at a time, so that memory does not grow with their
number, and counted: an object that covers no pixel of its image is never lost without a trace
(:meth:`RasterizedReader.object_counts`). What the objects of one record may cover together is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError, LabelError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.annotations.rle import BoolMask, check_size
from segwright.data.label_maps import IGNORED_NAMES
from segwright.data.readers import FileReader
from segwright.data.records import ObjectCount, Problem, Record
from segwright.imageio import UInt8Array, read_header

BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "bg"})
KEPT_BYTES = 200_000_000  # masks of one record held at a time; beyond, they are rasterized a second time
MAX_COVERED = 2_000_000_000  # pixels that the objects of one record are rasterized on in all, at least
MAX_OBJECTS = 100_000  # of one record: each costs some 50 microseconds, however small it is
LARGE = 4_000_000  # pixels: a size that an annotation gives is compared with the image's header from here on


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels of one class: a mask and where its upper left corner lies; parts outside the image are cut off."""

    index: int  # class index, or 255 for ignored
    mask: BoolMask
    top: int = 0
    left: int = 0
    unsure: BoolMask | None = None  # as mask, of a weak label: becomes ignored where nothing surer was drawn


@dataclass(frozen=True, slots=True)
class Drawable:
    """One annotated object of a record, not yet rasterized."""

    index: int  # class index, or 255 for ignored
    draw: Callable[[], Region | None]  # None where it covers nothing; LabelError where it is broken


@dataclass
class Drawing:
    """The objects of one record, in the order in which they are painted."""

    height: int
    width: int
    objects: Sequence[Drawable]
    background: int = 0
    sort_by_area: bool = False  # by area, where the format states no order
    where: str = ""


def paint(regions: Iterable[Region], height: int, width: int, background: int) -> UInt8Array:
    """H×W class indices: the regions in their order, later ones over earlier ones."""
    canvas = _Canvas(height, width, background)
    for region in regions:
        canvas.paint(region)
    return canvas.labels


def _inside(region: Region, height: int, width: int) -> tuple[int, int, BoolMask]:
    """(top, left, mask) of what lies in the image."""
    top, left = max(region.top, 0), max(region.left, 0)
    mask = region.mask[top - region.top :, left - region.left :][: max(height - top, 0), : max(width - left, 0)]
    return top, left, mask


class _Canvas:
    """A label map that is painted, and how sure its labels are.

    The rest of a weak label (a box around its core) becomes ignored where nothing was drawn, and where only the core of
    a larger weak label was: what is drawn surely stays, the background included.
    """

    def __init__(self, height: int, width: int, background: int) -> None:
        self.labels: UInt8Array = np.full((height, width), background, np.uint8)
        self.background = background
        self._weak: npt.NDArray[np.float32] | None = None  # the area of the weak label that a pixel has, 0: none
        self._drawn: BoolMask | None = None  # where the background was drawn as a class

    def paint(self, region: Region) -> None:
        top, left, mask = _inside(region, *self.labels.shape)
        place = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        window = self.labels[place]
        if region.unsure is None:
            if self._weak is not None:
                self._weak[place][mask] = 0
            if region.index == self.background:
                self._drawn = np.zeros(self.labels.shape, bool) if self._drawn is None else self._drawn
                self._drawn[place][mask] = True
        else:
            self._weak = np.zeros(self.labels.shape, np.float32) if self._weak is None else self._weak
            weak, area = self._weak[place], float(np.count_nonzero(region.mask | region.unsure))
            around = _inside(Region(region.index, region.unsure, region.top, region.left), *self.labels.shape)[2]
            empty = (window == self.background) & (weak == 0)
            if self._drawn is not None:
                empty &= ~self._drawn[place]
            window[around & (empty | (weak > area))] = IGNORE_INDEX
            weak[mask] = area
        window[mask] = region.index


def sort_by_area(regions: Sequence[Region]) -> list[Region]:
    """The rule for overlaps where a format states none: ignored regions first, then by area, the largest first."""
    return sorted(regions, key=lambda r: (r.index != IGNORE_INDEX, -int(np.count_nonzero(r.mask))))


@dataclass
class _Counts:
    """Objects per class, and the pixels they were rasterized on."""

    limit: int
    where: str
    listed: dict[int, int] = field(default_factory=dict)
    drawn: dict[int, int] = field(default_factory=dict)
    covered: int = 0

    def spend(self, region: Region | None) -> None:
        self.covered += 0 if region is None else region.mask.size
        if self.covered > self.limit:
            raise LabelError(
                "the objects of the image cover more pixels than the limit",
                expected=f"at most {self.limit} pixels in all",
                where=self.where,
                fix="split the image into tiles, or remove objects",
            )

    def add(self, index: int, shown: bool) -> None:
        self.listed[index] = self.listed.get(index, 0) + 1
        self.drawn[index] = self.drawn.get(index, 0) + shown

    def result(self) -> dict[int, ObjectCount]:
        return {index: ObjectCount(self.listed[index], self.drawn[index]) for index in sorted(self.listed)}


def draw(drawing: Drawing) -> tuple[UInt8Array, dict[int, ObjectCount]]:
    """(H×W class indices, objects per class): rasterizes one object at a time."""
    check_size(drawing.height, drawing.width, drawing.where)
    if len(drawing.objects) > MAX_OBJECTS:
        raise LabelError(
            "the image has more objects than the limit",
            expected=f"at most {MAX_OBJECTS}",
            found=str(len(drawing.objects)),
            where=drawing.where,
            fix="split the image into tiles, or remove objects",
        )
    canvas = _Canvas(drawing.height, drawing.width, drawing.background)
    labels = canvas.labels
    counts = _Counts(max(MAX_COVERED, 8 * labels.size), drawing.where)
    if not drawing.sort_by_area:
        for one in drawing.objects:
            region = one.draw()
            counts.spend(region)
            counts.add(one.index, region is not None and _shown(region, labels.shape))
            if region is not None:
                canvas.paint(region)
        return labels, counts.result()
    order: list[tuple[bool, int, int, Region | None]] = []
    kept = 0
    for place, one in enumerate(drawing.objects):
        region = one.draw()
        counts.spend(region)
        area = 0 if region is None else int(np.count_nonzero(region.mask))
        counts.add(
            one.index,
            region is not None and area > 0 and (_whole(region, labels.shape) or _shown(region, labels.shape)),
        )
        if region is not None and area:
            kept += region.mask.nbytes
            order.append((one.index != IGNORE_INDEX, -area, place, region if kept <= KEPT_BYTES else None))
    order.sort(key=lambda entry: entry[:3])
    for _, _, place, held in order:
        region = held if held is not None else drawing.objects[place].draw()
        if region is not None:
            canvas.paint(region)
    return labels, counts.result()


def _whole(region: Region, shape: tuple[int, ...]) -> bool:
    """Whether all of the mask lies in the image."""
    bottom, right = region.top + region.mask.shape[0], region.left + region.mask.shape[1]
    return region.top >= 0 and region.left >= 0 and bottom <= shape[0] and right <= shape[1]


def _shown(region: Region, shape: tuple[int, ...]) -> bool:
    return bool(_inside(region, *shape)[2].any())


@dataclass
class Ledger:
    """The objects that an annotation lists, by class: which are drawn, and which are not and why."""

    kept: Counter[str] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)  # (class, reason)

    def keep(self, name: str) -> None:
        self.kept[name] += 1

    def lose(self, name: str, reason: str, number: int = 1) -> None:
        self.lost[name, reason] += number

    @property
    def nothing_left(self) -> bool:
        return bool(self.lost) and not self.kept

    def summary(self, most: int = 6) -> str:
        """The losses by class and reason, the most frequent first."""
        shown = [f"{number} of {name} ({reason})" for (name, reason), number in self.lost.most_common(most)]
        return ", ".join(shown) + (", …" if len(self.lost) > most else "")

    def problems(self, fix: str) -> list[Problem]:
        """One problem that counts and names what is not drawn: an error where a class loses all its objects."""
        if not self.lost:
            return []
        total, gone = sum(self.kept.values()) + sum(self.lost.values()), sum(self.lost.values())
        whole = any(not self.kept[name] for name, _ in self.lost)
        message = f"{gone} of {total} objects are not drawn, their pixels become what nothing covers: {self.summary()}"
        return [Problem("error" if whole else "warning", "objects lost", message, (), fix)]


def annotated_space(
    names: Sequence[str], colors: Sequence[tuple[int, int, int] | None] = (), *, rest_ignored: bool = False
) -> tuple[LabelSpace, dict[str, int], int]:
    """(label space, name → class index, index of what no annotation covers) for names in their order.

    A background among the names is what nothing covers and keeps its place; where there is none, but ``__ignore__``,
    what nothing covers is ignored; else a background is put before them. Names that mean "ignored" become 255. With
    ``rest_ignored``, what nothing covers is ignored and no background is added: one among the names is a class.
    """
    unique = list(dict.fromkeys(names))
    kept = [name for name in unique if name.strip().lower() not in IGNORED_NAMES]
    background = next((name for name in kept if name.strip().lower() in BACKGROUND_NAMES), None)
    added = background is None and "__ignore__" not in unique and not rest_ignored
    classes = ["background", *kept] if added else kept
    if not classes:
        raise DataError("the annotations name no class", found=", ".join(unique) or "no label")
    index = {name: i for i, name in enumerate(classes)}
    index |= {name: IGNORE_INDEX for name in unique if name not in index}
    given = {**dict(zip(names, colors, strict=False)), **({"background": (0, 0, 0)} if added else {})}
    known = [color for color in (given.get(name) for name in classes) if color is not None]
    space = LabelSpace(tuple(classes), tuple(known) if len(known) == len(classes) else ())
    if rest_ignored:
        return space, index, IGNORE_INDEX
    return space, index, index["background"] if added else index.get(background or "", IGNORE_INDEX)


class RasterizedReader(FileReader):
    """Images that are files, masks that are drawn: a format implements :meth:`drawing` (or :meth:`draw`)."""

    _counted: tuple[Record, dict[int, ObjectCount]] | None = None  # of the record drawn last

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_counted": None}

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        return None if record.payload is None else self.draw(record)

    def draw(self, record: Record) -> UInt8Array:
        """H×W class indices of a record with a payload."""
        found = self.drawing(record)
        if found is None:
            raise DataError("this format draws no masks", where=record.id)
        labels, counts = draw(found)
        self._counted = (record, counts)
        return labels

    def drawing(self, record: Record) -> Drawing | None:
        """The objects of a record with a payload, each to be rasterized; None where the masks are files after all."""
        return None

    def object_counts(self, record: Record) -> Mapping[int, ObjectCount] | None:
        """Class index (255: ignored) → objects listed, and those that cover a pixel of the image."""
        if record.payload is None:
            return None
        held = self._counted
        if held is None or held[0] is not record:
            found = self.drawing(record)
            if found is None:
                return None
            held = self._counted = (record, draw(found)[1])
        return held[1]

    def size(self, record: Record) -> tuple[int, int]:
        """(height, width) of the image, from its header."""
        if record.image_path is None:
            raise DataError("the record has no image", found=record.id)
        return read_header(record.image_path, self.limits).size

    def sized(self, record: Record, height: int, width: int, where: str) -> tuple[int, int]:
        """The size that an annotation gives, or the header's where it gives none.

        A large one is compared with the header: a few bytes of an annotation must not ask for gigabytes.
        """
        if height > 0 and width > 0 and height * width < LARGE:
            return height, width
        if record.image_path is None:
            check_size(height, width, where)
            return height, width
        size = self.size(record)
        if height > 0 and width > 0 and size != (height, width):
            raise LabelError(
                "the annotation belongs to an image of another size",
                expected=f"{size[1]}×{size[0]}, as the image",
                found=f"{width}×{height}",
                where=where,
                fix="export the annotations for this image, or use the image that was annotated",
            )
        return size


def fill_name(space: LabelSpace, background: int) -> str:
    """Name of the class of uncovered pixels, for notes."""
    return "ignored" if background == IGNORE_INDEX else space.names[background]


def describe_source(path: Path | None, name: str) -> str:
    """Label for errors: the annotation file and the image in it."""
    return f"{path}, {name}" if path is not None else name

"""The image viewer of a page: images with label maps that the browser draws, so that classes and colors can be chosen.

Label maps are compressed bytes in the page, images WebP. Their size is chosen so that the page stays under its limit.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from segwright.core.progress import visible
from segwright.reports.html import Color

UInt8Array = npt.NDArray[np.uint8]

SIDES = (960, 720, 560, 400, 288, 208)  # pixels of the longer side, the largest that fits is taken
QUALITY = 75  # of WebP
MAX_BYTES = 14_000_000  # of all images and maps in the page; the page itself stays under 15 MB
SAMPLES = 6  # images whose size is measured before the side is chosen
AMOUNT_SIDE = 320  # a map of amounts is smooth: half the size is enough
AMOUNT_STEPS = 24  # levels that are kept of an amount; 256 would take three times the bytes

LABELS, DIFFERENCE, AMOUNT, IMAGE = "labels", "difference", "amount", "image"


@dataclass(frozen=True)
class Layer:
    """One way to look at an image: the image itself, a map of labels, where two maps differ, or amounts in 0…255."""

    key: str  # of the map; for a difference any name of its own
    title: str
    kind: str
    of: tuple[str, ...] = ()  # the two maps of a difference


@dataclass(frozen=True)
class ViewerImage:
    """One image with its maps, any size."""

    name: str
    caption: str  # a sentence
    short: str  # a few letters, under the small image
    image: UInt8Array  # (H, W, 3)
    maps: Mapping[str, UInt8Array]  # (h, w) each, same proportions; 255 is ignored
    scores: Sequence[float] = ()  # per class, 0…1; NaN: not in the image


@dataclass(frozen=True)
class PackedImage:
    """An image as it is kept in the page."""

    name: str
    caption: str
    short: str
    data: bytes
    width: int
    height: int
    maps: dict[str, dict[str, Any]]
    scores: list[float | None]

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return len(self.data) * 4 // 3 + sum(len(entry["data"]) + 40 for entry in self.maps.values()) + 400


@dataclass(frozen=True)
class Viewer:
    """What the template needs."""

    id: str
    layers: Sequence[Layer]
    classes: Sequence[tuple[str, Color]]
    images: Sequence[PackedImage]
    view: str
    against: str
    ignore: str = ""  # the map whose 255 is shaded everywhere
    score: str = ""  # what the numbers beside the classes are
    difference: str = ""  # what the colored pixels of a difference are
    amount: str = ""
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return {
            "layers": [{"key": x.key, "title": x.title, "kind": x.kind, "of": list(x.of)} for x in self.layers],
            "ignore": self.ignore,
            "classes": [{"name": visible(name), "color": list(color)} for name, color in self.classes],
            "images": [
                {
                    "name": visible(x.name), "caption": visible(x.caption), "w": x.width, "h": x.height,
                    "maps": x.maps, "scores": x.scores,
                }
                for x in self.images
            ],
        }  # fmt: skip


def pack_images(
    count: int,
    read: Callable[[int], ViewerImage | None],
    amounts: Sequence[str] = (),
    limit: int = MAX_BYTES,
) -> tuple[list[PackedImage], list[str]]:
    """Images 0…count-1 at the largest size that fits into ``limit`` bytes, and remarks on what was made smaller.

    ``read`` is called more than once per image; None leaves it out. ``amounts``: the maps that hold no labels.
    """
    if count == 0:
        return [], []
    sample = sorted({round(i * (count - 1) / max(SAMPLES - 1, 1)) for i in range(SAMPLES)})
    measured = [found for index in sample if (found := read(index)) is not None]
    if not measured:
        return [], []
    start = len(SIDES) - 1
    for number, side in enumerate(SIDES):
        mean = sum(pack(item, side, amounts).size for item in measured) / len(measured)
        if mean * count <= limit:
            start = number
            break
    for side in SIDES[start:]:
        packed, total = [], 0
        for item in _each(count, read):
            packed.append(pack(item, side, amounts))
            total += packed[-1].size
            if total > limit and side != SIDES[-1]:
                break
        else:
            return _within(packed, side, limit, max(max(item.image.shape[:2]) for item in measured))
    raise AssertionError("the smallest size ends the search")


def _within(packed: list[PackedImage], side: int, limit: int, natural: int) -> tuple[list[PackedImage], list[str]]:
    kept: list[PackedImage] = []
    total = 0
    for item in packed:
        total += item.size
        if total > limit and kept:
            break
        kept.append(item)
    notes = []
    if side != SIDES[0] and natural > side:
        notes.append(f"Images are shown with a longer side of {side} pixels, so that the page stays under 15 MB.")
    if len(kept) < len(packed):
        notes.append(f"Only {len(kept)} of {len(packed)} images are shown: the page would exceed 15 MB.")
    return kept, notes


def _each(count: int, read: Callable[[int], ViewerImage | None]) -> Iterator[ViewerImage]:
    for index in range(count):
        if (found := read(index)) is not None:
            yield found


def pack(item: ViewerImage, side: int, amounts: Sequence[str] = ()) -> PackedImage:
    """One image at most ``side`` pixels wide or high, never enlarged."""
    height, width = item.image.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(cv2.resize(item.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "WEBP", quality=QUALITY, method=2)
    maps = {
        key: pack_amount(values, side) if key in amounts else pack_map(resize_labels(values, size))
        for key, values in item.maps.items()
    }
    scores = [None if math.isnan(score) else round(100 * score, 1) for score in item.scores]
    return PackedImage(item.name, item.caption, item.short, buffer.getvalue(), *size, maps, scores)


def resize_labels(labels: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """(h, w) labels at ``size`` = (width, height), by the nearest pixel."""
    return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def pack_map(values: UInt8Array) -> dict[str, Any]:
    """An (h, w) array of bytes as the script reads it."""
    data = zlib.compress(np.ascontiguousarray(values).tobytes(), 9)
    return {"w": values.shape[1], "h": values.shape[0], "data": base64.b64encode(data).decode("ascii")}


def pack_amount(values: UInt8Array, side: int) -> dict[str, Any]:
    """Amounts in 0…255, smaller and in steps."""
    height, width = values.shape
    factor = min(1.0, AMOUNT_SIDE / max(height, width), side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)
    steps = np.rint(small * (AMOUNT_STEPS / 255)) * (255 / AMOUNT_STEPS)
    return pack_map(np.asarray(steps + 0.5, np.uint8))

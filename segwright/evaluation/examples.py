"""The images of an evaluation that a report shows: the worst, the best, and some between them.

Kept are predictions alone, thinned out and compressed (some 30 kB per image); a report reads the images again.
"""

from __future__ import annotations

import bisect
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.imageio import UInt8Array

EXAMPLES = 24  # kept unless another number is wanted
LABELS_SIDE = 960  # largest side of a kept label map, in pixels
DOUBT_SIDE = 320  # and of a kept uncertainty, which is smooth


def examples_for_report(wanted: int | None) -> int:
    """How many predictions to keep; UsageError for a negative number."""
    if wanted is not None and wanted < 0:
        raise UsageError(
            "a report shows no fewer than 0 images", expected="--report-images 0 or more", found=str(wanted)
        )
    return EXAMPLES if wanted is None else wanted


@dataclass(frozen=True)
class Example:
    """The prediction for one image."""

    index: int  # in the split
    id: str
    position: int  # among the scored images
    miou: float  # of the image
    size: tuple[int, int]  # of the kept labels, (h, w)
    packed_labels: bytes
    doubt_size: tuple[int, int] | None = None
    packed_doubt: bytes = b""

    @property
    def labels(self) -> UInt8Array:
        """(h, w): the prediction, at most LABELS_SIDE."""
        return np.frombuffer(zlib.decompress(self.packed_labels), np.uint8).reshape(self.size)

    @property
    def doubt(self) -> UInt8Array | None:
        """(h, w): 1 − confidence, 255 being 1, at most DOUBT_SIDE; None if there is no confidence."""
        if self.doubt_size is None:
            return None
        return np.frombuffer(zlib.decompress(self.packed_doubt), np.uint8).reshape(self.doubt_size)


class Examples:
    """Chooses while the images come, with memory for some three times ``count`` of them."""

    def __init__(self, count: int = EXAMPLES) -> None:
        self.count, self.seen = max(count, 0), 0
        self.worst: list[Example] = []
        self.best: list[Example] = []
        self.between: list[Example] = []  # evenly spread over the order of the images
        self.every = 1

    def add(
        self, index: int, name: str, miou: float, labels: UInt8Array, confidence: npt.NDArray[np.float32] | None
    ) -> None:
        """One scored image, ``miou`` not NaN."""
        position, self.seen = self.seen, self.seen + 1
        if self.count == 0:
            return
        low = len(self.worst) < self.count or miou < self.worst[-1].miou
        high = len(self.best) < self.count or miou > self.best[-1].miou
        spread = position % self.every == 0
        if not (low or high or spread):
            return
        made = _example(index, name, position, miou, labels, confidence)
        if low:
            bisect.insort(self.worst, made, key=lambda e: (e.miou, e.position))
            del self.worst[self.count :]
        if high:
            bisect.insort(self.best, made, key=lambda e: (-e.miou, e.position))
            del self.best[self.count :]
        if spread:
            self.between.append(made)
            if len(self.between) > 2 * self.count:
                self.between, self.every = self.between[::2], 2 * self.every

    def chosen(self) -> list[Example]:
        """The worst first: half of them the worst, a quarter the best, the others spread evenly; or all, if few."""
        if self.seen <= self.count:
            return list(self.worst)
        quarter = self.count // 4
        found = {e.position: e for e in (*self.worst[: self.count - 2 * quarter], *self.best[:quarter])}
        rest = [e for e in self.between if e.position not in found]
        missing = self.count - len(found)
        for number in range(min(missing, len(rest))):
            each = rest[number * len(rest) // min(missing, len(rest))]
            found[each.position] = each
        return sorted(found.values(), key=lambda e: (e.miou, e.position))


def _example(
    index: int, name: str, position: int, miou: float, labels: UInt8Array, confidence: npt.NDArray[np.float32] | None
) -> Example:
    step = -(-max(labels.shape) // LABELS_SIDE)
    thin = np.ascontiguousarray(labels[::step, ::step])
    packed = zlib.compress(thin.tobytes(), 1)
    if confidence is None:
        return Example(index, name, position, miou, thin.shape, packed)
    doubt = _doubt(confidence)
    return Example(index, name, position, miou, thin.shape, packed, doubt.shape, zlib.compress(doubt.tobytes(), 1))


def _doubt(confidence: npt.NDArray[np.float32]) -> UInt8Array:
    height, width = confidence.shape
    factor = min(1.0, DOUBT_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(cv2.resize(np.asarray(confidence, np.float32), size, interpolation=cv2.INTER_AREA))
    return np.asarray(np.clip((1 - small) * 255 + 0.5, 0, 255), np.uint8)

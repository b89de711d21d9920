"""Images on which two models differ most: found by small sketches of the label maps, then predicted again in full.

A pass keeps some kilobytes per image, so that thousands of images can be compared without their label maps in memory.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import SegwrightError
from segwright.core.types import IGNORE_INDEX, LabelSpace, blend
from segwright.imageio import UInt8Array, write_image
from segwright.metrics.confusion import class_counts, count_pairs, iou_per_class, nanmean

SKETCH_SIDE = 160  # pixels of the longer side of a sketch
SHOWN_SIDE = 400  # of a panel
VIEW_SIDE = 960  # of what a page shows
# Color-blind safe (Okabe and Ito): blue, vermilion, black
ONLY_FIRST, ONLY_SECOND, BOTH_WRONG, IGNORED = (0, 114, 178), (213, 94, 0), (0, 0, 0), (120, 120, 120)
PANELS = ("image", "truth", "first", "second", "who is right")


class LabeledImages(Protocol):
    """What is read again."""

    @property
    def label_space(self) -> LabelSpace: ...
    def read_image(self, index: int) -> UInt8Array: ...
    def read_mask(self, index: int) -> UInt8Array | None: ...


@dataclass(frozen=True)
class Disagreement:
    """One image on which two models differ; shares are of the scored pixels."""

    id: str
    index: int
    first: str  # names of the models
    second: str
    differ: float
    only_first: float  # only the first is right
    only_second: float
    both_wrong: float  # with the same class or two others
    miou_first: float  # of the image
    miou_second: float
    panels: tuple[tuple[str, UInt8Array], ...]  # title and pixels (h, w, 3)
    image: UInt8Array | None = field(default=None, repr=False)  # (h, w, 3), at most VIEW_SIDE, for a page
    maps: Mapping[str, UInt8Array] = field(default_factory=dict, repr=False)  # truth, first, second: (h, w) labels

    def to_json(self) -> dict[str, Any]:
        """All but the pixels."""
        return {key: value for key, value in vars(self).items() if key not in ("panels", "image", "maps")}


class SketchCollector:
    """Keeps a thinned label map of each scored image."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.indices: list[int] = []
        self.sketches: list[tuple[tuple[int, ...], bytes, bytes]] = []  # shape, labels, scored pixels

    def add(
        self,
        index: int,
        id: str,
        image: UInt8Array | None,
        truth: UInt8Array,
        labels: UInt8Array,
        confidence: npt.NDArray[np.float32] | None,
    ) -> None:
        """One scored image."""
        step = -(-max(labels.shape) // SKETCH_SIDE)
        thin, scored = labels[::step, ::step], truth[::step, ::step] != IGNORE_INDEX
        packed = zlib.compress(np.ascontiguousarray(thin).tobytes(), 1)
        self.ids.append(id)
        self.indices.append(index)
        self.sketches.append((thin.shape, packed, np.packbits(scored).tobytes()))

    def difference(self, other: SketchCollector) -> list[tuple[float, int]]:
        """Share of the scored pixels of the sketches that differ, and the index in the split, the largest first."""
        found = []
        for index, mine, theirs in zip(self.indices, self.sketches, other.sketches, strict=True):
            shape, labels, scored = mine
            here = np.unpackbits(np.frombuffer(scored, np.uint8), count=int(np.prod(shape))).astype(bool)
            a, b = (np.frombuffer(zlib.decompress(one), np.uint8) for one in (labels, theirs[1]))
            found.append((float((a != b)[here].mean()) if here.any() else 0.0, index))
        return sorted(found, key=lambda pair: (-pair[0], pair[1]))


Predict = Callable[[int], UInt8Array]  # index in the split → (H, W) labels in the data's class indices


def disagreement(
    index: int, name: str, split: LabeledImages, models: Sequence[tuple[str, Predict]]
) -> Disagreement | None:
    """The image ``index`` predicted again by two models; None if it can no longer be read."""
    try:
        image, truth = split.read_image(index), split.read_mask(index)
    except (SegwrightError, OSError):
        return None
    if truth is None:
        return None
    (first, predict_first), (second, predict_second) = models
    one, two = predict_first(index), predict_second(index)
    scored = truth != IGNORE_INDEX
    total, classes = max(1, int(scored.sum())), split.label_space.classes
    right_one, right_two = (one == truth) & scored, (two == truth) & scored
    wrong = scored & ~right_one & ~right_two
    ious = [nanmean(iou_per_class(class_counts(count_pairs(labels, truth, classes)))) for labels in (one, two)]
    return Disagreement(
        id=name,
        index=index,
        first=first,
        second=second,
        differ=float(((one != two) & scored).sum() / total),
        only_first=float((right_one & ~right_two).sum() / total),
        only_second=float((right_two & ~right_one).sum() / total),
        both_wrong=float(wrong.sum() / total),
        miou_first=ious[0],
        miou_second=ious[1],
        panels=_panels(*_shrunk(image, (truth, one, two), SHOWN_SIDE), split.label_space),
        **_for_viewer(image, truth, one, two),
    )


def _shrunk(image: UInt8Array, maps: Sequence[UInt8Array], side: int) -> tuple[UInt8Array, tuple[UInt8Array, ...]]:
    """RGB pixels and label maps, at most ``side`` pixels wide or high, never enlarged."""
    height, width = maps[0].shape
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    rgb = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, tuple(
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8) for labels in maps
    )


def _for_viewer(image: UInt8Array, truth: UInt8Array, one: UInt8Array, two: UInt8Array) -> dict[str, Any]:
    small, maps = _shrunk(image, (truth, one, two), VIEW_SIDE)
    return {"image": small, "maps": dict(zip(("truth", "first", "second"), maps, strict=True))}


def _panels(small: UInt8Array, maps: tuple[UInt8Array, ...], space: LabelSpace) -> tuple[tuple[str, UInt8Array], ...]:
    truth, one, two = maps
    colored = [blend(small, space.palette()[labels], 0.65) for labels in (truth, one, two)]
    gray = np.repeat(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)[..., None], 3, axis=2)
    who = (gray * 0.3 + 175).astype(np.uint8)  # both right: pale
    who[truth == IGNORE_INDEX] = IGNORED
    scored = truth != IGNORE_INDEX
    who[scored & (one == truth) & (two != truth)] = ONLY_FIRST
    who[scored & (one != truth) & (two == truth)] = ONLY_SECOND
    who[scored & (one != truth) & (two != truth)] = BOTH_WRONG
    return tuple(zip(PANELS, (small, *colored, who), strict=True))


def write_disagreements(folder: str | Path, found: Sequence[Disagreement]) -> list[Path]:
    """One JPEG per image with its panels side by side: image, truth, first, second, who is right."""
    written = []
    for rank, one in enumerate(found, 1):
        strip = [np.pad(pixels, ((0, 0), (0, 6), (0, 0)), constant_values=255) for _, pixels in one.panels]
        name = f"{rank:03d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', one.id)[-80:]}.jpg"
        Path(folder).mkdir(parents=True, exist_ok=True)
        written.append(write_image(Path(folder) / name, np.concatenate(strip, axis=1)))
    return written

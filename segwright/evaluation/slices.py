"""Where a model is weak: mIoU of parts of the data, each with its interval and against the rest.

Slices of images: by brightness, blur, the classes that occur, alone and in pairs, and the columns of a CSV file.
Slices of pixels: by the size of the object and by the distance to a boundary between classes. All are counted in the
one pass of an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table as ScreenTable

from segwright.core.atomic_io import without_nan
from segwright.core.progress import literal
from segwright.core.types import IGNORE_INDEX, SPARSE, LabelSpace
from segwright.evaluation.class_pairs import frequent_pairs
from segwright.evaluation.sequences import BootstrapUnits
from segwright.evaluation.slice_columns import Table, match_columns, read_table, thirds
from segwright.imageio import UInt8Array
from segwright.metrics.confusion import Int64Array, class_counts, count_pairs
from segwright.metrics.contrasts import Contrast, contrast, holm

# COCO's 32² and 96² pixels, as shares of its images of 640×480
SIZES = (("small", "under 0.33 % of the image"), ("medium", "0.33 to 3 %"), ("large", "over 3 %"))
SIZE_LIMITS = (1 / 300, 0.03)
BANDS = (("at a boundary", "within 0.5 % of the diagonal"), ("near", "0.5 to 2 %"), ("inside", "over 2 %"))
BAND_LIMITS = (0.005, 0.02)
LEAST_PRESENT = 0.001  # of the image's pixels: a class with less is not taken as present
LEAST_IMAGES = 2  # slices of fewer images are not listed
CLEAR = 0.05  # Holm-adjusted p of a slice that is named
NAMED = 3  # slices in a sentence
TOGETHER = "classes together"
WITH_ANOTHER = "IoU of a class with another"


@dataclass(frozen=True)
class Slice:
    """One part of the data."""

    by: str  # what divides the data: "brightness", "object size", a column's name, …
    name: str
    images: int
    pixels: int  # of the truth
    found: Contrast
    p_holm: float  # of no difference to the rest, adjusted for the number of slices
    column: bool = False  # of a CSV file
    classes: tuple[str, ...] = ()  # of a slice by a pair of classes

    @property
    def of_one_class(self) -> bool:
        """Whether the figures are the IoU of the first of :attr:`classes`, in its images with and without the second,
        in place of mIoU."""
        return self.by == WITH_ANOTHER

    @property
    def clear(self) -> bool:
        """Whether the slice differs from the rest beyond chance, the number of slices counted in."""
        d = self.found
        apart = d.difference_low > 0 or d.difference_high < 0
        return not d.few and apart and self.p_holm < CLEAR

    def to_json(self) -> dict[str, Any]:
        d = self.found
        tree = {
            "by": self.by,
            "name": self.name,
            "column": self.column,
            "classes": list(self.classes),
            "figure": "iou" if self.of_one_class else "miou",
            "images": self.images,
            "pixels": self.pixels,
            "units": d.units,
            "miou": d.miou,
            "miou_ci95": [d.low, d.high],
            "rest_miou": d.rest,
            "difference": d.difference,
            "difference_ci95": [d.difference_low, d.difference_high],
            "common_classes": d.classes,
            "p": d.p,
            "p_holm": self.p_holm,
            "clear": self.clear,
        }
        return dict(without_nan(tree))


@dataclass
class Slices:
    """The slices of one evaluation."""

    slices: list[Slice]
    units: BootstrapUnits
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> list[dict[str, Any]]:
        """A list of slices."""
        return [one.to_json() for one in self.slices]

    def weakest(self) -> list[Slice]:
        """The slices that are clearly worse than the rest, at most one per division, the largest difference first."""
        worse = sorted((s for s in self.slices if s.clear and s.found.difference < 0), key=lambda s: s.found.difference)
        first: dict[str, Slice] = {}
        for one in worse:
            first.setdefault(one.by, one)
        return list(first.values())

    def sentence(self) -> str:
        """What is clearly weak, or that nothing is."""
        tested = sum(not np.isnan(s.p_holm) for s in self.slices)
        if not tested:
            return "No slice has enough images to compare it with the rest."
        weakest = self.weakest()[:NAMED]
        if not weakest:
            return f"No slice is clearly worse than the rest ({tested} compared, Holm-adjusted, over {self.units})."
        parts = []
        for one in weakest:
            d = one.found
            rest = f"images without {one.classes[1]}" if one.of_one_class else "the rest"
            below = f"{-100 * d.difference:.1f} points below {rest}"
            span = f"95 % {-100 * d.difference_high:.1f} to {-100 * d.difference_low:.1f}"
            figure = "IoU" if one.of_one_class else "mIoU"
            parts.append(f"{one.by}, {one.name} ({100 * d.miou:.1f} % {figure}, {below}, {span})")
        over = f"{tested} slices compared, Holm-adjusted, over {self.units}"
        return f"Clearly weaker than the rest ({over}): {'; '.join(parts)}."


@dataclass(frozen=True)
class _Divided:
    """The class counts (N, 3, K) of a slice and of its rest, before they are compared."""

    by: str
    name: str
    part: Int64Array
    rest: Int64Array
    images: int
    column: bool = False
    classes: tuple[str, ...] = ()


class SliceCollector:
    """Counts the slices in the pass of an evaluation. Per image some 9·K numbers are kept."""

    def __init__(self, label_space: LabelSpace, columns: Table | None = None, *, ids: Sequence[str] = ()) -> None:
        """``columns``: a CSV file (:func:`segwright.evaluation.slice_columns.read_table`). It is matched with ``ids``,
        those of the split, at once, so that a file that does not fit is an error before the pass."""
        self.label_space, self.columns = label_space, columns
        if columns is not None and ids:
            match_columns(columns, ids)
        self.ids: list[str] = []
        self.counts: list[Int64Array] = []  # (3, K)
        self.sizes: list[npt.NDArray[np.int32]] = []  # (sizes, 3, K)
        self.bands: list[npt.NDArray[np.int32]] = []  # (bands, 3, K)
        self.brightness: list[float] = []
        self.sharpness: list[float] = []
        self.pixels: list[int] = []

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
        classes = self.label_space.classes
        self.ids.append(id)
        self.pixels.append(truth.size)
        self.counts.append(class_counts(count_pairs(labels, truth, classes)))
        self.sizes.append(size_counts(truth, labels, classes))
        self.bands.append(band_counts(truth, labels, classes))
        bright, sharp = (float("nan"),) * 2 if image is None else light(image)
        self.brightness.append(bright)
        self.sharpness.append(sharp)

    def result(self, units: BootstrapUnits) -> Slices:
        """The slices over the units of the evaluation's interval."""
        counts = np.stack(self.counts)
        shares = counts[:, 1] / np.array(self.pixels)[:, None]
        sparse, notes = bool(np.median(shares.sum(axis=1)) < SPARSE), list[str]()
        found = self._of_light(counts)
        if sparse:
            notes.append("sparse labels: no slices by object size or boundary distance, which strokes do not show")
        present = shares >= (1e-9 if sparse else LEAST_PRESENT)
        for index, name in enumerate(self.label_space.names):
            found += _of_images("class present", name, counts, present[:, index])
        found += self._of_pairs(counts, present, units, notes)
        if not sparse:
            found += self._of_pixels()
        if self.columns is not None:
            matched = match_columns(self.columns, self.ids)
            notes += matched.notes
            for one in matched.columns:
                for name, inside in one.slices.items():
                    found += _of_images(one.name, name, counts, inside, known=one.known, column=True)
                    if 0 < inside.sum() < LEAST_IMAGES:
                        notes.append(f"column {one.name}: {name} has one image and is not listed")
        compared = [contrast(one.part, one.rest, groups=units.groups) for one in found]
        adjusted = holm([float("nan") if one.few else one.p for one in compared])
        slices = [
            Slice(d.by, d.name, d.images, int(d.part[:, 1].sum()), one, p, d.column, d.classes)
            for d, one, p in zip(found, compared, adjusted, strict=True)
        ]
        return Slices(slices, units, notes)

    def _of_light(self, counts: Int64Array) -> list[_Divided]:
        found: list[_Divided] = []
        for by, values, words in (
            ("brightness (mean gray value)", self.brightness, ("dark", "middle", "bright")),
            ("blur (variance of the Laplacian)", self.sharpness, ("blurred", "middle", "sharp")),
        ):
            parts = thirds(np.array(values))
            for word, (name, inside) in zip(words, parts.items(), strict=False):
                found += _of_images(by, f"{word}: {name}" if len(parts) == len(words) else name, counts, inside)
        return found

    def _of_pairs(
        self, counts: Int64Array, present: npt.NDArray[np.bool_], units: BootstrapUnits, notes: list[str]
    ) -> list[_Divided]:
        """Images that show two classes, and the IoU of a class in its images with another against those without."""
        names = self.label_space.names
        pairs, in_all = frequent_pairs(present, units.groups, least=LEAST_IMAGES)
        if in_all > len(pairs):
            notes.append(f"slices by two classes: the {len(pairs)} most frequent of {in_all} pairs")
        found: list[_Divided] = []
        for a, b in pairs:
            both, name = (names[a], names[b]), f"{names[a]} and {names[b]}"
            if not present[:, [a, b]].all(axis=0).any():  # with a class that is everywhere, it is the other alone
                found += _of_images(TOGETHER, name, counts, present[:, a] & present[:, b], classes=both)
        for pair in pairs:
            for a, b in (pair, pair[::-1]):
                alone = np.zeros_like(counts)
                alone[present[:, a], :, a] = counts[present[:, a], :, a]
                both, name = (names[a], names[b]), f"{names[a]} with {names[b]}"
                found += _of_images(WITH_ANOTHER, name, alone, present[:, b], among=present[:, a], classes=both)
        return found

    def _of_pixels(self) -> list[_Divided]:
        found = []
        for by, counted, names in (("object size", self.sizes, SIZES), ("boundary distance", self.bands, BANDS)):
            stacked = np.stack(counted).astype(np.int64)
            for place, (short, long) in enumerate(names):
                part = stacked[:, place]
                images = int(part[:, 1].any(axis=1).sum())
                if images >= LEAST_IMAGES:
                    found.append(_Divided(by, f"{short}: {long}", part, stacked.sum(axis=1) - part, images))
        return found


def _of_images(
    by: str,
    name: str,
    counts: Int64Array,
    inside: npt.NDArray[np.bool_],
    *,
    among: npt.NDArray[np.bool_] | None = None,
    known: npt.NDArray[np.bool_] | None = None,
    column: bool = False,
    classes: tuple[str, ...] = (),
) -> list[_Divided]:
    """The slice of the images ``inside`` (N,) of those ``among`` (all if left out), or nothing if it does not divide
    them; of images ``among`` others each side must have enough to be listed. Images that are not ``known`` (N,), by
    default all are, are on neither side."""
    every = np.ones(len(inside), bool)
    of = every if among is None else among
    of = of if known is None else of & known
    chosen = inside & of
    number, total = int(chosen.sum()), int(of.sum())
    if not LEAST_IMAGES <= number <= total - (1 if among is None else LEAST_IMAGES):
        return []
    part, rest = np.where(chosen[:, None, None], counts, 0), np.where((of & ~chosen)[:, None, None], counts, 0)
    return [_Divided(by, name, part, rest, number, column, classes)]


def light(image: UInt8Array) -> tuple[float, float]:
    """Mean luma in 0…255, and the variance of its Laplacian (Pech-Pacheco et al. 2000), which blur lowers."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else np.ascontiguousarray(image[..., 0])
    return float(gray.mean()), float(cv2.Laplacian(gray, cv2.CV_32F).var())


def size_counts(truth: UInt8Array, labels: UInt8Array, classes: int) -> npt.NDArray[np.int32]:
    """(sizes, 3, K): hits, truth and prediction of objects (connected components of a class) by their size.

    Right and missed pixels count at the size of the true object. A wrongly predicted pixel is in no true object of its
    class: it counts at the size of the predicted one.
    """
    valid = truth != IGNORE_INDEX
    result = np.zeros((len(SIZES), 3, classes), np.int32)
    of_truth = component_sizes(np.where(valid, truth, IGNORE_INDEX).astype(np.uint8), classes)
    of_labels = component_sizes(labels, classes)
    right = valid & (truth == labels)
    wrong = valid & (truth != labels)
    limits = np.array(SIZE_LIMITS) * truth.size
    for sizes, indices, chosen, rows in (
        (of_truth, truth, right, (0, 1, 2)),
        (of_truth, truth, wrong, (1,)),
        (of_labels, labels, wrong, (2,)),
    ):
        group = np.searchsorted(limits, sizes[chosen], side="right")
        counted = np.bincount(group * classes + indices[chosen], minlength=len(SIZES) * classes)
        for row in rows:
            result[:, row] += counted.reshape(len(SIZES), classes).astype(np.int32)
    return result


def component_sizes(labels: UInt8Array, classes: int) -> npt.NDArray[np.int64]:
    """(H, W): the number of pixels of the 8-connected component of one class that each pixel is in; 0 if no class."""
    result = np.zeros(labels.shape, np.int64)
    for index in np.unique(labels).tolist():
        if index >= classes:
            continue
        inside = labels == index
        _, numbers, boxes, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
        result[inside] = boxes[numbers[inside], cv2.CC_STAT_AREA]
    return result


def band_counts(truth: UInt8Array, labels: UInt8Array, classes: int) -> npt.NDArray[np.int32]:
    """(bands, 3, K): the counts by the distance of a pixel to the nearest true boundary between two classes; a border
    with ignored pixels is none."""
    valid = truth != IGNORE_INDEX
    edge = np.zeros(truth.shape, bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differ = (truth[one] != truth[other]) & valid[one] & valid[other]
        edge[one] |= differ
        edge[other] |= differ
    diagonal = float(np.hypot(*truth.shape))
    if edge.any():
        far = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    else:
        far = np.full(truth.shape, np.inf, np.float32)
    # A pixel beside the boundary is in the first band of any image.
    limits = np.array([max(limit * diagonal, 1.0) for limit in BAND_LIMITS])
    group = np.searchsorted(limits, far, side="right")
    result = np.zeros((len(BANDS), 3, classes), np.int32)
    for place in range(len(BANDS)):
        chosen = np.where(group == place, truth, IGNORE_INDEX).astype(np.uint8)
        result[place] = class_counts(count_pairs(labels, chosen, classes))
    return result


def slices_table(slices: Sequence[Slice]) -> ScreenTable:
    """The slices for a terminal of 80 columns; a star marks those that differ clearly from the rest."""
    table = ScreenTable(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("slice", overflow="fold")
    for title in ("images", "mIoU", "95 %", "to the rest", "95 %"):
        table.add_column(title, justify="right", no_wrap=True)
    by = ""
    for one in slices:
        if one.by != by:
            by = one.by
            table.add_row(literal(by, "bold"))
        d = one.found
        table.add_row(
            literal(f"  {one.name}"),
            str(one.images),
            _points(d.miou),
            "" if np.isnan(d.low) else f"{100 * d.low:.1f}–{100 * d.high:.1f}",
            ("* " if one.clear else "") + _points(d.difference, signed=True),
            "" if np.isnan(d.difference_low) else f"{100 * d.difference_low:+.1f} to {100 * d.difference_high:+.1f}",
        )
    return table


def _points(value: float, *, signed: bool = False) -> str:
    return "–" if np.isnan(value) else f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def check_slices(slices: str | Path) -> Table | None:
    """The CSV file that is asked for, or None for "auto"; DataError if it is no such file."""
    return None if str(slices) == "auto" else read_table(slices)

"""Likely label errors, ranked: confident learning (Northcutt, Jiang and Chuang 2021) for regions of label masks.

Per pixel the model's probability of the given class is compared with that of the class that it predicts. Pixels where
the two differ form regions: connected, of one given and one predicted class, opened so that the width by which
outlines differ anyway is no region. Class-wise thresholds (the mean probability of a class where it is given) decide
which pixels are confident; their counts are the confident joint of given and predicted class.

A region's score is ``margin² · rarity · novelty · size^0.1``. Margin: how much more probable the predicted class is
than the given one. Rarity: −log of the joint's share of that pair among the other images' pixels of the predicted
class, plus the same for the given class. Novelty: −log of the share of images that hold a region of that pair with
nearly the same margin (the inverse document frequency of text search, Spärck Jones 1972): a pair that is rare by its
pixels can still recur, in small regions, in every other image. Size: in multiples of the smallest region that is
listed. A pair that the model confuses everywhere is the model's weakness, or a convention of the labels, more often
than an error of the label, and thresholds alone do not distinguish these where the model is weak. The price: an error
that repeats through the dataset, such as one class that is always drawn too large, is not rare and ranks low.
"""

from __future__ import annotations

import csv
import io
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from segwright.core.atomic_io import without_nan, write_json, write_text
from segwright.core.counted import counted
from segwright.core.errors import SegwrightError, UsageError
from segwright.core.progress import literal, visible
from segwright.core.types import IGNORE_INDEX, SPARSE, LabelSpace, blend
from segwright.imageio import UInt8Array, write_image

Float32Array = npt.NDArray[np.float32]

SCORINGS = {
    "confident_joint": "margin² · rarity · novelty · size^0.1, see the module",
    "margin": "mean over the region of p(predicted) − p(given)",
    "self_confidence": "mean over the region of 1 − p(given)",
    "adjusted_margin": "as margin, of probabilities less the class's threshold (cleanlab's adjustment)",
}
TOLERANCE = 0.005  # of the image's diagonal: outlines that differ by up to twice this are no region
LEAST_SHARE = 0.001  # of the image's pixels: smaller regions are not listed
SIZE_POWER = 0.1  # a region of ten times the size counts a quarter more
SIMILAR = 0.8  # of a region's margin, from which one of the same pair in another image recurs
BINS = 100  # of the confidence, for the thresholds
KEPT = 40_000  # regions that are kept during the pass; beyond, the half with the lower margins is dropped
CROP_SIDE = 360  # pixels of one panel of a region's image
OUTLINE = (255, 230, 0)


@dataclass(frozen=True)
class SuspectRegion:
    """A region whose given label is likely wrong."""

    id: str  # of the image
    index: int  # of the image in the split
    given: int  # class indices
    suggested: int
    pixels: int
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    share: float  # of the image's pixels
    given_probability: float  # mean over the region, 0…1
    suggested_probability: float
    shape: bytes = field(repr=False)  # the region within its box, bits packed by rows
    score: float = 0.0
    touches: tuple[int, ...] = field(
        default=(), repr=False
    )  # numbers of touching regions of the image, same given class
    number: int = 0  # of the region within its image
    in_training: bool | None = None  # whether the model was trained on the image; None: not known

    @property
    def margin(self) -> float:
        """Mean probability of the suggested class less that of the given one, -1…1."""
        return self.suggested_probability - self.given_probability

    def mask(self) -> npt.NDArray[np.bool_]:
        """(height, width) of the box: the region's pixels."""
        _, _, width, height = self.box
        bits = np.unpackbits(np.frombuffer(self.shape, np.uint8), count=width * height)
        return np.asarray(bits.reshape(height, width), bool)


@dataclass
class LabelErrors:
    """Likely label errors of a split, the likeliest first."""

    regions: list[SuspectRegion]
    images: list[tuple[str, float]]  # every scored image with the score of its first region (0 without one), ranked
    label_space: LabelSpace
    split: str
    scoring: str
    thresholds: list[float]  # (K,) mean probability of a class where it is given; NaN where it never is
    joint: npt.NDArray[np.int64]  # (K, K) confident pixels, rows given, columns predicted
    found: int  # regions before the limit
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON types."""
        return dict(
            without_nan(
                {
                    "split": self.split,
                    "scoring": self.scoring,
                    "regions_found": self.found,
                    "regions": [region_json(r, n, self.label_space) for n, r in enumerate(self.regions, 1)],
                    "images": [{"id": name, "score": score} for name, score in self.images],
                    "thresholds": dict(zip(self.label_space.names, self.thresholds, strict=True)),
                    "confident_joint": self.joint.tolist(),
                    "notes": self.notes,
                }
            )
        )


def region_json(region: SuspectRegion, rank: int, space: LabelSpace) -> dict[str, Any]:
    """One region as JSON types."""
    return {
        "rank": rank,
        "id": region.id,
        "given": space.names[region.given],
        "suggested": space.names[region.suggested],
        "score": region.score,
        "given_probability": region.given_probability,
        "suggested_probability": region.suggested_probability,
        "pixels": region.pixels,
        "share": region.share,
        "box": list(region.box),
        "in_training": region.in_training,
    }


def check_request(limit: int, scoring: str) -> None:
    """UsageError for a list of no length or a scoring that does not exist."""
    if scoring not in SCORINGS:
        raise UsageError("unknown scoring of label errors", expected=", ".join(SCORINGS), found=scoring)
    if limit < 1:
        raise UsageError("the list holds at least one region", expected="1 or more", found=str(limit))


def _training_notes(trained_on: Mapping[str, bool] | None, ids: Sequence[str]) -> list[str]:
    if trained_on is None:
        return ["whether the model was trained on these images is not known: one that was has learned their errors"]
    seen = sum(trained_on.get(name, False) for name in ids)
    if not seen:
        return []
    return [
        f"the model was trained on {seen} of the {counted(len(ids), 'image')} and has learned their labels, "
        "errors included: "
        "fewer errors are found there; train with those images left out (segwright train --folds)"
    ]


class LabelErrorCollector:
    """Collects suspect regions in the pass of an evaluation, which hands over the probabilities."""

    needs_probabilities = True

    def __init__(
        self, label_space: LabelSpace, *, tolerance: float = TOLERANCE, least_share: float = LEAST_SHARE
    ) -> None:
        """``tolerance`` in shares of the image's diagonal, ``least_share`` of its pixels."""
        if not 0 <= tolerance < 0.5 or not 0 < least_share < 1:
            raise UsageError(
                "label errors need a tolerance in 0…0.5 and a least share in 0…1", found=f"{tolerance}, {least_share}"
            )
        self.label_space, self.tolerance, self.least_share = label_space, tolerance, least_share
        self.ids: list[str] = []
        self.regions: list[SuspectRegion] = []
        self.dropped = 0
        self.counts: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}  # id → codes, pixels
        classes = label_space.classes
        self.self_sum, self.self_pixels = np.zeros(classes), np.zeros(classes, np.int64)

    def add(
        self,
        index: int,
        id: str,
        image: UInt8Array | None,
        truth: UInt8Array,
        labels: UInt8Array,
        confidence: Float32Array | None,
        probabilities: Float32Array | None = None,
    ) -> None:
        """One image; ``probabilities`` (K, H, W) in the data's class indices. UsageError without them."""
        if probabilities is None:
            raise UsageError(
                "label errors are found with a model's probabilities",
                expected="a model",
                found="masks",
                fix="name a run folder or a bundle",
            )
        classes, valid = self.label_space.classes, truth != IGNORE_INDEX
        # What the probabilities prefer: after post-processing, labels may differ from it.
        predicted = probabilities.argmax(axis=0).astype(np.uint8)
        given_index = np.where(valid, truth, 0).astype(np.int64)
        of_given = np.take_along_axis(probabilities, given_index[None], 0)[0].astype(np.float32)
        of_predicted = probabilities.max(axis=0).astype(np.float32)
        flat = truth[valid].astype(np.int64)
        self.self_sum += np.bincount(flat, weights=of_given[valid], minlength=classes)
        self.self_pixels += np.bincount(flat, minlength=classes)
        steps = np.clip((of_predicted[valid] * BINS).astype(np.int64), 0, BINS - 1)
        pixels = np.bincount((flat * classes + predicted[valid]) * BINS + steps)
        codes = np.flatnonzero(pixels)
        self.counts[id] = (codes, pixels[codes])
        self.ids.append(id)
        self._find(index, id, truth, predicted, of_given, of_predicted)
        if len(self.regions) > KEPT:
            self.regions.sort(key=lambda region: -region.margin)
            self.dropped += len(self.regions) - KEPT // 2
            del self.regions[KEPT // 2 :]

    def _find(
        self, index: int, id: str, truth: UInt8Array, predicted: UInt8Array, given: Float32Array, other: Float32Array
    ) -> None:
        height, width = truth.shape
        radius = round(self.tolerance * float(np.hypot(height, width)))
        least = max(1, round(self.least_share * height * width))
        if np.count_nonzero(truth != IGNORE_INDEX) < SPARSE * truth.size:
            radius, least = 0, 1  # a stroke is thinner than what counts as a border, and a point is a region
        differ = (truth != predicted) & (truth != IGNORE_INDEX)
        pairs = truth.astype(np.int32) * 256 + predicted
        numbers = np.zeros(truth.shape, np.int32)  # of the regions, 0: none
        found: list[tuple[int, int, tuple[int, int, int, int], npt.NDArray[np.bool_]]] = []
        occurring, sizes = np.unique(pairs[differ], return_counts=True)
        for code in occurring[sizes >= least].tolist():
            part = _opened(((pairs == code) & differ).astype(np.uint8), radius)
            count, labeled, boxes, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
            for n in range(1, count):
                x, y, w, h, area = (int(v) for v in boxes[n])
                if area >= least:
                    inside = labeled[y : y + h, x : x + w] == n
                    found.append((code // 256, code % 256, (x, y, w, h), inside))
                    numbers[y : y + h, x : x + w][inside] = len(found)
        for number, (one, two, (x, y, w, h), inside) in enumerate(found, 1):
            here = np.s_[y : y + h, x : x + w]
            near = [n for n in _touching(numbers, (x, y, w, h), number, radius + 2) if found[n - 1][0] == one]
            region = SuspectRegion(
                id=id,
                index=index,
                given=one,
                suggested=two,
                pixels=int(inside.sum()),
                box=(x, y, w, h),
                share=float(inside.sum() / truth.size),
                given_probability=float(given[here][inside].mean()),
                suggested_probability=float(other[here][inside].mean()),
                shape=np.packbits(inside.ravel()).tobytes(),
                touches=tuple(near),
                number=number,
            )
            self.regions.append(region)

    def result(
        self,
        *,
        limit: int = 50,
        scoring: str = "confident_joint",
        split: str = "",
        trained_on: Mapping[str, bool] | None = None,
    ) -> LabelErrors:
        """The ``limit`` likeliest, the rest of an image's touching regions of one given class left out.

        ``trained_on``: id → whether the model was trained on the image; None: not known.
        """
        check_request(limit, scoring)
        with np.errstate(invalid="ignore", divide="ignore"):
            thresholds = np.where(self.self_pixels > 0, self.self_sum / self.self_pixels, np.nan)
        joints = {name: self._joint(codes, pixels, thresholds) for name, (codes, pixels) in self.counts.items()}
        classes = self.label_space.classes
        total = np.zeros((classes, classes), np.int64)
        for codes, pixels in joints.values():
            np.add.at(total.reshape(-1), codes, pixels)
        margins = self._margins()
        scored = [
            replace(region, score=self._score(region, scoring, total, joints[region.id], thresholds, margins))
            for region in self.regions
        ]
        scored.sort(key=lambda region: (-region.score, region.id, region.number))
        first, taken = [], set[tuple[str, int]]()
        for region in scored:
            if not any((region.id, other) in taken for other in region.touches):
                taken.add((region.id, region.number))
                first.append(region)
        best: dict[str, float] = dict.fromkeys(self.ids, 0.0)
        for region in first:
            best[region.id] = max(best[region.id], region.score)
        if trained_on is not None:
            first = [replace(region, in_training=trained_on.get(region.id)) for region in first]
        notes = _training_notes(trained_on, self.ids)
        if self.dropped:
            notes.append(
                f"{counted(self.dropped, 'region')} with small margins were not kept: more than {KEPT} were found"
            )
        return LabelErrors(
            first[:limit], sorted(best.items(), key=lambda pair: -pair[1]), self.label_space, split, scoring,
            [float(value) for value in thresholds], total, len(first), notes,
        )  # fmt: skip

    def _joint(
        self, codes: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64], thresholds: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Codes given · K + predicted of one image's confident pixels, and their counts."""
        pairs, steps = codes // BINS, codes % BINS
        needed = thresholds[pairs % self.label_space.classes]
        confident = np.isnan(needed) | ((steps + 1) / BINS > needed)
        return pairs[confident], pixels[confident]

    def _margins(self) -> dict[tuple[int, int], list[float]]:
        """(given, suggested) → the largest margin of such a region in each image that has one, ascending."""
        found: dict[tuple[int, int], dict[str, float]] = {}
        for region in self.regions:
            images = found.setdefault((region.given, region.suggested), {})
            images[region.id] = max(images.get(region.id, 0.0), region.margin)
        return {pair: sorted(images.values()) for pair, images in found.items()}

    def _novelty(self, region: SuspectRegion, margins: Sequence[float]) -> float:
        """−log of the share of images that hold such a region, its own among them; near 0 if all do."""
        holding = len(margins) - bisect_left(margins, SIMILAR * region.margin)
        return float(np.log((len(self.ids) + 1) / holding))

    def _score(
        self,
        region: SuspectRegion,
        scoring: str,
        total: npt.NDArray[np.int64],
        own: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        thresholds: npt.NDArray[np.float64],
        margins: Mapping[tuple[int, int], Sequence[float]],
    ) -> float:
        if scoring == "self_confidence":
            return 1 - region.given_probability
        if scoring == "margin":
            return region.margin
        given, predicted = region.given, region.suggested
        if scoring == "adjusted_margin":
            shift = np.nan_to_num(thresholds[[given, predicted]])
            return float(region.margin - shift[1] + shift[0])
        classes, (codes, pixels) = self.label_space.classes, own
        rows, columns = codes // classes == given, codes % classes == predicted
        pair = total[given, predicted] - pixels[rows & columns].sum() + 1  # one pixel more: no pair is impossible
        of_given = total[given].sum() - pixels[rows].sum() + classes
        of_predicted = total[:, predicted].sum() - pixels[columns].sum() + classes
        rarity = -np.log(pair / of_predicted) - np.log(pair / of_given)
        size = (region.share / self.least_share) ** SIZE_POWER
        novelty = self._novelty(region, margins[given, predicted])
        return float(max(region.margin, 0.0) ** 2 * max(rarity, 0.0) * novelty * size)


def _opened(part: UInt8Array, radius: int) -> UInt8Array:
    if radius < 1:
        return part
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.morphologyEx(part, cv2.MORPH_OPEN, disk), np.uint8)


def _touching(numbers: npt.NDArray[np.int32], box: tuple[int, int, int, int], number: int, reach: int) -> list[int]:
    """The numbers of the regions within ``reach`` pixels of region ``number``."""
    x, y, w, h = box
    part = numbers[max(0, y - reach) : y + h + reach, max(0, x - reach) : x + w + reach]
    if (part[part > 0] == number).all():
        return []
    near = cv2.dilate((part == number).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return [int(n) for n in np.unique(part[near > 0]) if n not in (0, number)]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def label_errors_table(found: LabelErrors, rows: int) -> Table:
    """The first ``rows`` regions for a terminal of 80 columns."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("image", overflow="fold")
    table.add_column("given", overflow="fold")
    table.add_column("suggested", overflow="fold")
    for title in ("score", "pixels"):
        table.add_column(title, justify="right", no_wrap=True)
    names = found.label_space.names
    for rank, region in enumerate(found.regions[:rows], 1):
        given = f"{visible(names[region.given])} {region.given_probability:.2f}"
        suggested = f"{visible(names[region.suggested])} {region.suggested_probability:.2f}"
        cells = (str(rank), literal(region.id), literal(given), literal(suggested))
        table.add_row(*cells, f"{region.score:.2f}", str(region.pixels))
    return table


class Images(Protocol):
    """What is read again to draw the regions: a split."""

    def read_image(self, index: int) -> UInt8Array: ...
    def read_mask(self, index: int) -> UInt8Array | None: ...


def write_label_errors(folder: str | Path, found: LabelErrors, split: Images) -> Path:
    """Write ``label_errors.json``, ``label_errors.csv`` and ``images/`` into ``folder`` and return it.

    ``split`` is the one that was searched; an image that can no longer be read is left out and noted.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    lost = []
    for rank, region in enumerate(found.regions, 1):
        name = f"images/{rank:03d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', region.id)[-80:]}.jpg"
        try:
            image, truth = split.read_image(region.index), split.read_mask(region.index)
        except (SegwrightError, OSError):
            truth = None
        if truth is None:
            lost.append(region.id)
            names.append("")
            continue
        write_image(folder / name, region_image(region, image, truth, found.label_space, rank))
        names.append(name)
    if lost:
        found.notes.append(f"{counted(len(lost), 'image')} could not be read again to be drawn: {', '.join(lost[:3])}")
    tree = found.to_json()
    for row, name in zip(tree["regions"], names, strict=True):
        row["image_file"] = name or None
    write_json(folder / "label_errors.json", tree)
    text = io.StringIO()
    columns = ["rank", "id", "given", "suggested", "score", "given_probability", "suggested_probability", "pixels"]
    columns += ["share", "x", "y", "width", "height", "in_training", "image_file"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in tree["regions"]:
        box = dict(zip(("x", "y", "width", "height"), row.pop("box"), strict=True))
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in {**row, **box}.items()})
    write_text(folder / "label_errors.csv", text.getvalue())
    return folder


def region_image(
    region: SuspectRegion, image: UInt8Array, truth: UInt8Array, space: LabelSpace, rank: int = 0
) -> UInt8Array:
    """(h, w, 3): the region outlined in the image, in the given labels, and in the suggested ones, side by side."""
    x, y, w, h = region.box
    height, width = truth.shape
    edge = max(16, max(w, h) // 2)
    top, left = max(0, y - edge), max(0, x - edge)
    cut = np.s_[top : min(height, y + h + edge), left : min(width, x + w + edge)]
    inside = np.zeros(truth.shape, bool)
    inside[y : y + h, x : x + w] = region.mask()
    pixels = np.repeat(image[..., :1], 3, axis=2) if image.shape[2] != 3 else image
    pixels, given, inside = np.ascontiguousarray(pixels[cut]), truth[cut], inside[cut]
    suggested = np.where(inside, np.uint8(region.suggested), given)
    factor = CROP_SIDE / max(given.shape)
    size = (max(1, round(given.shape[1] * factor)), max(1, round(given.shape[0] * factor)))
    outline = cv2.findContours(
        cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST),
        cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE,
    )[0]  # fmt: skip
    panels = []
    for shown in (pixels, *(blend(pixels, space.palette()[labels], 0.6) for labels in (given, suggested))):
        panel = np.ascontiguousarray(cv2.resize(shown, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        cv2.drawContours(panel, outline, -1, (0, 0, 0), 3)
        cv2.drawContours(panel, outline, -1, OUTLINE, 1)
        panels.append(np.pad(panel, ((0, 0), (0, 6), (0, 0)), constant_values=255))
    strip = np.concatenate(panels, axis=1)
    title = f"{rank}. {region.id}" if rank else region.id
    text = (
        f"given: {space.names[region.given]} ({region.given_probability:.2f})   "
        f"suggested: {space.names[region.suggested]} ({region.suggested_probability:.2f})"
    )
    return np.concatenate([_caption((title, text), strip.shape[1]), strip], axis=0)


def _caption(lines: Sequence[str], width: int) -> UInt8Array:
    strip = Image.new("RGB", (width, 20 * len(lines) + 4), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(14)
    for number, line in enumerate(lines):
        draw.text((4, 2 + 20 * number), line, "black", font=font)
    return np.asarray(strip, np.uint8)

"""Dataset statistics that plan a training: sizes, channels, class frequencies, object scales."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX, SPARSE
from segwright.data.check.scan import SIZE_BINS, SampleReport, examine
from segwright.data.records import Split, evenly_spread
from segwright.kernels.threads import processors

SAMPLE = 200  # images that the quick fingerprint looks at
COMMON_SIZES = 16


@dataclass(frozen=True)
class ObjectScale:
    """How large the connected regions of a class are: the square root of their area, in pixels of the file.

    A region counts by its size, so that the specks which every drawn mask has do not decide: of all the regions' sizes
    laid end to end, a tenth belongs to regions below ``low``, half to regions below ``median``.
    """

    regions: int
    low: float  # 10th percentile
    median: float
    high: float  # 90th percentile


@dataclass(frozen=True)
class Fingerprint:
    """Statistics of a split or a dataset. Tuples per class are in the order of the label space; shares are 0…1."""

    images: int  # in the split
    examined: int  # of which were looked at; the figures below are theirs
    labeled: int  # of which had a readable mask
    height: tuple[int, int, int]  # smallest, median, largest
    width: tuple[int, int, int]
    sizes: tuple[tuple[int, int, int], ...]  # (height, width, images), the most frequent first, at most 16
    channels: int  # the most frequent
    mean: tuple[float, ...]  # a channel, on 0…255
    std: tuple[float, ...]  # a channel, on 0…255, over all pixels of all images
    class_names: tuple[str, ...]
    class_pixels: tuple[int, ...]
    class_images: tuple[int, ...]  # images that show the class
    ignored_pixels: int
    cooccurrence: tuple[tuple[int, ...], ...]  # K×K: images that show both classes
    scales: tuple[ObjectScale | None, ...]  # None for a class that does not occur
    boundary_density: float  # share of the labeled pixels that touch another class
    classes_per_image: float
    # lowest, median and highest share of labeled pixels of the images that have any
    labeled_share: tuple[float, float, float] = (1.0, 1.0, 1.0)
    images_pixels: tuple[int, ...] = ()  # labeled pixels of the images that show the class; empty: not counted
    all_ignored: int = 0  # images whose mask has no labeled pixel
    sparse_images: int = 0  # images of whose pixels some are labeled, and less than SPARSE

    @property
    def class_shares(self) -> tuple[float, ...]:
        """Share of each class among the labeled pixels."""
        total = max(1, sum(self.class_pixels))
        return tuple(pixels / total for pixels in self.class_pixels)

    @property
    def ignored_share(self) -> float:
        return self.ignored_pixels / max(1, self.ignored_pixels + sum(self.class_pixels))

    @property
    def sparse(self) -> bool:
        """Whether most masks hold points, strokes or small regions: labeled pixels are no sample of what is shown."""
        return 2 * self.sparse_images > self.labeled - self.all_ignored

    @property
    def same_size(self) -> bool:
        """Whether all images examined have one size."""
        return self.height[0] == self.height[2] and self.width[0] == self.width[2]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        """The inverse of :meth:`to_json`, also after a trip through JSON."""
        values = {name: _tuples(value) for name, value in data.items() if name != "scales"}
        scales = tuple(None if scale is None else ObjectScale(**scale) for scale in data["scales"])
        return cls(**values, scales=scales)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value


@dataclass
class FingerprintAccumulator:
    """Sums sample reports; a number of four bytes per image is kept."""

    names: tuple[str, ...]
    images: int = 0
    examined: int = 0
    labeled: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    moments: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)  # channels → (3, C): n, Σx, Σx²
    boundary: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.names)
        self.counts = np.zeros(256, np.int64)
        self.present = np.zeros((count, count), np.int64)
        self.region_sizes = np.zeros((count, SIZE_BINS), np.int64)
        self.images_pixels = np.zeros(count, np.int64)
        self.labeled_shares = array("f")

    def add(self, found: SampleReport) -> None:
        if found.size is not None:
            self.examined += 1
            self.sizes[found.size] += 1
            self.channels[found.channels] += 1
            pixels = float(found.size[0] * found.size[1])
            mean, std = np.array(found.mean), np.array(found.std)
            new = np.stack([np.full(len(mean), pixels), pixels * mean, pixels * (std**2 + mean**2)])
            self.moments[found.channels] = self.moments.get(found.channels, np.zeros_like(new)) + new
        if found.counts is not None:
            self.labeled += 1
            self.counts += found.counts
            seen = (found.counts[: len(self.names)] > 0).astype(np.int64)
            self.present += np.outer(seen, seen)
            labeled = int(found.counts[: len(self.names)].sum())
            self.images_pixels += seen * labeled
            self.labeled_shares.append(labeled / max(1, int(found.counts.sum())))
            self.boundary += found.boundary
        if found.region_sizes is not None:
            self.region_sizes += found.region_sizes

    def fingerprint(self) -> Fingerprint:
        sizes = self.sizes or Counter({(0, 0): 1})
        heights = np.repeat([h for h, _ in sizes], list(sizes.values()))
        widths = np.repeat([w for _, w in sizes], list(sizes.values()))
        channels = self.channels.most_common(1)[0][0] if self.channels else 0
        number, first, second = self.moments.get(channels, np.ones((3, 0)))
        mean = first / number
        shares = np.array(self.labeled_shares, np.float64)
        some = shares[shares > 0] if (shares > 0).any() else np.ones(1)
        return Fingerprint(
            images=self.images,
            examined=self.examined,
            labeled=self.labeled,
            height=_min_median_max(heights),
            width=_min_median_max(widths),
            sizes=tuple((h, w, n) for (h, w), n in self.sizes.most_common(COMMON_SIZES)),
            channels=channels,
            mean=tuple(np.round(mean, 4).tolist()),
            std=tuple(np.round(np.sqrt(np.maximum(second / number - mean**2, 0)), 4).tolist()),
            class_names=self.names,
            class_pixels=tuple(self.counts[: len(self.names)].tolist()),
            class_images=tuple(np.diag(self.present).tolist()),
            ignored_pixels=int(self.counts[IGNORE_INDEX]),
            cooccurrence=tuple(tuple(row) for row in self.present.tolist()),
            scales=tuple(_scale(row) for row in self.region_sizes),
            boundary_density=round(self.boundary / max(1, self.labeled), 6),
            classes_per_image=round(float(np.trace(self.present)) / max(1, self.labeled), 4),
            labeled_share=(round(float(some.min()), 6), round(float(np.median(some)), 6), round(float(some.max()), 6)),
            images_pixels=tuple(self.images_pixels.tolist()),
            all_ignored=int((shares == 0).sum()),
            sparse_images=int(((shares > 0) & (shares < SPARSE)).sum()),
        )


def _min_median_max(values: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _scale(histogram: npt.NDArray[np.int64]) -> ObjectScale | None:
    total = int(histogram.sum())
    if not total:
        return None
    weighed = np.cumsum(histogram * 2 ** ((np.arange(len(histogram)) + 0.5) / 4))
    reached = np.searchsorted(weighed, np.array([0.1, 0.5, 0.9]) * weighed[-1])
    low, median, high = np.round(2 ** ((reached + 0.5) / 4), 2).tolist()
    return ObjectScale(total, low, median, high)


def fingerprint(split: Split, *, max_images: int = SAMPLE) -> Fingerprint:
    """A quick look at up to ``max_images`` images spread evenly over the split; unreadable ones are passed over.

    Runs in threads of this process: use :func:`segwright.data.check.runner.check_dataset` on data that nobody has
    checked.
    """
    count = len(split)
    places = evenly_spread(count, max_images)
    accumulator = FingerprintAccumulator(split.label_space.names, images=count)
    with ThreadPoolExecutor(processors()) as pool:
        for found in pool.map(lambda i: examine(split.records[i], split.reader), places):
            accumulator.add(found)
    return accumulator.fingerprint()


def class_pixels(split: Split, indices: Iterable[int] | None = None) -> npt.NDArray[np.int64]:
    """Exact pixel counts by class, shape (K + 1,), the last for ignored: every mask is read, no image.

    The first unreadable mask raises its error.
    """
    places = list(range(len(split)) if indices is None else indices)
    total = np.zeros(256, np.int64)

    def count(index: int) -> npt.NDArray[np.int64]:
        mask = split.read_mask(index)
        if mask is None:
            return np.zeros(256, np.int64)
        return np.asarray(np.bincount(mask.ravel(), minlength=256), np.int64)

    with ThreadPoolExecutor(processors()) as pool:
        for counts in pool.map(count, places):
            total += counts
    return np.append(total[: len(split.label_space)], total[IGNORE_INDEX])

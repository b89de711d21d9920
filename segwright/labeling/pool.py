"""Which images: every image is looked at once, and some kilobytes of it are kept; then a greedy choice spreads.

The choice is k-center (Sener and Savarese 2018) with a worth: the next image is the one whose score × distance to the
nearest chosen image is largest. Images that show the same thing as a chosen one are left out, as in the data check. A
share of the images is drawn at random before anything else, from all of them alike: what is measured on it holds for
the pool.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, SegwrightError, UsageError
from segwright.core.progress import progress
from segwright.core.types import Float32Array, UInt8Array
from segwright.data.check.duplicates import BRIGHTNESS, NEAR_DUPLICATE
from segwright.data.check.scan import FLAT, thumbnail
from segwright.data.records import evenly_spread
from segwright.imageio import read_image
from segwright.inference.predictor import Predictor
from segwright.inference.runtimes import features_of
from segwright.inference.sources import open_sources
from segwright.inference.videos import is_video
from segwright.labeling.scores import Float64Array, opinion, rarity
from segwright.monitoring.journal import is_journal
from segwright.monitoring.journal_files import IMAGES
from segwright.monitoring.observation import embed

COLOR_GRID = 6  # without a model an image is described by the colors of so many squared cells
LABELED_WORTH = 0.25
MOST_LABELED = 500  # images with labels that distances are taken from, evenly spread
PAIRS = 20_000  # pairs of images from which the usual distance is taken


@dataclass(frozen=True)
class PoolImage:
    """What is kept of one image."""

    path: Path
    size: tuple[int, int]  # height, width
    embedding: Float32Array  # (D,)
    thumb: Float32Array  # (256,) zero mean, unit length; zeros where the image is flat
    gray: float  # mean gray level
    shares: Float32Array  # (K,): of pixels predicted as the class; empty without a model
    doubt: Float32Array  # (K,): the sum of the disagreement over these pixels, over the pixels of the image
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mean red, green and blue: what flat images differ by


@dataclass
class Pool:
    """The images that were looked at, and those that could not be."""

    root: Path
    images: list[PoolImage] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def weights(self) -> Float64Array:
        """The rarity (K,) of the classes over all images; empty without a model."""
        return rarity(np.asarray(np.mean([image.shares for image in self.images], axis=0), np.float64))

    def scores(self) -> Float64Array:
        """(N,): the mean over an image's pixels of disagreement × rarity of the predicted class; 1 without a model."""
        if not self.images[0].doubt.size:
            return np.ones(len(self.images))
        return np.asarray(np.stack([image.doubt for image in self.images]).astype(np.float64) @ self.weights())


def list_images(source: str | Path | Sequence[str | Path]) -> tuple[Path, list[Path], list[str]]:
    """(root, files, notes) of folders, globs, files, and journals with kept images; UsageError or DataError if there
    is no image."""
    sources = [source] if isinstance(source, str | Path) else list(source)
    places = [_kept_images(Path(one)) if is_journal(one) else one for one in sources]
    found = open_sources(places)
    files = [path for path in found.files if not is_video(path)]
    notes = list(found.notes)
    if len(files) < len(found.files):
        notes.append(f"{len(found.files) - len(files)} videos are skipped: take their frames out as images first")
    if not files:
        raise UsageError(
            "no images to select from", expected="images, a folder, a glob or a journal with kept images",
            found="videos", fix="take the frames out as images first",
        )  # fmt: skip
    # Not resolved: a link in the path of both must not lead out of the root.
    return Path(os.path.abspath(found.root)), [Path(os.path.abspath(path)) for path in files], notes


def refuse_sources(files: Sequence[Path], outputs: Sequence[str | Path]) -> None:
    """UsageError if an output would replace an image."""
    for output in outputs:
        if Path(output).exists() and any(path.samefile(output) for path in files if path.name == Path(output).name):
            raise UsageError("the output would replace an image", where=output, fix="give it another name")


def _kept_images(journal: Path) -> Path:
    folder = journal / IMAGES
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(
            "the journal has no images",
            found="records alone",
            where=journal,
            fix="serve or predict with --keep-images 1%, or select from the images themselves",
        )
    return folder


def scan(
    files: Sequence[Path], root: Path, predictors: Sequence[Predictor], kind: str = "auto", title: str = "images"
) -> Pool:
    """Look at every image once; one that cannot be used is listed. DataError if none can."""
    pool = Pool(root)
    reasons: dict[str, str] = {}  # each kind of error once, with its first image
    with progress(title, len(files)) as advance:
        for path in files:
            try:
                pool.images.append(look(path, predictors, kind))
            except SegwrightError as error:
                pool.failed.append((str(path), str(error)))
                reasons.setdefault(
                    error.message, f"{path.name}: {error.message}" + (f" ({error.fix})" if error.fix else "")
                )
            advance(1)
    if not pool.images:
        raise DataError(
            f"none of the {counted(len(files), 'image')} can be used",
            found="; ".join(reasons.values())[:500],
            where=root,
        )
    return pool


def look(path: Path, predictors: Sequence[Predictor], kind: str = "auto") -> PoolImage:
    """What is kept of one image; errors of reading and predicting it."""
    pixels = read(path, predictors)
    thumb, gray = thumbnail(_gray(pixels))
    nothing = np.zeros(0, np.float32)
    small = np.zeros(256, np.float32) if thumb is None else thumb
    size = (pixels.shape[0], pixels.shape[1])
    if not predictors:
        return PoolImage(path, size, _colors(pixels), small, gray, nothing, nothing, _mean(pixels))
    with features_of(predictors[0].runtime) as features:
        found = opinion(predictors, pixels, kind)
    labels = found.labels.ravel()
    classes = predictors[0].label_space.classes
    counts = np.bincount(labels, minlength=classes) / labels.size
    doubt = np.bincount(labels, found.disagreement.ravel(), minlength=classes) / labels.size
    embedding = embed(np.mean([one[0] for one in features], axis=0)) if features else _colors(pixels)
    shares = counts.astype(np.float32)
    return PoolImage(path, size, embedding, small, gray, shares, doubt.astype(np.float32), _mean(pixels))


def read(path: Path, predictors: Sequence[Predictor]) -> UInt8Array:
    """An image (H, W, C) as the models see it, or as it is without one."""
    return predictors[0].read(path) if predictors else read_image(path)


def _gray(pixels: UInt8Array) -> UInt8Array:
    if pixels.shape[2] != 3:
        return pixels[..., 0]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)


def _mean(pixels: UInt8Array) -> tuple[float, float, float]:
    """The mean of the first three channels, of the first one three times where there are fewer."""
    places = (0, 1, 2) if pixels.shape[2] >= 3 else (0, 0, 0)
    red, green, blue = (float(pixels[..., place].mean(dtype=np.float64)) for place in places)
    return red, green, blue


def _colors(pixels: UInt8Array) -> Float32Array:
    """(108,) color values of a coarse grid, 0…1: what distinguishes images without a model."""
    first = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    small = cv2.resize(np.ascontiguousarray(first), (COLOR_GRID, COLOR_GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(small.ravel() / (255 * COLOR_GRID), np.float32)


@dataclass(frozen=True)
class Choice:
    """The chosen images by their places in the pool, in order, and which others each stands for."""

    places: list[int]
    random: set[int]  # those drawn at random
    stands_for: dict[int, list[int]]


def choose_images(pool: Pool, count: int, *, random_share: float, seed: int, labeled: Sequence[int] = ()) -> Choice:
    """Up to ``count`` images of a pool: a random share of them first, then by worth and distance.

    Fewer if the rest are near-duplicates of chosen ones; copies among those drawn at random stay, or the draw would
    not be one. ``labeled``: places of images that have labels. They count as chosen before, so that images that differ
    from them come first; they come again themselves with :data:`LABELED_WORTH` of their worth.
    """
    total = len(pool.images)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(total, min(total, round(min(count, total) * random_share)), replace=False).tolist()
    near = _Nearness(pool)
    free = np.ones(total, bool)
    stands_for: dict[int, list[int]] = {}
    distance, scores = np.full(total, np.inf), pool.scores()
    scores[list(labeled)] *= LABELED_WORTH
    for one in (labeled[place] for place in evenly_spread(len(labeled), MOST_LABELED)):
        gaps = near.distances(one)
        gaps[one] = np.inf
        np.minimum(distance, gaps, out=distance)
    places: list[int] = []

    def take(one: int) -> None:
        places.append(one)
        free[one] = False
        alike = [int(other) for other in np.flatnonzero(near.alike(one) & free)]
        stands_for[one] = alike
        free[alike] = False
        np.minimum(distance, near.distances(one), out=distance)

    for one in drawn:
        take(int(one))
    with progress("choosing images", min(count, total) - len(places)) as advance:
        while len(places) < count and free.any():
            worth = np.where(free, scores * np.minimum(distance, 1.0), -1.0)
            take(int(worth.argmax()))
            advance(1)
    lost = set(drawn)
    kept = {one: [other for other in others if other not in lost] for one, others in stands_for.items()}
    return Choice(places, lost, kept)


class _Nearness:
    """Distances of embeddings, in units of the pool's usual one, and near-duplicates by thumbnails."""

    def __init__(self, pool: Pool) -> None:
        images = pool.images
        sizes = {image.embedding.size for image in images}
        width = max(sizes) if len(sizes) == 1 else 0
        self.points = np.stack([image.embedding[:width] for image in images]).astype(np.float32)
        self.thumbs = np.stack([image.thumb for image in images])
        self.gray = np.array([image.gray for image in images])
        self.color = np.array([image.color for image in images])
        # Shows nothing, so that there is no correlation.
        self.flat: npt.NDArray[np.bool_] = np.asarray(~self.thumbs.any(axis=1))
        rng = np.random.default_rng(0)
        a, b = rng.integers(0, len(images), (2, min(PAIRS, len(images) ** 2)))
        gaps = np.linalg.norm(self.points[a] - self.points[b], axis=1)[a != b]
        usual = float(np.median(gaps)) if gaps.size else 0.0
        self.scale = usual if usual > 0 else 1.0

    def distances(self, one: int) -> npt.NDArray[np.float64]:
        """(N,): to all images."""
        return np.asarray(np.linalg.norm(self.points - self.points[one], axis=1) / self.scale, np.float64)

    def alike(self, one: int) -> npt.NDArray[np.bool_]:
        """(N,): near-duplicates of an image, without itself; of a flat one those of its color."""
        found: npt.NDArray[np.bool_] = np.asarray(self.thumbs @ self.thumbs[one] >= NEAR_DUPLICATE)
        found &= np.abs(self.gray - self.gray[one]) < BRIGHTNESS
        if self.flat[one]:
            found = np.asarray(self.flat & (np.abs(self.color - self.color[one]).max(axis=1) < FLAT), np.bool_)
        found[one] = False
        return found

"""Evaluation of a predictor on a split: all scores with their confidence intervals, in one pass.

Images are read ahead in a thread while the predictor runs. Only sums per image are kept (see
:class:`segwright.evaluation.intervals.ImageSums`), and the label maps of the worst and best images for the report, so
memory does not grow with the size of the images.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, LabelError, SegwrightError, UsageError
from segwright.core.progress import progress
from segwright.core.types import SPARSE, LabelSpace
from segwright.evaluation.evaluation import CONVENTION, Evaluation, Part, summary
from segwright.evaluation.examples import EXAMPLES, Example, Examples
from segwright.evaluation.intervals import ImageSums
from segwright.evaluation.sequences import find_units, thumbnail_of
from segwright.imageio import UInt8Array
from segwright.inference.prediction import Prediction
from segwright.metrics.boundary import BFScore, BoundaryIoU, TrimapCurve
from segwright.metrics.calibration import Calibration, CalibrationSums
from segwright.metrics.confusion import (
    ConfusionMatrix,
    Float64Array,
    Int64Array,
    class_counts,
    iou_per_class,
    nanmean,
)
from segwright.metrics.conventions import find_convention

READ_AHEAD = 4
NEED_PROBABILITIES = ("brier", "nll", "classwise_ece")
NO_BORDERS = "borders were not scored"
BORDER_FIGURES = ("boundary_iou", "bf_score", "trimap_miou")

__all__ = [
    "Collector",
    "Evaluation",
    "Example",
    "LabeledImages",
    "MappedPrediction",
    "Part",
    "PredictorProtocol",
    "evaluate",
    "match_label_spaces",
    "score",
    "summary",
]


class PredictorProtocol(Protocol):
    """An evaluated predictor: anything that returns a :class:`Prediction` for an image.

    ``predict_batch(images) -> list[Prediction]``, if it exists, is used for images of one size.
    """

    @property
    def label_space(self) -> LabelSpace: ...

    def predict(self, image: UInt8Array, *, probabilities: bool = False) -> Prediction: ...


class LabeledImages(Protocol):
    """The images with masks: a :class:`segwright.data.dataset.Split`, or anything with the same methods."""

    name: str

    @property
    def label_space(self) -> LabelSpace: ...
    @property
    def ids(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def read_image(self, index: int) -> UInt8Array: ...
    def read_mask(self, index: int) -> UInt8Array | None: ...


class Collector(Protocol):
    """Accumulates something over the scored images of a pass, such as the scores of slices."""

    def add(
        self,
        index: int,
        id: str,
        image: UInt8Array | None,
        truth: UInt8Array,
        labels: UInt8Array,
        confidence: npt.NDArray[np.float32] | None,
    ) -> None:
        """One scored image, in the order of :attr:`Evaluation.ids`: its index in the split, pixels (H, W, C), truth and
        prediction (H, W) in the data's class indices. ``image`` and ``confidence`` are None if only masks are read.

        A collector with an attribute ``needs_probabilities`` that is true gets ``probabilities=`` (K, H, W) too, None
        for masks."""


def needs_probabilities(collector: Collector) -> bool:
    """Whether a collector wants the probabilities of all classes."""
    return bool(getattr(collector, "needs_probabilities", False))


@dataclass(frozen=True)
class MappedPrediction:
    """A prediction mapped to the class indices of the data."""

    labels: UInt8Array  # (H, W)
    confidence: npt.NDArray[np.float32] | None = None  # (H, W)
    probabilities: npt.NDArray[np.float32] | None = None  # (K, H, W)
    source: Path | None = None  # the file it was read from, for errors


def evaluate(
    predictor: PredictorProtocol,
    split: LabeledImages,
    *,
    batch_size: int = 1,
    boundary: bool = True,
    probabilities: bool = False,
    skip_bad: bool | None = None,
    match: str = "names",
    groups: Sequence[object] | None = None,
    collectors: Sequence[Collector] = (),
    examples: int = EXAMPLES,
    convention: str = CONVENTION,
    title: str = "evaluate",
) -> Evaluation:
    """Score ``predictor`` on every labeled image of ``split``.

    ``boundary`` adds boundary IoU, BF score and the mIoU near borders, ``probabilities`` the Brier score, the log loss
    and the classwise calibration error, which need the probabilities of all classes. ``skip_bad`` leaves out unreadable
    images and masks and lists them; None, as False, does not, where the user has no such option. ``match``: "names"
    maps the predictor's classes to the data's by name, "index" by number. ``groups``, one per image of the split: the
    sequence that it is a frame of, for the interval; None finds sequences by names and thumbnails. ``collectors`` get
    every scored image in the same pass. ``examples``: how many predictions are kept for a report. ``convention``: a
    tool whose figures are computed as well, a key of :data:`segwright.metrics.conventions.CONVENTIONS`.

    Errors: DataError for an empty split or one without masks, LabelError if the label spaces or sizes do not fit.
    """
    if match not in ("names", "index"):
        raise UsageError("classes are matched by names or by index", expected="names, index", found=match)
    probabilities = probabilities or any(map(needs_probabilities, collectors))
    find_convention(convention)
    table, note = match_label_spaces(predictor.label_space, split.label_space, by_index=match == "index")
    together: Callable[[Sequence[UInt8Array]], list[Prediction]] | None = getattr(predictor, "predict_batch", None)

    def predict(indices: Sequence[int], images: Sequence[UInt8Array]) -> list[MappedPrediction]:
        if together is not None and len(images) > 1 and not probabilities:
            predictions = together(images)
        else:
            predictions = [predictor.predict(image, probabilities=probabilities) for image in images]
        return [_translate(prediction, table) for prediction in predictions]

    found = score(
        split, predict, batch_size=max(1, batch_size), boundary=boundary, skip_bad=skip_bad, groups=groups,
        collectors=collectors, examples=examples, title=title,
    )  # fmt: skip
    if note:
        found.notes.append(note)
    found.convention, found.temperature = convention, _temperature(predictor)
    if not probabilities:
        why = "needs the probabilities of every class: --probabilities"
        found.not_computed |= {name: why for name in NEED_PROBABILITIES if name not in found.not_computed}
    return found


def _temperature(predictor: PredictorProtocol) -> float | None:
    """The temperature of a saved model, if one was kept."""
    training = getattr(getattr(predictor, "bundle", None), "training", None) or {}
    noted = training.get("temperature")
    if not isinstance(noted, dict) or noted.get("kept") is not True:
        return None
    value = noted.get("temperature")
    return float(value) if isinstance(value, int | float) else None


def score(
    split: LabeledImages,
    predict: Callable[[Sequence[int], Sequence[UInt8Array]], list[MappedPrediction]],
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 1,
    boundary: bool = True,
    skip_bad: bool | None = None,
    images: bool = True,
    groups: Sequence[object] | None = None,
    collectors: Sequence[Collector] = (),
    examples: int = EXAMPLES,
    title: str = "evaluate",
) -> Evaluation:
    """The pass itself: ``predict(indices, images)`` returns predictions in the data's class indices.

    ``indices`` are the ones of the split to score (default: all). ``images`` False leaves the images unread
    (``images`` are then empty), for predictions that are read from files. ``groups``, ``collectors``,
    ``examples``, ``skip_bad``: as for :func:`evaluate`.
    """
    wanted = range(len(split)) if indices is None else indices
    if len(wanted) == 0:
        raise DataError(
            "nothing to evaluate: the split is empty",
            where=split.name,
            fix="name another with --split, or check the data with `segwright check`",
        )
    if groups is not None and len(groups) != len(split):
        raise UsageError("groups name the sequence of every image", expected=str(len(split)), found=str(len(groups)))
    started = time.monotonic()
    tally = _Tally(split, boundary, groups, collectors, examples)
    with progress(title, len(wanted)) as advance:
        batch: list[_Pair] = []
        for pair in _read_ahead(split, wanted, images):
            if isinstance(pair.error, SegwrightError) and skip_bad:
                tally.skipped[split.ids[pair.index]] = pair.error.message
            elif pair.error is not None:
                raise pair.error if skip_bad is None else _with_option(pair.error)
            elif pair.mask is None:
                tally.without_mask.append(split.ids[pair.index])
            else:
                batch.append(pair)
            if len(batch) == batch_size:
                tally.add(batch, predict)
                batch = []
            advance(1)
        tally.add(batch, predict)
    found = tally.finish(time.monotonic() - started)
    if note := getattr(split, "note", ""):  # such as that there was no held-out split
        found.notes.append(note)
    return found


def sparse_notes(share: float) -> list[str]:
    """What the scores of sparse masks mean; ``share``: the median share of an image's pixels that is labeled."""
    if share >= SPARSE:
        return []
    return [
        f"sparse labels: the scores are those of the labeled pixels, {100 * share:.2g} % of the median image; they "
        "depend on which pixels were labeled, and compare models on the same labels, not with scores on whole masks; "
        "figures of borders are not computed"
    ]


def match_label_spaces(
    predicted: LabelSpace, given: LabelSpace, *, by_index: bool = False
) -> tuple[UInt8Array | None, str]:
    """A table of 256 entries from the predictor's class index to the data's, and a note if they differ.

    None if the indices agree. Names are compared without case, spaces, hyphens and underscores. If one side has only
    numbers for names, equal counts match by index. LabelError names the classes without a match.
    """
    model_names, data_names = [_plain(n) for n in predicted.names], [_plain(n) for n in given.names]
    if model_names == data_names:
        return None, ""
    if len(model_names) == len(data_names) and (by_index or _numbered(model_names) or _numbered(data_names)):
        return None, "classes matched by index: " + ", ".join(
            f"{a} = {b}" for a, b in zip(predicted.names, given.names, strict=True) if a != b
        )
    if sorted(model_names) == sorted(data_names) and len(set(model_names)) == len(model_names):
        table = np.arange(256, dtype=np.uint8)
        table[: len(model_names)] = [data_names.index(name) for name in model_names]
        return table, "classes matched by name: the model's order differs from the data's"
    only_model = [name for name, key in zip(predicted.names, model_names, strict=True) if key not in data_names]
    only_data = [name for name, key in zip(given.names, data_names, strict=True) if key not in model_names]
    raise LabelError(
        "the model's classes are not the data's",
        expected=f"{len(data_names)} classes: {', '.join(given.names)}",
        found=f"{counted(len(model_names), 'class')}; only in the model: {', '.join(only_model) or 'none'}; "
        f"only in the data: {', '.join(only_data) or 'none'}",
        fix="rename or merge the classes in the data's classes.json"
        + (", or match them by index" if len(model_names) == len(data_names) else ""),
    )


def to_model_indices(table: UInt8Array | None) -> UInt8Array | None:
    """The other direction of a table of :func:`match_label_spaces`: (256,) from the data's class index to the model's;
    None if the indices agree."""
    return None if table is None else np.argsort(table, kind="stable").astype(np.uint8)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _numbered(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"(class|label|id|value)?\d+", name) for name in names)


def _translate(prediction: Prediction, table: UInt8Array | None) -> MappedPrediction:
    if table is None:
        return MappedPrediction(prediction.labels, prediction.confidence, prediction.probabilities)
    probabilities = prediction.probabilities
    if probabilities is not None:
        probabilities = probabilities[np.argsort(table[: len(probabilities)])]
    return MappedPrediction(table[prediction.labels], prediction.confidence, probabilities)


@dataclass(frozen=True)
class _Pair:
    index: int
    image: UInt8Array | None = None
    mask: UInt8Array | None = None
    error: Exception | None = None


def _read(split: LabeledImages, index: int, images: bool) -> _Pair:
    try:
        mask = split.read_mask(index)
        if mask is None:
            return _Pair(index)
        return _Pair(index, split.read_image(index) if images else None, mask)
    except Exception as error:  # passed to the caller's thread, which raises or lists it
        return _Pair(index, error=error)


def _read_ahead(split: LabeledImages, indices: Sequence[int], images: bool) -> Iterator[_Pair]:
    waiting: deque[Future[_Pair]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(_read, split, index, images))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _with_option(error: Exception) -> Exception:
    """The error of an image or mask that is of no use, with the option that leaves it out here."""
    if isinstance(error, SegwrightError) and error.fix and error.fix.endswith(("leave it out", "leave the pair out")):
        error.fix += " with --skip-bad"
    return error


class _Tally:
    """The counts of a pass."""

    def __init__(
        self,
        split: LabeledImages,
        boundary: bool,
        groups: Sequence[object] | None = None,
        collectors: Sequence[Collector] = (),
        examples: int = EXAMPLES,
    ) -> None:
        self.split, self.groups, self.collectors = split, groups, collectors
        self.indices: list[int] = []
        self.thumbnails: list[npt.NDArray[np.float32]] = []
        classes = split.label_space.classes
        self.confusion = ConfusionMatrix(classes)
        self.boundary = BoundaryIoU(classes) if boundary else None
        self.bf, self.trimap = BFScore(classes), TrimapCurve(classes)
        self.border_sums: list[tuple[Int64Array, Float64Array, Int64Array]] = []
        self.calibration_sums: list[CalibrationSums] = []
        self.ignored = self.stray = 0
        self.labeled_shares: list[float] = []
        self.calibration: Calibration | None = None
        self.ids: list[str] = []
        self.counts: list[Int64Array] = []
        self.examples = Examples(examples)
        self.without_mask: list[str] = []
        self.all_ignored: list[str] = []
        self.skipped: dict[str, str] = {}

    def add(
        self, batch: Sequence[_Pair], predict: Callable[[Sequence[int], Sequence[UInt8Array]], list[MappedPrediction]]
    ) -> None:
        if not batch:
            return
        images = [pair.image for pair in batch if pair.image is not None]
        for pair, prediction in zip(batch, predict([pair.index for pair in batch], images), strict=True):
            assert pair.mask is not None
            self._count(pair.index, prediction, pair.mask, pair.image)

    def _count(self, index: int, prediction: MappedPrediction, mask: UInt8Array, image: UInt8Array | None) -> None:
        name = self.split.ids[index]
        try:
            matrix = self.confusion.update(prediction.labels, mask)
        except LabelError as error:
            raise LabelError(
                error.message,
                expected=error.expected,
                found=error.found,
                where=prediction.source or name,
                fix=error.fix,
            ) from error
        ignored = mask.size - int(matrix.sum())
        self.stray += ignored > 0 and int(prediction.labels.max()) >= self.confusion.classes
        if not matrix.any():
            self.all_ignored.append(name)
            return
        self.ignored += ignored
        self.labeled_shares.append(1 - ignored / mask.size)
        if self.boundary is not None:
            labels = prediction.labels
            parts = self.boundary.update(labels, mask), self.bf.update(labels, mask), self.trimap.update(labels, mask)
            self.border_sums.append(parts)
        if prediction.confidence is not None:
            self.calibration = self.calibration or Calibration()
            self.calibration_sums.append(
                self.calibration.update(prediction.confidence, prediction.labels, mask, prediction.probabilities)
            )
        counts = class_counts(matrix)
        self.ids.append(name)
        self.indices.append(index)
        self.thumbnails.append(thumbnail_of(image, mask, self.split.label_space.classes))
        self.counts.append(counts)
        self.examples.add(index, name, nanmean(iou_per_class(counts)), prediction.labels, prediction.confidence)
        for collector in self.collectors:
            more = {"probabilities": prediction.probabilities} if needs_probabilities(collector) else {}
            collector.add(index, name, image, mask, prediction.labels, prediction.confidence, **more)

    def _sums(self, calibrated: bool) -> ImageSums:
        calibration = self.calibration_sums if calibrated else None
        if not self.border_sums:
            return ImageSums(calibration=calibration)
        boundary, bf, trimap = zip(*self.border_sums, strict=True)
        return ImageSums(np.stack(boundary), np.stack(bf), np.stack(trimap), calibration)

    def finish(self, seconds: float) -> Evaluation:
        if not self.ids:
            raise DataError(
                "nothing to evaluate: no image of the split has a labeled pixel",
                expected="masks beside the images",
                found=f"{counted(len(self.without_mask), 'image')} without a mask, {len(self.all_ignored)} with "
                f"nothing but ignored pixels, {len(self.skipped)} left out",
                where=self.split.name,
                fix="name another split with --split, or see `segwright check`",
            )
        calibrated = len(self.calibration_sums) == len(self.ids)
        not_computed: dict[str, str] = {}
        share = float(np.median(self.labeled_shares))
        if share < SPARSE and self.boundary is not None:
            self.boundary, self.border_sums = None, []
            not_computed |= dict.fromkeys(BORDER_FIGURES, "points and strokes have no borders: few pixels are labeled")
        elif self.boundary is None:
            not_computed |= dict.fromkeys(BORDER_FIGURES, NO_BORDERS)
        if not calibrated:
            not_computed |= dict.fromkeys(("ece", *NEED_PROBABILITIES), "the predictions have no probabilities")
        return Evaluation(
            label_space=self.split.label_space,
            split=self.split.name,
            matrix=self.confusion.matrix,
            ids=self.ids,
            counts=np.stack(self.counts),
            boundary=self.boundary,
            calibration=self.calibration,
            seconds=seconds,
            examples=self.examples.chosen(),
            without_mask=self.without_mask,
            all_ignored=self.all_ignored,
            skipped=self.skipped,
            sums=self._sums(calibrated),
            ignored=self.ignored,
            stray=self.stray,
            not_computed=not_computed,
            notes=sparse_notes(share),
            drawn=find_units(
                self.ids,
                np.stack(self.thumbnails),
                groups=None if self.groups is None else [self.groups[index] for index in self.indices],
            ),
        )

"""What other tools would print for the same pixels: mean IoU by their own arithmetic, and their other figures.

A tool differs in one of four ways: whether it pools pixels over the dataset or averages images, what an absent class
counts, what it does with ignored pixels, and with which classes the mean is taken. A figure that a tool would refuse to
compute on the data has a reason in place of a number.

Each figure is a function of a sum over images, so that the bootstrap handles all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.metrics.bootstrap import percentile_interval, resampled_sums
from segwright.metrics.confusion import Float64Array, Int64Array, iou_per_class


@dataclass(frozen=True)
class ScoredCounts:
    """What conventions are computed from."""

    counts: Int64Array  # (N, 3, K): hits, truth, prediction of each scored image, without its ignored pixels
    ignored: int = 0  # ignored pixels in all images
    all_ignored: int = 0  # images with nothing but ignored pixels, which are not in ``counts``
    stray: int = 0  # images whose prediction has a value of no class, on ignored pixels


Counts = npt.NDArray[Any]  # (..., 3, K)


def _never(data: ScoredCounts) -> str:
    return ""


def _themselves(counts: Counts) -> Counts:
    """Terms of a pooled figure."""
    return counts


@dataclass(frozen=True)
class _Rule:
    """One figure of a tool: ``value`` of the sum over images of ``terms`` (N, 3, K) → (N, ...)."""

    name: str
    value: Callable[[Counts], Float64Array]
    terms: Callable[[Counts], Counts] = _themselves
    why_not: Callable[[ScoredCounts], str] = _never

    @property
    def pooled(self) -> bool:
        """Whether it is of the pooled counts, in place of an average over images."""
        return self.terms is _themselves


@dataclass(frozen=True)
class Convention:
    """A tool's own way to score."""

    name: str
    tool: str
    differs: str  # exactly what differs from ``pooled``
    rules: tuple[_Rule, ...]  # the first is the tool's mean IoU
    printed: Callable[[float], str]
    lists: tuple[tuple[str, Callable[[Counts], Float64Array]], ...] = ()  # a figure per class, (3, K) → (K,)

    @property
    def metric(self) -> str:
        """The name by which the tool prints its mean IoU."""
        return self.rules[0].name


@dataclass(frozen=True)
class ToolFigure:
    """One figure as a tool would print it; ``why_not`` in place of it if the tool refuses the data."""

    name: str
    value: float
    ci95: tuple[float, float]
    printed: str
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "ci95": list(self.ci95),
            "printed": self.printed,
            "why_not": self.why_not,
        }


@dataclass(frozen=True)
class ToolList:
    """A figure of every class, in the order of the classes, as a tool would print it."""

    name: str
    values: tuple[float, ...]  # NaN where the tool prints nan
    printed: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "values": list(self.values), "printed": self.printed}


@dataclass(frozen=True)
class ConventionResult:
    """The figures of one tool on one evaluation; ``lists``: those that it prints per class. Their intervals are those
    of the classes' IoU and recall, which are the same figures."""

    convention: Convention
    figures: tuple[ToolFigure, ...]
    lists: tuple[ToolList, ...] = ()

    @property
    def value(self) -> float:
        """The tool's mean IoU in 0…1; NaN if it prints nan or refuses the data."""
        return self.figures[0].value

    def to_json(self) -> dict[str, Any]:
        c = self.convention
        return {
            "name": c.name,
            "tool": c.tool,
            "differs": c.differs,
            "figures": [figure.to_json() for figure in self.figures],
            **({"lists": [one.to_json() for one in self.lists]} if self.lists else {}),
        }


def apply_convention(
    name: str, data: ScoredCounts, *, groups: Sequence[object] | None = None, intervals: bool = True
) -> ConventionResult:
    """The figures that a tool would print, with 95 % intervals over ``groups`` (default: images).

    ``name``: a key of :data:`CONVENTIONS`. UsageError for another name.
    """
    return apply_conventions([name], data, groups=groups, intervals=intervals)[name]


def apply_conventions(
    names: Iterable[str], data: ScoredCounts, *, groups: Sequence[object] | None = None, intervals: bool = True
) -> dict[str, ConventionResult]:
    """Several at once, by name: all draw the same images, in one resampling pass."""
    conventions = [find_convention(name) for name in names]
    # An image of ignored pixels alone is an image like any other for tools that average images.
    empty = np.zeros((data.all_ignored, *data.counts.shape[1:]), np.int64)
    all_counts = np.concatenate([data.counts, empty])
    scored_units: list[object] = list(range(len(data.counts)) if groups is None else groups)
    all_units = [*scored_units, *(("all ignored", index) for index in range(data.all_ignored))]
    rules = [(convention.name, rule) for convention in conventions for rule in convention.rules]
    why_not = {
        place: rule.why_not(data) or ("" if len(data.counts if rule.pooled else all_counts) else "no image was scored")
        for place, (_, rule) in enumerate(rules)
    }
    values, drawn = dict[int, float](), dict[int, list[Float64Array]]()
    for pooled, counts, units in ((True, data.counts, scored_units), (False, all_counts, all_units)):
        mine = {place: rule for place, (_, rule) in enumerate(rules) if rule.pooled == pooled and not why_not[place]}
        if not mine:
            continue
        keys = {place: "counts" if pooled else str(place) for place in mine}
        terms = {keys[place]: np.asarray(rule.terms(counts), np.float64) for place, rule in mine.items()}
        values |= {place: float(rule.value(terms[keys[place]].sum(axis=0))) for place, rule in mine.items()}
        for sums in resampled_sums(terms, groups=units) if intervals else ():
            for place, rule in mine.items():
                drawn.setdefault(place, []).append(rule.value(sums[keys[place]]))
    found: dict[str, list[ToolFigure]] = {convention.name: [] for convention in conventions}
    nan = float("nan")
    for place, (name, rule) in enumerate(rules):
        interval = percentile_interval(np.concatenate(drawn[place])) if place in drawn else (nan, nan)
        value = values.get(place, nan)
        printed = "" if why_not[place] else CONVENTIONS[name].printed(value)
        found[name].append(ToolFigure(rule.name, value, interval, printed, why_not[place]))
    pooled_counts = data.counts.sum(axis=0)
    return {
        convention.name: ConventionResult(
            convention,
            tuple(found[convention.name]),
            tuple(_list_of(name, value(pooled_counts), convention) for name, value in convention.lists),
        )
        for convention in conventions
    }


def _list_of(name: str, values: Float64Array, convention: Convention) -> ToolList:
    return ToolList(name, tuple(values.tolist()), str([convention.printed(value) for value in values.tolist()]))


def find_convention(name: str) -> Convention:
    """The convention of a name; UsageError for an unknown one."""
    if name not in CONVENTIONS:
        raise UsageError("unknown metric convention", expected=", ".join(CONVENTIONS), found=name)
    return CONVENTIONS[name]


def miou_by_convention(counts: Int64Array, convention: str = "pooled", *, all_ignored: int = 0) -> float:
    """The mean IoU that a tool would print, from the images' class counts (N, 3, K); NaN without images."""
    found = find_convention(convention)
    if not len(counts):
        return float("nan")
    return apply_convention(found.name, ScoredCounts(counts, all_ignored=all_ignored), intervals=False).value


# ---------------------------------------------------------------------------------------------------------------------
# Means of sums, (..., 3, K) → (...)


def _masked_mean(values: Float64Array, used: npt.NDArray[np.bool_]) -> Float64Array:
    count = used.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(used, values, 0.0).sum(axis=-1) / np.where(count > 0, count, np.nan))


def _skip_absent(sums: Counts) -> Float64Array:
    iou = iou_per_class(sums)
    return _masked_mean(iou, ~np.isnan(iou))


def _plain_mean(sums: Counts) -> Float64Array:
    return np.asarray(iou_per_class(sums).mean(axis=-1))


def _absent_is_zero(sums: Counts) -> Float64Array:
    return np.asarray(np.nan_to_num(iou_per_class(sums)).mean(axis=-1))


def _absent_is_one(sums: Counts) -> Float64Array:
    return np.asarray(np.nan_to_num(iou_per_class(sums), nan=1.0).mean(axis=-1))


def _only_true_classes(sums: Counts) -> Float64Array:
    used = sums[..., 1, :] > 0
    mean = _masked_mean(iou_per_class(sums), used)
    return np.where(used.any(axis=-1), mean, 0.0)


def _pixel_accuracy(sums: Counts) -> Float64Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0, :].sum(axis=-1) / sums[..., 1, :].sum(axis=-1))


def _recall(sums: Counts) -> Float64Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1, :] > 0, sums[..., 0, :] / sums[..., 1, :], np.nan)


def _mean_accuracy(sums: Counts) -> Float64Array:
    recall = _recall(sums)
    return _masked_mean(recall, ~np.isnan(recall))


def _micro(sums: Counts) -> Float64Array:
    """All classes in one IoU; 1 where there is nothing."""
    over = sums.sum(axis=-1, keepdims=True)
    return np.nan_to_num(iou_per_class(over), nan=1.0)[..., 0]


# Terms of figures that average images: (N, 3, K) → (N, 2), a sum and the number of its terms


def _ratio_of_terms(sums: Counts) -> Float64Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan))


def _with_one(values: Float64Array) -> Counts:
    return np.stack([np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)], axis=-1)


def _per_image_terms(counts: Counts) -> Counts:
    return _with_one(_skip_absent(counts))


def _pair_terms(counts: Counts) -> Counts:
    iou = iou_per_class(counts)
    return np.stack([np.nan_to_num(iou).sum(axis=-1), (~np.isnan(iou)).sum(axis=-1)], axis=-1)


# What a tool refuses


def _refuses_ignored(data: ScoredCounts) -> str:
    if data.ignored or data.all_ignored:
        return (
            "MeanIoU has no ignore_index and stops at the value 255 (one-hot encoding: class values must be smaller "
            "than the number of classes); the masks have ignored pixels"
        )
    return ""


def _takes_two_classes(data: ScoredCounts) -> str:
    return "num_classes must be an integer larger than 1" if data.counts.shape[-1] < 2 else ""


def _refuses_stray(data: ScoredCounts) -> str:
    if data.stray:
        found = counted(data.stray, "prediction", "has")
        return f"the devkit stops at values above the highest class; {found} them on ignored pixels"
    return ""


def _no_binary(data: ScoredCounts) -> str:
    if data.counts.shape[-1] < 2:
        return "with one class it scores that class against a background, which this label space does not have"
    return ""


def _percent(digits: int) -> Callable[[float], str]:
    return lambda value: "nan" if np.isnan(value) else f"{100 * value:.{digits}f}"


def _plain(digits: int) -> Callable[[float], str]:
    return lambda value: "nan" if np.isnan(value) else f"{value:.{digits}f}"


POOLED = "one matrix over all images; ignored ground truth dropped; absent classes skipped"

_TABLE = (
    Convention("pooled", "segwright", "nothing: " + POOLED, (_Rule("mIoU", _skip_absent),), _percent(1)),
    Convention(
        "torchvision",
        "torchvision, references/segmentation (utils.ConfusionMatrix)",
        "a plain mean over classes: one that is neither in the masks nor predicted makes it not a number; one decimal",
        (_Rule("mean IoU", _plain_mean), _Rule("global correct", _pixel_accuracy)),
        _percent(1),
        (("average row correct", _recall), ("IoU", iou_per_class)),
    ),
    Convention(
        "mmseg",
        "mmsegmentation (IoUMetric)",
        "nothing in the number (np.nanmean over classes); two decimals",
        (_Rule("mIoU", _skip_absent), _Rule("aAcc", _pixel_accuracy), _Rule("mAcc", _mean_accuracy)),
        _percent(2),
    ),
    Convention(
        "smp",
        "segmentation_models_pytorch (metrics.iou_score, mode multiclass, zero_division 1.0)",
        "a mean over images and classes (macro-imagewise), in which an absent class and an image of ignored pixels "
        "alone count as 1; the other reductions are listed",
        (
            _Rule("iou_score macro-imagewise", _ratio_of_terms, lambda c: _with_one(_absent_is_one(c))),
            _Rule("iou_score micro-imagewise", _ratio_of_terms, lambda c: _with_one(_micro(c))),
            _Rule("iou_score macro", _absent_is_one),
            _Rule("iou_score micro", _micro),
        ),
        _plain(4),
    ),
    Convention(
        "torchmetrics",
        "torchmetrics (MulticlassJaccardIndex, ignore_index=255, and segmentation.MeanIoU, input_format index)",
        "nothing in JaccardIndex (macro: absent classes have no weight); MeanIoU is the mean over all pairs of an "
        "image and a class that occurs in it, and has no ignore_index",
        (
            _Rule("MulticlassJaccardIndex", _skip_absent, why_not=_takes_two_classes),
            _Rule("MeanIoU", _ratio_of_terms, _pair_terms, _refuses_ignored),
        ),
        _plain(4),
    ),
    Convention(
        "cityscapes",
        "cityscapesScripts (evalPixelLevelSemanticLabeling, IoU Class)",
        "nothing in the number; a prediction of a label that is not evaluated would count as missed, which class "
        "indices cannot express; its iIoU needs instance masks, its categories a table, and neither is computed",
        (_Rule("Score Average", _skip_absent),),
        _plain(3),
    ),
    Convention(
        "voc",
        "PASCAL VOC devkit (VOCevalseg.m)",
        "a plain mean over all classes, the first (background) too: an absent class makes it not a number; it stops at "
        "a result above the highest class, even on ignored pixels; three decimals",
        (_Rule("Average accuracy", _plain_mean, why_not=_refuses_stray),),
        _percent(3),
    ),
    Convention(
        "ultralytics",
        "ultralytics (SemanticMetrics of the task semantic)",
        "the mean over classes of the ground truth only: a class that is predicted but not in the masks does not lower "
        "it; its validator scores masks resized to its image size, here the masks' own size is scored",
        (_Rule("mIoU", _only_true_classes, why_not=_no_binary), _Rule("PixAcc", _pixel_accuracy, why_not=_no_binary)),
        lambda value: "nan" if np.isnan(value) else f"{value:.3g}",
    ),
    Convention(
        "semseg", "semseg, SegNet's script", "an absent class counts as 0", (_Rule("mIoU", _absent_is_zero),), _plain(4)
    ),
    Convention(
        "smp-micro-imagewise",
        "segmentation_models_pytorch (metrics.iou_score, micro-imagewise)",
        "all classes in one IoU per image, then the mean over images; an image of ignored pixels alone counts as 1",
        (_Rule("iou_score micro-imagewise", _ratio_of_terms, lambda c: _with_one(_micro(c))),),
        _plain(4),
    ),
    Convention(
        "per-image",
        "some challenges",
        "the mean over images of each one's own mIoU, absent classes skipped",
        (_Rule("mIoU", _ratio_of_terms, _per_image_terms),),
        _percent(1),
    ),
)  # fmt: skip
CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in _TABLE}

"""The data of a run after the check: splits without the files left out, and the fingerprint that the plan is made from.

Refusals and warnings have the texts of ``segwright check``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import DataError, UsageError
from segwright.core.left_right import Pairs
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_rules import UNLEARNABLE
from segwright.data.check.runner import CheckResult, check_dataset
from segwright.data.dataset import Dataset, Split
from segwright.data.splits import folds
from segwright.models.catalog import model_names
from segwright.training.callbacks.trackers import check_trackers
from segwright.training.config import Size, TrainConfig
from segwright.training.data_fingerprint import Prints, data_print
from segwright.training.distributed.world import World
from segwright.training.unlabeled import UnlabeledImages, find_unlabeled

Message = Callable[[str], None]


@dataclass(frozen=True)
class DataFacts:
    """What a plan is made from: the fingerprint of the training split, the numbers of images, and the flip pairs."""

    fingerprint: Fingerprint
    images: int  # of the training split
    val_images: int
    unlabeled: int = 0  # images of self-training
    pairs: Pairs | None = None  # classes that a mirror image exchanges; None: found from their names
    val_sparse: bool = False  # few pixels of the validation images are labeled


@dataclass(frozen=True)
class CheckedData:
    """A dataset that passed the check, and its splits for training and validation."""

    data: Dataset
    train: Split
    val: Split | None
    fingerprint: Fingerprint  # of the training split
    largest_val_image: Size | None  # height and width
    file_prints: Prints  # of the files of both splits, to report on resuming what changed
    unlabeled: UnlabeledImages | None = None  # of self-training
    val_sparse: bool = False  # few pixels of the validation images are labeled
    note: str = ""  # on images that were not examined for lack of time

    @property
    def classes(self) -> int:
        return self.data.label_space.classes

    @property
    def facts(self) -> DataFacts:
        pairs = self.data.label_space.pairs
        unlabeled = len(self.unlabeled) if self.unlabeled is not None else 0
        val_images = len(self.val) if self.val else 0
        return DataFacts(self.fingerprint, len(self.train), val_images, unlabeled, pairs, self.val_sparse)


def check(
    data: Dataset,
    config: TrainConfig,
    *,
    world: World | None = None,
    checked: CheckResult | None = None,
    seconds: float | None = None,
    message: Message,
) -> CheckedData:
    """Check a dataset and leave bad files out if the config has ``skip_bad``. DataError for what the check refuses,
    UsageError for unknown networks, trackers and folds.

    Rank 0 checks for all. ``checked``: the result of a check that ran before, whose warnings were shown already.
    ``seconds``: a limit for reading images. All are read regardless where the training depends on all: to make a split
    that the files do not give, or folds, and to keep copies of scored images out of self-training.
    """
    world = world or World()
    if ":" not in config.model.name and config.model.name not in ("auto", *model_names()):
        raise UsageError("unknown network", expected=", ".join(model_names()), found=config.model.name)
    check_trackers(config.training.trackers)
    train, val = training_splits(data, config)

    def inspect() -> CheckResult:
        result = checked or check_dataset(data, seconds=None if config.unlabeled.active else seconds)
        if config.unlabeled.own != "none":  # what has no mask is used without one
            result = replace(result, problems=tuple(p for p in result.problems if p.kind != "image without mask"))
        refuse_errors(result, data, skip_bad=config.data.skip_bad)
        return result

    result = world.broadcast_from_rank0(inspect, CheckResult.to_json, lambda tree: CheckResult.from_json(tree, data))
    for line in () if checked is not None else warning_lines(result):
        message(line)
    if result.sample_note():
        message(result.sample_note())
    if result.errors:
        train, val = _without_bad_files(train, val, result, message)
    if config.unlabeled.own != "none":
        train, val = _labeled(train), _labeled(val) if val is not None else None
    fingerprint = result.by_split.get(train.name, result.fingerprint)
    if len(train) == 0 or fingerprint is None:
        raise DataError("no usable training image is left", where=data.root, fix="segwright check DATA")
    unlabeled = None
    if config.unlabeled.active:
        unlabeled = find_unlabeled(data, train, val, config, world)
        for line in unlabeled.lines:
            message(line)
    train = _without_unlabeled(train, result, message)
    splits = [split for split in (train, val) if split is not None]
    largest = None if val is None else result.by_split.get(val.name, result.fingerprint)
    return CheckedData(
        data=data,
        train=train,
        val=val,
        fingerprint=fingerprint,
        largest_val_image=None if largest is None else (max(largest.height[2], 1), max(largest.width[2], 1)),
        file_prints=world.broadcast_from_rank0(lambda: data_print([*splits, *_bare(unlabeled)]), dict, dict),
        unlabeled=unlabeled,
        val_sparse=largest is not None and largest.sparse,
        note=result.sample_note(),
    )


def _labeled(split: Split) -> Split:
    kept = [index for index, record in enumerate(split.records) if record.labeled]
    return split if len(kept) == len(split) else split.subset(kept, split.name)


def _bare(images: UnlabeledImages | None) -> list[Split]:
    """The unlabeled images as one split, for the digests of files."""
    if images is None or not images.splits:
        return []
    return [Split("unlabeled", [r for split in images.splits for r in split.records], images.splits[0].reader)]


def training_splits(data: Dataset, config: TrainConfig) -> tuple[Split, Split | None]:
    """(train, val): the splits of the dataset, or one fold of several."""
    if config.data.fold is not None:
        parts = folds(data, config.data.folds)
        if config.data.fold >= len(parts):
            raise UsageError("no such fold", expected=f"0 to {len(parts) - 1}", found=str(config.data.fold))
        return parts[config.data.fold]
    splits = data.splits
    return data.train, splits.get("val", splits.get("test"))


def _without_bad_files(
    train: Split, val: Split | None, result: CheckResult, message: Message
) -> tuple[Split, Split | None]:
    """The splits without the files that the check found errors in, each of which is reported."""
    left_out: list[str] = []

    def usable(split: Split) -> Split:
        kept = []
        # An image in two splits stays in train: it is the score on the other split that it would spoil.
        tolerated = "shared between splits" if split is train else None
        bad = {str(Path(file)) for problem in result.errors if problem.kind != tolerated for file in problem.files}
        for index, record in enumerate(split.records):
            paths = {str(path) for path in (record.image_path, record.mask_path) if path is not None}
            if paths & bad or record.id in bad or not record.labeled:
                left_out.append(str(record.image_path or record.id))
            else:
                kept.append(index)
        return split.subset(kept, split.name)

    usable_train, usable_val = usable(train), usable(val) if val is not None else None
    for file in left_out:
        message(f"left out: {file}")
    message(f"{counted(len(left_out), 'file', 'was')} left out, because of --skip-bad")
    return usable_train, usable_val


def _without_unlabeled(train: Split, result: CheckResult, message: Message) -> Split:
    """The split without the images whose mask has no labeled pixel: an update on one would learn nothing."""
    empty = {str(Path(file)) for problem in result.problems if problem.kind == "all ignored" for file in problem.files}
    kept = [
        index
        for index, record in enumerate(train.records)
        if not {str(path) for path in (record.image_path, record.mask_path, record.id) if path is not None} & empty
    ]
    if len(kept) in (0, len(train)):
        return train
    message(f"{len(train) - len(kept)} of {len(train)} training images have no labeled pixel and are left out")
    return train.subset(kept, train.name)


def refuse_errors(result: CheckResult, data: Dataset, *, skip_bad: bool) -> None:
    """DataError for the check's errors; with ``skip_bad`` only for those that leaving files out does not repair."""
    errors = [problem for problem in result.errors if not skip_bad or problem.kind in UNLEARNABLE]
    if errors:
        raise refusal(errors, data)


def warning_lines(result: CheckResult) -> list[str]:
    """The check's warnings as lines of text, so that a training that starts all the same does not hide them."""
    lines = []
    for problem in result.warnings:
        lines.append(f"warning: {problem.kind}: {problem.message}")
        if problem.fix:
            lines.append(f"    fix: {problem.fix}")
    return lines


def refusal(errors: Sequence[Any], data: Dataset) -> DataError:
    """The check's errors as one error."""
    shown = [
        f"{problem.kind}: {problem.message}" + (f" [{', '.join(problem.files[:3])}]" if problem.files else "")
        for problem in errors[:8]
    ]
    more = f"\n    … and {len(errors) - 8} more" if len(errors) > 8 else ""
    fix = next((problem.fix for problem in errors if problem.fix), "")
    if "--skip-bad" not in fix and not any(problem.kind in UNLEARNABLE for problem in errors):
        fix += ("; " if fix else "") + "or leave the files out with --skip-bad"
    return DataError(
        f"the dataset has {len(errors)} problem{'s' if len(errors) != 1 else ''} that would spoil a training",
        found="\n    ".join(shown) + more,
        where=data.root,
        fix=f"{fix}; all of it: segwright check DATA",
    )

"""Fine-tuning of a model in use on newly labeled images, without losing what it can do: ``segwright refine``.

In order: match the classes, mix new and old images, score the model before on both validation parts, train with replay
of old images, score the candidate on the same images, and judge by paired intervals. The candidate is an ordinary run
folder with a bundle, which holds the verdict's figures and its lineage; :mod:`segwright.labeling.promote` decides by
them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.atomic_io import write_json
from segwright.core.errors import DataError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.dataset import Dataset, Split, ValueRange
from segwright.evaluation.evaluate import Evaluation, LabeledImages, MappedPrediction, score
from segwright.evaluation.pairing import pair_evaluations, too_few
from segwright.imageio import UInt8Array
from segwright.inference.bundle import Bundle, rewrite_description
from segwright.inference.lineage import bundle_id, descended, read_lineage
from segwright.inference.predictor import Predictor, find_bundle, load
from segwright.labeling.class_matching import check_renamed, extended_space, match_classes
from segwright.labeling.mixed_data import NEW, OLD, Part, mixed, of_role, part_of, role_of, share_of_replay
from segwright.labeling.paired_scores import PairedScores, pair
from segwright.labeling.refinement_page import write_refinement_page
from segwright.training.callbacks.log import Display
from segwright.training.checkpoint import checkpoints
from segwright.training.config import TrainConfig
from segwright.training.data_fingerprint import seen_in_training
from segwright.training.resume import StoredRun
from segwright.training.run import Run, run_training

RESULT, PAGE = "refinement.json", "refinement.html"
KEY = "refinement"  # in Bundle.training
REPLAY = 0.5  # of the images drawn are old ones
SAMPLES = 4_000  # images drawn in a refinement without a budget
FEWEST_EPOCHS, MOST_EPOCHS = 3, 100
BEFORE_FRACTION = 0.08  # of the minutes, at most, per validation part for scoring the model before
FEWEST_SCORED = 8  # images
CLASS_DROP = 3.0  # points of IoU by which a class may fall before the verdict names it

NO_OLD = (
    "without old data (--with) it cannot be checked whether the candidate has forgotten anything; the verdict is about "
    "the new images alone"
)


@dataclass(frozen=True)
class Refinement:
    """A candidate and how it compares with the model before."""

    run: Run
    parent: Path
    parent_id: str
    id: str = ""  # of the candidate's weights; empty while it is not finished
    new: PairedScores | None = None
    old: PairedScores | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    @property
    def model(self) -> Path:
        """The candidate, a saved model."""
        return self.run.model

    @property
    def better(self) -> bool:
        """Whether the candidate is better on the new images beyond chance, and no class fell on the old ones."""
        return not self.against()

    def against(self) -> list[str]:
        """The reasons not to use the candidate; none if it is :attr:`better`."""
        found = []
        if self.new is None:
            found.append("whether it is better on new images is not known")
        elif not (self.new.difference.low > 0 and self.new.difference.clear):
            found.append("it is not clearly better on the new images")
        if self.old is None:
            found.append("what it has forgotten is not known")
        elif fallen := self.forgotten():
            found.append(f"{', '.join(fallen)} fell on the old images")
        return found

    def forgotten(self, points: float = CLASS_DROP) -> list[str]:
        """Classes whose IoU fell by more than ``points`` on the old images."""
        return [] if self.old is None else [one.name for one in self.old.fallen(points)]

    def verdict(self) -> str:
        """The result in plain sentences."""
        if not self.id:
            return f"Stopped by {self.run.stopped_by}: not judged yet; --resume --out {self.folder} goes on."
        parts = [found.sentence() for found in (self.new, self.old) if found is not None]
        if self.new is None:
            parts.append("There are no new validation images: whether it is better on new ones is not known.")
        if self.old is None:
            parts.append("Whether it has forgotten anything is not known: there are no old validation images.")
        elif fallen := self.old.fallen(CLASS_DROP):
            falls = ", ".join(f"{one.name} {100 * one.difference:+.1f}" for one in fallen)
            parts.append(f"On the old images these classes fell by more than {CLASS_DROP:g} points of IoU: {falls}.")
        else:
            parts.append(f"On the old images no class fell by more than {CLASS_DROP:g} points of IoU.")
        return " ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "candidate": str(self.model),
            "id": self.id,
            "parent": str(self.parent),
            "parent_id": self.parent_id,
            "better": self.better,
            "verdict": self.verdict(),
            "new": None if self.new is None else self.new.to_json(),
            "old": None if self.old is None else self.old.to_json(),
            "forgotten": self.forgotten(),
            "notes": list(self.notes),
            "run": self.run.to_json(),
        }


@dataclass(frozen=True)
class RefineOptions:
    """How to refine. ``replay``: share of the drawn images that are old ones, 0…1 without the ends."""

    replay: float = REPLAY
    renamed: Mapping[str, str] | None = None  # class name in the data → in the model
    append_classes: bool = False
    resume: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.replay < 1:
            raise UsageError(
                "the share of old images is between 0 and 1", expected="such as 0.5", found=str(self.replay)
            )


def refine(
    parent: Predictor,
    path: Path,
    new: Dataset,
    old: Dataset | None,
    config: TrainConfig,
    options: RefineOptions,
    *,
    started: float | None = None,
    display: Display | None = None,
) -> Refinement:
    """Refine the saved model at ``path``, which ``parent`` predicts with, on ``new`` with replay of ``old``.

    ``config``: of the training; without minutes or epochs some :data:`SAMPLES` images are drawn. Errors: those of
    matching classes (:func:`segwright.labeling.class_matching.extended_space`), check, plan and training.
    """
    started = time.monotonic() if started is None else started
    if parent.bundle is None:
        raise UsageError("only a saved model can be refined", expected="a run folder or a bundle", where=path)
    find_bundle(path)  # an exported file is refused before the scores of the model before are computed
    bundle, display = parent.bundle, display or Display()
    space, parts = _parts(bundle.label_space, new, old, options)
    data = mixed(parts, space, _value_range(bundle), _channels(bundle))
    notes = [note for part in parts for note in part.notes] + ([] if old is not None else [NO_OLD])
    notes += _seen_notes(path, parts)
    for note in notes:
        display.message(f"note: {note}")
    stored = _stored_run(config, options)
    minutes = config.training.minutes or (stored.minutes() if stored is not None else None)
    judge = _Judge(parent, data, parts, display, config, minutes)
    lineage = descended([read_lineage(path)], "refine", [part.used() for part in parts])
    run = run_training(
        data, _configured(config, bundle, None if stored else len(data.train)), resume=options.resume, init_from=path,
        command=options.command, started=started, display=display,
        sample_weights=partial(share_of_replay, options.replay), val_part_of=role_of, lineage=lineage,
    )  # fmt: skip
    found = Refinement(run, path, lineage.model.parents[0], notes=tuple(notes))
    if run.stopped_by not in (None, "early stopping"):
        return found
    new_scores, old_scores = judge.compare(run)
    found = replace(found, id=bundle_id(find_bundle(run.model)), new=new_scores, old=old_scores)
    _record(found, bundle, space)
    return found


class _Judge:
    """The model before on the validation images, scored before the training takes the time; then the candidate."""

    def __init__(
        self,
        parent: Predictor,
        data: Dataset,
        parts: Sequence[Part],
        display: Display,
        config: TrainConfig,
        minutes: float | None,
    ) -> None:
        self.device, self.skip_bad = config.training.device, config.data.skip_bad
        self.parts = {part.role: part for part in parts}
        self.pipeline = parent.bundle.postprocess if parent.bundle is not None else None
        self.splits: dict[str, Split] = {}
        self.before: dict[str, Evaluation] = {}
        for role in self.parts:
            split = of_role(data.splits.get("val"), role)
            if split is None:
                continue
            self.splits[role] = kept = split if minutes is None else affordable(parent, split, 60 * minutes)
            if len(kept) < len(split):
                display.message(f"time is short: both models are compared on {len(kept)} of {len(split)} {role} images")
            found = scored(parent, kept, title=f"the model before on {role} images", skip_bad=self.skip_bad)
            self.before[role] = found
            for name, reason in found.skipped.items():
                display.message(f"left out: {name}: {reason}")
            miou = found.scores.labeled_miou
            display.message(f"before: mIoU {miou:.3f} on {len(found.ids)} {role} validation images")

    def compare(self, run: Run) -> tuple[PairedScores | None, PairedScores | None]:
        """(new, old): the candidate beside the model before; None where there are no validation images."""
        found: dict[str, PairedScores] = {}
        predictor: Predictor | None = None
        for role, before in self.before.items():
            split = self.splits[role]
            after = run.evaluation
            # With few minutes, the training scored as many images of both parts as they allowed.
            if after is None or self.pipeline is not None or too_few(pair_evaluations(before, after), len(before.ids)):
                predictor = predictor or load(run.model, device=self.device, post=self.pipeline, trust_external=True)
                after = scored(predictor, split, title=f"the candidate on {role} images", skip_bad=self.skip_bad)
            found[role] = pair(role, before, after)
        return found.get(NEW), found.get(OLD)


def affordable(predictor: Predictor, split: Split, seconds: float) -> Split:
    """As much of a split, evenly, as can be scored in :data:`BEFORE_FRACTION` of ``seconds``, timed on an image."""
    image = None
    for index in range(len(split)):
        with suppress(DataError):  # scoring reports it, or leaves it out
            image = split.read_image(index)
            break
    if image is None:
        return split
    predictor.predict(image)  # compiles, allocates
    began = time.monotonic()
    predictor.predict(image)
    pace = time.monotonic() - began
    count = max(FEWEST_SCORED, int(BEFORE_FRACTION * seconds / max(pace, 1e-6)))
    return split.nested(count)


def scored(
    predictor: Predictor,
    split: LabeledImages,
    *,
    title: str,
    table: UInt8Array | None = None,
    skip_bad: bool | None = None,
) -> Evaluation:
    """The evaluation of a model whose classes are the first ones of the split's, or become them by ``table`` (256,).
    ``skip_bad``: leave out what cannot be read; None where the user has no such option."""

    def predict(indices: Sequence[int], images: Sequence[UInt8Array]) -> list[MappedPrediction]:
        labels = [predictor.predict(image).labels for image in images]
        return [MappedPrediction(one if table is None else table[one]) for one in labels]

    return score(split, predict, boundary=False, examples=0, title=title, skip_bad=skip_bad)


def _parts(
    model: LabelSpace, new: Dataset, old: Dataset | None, options: RefineOptions
) -> tuple[LabelSpace, list[Part]]:
    renamed = options.renamed or {}
    datasets = {NEW: new, **({} if old is None else {OLD: old})}
    check_renamed(renamed, model, [data.label_space for data in datasets.values()])
    space = extended_space(model, new.label_space, renamed, append=options.append_classes, what="the new data")
    parts = []
    for role, data in datasets.items():
        match = match_classes(space, data.label_space, renamed, what=f"the {role} data")
        parts.append(part_of(role, data, match))
    first = parts[0]
    added = [name for name in space.names if name not in model.names]
    if added:
        first = replace(first, notes=(*first.notes, f"new classes after the model's: {', '.join(added)}"))
    return replace(space, mapping={}), [first, *parts[1:]]


def _stored_run(config: TrainConfig, options: RefineOptions) -> StoredRun | None:
    """The refinement to continue: its own minutes or epochs hold if none are given."""
    folder = Path(config.out) if options.resume and config.out else None
    return StoredRun.read(folder) if folder is not None and checkpoints(folder / "checkpoints") else None


def _configured(config: TrainConfig, bundle: Bundle, images: int | None) -> TrainConfig:
    """The config with the model's channels, and a number of epochs for ``images`` if it has no budget. None: a stored
    run has one."""
    values: dict[str, Any] = {"model.in_channels": _channels(bundle), "model.weights": None}  # the model's are taken
    if ":" in bundle.architecture and config.model.name == "auto":  # the caller has loaded it, and so trusts it
        left_out = ("encoder", "in_channels")
        values |= {"model.name": bundle.architecture, "model.encoder": bundle.arguments.get("encoder")}
        values |= {"model.arguments": {k: v for k, v in bundle.arguments.items() if k not in left_out}}
    if images is not None and config.training.minutes is None and config.training.epochs is None:
        values["training.epochs"] = int(np.clip(round(SAMPLES / max(images, 1)), FEWEST_EPOCHS, MOST_EPOCHS))
    return config.with_values(values)


def _channels(bundle: Bundle) -> int:
    return int(bundle.preprocessing.get("channels") or bundle.arguments.get("in_channels") or 3)


def _value_range(bundle: Bundle) -> ValueRange | None:
    found = bundle.preprocessing.get("value_range")
    return None if found is None else ValueRange.from_json(found)


def _seen_notes(path: Path, parts: Sequence[Part]) -> list[str]:
    """Validation images that the model before was trained on, by their pixels, if its run folder has the record."""
    notes = []
    for part in parts:
        prints = (seen_in_training(path, part.val) if part.val is not None else None) or {}
        if seen := sum(prints.values()):
            notes.append(
                f"{part.role}: the model before was trained on {seen} of {len(prints)} validation images, which "
                "favors it there"
            )
    return notes


def _record(found: Refinement, before: Bundle, space: LabelSpace) -> None:
    """Write the figures into the candidate and the run folder, with a page."""
    figures = {
        "parent_id": found.parent_id,
        "id": found.id,
        "new": None if found.new is None else found.new.to_json(),
        "old": None if found.old is None else found.old.to_json(),
        "verdict": found.verdict(),
        "notes": list(found.notes),
    }
    same = space.names == before.label_space.names

    def described(bundle: Bundle) -> Bundle:
        training = {**bundle.training, KEY: figures}
        # The values of mask files belong to the model: a prediction writes them as before.
        kept = replace(before.label_space, pairs=bundle.label_space.pairs) if same else bundle.label_space
        return replace(bundle, training=training, label_space=kept, postprocess=before.postprocess)

    rewrite_description(find_bundle(found.model), described)
    write_json(found.folder / RESULT, found.to_json())
    write_refinement_page(found.folder / PAGE, found)

"""From a plan to the components of a trainer: the network with its starting weights, losses, data, augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.core.progress import progress
from segwright.data.check.dataset_scan import existing_scan
from segwright.data.dataset import Dataset, Split
from segwright.data.loading.sampling import classes_shown, describe, repeat_factors
from segwright.data.records import nested_spread
from segwright.inference.bundle import Bundle, load_bundle
from segwright.inference.lineage import Lineage, data_used, descended, lineage_of, state_id
from segwright.inference.predictor import find_bundle
from segwright.losses import create_loss
from segwright.losses.base import SegmentationLoss
from segwright.models.base import Provenance, SegmentationModel
from segwright.models.catalog import is_plugin
from segwright.training.augmentation import class_paste, phase_transform, unlabeled_transform
from segwright.training.components import OnValidation, TrainerComponents, UnlabeledData
from segwright.training.config import TrainConfig
from segwright.training.context import RunContext
from segwright.training.data_fingerprint import digest
from segwright.training.finetune import match_classes, transfer_weights
from segwright.training.network import build_network, init_head_bias
from segwright.training.planning.budget import TimeBudget, make_budget
from segwright.training.planning.checked_data import CheckedData, Message
from segwright.training.planning.draft import Plan
from segwright.training.planning.network_choice import SavedNetwork, labels_of_weights
from segwright.training.planning.timing import MeasuredTimings
from segwright.training.results import RunOutputs
from segwright.training.resume import StoredRun
from segwright.training.validate import PartOf


@dataclass(frozen=True)
class SavedModel:
    """A saved model to fine-tune."""

    path: Path
    network: SegmentationModel
    bundle: Bundle

    def named(self, config: TrainConfig) -> TrainConfig:
        """The config with this model's network and arguments; those that the config has itself are kept."""
        return SavedNetwork.of(self.bundle, config).named(config)

    def lineage(self) -> Lineage:
        """Where its weights came from."""
        place = self.path.resolve()
        name = place.parent.name if place.name == "model" else place.name
        return lineage_of(self.bundle, state_id(self.network.state_dict()), name)


@dataclass(frozen=True)
class StartingNetwork:
    """A network with its starting weights."""

    model: SegmentationModel
    origin: str  # of the weights, with their license
    lineage: Lineage


SampleWeights = Callable[[Split], npt.NDArray[np.float64] | None]  # of a training split: how often each is drawn


def load_saved_model(path: str | Path | None, config: TrainConfig) -> SavedModel | None:
    """The saved model to fine-tune; a typed error if there is none, or if the config names another network."""
    if path is None:
        return None
    # the config names a network of another package
    trusted = ":" in config.model.name or is_plugin(config.model.name)
    network, bundle = load_bundle(find_bundle(path), trust_external=trusted)
    asked = (config.model.name, config.model.encoder)
    found = (bundle.architecture, bundle.arguments.get("encoder"))
    for what, wanted, has in zip(("--model", "--encoder"), asked, found, strict=True):
        if wanted not in ("auto", None, has):
            raise UsageError(
                "the saved model to fine-tune is another network",
                expected=f"{what} {has}" if has else f"{found[0]}, which takes no encoder",
                found=f"{what} {wanted}",
                where=path,
                fix=f"leave {what} out: the network of the saved model is used",
            )
    return SavedModel(Path(path), network, bundle)


def starting_network(
    plan: Plan,
    checked: CheckedData,
    saved: SavedModel | None,
    stored: StoredRun | None,
    message: Message,
    lineage: Lineage | None = None,
) -> StartingNetwork:
    """Create the plan's network; random or pretrained weights, or those of a saved model where they fit.

    ``stored``: the run that is resumed; its record of the origin holds, since ``--init-from`` is not given again.
    ``lineage``: of the run, if it is not that of a training on one dataset.
    """
    model = build_network(plan.config, checked.classes)
    theirs = labels_of_weights(plan.config) if model.has_trained_classifier else None
    prior = plan.config.training.prior_bias_init is True
    if theirs is not None and theirs.names != checked.data.label_space.names:
        fresh = build_network(plan.config.with_values({"model.weights": None}), checked.classes)
        if prior:
            init_head_bias(fresh, checked.fingerprint.class_pixels, plan.class_weights)
        message(match_classes(model, fresh, theirs, checked.data.label_space))
    elif prior and model.has_trained_classifier:
        message("the weights bring a trained last layer for as many classes: it stays as it is")
    elif prior:
        init_head_bias(model, checked.fingerprint.class_pixels, plan.class_weights)
    origin = describe_origin(model.provenance)
    if saved is not None:
        for line in transfer_weights(saved.network, saved.bundle.label_space, model, checked.data.label_space):
            message(line)
        license = saved.bundle.licenses.get("weights", "terms not recorded")
        origin = f"fine-tuned from {saved.path.name}: {license}"
    if lineage is None:
        used = data_used("train", checked.data.root, digest(checked.file_prints), len(checked.train))
        lineage = descended([] if saved is None else [saved.lineage()], "train", [used])
    if stored is None:
        return StartingNetwork(model, origin, lineage)
    return StartingNetwork(model, stored.origin() or origin, stored.lineage() or lineage)


def describe_origin(provenance: Provenance) -> str:
    """Where a network's starting weights came from, with their license, for ``model.json``."""
    return f"started from {provenance}" if provenance.pretrained else "trained from random weights"


def build(
    plan: Plan,
    checked: CheckedData,
    context: RunContext,
    network: StartingNetwork,
    outputs: RunOutputs,
    *,
    on_validation: OnValidation | None = None,
    sample_weights: SampleWeights | None = None,
    val_part_of: PartOf | None = None,
) -> TrainerComponents:
    """The components of the trainer for ``plan``. In a run by the clock, the prediction of an image is timed.

    ``sample_weights``: how often each training image is drawn relative to the others, beside ``repeat_rare``.
    ``val_part_of``: see :class:`segwright.training.validate.Validator`.
    """
    config, training = plan.config, plan.config.training
    timings = MeasuredTimings.of(config, checked.classes, context.device)
    budget = make_budget(config, checked, timings, started=context.started)

    def criterion(text: str) -> torch.nn.Module:
        loss: torch.nn.Module = create_loss(text, classes=checked.classes, class_weights=plan.class_weights)
        return loss.to(context.device)

    return TrainerComponents(
        model=network.model,
        criterion=criterion(training.loss),
        final_criterion=criterion("+".join(filter(None, (training.loss, training.final_phase_loss)))),
        train=checked.train,
        val=_validated(checked.val, budget, context.display.message, val_part_of),
        config=config,
        transforms={phase: phase_transform(config, phase, checked.fingerprint) for phase in training.phases},
        paste=class_paste(config),
        folder=context.folder,
        device=context.device,
        save_model=outputs.keep_best,
        sample_weights=_product(
            _sample_weights(config, checked.data, checked.train, context),
            None if sample_weights is None else sample_weights(checked.train),
        ),
        val_part_of=val_part_of,
        world=context.world,
        display=context.display,
        budget=budget,
        on_validation=on_validation,
        unlabeled=_unlabeled(plan, checked, criterion),
        record={
            "classes": list(checked.data.label_space.names),
            "plan": plan.to_json(),
            "data": digest(checked.file_prints),
            "origin": network.origin,
            "lineage": network.lineage.record(),
        },
    )


def _product(
    one: npt.NDArray[np.float64] | None, other: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64] | None:
    return one if other is None else other if one is None else one * other


def _unlabeled(plan: Plan, checked: CheckedData, criterion: Callable[[str], torch.nn.Module]) -> UnlabeledData | None:
    """The components of self-training; on pseudo-labels the loss is plain cross-entropy with the class weights."""
    if checked.unlabeled is None:
        return None
    loss = criterion("ce")
    assert isinstance(loss, SegmentationLoss)
    transforms = {phase: unlabeled_transform(plan.config, phase) for phase in plan.config.training.phases}
    return UnlabeledData(checked.unlabeled, transforms, loss)


def _validated(
    val: Split | None, budget: TimeBudget | None, message: Message, part_of: PartOf | None = None
) -> Split | None:
    """The images validated on while training: fewer, with a message, if all would take too much of the minutes.

    Of several parts as many of each, as far as they have them, since the parts count alike.
    """
    if val is None or budget is None:
        return val
    count = budget.validation_images(len(val))
    if count >= len(val):
        return val
    message(f"time is short: validation while training is on {count} of {counted(len(val), 'image')}")
    return val.subset(_spread_over_parts(val, count, part_of), val.name)


def _spread_over_parts(split: Split, count: int, part_of: PartOf | None) -> list[int]:
    """The indices of ``count`` images of ``split``; of a small part all, and of the others the more."""
    parts: dict[str, list[int]] = {}
    for index, record in enumerate(split.records):
        parts.setdefault("" if part_of is None else part_of(record.id), []).append(index)
    kept: list[int] = []
    for place, members in enumerate(sorted(parts.values(), key=len)):
        share = -(-(count - len(kept)) // (len(parts) - place))
        kept += [members[one] for one in nested_spread(len(members), share)]
    return sorted(kept)


def _sample_weights(
    config: TrainConfig, data: Dataset, train: Split, context: RunContext
) -> npt.NDArray[np.float64] | None:
    """How often each training image is drawn relative to the others; None if all are drawn alike."""
    threshold = config.training.repeat_rare
    if threshold == "auto" or threshold == 0:  # "auto": planned by an earlier version
        return None

    scan = existing_scan(data)

    def find_factors() -> npt.NDArray[np.float64]:
        with progress("classes of the images", len(train)) as advance:
            return repeat_factors(classes_shown(train, advance, scan), threshold)

    factors = context.world.broadcast_from_rank0(find_factors, lambda found: found.tolist(), np.array)
    context.display.message(describe(factors))
    return factors if (factors > 1).any() else None

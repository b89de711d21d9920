"""The plan of a run, made from the data and the hardware, with a reason for every entry.

A plan resolves every "auto" of a :class:`TrainConfig` into a new config. It never looks at a dataset's name: what
counts are the images' size and number, the class frequencies, the budget, and how fast this machine takes a step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segwright.core.errors import DataError, UsageError
from segwright.core.left_right import Pairs, check_pairs, find_sides, shown
from segwright.data.check.fingerprint import Fingerprint
from segwright.losses.class_weights import class_weights
from segwright.models.catalog import CATALOG, starts_pretrained
from segwright.models.recipes import AUX_WEIGHTS, FROM_SCRATCH, USUAL_AUX_WEIGHT, Recipe
from segwright.training.callbacks.trackers import installed
from segwright.training.config import USUAL_CLIP, Phase, Size, TrainConfig
from segwright.training.network import is_normalized
from segwright.training.planning.budget import VALIDATION_FRACTION
from segwright.training.planning.checked_data import DataFacts
from segwright.training.planning.draft import Draft, Plan, PlanEntry
from segwright.training.planning.hardware import Hardware
from segwright.training.planning.network_choice import Pretrained, is_weights_file, plan_network
from segwright.training.planning.timing import SHORT_SECONDS, Timings
from segwright.training.self_training import refuse_unfit

CPU_WORKING_PIXELS = 480 * 480  # the largest training crop that a CPU gets
GPU_WORKING_PIXELS = 768 * 768
SHORT_SIDE = 128  # below it a reduced image shows too little to learn from
PASTED_CLASSES = 3  # from so many on classes are pasted between images
PASTED_SAMPLES = 10_000  # crops in a run, from which on that pays
PASTED_PIXELS = 200 * 200  # of a crop, from which on its objects are known without their surroundings
RARE = 0.01  # a class with less than this fraction of the pixels is rare
SOME_SPARSE = 0.02  # share of the masks with few labeled pixels from which the training cares for them
RARELY_SHOWN = 0.05  # a class in a smaller fraction of the images may be worth repeating
ENOUGH_PASSES = 100  # over the training images: with fewer, a narrower network learns more
HALF_LOGITS = ("leannet", "ddrnet")  # networks whose training logits may stay at half the resolution
DEFAULT_SAMPLES = 20_000  # seen in a run without a budget
MIN_EPOCHS, MAX_EPOCHS = 20, 400


def make_plan(
    config: TrainConfig,
    facts: DataFacts,
    hardware: Hardware,
    timings: Timings | None = None,
    *,
    fine_tuning: bool = False,
    pretrained: Pretrained | None = None,
    normalized: Callable[[TrainConfig], bool] | None = None,
) -> Plan:
    """Resolve ``config``. DataError if there is nothing to train on; UsageError if class weights or flip pairs do not
    fit the classes, or if weights belong to no known network; WeightsError if ImageNet weights are asked for and cannot
    be had.

    ``timings``: of training steps; only those that the plan needs are requested. ``fine_tuning``: the run starts from a
    saved model. ``pretrained``: whether pretrained weights of (network, encoder) are available, by default looked up;
    ``normalized``: whether norm layers follow the convolutions of a config's network, by default found from it.
    """
    if facts.images == 0:
        raise DataError("the training split is empty", fix="add images, or name the format with --format")
    draft, fingerprint, images = Draft(config), facts.fingerprint, facts.images
    names = fingerprint.class_names
    pretrained = pretrained or (lambda name, encoder: starts_pretrained(name, encoder, config.model.weights))
    normalized = normalized or (lambda resolved: is_normalized(resolved, len(names)))
    _check_class_weights(config.training.class_weights, names)
    draft.set_default("model.in_channels", fingerprint.channels, "the images' channels")
    from_scratch = plan_network(draft, hardware, pretrained, fine_tuning=fine_tuning)
    _plan_flips(draft, names, facts.pairs)
    _plan_optimizer(draft, from_scratch, normalized(draft.resolved()) if from_scratch else False)
    _plan_budget(draft, images)
    _plan_crops(draft, fingerprint, images, hardware, from_scratch)
    _plan_variant(draft, hardware, images, timings)
    _plan_sparse(draft, fingerprint)
    weights = _plan_imbalance(draft, fingerprint, from_scratch)
    _plan_arithmetic(draft, hardware, images)
    _plan_paste(draft, fingerprint, hardware, images, timings)
    _plan_validation(draft, facts.val_images, facts.val_sparse)
    _plan_unlabeled(draft, facts.unlabeled)
    seconds = _estimate(draft, timings, fingerprint, images, facts.val_images)
    return Plan(draft.resolved(), tuple(draft.entries), weights, seconds)


def _check_class_weights(given: str | tuple[float, ...], names: tuple[str, ...]) -> None:
    """UsageError if numbers are given as class weights and are not one per class."""
    if isinstance(given, str) or len(given) == len(names):
        return
    raise UsageError(
        "class weights are one number per class",
        expected=f"{len(names)} numbers, of {', '.join(names[:8])}{', …' if len(names) > 8 else ''}",
        found=f"{len(given)}: {', '.join(f'{weight:g}' for weight in given[:8])}",
        where="training.class_weights",
        fix="give one weight per class in the order of the label map, or --set training.class_weights=auto",
    )


def _plan_flips(draft: Draft, names: tuple[str, ...], pairs: Pairs | None) -> None:
    """The classes that flips exchange, by name: stored in the plan, so that a resumed run continues with them."""
    found = find_sides(names).pairs if pairs is None else pairs
    given = draft.get("augment.flip_pairs")
    if given == "auto":
        draft.values["augment.flip_pairs"] = found
        flips = draft.get("augment.flip") or draft.get("augment.vertical_flip")
        what = "flips exchange" if flips else "flips are off; mirrored test-time views exchange"
        reason = f"{what} these classes, left and right of the same (augment.flip_pairs=none switches it off)"
        if found:
            draft.entries.append(PlanEntry("augment.flip_pairs", shown(found), reason))
        return
    asked = draft.values["augment.flip_pairs"] = check_pairs(given, names, "augment.flip_pairs")
    if asked or found:
        reason = (
            "as asked"
            if set(map(frozenset, asked)) >= set(map(frozenset, found))
            else (f"as asked; by their names, flips would exchange {shown(found)}")
        )
        draft.entries.append(PlanEntry("augment.flip_pairs", shown(asked) or "none", reason))


def _plan_optimizer(draft: Draft, from_scratch: bool, normed: bool) -> None:
    name = draft.get("model.name")
    if from_scratch and normed:
        draft.set_default("training.optimizer", "muon", "learns fastest from random weights with batch norms")
        if draft.get("training.optimizer") == "muon":
            draft.set_default("training.lr", 4e-3, "of the parameters that AdamW trains beside Muon")
    if from_scratch and name == "leannet":
        reason = "as in LeanNet's recipe"
        draft.set_default("training.aux_weight", 0.3, reason, auto=USUAL_AUX_WEIGHT)
        draft.set_default("training.aux_decay", True, reason, auto=False)
    if from_scratch and name in HALF_LOGITS:
        draft.set_default(
            "training.loss_at_native_stride", True, "the loss at half resolution: a quarter of the work", auto=False
        )
    if from_scratch and name in FROM_SCRATCH:
        _plan_from_scratch(draft, FROM_SCRATCH[name], normed)
    if name in AUX_WEIGHTS:
        draft.set_default("training.aux_weight", AUX_WEIGHTS[name], "as its authors set it", auto=USUAL_AUX_WEIGHT)
    draft.set_default("training.optimizer", "adamw", "robust without tuning")
    optimizer = draft.get("training.optimizer")
    usual = {"sgd": 0.02, "rmsprop": 1e-3, "adamw": 2e-3, "adam": 2e-3}.get(optimizer, 1e-3)
    if draft.lean:
        draft.set_default("training.lr", usual, f"the usual peak for {optimizer}: the decoder is new")
        draft.set_default("training.encoder_lr_factor", 0.5, "pretrained, and the time is short")
    if not from_scratch:
        usual = usual / 2
    draft.set_default(
        "training.lr", usual, f"the usual peak for {optimizer}" + ("" if from_scratch else ", fine-tuning")
    )
    draft.set_default(
        "training.encoder_lr_factor", 1.0 if from_scratch else 0.3, "new" if from_scratch else "pretrained: gently"
    )
    draft.set_default("training.weight_decay", 5e-4 if optimizer == "sgd" else 0.02, f"the usual for {optimizer}")
    if draft.get("training.schedule") == "one-cycle":
        draft.set_default("training.warmup", 0.0, "one-cycle includes a rise")
    else:
        draft.set_default("training.warmup", 0.04, "fraction of the run")
    draft.set_default("training.ema", 0.99, "weights averaged over about 100 steps score more steadily")
    if draft.get("training.swa") is None:
        draft.set_default("training.norm_statistics", "averaged", "measured statistics gain nothing for EMA")
    else:
        draft.set_default(
            "training.norm_statistics",
            "measured",
            "measured statistics suit an equal mean of weights",
        )


def _plan_from_scratch(draft: Draft, recipe: Recipe, normed: bool) -> None:
    """A classical network from random weights: an initialization it can learn from, and a stable learning rate."""
    reason = "this network's recipe from random weights"
    given = draft.get("model.arguments")
    added = {key: value for key, value in recipe.arguments.items() if key not in given}
    if added:
        draft.values["model.arguments"] = {**given, **added}
        draft.entries.append(PlanEntry("model.arguments", added, reason))
    if normed:
        return
    draft.set_default("training.optimizer", recipe.optimizer, reason)
    if draft.get("training.optimizer") == recipe.optimizer:
        draft.set_default("training.lr", recipe.learning_rate, reason)
        draft.set_default("training.weight_decay", recipe.weight_decay, reason)
    if recipe.clip_gradient is not None:
        draft.set_default("training.clip", recipe.clip_gradient, reason, auto=USUAL_CLIP)
    draft.set_default("training.batch", recipe.batch, "no batch norm: more steps of fewer images")


def _plan_budget(draft: Draft, images: int) -> None:
    minutes, epochs = draft.get("training.minutes"), draft.get("training.epochs")
    if minutes is None and epochs is None:
        planned = int(np.clip(round(DEFAULT_SAMPLES / images), MIN_EPOCHS, MAX_EPOCHS))
        draft.set_default("training.epochs", planned, f"about {planned * images} samples", auto=None)


def _plan_crops(draft: Draft, fingerprint: Fingerprint, images: int, hardware: Hardware, from_scratch: bool) -> None:
    """Phases: small images first, since they cost a fraction and teach the layout of scenes; full scale last."""
    if draft.config.training.phases:
        draft.entries.append(PlanEntry("training.phases", f"{len(draft.config.training.phases)} phases", "as asked"))
        draft.set_default("training.size", draft.config.training.phases[-1].size, "of the last phase")
        draft.set_default("training.batch", draft.config.training.phases[-1].batch, "of the last phase")
        return
    largest = GPU_WORKING_PIXELS if hardware.is_gpu else CPU_WORKING_PIXELS
    height, width = fingerprint.height[1], fingerprint.width[1]
    asked = draft.get("training.size")
    size = asked if asked != "auto" else crop_size(height, width, largest)
    draft.set_default(
        "training.size", size, f"images of {height}×{width}, in multiples of 32, as large as the hardware allows"
    )
    batch = draft.set_default(
        "training.batch", _batch(images, hardware), "enough for batch norm, few enough for many steps"
    )
    last = Phase(until=1.0, size=size, scale=(0.7, 1.35), batch=batch)
    phases = [last]
    if asked == "auto" and (from_scratch or draft.lean) and min(size) * 0.55 >= SHORT_SIDE:
        first, second = (0.25, 0.84) if draft.lean else (0.12, 0.62)
        phases = [
            Phase(until=first, size=_reduced(size, 0.45), scale=(0.34, 0.8), batch=batch * 3 // 2),
            Phase(until=second, size=_reduced(size, 0.6), scale=(0.45, 1.05), batch=batch),
            last,
        ]
        reason = "small images first: most of the learning at a fraction of the time"
    else:
        reason = "one size throughout"
    draft.values["training.phases"] = [phase.model_dump() for phase in phases]
    shown = ", then ".join("{}×{}".format(*phase.size) for phase in phases)
    draft.entries.append(PlanEntry("training.phases", shown, reason))


def _plan_variant(draft: Draft, hardware: Hardware, images: int, timings: Timings | None) -> None:
    """LeanNet's width: the widest with which every image is still seen often enough in the given time."""
    arguments = draft.get("model.arguments")
    if draft.get("model.name") != "leannet" or {"variant", "widths"} & set(arguments):
        return
    if is_weights_file(draft.get("model.weights")):
        return  # the file has a width
    variant, reason = ("large", "a GPU has room for it") if hardware.is_gpu else ("small", "most steps on few cores")
    minutes = draft.get("training.minutes")
    if minutes is not None and timings is not None:
        phase = draft.get("training.phases")[len(draft.get("training.phases")) // 2]
        size, batch = phase["size"], phase["batch"]
        for wider in ("small", "medium", "large"):  # only as many are timed as the time allows
            draft.values["model.arguments"] = {**arguments, "variant": wider}
            seconds = timings.step(draft.resolved(), size, batch, hardware.precision)
            passes = _crops_in_time(draft, seconds, batch) / images
            if wider == "small" or passes >= ENOUGH_PASSES:
                variant, reason = wider, f"every image is seen about {passes:.0f} times in {minutes:g} min"
                draft.passes = passes
            if passes < ENOUGH_PASSES:
                break
    draft.values["model.arguments"] = {**arguments, "variant": variant}
    draft.entries.append(PlanEntry("model.arguments.variant", variant, reason))


def crop_size(height: int, width: int, largest: int) -> Size:
    """A crop of the image's aspect ratio with at most ``largest`` pixels, in multiples of 32, at least 32."""
    zoom = min(1.0, (largest / (height * width)) ** 0.5)
    return (_side(height * zoom), _side(width * zoom))


def _side(length: float) -> int:
    """A multiple of 32 just inside ``length``, so that a crop needs no padded border. Small images stay whole."""
    inside = length * 0.93 if length >= 256 else length
    return max(32, int(inside) // 32 * 32)


def _reduced(size: Size, factor: float) -> Size:
    return (max(32, round(size[0] * factor / 32) * 32), max(32, round(size[1] * factor / 32) * 32))


def _batch(images: int, hardware: Hardware) -> int:
    return int(min(16 if hardware.is_gpu else 8, max(2, images)))


def _plan_sparse(draft: Draft, fingerprint: Fingerprint) -> None:
    """What changes where labels are points and strokes: crops around them, and no loss on the overlap of regions."""
    if fingerprint.sparse_images <= SOME_SPARSE * fingerprint.labeled:
        draft.values["training.sparse_labels"] = draft.config.training.sparse_labels is True
        return
    share = f"{100 * (1 - fingerprint.ignored_share):.2g} % of the pixels are labeled"
    if not fingerprint.sparse:
        share = f"{fingerprint.sparse_images} of {fingerprint.labeled} masks have few labeled pixels"
    reason = f"{share}: crops of such masks are laid around one, and none is lost by resampling"
    asked = draft.set_default("training.sparse_labels", True, reason)
    if asked is not True or not fingerprint.sparse:
        return
    if draft.config.training.loss == "auto" and draft.config.training.final_phase_loss is None:
        draft.values["training.final_phase_loss"] = None
        draft.entries.append(PlanEntry("training.final_phase_loss", None, "strokes do not show how regions overlap"))


def _plan_imbalance(draft: Draft, fingerprint: Fingerprint, from_scratch: bool) -> tuple[float, ...] | None:
    """Loss, class weights and class-aware crops, from the class frequencies."""
    pixels = np.asarray(fingerprint.class_pixels, np.float64)
    share = pixels / max(pixels.sum(), 1.0)
    rare = [n for n, s in zip(fingerprint.class_names, share, strict=True) if 0 < s < RARE]
    draft.set_default(
        "training.loss", "ce(smoothing=0.05)", "cross-entropy with a little smoothing against over-confidence"
    )
    sparse = fingerprint.sparse and draft.get("training.sparse_labels") is True
    if draft.config.training.loss == "auto" and (from_scratch or draft.lean) and not sparse:
        several = len(draft.get("training.phases")) > 1
        when = "the last phase" if several else "the run, which has one phase, from its first step on"
        reason = f"{when} also trains the overlap itself (per micro-batch and process)"
        draft.set_default("training.final_phase_loss", "0.5*jaccard", reason, auto=None)
    given = draft.get("training.class_weights")
    if isinstance(given, tuple | list):
        draft.entries.append(PlanEntry("training.class_weights", list(given), "as asked"))
        weights: tuple[float, ...] | None = tuple(float(value) for value in given)
    else:
        rule = given if given != "auto" else ("sqrt-median" if rare else "none")
        a_image = fingerprint.height[1] * fingerprint.width[1]
        images_pixels = np.asarray(fingerprint.class_images, np.float64) * a_image
        if fingerprint.sparse and fingerprint.images_pixels:  # of images of points the area is no measure
            images_pixels = np.asarray(fingerprint.images_pixels, np.float64)
        found, reason = class_weights(rule, pixels, images_pixels, fingerprint.class_names)
        weights = None if found is None else tuple(float(value) for value in found)
        draft.set_default("training.class_weights", rule, reason)
    # The last layer of classical networks starts as published; weights of a whole network include theirs.
    name = draft.get("model.name")
    if name in FROM_SCRATCH:
        draft.set_default("training.prior_bias_init", False, "the last layer starts as published")
    elif not from_scratch and name in CATALOG and CATALOG[name].torchvision:
        draft.set_default("training.prior_bias_init", False, "weights of a whole network include the last layer")
    else:
        draft.set_default(
            "training.prior_bias_init",
            True,
            "a short training need not learn the class frequencies",
        )
    aware = 0.4 if rare else 0.0
    reason = f"rare: {', '.join(rare[:4])}" if rare else "no class is rare"
    draft.set_default("augment.class_aware", aware, reason)
    _plan_oversampling(draft, fingerprint)
    draft.set_default("augment.strength", "medium", "colors vary between cameras and days")
    draft.set_default("augment.rotation", 8.0, "degrees; images are rarely level")
    return weights


def _plan_paste(
    draft: Draft, fingerprint: Fingerprint, hardware: Hardware, images: int, timings: Timings | None
) -> None:
    """How many crops get classes of another one; what teaches more of the same images (docs/results.md)."""
    shown = sum(count > 0 for count in fingerprint.class_pixels)
    if fingerprint.sparse:
        share, reason = 0.0, "strokes and points are too few to cut out"
    elif draft.config.augment.strength == "none":
        share, reason = 0.0, "images are not varied at all"
    elif shown < PASTED_CLASSES:
        share, reason = 0.0, f"{shown} classes: what lies around them shows which they are"
    elif (size := draft.get("training.size"))[0] * size[1] < PASTED_PIXELS:
        share, reason = 0.0, f"in crops of {size[0]}×{size[1]} little shows what an object is but its surroundings"
    elif (seen := _images_seen(draft, hardware, images, timings)) is None:
        share, reason = 0.0, f"it pays from {PASTED_SAMPLES:,} images seen on, for which the time is short"
    elif seen < PASTED_SAMPLES:
        share, reason = 0.0, f"about {seen:,.0f} images will be seen, and it pays from {PASTED_SAMPLES:,} on"
    else:
        share, reason = 0.5, "half of the classes of another crop: objects are learned apart from their surroundings"
    draft.set_default("augment.paste", share, reason)


def _images_seen(draft: Draft, hardware: Hardware, images: int, timings: Timings | None) -> float | None:
    """Labeled crops that the run will train on, about; None where a CPU's time is too short to time a step for it."""
    minutes = draft.get("training.minutes")
    if minutes is None:
        return float(draft.get("training.epochs") * images)
    if draft.passes is not None:
        return draft.passes * images
    if timings is None or (not hardware.is_gpu and 60 * minutes < SHORT_SECONDS):
        return None
    config = draft.resolved()
    phase = config.training.phases[len(config.training.phases) // 2]
    seconds = timings.step(config, phase.size, phase.batch, config.training.precision)
    return _crops_in_time(draft, seconds, phase.batch)


def _crops_in_time(draft: Draft, seconds: float, batch: int) -> float:
    """Labeled crops that the minutes are enough for, at ``seconds`` per step of ``batch`` of them."""
    return float(draft.get("training.minutes") * 60 * batch / seconds / _cost_of_unlabeled(draft))


def _plan_oversampling(draft: Draft, fingerprint: Fingerprint) -> None:
    named = zip(fingerprint.class_images, fingerprint.class_names, strict=True)
    images, name = min(((n, name) for n, name in named if n), default=(0, ""))
    share = images / max(fingerprint.labeled, 1)
    reason = f"every class is in {100 * share:.0f} % of the images or more"
    if share < RARELY_SHOWN:
        reason = f"{name} is in {share:.1%} of the images: {RARELY_SHOWN} shows those more often"
    draft.set_default("training.repeat_rare", 0.0, reason)


def _plan_arithmetic(draft: Draft, hardware: Hardware, images: int) -> None:
    draft.set_default("training.precision", hardware.precision, hardware.precision_reason)
    slow = "crop sizes vary" if hardware.is_gpu else "a CPU gains nothing from it, and compiling takes minutes"
    draft.set_default("training.compile", False, slow)
    workers = max(1, min(8, hardware.cores // 2))
    draft.set_default("training.workers", workers, f"{hardware.cores} cores")
    draft.set_default("training.cache", True, "decoded images are kept in up to half of the free memory")
    found = installed(("tensorboard",))
    draft.set_default("training.trackers", found, "it is installed" if found else "TensorBoard is not installed")


def _plan_unlabeled(draft: Draft, images: int) -> None:
    config = draft.config.unlabeled
    if not config.active:
        return
    refuse_unfit(draft.resolved())
    where = " and ".join(
        filter(None, (config.path, {"none": "", "images": "the dataset", "pixels": "the dataset"}[config.own]))
    )
    several = "as many" if config.ratio == 1 else f"{config.ratio:g} times as many"
    for key, value, reason in (
        ("images", images, f"of {where}; {several} as labeled ones in an update"),
        ("start", config.start, "of the run on labels alone: before, the teacher has learned too little"),
        ("weight", config.weight, f"of the loss on pseudo-labels, after a rise over {config.ramp:.0%} of the run"),
        (
            "accept",
            config.accept,
            f"of a class's right labeled pixels are as sure as what counts, {config.floor:g} to {config.ceiling:g}",
        ),
    ):
        draft.entries.append(PlanEntry(f"unlabeled.{key}", value, reason))
    if draft.get("training.sparse_labels") is True:
        draft.set_default("unlabeled.mix", "cutmix", "a part of another one is pasted in: labels are few pixels here")
    else:
        reason = "half of a labeled image's classes are pasted in, or pseudo-labels forget the rare ones"
        draft.set_default("unlabeled.mix", "labeled", reason)


def _cost_of_unlabeled(draft: Draft) -> float:
    """Times the labeled part of an update that the whole takes: the teacher predicts, which is a third of a step."""
    config = draft.config.unlabeled
    return 1 + (1 - config.start) * config.ratio * (4 / 3) if config.active else 1.0


def _estimate(
    draft: Draft, timings: Timings | None, fingerprint: Fingerprint, images: int, val_images: int
) -> float | None:
    """Seconds of the whole run, from a timed step of every phase; None without timings."""
    minutes = draft.get("training.minutes")
    if minutes is not None:
        return float(minutes) * 60
    if timings is None:
        return None
    config = draft.resolved()
    an_epoch, start, pixel = 0.0, 0.0, 0.0
    for phase in config.training.phases:
        step = timings.step(config, phase.size, phase.batch, config.training.precision)
        pixel = step / (phase.batch * phase.size[0] * phase.size[1])
        an_epoch += (phase.until - start) * images / phase.batch * step * _cost_of_unlabeled(draft)
        start = phase.until
    # A forward pass is about a third of a training step.
    validation = val_images * fingerprint.height[1] * fingerprint.width[1] * pixel / 3
    return (an_epoch + validation) * float(config.training.epochs or 1)


def _plan_validation(draft: Draft, val_images: int, val_sparse: bool) -> None:
    reason = "class offsets for the best mean IoU of training images; kept if validation shows a gain beyond chance"
    if val_images == 0:
        reason = "no validation images to confirm it"
    elif val_sparse:
        reason = "class shares of sparse labels are those of whoever labeled: they could not confirm it"
    draft.set_default("training.logit_adjustment", val_images > 0 and not val_sparse, reason)
    if draft.get("training.minutes") is None:
        draft.set_default("training.validate_every", 1, "each epoch")
    else:
        draft.set_default("training.validate_every", 0, f"as often as {VALIDATION_FRACTION:.0%} of the time allows")

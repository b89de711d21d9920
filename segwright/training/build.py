"""What a resolved config stands for: the network, the augmentation of a phase, and what a step of it costs here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from segwright.augment import presets
from segwright.core.types import Batch
from segwright.data.check.fingerprint import Fingerprint
from segwright.losses import create_loss
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model
from segwright.training.config import Phase, Size, TrainConfig
from segwright.training.optim.muon import hidden_kernels
from segwright.training.optim.optimizers import create_optimizer
from segwright.training.planning.memory import available_bytes, is_out_of_memory
from segwright.training.train_step import TrainStep, seconds_per_step

TIMED_PIXELS = 1_000_000  # of an image whose prediction is timed
LEAST_SHARE = 1e-3  # of a class, where a last layer starts: what never occurs must still be learnable
BOUND_BYTES = 8 << 10  # more than a pixel of a training batch takes in any network of usual width


def build_network(config: TrainConfig, classes: int) -> SegmentationModel:
    """The network a resolved config names."""
    channels = config.model.in_channels
    return create_model(
        config.model.name,
        classes=classes,
        encoder=config.model.encoder,
        weights=config.model.weights,
        in_channels=channels if isinstance(channels, int) else 3,
        **config.model.arguments,
    )


@torch.no_grad()
def start_at_frequencies(network: SegmentationModel, pixels: Sequence[float], weights: Sequence[float] | None) -> None:
    """Let the last layers say how frequent each class is, as the weighted loss counts it, before anything is learnt.

    ``pixels``: of each class in the training masks. From a start at even chances all features of a short training
    first learn to say the most frequent class, and the bias alone speaks for the rare ones (Lin et al. 2017, "Focal
    loss", section 3.3). Of each output one declared classifier layer gets the bias, since scores of several are summed;
    a network that declares none, or whose layers have no bias, stays as it is.
    """
    counted = np.asarray(pixels, np.float64) * (1.0 if weights is None else np.asarray(weights, np.float64))
    shares = np.maximum(counted / max(counted.sum(), 1e-9), LEAST_SHARE)
    logits = np.log(shares) - np.log(shares).mean()
    for layers in network.classifier_layers().values():
        biases = [layer.bias for layer in layers if isinstance(layer.bias, nn.Parameter)]
        if biases:
            biases[-1].copy_(torch.from_numpy(logits))


def is_normed(config: TrainConfig, classes: int) -> bool:
    """Whether batch norms follow most of a network's convolutions, which Muon asks for; nothing is allocated."""
    try:
        with torch.device("meta"):
            network = build_network(config.with_values({"model.weights": None}), classes)
    except (NotImplementedError, RuntimeError):  # an initialization that needs real memory: then the usual optimizer
        return False
    convolutions = sum(p.numel() for p in network.parameters() if p.ndim == 4)
    return sum(p.numel() for p in hidden_kernels(network)) > 0.5 * convolutions > 0


def transform(config: TrainConfig, phase: Phase, fingerprint: Fingerprint) -> presets.Training:
    """The augmentation of a phase."""
    augment = config.augment
    aware = augment.class_aware if isinstance(augment.class_aware, float | int) else 0.0
    rotation = augment.rotation if isinstance(augment.rotation, float | int) else 0.0
    pixels = np.asarray(fingerprint.class_pixels, np.float64)
    need = np.where(pixels > 0, 1 / np.sqrt(np.maximum(pixels / max(pixels.sum(), 1.0), 1e-9)), 0.0)
    strength = "medium" if augment.strength == "auto" else augment.strength
    return presets.training(
        size=phase.size,
        scale=phase.scale,
        rotation=float(rotation) if strength != "none" else 0.0,
        flip=0.5 if augment.flip else 0.0,
        flip_vertical=0.5 if augment.vertical_flip else 0.0,
        class_aware=float(aware),
        class_weights=tuple(float(n) for n in need) if need.any() else None,
        color=strength,
        pairs=mirrored(config, fingerprint.class_names),
    )


def mirrored(config: TrainConfig, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The class indices that flips exchange in a run with this resolved config."""
    pairs = config.augment.flip_pairs
    if pairs == "auto":  # a run that an earlier version planned: it goes on as it began
        return ()
    return tuple((names.index(one), names.index(other)) for one, other in pairs)


def time_image(config: TrainConfig, classes: int, device: torch.device, size: Size) -> float:
    """Seconds that predicting one image takes here; of a large one, a part is timed."""
    zoom: float = min(1.0, (TIMED_PIXELS / (size[0] * size[1])) ** 0.5)
    part = (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom)))
    network = build_network(config.with_values({"model.weights": None}), classes).to(device).eval()
    pixels = torch.zeros((1, *part, network.in_channels), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        once = seconds_per_step(lambda: network(pixels), repeats=2)
    return once * size[0] * size[1] / (part[0] * part[1])


def _unchecked(step: TrainStep, made_up: Batch) -> None:
    """An update from pixels that mean nothing: a loss that is not finite says nothing of the data."""
    step.backward(made_up)
    step.update()


def time_step(
    config: TrainConfig,
    classes: int,
    device: torch.device,
    size: Size,
    batch: int,
    precision: str,
    repeats: int = 3,
) -> float:
    """Seconds of a training step of the network that ``config`` names, on pixels made up for it."""
    quiet = config.with_values({"model.weights": None})
    model = build_network(quiet, classes).train()
    model.native_logits = config.training.native_logits
    for module in model.modules() if config.training.freeze_bn else ():  # as the training will run it
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    lr = config.training.lr if isinstance(config.training.lr, float) else 1e-3
    optimizer = create_optimizer(model.to(device), config.training, lr=lr, weight_decay=0.0)
    loss = create_loss("ce", classes=classes)
    step = TrainStep(model, loss, optimizer, device=device, precision=precision)
    rng = np.random.default_rng(0)
    # The plan is made before the memory is probed: what may not fit is timed with fewer images.
    timed = min(batch, max(2, available_bytes(device) // (BOUND_BYTES * size[0] * size[1])))
    while True:
        images = rng.integers(0, 256, (timed, *size, model.in_channels), np.uint8)
        masks = rng.integers(0, classes, (timed, *size), np.uint8)
        made_up = Batch(images, masks, tuple(f"made up {i}" for i in range(timed)))
        try:
            return seconds_per_step(partial(_unchecked, step, made_up), repeats=repeats) * batch / timed
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or timed == 1:
                raise
        optimizer.zero_grad(set_to_none=True)
        timed //= 2

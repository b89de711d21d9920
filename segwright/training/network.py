"""The network of a resolved config, and the start of its last layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model
from segwright.models.without_memory import without_memory
from segwright.training.config import TrainConfig
from segwright.training.optim.muon import muon_parameters

MIN_FREQUENCY = 1e-3  # of a class in the initial bias: an absent class must stay learnable


def build_network(config: TrainConfig, classes: int) -> SegmentationModel:
    """Create the network that a resolved config names."""
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
def init_head_bias(network: SegmentationModel, pixels: Sequence[float], weights: Sequence[float] | None) -> None:
    """Set the bias of the classifier layers to the log frequencies of the classes, as the weighted loss counts them.

    ``pixels``: per class in the training masks; ``weights``: per class, of the loss. From a uniform start, the features
    of a short training first learn to predict the most frequent class (Lin et al. 2017, "Focal loss", section 3.3). One
    declared classifier layer per output gets the bias, because scores of several are summed; a network that declares
    none, or whose layers have no bias, is left unchanged.
    """
    counted = np.asarray(pixels, np.float64) * (1.0 if weights is None else np.asarray(weights, np.float64))
    frequencies = np.maximum(counted / max(counted.sum(), 1e-9), MIN_FREQUENCY)
    logits = np.log(frequencies) - np.log(frequencies).mean()
    for layers in network.classifier_layers().values():
        biases = [layer.bias for layer in layers if isinstance(layer.bias, nn.Parameter)]
        if biases:
            biases[-1].copy_(torch.from_numpy(logits))


def is_normalized(config: TrainConfig, classes: int) -> bool:
    """Whether batch norms follow most of a network's convolutions, as Muon requires; no memory is allocated."""
    try:
        with without_memory():
            network = build_network(config.with_values({"model.weights": None}), classes)
    except (
        NotImplementedError,
        RuntimeError,
    ):  # an initialization that needs real memory
        return False
    convolutions = sum(p.numel() for p in network.parameters() if p.ndim == 4)
    return sum(p.numel() for p in muon_parameters(network)) > 0.5 * convolutions > 0

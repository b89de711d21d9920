"""Every network by name: a plain dict from a name to how it is built, and :func:`create_model`.

To add a network, write its module and put an :class:`Entry` here; nothing is registered behind anyone's back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwright.console import stderr_console
from segwright.errors import UsageError
from segwright.models.encoders import STRIDES, Encoder, TimmEncoder
from segwright.models.segmenter import Provenance, SegmentationModel
from segwright.models.unet import UNet
from segwright.models.weights import encoder_weights


@dataclass(frozen=True)
class Entry:
    """One network of the catalog."""

    constructor: Callable[..., SegmentationModel]
    summary: str  # what it is, and when to use it
    paper: str
    encoder: str | None = None  # the default encoder; None where the network is of one piece
    strides: tuple[int, ...] = STRIDES  # the stages it asks of an encoder
    output_stride: int = 32
    encoder_arguments: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "Apache-2.0 and the like (timm); shown when weights are loaded"  # of the pretrained weights


CATALOG: dict[str, Entry] = {
    "unet": Entry(
        UNet,
        "U-Net with any encoder: the first choice for most tasks, good edges, trains well on little data",
        "Ronneberger et al. 2015, arXiv 1505.04597",
        encoder="resnet34",
    ),
}


def create_model(
    name: str,
    *,
    classes: int,
    encoder: str | None = None,
    weights: str | Path | None = "auto",
    in_channels: int = 3,
    **arguments: Any,
) -> SegmentationModel:
    """A network of the catalog for ``classes`` classes and pictures of ``in_channels`` channels.

    ``weights``: ``"auto"`` takes a pretrained encoder when it is in the cache or reachable within ten seconds, and says
    what it did; ``"imagenet"`` insists on it; None (or ``"none"``) starts from random weights. ``arguments`` go to the
    network's constructor, but ``output_stride``, which goes to the encoder. The result's ``provenance`` says where
    its weights came from. UsageError for an unknown name or argument, WeightsError where weights cannot be had.
    """
    if name not in CATALOG:
        raise UsageError("unknown network", expected=", ".join(CATALOG), found=name)
    entry = CATALOG[name]
    wanted = None if weights in (None, "none") else str(weights)
    provenance = Provenance()
    given = {**entry.arguments, **arguments}
    if entry.encoder is None:
        if encoder is not None:
            raise UsageError(f"{name} is of one piece and takes no encoder", found=encoder, fix="leave encoder out")
        model = entry.constructor(classes=classes, in_channels=in_channels, **given)
    else:
        built, provenance = create_encoder(
            encoder or entry.encoder,
            weights=wanted,
            in_channels=in_channels,
            strides=entry.strides,
            output_stride=given.pop("output_stride", entry.output_stride),
            **entry.encoder_arguments,
        )
        model = entry.constructor(encoder=built, classes=classes, **given)
    model.provenance = provenance
    return model


def create_encoder(
    name: str, *, weights: str | None = None, in_channels: int = 3, **arguments: Any
) -> tuple[Encoder, Provenance]:
    """An encoder by name with the weights asked for ("auto", "imagenet" or None), and where they came from."""
    file: Path | None = None
    provenance = Provenance()
    if weights in ("auto", "imagenet"):
        file, provenance = encoder_weights(name, required=weights == "imagenet")
        stderr_console().print(f"weights of {name}: {provenance}")
    return TimmEncoder(name, in_channels=in_channels, weights_file=file, **arguments), provenance

"""Several networks as one: the mean of their probabilities (Lakshminarayanan et al. 2017, section 2.4).

To the rest of the program it is a network like any other: its logits are the logarithm of the mean, whose softmax is
the mean again. The mean is taken in logarithms, so that a class that every member holds for impossible keeps its place
in the order, and an exported graph can be compared logit by logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.counted import counted
from segwright.core.errors import ModelError, UsageError
from segwright.models.base import Provenance, SegmentationModel, SegOutput
from segwright.models.former import ENSEMBLE as NAME

__all__ = ["MOST_MEMBERS", "NAME", "Ensemble"]

MOST_MEMBERS = 64


class Ensemble(SegmentationModel):
    """``members``: networks of the same classes and channels, each with its own normalization and padding.

    One member runs at a time and is added to one sum of the size of its answer: the memory is that of the hungriest
    member and the sum, however many there are. Auxiliary logits come under the member's number, "0.aux".
    """

    def __init__(self, *, members: Sequence[SegmentationModel]) -> None:
        if not 1 <= len(members) <= MOST_MEMBERS:
            raise UsageError(
                "an ensemble holds some networks", expected=f"1 to {MOST_MEMBERS}", found=str(len(members))
            )
        first = members[0]
        for number, member in enumerate(members):
            if (member.classes, member.in_channels) != (first.classes, first.in_channels):
                raise ModelError(
                    "the members of an ensemble have equal outputs",
                    expected=f"{first.classes} classes of images of {first.in_channels} channels, as the first",
                    found=f"{counted(member.classes, 'class')}, {member.in_channels} channels",
                    where=f"member {number}",
                )
        super().__init__(
            classes=first.classes,
            in_channels=first.in_channels,
            stride=max(member.stride for member in members),
            size_divisor=1,  # each member pads as it needs
        )
        self.logits_stride = min(member.logits_stride for member in members)
        self.members = nn.ModuleList(members)
        sources = dict.fromkeys(str(member.provenance) for member in members)
        licenses = dict.fromkeys(member.provenance.license for member in members)
        pretrained = any(member.provenance.pretrained for member in members)
        self.provenance = Provenance("; ".join(sources), "; ".join(licenses), pretrained)

    def encoder_modules(self) -> Sequence[nn.Module]:
        members = cast("Sequence[SegmentationModel]", self.members)
        return tuple(module for member in members for module in member.encoder_modules())

    def feature_modules(self) -> Sequence[nn.Module]:
        members = cast("Sequence[SegmentationModel]", self.members)
        return tuple(module for member in members for module in member.feature_modules())

    def forward(self, images: Tensor) -> SegOutput:
        """As :meth:`SegmentationModel.forward`; the logits are float32 whatever the members compute in."""
        total: Tensor | None = None  # (N, K, H, W): the logarithm of the sum of the probabilities so far
        aux: dict[str, Tensor] = {}
        for number, member in enumerate(cast("Sequence[SegmentationModel]", self.members)):
            output = member(images)
            aux |= {f"{number}.{name}": logits for name, logits in output.aux.items()}
            log_probabilities = F.log_softmax(output.logits.float(), dim=1)
            del output  # only the sum outlives a member's turn
            total = log_probabilities if total is None else _log_sum(total, log_probabilities)
        assert total is not None  # there is at least one
        return SegOutput(total - math.log(len(self.members)), aux)


def _log_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), of finite numbers; in operations that every exporter supports."""
    return torch.maximum(a, b) + torch.log1p(torch.exp(-(a - b).abs()))

"""Freezing an encoder, and releasing it stage by stage, the deepest first (Howard and Ruder 2018, section 3.2).

A frozen parameter's gradient is dropped before the update, whatever the optimizer: no step, no momentum, no decay. Its
stage's batch norms keep their statistics. ``requires_grad`` stays as it is, since DDP takes note of it only once.
"""

from __future__ import annotations

from torch import nn

from segwright.core.errors import UsageError
from segwright.models.base import SegmentationModel
from segwright.models.encoders.timm import Encoder

BatchNorm = nn.modules.batchnorm._BatchNorm


class Freezing:
    """What of ``model``'s encoder rests at which share of the run.

    All of it until ``freeze``; then the deepest stage is released, the others one after another, evenly over the
    share ``unfreeze`` of the run. UsageError where the network has no encoder.
    """

    def __init__(self, model: SegmentationModel, freeze: float, unfreeze: float) -> None:
        self.freeze, self.unfreeze = freeze, unfreeze
        stages: list[set[int]] = []
        encoders = model.encoder_modules() if freeze or unfreeze else ()
        if (freeze or unfreeze) and not encoders:
            raise UsageError(
                "the network has no encoder to freeze",
                found=type(model).__name__,
                fix="a network with an encoder (--model unet --encoder resnet34), or freeze_encoder and unfreeze 0",
            )
        for encoder in encoders:
            named = dict(encoder.named_parameters())
            of_this = encoder_stages(encoder) if unfreeze else [set(named)]
            for index, names in enumerate(of_this):  # of several encoders the deepest stages are released together
                if index == len(stages):
                    stages.append(set())
                stages[index] |= {id(named[name]) for name in names}
        parameters = [parameter for encoder in encoders for parameter in encoder.parameters()]
        norms = [part for encoder in encoders for part in encoder.modules() if isinstance(part, BatchNorm)]
        # resting[n]: what rests while the n shallowest stages do
        self.resting: list[list[nn.Parameter]] = [[]]
        self.norms: list[list[nn.Module]] = [[]]
        chosen: set[int] = set()
        for stage in reversed(stages):
            chosen |= stage
            self.resting.append([parameter for parameter in parameters if id(parameter) in chosen])
            self.norms.append([part for part in norms if part.weight is None or id(part.weight) in chosen])

    def stages(self, share: float) -> int:
        """How many stages rest when ``share`` of the run is done."""
        count = len(self.resting) - 1
        if share < self.freeze or not count:
            return count
        if not self.unfreeze:
            return 0
        released = int((share - self.freeze) / self.unfreeze * count + 1e-9) + 1
        return max(count - released, 0)


def encoder_stages(encoder: nn.Module) -> list[set[str]]:
    """The parameters' names by stage, the deepest first; an encoder of unknown build is one stage."""
    if not isinstance(encoder, Encoder):
        return [{name for name, _ in encoder.named_parameters()}]
    stages: list[set[str]] = []
    seen: set[str] = set()
    for stride in sorted(encoder.channels):
        names = encoder._names_up_to(stride) - seen
        seen |= names
        stages.append(names)
    rest = {name for name, _ in encoder.named_parameters()} - seen
    stages[-1] |= rest
    return [stage for stage in reversed(stages) if stage]

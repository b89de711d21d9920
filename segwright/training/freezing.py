"""Freezing an encoder, and releasing it stage by stage, the deepest first (Howard and Ruder 2018, section 3.2).

A frozen parameter's gradient is dropped before the update, with any optimizer: no step, no momentum, no decay. The
batch norms of its stage keep their statistics. ``requires_grad`` stays unchanged, since DDP reads it only once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from segwright.core.errors import UsageError
from segwright.models.base import SegmentationModel
from segwright.models.encoders.base import Encoder
from segwright.training.config import TrainingConfig

BatchNorm = nn.modules.batchnorm._BatchNorm
_LAST = math.nextafter(1.0, 0.0)  # the progress of the last update


class GradualUnfreezing:
    """Which stages of ``model``'s encoder are frozen at which progress of the run.

    All of them until ``freeze``; then the deepest stage is released and the others follow, evenly over the fraction
    ``unfreeze`` of the run. UsageError if the network has no encoder.
    """

    def __init__(self, model: SegmentationModel, freeze: float, unfreeze: float) -> None:
        self.freeze, self.unfreeze = freeze, unfreeze
        stages: list[set[int]] = []
        encoders = model.encoder_modules() if freeze or unfreeze else ()
        if (freeze or unfreeze) and not encoders:
            raise UsageError(
                "the network has no encoder to freeze",
                found=type(model).__name__,
                fix="a network with an encoder (--model unet --encoder resnet34), or freeze_encoder_fraction=0 and "
                "unfreeze_fraction=0",
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
        # At index n: what is frozen while the n shallowest stages are
        self.frozen_parameters: list[list[nn.Parameter]] = [[]]
        self.frozen_norms: list[list[nn.Module]] = [[]]
        chosen: set[int] = set()
        for stage in reversed(stages):
            chosen |= stage
            self.frozen_parameters.append([parameter for parameter in parameters if id(parameter) in chosen])
            self.frozen_norms.append([part for part in norms if part.weight is None or id(part.weight) in chosen])

    def frozen_stages(self, progress: float) -> int:
        """How many stages are frozen at ``progress``, 0…1, of the run."""
        count = len(self.frozen_parameters) - 1
        if progress < self.freeze or not count:
            return count
        if not self.unfreeze:
            return 0
        released = int((progress - self.freeze) / self.unfreeze * count + 1e-9) + 1
        return max(count - released, 0)


class Freezing:
    """What is frozen during a run: encoder stages (:class:`GradualUnfreezing`), or all batch norms (``freeze_bn``);
    and the norms that a network keeps frozen by itself, as DeepLab v2 with pretrained weights does.

    Batch norms that stay frozen to the end are marked, for steps that are measured before the run
    (:func:`is_frozen_throughout`): the dearest update of a run is its last one, when least is frozen.
    """

    def __init__(self, model: SegmentationModel, config: TrainingConfig) -> None:
        self.unfreezing = GradualUnfreezing(model, config.freeze_encoder_fraction, config.unfreeze_fraction)
        self.all_norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        self.own_norms = _kept_by_itself(model, self.all_norms)
        self.freeze_bn = config.freeze_bn
        throughout = {id(norm) for norm in self.frozen_norms_at(_LAST)}
        for norm in self.all_norms:
            norm.frozen_throughout = id(norm) in throughout  # type: ignore[assignment]

    def set_mode(self, model: SegmentationModel, progress: float) -> Sequence[nn.Parameter]:
        """Set ``model`` to train mode, except for batch norms frozen at ``progress``; returns the frozen parameters."""
        model.train()
        for norm in self.frozen_norms_at(progress):
            norm.eval()
        return self.unfreezing.frozen_parameters[self.unfreezing.frozen_stages(progress)]

    def frozen_norms_at(self, progress: float) -> Sequence[nn.Module]:
        """The batch norms that keep their statistics at ``progress`` of the run."""
        if self.freeze_bn:
            return self.all_norms
        return [*self.own_norms, *self.unfreezing.frozen_norms[self.unfreezing.frozen_stages(progress)]]


def _kept_by_itself(model: nn.Module, norms: Sequence[nn.Module]) -> list[nn.Module]:
    """The norms that stay in eval mode when ``model`` is set to train mode; its modes are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    found = [norm for norm in norms if not norm.training]
    for module, training in modes:
        module.training = training
    return found


def is_frozen_throughout(module: nn.Module) -> bool:
    """Whether a batch norm keeps its statistics during all of a run, as :class:`Freezing` has marked it."""
    return getattr(module, "frozen_throughout", False) is True


def encoder_stages(encoder: nn.Module) -> list[set[str]]:
    """Names of the parameters by stage, the deepest first; an encoder of an unknown class is one stage."""
    if not isinstance(encoder, Encoder):
        return [{name for name, _ in encoder.named_parameters()}]
    stages: list[set[str]] = []
    seen: set[str] = set()
    for stride in sorted(encoder.channels):
        names = encoder.parameter_names_up_to(stride) - seen
        seen |= names
        stages.append(names)
    rest = {name for name, _ in encoder.named_parameters()} - seen
    stages[-1] |= rest
    return [stage for stage in reversed(stages) if stage]

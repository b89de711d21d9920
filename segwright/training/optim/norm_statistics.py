"""Batch-norm statistics measured again for given weights, since those of averaged weights are no average of statistics.

The running statistics of a network in training belong to the weights it had step by step. An average of weights (EMA,
SWA) has activations of its own. As torch's ``swa_utils.update_bn`` does, images are passed through the network with its
batch norms counting; as Wu and Johnson 2021 ("Rethinking 'Batch' in BatchNorm", section 3) do, mean and variance are
those of all images together, not a running average of batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from segwright.core.types import Batch
from segwright.training.config import TrainingConfig
from segwright.training.distributed.world import World
from segwright.training.freezing import BatchNorm
from segwright.training.optim.optimizers import AveragedWeights

IMAGES = 128  # on which the statistics of averaged weights are measured, at most


@torch.no_grad()
def measure_statistics(
    network: nn.Module,
    images: Iterable[Tensor],
    *,
    dtype: torch.dtype | None = None,
    world: World | None = None,
    leave: Collection[str] = (),
) -> None:
    """Set the running mean and variance of ``network``'s batch norms to those of ``images``, batches of uint8 NHWC on
    its device.

    All else runs as in evaluation (no dropout, no auxiliary heads), so that no random number is drawn. A norm that no
    image reaches keeps its statistics, as do those whose module's name is in ``leave``. ``dtype``: of autocast; None
    computes in fp32. ``world``: every process passes as many batches of its own, and all get the same statistics.
    """
    norms = [module for name, module in network.named_modules() if isinstance(module, BatchNorm) and name not in leave]
    counting = [_Counting(norm) for norm in norms if norm.track_running_stats and norm.running_mean is not None]
    if not counting:
        return
    was_training = network.training
    network.eval()
    try:
        for one in counting:
            one.start()
        for batch in images:
            with torch.autocast(batch.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                network(batch)
            for one in counting:
                one.take()
    finally:
        for one in counting:
            one.stop()
        network.train(was_training)
    sums = [one.sums.flatten() for one in counting]
    pooled = torch.split((world or World()).total(torch.cat(sums)), [part.numel() for part in sums])
    for one, part in zip(counting, pooled, strict=True):
        one.set(part)


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Forward passes in the block normalize by their batch, and leave running means and variances as they are.

    For images that are not of the kind that the network will see, such as recolored and pasted ones.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.momentum is None:  # a mean over all batches: the count would go on, too
            norm.track_running_stats = False
        else:
            norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum, norm.track_running_stats = momentum, True


def measures_statistics(config: TrainingConfig, average: AveragedWeights) -> bool:
    """Whether the statistics of ``average`` are measured: of an equal mean (SWA) that has begun, or if configured."""
    wanted = config.norm_statistics == "measured" or (config.norm_statistics == "auto" and config.swa is not None)
    return wanted and (config.swa is None or average.equal_count > 0)


def measure_average(
    average: AveragedWeights,
    batches: Iterator[Batch],
    size: int,
    device: torch.device,
    dtype: torch.dtype | None,
    world: World,
    *,
    leave: Collection[str],
) -> None:
    """Measure the statistics of averaged weights on the first ``IMAGES`` images of all ranks, in batches of ``size``.

    Always the same images, and no random draw from the global generators: a resumed run measures the same.
    """
    count = max(1, -(-IMAGES // (size * world.size)))
    images = (torch.from_numpy(batch.images).to(device) for batch in islice(batches, count))
    measure_statistics(average.model, images, dtype=dtype, world=world, leave=leave)


class _Counting:
    """One batch norm while its statistics are measured. ``sums``, (3, C) fp64: batches, Σ mean, Σ mean of squares."""

    def __init__(self, norm: BatchNorm) -> None:
        self.norm, self.momentum = norm, norm.momentum
        self.mean, self.variance, self.batches = (
            _there(t) for t in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        )
        self.before = [tensor.clone() for tensor in (self.mean, self.variance, self.batches)]
        self.sums = torch.zeros(3, norm.num_features, dtype=torch.float64, device=self.mean.device)

    def start(self) -> None:
        self.norm.train()
        self.norm.momentum = 1.0  # the running statistics are then those of the last batch
        self.batches.zero_()

    def take(self) -> None:
        """Add the last batch, where it came here; the host does not wait for the device."""
        mean = self.mean.double()
        self.sums += torch.stack([torch.ones_like(mean), mean, self.variance.double() + mean**2]) * self.batches
        self.batches.zero_()

    def stop(self) -> None:
        self.norm.momentum = self.momentum
        for tensor, value in zip((self.mean, self.variance, self.batches), self.before, strict=True):
            tensor.copy_(value)

    def set(self, sums: Tensor) -> None:
        """What all processes counted, as the statistics; as they were where no batch came here."""
        count, mean, square = sums.reshape(3, -1)
        reached = count > 0
        mean, square = mean / count.clamp_min(1), square / count.clamp_min(1)
        self.mean.copy_(torch.where(reached, mean.to(self.mean.dtype), self.mean))
        spread = (square - mean**2).clamp_min(0)
        self.variance.copy_(torch.where(reached, spread.to(self.variance.dtype), self.variance))


def _there(buffer: Tensor | None) -> Tensor:
    assert buffer is not None
    return buffer

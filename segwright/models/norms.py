"""Instance and batch normalisation side by side: half of the channels forget the light and the camera, half keep them.

Pan et al. 2018, "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (arXiv 1807.09441): in
early layers the first half of the channels is normalised by each picture's own statistics, so that what a network
learns from one street carries over to pictures taken elsewhere; the other half keeps what tells contents apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class InstanceBatchNorm(nn.Module):
    """(N, C, H, W) → the same: instance norm on the first ⌊C / 2⌋ channels, batch norm on the rest, both with scales.

    The two norms are modules of their own (``instance``, ``batch``), so that freezing and synchronising find them.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.first = channels // 2
        self.instance = nn.InstanceNorm2d(self.first, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.first, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        if self._at_once(x):
            return self._in_one_pass(x)
        return torch.cat([self.instance(x[:, : self.first]), self.batch(x[:, self.first :])], dim=1)

    def _at_once(self, x: Tensor) -> bool:
        """Training in fp32 on a CPU, for which two norms and their copies take three to five times longer."""
        return (
            self.training
            and type(self.batch) is nn.BatchNorm2d
            and self.batch.training
            and self.batch.momentum is not None
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.shape[0] * x.shape[2] * x.shape[3] > 1
            and not torch.compiler.is_compiling()
        )

    def _in_one_pass(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.instance.weight, self.batch.weight])
        bias = torch.cat([self.instance.bias, self.batch.bias])
        out, mean, variance = _Together.apply(x, weight, bias, self.first, self.batch.eps)
        norm, values = self.batch, x.shape[0] * x.shape[2] * x.shape[3]
        assert norm.momentum is not None and norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (values / (values - 1)), norm.momentum)  # as batch norm counts it
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
        result: Tensor = out
        return result


class _Together(torch.autograd.Function):
    """Both norms with statistics of this batch, in few passes over channels-last memory.

    A pixel's channels lie side by side, so that sums over pixels and a scale and shift for every picture and channel
    run at the speed of memory. Returns the result and the batch half's mean and (biased) variance.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, half: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        mean = pixels.mean(1)
        square = (pixels * pixels).mean(1)
        batch_mean, batch_square = mean[:, half:].mean(0), square[:, half:].mean(0)
        mean = torch.cat([mean[:, :half], batch_mean.expand(n, -1)], dim=1)
        square = torch.cat([square[:, :half], batch_square.expand(n, -1)], dim=1)
        variance = (square - mean * mean).clamp_(min=0)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        # Not as a view of something else: what follows may write into it.
        out = torch.empty_like(x, memory_format=torch.channels_last)
        flat = out.permute(0, 2, 3, 1).view(n, height * width, channels)
        torch.addcmul((bias - mean * scale)[:, None], pixels, scale[:, None], out=flat)
        ctx.save_for_backward(pixels, mean, inverse, weight)
        ctx.half, ctx.size = half, (height, width)
        batch_variance = variance[0, half:].clone()
        ctx.mark_non_differentiable(batch_mean, batch_variance)
        return out, batch_mean, batch_variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With x̂ the normalised values: weight · inverse · (g - mean(g) - x̂ · mean(g · x̂)), means as in forward."""
        pixels, mean, inverse, weight = ctx.saved_tensors
        (height, width), (n, count, channels), half = ctx.size, pixels.shape, ctx.half
        g = gradient.permute(0, 2, 3, 1).reshape(n, count, channels)
        total = g.sum(1)
        along = ((g * pixels).sum(1) - mean * total) * inverse  # Σ g · x̂
        bias_gradient, weight_gradient = total.sum(0), along.sum(0)
        total, along = total / count, along / count
        total = torch.cat([total[:, :half], total[:, half:].mean(0).expand(n, -1)], dim=1)
        along = torch.cat([along[:, :half], along[:, half:].mean(0).expand(n, -1)], dim=1)
        scale = weight * inverse
        slope = -scale * along * inverse
        shift = -scale * total - slope * mean
        result = torch.addcmul(shift[:, None], g, scale[:, None]).addcmul_(pixels, slope[:, None])
        result = result.reshape(n, height, width, channels).permute(0, 3, 1, 2)
        return result, weight_gradient, bias_gradient, None, None

"""The dense CRF in torch operations: for GPUs, for float64, and to train through (the CRF as a layer).

The same lattice as :mod:`segwright.kernels.permutohedral`, built by sorting instead of hashing, so that every step
is one tensor operation on whatever device the tensors are on. A batch shares one lattice, whose keys carry the
image's number. The filter's backward pass is the filter with its blur directions in reverse, since splatting is the
transpose of slicing and each blur is symmetric; nothing but the marginals of each iteration is kept for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segwright.core.errors import PostprocessError
from segwright.kernels.lattice import CLIP, KEY_BITS, blur_scales, number_coordinates
from segwright.postprocess.crf_spec import CRFParameters, check_shapes, check_values, tiles


class TorchLattice(NamedTuple):
    """``corners`` and ``weights``: (P, d + 1) over the P pixels of all images; ``neighbors``: (d + 1, V + 1, 2)."""

    corners: Tensor
    weights: Tensor
    neighbors: Tensor


def build_torch_lattice(
    images: Tensor, position_sigma: float, color_sigma: float | None, dtype: torch.dtype
) -> TorchLattice:
    """The lattice of N×H×W×C uint8 images; ``color_sigma`` None leaves color out. Errors as ``build_lattice``."""
    count, height, width, channels = images.shape
    sigmas = [position_sigma, position_sigma] + ([color_sigma] * channels if color_sigma is not None else [])
    scales = [factor / sigma for factor, sigma in zip(blur_scales(len(sigmas)), sigmas, strict=True)]
    tops = [width - 1, height - 1, *([255.0] * channels if color_sigma is not None else [])]
    strides, origin, bits = number_coordinates([top * scale for top, scale in zip(tops, scales, strict=True)])
    if bits + count.bit_length() > KEY_BITS:
        raise PostprocessError("too many images at once for the CRF", found=str(count), fix="use smaller batches")
    d, device = len(sigmas), images.device
    rows = torch.arange(height, device=device, dtype=dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=device, dtype=dtype)[None, :].expand(height, width)
    features = [columns.expand(count, -1, -1), rows.expand(count, -1, -1)]
    if color_sigma is not None:
        features += [images[..., channel].to(dtype) for channel in range(channels)]
    scaled = torch.stack([f.reshape(-1) * s for f, s in zip(features, scales, strict=True)], dim=1)  # (P, d)
    later = torch.flip(torch.cumsum(torch.flip(scaled, (1,)), 1), (1,))  # sum of this and the later features
    zero = torch.zeros_like(scaled[:, :1])
    steps = torch.arange(d + 1, device=device, dtype=dtype)
    elevated = torch.cat([later, zero], 1) - steps * torch.cat([zero, scaled], 1)
    nearest = torch.floor(elevated / (d + 1) + 0.5)
    offset = elevated - nearest * (d + 1)
    order = torch.argsort(offset, dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(d + 1, device=device).expand_as(order))
    moved = rank + nearest.sum(1, keepdim=True).long()
    turn = (moved < 0).long() - (moved > d).long()
    rank = moved + turn * (d + 1)
    offset = offset - (turn * (d + 1)).to(dtype)
    order = torch.empty_like(order).scatter_(1, rank, torch.arange(d + 1, device=device).expand_as(order))
    ranked = torch.gather(offset, 1, order)  # offsets by rank, largest first
    upper = torch.flip(ranked, (1,))
    weights = (upper - torch.cat([ranked[:, :1] - (d + 1), upper[:, :-1]], 1)) / (d + 1)
    stride = torch.from_numpy(strides).to(device)
    first = origin + ((nearest.long() + turn) * (d + 1) * stride).sum(1)
    first = first + torch.arange(count, device=device).repeat_interleave(height * width) * (1 << bits)
    bonds = stride.sum() - (d + 1) * stride  # the step from a vertex to its neighbor along each direction
    walk = torch.flip(bonds[order], (1,))[:, :-1]
    keys = first[:, None] + torch.cat([torch.zeros_like(first)[:, None], torch.cumsum(walk, 1)], 1)
    unique, corners = torch.unique(keys, return_inverse=True)
    return TorchLattice(corners + 1, weights, _neighbors(unique, bonds))


def _neighbors(keys: Tensor, bonds: Tensor) -> Tensor:
    """(d + 1, V + 1, 2): the vertices one step back and ahead, 0 where there is none; ``keys`` are sorted."""
    result = torch.zeros((len(bonds), len(keys) + 1, 2), dtype=torch.long, device=keys.device)
    for direction, bond in enumerate(bonds):
        for side, wanted in enumerate((keys - bond, keys + bond)):
            place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
            result[direction, 1:, side] = torch.where(keys[place] == wanted, place + 1, 0)
    return result


def _filtered(values: Tensor, lattice: TorchLattice, *, reverse: bool) -> Tensor:
    """Splat, blur, slice of (P, K) values."""
    corners, weights, neighbors = lattice
    field = values.new_zeros((neighbors.shape[1], values.shape[1]))
    for corner in range(corners.shape[1]):  # one corner at a time: all at once would need d + 1 copies of the values
        field.index_add_(0, corners[:, corner], values * weights[:, corner : corner + 1])
    for near in reversed(neighbors) if reverse else neighbors:
        field = field + 0.5 * (field[near[:, 0]] + field[near[:, 1]])
        field[0] = 0.0
    result = torch.zeros_like(values)
    for corner in range(corners.shape[1]):
        result += field[corners[:, corner]] * weights[:, corner : corner + 1]
    return result / (1.0 + 2.0 ** -(corners.shape[1] - 1))


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, corners: Tensor, weights: Tensor, neighbors: Tensor) -> Tensor:
        ctx.save_for_backward(corners, weights, neighbors)
        return _filtered(values, TorchLattice(corners, weights, neighbors), reverse=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _filtered(gradients[0], TorchLattice(*ctx.saved_tensors), reverse=True), None, None, None


def infer(crf: CRFParameters, images: Tensor, probabilities: Tensor, w1: Tensor | float, w2: Tensor | float) -> Tensor:
    """Mean field on N×H×W×C uint8 images and N×K×H×W probabilities; differentiable in the latter and the weights."""
    count, classes, height, width = probabilities.shape
    unary = probabilities.permute(0, 2, 3, 1).reshape(-1, classes).clamp(CLIP, 1.0).log()
    kernels: list[tuple[Tensor | float, TorchLattice, Tensor]] = []
    with torch.no_grad():
        for weight, sigma, color in (
            (w2, crf.smoothness[1], None),
            (w1, crf.appearance[1], crf.appearance[2]),
        ):
            if isinstance(weight, Tensor) or weight:
                lattice = build_torch_lattice(images, sigma, color, unary.dtype)
                ones = _filtered(torch.ones_like(unary[:, :1]), lattice, reverse=False) + 1e-20
                kernels.append((weight, lattice, ones.rsqrt() if crf.normalization == "symmetric" else 1 / ones))
    marginals = torch.softmax(unary, 1)
    for _ in range(crf.iterations):
        scores = unary
        for weight, lattice, norm in kernels:
            sent = marginals * norm if crf.normalization == "symmetric" else marginals
            scores = scores + weight * (norm * _Filter.apply(sent, *lattice))
        marginals = torch.softmax(scores, 1)
    return marginals.reshape(count, height, width, classes).permute(0, 3, 1, 2)


def infer_arrays(crf: CRFParameters, image: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> Any:
    """Marginals float32 K×H×W of one image uint8 H×W×C and probabilities K×H×W: the twin of the compiled kernels."""
    images, given = torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(probabilities))
    with torch.no_grad():
        result = infer(crf, images[None], given.float()[None], crf.appearance[0], crf.smoothness[0])
    return result[0].contiguous().numpy()


class DenseCRFLayer(nn.Module):
    """A dense CRF to train through: its two kernel weights are parameters, its sigmas stay as they are.

    Source: 'Conditional Random Fields as Recurrent Neural Networks' (Zheng et al. 2015), with one weight per kernel.
    """

    def __init__(self, crf: CRFParameters) -> None:
        super().__init__()
        self.crf = crf
        self.appearance_weight = nn.Parameter(torch.tensor(float(crf.appearance[0])))
        self.smoothness_weight = nn.Parameter(torch.tensor(float(crf.smoothness[0])))

    def forward(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """Marginals N×K×H×W of uint8 images N×H×W×C and probabilities N×K×H×W."""
        _check(images, probabilities)
        return infer(self.crf, images, probabilities, self.appearance_weight, self.smoothness_weight)


def call_with_tensors(
    crf: CRFParameters, image: Any, probabilities: Any, with_arrays: Callable[[Any, Any], Any]
) -> Any:
    """What ``DenseCRF`` does with tensors: ``with_arrays``, the compiled kernels, where nothing needs a gradient; else
    torch."""
    if not isinstance(probabilities, Tensor):
        raise PostprocessError("probabilities are a numpy array or a torch tensor", found=type(probabilities).__name__)
    images = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image))
    _check(images, probabilities)
    needs_gradient = probabilities.requires_grad and torch.is_grad_enabled()
    if probabilities.device.type == "cpu" and not needs_gradient and probabilities.dtype != torch.float64:
        marginals = with_arrays(images.cpu().numpy(), probabilities.detach().float().numpy())
        return torch.from_numpy(marginals).to(probabilities.dtype)
    single = probabilities.ndim == 3
    if single:
        images, probabilities = images[None], probabilities[None]
    precise = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    result = _tiled(crf, images.to(probabilities.device), precise).to(probabilities.dtype)
    return result[0] if single else result


def _tiled(crf: CRFParameters, images: Tensor, probabilities: Tensor) -> Tensor:
    """Images of more than ``crf.tile_pixels`` pixels in tiles, blended as ``DenseCRF`` blends those of arrays."""
    (height, width), w1, w2 = probabilities.shape[-2:], crf.appearance[0], crf.smoothness[0]
    if height * width <= crf.tile_pixels:
        return infer(crf, images, probabilities, w1, w2)
    result = torch.zeros_like(probabilities)
    for rows, columns, weights in tiles(crf, height, width):
        tile = infer(crf, images[:, rows, columns], probabilities[..., rows, columns], w1, w2)
        result[..., rows, columns] += tile * torch.from_numpy(weights).to(tile)
    return result


def _check(images: Tensor, probabilities: Tensor) -> None:
    check_shapes(tuple(images.shape), tuple(probabilities.shape), str(images.dtype), "torch.uint8")
    if not probabilities.dtype.is_floating_point:
        raise PostprocessError("probabilities are floats", found=str(probabilities.dtype))
    with torch.no_grad():
        off = (probabilities.float().sum(-3) - 1).abs().max()
        check_values(float(probabilities.min()), float(off))

"""Targets at the stride of the logits, and normalizers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segwright.core.types import IGNORE_INDEX


def inverse(total: Tensor) -> Tensor:
    """1 / total, and 0 where nothing counts."""
    return torch.where(total > 0, 1 / total.clamp_min(1e-300), 0)


def subsample_targets(
    logits: Tensor, masks: Tensor, offset_seed: tuple[int, int] = (0, 0), *, labeled_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Pair logits (N, K, h, w) at a coarser stride than the masks (N, H, W) with one target pixel each.

    Of every stride × stride pixels one is the target, at an offset drawn from ``offset_seed``, (seed, number of the
    update): over a run every pixel is used, and all micro-batches and processes use the same. Rows and columns of
    logits that padding added are cropped. At equal sizes both are returned unchanged. ``labeled_first``: if that pixel
    is ignored, the next of its stride × stride pixels that is labeled takes its place, so that no click is lost.
    """
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits, masks
    stride = max(-(-masks.shape[axis] // logits.shape[axis]) for axis in (-1, -2))
    stride = 1 << (stride - 1).bit_length()  # 9 pixels are 2 logits at stride 8, as at 5
    row, column = (int(n) % stride for n in np.random.SeedSequence(offset_seed).generate_state(2))
    if labeled_first:
        picked = _first_labeled(masks, stride, row * stride + column)[:, : logits.shape[-2], : logits.shape[-1]]
    else:
        picked = masks[:, row::stride, column::stride][:, : logits.shape[-2], : logits.shape[-1]]
    return logits[..., : picked.shape[-2], : picked.shape[-1]], picked


def _first_labeled(masks: Tensor, stride: int, start: int) -> Tensor:
    """(N, ⌈H/stride⌉, ⌈W/stride⌉): of each cell of ``masks`` (N, H, W) the first labeled pixel from ``start`` on, in a
    circle along its rows; the ignore value where there is none."""
    pad = (0, -masks.shape[2] % stride, 0, -masks.shape[1] % stride)
    padded = F.pad(masks, pad, value=IGNORE_INDEX)
    count, height, width = len(masks), padded.shape[1] // stride, padded.shape[2] // stride
    cells = padded.reshape(count, height, stride, width, stride).permute(0, 1, 3, 2, 4).flatten(3)
    cells = cells.roll(-start, dims=3)
    order = torch.arange(stride * stride, 0, -1, device=masks.device)
    first = ((cells != IGNORE_INDEX) * order).argmax(dim=3, keepdim=True)
    return cells.gather(3, first)[..., 0]

"""Targets at the stride of the logits, and normalizers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def inverse(total: Tensor) -> Tensor:
    """1 / total, and 0 where nothing counts."""
    return torch.where(total > 0, 1 / total.clamp_min(1e-300), 0)


def subsample_targets(logits: Tensor, masks: Tensor, offset_seed: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
    """Pair logits (N, K, h, w) at a coarser stride than the masks (N, H, W) with one target pixel each.

    Of every stride × stride pixels one is the target, at an offset drawn from ``offset_seed``, (seed, number of the
    update): over a run every pixel is used, and all micro-batches and processes use the same. Rows and columns of
    logits that padding added are cropped. At equal sizes both are returned unchanged.
    """
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits, masks
    stride = max(-(-masks.shape[axis] // logits.shape[axis]) for axis in (-1, -2))
    stride = 1 << (stride - 1).bit_length()  # 9 pixels are 2 logits at stride 8, as at 5
    row, column = (int(n) % stride for n in np.random.SeedSequence(offset_seed).generate_state(2))
    picked = masks[:, row::stride, column::stride][:, : logits.shape[-2], : logits.shape[-1]]
    return logits[..., : picked.shape[-2], : picked.shape[-1]], picked

"""The Mix Transformer, SegFormer's encoder: mit_b0 to mit_b5.

Written from section 3.1 and table 6 of Xie et al. 2021 (arXiv 2105.15203): overlapping patch embeddings (7×7/4, then
3×3/2), self-attention whose keys and values are shortened by a strided convolution, and a 3×3 depthwise convolution
between the two linear layers of each feed-forward part, which stands in for positional codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import ModelError, UsageError
from segwright.models.encoders.base import Encoder

STRIDES = (4, 8, 16, 32)
SHORTENING = (8, 4, 2, 1)  # side by which keys and values are reduced, a stage
HEADS = (1, 2, 5, 8)
EXPANSION = 4
NORM_EPS = 1e-6  # of the normalizations between blocks; those inside embeddings and attention have torch's 1e-5
# name → (channels a stage, blocks a stage)
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}


class ShortenedAttention(nn.Module):
    """Self-attention of (N, L, C) tokens; keys and values come from the map reduced ``shortening`` times per side."""

    def __init__(self, channels: int, heads: int, shortening: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.shorten: nn.Conv2d | None = None
        if shortening > 1:
            self.shorten = nn.Conv2d(channels, channels, shortening, stride=shortening)
            self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        batch, length, channels = tokens.shape
        query = self.query(tokens).reshape(batch, length, self.heads, channels // self.heads).transpose(1, 2)
        source = tokens
        if self.shorten is not None:
            grid = tokens.transpose(1, 2).reshape(batch, channels, height, width)
            source = self.norm(self.shorten(grid).flatten(2).transpose(1, 2))
        pairs = self.key_value(source).reshape(batch, -1, 2, self.heads, channels // self.heads)
        key, value = pairs.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, length, channels))
        return out


class MixFeedForward(nn.Module):
    """Linear, 3×3 depthwise convolution, GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels * EXPANSION
        self.expand = nn.Linear(channels, inner)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.reduce = nn.Linear(inner, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        inner = self.expand(tokens)
        grid = self.mix(inner.transpose(1, 2).reshape(inner.shape[0], inner.shape[2], height, width))
        out: Tensor = self.reduce(F.gelu(grid.flatten(2).transpose(1, 2)))
        return out


class MixBlock(nn.Module):
    """Attention and feed-forward, each normalized before and added."""

    def __init__(self, channels: int, heads: int, shortening: int, drop_path: float) -> None:
        from timm.layers.drop import DropPath  # here: it takes longer to import than torch does

        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attention = ShortenedAttention(channels, heads, shortening)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.feed_forward = MixFeedForward(channels)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), height, width))
        out: Tensor = tokens + self.drop_path(self.feed_forward(self.norm2(tokens), height, width))
        return out


class MixStage(nn.Module):
    """Patch embedding, blocks, norm: (N, in, H, W) → (N, out, H / stride, W / stride)."""

    def __init__(
        self, in_channels: int, channels: int, heads: int, shortening: int, drop_paths: Sequence[float], *, first: bool
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.embed = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(MixBlock(channels, heads, shortening, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.embed(x)
        height, width = grid.shape[-2], grid.shape[-1]
        tokens = self.embed_norm(grid.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, height, width)
        out: Tensor = self.norm(tokens).transpose(1, 2).reshape(x.shape[0], -1, height, width)
        return out


class MixTransformer(Encoder):
    """mit_b0 … mit_b5; ``drop_path`` is the last block's rate, the others' rise to it linearly."""

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        strides: Sequence[int] = STRIDES,
        output_stride: int = 32,
        drop_path: float = 0.1,
    ) -> None:
        if output_stride != 32:
            raise ModelError(f"{name} cannot be dilated", expected="output_stride=32", found=str(output_stride))
        if name not in SIZES:
            raise UsageError("unknown Mix Transformer", expected=", ".join(SIZES), found=name)
        channels, depths = SIZES[name]
        count = max((index + 1 for index, stride in enumerate(STRIDES) if stride in strides), default=4)
        super().__init__(
            name=name, in_channels=in_channels, channels=dict(zip(STRIDES[:count], channels[:count], strict=True))
        )
        rates = [drop_path * place / (sum(depths) - 1) for place in range(sum(depths))]
        stages, inputs = [], in_channels
        for index in range(count):
            taken, rates = rates[: depths[index]], rates[depths[index] :]
            stages.append(MixStage(inputs, channels[index], HEADS[index], SHORTENING[index], taken, first=index == 0))
            inputs = channels[index]
        self.stages = nn.ModuleList(stages)
        self.apply(_initialize)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        features = {}
        for stride, stage in zip(self.channels, self.stages, strict=True):
            x = stage(x)
            features[stride] = x
        return features


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / outputs))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

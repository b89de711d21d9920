"""Ready-made transforms: what training applies to a sample, and what evaluation does.

A transform is called with ``(image uint8 H×W×C, mask uint8 H×W, rng)`` and returns both, same dtypes, mask values
unchanged but for the ignore value 255 outside the image. It holds no state: the same generator state gives the same
sample, whichever worker runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from segwright.augment.color import ColorJitter
from segwright.augment.warp import (
    Border,
    RandomAffineCrop,
    Size,
    affine,
    few_labels,
    is_mirrored,
    keep_labels,
    mean_color,
    warp_image,
    warp_mask,
)
from segwright.core.errors import UsageError
from segwright.core.left_right import exchanged
from segwright.core.types import IGNORE_INDEX
from segwright.imageio import UInt8Array

Strength = Literal["none", "light", "medium", "strong"]


class Transform(Protocol):
    """What the loader calls for every sample."""

    def __call__(
        self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array]: ...


# "medium" is what small outdoor datasets trained from scratch did best with; "light" suits fine-tuning, "strong" adds
# gamma, blur and noise for images that will come from other cameras and weather.
COLOR: dict[str, ColorJitter] = {
    "none": ColorJitter(),
    "light": ColorJitter(gain=0.15, tint=0.05, bias=8, contrast=0.1, saturation=0.2),
    "medium": ColorJitter(gain=0.3, tint=0.1, bias=16, channel_bias=5, contrast=0.2, saturation=0.4, hue=5),
    "strong": ColorJitter(
        gain=0.45, tint=0.18, bias=24, channel_bias=10, contrast=0.35, saturation=0.7, hue=12, gamma=0.4, blur=0.1,
        noise=8,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TrainTransform:
    """Warp, color, cutout, in that order: color is computed on the crop alone.

    ``pairs``: class indices that a mirrored crop exchanges in its mask (left and right of the same thing).
    Of a mask with few labeled pixels none of the crop is lost where it shrinks, if ``warp.find_labels``.
    """

    warp: RandomAffineCrop
    color: ColorJitter
    border: Border = "reflect"
    cutout: float = 0.0
    pairs: tuple[tuple[int, int], ...] = ()

    def __call__(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> tuple[UInt8Array, UInt8Array]:
        matrix = self.warp.draw(mask, rng)
        image = warp_image(image, matrix, self.warp.size, border=self.border)
        warped = warp_mask(mask, matrix, self.warp.size)
        mask = keep_labels(mask, warped, matrix) if self.warp.find_labels and few_labels(mask) else warped
        if self.pairs and is_mirrored(matrix):
            mask = np.array(exchanged(self.pairs), np.uint8)[mask]
        image = self.color(image, rng)
        if self.cutout and rng.random() < self.cutout:
            image, mask = cut_out(image, mask, rng)
        return image, mask


@dataclass(frozen=True)
class EvalTransform:
    """No randomness: the image as it lies, or at one size."""

    size: Size | None = None
    mode: Literal["stretch", "pad", "crop"] = "stretch"

    def __call__(
        self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator | None = None
    ) -> tuple[UInt8Array, UInt8Array]:
        if self.size is None or self.size == mask.shape:
            return image, mask
        height, width = mask.shape
        ratios = (self.size[1] / width, self.size[0] / height)
        if self.mode != "stretch":
            ratio = min(ratios) if self.mode == "pad" else max(ratios)
            ratios = (ratio, ratio)
        matrix = affine((height, width), self.size, scale=ratios)
        return warp_image(image, matrix, self.size), warp_mask(mask, matrix, self.size)


def training(
    *,
    size: Size,
    scale: tuple[float, float] = (0.5, 2.0),
    unit: Literal["pixel", "fit"] = "pixel",
    aspect: float = 1.1,
    rotation: float = 8.0,
    rotation_share: float = 0.6,
    shear: float = 0.0,
    flip: float = 0.5,
    flip_vertical: float = 0.0,
    shift: float = 0.0,
    class_aware: float = 0.0,
    class_weights: Sequence[float] | None = None,
    color: Strength | ColorJitter = "medium",
    color_scale: float = 1.0,
    cutout: float = 0.0,
    border: Border = "reflect",
    pairs: Sequence[tuple[int, int]] = (),
    sparse_labels: bool = False,
) -> TrainTransform:
    """The training transform; every sample comes out at ``size`` (height, width).

    ``scale``: crop pixels per image pixel (lowest, highest), drawn uniformly in its logarithm; with ``unit="fit"``,
    1 is the scale at which the whole image just fits into the crop, for datasets of mixed resolution. ``aspect``:
    stretch of width against height, up to this factor. ``rotation``: degrees either way, for ``rotation_share`` of the
    samples. ``shear``: degrees either way. ``flip``, ``flip_vertical``: probabilities. ``shift``: how far the
    crop may reach over the edge, as a share of itself.
    ``class_aware``: the share of crops laid around a pixel of a class drawn first, by ``class_weights`` (relative, one
    per class; None: every class of the image alike). ``color``: none, light, medium, strong, or a RandomColor;
    ``color_scale`` multiplies a named strength's amounts (not its probabilities). ``cutout``: probability that a
    rectangle of 1–10 % of the crop is blanked and ignored. ``border``: what the image shows beyond its edge.
    ``pairs``: class indices (left, right) that a mirrored crop exchanges, as ``LabelSpace.mirrored()`` gives them.
    ``sparse_labels``: masks with few labeled pixels have crops around one, and lose none where the crop shrinks.

    Raises UsageError for a value out of range or an unknown name.
    """
    if isinstance(color, str):
        if color not in COLOR:
            raise UsageError("unknown color strength", expected=", ".join(COLOR), found=color)
        color = scaled(COLOR[color], color_scale)
    if not 0 <= cutout <= 1:
        raise UsageError("augmentation: cutout out of range", expected="a probability, 0 to 1", found=str(cutout))
    warp = RandomAffineCrop(
        size=(int(size[0]), int(size[1])),
        scale=(float(scale[0]), float(scale[1])),
        unit=unit,
        aspect=aspect,
        rotation=rotation,
        rotation_share=rotation_share,
        shear=shear,
        flip=flip,
        flip_vertical=flip_vertical,
        shift=shift,
        class_aware=class_aware,
        class_weights=None if class_weights is None else tuple(float(weight) for weight in class_weights),
        find_labels=sparse_labels,
    )
    kept = tuple((int(one), int(other)) for one, other in pairs)
    members = [index for pair in kept for index in pair]
    if len(set(members)) < len(members) or any(not 0 <= index < IGNORE_INDEX for index in members):
        raise UsageError(
            "augmentation: pairs out of range",
            expected="pairs of class indices, 0 to 254, each in one pair",
            found=str(kept),
        )
    return TrainTransform(warp=warp, color=color, border=border, cutout=cutout, pairs=kept)


def plain(size: Size | None = None, *, mode: Literal["stretch", "pad", "crop"] = "stretch") -> EvalTransform:
    """The evaluation transform: images as they lie (``size=None``), or all at ``size`` (height, width).

    ``mode``: "stretch" changes the aspect; "pad" fits the whole image in, its border reflected and ignored; "crop"
    fills the size and cuts what is over.
    """
    if mode not in ("stretch", "pad", "crop"):
        raise UsageError("unknown mode", expected="stretch, pad or crop", found=mode)
    if size is not None and min(size) < 1:
        raise UsageError("a size has two sides of at least 1", found=str(size))
    return EvalTransform(size=None if size is None else (int(size[0]), int(size[1])), mode=mode)


def scaled(color: ColorJitter, factor: float) -> ColorJitter:
    """``color`` with every amount times ``factor``; shares and probabilities stay, factors around 1 are kept ≤ 1."""
    return ColorJitter(
        gain=color.gain * factor,
        tint=color.tint * factor,
        bias=color.bias * factor,
        channel_bias=color.channel_bias * factor,
        contrast=min(color.contrast * factor, 1.0),
        saturation=min(color.saturation * factor, 1.0),
        hue=color.hue * factor,
        gamma=color.gamma * factor,
        gamma_share=color.gamma_share,
        blur=color.blur,
        noise=color.noise * factor,
        noise_share=color.noise_share,
    )


def cut_out(image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> tuple[UInt8Array, UInt8Array]:
    """A rectangle of 1–10 % of the crop filled with the mean color, and ignored in the mask.

    DeVries and Taylor 2017, "Cutout"; theirs keeps the label, which for segmentation would teach the network to guess
    what cannot be seen.
    """
    height, width = mask.shape
    u = rng.random(4).tolist()
    area, ratio = 0.01 + 0.09 * u[0], 2.0 ** (2 * u[1] - 1)
    tall = min(max(round(height * (area * ratio) ** 0.5), 1), height)
    wide = min(max(round(width * (area / ratio) ** 0.5), 1), width)
    top, left = int(u[2] * (height - tall + 1)), int(u[3] * (width - wide + 1))
    image, mask = image.copy(), mask.copy()
    image[top : top + tall, left : left + wide] = mean_color(image)
    mask[top : top + tall, left : left + wide] = IGNORE_INDEX
    return image, mask

"""The training augmentation of whole batches of tensors, on whatever device they are.

The same operations as :class:`segwright.augment.presets.TrainTransform` does image by image on the CPU, in the same
conventions (:mod:`segwright.augment.warp`): one composed affine warp, bilinear in the image and nearest in the label
mask, then one color step. A GPU augments a batch in about a millisecond, so that no CPU core is needed to feed it.

All randomness comes in from outside as one tensor of uniform numbers, ``draws`` (N, :data:`DRAWS`): the same numbers
give the same batch, on every device. The first ten are those that ``RandomAffineCrop.draw`` takes from its generator.

Differences from the CPU's: an image that shrinks strongly is averaged over a grid of samples per pixel instead of over
areas; the contrast's pivot is the mean of the whole crop, not of every 64th pixel; blur is not available.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segwright.augment.color import ColorJitter
from segwright.augment.presets import TrainTransform
from segwright.augment.warp import RandomAffineCrop, Size
from segwright.core.errors import UsageError
from segwright.core.left_right import exchanged
from segwright.core.types import IGNORE_INDEX

DRAWS = 40  # uniform numbers per sample: 0…9 warp, 10…13 class-aware crop, 14…31 color, 32…36 cutout
_FOCUS, _COLOR, _CUTOUT = 10, 14, 32
_MOST_CHANNELS = 4  # that the numbers for the color step are enough for
_SHRINK_FROM = 0.6  # as on the CPU: below this scale, bilinear sampling would skip pixels
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ClassPlaces:
    """For every image of a set and every class, some of the pixels that show it.

    ``places`` (N, K, P, 2): x and y, drawn with repetition; ``present`` (N, K): whether the class occurs.
    """

    places: Tensor
    present: Tensor

    @classmethod
    def of(cls, masks: Tensor, classes: int, *, count: int = 256, seed: int = 0) -> ClassPlaces:
        """From masks (N, H, W) uint8; ``count`` pixels per image and class. The tables lie where ``masks`` lies."""
        rng = np.random.default_rng(seed)
        width = masks.shape[2]
        places = np.zeros((len(masks), classes, count, 2), np.float32)
        present = np.zeros((len(masks), classes), np.bool_)
        for index, mask in enumerate(masks.cpu().numpy()):
            flat = mask.reshape(-1)
            order = np.argsort(flat, kind="stable")
            bounds = np.searchsorted(flat[order], np.arange(classes + 1))
            for label in range(classes):
                first, last = int(bounds[label]), int(bounds[label + 1])
                if last > first:
                    y, x = np.divmod(order[rng.integers(first, last, count)], width)
                    places[index, label, :, 0], places[index, label, :, 1] = x, y
                    present[index, label] = True
        return cls(torch.from_numpy(places).to(masks.device), torch.from_numpy(present).to(masks.device))

    def focus(self, chosen: Tensor, draws: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """A pixel (N, 2) of a class drawn by ``weights`` (K,) for each of the images ``chosen`` (N,); and (N,) where
        there is one. ``draws`` (N, 2) or wider."""
        share = self.present[chosen].float() * (1.0 if weights is None else weights)
        total = share.sum(dim=1, keepdim=True)
        label = (share.cumsum(dim=1) <= draws[:, :1] * total).sum(dim=1).clamp_max(share.shape[1] - 1)
        where = (draws[:, 1] * self.places.shape[2]).long().clamp_max(self.places.shape[2] - 1)
        return self.places[chosen, label, where], total[:, 0] > 0


class DeviceTrainTransform:
    """``transform`` for batches on a device: call it with images, masks and uniform numbers.

    ``places``: where the classes are, for crops around a class that is drawn first (``transform.warp.class_aware``).
    UsageError where ``transform`` needs what is not available here.
    """

    def __init__(self, transform: TrainTransform, places: ClassPlaces | None = None) -> None:
        if transform.border != "reflect":
            raise UsageError("on a device the border is reflected", expected="reflect", found=str(transform.border))
        if transform.color.blur:
            raise UsageError("blur is not available on a device", fix="color strength none, light or medium")
        if transform.warp.class_aware and places is None:
            raise UsageError(
                "class-aware crops need the places where the classes are", fix="give ClassPlaces.of(masks)"
            )
        self.transform, self.places = transform, places
        self._exchanged: Tensor | None = None  # class → class of the mirror image, beside the masks
        weights = transform.warp.class_weights
        self.weights = None if weights is None or places is None else torch.tensor(weights).to(places.places.device)

    def __call__(
        self, images: Tensor, masks: Tensor, draws: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``images`` (N, H, W, C) uint8, ``masks`` (N, H, W) uint8, ``draws`` (N, DRAWS) in [0, 1) → both of the crop's
        size, the masks with 255 outside the image. ``chosen`` (N,): which images of the set they are, for ClassPlaces.
        """
        warp = self.transform.warp
        focus = None
        if warp.class_aware and self.places is not None and chosen is not None:
            focus = self.places.focus(chosen, draws[:, _FOCUS:], self.weights)
        matrices = warp_matrices(warp, (images.shape[1], images.shape[2]), draws, focus)
        crops = warp_images(images, matrices, warp.size, samples=_samples(warp, images.shape))
        labels = warp_masks(masks, matrices, warp.size)
        if self.transform.pairs:
            if self._exchanged is None or self._exchanged.device != labels.device:
                self._exchanged = torch.tensor(exchanged(self.transform.pairs), dtype=labels.dtype).to(labels.device)
            labels = exchange_sides(labels, matrices, self._exchanged)
        crops = change_colors(crops, self.transform.color, draws[:, _COLOR:])
        if self.transform.cutout:
            crops, labels = cut_out(crops, labels, self.transform.cutout, draws[:, _CUTOUT:])
        return crops.round().to(torch.uint8).permute(0, 2, 3, 1), labels


def paste_classes(images: Tensor, masks: Tensor, draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A batch in which ``share`` of the images have half of the classes of the next one, with their labels.

    ``images`` (N, H, W, C) uint8, ``masks`` (N, H, W) with 255 for ignored; ``draws`` (N, classes + 1) in [0, 1). The
    same as :func:`segwright.augment.paste.paste_classes`, without waiting for the device.
    """
    classes = draws.shape[1] - 1
    other, other_masks = images.roll(-1, dims=0), masks.roll(-1, dims=0).long()
    label = other_masks.clamp_max(classes).flatten(1)  # ignored pixels become class number ``classes``
    present = torch.zeros((len(masks), classes + 1), dtype=torch.bool, device=masks.device)
    present = present.scatter(1, label, torch.ones_like(label, dtype=torch.bool))
    present[:, classes] = False
    order = torch.where(present[:, :classes], draws[:, :classes], 2.0).argsort(dim=1).argsort(dim=1)
    count = torch.div(present.sum(dim=1, keepdim=True), 2, rounding_mode="floor").clamp_min(1)
    taken = present & torch.nn.functional.pad(order < count, (0, 1)) & (draws[:, classes:] < share)
    region = taken.gather(1, label).reshape(masks.shape)
    return torch.where(region[..., None], other, images), torch.where(region, other_masks.to(masks.dtype), masks)


def warp_matrices(
    warp: RandomAffineCrop, source: Size, draws: Tensor, focus: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """(N, 2, 3) from crop to image, as ``RandomAffineCrop.draw`` makes them of the same first ten numbers.

    ``focus``: a pixel (N, 2) per image, and whether there is one (N,), for the class-aware share of the crops.
    """
    u = draws.unbind(dim=1)
    height, width = source
    low, high = math.log(warp.scale[0]), math.log(warp.scale[1])
    scale = torch.exp(low + (high - low) * u[0])
    if warp.unit == "fit":
        scale = scale * min(warp.size[0] / height, warp.size[1] / width)
    stretch = torch.exp((u[1] - 0.5) * math.log(warp.aspect))
    scale_x, scale_y = scale * stretch, scale / stretch
    theta = torch.where(u[3] < warp.rotation_share, (2 * u[2] - 1) * math.radians(warp.rotation), 0.0)
    lean = torch.tan((2 * u[4] - 1) * math.radians(warp.shear))
    ix = torch.where(u[5] < warp.flip, -1.0, 1.0) / scale_x
    iy = torch.where(u[6] < warp.flip_vertical, -1.0, 1.0) / scale_y
    window = torch.stack([warp.size[1] / scale_x, warp.size[0] / scale_y], dim=1)
    sides = _pair(width, height, window)
    ends = torch.stack([window / 2 - 0.5, sides - window / 2 - 0.5])
    first, last = ends.amin(dim=0) - warp.shift * window, ends.amax(dim=0) + warp.shift * window
    along = torch.stack([u[8], u[9]], dim=1)
    center = first + (last - first) * along
    cos, sin = torch.cos(theta), torch.sin(theta)
    linear = torch.stack([cos * ix, -(cos * lean + sin) * iy, sin * ix, (cos - sin * lean) * iy], dim=1)
    linear = linear.reshape(-1, 2, 2)
    middle = _pair((warp.size[1] - 1) / 2, (warp.size[0] - 1) / 2, window)
    if focus is not None:
        point, found = focus
        near = torch.minimum(torch.maximum(point + (along - 0.5) * 0.7 * window, first), last)
        # Where rotation turned the pixel out of the crop, it is put in the middle.
        inside = _solve(linear, point - near).abs() <= middle
        near = torch.where(inside.all(dim=1, keepdim=True), near, point)
        aware = found & (u[7] < warp.class_aware)
        center = torch.where(aware[:, None], near, center)
    return torch.cat([linear, (center - linear @ middle)[..., None]], dim=2)


def warp_images(images: Tensor, matrices: Tensor, size: Size, *, samples: int = 1) -> Tensor:
    """``images`` (N, H, W, C) uint8 → float (N, C, *size) in 0…255: bilinear, reflected beyond the edge.

    ``samples``: per pixel and side; their mean is taken, so that an image that shrinks is not aliased.
    """
    values = images.permute(0, 3, 1, 2).float()
    total = None
    for row in range(samples):
        for column in range(samples):
            shift = ((column + 0.5) / samples - 0.5, (row + 0.5) / samples - 0.5)
            grid = _source_points(matrices, size, shift)
            # With align_corners, -1 and 1 are the centers of the outermost pixels, and reflection is about them.
            scale = _pair(2 / max(images.shape[2] - 1, 1), 2 / max(images.shape[1] - 1, 1), grid)
            found = F.grid_sample(values, grid * scale - 1, padding_mode="reflection", align_corners=True)
            total = found if total is None else total + found
    assert total is not None
    return total if samples == 1 else total / samples**2


def warp_masks(masks: Tensor, matrices: Tensor, size: Size, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """``masks`` (N, H, W) of any integer type → (N, *size): nearest, ``ignore_index`` outside."""
    points = _source_points(matrices, size).round()
    x, y = points[..., 0], points[..., 1]
    height, width = masks.shape[1], masks.shape[2]
    outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
    flat = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    picked = masks.flatten(1).gather(1, flat.flatten(1)).reshape(flat.shape)
    return picked.masked_fill(outside, ignore_index)


def exchange_sides(masks: Tensor, matrices: Tensor, exchanged: Tensor) -> Tensor:
    """``masks`` (N, h, w) with their classes looked up in ``exchanged`` (256,) where the crop is a mirror image."""
    mirrored = matrices[:, 0, 0] * matrices[:, 1, 1] < matrices[:, 0, 1] * matrices[:, 1, 0]
    return torch.where(mirrored[:, None, None], exchanged[masks.long()], masks)


def change_colors(images: Tensor, color: ColorJitter, draws: Tensor) -> Tensor:
    """``images`` float (N, C, H, W) in 0…255 → the same, each with one color change of ``color``, clipped.

    ``draws`` (N, 18): the numbers in the order of ``ColorJitter.__call__``.
    """
    channels = images.shape[1]
    if channels > _MOST_CHANNELS:
        raise UsageError("too many channels for the color step", expected="at most 4", found=str(channels))
    u = draws * 2 - 1
    contrast, saturation = 1 + color.contrast * u[:, 1], 1 + color.saturation * u[:, 2]
    brightness = torch.exp(color.gain * u[:, 0])
    pivot = images.mean(dim=(1, 2, 3)) * (1 - contrast)
    tints = u[:, 10 : 10 + channels]
    gains = (brightness * contrast)[:, None] * torch.exp(color.tint * tints)
    shared = color.bias * u[:, 4] + pivot * brightness
    offsets = shared[:, None] + color.channel_bias * u[:, 10 + channels : 10 + 2 * channels]
    if color.gamma:
        gamma = torch.where(u[:, 6].abs() < color.gamma_share, torch.exp(color.gamma * u[:, 5]), 1.0)
        images = 255 * (images / 255).clamp(0, 1) ** gamma[:, None, None, None]
    if channels == 3 and (color.saturation or color.hue):
        matrices = _mixing(saturation, torch.deg2rad(color.hue * u[:, 3])) * gains[:, :, None]
        mixed = torch.baddbmm(offsets[:, :, None], matrices, images.flatten(2)).reshape(images.shape)
    else:
        mixed = images * gains[..., None, None] + offsets[..., None, None]
    if color.noise:
        # Noise is the one thing that takes a number per pixel: from the device's own generator.
        sigma = torch.where(u[:, 9].abs() < color.noise_share, color.noise * draws[:, 8], 0.0)
        mixed = mixed + torch.randn_like(mixed) * sigma[:, None, None, None]
    return mixed.clamp(0, 255)


def cut_out(images: Tensor, masks: Tensor, share: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """A rectangle of 1–10 % of ``share`` of the crops: the mean color in the image, ignored in the mask.

    ``images`` float (N, C, H, W), ``masks`` (N, H, W), ``draws`` (N, 5).
    """
    height, width = masks.shape[1], masks.shape[2]
    area, ratio = 0.01 + 0.09 * draws[:, 1], 2.0 ** (2 * draws[:, 2] - 1)
    tall = (height * (area * ratio).sqrt()).round().clamp(1, height)
    wide = (width * (area / ratio).sqrt()).round().clamp(1, width)
    top, left = (draws[:, 3] * (height - tall + 1)).floor(), (draws[:, 4] * (width - wide + 1)).floor()
    rows = torch.arange(height, device=masks.device)[None]
    columns = torch.arange(width, device=masks.device)[None]
    inside_y = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_x = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    hidden = inside_y[:, :, None] & inside_x[:, None, :] & (draws[:, 0] < share)[:, None, None]
    mean = images.mean(dim=(2, 3), keepdim=True)
    return torch.where(hidden[:, None], mean, images), masks.masked_fill(hidden, IGNORE_INDEX)


def _pair(x: float, y: float, like: Tensor) -> Tensor:
    """(2,) beside ``like``, without a copy from the CPU, which would wait for the device."""
    return torch.stack([like.new_full((), x), like.new_full((), y)])


def _solve(linear: Tensor, offset: Tensor) -> Tensor:
    """(N, 2): the crop's offset of the image's ``offset`` (N, 2) under ``linear`` (N, 2, 2)."""
    (a, b), (c, d) = (row.unbind(dim=1) for row in linear.unbind(dim=1))
    x, y = offset.unbind(dim=1)
    return torch.stack([d * x - b * y, a * y - c * x], dim=1) / (a * d - b * c)[:, None]


def _source_points(matrices: Tensor, size: Size, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """(N, *size, 2): x and y in the image of every pixel of the crop, moved by ``shift`` crop pixels."""
    rows = torch.arange(size[0], dtype=matrices.dtype, device=matrices.device) + shift[1]
    columns = torch.arange(size[1], dtype=matrices.dtype, device=matrices.device) + shift[0]
    across = columns[None, :, None] * matrices[:, None, :, 0]  # (N, W, 2)
    down = rows[None, :, None] * matrices[:, None, :, 1] + matrices[:, None, :, 2]  # (N, H, 2)
    return across[:, None] + down[:, :, None]


def _samples(warp: RandomAffineCrop, shape: torch.Size) -> int:
    """Samples per pixel and side for the smallest scale that may be drawn."""
    scale = warp.scale[0] / math.sqrt(warp.aspect)
    if warp.unit == "fit":
        scale *= min(warp.size[0] / shape[1], warp.size[1] / shape[2])
    return 1 if scale >= _SHRINK_FROM else min(4, math.ceil(1 / scale))


def _mixing(saturation: Tensor, hue: Tensor) -> Tensor:
    """(N, 3, 3): rotation about the gray axis by ``hue`` (N,) in radians, then the distance from gray times
    ``saturation`` (N,); see ``color.mixing_matrix``."""
    luma = torch.stack([hue.new_full((), value) for value in _LUMA]).expand(3, 3)
    unit = torch.eye(3, dtype=hue.dtype, device=hue.device)
    matrix = saturation[:, None, None] * unit + (1 - saturation)[:, None, None] * luma
    cos, sin = torch.cos(hue), torch.sin(hue) / math.sqrt(3)
    third = (1 - cos) / 3
    # Rodrigues' rotation about (1, 1, 1)/√3.
    rows = [cos + third, third - sin, third + sin, third + sin, cos + third, third - sin, third - sin, third + sin]
    rotation = torch.stack([*rows, cos + third], dim=1).reshape(-1, 3, 3)
    return matrix @ rotation

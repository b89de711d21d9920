"""The augmentation of batches on a device against the CPU's, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segwright.augment import presets
from segwright.augment.color import ColorJitter
from segwright.augment.device import (
    DRAWS,
    ClassPlaces,
    DeviceTrainTransform,
    change_colors,
    cut_out,
    warp_images,
    warp_masks,
    warp_matrices,
)
from segwright.augment.warp import RandomAffineCrop, affine, to_crop, warp_image, warp_mask
from segwright.core.errors import UsageError

WARPS = {
    "plain": RandomAffineCrop(size=(40, 48), scale=(0.7, 2.0)),
    "everything": RandomAffineCrop(
        size=(50, 36), scale=(0.8, 1.7), aspect=1.3, rotation=25, rotation_share=0.7, shear=10, flip_vertical=0.5,
        shift=0.3,
    ),
    "fit": RandomAffineCrop(size=(60, 96), scale=(0.9, 1.4), unit="fit"),
}  # fmt: skip


class Given:
    """Stands for a generator: its first call returns the numbers given, later ones are of a real generator."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.rest = numbers, np.random.default_rng(0)

    def random(self, count: int) -> np.ndarray:
        if len(self.numbers):
            found, self.numbers = self.numbers[:count], np.empty(0)
            return found
        return self.rest.random(count)


def images(count: int, height: int = 60, width: int = 80, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height + width)
    coarse = torch.rand((count, channels, height // 5, width // 5), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def masks(count: int, height: int = 60, width: int = 80, classes: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.randint(0, classes, (count, height // 5, width // 5), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(5, 1).repeat_interleave(5, 2)


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, DRAWS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WARPS)
def test_matrices_are_those_of_the_cpu(name: str) -> None:
    warp, numbers = WARPS[name], draws(16)
    mask = np.zeros((60, 80), np.uint8)
    expected = [warp.draw(mask, Given(row.double().numpy())) for row in numbers]  # type: ignore[arg-type]
    found = warp_matrices(warp, (60, 80), numbers)
    assert np.allclose(found.numpy(), np.stack(expected), atol=1e-3)


@pytest.mark.parametrize("name", WARPS)
def test_images_and_masks_are_those_of_the_cpu(name: str) -> None:
    warp, pixels, labels = WARPS[name], images(8), masks(8)
    matrices = warp_matrices(warp, (60, 80), draws(8))
    found, found_labels = warp_images(pixels, matrices, warp.size), warp_masks(labels, matrices, warp.size)
    assert found.shape == (8, 3, *warp.size) and found_labels.shape == (8, *warp.size)
    for index, matrix in enumerate(matrices.double().numpy()):
        expected = warp_image(pixels[index].numpy(), matrix, warp.size)
        off = np.abs(found[index].permute(1, 2, 0).numpy() - expected)
        assert off.mean() < 1 and np.quantile(off, 0.99) < 4  # OpenCV's positions are in 32nds of a pixel
        expected_labels = warp_mask(labels[index].numpy(), matrix, warp.size)
        assert (found_labels[index].numpy() == expected_labels).mean() > 0.99
        assert ((found_labels[index].numpy() == 255) != (expected_labels == 255)).mean() < 0.01


def test_a_whole_shift_and_a_flip_are_exact() -> None:
    pixels, labels = images(1), masks(1)
    matrix = affine((60, 80), (20, 30), flip=True, center=(30.5, 25.5))
    matrices = torch.from_numpy(matrix).float()[None]
    assert torch.equal(warp_masks(labels, matrices, (20, 30))[0], labels[0, 16:36, 16:46].flip(1))
    assert torch.allclose(
        warp_images(pixels, matrices, (20, 30))[0].permute(1, 2, 0), pixels[0, 16:36, 16:46].flip(1).float(), atol=1e-2
    )


def test_an_image_that_shrinks_is_averaged_and_not_aliased() -> None:
    checkers = torch.zeros((1, 64, 64, 1), dtype=torch.uint8)
    checkers[:, ::2, ::2] = checkers[:, 1::2, 1::2] = 200
    warp = RandomAffineCrop(size=(24, 24), scale=(0.5, 0.5), flip=0)
    transform = presets.TrainTransform(warp=warp, color=ColorJitter())
    crops, _ = DeviceTrainTransform(transform)(checkers, torch.zeros((1, 64, 64), dtype=torch.uint8), draws(1, 3))
    assert (crops.float() - 100).abs().max() < 20
    aliased = warp_images(checkers, warp_matrices(warp, (64, 64), draws(1, 3)), (24, 24))
    assert (aliased - 100).abs().max() > 35


@pytest.mark.parametrize(
    "color",
    [
        ColorJitter(gain=0.3, tint=0.1, bias=16, channel_bias=5, contrast=0.2),
        presets.COLOR["medium"],
        ColorJitter(gain=0.2, gamma=0.4, gamma_share=1.0, saturation=0.5, hue=20),
    ],
    ids=["no mixing", "medium", "gamma"],
)
def test_colors_are_those_of_the_cpu(color: ColorJitter) -> None:
    pixels, numbers = images(12), draws(12)
    found = change_colors(pixels.permute(0, 3, 1, 2).float(), color, numbers)
    for index in range(len(pixels)):
        expected = color(pixels[index].numpy(), Given(numbers[index].double().numpy()))  # type: ignore[arg-type]
        off = np.abs(found[index].permute(1, 2, 0).numpy() - expected)
        assert off.max() < 6 and off.mean() < 2  # the CPU's pivot is the mean of every 64th pixel


def test_no_change_where_nothing_is_asked_for() -> None:
    pixels, labels = images(3), masks(3)
    transform = presets.training(size=(60, 80), scale=(1, 1), rotation=0, aspect=1, flip=0, color="none")
    crops, found = DeviceTrainTransform(transform)(pixels, labels, draws(3))
    assert crops.dtype == torch.uint8 and torch.equal(crops, pixels) and torch.equal(found, labels)


def test_noise_is_as_large_as_asked_for() -> None:
    flat = torch.full((64, 3, 20, 20), 128.0)
    noisy = change_colors(flat, ColorJitter(noise=20, noise_share=1.0), draws(64))
    spread = noisy.std(dim=(1, 2, 3))
    assert spread.max() < 21 and 8 < spread.mean() < 12


def test_crops_around_a_class_show_it() -> None:
    labels = torch.zeros((4, 60, 80), dtype=torch.uint8)
    for index in range(3):  # the fourth image does not show class 1
        labels[index, 10 + 9 * index, 20 * index + 3] = 1
    warp = RandomAffineCrop(size=(16, 16), scale=(0.9, 1.2), rotation=40, class_aware=1.0, class_weights=(0.0, 1.0))
    places = ClassPlaces.of(labels, 2)
    chosen = torch.arange(4).repeat(20)
    focus, found = places.focus(chosen, draws(80)[:, 10:], torch.tensor(warp.class_weights))
    assert found.tolist() == [True, True, True, False] * 20
    matrices = warp_matrices(warp, (60, 80), draws(80), (focus, found))
    for index in range(80):
        if index % 4 == 3:
            continue
        row = 10 + 9 * (index % 4)
        assert focus[index].tolist() == [20 * (index % 4) + 3, row]
        x, y = to_crop(matrices[index].double().numpy(), *focus[index].tolist())
        assert -0.01 <= x <= 15.01 and -0.01 <= y <= 15.01


def test_cutout_ignores_what_it_hides() -> None:
    pixels, labels = images(40).permute(0, 3, 1, 2).float(), masks(40)
    crops, found = cut_out(pixels, labels, 0.5, draws(40))
    hidden = (found == 255).float().mean(dim=(1, 2))
    assert 8 < int((hidden > 0).sum()) < 32
    assert hidden[hidden > 0].min() > 0.005 and hidden.max() < 0.12
    kept = found != 255
    assert torch.equal(crops.permute(0, 2, 3, 1)[kept], pixels.permute(0, 2, 3, 1)[kept])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"color": "strong"}, "blur"),
        ({"class_aware": 0.5}, "where the classes are"),
        ({"border": "mean"}, "reflected"),
    ],
)
def test_what_is_not_available_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DeviceTrainTransform(presets.training(size=(16, 16), **changed))


def test_on_a_gpu_the_same_batch(gpu: torch.device) -> None:
    transform = presets.training(size=(40, 48), class_aware=0.5, cutout=0.5)
    pixels, labels, numbers, chosen = images(6), masks(6), draws(6), torch.arange(6)
    here = DeviceTrainTransform(transform, ClassPlaces.of(labels, 5))(pixels, labels, numbers, chosen)
    there = DeviceTrainTransform(transform, ClassPlaces.of(labels.to(gpu), 5))(
        pixels.to(gpu), labels.to(gpu), numbers.to(gpu), chosen.to(gpu)
    )
    assert there[0].device == gpu and there[1].device == gpu
    assert (here[0].float() - there[0].cpu().float()).abs().mean() < 0.2
    assert (here[1] == there[1].cpu()).float().mean() > 0.999

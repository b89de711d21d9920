"""Every compiled kernel against its plain twin: equal values and gradients, up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright import kernels
from segwright.kernels import batch_norm, depthwise, slic, upsampled_conv, winograd
from segwright.models.blocks import InstanceBatchNorm
from segwright.postprocess.crf import DenseCRF

Run = Callable[..., Tensor]


class Case(NamedTuple):
    """``kernel`` and ``twin`` of the same differentiable ``inputs``; ``tolerance`` of values and of gradients."""

    kernel: Run
    twin: Run
    inputs: tuple[Tensor, ...]
    tolerance: float
    backward: str = ""  # the name of the autograd function that shows that the kernel ran; empty: it is made of torch's


def image(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def norm_act(norm: nn.Module, clamp_range: tuple[float, float], half: bool = False) -> Case:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    first, second = copy.deepcopy(norm), copy.deepcopy(norm)
    x = image(2, 16, 12, 20)
    if half:
        x = x.bfloat16()
    return Case(
        lambda x: batch_norm.norm_act(first, x, clamp_range),
        lambda x: batch_norm.norm_act_plain(second, x.float(), clamp_range).to(x.dtype),
        (x,),
        2e-2 if half else 2e-4,
        "NormActBackward",
    )


def depthwise_conv(size: int, stride: int, half: bool) -> Case:
    x, weight = image(2, 8, 13, 12), torch.randn(8, 1, size, size)
    if half:
        x, weight = x.bfloat16(), weight.bfloat16()
    geometry = ((size, size), (stride, stride), (size // 2, size // 2), (1, 1))
    return Case(
        lambda x, weight: depthwise.Depthwise.apply(x, weight, *geometry),
        lambda x, weight: F.conv2d(x.float(), weight.float(), None, stride, size // 2, 1, 8).to(x.dtype),
        (x, weight),
        4e-2 if half else 1e-4,
        "DepthwiseBackward",
    )


def upsampled(skip_channels: int) -> Case:
    skip = (image(2, skip_channels, 14, 18),) if skip_channels else ()
    return Case(
        lambda x, weight, *skip: upsampled_conv.upsample_concat_conv(x, *skip or (None,), weight),
        lambda x, weight, *skip: upsampled_conv.upsample_concat_conv_plain(x, *skip or (None,), weight),
        (image(2, 5, 7, 9), torch.randn(6, 5 + skip_channels, 3, 3), *skip),
        1e-4,
    )


CASES: dict[str, Callable[[], Case]] = {
    "batch norm": lambda: norm_act(nn.BatchNorm2d(16), batch_norm.NONE),
    "batch norm, ReLU": lambda: norm_act(nn.BatchNorm2d(16), batch_norm.RELU),
    "batch norm, ReLU6": lambda: norm_act(nn.BatchNorm2d(16), batch_norm.RELU6),
    "batch norm, ReLU, bf16": lambda: norm_act(nn.BatchNorm2d(16), batch_norm.RELU, half=True),
    "instance and batch norm": lambda: norm_act(InstanceBatchNorm(16), batch_norm.NONE),
    "instance and batch norm, ReLU": lambda: norm_act(InstanceBatchNorm(16), batch_norm.RELU),
    "winograd": lambda: Case(
        winograd.Winograd.apply,
        lambda x, weight: F.conv2d(x, weight, padding=1),
        (image(2, 96, 12, 20), torch.randn(112, 96, 3, 3) / 30),
        1e-3,
        "WinogradBackward",
    ),
    "wide depthwise convolution": lambda: depthwise_conv(5, 1, half=False),
    "wide strided depthwise convolution, bf16": lambda: depthwise_conv(5, 2, half=True),
    "strided depthwise convolution, bf16": lambda: depthwise_conv(3, 2, half=True),
    "convolution of an upsampled map": lambda: upsampled(0),
    "convolution of an upsampled map and a finer one": lambda: upsampled(4),
}


@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0)
    torch.manual_seed(0)
    case = CASES[name]()
    results = []
    for run in (case.kernel, case.twin):
        inputs = [x.clone().requires_grad_() for x in case.inputs]
        out = run(*inputs)
        if run is case.kernel and case.backward:
            assert type(out.grad_fn).__name__ == case.backward, "the twin was compared with itself"
        upstream = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
        results.append([out, *torch.autograd.grad(out, inputs, upstream)])
    for found, expected in zip(*results, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found / scale, expected / scale, rtol=case.tolerance, atol=case.tolerance)


def scene(classes: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(classes)
    coarse = rng.normal(size=(classes, 9, 11)).repeat(8, 1).repeat(8, 2) + rng.normal(size=(classes, 72, 88)) / 2
    probabilities = np.exp(coarse) / np.exp(coarse).sum(0)
    picture = rng.integers(0, 256, (9, 11, 3)).repeat(8, 0).repeat(8, 1) // 2 + rng.integers(0, 40, (72, 88, 3))
    return picture.astype(np.uint8), probabilities.astype(np.float32)


@pytest.mark.parametrize("classes", [1, 2, 7, 21])
@pytest.mark.parametrize("normalization", ["symmetric", "per-row"])
def test_the_crf_equals_its_twin(classes: int, normalization: Any) -> None:
    """Lattice, filter and mean field; arrays and tensors, in tiles too."""
    picture, probabilities = scene(classes)
    crf = DenseCRF(appearance=(4, 40, 9), iterations=4, normalization=normalization)
    tiled = DenseCRF(appearance=(4, 6, 9), iterations=2, normalization=normalization, tile_pixels=32 * 32)
    for each in (crf, tiled):
        found = each(picture, probabilities)
        with kernels.disabled():
            expected = each(picture, probabilities)
            of_tensor = each(picture, torch.from_numpy(probabilities))
        assert expected.dtype == np.float32 and found.shape == expected.shape
        off = np.abs(found - expected)  # rounding can move a pixel at a simplex's border to the next
        assert off.mean() < 1e-5 and (off > 2e-3).mean() < 1e-3 and off.max() < 0.05
        assert np.array_equal(of_tensor.numpy(), expected)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (61, 47)])
def test_clustering_equals_its_twin(shape: tuple[int, int]) -> None:
    lab = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32) * 20
    rows, columns = max(1, shape[0] // 8), max(1, shape[1] // 8)
    found = slic.cluster(lab, rows, columns, np.float32(0.7), 5)
    with kernels.disabled():
        expected = slic.cluster(lab, rows, columns, np.float32(0.7), 5)
    assert np.array_equal(expected, slic.cluster_plain(lab, rows, columns, np.float32(0.7), 5))
    assert found.dtype == expected.dtype == np.int32
    assert (found == expected).mean() > 0.995

"""The dense CRF on a GPU, where there is one and on a pretended one: the answers of the threads' kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretend_cuda import DEVICE, NO_FIXED_ORDER
from test_crf import camvid, scene

from segwright.postprocess.crf import DenseCRF
from segwright.postprocess.crf_layer import DenseCRFLayer
from segwright.postprocess.crf_spec import PRESETS


@pytest.mark.parametrize("normalization", ["symmetric", "per-row"])
@pytest.mark.parametrize("classes", [1, 3, 12])
def test_equals_the_threads(gpu: torch.device, normalization: str, classes: int) -> None:
    image, probabilities = scene(60, 70, classes)
    crf = DenseCRF(appearance=(4, 40, 9), normalization=normalization)  # type: ignore[arg-type]
    there = crf(image, torch.from_numpy(probabilities).to(gpu))
    assert there.device == gpu and there.dtype == torch.float32
    here = crf(image, probabilities)
    assert np.abs(there.cpu().numpy() - here).max() < 2e-3
    assert (there.cpu().numpy().argmax(0) == here.argmax(0)).mean() > 0.999


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_on_camvid(gpu: torch.device, preset: str) -> None:
    image, probabilities = camvid(3)
    image, probabilities = np.ascontiguousarray(image[100:220, 150:310]), probabilities[:, 100:220, 150:310]
    crf = DenseCRF.preset(preset, iterations=3)
    there = crf(torch.from_numpy(image).to(gpu), torch.from_numpy(np.ascontiguousarray(probabilities)).to(gpu))
    here = crf(image, np.ascontiguousarray(probabilities))
    assert (there.cpu().numpy().argmax(0) == here.argmax(0)).mean() > 0.999
    assert np.abs(there.cpu().numpy() - here).mean() < 1e-4


def test_a_batch_and_half_precision(gpu: torch.device) -> None:
    pairs = [scene(20, 24, 4, seed) for seed in range(3)]
    images, probabilities = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    crf = DenseCRF(iterations=2)
    there = crf(images, torch.from_numpy(probabilities).to(gpu).half())
    assert there.dtype == torch.float16 and there.device == gpu
    assert np.abs(there.float().cpu().numpy() - crf(images, probabilities)).max() < 5e-3


def test_tiles(gpu: torch.device) -> None:
    """The same tiles with the same weights as of arrays."""
    image, probabilities = scene(70, 90, 3)
    crf = DenseCRF(smoothness=(2, 2), appearance=(3, 6, 20), iterations=3, tile_pixels=32 * 32)
    there = crf(image, torch.from_numpy(probabilities).to(gpu)).cpu().numpy()
    assert np.abs(there - crf(image, probabilities)).max() < 2e-3
    whole = DenseCRF(smoothness=(2, 2), appearance=(3, 6, 20), iterations=3)(image, probabilities)
    assert np.abs(there - whole).max() > 1e-6  # it was tiles


def test_training_through_it(gpu: torch.device) -> None:
    image, probabilities = scene(12, 14, 3)
    layers = [DenseCRFLayer(DenseCRF((0.7, 2), (0.9, 4, 30), 2)).to(device) for device in (gpu, "cpu")]
    gradients = []
    for layer, device in zip(layers, (gpu, torch.device("cpu")), strict=True):
        scores = torch.from_numpy(np.log(probabilities)).to(device)[None].requires_grad_()
        marginals = layer(torch.from_numpy(image).to(device)[None], scores.softmax(1))
        marginals[0, 1].mean().backward()
        weights = (layer.appearance_weight.grad, layer.smoothness_weight.grad)
        gradients.append([g.cpu() for g in (scores.grad, *weights) if g is not None])
    assert len(gradients[0]) == 3
    for there, here in zip(*gradients, strict=True):
        assert torch.allclose(there, here, rtol=1e-3, atol=1e-6)


def test_equal_answers_twice_where_they_are_asked_for(asked: set[str]) -> None:
    image, probabilities = scene(30, 30, 4)
    DenseCRF()(image, torch.from_numpy(probabilities).to(DEVICE))
    assert "index_add_" in asked  # has an ordered form, which use_deterministic_algorithms chooses
    assert not asked & NO_FIXED_ORDER

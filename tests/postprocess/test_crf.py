"""The dense CRF against brute force, against pydensecrf2, against itself in torch, and on bad input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segwright.core.errors import PostprocessError
from segwright.postprocess.crf import DenseCRF
from segwright.postprocess.crf_layer import DenseCRFLayer
from segwright.postprocess.crf_spec import tile_axis

CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"


def scene(height: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with soft, noisy probabilities that follow it loosely."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.float32), (0, 0), 3)
    image = (image - image.min()) / (image.max() - image.min()) * 255
    field = np.stack([cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 3) for _ in range(classes)])
    scores = field / field.std() * 1.5 + rng.normal(size=field.shape) * 0.5
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=0)
    return image.astype(np.uint8), probabilities.astype(np.float32)


def camvid(index: int, classes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A CamVid image with probabilities as a coarse network gives them: blurred, noisy ground truth."""
    if not CAMVID.exists():
        pytest.skip("no CamVid at ../shared/data")
    path = sorted((CAMVID / "val").glob("*.png"))[index]
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(CAMVID / "valannot" / path.name), 0)
    truth = np.eye(classes, dtype=np.float32)[np.minimum(mask, classes - 1)]
    noise = np.random.default_rng(index).random((45, 60, classes)).astype(np.float32)
    soft = cv2.GaussianBlur(truth, (0, 0), 8) + 0.3 * cv2.resize(noise, mask.shape[::-1])
    return image, np.ascontiguousarray((soft / soft.sum(axis=2, keepdims=True)).transpose(2, 0, 1))


def brute_force(crf: DenseCRF, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean field with the exact kernels, every pixel with every other: O(n²)."""
    height, width = image.shape[:2]
    classes = probabilities.shape[0]
    positions = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(float)
    colors = image.reshape(height * width, -1).astype(float)

    def squared(points: np.ndarray) -> np.ndarray:
        return ((points[:, None] - points[None]) ** 2).sum(axis=-1)

    (w2, sg), (w1, sa, sb) = crf.smoothness, crf.appearance
    kernels = [
        (w2, np.exp(-squared(positions) / (2 * sg**2))),
        (w1, np.exp(-squared(positions) / (2 * sa**2) - squared(colors) / (2 * sb**2))),
    ]
    unary = np.log(np.clip(probabilities.reshape(classes, -1).T.astype(float), 1e-5, 1))
    marginals = np.exp(unary) / np.exp(unary).sum(axis=1, keepdims=True)
    for _ in range(crf.iterations):
        scores = unary.copy()
        for weight, kernel in kernels:
            rows = kernel.sum(axis=1)
            normed = kernel / (np.sqrt(np.outer(rows, rows)) if crf.normalization == "symmetric" else rows[:, None])
            scores += weight * normed @ marginals
        scores -= scores.max(axis=1, keepdims=True)
        marginals = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return marginals.T.reshape(probabilities.shape)


@pytest.mark.parametrize("normalization", ["symmetric", "per-row"])
@pytest.mark.parametrize("classes", [3, 11])
def test_agrees_with_brute_force(normalization: str, classes: int) -> None:
    image, probabilities = scene(32, 40, classes)
    crf = DenseCRF((3, 3), (5, 12, 25), 10, normalization)
    ours, exact = crf(image, probabilities), brute_force(crf, image, probabilities)
    assert np.abs(ours - exact).mean() < 0.02
    assert (ours.argmax(0) == exact.argmax(0)).mean() > 0.97
    assert (probabilities.argmax(0) == exact.argmax(0)).mean() < 0.95  # the test would not see a CRF that does nothing


@pytest.mark.parametrize(
    ("preset", "normalization"),
    [("deeplab-v1", "symmetric"), ("deeplab-v2-vgg", "per-row"), ("deeplab-v2-r101", "symmetric")],
)
def test_agrees_with_pydensecrf_on_camvid(preset: str, normalization: str) -> None:
    peer = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 does not install here (Python 3.13)")
    image, probabilities = camvid(3)
    crf = DenseCRF.preset(preset, normalization=normalization)
    field = peer.DenseCRF2D(image.shape[1], image.shape[0], probabilities.shape[0])
    field.setUnaryEnergy(-np.log(np.clip(probabilities, 1e-5, 1)).reshape(len(probabilities), -1))
    norm = peer.NORMALIZE_SYMMETRIC if normalization == "symmetric" else peer.NORMALIZE_AFTER
    (w2, sg), (w1, sa, sb) = crf.smoothness, crf.appearance
    field.addPairwiseGaussian(sxy=sg, compat=w2, normalization=norm)
    field.addPairwiseBilateral(sxy=sa, srgb=sb, rgbim=image, compat=w1, normalization=norm)
    theirs = np.array(field.inference(crf.iterations)).reshape(probabilities.shape)
    ours = crf(image, probabilities)
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9995
    assert np.abs(ours - theirs).mean() < 1e-4


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("classes", [2, 7, 12, 21])
def test_torch_and_threads_agree(classes: int, threads: int) -> None:
    """Every vector width (4, 8, 16 lanes; one and more vectors a pixel), one thread and several, against float64."""
    image, probabilities = scene(120, 130, classes, seed=classes)
    crf = DenseCRF(iterations=3, threads=threads, appearance=(4, 40, 9))
    exact = crf(image, torch.from_numpy(probabilities).double()).numpy()
    assert np.abs(crf(image, probabilities) - exact).max() < 2e-3
    assert np.abs(crf(image, probabilities) - exact).mean() < 1e-6


def test_batches_equal_single_images() -> None:
    pairs = [scene(20, 24, 4, seed) for seed in range(3)]
    images, probabilities = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    crf = DenseCRF(iterations=2)
    single = np.stack([crf(*pair) for pair in pairs])
    assert np.array_equal(crf(images, probabilities), single)
    together = crf(torch.from_numpy(images), torch.from_numpy(probabilities).double())
    assert np.abs(together.numpy() - single).max() < 1e-4
    assert crf(torch.from_numpy(images), torch.from_numpy(probabilities)).dtype == torch.float32


def test_gradients_are_those_of_finite_differences() -> None:
    image, probabilities = scene(4, 4, 2)
    layer = DenseCRFLayer(DenseCRF((0.7, 2), (0.9, 4, 30), 2)).double()
    images = torch.from_numpy(image)[None]
    scores = torch.from_numpy(np.log(probabilities)).double()[None].requires_grad_()

    def run(scores: torch.Tensor, appearance: torch.Tensor, smoothness: torch.Tensor) -> torch.Tensor:
        weights = {"appearance_weight": appearance, "smoothness_weight": smoothness}
        return torch.func.functional_call(layer, weights, (images, torch.softmax(scores, 1)))

    weights = [w.detach().clone().requires_grad_() for w in (layer.appearance_weight, layer.smoothness_weight)]
    assert torch.autograd.gradcheck(run, (scores, *weights), eps=1e-6, atol=1e-6)


def test_seams_of_tiles_do_not_show() -> None:
    image, probabilities = camvid(5)
    crf = DenseCRF((3, 3), (4, 30, 5), 5)
    whole = crf(image, probabilities)
    tiled = DenseCRF((3, 3), (4, 30, 5), 5, tile_pixels=160 * 160)(image, probabilities)
    assert np.allclose(tiled.sum(axis=0), 1, atol=1e-4)
    assert (whole.argmax(0) == tiled.argmax(0)).mean() > 0.995
    # A seam would be a step in the difference to the untiled answer: it is as smooth at seams as anywhere.
    steps = np.abs(np.diff(np.abs(whole - tiled).mean(axis=0), axis=1)).mean(axis=0)
    seams = [edge for columns, _ in tile_axis(480, 160, 60) for edge in (columns.start, columns.stop) if 0 < edge < 480]
    assert steps[[edge - 1 for edge in seams]].mean() < 3 * steps.mean() + 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_small_images(shape: tuple[int, int], classes: int) -> None:
    probabilities = np.full((classes, *shape), 1 / classes, np.float32)
    answer = DenseCRF()(np.zeros((*shape, 3), np.uint8), probabilities)
    assert answer.shape == probabilities.shape
    assert np.allclose(answer, 1 / classes, atol=1e-5)


def test_one_color_and_gray_and_many_channels() -> None:
    _, probabilities = scene(30, 30, 4)
    for channels in (1, 3, 4):
        answer = DenseCRF()(np.full((30, 30, channels), 200, np.uint8), probabilities)
        assert np.isfinite(answer).all() and np.allclose(answer.sum(axis=0), 1, atol=1e-4)


def test_zero_weights_leave_a_kernel_out() -> None:
    image, probabilities = scene(20, 20, 3)
    nothing = DenseCRF((0, 3), (0, 140, 5))(image, probabilities)
    assert np.abs(nothing - probabilities).max() < 1e-4
    smooth = DenseCRF((3, 3), (0, 140, 5))
    assert np.abs(smooth(image, probabilities) - brute_force(smooth, image, probabilities)).mean() < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p * 1.5, "sum to one"),
        (lambda p: np.where(p == p.max(), np.nan, p), "NaN"),
        (lambda p: np.log(p + 1e-9), "value of -"),
        (lambda p: p[:, :-1], "do not fit each other"),
        (lambda p: p[:0], "do not fit each other"),
        (lambda p: (p * 255).astype(np.uint8), "floats"),
    ],
)
def test_bad_probabilities_are_named(change: object, words: str) -> None:
    image, probabilities = scene(20, 20, 3)
    bad = change(probabilities)  # type: ignore[operator]
    for given in (bad, torch.from_numpy(np.ascontiguousarray(bad))):
        with pytest.raises(PostprocessError, match=words):
            DenseCRF()(image, given)


@pytest.mark.parametrize(
    "arguments",
    [
        {"smoothness": (1, 0)},
        {"appearance": (1, 2, float("nan"))},
        {"appearance": (-1, 2, 3)},
        {"appearance": (1, 2)},
        {"normalization": "both"},
        {"iterations": -1},
        {"threads": 0},
    ],
)
def test_bad_parameters_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(PostprocessError):
        DenseCRF(**arguments)  # type: ignore[arg-type]


def test_sigmas_too_small_to_number_are_named() -> None:
    image, probabilities = scene(20, 20, 3)
    with pytest.raises(PostprocessError, match="sigmas are too small"):
        DenseCRF(appearance=(1, 1e-4, 1e-4))(image, probabilities)
    with pytest.raises(PostprocessError, match="unknown CRF preset"):
        DenseCRF.preset("deeplab")


@pytest.mark.parametrize("name", ["deeplab-v1", "deeplab-v2-vgg", "deeplab-v2-r101"])
def test_presets_are_per_row_as_deeplabs_code_and_symmetric_by_name(name: str) -> None:
    crf, twin = DenseCRF.preset(name), DenseCRF.preset(f"{name}-symmetric")
    assert crf.normalization == "per-row" and twin.normalization == "symmetric"
    assert (crf.smoothness, crf.appearance, crf.iterations) == (twin.smoothness, twin.appearance, 10)
    image, probabilities = scene(20, 24, 3)
    assert np.abs(crf(image, probabilities) - twin(image, probabilities)).max() > 1e-3


@pytest.mark.parametrize(("length", "side", "overlap"), [(100, 40, 10), (101, 37, 18), (41, 40, 10), (7, 40, 10)])
def test_tile_weights_sum_to_one(length: int, side: int, overlap: int) -> None:
    total = np.zeros(length)
    for place, weights in tile_axis(length, side, overlap):
        total[place] += weights
    assert np.allclose(total, 1, atol=1e-6)

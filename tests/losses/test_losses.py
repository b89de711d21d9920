"""Every loss: against brute force and torch's own, gradcheck, and the cases that make others NaN."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from segwright.core.errors import LabelError, UsageError
from segwright.losses import create_loss
from segwright.losses.border import border_map
from segwright.losses.catalog import LOSSES, parse_loss
from segwright.losses.class_weights import class_weights

EVERY = [*LOSSES, "ce(smoothing=0.1)", "lovasz(per_image=true)", "dice(smooth=1)", "border(background=1)",
         "ce+dice", "0.5*ce+0.5*lovasz"]  # fmt: skip
WEIGHTS = [0.5, 2.0, 1.0, 0.25]


def batch(
    seed: int = 0, shape: tuple[int, ...] = (2, 4, 9, 8), dtype: torch.dtype = torch.float64, ignored: float = 0.2
) -> Any:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=dtype) * 2
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


# ---------------------------------------------------------------------------------------------------------------------
# Brute force: pixel by pixel, in Python floats


def pixels_of(logits: Any, target: Any) -> list[tuple[list[float], int]]:
    p = torch.softmax(logits.detach().double(), 1).permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).tolist()
    return [(row, t) for row, t in zip(p, target.flatten().tolist(), strict=True) if t != 255]


def brute_ce(pixels: Any, w: list[float], gamma: float = 0.0) -> float:
    over = sum(w[t] * (1 - p[t]) ** gamma * -math.log(p[t]) for p, t in pixels)
    return over / sum(w[t] for _, t in pixels)


def brute_tversky(pixels: Any, w: list[float], alpha: float, beta: float, power: float = 1.0) -> float:
    total = weight = 0.0
    for k in {t for _, t in pixels}:
        tp = sum(p[k] for p, t in pixels if t == k)
        fp = sum(p[k] for p, t in pixels if t != k)
        fn = sum(1 - p[k] for p, t in pixels if t == k)
        total += w[k] * (1 - tp / (tp + alpha * fp + beta * fn)) ** power
        weight += w[k]
    return total / weight


def brute_lovasz(pixels: Any, w: list[float]) -> float:
    """The Lovász extension by its definition: Σ e_(i) · (Δ of the Jaccard loss as mispredictions grow)."""
    total = weight = 0.0
    for k in {t for _, t in pixels}:
        errors = sorted(((1 - p[k] if t == k else p[k], t == k) for p, t in pixels), reverse=True)
        truth = sum(fg for _, fg in errors)
        value = before = 0.0
        for i, (error, _) in enumerate(errors):
            missed = sum(fg for _, fg in errors[: i + 1])
            now = 1 - (truth - missed) / (truth + (i + 1 - missed))
            value, before = value + error * (now - before), now
        total, weight = total + w[k] * value, weight + w[k]
    return total / weight


def brute_ohem(pixels: Any, w: list[float], threshold: float, share: float) -> float:
    hard = [(p, t) for p, t in pixels if p[t] < threshold]
    least = max(1, round(share * len(pixels)))
    if len(hard) < least:
        hard = sorted(pixels, key=lambda pixel: pixel[0][pixel[1]])[:least]
    return brute_ce(hard, w)


BRUTE = {
    "ce": brute_ce,
    "focal": lambda px, w: brute_ce(px, w, 2.0),
    "focal(gamma=0.5)": lambda px, w: brute_ce(px, w, 0.5),
    "dice": lambda px, w: brute_tversky(px, w, 0.5, 0.5),
    "jaccard": lambda px, w: brute_tversky(px, w, 1, 1),
    "tversky": lambda px, w: brute_tversky(px, w, 0.3, 0.7),
    "tversky(alpha=1,beta=0.25)": lambda px, w: brute_tversky(px, w, 1, 0.25),
    "focal-tversky": lambda px, w: brute_tversky(px, w, 0.3, 0.7, 3 / 4),
    "lovasz": brute_lovasz,
    "ohem": lambda px, w: brute_ohem(px, w, 0.7, 0.25),
    "ohem(threshold=0.01,share=0.3)": lambda px, w: brute_ohem(px, w, 0.01, 0.3),
    "0.5*ce+2*dice": lambda px, w: 0.5 * brute_ce(px, w) + 2 * brute_tversky(px, w, 0.5, 0.5),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", BRUTE)
def test_equals_brute_force(name: str, weighted: bool) -> None:
    logits, target = batch()
    loss = create_loss(name, classes=4, class_weights=WEIGHTS if weighted else None)
    expected = BRUTE[name](pixels_of(logits, target), WEIGHTS if weighted else [1.0] * 4)
    assert float(loss(logits, target).detach()) == pytest.approx(expected, rel=1e-9)
    assert float(loss(logits.float(), target).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_torch_s(smoothing: float, weights: Any, layout: torch.memory_format, dtype: Any) -> None:
    logits, target = batch(1, (2, 4, 37, 41), dtype)
    mine = logits.detach().contiguous(memory_format=layout).requires_grad_()
    loss = create_loss(f"ce(smoothing={smoothing})", classes=4, class_weights=weights)(mine, target.to(torch.uint8))
    w = None if weights is None else torch.tensor(weights, dtype=dtype)
    theirs = F.cross_entropy(logits, target, w, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(loss, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value * 3, x)[0] for value, x in ((loss, mine), (theirs, logits))))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_gradients_are_the_slopes(name: str, weights: Any) -> None:
    logits, target = batch(2, (2, 4, 4, 3))
    loss = create_loss(name, classes=4, class_weights=weights)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,), eps=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# What must never be NaN


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_all_ignored_is_zero_with_a_graph(name: str, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 4, 6, 5, dtype=torch.float32).to(dtype).requires_grad_()
    loss = create_loss(name, classes=4, class_weights=WEIGHTS)(logits, torch.full((2, 6, 5), 255))
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("content", ["one class", "half ignored", "one pixel", "perfect", "all wrong"])
def test_missing_classes_and_extreme_logits_stay_finite(name: str, scale: float, content: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6, 5), torch.full((2, 6, 5), 2)
    if content == "half ignored":
        target[0] = 255
    elif content == "one pixel":
        target[:] = 255
        target[1, 3, 2] = 1
    elif content in ("perfect", "all wrong"):
        target = torch.randint(0, 4, (2, 6, 5))
        shown = target if content == "perfect" else (target + 1) % 4
        logits = F.one_hot(shown, 4).permute(0, 3, 1, 2).float() * 50
    logits = (logits * scale).requires_grad_()
    loss = create_loss(name, classes=4)(logits, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and float(loss.detach()) >= 0


@pytest.mark.parametrize("name", EVERY)
def test_ignored_pixels_have_no_say(name: str) -> None:
    logits, target = batch(3)
    loss = create_loss(name, classes=4)
    (slope,) = torch.autograd.grad(loss(logits, target), logits)
    void = (target == 255)[:, None].expand_as(slope)
    assert void.any() and not slope[void].any()
    if not name.startswith("border"):
        other = torch.where(void, torch.randn_like(logits) * 9, logits.detach())
        assert float(loss(other, target)) == pytest.approx(float(loss(logits.detach(), target)), rel=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_one_class_is_no_error(name: str) -> None:
    if "background=1" in name:
        pytest.skip("there is no class 1")
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = create_loss(name, classes=1)(logits, torch.zeros(1, 4, 4, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reduced_in_fp32(name: str, dtype: torch.dtype) -> None:
    logits, target = batch(4, (2, 4, 16, 16), torch.float32)
    half = logits.detach().to(dtype)
    loss = create_loss(name, classes=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half.requires_grad_(), target)
        value.backward()
    assert value.dtype == torch.float32 and half.grad.dtype == dtype
    assert float(value.detach()) == pytest.approx(float(loss(half.detach().float(), target)), rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_few_steps_down_the_slope_learn_the_target(name: str) -> None:
    torch.manual_seed(5)
    target = torch.randint(0, 4, (1, 8, 8))
    logits = torch.zeros(1, 4, 8, 8, requires_grad=True)
    loss, optimizer = create_loss(name, classes=4), torch.optim.Adam([logits], lr=0.3)
    first = float(loss(logits, target).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert (logits.argmax(1) == target).float().mean() > 0.95
    assert float(loss(logits, target).detach()) < 0.6 * first


# ---------------------------------------------------------------------------------------------------------------------
# Single precision, memory formats, integer types


NAMES = ["ce", "ce(smoothing=0.1)", "focal", "dice", "jaccard", "tversky", "focal-tversky", "border",
         "ce(smoothing=0.1)+dice", "0.3*focal+2*jaccard+ce(smoothing=0.2)"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, "sliced"])
@pytest.mark.parametrize("shape", [(3, 4, 37, 41), (1, 1, 16, 8), (1, 19, 11, 13), (2, 2, 1, 130)])
def test_single_precision_agrees_with_double(name: str, layout: Any, shape: tuple[int, ...]) -> None:
    """Value and gradient in fp32 against fp64, with logits of all magnitudes."""
    double, target = batch(11, shape)
    double = (double.detach() * torch.linspace(0.1, 9, shape[-1])).requires_grad_()
    weights = torch.linspace(0.5, 2, shape[1])
    single = double.detach().float()
    if isinstance(layout, str):
        single = torch.cat([single, single], 3)[..., : shape[3]]
    else:
        single = single.contiguous(memory_format=layout)
    single.requires_grad_()
    loss = create_loss(name, classes=shape[1], class_weights=weights)
    mine, exact = loss(single, target), loss(double, target)
    torch.testing.assert_close(mine.double(), exact, rtol=5e-6, atol=1e-7)
    slopes = torch.autograd.grad(mine * 3, single)[0], torch.autograd.grad(exact * 3, double)[0]
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-4, atol=1e-7)


def test_every_integer_type_and_no_gradient() -> None:
    logits, target = batch(13, (2, 4, 20, 20), torch.float32)
    loss = create_loss("ce+dice", classes=4)
    expected = float(loss(logits, target).detach())
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        with torch.no_grad():
            assert float(loss(logits, target.to(dtype))) == pytest.approx(expected, rel=1e-6)
    assert float(loss(logits[:, :, ::2, ::3].detach(), target[:, ::2, ::3])) > 0


@pytest.mark.parametrize("name", EVERY)
def test_an_edit_of_the_logits_after_the_forward_pass_changes_no_gradient_in_silence(name: str) -> None:
    """As with torch's own losses: the gradient is the right one, or autograd raises."""
    weight, target = batch(14, dtype=torch.float32)
    loss = create_loss(name, classes=4)
    expected = torch.autograd.grad(loss(weight * 1, target), weight)[0]
    logits = weight * 1
    value = loss(logits, target)
    with torch.no_grad():
        logits.mul_(3)
    try:
        found = torch.autograd.grad(value, weight)[0]
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------------------------------------------------------------
# The border map


@pytest.mark.parametrize("background", [0, None])
def test_border_map_is_the_formula(background: int | None) -> None:
    rng = np.random.default_rng(0)
    mask = (ndimage.gaussian_filter(rng.normal(size=(60, 70)), 4) > 0.02).astype(np.uint8)
    mask[ndimage.gaussian_filter(rng.normal(size=(60, 70)), 5) > 0.06] = 2
    mask[:6, :9] = 255
    objects = []
    for value in (0, 1, 2):
        if value != background:
            labels, count = ndimage.label(mask == value, structure=np.ones((3, 3)))
            objects += [labels == i for i in range(1, count + 1)]
    distances = np.sort(np.stack([ndimage.distance_transform_edt(~region) for region in objects]), axis=0)
    expected = 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5**2))
    found = border_map(mask, w0=10, sigma=5, background=background, ignore=255)
    assert len(objects) > 3 and found.max() > 5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=10 * math.exp(-17))


def test_border_loss_uses_the_map() -> None:
    logits = batch(6, (1, 2, 12, 12), ignored=0)[0].detach()
    target = torch.zeros(1, 12, 12, dtype=torch.long)
    target[:, :, :5] = 1
    target[:, :, 7:] = 1  # two cells, a membrane two pixels wide between them
    loss = create_loss("border(w0=10,sigma=5)", classes=2)
    weight = torch.from_numpy(border_map(target[0].numpy(), w0=10, sigma=5, background=0, ignore=255)) + 1
    assert float(weight[4, 5]) == pytest.approx(1 + 10 * math.exp(-9 / 50), rel=1e-5)  # d1 = 1, d2 = 2
    expected = (F.cross_entropy(logits, target, reduction="none")[0] * weight).sum() / weight.sum()
    assert float(loss(logits, target)) == pytest.approx(float(expected), rel=1e-6)
    published = create_loss("border", classes=2)  # w0 and sigma of the paper are the defaults
    assert float(published(logits, target)) == pytest.approx(float(expected), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Names, sums, errors


def test_sums_are_sums() -> None:
    logits, target = batch(7)
    logits = logits.detach()
    one = {name: float(create_loss(name, classes=4)(logits, target)) for name in LOSSES}
    for first, second in itertools.combinations(LOSSES, 2):
        text = f"0.3*{first} + {second}"
        both = create_loss(text, classes=4)
        assert float(both(logits, target)) == pytest.approx(0.3 * one[first] + one[second], rel=1e-9)
        assert both.values(logits, target).tolist() == pytest.approx([0.3 * one[first], one[second]])


def test_texts() -> None:
    terms = parse_loss("1e-1*CE(smoothing=0.05) + 2 * Focal_Tversky( alpha=0.3, gamma=1.5 )+iou")
    assert [str(term) for term in terms] == [
        "0.1*ce(smoothing=0.05)",
        "2*focal-tversky(alpha=0.3,gamma=1.5)",
        "jaccard",
    ]
    assert parse_loss("1e+1*ce")[0].weight == 10
    assert parse_loss("boundary(w0=5)")[0].name == "border"


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "ce+", "ce++dice", "ce*2", "0*ce", "-1*ce", "ce(smoothing)", "ce(smoothing=x)", "ce(alpha=1)",
     "ce(smoothing=2)", "focal(gamma=-1)", "ohem(share=0)", "tversky(alpha=0,beta=0)", "border(sigma=0)", "ce(",
     "nan*ce", "ce(smoothing=0.1,smoothing=0.1)", "border(background=9)", "focal-tversky(gamma=0)",
     "ce dice", "1e999*ce"],
)  # fmt: skip
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        create_loss(text, classes=4)


def test_errors_name_what_can_stand_there() -> None:
    with pytest.raises(UsageError, match=r"ce, focal, dice, jaccard.*lovasz.*ohem"):
        create_loss("cee+dice", classes=3)
    with pytest.raises(UsageError, match=r"gamma=2.0"):
        create_loss("focal(gama=1)", classes=3)


def test_shapes_and_values_are_checked() -> None:
    loss = create_loss("ce", classes=4)
    logits, target = batch(8)
    for bad in ((logits[:, :3], target), (logits, target[:1]), (logits[0], target), (logits, target.double())):
        with pytest.raises(UsageError):
            loss(*bad)
    for value in (4, -1, 200):
        wrong = target.clone()
        wrong[0, 0, 0] = value
        with pytest.raises(LabelError, match=str(value)):
            loss(logits, wrong)
    for weights in ([1.0, 2.0], [1, 1, 1, float("nan")], [0, 0, 0, 0], [1, 1, 1, -1]):
        with pytest.raises(UsageError):
            create_loss("ce", classes=4, class_weights=weights)


def test_other_ignore_index() -> None:
    logits, target = batch(9)
    logits = logits.detach()
    for name in EVERY:
        expected = float(create_loss(name, classes=4)(logits, target))
        other = torch.where(target == 255, torch.tensor(-100), target)
        assert float(create_loss(name, classes=4, ignore_index=-100)(logits, other)) == pytest.approx(expected)


def test_weights_are_no_parameters_and_move_with_the_module() -> None:
    loss = create_loss("ce+dice", classes=4, class_weights=WEIGHTS)
    assert not list(loss.parameters()) and not loss.state_dict()
    moved = loss.to("meta")
    assert all(buffer.device.type == "meta" for buffer in moved.buffers())


# ---------------------------------------------------------------------------------------------------------------------
# Class weights


def test_class_weight_rules() -> None:
    pixels = [600, 300, 100, 0]
    around = [1000, 500, 1000, 0]
    weights, reason = class_weights("none", pixels)
    assert weights is None and reason
    inverse, _ = class_weights("inverse", pixels)
    assert inverse is not None and inverse.tolist() == pytest.approx([1000 / 1800, 1000 / 900, 1000 / 300, 1])
    median, _ = class_weights("median", pixels, around)  # frequencies .6 .6 .1
    assert median is not None and median.tolist() == pytest.approx([1, 1, 6, 1])
    root, reason = class_weights("sqrt-median", pixels, around)
    assert root is not None and root.tolist() == pytest.approx([1, 1, math.sqrt(6), 1])
    assert "10 % to 60 %" in reason and "2.45" in reason
    effective, _ = class_weights("effective", pixels)
    assert effective is not None
    numbers = [(1 - (1 - 1 / 300) ** n) / (1 / 300) for n in pixels[:3]]
    ratio = np.array([1 / n for n in numbers])
    np.testing.assert_allclose(effective[:3], ratio / ratio.mean(), rtol=1e-5)
    listed, _ = class_weights("[1, 2.5, 3 4]", pixels)
    assert listed is not None and listed.tolist() == [1, 2.5, 3, 4]
    for bad in ("balanced", "[1, 2]", "[1, 2, x, 4]", "[0,0,0,0]", "[1,1,1,-2]"):
        with pytest.raises(UsageError):
            class_weights(bad, pixels)
    assert class_weights("median", [0, 0])[0] is None


def test_segnets_published_class_weights_by_name() -> None:
    names = ["Sky", "Building", "Column_Pole", "Road", "Sidewalk", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
             "Bicyclist"]  # fmt: skip
    published = [0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614]
    weights, reason = class_weights("segnet", np.ones(11), names=names)
    assert weights is not None and weights.tolist() == pytest.approx(published) and "SegNet" in reason
    turned, _ = class_weights("segnet", np.ones(11), names=names[::-1])
    assert turned is not None and turned.tolist() == pytest.approx(published[::-1])
    for other in (None, names[:10], [*names[:10], "road"]):
        with pytest.raises(UsageError, match="eleven classes"):
            class_weights("segnet", np.ones(11), names=other)

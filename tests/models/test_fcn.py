"""FCN-32s/16s/8s against the released net.py, restated here layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fixed_weights import (
    PRIOR_ENTROPY,
    TINY,
    arithmetic_weights,
    assert_golden,
    convolution,
    grid_centers,
    lesson,
    lesson_loss,
    linearize,
    make_image,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import vgg16

from segwright.core.errors import ModelError, WeightsError
from segwright.models.base import count_parameters
from segwright.models.encoders.vgg import VGGTrunk, load_vgg16_trunk
from segwright.models.fcn import AT_ONCE_SCALES, FCN, MODELS, bilinear_kernel


def tiny(stride: int = 8, **arguments: object) -> FCN:
    return FCN(classes=3, stride=stride, widths=TINY, fc_channels=8, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "form", "expected"),
    [
        (21, "full", 134_489_759),
        (21, "depthwise", 134_362_751),
        (11, "full", 134_348_929),
        (11, "depthwise", 134_314_081),
    ],
)
def test_parameters_of_fcn8s(classes: int, form: str, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(MODELS["fcn8s"](classes=classes, deconvolution=form)) == expected


def released(model: FCN, x: Tensor) -> Tensor:
    """voc-fcn{32,16,8}s/net.py with the crops of its Crop layers, from the state dict alone."""
    state = model.state_dict()
    height, width = x.shape[-2:]
    pools = []
    for level, count in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, count + 1):
            x = F.relu(convolution(state, f"trunk.conv{level}_{i}", x, padding=100 if (level, i) == (1, 1) else 1))
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        pools.append(x)
    x = F.relu(convolution(state, "fc7", F.relu(convolution(state, "fc6", x))))
    x = convolution(state, "score_fr", x)

    def up(x: Tensor, size: int) -> Tensor:
        weight = torch.zeros(3, 3, size, size)
        for k in range(3):
            for i in range(size):
                for j in range(size):
                    factor, center = size // 2, size / 2 - 0.5
                    weight[k, k, i, j] = (1 - abs(i - center) / factor) * (1 - abs(j - center) / factor)
        return F.conv_transpose2d(x, weight, stride=size // 2)

    for name, pool, offset, scale in (("pool4", 3, 5, 0), ("pool3", 2, 9, 1)):
        if f"score_{name}.weight" in state:
            x = up(x, 4)
            skip = convolution(state, f"score_{name}", pools[pool] * model.skip_scales[scale])
            x = x + skip[..., offset : offset + x.shape[-2], offset : offset + x.shape[-1]]
    offset = {32: 19, 16: 27, 8: 31}[model.stride]
    return up(x, 2 * model.stride)[..., offset : offset + height, offset : offset + width]


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(1, 1), (37, 50)])
def test_logits_are_those_of_the_released_network(stride: int, size: tuple[int, int]) -> None:
    model = arithmetic_weights(tiny(stride, skip_scales=AT_ONCE_SCALES))
    assert isinstance(model, FCN)
    images = make_image(*size)
    with torch.no_grad():
        expected = released(model, model.normalize(images))
        torch.testing.assert_close(model(images).logits, expected, atol=1e-5, rtol=1e-4)
        assert expected.abs().max() > 0.01


def test_golden_logits() -> None:
    for stride, expected in GOLDEN.items():
        model = arithmetic_weights(tiny(stride))
        assert isinstance(model, FCN)
        assert_golden(model, expected)


@pytest.mark.parametrize(
    ("stride", "path"), [(32, "fr"), (16, "fr"), (16, "pool4"), (8, "fr"), (8, "pool4"), (8, "pool3")]
)
def test_every_path_looks_at_the_pixel_it_answers_for(stride: int, path: str) -> None:
    """Bilinear interpolation keeps linear functions: with exact crops the gradient's centroid is the pixel itself."""
    model = FCN(classes=1, in_channels=1, stride=stride, widths=(1,) * 5, fc_channels=1)
    linearize(model)
    for name in ("score_fr", "score_pool4", "score_pool3"):
        if hasattr(model, name) and name != f"score_{path}":
            torch.nn.init.zeros_(getattr(model, name).weight)
    rows = [243, 250, 255]
    assert grid_centers(model, (500, 4), rows) == pytest.approx(rows, abs=0.02)


def test_deconvolutions_are_bilinear_and_frozen() -> None:
    kernel = bilinear_kernel(4)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(kernel, line[:, None] * line[None, :])
    model = tiny()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"upscore2.weight", "upscore_pool4.weight", "upscore.weight"}
    weight = model.upscore.weight
    assert weight.shape == (3, 3, 16, 16)
    torch.testing.assert_close(weight[1, 1], bilinear_kernel(16))
    assert weight[0, 1].abs().max() == 0
    # inside, stride-8 upsampling is interpolation: it reproduces a ramp
    ramp = model.upscore(torch.arange(6.0).expand(1, 3, 6, 6))[0, 0, 24]
    torch.testing.assert_close(ramp[8:48].diff(), torch.full((39,), 1 / 8))


def test_both_forms_of_deconvolution_agree() -> None:
    full, light = tiny(), tiny(deconvolution="depthwise")
    arithmetic_weights(full)
    missing = light.eval().load_state_dict(
        {name: value for name, value in full.state_dict().items() if not name.startswith("upscore")}
    )
    assert not missing.missing_keys
    with torch.no_grad():
        torch.testing.assert_close(
            full(make_image(20, 31)).logits, light(make_image(20, 31)).logits, atol=1e-6, rtol=1e-5
        )


def test_scores_start_at_zero_or_small() -> None:
    with torch.no_grad():
        assert tiny()(make_image(9, 9)).logits.abs().max() == 0
    ours = tiny(init="he")
    assert 0 < ours.score_fr.weight.std() < 0.02


def test_without_pretrained_weights_the_trunk_starts_as_he_et_al_and_learns_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    model = FCN(classes=3, widths=(8, 12, 16, 16, 16), fc_channels=32)
    for conv in (*(part for part in model.trunk.modules() if isinstance(part, torch.nn.Conv2d)), model.fc6, model.fc7):
        fan_in, count = conv.weight[0].numel(), conv.weight.numel()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=5 / count**0.5)
    images, target = lesson()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def gradient(part: torch.nn.Module) -> float:
        return max(float(p.grad.abs().max()) for p in part.parameters() if p.grad is not None)

    for scores_are_zero in (True, False):
        optimizer.zero_grad()
        F.cross_entropy(model(images).logits, target).backward()
        assert gradient(model.score_fr) > 0 and gradient(model.score_pool3) > 0
        assert (gradient(model.trunk) == 0) is scores_are_zero
        optimizer.step()


def test_staged_training_starts_where_the_coarser_net_stopped() -> None:
    coarse, fine = tiny(32), tiny(16, init="he")
    arithmetic_weights(coarse)
    with torch.no_grad():
        coarse.score_fr.weight.zero_()  # constant scores: both upsample them to the same constant
    taken = fine.eval().start_from(coarse)
    assert "fc6.weight" in taken and not any("upscore" in name for name in taken)
    with torch.no_grad():  # at the outermost scores two bilinear steps fade otherwise than one: compare inside
        before, after = (model(make_image(96, 96)).logits[..., 30:70, 30:70] for model in (coarse, fine))
    assert before.abs().max() > 0.01
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    with pytest.raises(WeightsError, match="coarser form"):
        coarse.start_from(fine)


def test_at_once_scales() -> None:
    assert AT_ONCE_SCALES == (0.01, 0.0001)
    plain, scaled = tiny(), tiny(skip_scales=AT_ONCE_SCALES)
    arithmetic_weights(plain)
    arithmetic_weights(scaled)
    with torch.no_grad():  # the same as scaling the score layers' weights
        for layer, factor in ((plain.score_pool4, 0.01), (plain.score_pool3, 0.0001)):
            layer.weight.mul_(factor)
        torch.testing.assert_close(
            scaled(make_image(20, 31)).logits, plain(make_image(20, 31)).logits, atol=1e-5, rtol=1e-4
        )


def test_caffe_pixels_are_bgr_minus_mean() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 1, 3)
    got = tiny(input_scale="caffe").normalize(image).flatten()
    torch.testing.assert_close(got, torch.tensor([30 - 104.00699, 20 - 116.66877, 10 - 122.67892]), atol=1e-4, rtol=0)
    raw = tiny(input_scale="raw").normalize(image).flatten()
    torch.testing.assert_close(raw, torch.tensor([30.0, 20.0, 10.0]))


def test_torchvision_vgg16_trunk_agrees() -> None:
    """With torchvision's state dict, our trunk (padding 1 for the test) gives torchvision's features."""
    torch.manual_seed(0)
    peer = vgg16(weights=None).eval()
    model = FCN(classes=2, stride=32, fc_channels=4)  # a full trunk, a small fc6: the classifier is thinned into it
    state = peer.state_dict()
    loaded = model.eval().load_pretrained(state)
    assert len(loaded) == 15
    kept = state["classifier.0.weight"].reshape(4096, 512, 7, 7)[::1024]
    torch.testing.assert_close(model.fc6.weight, kept)
    model.trunk.conv1_1.padding = (1, 1)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.trunk(x)[-1], peer.features(x), atol=1e-5, rtol=1e-4)
    gray = VGGTrunk(pools=[torch.nn.Identity()] * 5, in_channels=1)
    load_vgg16_trunk(gray, state, bgr=False)
    torch.testing.assert_close(gray.conv1_1.weight, state["features.0.weight"].sum(1, keepdim=True))
    load_vgg16_trunk(model.trunk, state, bgr=True)
    torch.testing.assert_close(model.trunk.conv1_1.weight, state["features.0.weight"].flip(1))
    with pytest.raises(WeightsError, match="other pixels"):
        tiny(input_scale="caffe").load_pretrained(state)
    with pytest.raises(WeightsError, match="does not fit"):
        tiny().load_pretrained(state)


def test_state_dict_survives_safetensors(tmp_path: Path) -> None:
    model = arithmetic_weights(tiny())
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    again = tiny().eval()
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    with torch.no_grad():
        assert torch.equal(model(make_image(5, 7)).logits, again(make_image(5, 7)).logits)


def test_unknown_stride_and_pixels_are_explained() -> None:
    with pytest.raises(ModelError, match="stride"):
        FCN(classes=2, stride=4)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="pixel convention"):
        FCN(classes=2, input_scale="bgr", widths=TINY, fc_channels=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", ["paper", "he"])
def test_it_learns_from_scratch(init: str) -> None:
    torch.manual_seed(0)
    model = FCN(classes=3, widths=(8, 12, 16, 16, 16), fc_channels=32, init=init, dropout=0.1)  # type: ignore[arg-type]
    assert lesson_loss(model, rate=3e-3, steps=25) < 0.5 * PRIOR_ENTROPY


GOLDEN: dict[int, list[float]] = {
    32: [9.798956, 11.8552, 23.84183, 3.659631, 23.75251, 18.78699],
    16: [13.68629, 13.46783, 19.55553, 6.077078, 22.43052, 17.61278],
    8: [10.57443, 15.48127, 16.07364, 0.1511909, 24.07332, 16.13495],
}

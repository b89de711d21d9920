"""U-Net 2015: valid convolutions, mirrored borders, and the two forms in common use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixed_weights import PRIOR_ENTROPY, TINY, arithmetic_weights, assert_golden, convolution, lesson_loss, make_image

from segwright.core.errors import ModelError
from segwright.models.base import count_parameters
from segwright.models.unet_2015 import Form, UNet2015


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"in_channels": 1, "classes": 2}, 31_030_658),
        ({"classes": 2}, 31_031_810),
        ({"classes": 11}, 31_032_395),
        ({"in_channels": 1, "classes": 2, "form": "release"}, 31_100_354),
        ({"classes": 2, "padding": "same", "norm": "batch"}, 31_037_698),
        ({"classes": 2, "padding": "same", "norm": "batch", "upsampling": "bilinear"}, 17_263_042),
    ],
)
def test_parameters(arguments: dict[str, object], expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(UNet2015(**arguments)) == expected  # type: ignore[arg-type]


def test_572_become_388() -> None:
    with torch.device("meta"):
        model = UNet2015(classes=2, in_channels=1)
        assert model.forward_padded(torch.empty(1, 1, 572, 572)).logits.shape == (1, 2, 388, 388)
        assert model.pad(torch.empty(1, 1, 388, 388)).shape == (1, 1, 572, 572)


def test_the_border_is_mirrored_as_numpy_reflects() -> None:
    model = UNet2015(classes=2, in_channels=1, widths=(2, 2, 2, 2, 2))
    assert model.margin == 92
    for height, width in ((388, 150), (5, 1), (1, 2)):
        x = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
        padded = model.pad(x)
        below, right = padded.shape[2] - 92 - height, padded.shape[3] - 92 - width
        expected = np.pad(x[0, 0].numpy(), ((92, below), (92, right)), mode="reflect")
        np.testing.assert_array_equal(padded[0, 0].numpy(), expected)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_logits_by_the_figure_of_the_paper_and_by_the_release(form: Form) -> None:
    model = arithmetic_weights(UNet2015(classes=3, widths=TINY, form=form))
    assert isinstance(model, UNet2015)
    images = make_image(21, 30)
    state = model.state_dict()
    with torch.no_grad():
        x = model.normalize(images).numpy()
        below = [(4 + 16 * -(-max(side - 4, 0) // 16)) - side for side in (21, 30)]
        pads = ((0, 0), (0, 0), (92, 92 + below[0]), (92, 92 + below[1]))
        x = torch.from_numpy(np.pad(x, pads, mode="reflect"))
        skips = []
        for level in range(5):
            x = F.max_pool2d(x, 2) if level else x
            for i in (0, 2):
                x = F.relu(convolution(state, f"down.{level}.{i}", x))
            skips.append(x)
        for level in range(4):
            x = F.conv_transpose2d(x, state[f"up.{level}.up.weight"], state[f"up.{level}.up.bias"], stride=2)
            skip = skips[3 - level]
            cut = (skip.shape[-1] - x.shape[-1]) // 2, (skip.shape[-2] - x.shape[-2]) // 2
            skip = F.pad(skip, (-cut[0], -cut[0], -cut[1], -cut[1]))
            # phseg_v5-train.prototxt: upconv, relu, concat(u, d)
            x = torch.cat([skip, x] if form == "paper" else [F.relu(x), skip], 1)
            for i in (0, 2):
                x = F.relu(convolution(state, f"up.{level}.convolutions.{i}", x))
        expected = convolution(state, "head", x)[..., :21, :30]
        torch.testing.assert_close(model(images).logits, expected, atol=1e-5, rtol=1e-4)


def test_no_pixel_sees_a_seam() -> None:
    """The overlap-tile property: a crop's inner logits are the whole image's, bit for bit of the same window."""
    model = arithmetic_weights(UNet2015(classes=2, widths=(2, 3, 4)))  # two levels: a margin of 20
    assert isinstance(model, UNet2015) and model.margin == 20
    whole = make_image(80, 60)
    with torch.no_grad():
        expected = model(whole).logits[..., 24:44, 20:40]
        tile = model(whole[:, 4:64, :]).logits[..., 20:40, 20:40]  # shifted by a multiple of the stride
    torch.testing.assert_close(tile, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["valid", "same", "bilinear"])
def test_golden_logits(form: str) -> None:
    assert_golden(built(form), GOLDEN[form])


def built(form: str) -> UNet2015:
    arguments = {} if form == "valid" else {"padding": "same", "norm": "batch"}
    if form == "bilinear":
        arguments["upsampling"] = "bilinear"
    model = arithmetic_weights(UNet2015(classes=3, widths=(2, 4, 8, 16, 32), **arguments))  # type: ignore[arg-type]
    assert isinstance(model, UNet2015)
    return model


def test_the_initialization_is_the_papers() -> None:
    torch.manual_seed(0)
    model = UNet2015(classes=2, widths=(16, 32, 64))
    conv = model.down[2][2]
    assert float(conv.weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert float(conv.bias.abs().max()) == 0
    assert model.dropout.p == 0.5
    up = model.up[0].up
    assert float(up.weight.std()) == pytest.approx(64**-0.5, rel=0.05)
    released = UNet2015(classes=2, widths=(16, 32, 64), form="release")
    assert [level.up.out_channels for level in released.up] == [32, 32]  # the last keeps what it gets
    assert float(released.up[0].up.weight.std()) == pytest.approx((2 / (4 * 32)) ** 0.5, rel=0.05)


def test_dropout_comes_after_the_last_two_levels_of_the_contracting_path() -> None:
    model = UNet2015(classes=2, widths=(2, 3, 4, 5, 6)).train()
    seen: list[int] = []
    model.dropout.register_forward_hook(lambda module, given, result: seen.append(given[0].shape[1]))
    model(make_image(20, 20))
    assert seen == [5, 6]


def test_unknown_arguments_are_explained() -> None:
    with pytest.raises(ModelError, match="padding"):
        UNet2015(classes=2, padding="reflect")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="valid convolutions"):
        UNet2015(classes=2, padding="same", norm="batch", form="release")


@pytest.mark.parametrize("form", [{}, {"padding": "same", "norm": "batch", "upsampling": "bilinear"}])
def test_it_learns_from_scratch(form: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = UNet2015(classes=3, widths=(8, 16, 16), dropout=0.1, **form)  # type: ignore[arg-type]
    assert lesson_loss(model, rate=3e-3, steps=25) < 0.3 * PRIOR_ENTROPY


GOLDEN: dict[str, list[float]] = {
    "valid": [3.176366, 0.1968433, 0.1229217, 1.757179, 0.1968433, 1.640807],
    "same": [-0.4058086, -7.168864, -0.1589409, -0.1379396, -1.382385, 1.310636],
    "bilinear": [0.1633485, 0.04457114, -0.4572108, 0.1633485, 0.04457114, 8.038232],
}

"""What makes the modern networks themselves: counts to the digit, and details that fail when they are taken away."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixed_weights import linearize
from torch import Tensor

from segwright.core.errors import ModelError, UsageError
from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import PyramidPooling, average_grid
from segwright.models.catalog import CATALOG, create_model, parameters_of
from segwright.models.ddrnet import DAPPM, DDRNet
from segwright.models.deeplab_v3 import ASPP, RATES
from segwright.models.external import logits_of, wrap
from segwright.models.profile import PeakActivationCounter, count_flops, list_catalog, measure_model, training_peak
from segwright.training.targets import subsample_targets

R50S = {"encoder": "resnet50s"}  # timm's ResNet-50 with the stem 64-64-128 of the PSPNet release
COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("pspnet", {"aux": False}, 46_592_597),
    ("pspnet", {}, 48_957_802),
    ("pspnet", {**R50S, "aux": False}, 46_716_373),
    ("pspnet", R50S, 49_081_578),
    ("deeplabv3", {}, 39_048_533),
    ("deeplabv3", {"head": "torchvision"}, 39_638_869),
    ("deeplabv3plus", {"refine": "two"}, 40_352_181),
    ("deeplabv3plus", {"refine": "one"}, 39_761_845),
    ("deeplabv3plus", {}, 26_696_133),
    ("fcn_resnet50", {}, 35_322_218),
    ("fcn_resnet50", {"aux": False}, 32_957_013),
    ("fcn_resnet50", {"classes": 11}, 35_314_518),
    ("fcn_resnet50", {"classes": 11, "aux": False}, 32_951_883),
    ("fcn_resnet101", {}, 54_314_346),
    ("fcn_resnet101", {"aux": False}, 51_949_141),
    ("fcn_resnet101", {"classes": 11}, 54_306_646),
    ("fcn_resnet101", {"classes": 11, "aux": False}, 51_944_011),
    ("deeplabv3_resnet50", {}, 42_004_074),
    ("deeplabv3_resnet50", {"aux": False}, 39_638_869),
    ("deeplabv3_resnet50", {"classes": 11}, 41_998_934),
    ("deeplabv3_resnet50", {"classes": 11, "aux": False}, 39_636_299),
    ("deeplabv3_resnet101", {}, 60_996_202),
    ("deeplabv3_resnet101", {"aux": False}, 58_630_997),
    ("deeplabv3_resnet101", {"classes": 11}, 60_991_062),
    ("deeplabv3_resnet101", {"classes": 11, "aux": False}, 58_628_427),
    ("deeplabv3_mobilenet_v3_large", {}, 11_029_328),
    ("deeplabv3_mobilenet_v3_large", {"aux": False}, 11_025_477),
    ("deeplabv3_mobilenet_v3_large", {"classes": 11}, 11_026_648),
    ("deeplabv3_mobilenet_v3_large", {"classes": 11, "aux": False}, 11_022_907),
    ("lraspp_mobilenet_v3_large", {}, 3_221_538),
    ("lraspp_mobilenet_v3_large", {"classes": 11}, 3_219_838),
]


LONG_TO_BUILD = ("resnet101",)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [pytest.param(*row, marks=pytest.mark.slow) if row[0].endswith(LONG_TO_BUILD) else row for row in COUNTS],
)
def test_parameters_to_the_digit(name: str, arguments: dict[str, Any], expected: int) -> None:
    assert parameters_of(name, **arguments) == expected


def seen_by(function: Any, shape: tuple[int, ...], row: int, column: int) -> Tensor:
    """Which input places move the output at (row, column): the gradient's footprint, H×W."""
    x = torch.randn(shape, requires_grad=True)
    function(x)[..., row, column].sum().backward()
    assert x.grad is not None
    return x.grad.abs().sum((0, 1)) > 0


@pytest.mark.parametrize("bins", [2, 3, 6])
@pytest.mark.parametrize("size", [(6, 6), (7, 13), (2, 3)])
def test_grids_for_export_are_the_pooling_itself(bins: int, size: tuple[int, int], monkeypatch: Any) -> None:
    x = torch.randn(2, 3, *size)
    expected = F.adaptive_avg_pool2d(x, bins)
    assert torch.equal(average_grid(x, bins), expected)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.allclose(average_grid(x, bins), expected, atol=1e-6)


def test_each_bin_sees_its_own_share_of_the_image() -> None:
    torch.manual_seed(0)
    pyramid = PyramidPooling(4, 4, align_corners=True).eval()
    for branch, share in zip(pyramid.branches, (1, 2, 3, 6), strict=True):
        torch.nn.init.uniform_(branch.conv.weight, 0.1, 1)  # positive: no ReLU hides a place
        footprint = seen_by(lambda x, branch=branch: branch(x.abs() + 1), (1, 4, 12, 12), 0, 0)
        assert int(footprint.sum()) == (12 // share) ** 2
    assert pyramid(torch.randn(1, 4, 12, 12)).shape[1] == 4 + 4 * 4 == pyramid.out_channels


def test_pspnet_sees_the_whole_image_only_through_its_pyramid() -> None:
    torch.manual_seed(0)
    model = create_model("pspnet", classes=2, encoder="test_resnet", weights=None, channels=8, bin_channels=8).eval()
    assert [branch.bins for branch in model.pyramid.branches] == [1, 2, 3, 6]
    feature = torch.randn(1, model.encoder.channels[32], 24, 24)
    with_bins = seen_by(lambda x: model.fuse(model.pyramid(x)), tuple(feature.shape), 0, 0)
    assert with_bins.all()
    without = seen_by(
        lambda x: model.fuse[0](torch.cat([x, torch.zeros(1, 32, 24, 24)], 1)), tuple(feature.shape), 0, 0
    )
    assert int(without.sum()) == 4  # the corner of a 3×3


def test_auxiliary_heads_answer_in_training_only_and_from_the_stage_before() -> None:
    for name in ("pspnet", "fcn_resnet50", "deeplabv3_resnet50"):
        model = create_model(name, classes=2, encoder="test_resnet", weights=None).train()
        x = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
        output = model(x)
        assert set(output.aux) == {"aux"}
        output.aux["aux"].sum().backward()
        assert all(p.grad is None for p in model.encoder.model.layer4.parameters())
        assert all(p.grad is not None for p in model.encoder.model.layer3.parameters())
        assert model.eval()(x).aux == {}


def test_aspp_dilations_follow_the_output_stride_and_image_pooling_sees_all() -> None:
    torch.manual_seed(0)
    for output_stride, rates in RATES.items():
        if output_stride == 32:
            continue
        model = create_model("deeplabv3", classes=2, encoder="resnet18", weights=None, output_stride=output_stride)
        assert tuple(view[0].dilation[0] for view in list(model.aspp.views)[1:4]) == rates
    blind = ASPP(4, 4, (2, 4, 6), image_pooling=False).eval()
    seeing = ASPP(4, 4, (2, 4, 6)).eval()
    for aspp in (blind, seeing):
        for part in aspp.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.uniform_(part.weight, 0.1, 1)
    shape, center = (1, 4, 31, 31), 15
    assert seen_by(lambda x: seeing(x.abs() + 1), shape, center, center).all()
    assert (
        int(seen_by(lambda x: blind(x.abs() + 1), shape, center, center).sum()) == 1 + 3 * 8
    )  # one center, three rings


def test_multi_grid_is_the_papers_and_not_torchvisions() -> None:
    with torch.device("meta"):
        ours = create_model("deeplabv3", classes=2, weights=None).encoder.model.layer4
        theirs = create_model("deeplabv3_resnet50", classes=2, weights=None).encoder.model.layer4
    assert [block.conv2.dilation[0] for block in ours] == [2, 4, 8]
    assert [block.conv2.dilation[0] for block in theirs] == [2, 4, 4]


def test_pspnet_pads_to_8k_plus_1_so_that_scores_lie_on_their_pixels() -> None:
    """As the release asserts: (side − 1) % 8 == 0. A score at (i, j) is centered on pixel (8i, 8j)."""
    torch.manual_seed(0)
    model = create_model("pspnet", classes=2, encoder="test_resnet", weights=None, channels=8, bin_channels=8).eval()
    for side, padded in ((65, 65), (64, 65), (66, 73), (1, 1)):
        assert model.pad(torch.zeros(1, 3, side, 65)).shape[-2:] == (padded, 65)
    scores = torch.arange(9.0).view(1, 1, 1, 9)  # stride 8, on pixels 0, 8, … 64
    upsampled = resize(scores, (1, 65), align_corners=model.align_corners)
    assert torch.allclose(upsampled[0, 0, 0], torch.arange(65) / 8)
    with torch.no_grad():
        feature = model.encoder(torch.zeros(1, 3, 65, 73))[model.last]
    assert feature.shape[-2:] == (9, 10)


def test_pspnet_features_and_scores_are_centered_on_their_pixels() -> None:
    """Measured by gradients, in rows and columns: feature i looks around pixel 8i, and a score around its own pixel."""
    model = create_model("pspnet", classes=2, encoder="resnet18", weights=None, channels=8, bin_channels=8)
    linearize(model)
    for branch in model.pyramid.branches:  # the grids look at all of the image, wherever the score lies
        torch.nn.init.zeros_(branch.conv.weight)
    x = torch.full((1, 3, 513, 513), 0.5, requires_grad=True)

    def center(value: Tensor) -> list[float]:
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        weight = gradient.abs().sum((0, 1)).double()
        return [float((weight.sum(1 - axis) * torch.arange(513)).sum() / weight.sum()) for axis in (0, 1)]

    feature = model.encoder(x)[model.last]
    assert feature.shape[-2:] == (65, 65)
    for i, j in ((32, 32), (31, 34)):
        assert center(feature[0, 0, i, j]) == pytest.approx([8 * i, 8 * j], abs=0.02)
    logits = model.forward_padded(x).logits
    for row, column in ((256, 256), (253, 260), (250, 263)):
        assert center(logits[0, 0, row, column]) == pytest.approx([row, column], abs=0.02)


def test_dropout_is_the_releases() -> None:
    def rates(name: str, kind: type, **arguments: Any) -> list[float]:
        model = create_model(name, classes=2, encoder="test_resnet", weights=None, **arguments)
        return [module.p for module in model.modules() if type(module) is kind]

    assert rates("pspnet", torch.nn.Dropout2d) == [0.1, 0.1] and rates("pspnet", torch.nn.Dropout) == []
    assert rates("deeplabv3", torch.nn.Dropout) == [0.1]  # keep_prob 0.9
    assert rates("deeplabv3", torch.nn.Dropout, head="torchvision") == [0.5]
    assert rates("deeplabv3plus", torch.nn.Dropout) == [0.1]
    assert rates("deeplabv3_resnet50", torch.nn.Dropout) == [0.5, 0.1]  # and the auxiliary head's


def test_segformer_takes_the_decoder_width_of_its_encoder() -> None:
    """Xie et al. 2021, table 6: 256 for B0 and B1, 768 for B2 to B5; counts as transformers builds them."""
    transformers = pytest.importorskip("transformers")
    depths = {0: (2, 2, 2, 2), 1: (2, 2, 2, 2), 2: (3, 4, 6, 3), 3: (3, 4, 18, 3), 4: (3, 8, 27, 3), 5: (3, 6, 40, 3)}
    for size, layers in depths.items():
        widths = [32, 64, 160, 256] if size == 0 else [64, 128, 320, 512]
        settings = transformers.SegformerConfig(
            hidden_sizes=widths, depths=list(layers), num_labels=19, decoder_hidden_size=256 if size < 2 else 768
        )
        with torch.device("meta"):
            theirs = transformers.SegformerForSemanticSegmentation(settings)
        count = sum(parameter.numel() for parameter in theirs.parameters())
        assert parameters_of("segformer", classes=19, encoder=f"mit_b{size}") == count, size


def test_upernet_has_512_channels_and_an_auxiliary_head() -> None:
    with torch.device("meta"):
        model = create_model("upernet", classes=2, encoder="resnet18", weights=None)
    assert {conv.out_channels for conv in model.laterals.modules() if isinstance(conv, torch.nn.Conv2d)} == {512}
    assert model.fuse[0].out_channels == model.pyramid_fuse[0].out_channels == 512
    assert model.aux_head is not None and model.aux_head[0].out_channels == 256


def test_ddrnet_starts_as_its_authors_code() -> None:
    torch.manual_seed(0)
    model = DDRNet(classes=19)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.weight[0, 0].numel()
            count = module.weight.numel()
            assert float(module.weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=5 / count**0.5)
            assert module.bias is None or not module.bias.any()


def test_v3plus_takes_48_channels_of_stride_4() -> None:
    model = create_model("deeplabv3plus", classes=2, encoder="resnet18", weights=None)
    assert model.low[0].weight.shape[:2] == (48, 64)
    assert model.refine[0][0][0].in_channels == 304


def test_ddrnet_is_23_slim_and_its_context_sees_all() -> None:
    torch.manual_seed(0)
    assert 5.6e6 < parameters_of("ddrnet", classes=19) < 5.8e6  # "5.7M" in the paper's table 4
    assert seen_by(DAPPM(4, 4, 4).eval(), (1, 4, 16, 16), 0, 0).all()
    model = DDRNet(classes=2, width=8, context_channels=8, head_channels=8)
    fine = model.fine5.steps[0][0].weight
    assert model.stride == 8 and fine.shape[1] == 16


def test_native_logits_answer_for_the_image_and_not_for_its_padding() -> None:
    model = DDRNet(classes=2, width=8, context_channels=8, head_channels=8).train()
    model.native_logits = True
    output = model(torch.zeros(2, 90, 161, 3, dtype=torch.uint8))  # padded to 128×192
    assert output.logits.shape == (2, 2, 45, 81) and output.aux["aux"].shape == (2, 2, 12, 21)
    column = torch.arange(161).expand(2, 90, 161)
    for logits in (output.logits, output.aux["aux"]):
        stride = 2 if logits is output.logits else 8
        _, picked = subsample_targets(logits, column)
        assert (picked[0, 0].diff() == stride).all()
    assert model.eval()(torch.zeros(1, 90, 161, 3, dtype=torch.uint8)).logits.shape == (1, 2, 90, 161)


def test_head_stride_and_lean_decoders() -> None:
    whole = create_model("unet", classes=3, encoder="test_resnet", weights=None)
    half = create_model("unet", classes=3, encoder="test_resnet", weights=None, head_stride=2)
    assert len(whole.decoder.blocks) == 5 and len(half.decoder.blocks) == 4
    with torch.no_grad():
        assert half.eval()(torch.zeros(1, 45, 67, 3, dtype=torch.uint8)).logits.shape == (1, 3, 45, 67)
    lean = create_model("unet", classes=3, encoder="test_resnet", weights=None, decoder_channels=(160, 96, 64, 48, 32))
    assert [block.conv1[0].out_channels for block in lean.decoder.blocks] == [160, 96, 64, 48, 32]
    with pytest.raises(ModelError, match="doubling"):
        create_model("unet", classes=3, encoder="test_resnet", weights=None, decoder_channels=(8, 8))
    assert (
        max(create_model("unet", classes=3, encoder="test_resnet", weights=None, encoder_depth=3).encoder.channels) == 8
    )


# The catalog


def test_every_entry_says_what_it_is() -> None:
    for entry in CATALOG.values():
        assert entry.summary and entry.license and entry.paper


def test_unknown_names_and_arguments_are_explained() -> None:
    with pytest.raises(UsageError, match="unknown network"):
        create_model("unett", classes=2)
    with pytest.raises(UsageError, match="no argument depth"):
        create_model("unet", classes=2, weights=None, depth=4)
    with pytest.raises(UsageError, match="takes no encoder"):
        create_model("ddrnet", classes=2, weights=None, encoder="resnet18")
    with pytest.raises(UsageError, match="unknown network"):
        create_model("keras:unet", classes=2)
    with pytest.raises(UsageError, match="cannot build"):
        create_model("smp:Nothing", classes=2, weights=None)


def test_architecture_and_arguments_build_it_again() -> None:
    model = create_model("unet", classes=2, encoder="test_resnet", weights=None, in_channels=4, head_stride=2)
    again = create_model(model.architecture, classes=2, weights=None, **model.arguments)
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in model.parameters()]


def test_normalization_is_the_formula() -> None:
    model = create_model("unet", classes=2, encoder="test_resnet", weights=None)
    images = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    expected = (images.permute(0, 3, 1, 2).double() / 255 - model.mean.double()) / model.std.double()
    found = model.normalize(images)
    assert (found - expected).abs().max() < 1e-5
    assert found.is_contiguous(memory_format=torch.channels_last)


# Networks from outside


def test_answers_of_every_shape_are_understood() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    for answer in (logits, {"out": logits}, {"logits": logits}, (logits, 1), SegOutput(logits, {})):
        assert logits_of(answer) is logits
    for answer in (None, {"boxes": logits}, torch.zeros(2, 2), ()):
        with pytest.raises(ModelError, match="no logits"):
            logits_of(answer)


def test_any_module_joins_with_one_line() -> None:
    model = wrap(torch.nn.Conv2d(3, 4, 3, stride=4, padding=1), classes=4)
    assert isinstance(model, SegmentationModel)
    assert model(torch.zeros(1, 9, 14, 3, dtype=torch.uint8)).logits.shape == (1, 4, 9, 14)
    with pytest.raises(ModelError, match="another number of classes"):
        wrap(torch.nn.Conv2d(3, 4, 1), classes=5)(torch.zeros(1, 9, 14, 3, dtype=torch.uint8))


# What they cost


def test_live_bytes_counts_peaks_and_not_views() -> None:
    with PeakActivationCounter() as live:
        a = torch.zeros(1000)
        b = a + 1
        b.view(10, 100).mul_(2)
        del a
        c = b * 2
    assert live.peak == 8000 and live.now == 8000
    del b, c


def test_flops_and_memory_of_a_convolution_by_hand() -> None:
    model = wrap(torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), classes=8, size_divisor=1)
    assert count_flops(model, 10, 12) == 2 * 10 * 12 * 8 * 27
    pixels = 64 * 64
    grown = training_peak(model, 3, 64, 64) - training_peak(model, 2, 64, 64)
    # At least the normalized image, the logits, their log-softmax and its gradient; at most a few copies more.
    assert 4 * pixels * (3 + 3 * 8) <= grown <= 4 * pixels * (4 * 3 + 6 * 8)


def test_measure_of_a_network() -> None:
    cost = measure_model("ddrnet", classes=3, height=64, width=96, seconds=0.01)
    assert cost.parameters == parameters_of("ddrnet", classes=3)
    assert cost.latency_ms is not None and cost.latency_ms > 0
    assert cost.training_bytes > 0 and cost.flops > 1e7 and cost.to_json()["name"] == "ddrnet"


def test_catalog_rows_have_what_the_table_prints() -> None:
    (row,) = list_catalog(["ddrnet"], measure=(64, 96))
    assert {
        "name",
        "parameters",
        "stride",
        "gflop",
        "training_mib",
        "latency_ms",
        "summary",
        "paper",
        "license",
    } <= set(row)
    (row,) = list_catalog(["fcn8s"])
    assert row["parameters"] == 134_489_759
    with pytest.raises(UsageError):
        list_catalog(["fcn9s"])

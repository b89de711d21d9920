"""One contract for every network of the catalog and for networks from outside; a new one joins with a line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_weights import TINY
from safetensors.torch import load_file, save_file
from torch import Tensor

from segwright.core.errors import ModelError
from segwright.models.base import SegmentationModel
from segwright.models.catalog import CATALOG, create_model
from segwright.models.external import wrap

CLASSES = 5
VGG: dict[str, Any] = {"widths": TINY, "fc_channels": 8}
DENSE: dict[str, Any] = {"layers": (1, 1, 1), "growth": 4, "first_width": 8}
RESNET: dict[str, Any] = {"encoder": "test_resnet"}

# Every network, made small: what is tested is the assembly.
SMALL: dict[str, dict[str, Any]] = {
    "fcn32s": VGG,
    "fcn16s": VGG,
    "fcn8s": VGG,
    "unet2015": {"widths": TINY},
    "segnet": {"widths": TINY},
    "segnet_basic": {"width": 8},
    "deeplabv1": VGG,
    "deeplabv2": {"layers": (1, 1, 1, 1)},
    "deeplabv2_vgg": VGG,
    "parsenet": VGG,
    "fc_densenet56": DENSE,
    "fc_densenet67": DENSE,
    "fc_densenet103": DENSE,
    "unet": {**RESNET, "decoder_channels": (24, 16, 12, 8, 8)},
    "pspnet": {**RESNET, "bin_channels": 8, "channels": 16},
    "deeplabv3": {**RESNET, "channels": 16},
    "deeplabv3plus": {**RESNET, "channels": 16},
    "upernet": {**RESNET, "channels": 16, "aux": True},
    "segformer": {"channels": 16},
    "ddrnet": {"width": 8, "context_channels": 8, "head_channels": 8},
    "leannet": {"widths": (8, 8, 16, 16, 24), "decoder_channels": (8, 8, 12, 16)},
    "fcn": RESNET,
    "lraspp": {},
    "fcn_resnet50": RESNET,
    "fcn_resnet101": RESNET,
    "deeplabv3_resnet50": RESNET,
    "deeplabv3_resnet101": RESNET,
    "deeplabv3_mobilenet_v3_large": {},
    "lraspp_mobilenet_v3_large": {},
    # of several
    "ensemble": {"members": [
        {"architecture": "leannet", "arguments": {"widths": (8, 8, 16, 16, 24), "decoder_channels": (8, 8, 12, 16)}},
        {"architecture": "segnet_basic", "arguments": {"width": 8}},
    ]},
    # from outside
    "torchvision:lraspp_mobilenet_v3_large": {},
    "torchvision:deeplabv3_mobilenet_v3_large": {"aux_loss": True},
    "torchvision:fcn_resnet50": {"aux_loss": True},
    "smp:FPN": {"encoder_name": "tu-test_resnet"},
    "transformers:segformer": {
        "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
    },
}  # fmt: skip
HEAVY = {"torchvision:fcn_resnet50"}  # cannot be made small
# Batch norm behind an average of the whole image: one value per channel in a batch of one, however large the image.
POOL_THE_IMAGE = {
    "pspnet", "deeplabv3", "deeplabv3plus", "upernet", "ddrnet", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large", "torchvision:deeplabv3_mobilenet_v3_large",
}  # fmt: skip
# No batch norm, or none where an image of one pixel leaves one value: these train on that, alone.
TRAIN_ON_A_PIXEL = {
    "fcn32s", "fcn16s", "fcn8s", "unet2015", "deeplabv1", "deeplabv2_vgg", "parsenet", "segformer",
    "transformers:segformer",
}  # fmt: skip
TRACED = ("unet",)  # compiled and exported in the fast run: some ten seconds each; all of them in the slow one


def small(name: str, **arguments: Any) -> SegmentationModel:
    family = name.split(":")[0]
    if family in ("smp", "transformers"):
        pytest.importorskip({"smp": "segmentation_models_pytorch"}.get(family, family))
    return create_model(name, classes=CLASSES, weights=None, **{**SMALL[name], **arguments})


def make_images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)


def names(*, only: tuple[str, ...] = ()) -> list[Any]:
    """All; those that are heavy, or not in ``only`` where it is given, in the slow run."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in HEAVY or (only and name not in only) else name
        for name in SMALL
    ]


@pytest.fixture(scope="module", params=names())
def model(request: pytest.FixtureRequest) -> SegmentationModel:
    torch.manual_seed(3)
    return small(request.param)


def test_the_whole_catalog_is_here() -> None:
    assert set(CATALOG) <= set(SMALL)


@pytest.mark.parametrize("name", CATALOG)
def test_the_stride_that_is_listed_is_that_of_the_finest_scores(name: str) -> None:
    """The convolution that answers a map a class, where it is finest: how much finer it gets with the image."""
    classes = 13  # no other convolution of the small networks has so many outputs
    with torch.device("meta"):
        model = create_model(name, classes=classes, weights=None, **SMALL[name]).eval()
        rows: list[int] = []
        for part in model.modules():
            if isinstance(part, torch.nn.Conv2d) and part.out_channels == classes:
                part.register_forward_hook(lambda part, x, y: rows.append(y.shape[-2]))
        finest = []
        for side in (256, 512):
            rows.clear()
            model(torch.empty(1, side, 64, 3, dtype=torch.uint8))
            finest.append(max(rows))
    assert model.logits_stride == 256 // (finest[1] - finest[0])


def test_forward_and_backward_reach_every_trainable_parameter(model: SegmentationModel) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    output = model(make_images(2, 64, 64))
    assert output.logits.shape == (2, CLASSES, 64, 64) and output.logits.dtype == torch.float32
    assert all(aux.shape == output.logits.shape for aux in output.aux.values())
    target = torch.randint(0, CLASSES, (2, 64, 64))
    sum(
        torch.nn.functional.cross_entropy(logits, target) for logits in (output.logits, *output.aux.values())
    ).backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not without, f"no gradient reaches {without}"
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (7, 13), (33, 65)])
def test_any_size(model: SegmentationModel, height: int, width: int) -> None:
    model.eval()
    with torch.no_grad():
        output = model(make_images(1, height, width))
    assert output.logits.shape == (1, CLASSES, height, width)
    assert torch.isfinite(output.logits).all()
    assert output.aux == {}


def test_eval_is_deterministic_and_takes_pixels_in_either_form(model: SegmentationModel) -> None:
    model.eval()
    images = make_images(1, 40, 48)
    with torch.no_grad():
        first, second = model(images).logits, model(images).logits
        as_float = model(images.permute(0, 3, 1, 2).float() / 255).logits
    assert torch.equal(first, second)
    assert torch.allclose(first, as_float, atol=1e-3 * max(1.0, float(first.abs().max())))


@pytest.mark.parametrize("side", [1, 64])
def test_one_image_a_batch_trains_or_the_error_explains(model: SegmentationModel, side: int) -> None:
    trained = copy.deepcopy(model).train()
    name, images = model.architecture, make_images(1, side, side)
    if name in TRAIN_ON_A_PIXEL or (side > 1 and name not in POOL_THE_IMAGE):
        output = trained(images)
        output.logits.mean().backward()
        assert torch.isfinite(output.logits).all()
    else:
        with pytest.raises(ModelError, match="batch norm has one value per channel") as caught:
            trained(images)
        assert caught.value.fix and caught.value.found and caught.value.where
    for part in trained.modules():  # what the error advises helps
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    assert torch.isfinite(trained(images).logits).all()


def test_two_images_a_batch_always_train(model: SegmentationModel) -> None:
    assert torch.isfinite(copy.deepcopy(model).train()(make_images(2, 1, 1)).logits).all()


def test_the_error_is_explained_in_a_compiled_network_too() -> None:
    torch._dynamo.reset()
    compiled = small("segnet_basic", levels=1).train()
    compiled.compile(backend="eager")
    assert torch.isfinite(compiled(make_images(2, 8, 8)).logits).all()
    with pytest.raises(ModelError, match="batch norm has one value per channel"):
        compiled(make_images(1, 1, 1))


def test_instance_norms_of_networks_from_outside_are_explained_as_well() -> None:
    model = wrap(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.InstanceNorm2d(2)), classes=2, size_divisor=1)
    with pytest.raises(ModelError, match="one value per channel"):
        model.train()(make_images(2, 1, 1))
    other = wrap(Failing(), classes=2)
    with pytest.raises(ValueError, match="something else"):  # nobody else's error is renamed
        other.train()(make_images(2, 1, 1))


class Failing(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError("something else")


def test_channels_last_gives_the_same(model: SegmentationModel) -> None:
    model.eval()
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    images = make_images(1, 40, 48)
    with torch.no_grad():
        plain, last = model(images).logits, turned(images).logits
    assert torch.allclose(plain, last, atol=1e-3 * max(1.0, float(plain.abs().max())))


def test_bf16_autocast_is_finite_and_close(model: SegmentationModel) -> None:
    model.eval()
    images = make_images(1, 32, 40)
    with torch.no_grad():
        exact = model(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).logits.float()
    assert torch.isfinite(rough).all()
    assert (rough - exact).abs().mean() <= 0.15 * max(float(exact.abs().max()), 1e-3)


def test_bf16_autocast_trains(model: SegmentationModel) -> None:
    trained = copy.deepcopy(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = trained(make_images(2, 64, 64))
    target = torch.randint(0, CLASSES, (2, 64, 64))
    losses = [torch.nn.functional.cross_entropy(x.float(), target) for x in (output.logits, *output.aux.values())]
    torch.stack(losses).sum().backward()
    gradients = [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_state_dict_through_safetensors(model: SegmentationModel, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    again = create_model(model.architecture, classes=CLASSES, weights=None, **model.arguments)  # type: ignore[arg-type]
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = make_images(1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(images).logits, model.eval()(images).logits)


def test_wrong_channels_and_shapes_are_explained(model: SegmentationModel) -> None:
    with pytest.raises(ModelError, match="channels"):
        model(torch.zeros(1, 32, 32, 4, dtype=torch.uint8))
    with pytest.raises(ModelError, match="four dimensions"):
        model(torch.zeros(32, 32, 3, dtype=torch.uint8))


@pytest.mark.parametrize("name", names(only=TRACED))
def test_compile_traces_without_a_break(name: str) -> None:
    built = small(name).eval()
    images = make_images(1, 33, 47)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = built(images).logits
        compiled = torch.compile(built, backend="eager", fullgraph=True)(images).logits
    assert torch.allclose(expected, compiled, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_inductor_trains_and_predicts(name: str) -> None:
    torch._dynamo.reset()
    built = small(name)
    compiled = torch.compile(built)
    compiled.train()(make_images(2, 64, 64)).logits.mean().backward()
    compiled.eval()
    with torch.no_grad():
        images = make_images(1, 64, 64)
        assert torch.allclose(compiled(images).logits, built(images).logits, atol=1e-3)


class LogitsOnly(torch.nn.Module):
    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


# torch.export ties a pool that leaves one cell to that case: DDRNet's program is for images as large as its example.
# (Its ONNX file is not: see the test below.)
LARGE_EXAMPLE = ("ddrnet",)


def exported(name: str, **arguments: Any) -> tuple[SegmentationModel, torch.export.ExportedProgram]:
    """With batch, height and width left free."""
    built = small(name, **arguments).eval()
    free = {0: torch.export.Dim("n", min=1, max=64), 1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    example = make_images(2, 640, 704) if name in LARGE_EXAMPLE else make_images(2, 71, 105)
    with torch.no_grad():
        return built, torch.export.export(LogitsOnly(built).eval(), (example,), dynamic_shapes=(free,))


@pytest.mark.parametrize("name", names(only=TRACED))
def test_export_with_free_sizes(name: str) -> None:
    built, program = exported(name)
    sizes = ((1, 640, 640), (2, 601, 807)) if name in LARGE_EXAMPLE else ((1, 64, 96), (3, 50, 131))
    for batch, height, width in sizes:
        images = make_images(batch, height, width)
        with torch.no_grad():
            assert torch.allclose(program.module()(images), built(images).logits, atol=1e-4)


QUICK_ONNX = ("unet", "unet2015", "leannet")


# Where the deepest level of the example has several cells and that of a smaller image one, the tracer sees two cases.
SMALLEST = {
    "fcn32s": 27, "fcn16s": 27, "fcn8s": 27, "unet2015": 1, "segnet": 33, "segnet_basic": 17, "deeplabv1": 1,
    "deeplabv2": 1, "deeplabv2_vgg": 1, "parsenet": 1, "fc_densenet56": 64, "fc_densenet67": 64, "fc_densenet103": 64,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), SMALLEST.items())
def test_exported_classical_networks_take_images_from_this_size_on(name: str, least: int) -> None:
    deep = {"layers": (1,) * 11} if name.startswith("fc_densenet") else {}  # all five pools
    built, program = exported(name, **deep)
    for side in sorted({least, 65, 96}):
        images = make_images(1, side, side + 3)
        with torch.no_grad():
            assert torch.allclose(program.module()(images), built(images).logits, atol=1e-4)
    if least > 1:
        with torch.no_grad(), pytest.raises(AssertionError, match="Guard failed"):
            program.module()(make_images(1, least - 1, least - 1))


@pytest.mark.parametrize("name", [n if n in QUICK_ONNX else pytest.param(n, marks=pytest.mark.slow) for n in SMALL])
def test_onnx_at_two_sizes(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    built = small(name).eval()
    free = {"images": dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)}
    path = tmp_path / "model.onnx"
    program = torch.onnx.export(
        LogitsOnly(built).eval(), (make_images(2, 71, 105),), dynamic_shapes=free, dynamo=True, optimize=False
    )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 64, 96), (2, 77, 101), (1, 300, 200)):
        images = make_images(batch, height, width)
        with torch.no_grad():
            expected = built(images).logits.numpy()
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
        assert np.abs(found - expected).max() <= 1e-3 * max(1.0, float(np.abs(expected).max()))

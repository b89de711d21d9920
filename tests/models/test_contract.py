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

from segwright.errors import ModelError
from segwright.models.catalog import CATALOG, create_model
from segwright.models.segmenter import SegmentationModel

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
    # from outside
    "torchvision:lraspp_mobilenet_v3_large": {},
    "torchvision:fcn_resnet50": {"aux_loss": True},
    "smp:FPN": {"encoder_name": "tu-test_resnet"},
    "transformers:segformer": {
        "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
    },
}  # fmt: skip
HEAVY = {"torchvision:fcn_resnet50"}  # cannot be made small
TRACED = ("unet",)  # compiled and exported in the fast run: some ten seconds each; all of them in the slow one


def small(name: str, **arguments: Any) -> SegmentationModel:
    family = name.split(":")[0]
    if family in ("smp", "transformers"):
        pytest.importorskip({"smp": "segmentation_models_pytorch"}.get(family, family))
    return create_model(name, classes=CLASSES, weights=None, **{**SMALL[name], **arguments})


def pictures(batch: int, height: int, width: int) -> Tensor:
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


def test_forward_and_backward_reach_every_trainable_parameter(model: SegmentationModel) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    output = model(pictures(2, 64, 64))
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


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (33, 65)])
def test_any_size(model: SegmentationModel, height: int, width: int) -> None:
    model.eval()
    with torch.no_grad():
        output = model(pictures(1, height, width))
    assert output.logits.shape == (1, CLASSES, height, width)
    assert torch.isfinite(output.logits).all()
    assert output.aux == {}


def test_eval_is_deterministic_and_takes_pixels_in_either_form(model: SegmentationModel) -> None:
    model.eval()
    images = pictures(1, 40, 48)
    with torch.no_grad():
        first, second = model(images).logits, model(images).logits
        as_float = model(images.permute(0, 3, 1, 2).float() / 255).logits
    assert torch.equal(first, second)
    assert torch.allclose(first, as_float, atol=1e-3 * max(1.0, float(first.abs().max())))


def test_one_picture_a_batch_trains_or_the_error_explains(model: SegmentationModel) -> None:
    trained = copy.deepcopy(model).train()
    try:
        assert torch.isfinite(trained(pictures(1, 32, 32)).logits).all()
    except ModelError as error:
        assert "batch norm" in str(error) and error.fix
    output = trained(pictures(2, 64, 64))  # and two always do
    assert torch.isfinite(output.logits).all()


def test_channels_last_gives_the_same(model: SegmentationModel) -> None:
    model.eval()
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    images = pictures(1, 40, 48)
    with torch.no_grad():
        plain, last = model(images).logits, turned(images).logits
    assert torch.allclose(plain, last, atol=1e-3 * max(1.0, float(plain.abs().max())))


def test_bf16_autocast_is_finite_and_close(model: SegmentationModel) -> None:
    model.eval()
    images = pictures(1, 32, 40)
    with torch.no_grad():
        exact = model(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).logits.float()
    assert torch.isfinite(rough).all()
    assert (rough - exact).abs().mean() <= 0.15 * max(float(exact.abs().max()), 1e-3)


def test_state_dict_through_safetensors(model: SegmentationModel, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    again = create_model(model.architecture, classes=CLASSES, weights=None, **model.arguments)  # type: ignore[arg-type]
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = pictures(1, 32, 32)
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
    images = pictures(1, 33, 47)
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
    compiled.train()(pictures(2, 64, 64)).logits.mean().backward()
    compiled.eval()
    with torch.no_grad():
        images = pictures(1, 64, 64)
        assert torch.allclose(compiled(images).logits, built(images).logits, atol=1e-3)


class LogitsOnly(torch.nn.Module):
    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


# torch.export ties a pool that leaves one cell to that case: DDRNet's program is for pictures as large as its example.
# (Its ONNX file is not: see the test below.)
LARGE_EXAMPLE = ("ddrnet",)


def exported(name: str) -> tuple[SegmentationModel, torch.export.ExportedProgram]:
    """With batch, height and width left free."""
    built = small(name).eval()
    free = {0: torch.export.Dim("n", min=1, max=64), 1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    example = pictures(2, 640, 704) if name in LARGE_EXAMPLE else pictures(2, 71, 105)
    with torch.no_grad():
        return built, torch.export.export(LogitsOnly(built).eval(), (example,), dynamic_shapes=(free,))


@pytest.mark.parametrize("name", names(only=TRACED))
def test_export_with_free_sizes(name: str) -> None:
    built, program = exported(name)
    sizes = ((1, 640, 640), (2, 601, 807)) if name in LARGE_EXAMPLE else ((1, 64, 96), (3, 50, 131))
    for batch, height, width in sizes:
        images = pictures(batch, height, width)
        with torch.no_grad():
            assert torch.allclose(program.module()(images), built(images).logits, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pspnet", "ddrnet"))])
def test_onnx_at_two_sizes(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    built = small(name).eval()
    free = {"images": dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)}
    path = tmp_path / "model.onnx"
    program = torch.onnx.export(
        LogitsOnly(built).eval(), (pictures(2, 71, 105),), dynamic_shapes=free, dynamo=True, optimize=False
    )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 64, 96), (2, 77, 101), (1, 300, 200)):
        images = pictures(batch, height, width)
        with torch.no_grad():
            expected = built(images).logits.numpy()
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
        assert np.abs(found - expected).max() <= 1e-3 * max(1.0, float(np.abs(expected).max()))

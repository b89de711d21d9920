"""The switch of the kernels, and what patching changes of a network: nothing that can be seen from outside."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest
import torch
from torch import nn

from segwright import kernels
from segwright.core.errors import UsageError
from segwright.kernels import batch_norm
from segwright.kernels.batch_norm import NormAct
from segwright.kernels.forms import KernelForm
from segwright.models.catalog import create_model

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "leannet": ("leannet", {}),
    "unet": ("unet", {"encoder": "mobilenetv2_100"}),
    "unet, TensorFlow's padding": ("unet", {"encoder": "tf_efficientnet_lite0"}),
    "ddrnet": ("ddrnet", {}),
}


def network(name: str) -> Any:
    torch.manual_seed(0)
    architecture, arguments = NETWORKS[name]
    return create_model(architecture, classes=3, weights=None, **arguments).to(memory_format=torch.channels_last)


@pytest.fixture
def _small_maps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0)


def test_the_variable_and_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGWRIGHT_KERNELS", raising=False)
    assert kernels.enabled()
    with kernels.disabled():
        assert not kernels.enabled()
        with kernels.disabled():
            assert not kernels.enabled()
        assert not kernels.enabled(), "the outer block is still open"
    assert kernels.enabled()
    with pytest.raises(KeyError), kernels.disabled():
        raise KeyError
    assert kernels.enabled()
    for value, expected in (("0", False), ("1", True), ("", True)):
        monkeypatch.setenv("SEGWRIGHT_KERNELS", value)
        assert kernels.enabled() is expected
    monkeypatch.setenv("SEGWRIGHT_KERNELS", "off")
    with pytest.raises(UsageError, match="SEGWRIGHT_KERNELS"):
        kernels.enabled()


@pytest.mark.parametrize("name", NETWORKS)
def test_patching_shows_in_the_class_alone(name: str) -> None:
    plain = network(name)
    patched = copy.deepcopy(plain)
    assert kernels.patch(patched) is patched
    assert repr(patched) == repr(plain)
    assert list(patched.state_dict()) == list(plain.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(patched.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    changed = [m for m in patched.modules() if isinstance(m, KernelForm)]
    assert changed and not any(isinstance(m, KernelForm) for m in plain.modules())
    for module in changed:
        assert type(module).__name__ == "Kernel" + module.plain_class.__name__
        assert type(module).__module__.startswith("segwright.kernels")
        assert isinstance(module, module.plain_class)
    before = [type(m) for m in patched.modules()]
    assert [type(m) for m in kernels.patch(patched).modules()] == before, "twice is once"
    for copied in (copy.deepcopy(patched), pickle.loads(pickle.dumps(patched))):
        assert [type(m) for m in copied.modules()] == before


def test_a_traceback_names_the_form() -> None:
    norm = kernels.patch(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).train())
    with pytest.raises(Exception) as caught:
        norm(torch.zeros(2, 5, 3, 3))
    frames = [(frame.filename, frame.name) for frame in traceback.extract_tb(caught.tb)]
    assert any("kernels" in file for file, _ in frames)


@pytest.mark.usefixtures("_small_maps_too")
@pytest.mark.parametrize("name", NETWORKS)
def test_disabled_is_plain_torch_bit_for_bit(name: str) -> None:
    """A step of a patched network within the block: the logits and gradients of one that was never patched."""
    plain = network(name).train()
    patched = kernels.patch(copy.deepcopy(plain))
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    results = []
    for net in (plain, patched):
        torch.manual_seed(1)
        with kernels.disabled():
            logits = net(images).logits
            logits.square().mean().backward()
        results.append([logits.detach(), *(p.grad for p in net.parameters()), *net.buffers()])
    for expected, found in zip(*results, strict=True):
        assert (expected is None and found is None) or torch.equal(expected, found)


@pytest.mark.usefixtures("_small_maps_too")
@pytest.mark.parametrize("name", NETWORKS)
def test_enabled_is_the_same_up_to_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = network(name).train()
    patched = kernels.patch(copy.deepcopy(plain))
    calls = []
    real = NormAct.apply
    monkeypatch.setattr(NormAct, "apply", lambda *values: calls.append(1) or real(*values))
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    losses = []
    for net in (plain, patched):
        torch.manual_seed(1)
        losses.append(float(net(images).logits.square().mean().detach()))
    assert calls, "the kernels were not used"
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_nothing_is_patched_while_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGWRIGHT_KERNELS", "0")
    net = kernels.patch(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    assert type(net) is nn.Sequential and type(net[0]) is nn.BatchNorm2d


def test_derived_and_hooked_modules_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a class derived from a norm nothing is known; a hook sees a norm's output before the activation."""
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0)

    class Shifted(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) - 100

    x = torch.randn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    derived = kernels.patch(nn.Sequential(Shifted(64), nn.ReLU()))
    assert type(derived) is nn.Sequential and float(derived(x).detach().max()) == 0
    seen = []
    hooked = kernels.patch(nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()))
    hooked[0].register_forward_hook(lambda _, __, out: seen.append(float(out.detach().min())))
    hooked(x)
    assert seen and seen[0] < 0


def test_importing_the_package_imports_neither_torch_nor_numba() -> None:
    script = "import sys, segwright.kernels; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_everything_runs_without_numba_where_kernels_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step, a prediction, the CRF and superpixels in a process that cannot import numba."""
    script = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
import numpy as np, torch
from segwright.core.types import Batch, LabelSpace
from segwright.inference.predictor import Predictor
from segwright.inference.torch_runtime import TorchRuntime
from segwright.losses import create_loss
from segwright.models.catalog import create_model
from segwright.postprocess.crf import DenseCRF
from segwright.postprocess.superpixels import superpixels
from segwright.training.train_step import TrainStep
model = create_model("unet", classes=3, encoder="mobilenetv2_100", weights=None).train()
images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
step = TrainStep(model, torch.optim.AdamW(model.parameters()))
batch = Batch(images, np.zeros((2, 64, 64), np.uint8), ("a", "b"))
step([batch], 0.0, create_loss("ce+dice", classes=3), 0.4)
mask = Predictor(TorchRuntime(model, "cpu"), LabelSpace(("a", "b", "c"))).predict(images[0])
DenseCRF(iterations=1)(images[0], np.full((3, 64, 64), 1 / 3, np.float32))
superpixels(images[0])
"""
    monkeypatch.setenv("SEGWRIGHT_KERNELS", "0")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]

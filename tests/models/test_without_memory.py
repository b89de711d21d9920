"""Networks without memory: no values are drawn for them, and nothing is imported to do so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segwright.core.types import LabelSpace
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model
from segwright.models.without_memory import without_memory


def test_real_tensors_are_filled_and_others_have_their_shape() -> None:
    real = torch.zeros(1000)
    with without_memory():
        layer = nn.Conv2d(3, 8, 3)
        nn.init.kaiming_normal_(layer.weight)
        nn.init.trunc_normal_(tensor=layer.weight)
        nn.init.normal_(real)
    assert layer.weight.is_meta and layer.weight.shape == (8, 3, 3, 3)
    assert 0.9 < real.std() < 1.1
    assert not torch.zeros(1).is_meta


def test_a_saved_model_is_loaded_without_the_compiler(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}
    network = create_model("leannet", classes=3, weights=None, **arguments)
    model = save_bundle(tmp_path / "model", network, Bundle("leannet", LabelSpace(("a", "b", "c")), arguments))
    code = f"import sys, segwright as sw; sw.load({str(model)!r}, device='cpu'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "segwright.models.leannet" in loaded and not {"timm", "torchvision", "torch._dynamo"} & loaded

"""Saved models for the tests of slots and promotions: tiny networks, with the figures that a refinement records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from segwright.core.types import LabelSpace
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.lineage import bundle_id, descended, read_lineage
from segwright.models.catalog import create_model

SPACE = LabelSpace(("road", "car", "sky"))
TINY = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}


def tiny_model(folder: Path, seed: int, training: dict[str, Any] | None = None) -> Path:
    """A bundle with random weights of a seed."""
    torch.manual_seed(seed)
    network = create_model("leannet", classes=SPACE.classes, weights=None, **TINY)
    arguments = {**TINY, "in_channels": 3}
    return save_bundle(folder, network, Bundle("leannet", SPACE, arguments, {"channels": 3}, training=training or {}))


def scores(data: str, before: float, after: float, half: float = 0.01, **falls: float) -> dict[str, Any]:
    """Figures as a refinement records them: mIoU before and after, ± ``half``; falls of classes in points."""
    d = after - before
    return {
        "data": data, "images": 40, "miou": [before, after], "miou_difference": d, "ci95": [d - half, d + half],
        "share_above": 1.0, "clear": abs(d) > half, "interval_over": "sequences", "interval_count": 9,
        "interval_note": "", "sentence": "",
        "per_class": [
            {
                "name": name, "iou": [before, before - falls.get(name, 0.0) / 100],
                "iou_difference": -falls.get(name, 0.0) / 100, "ci95": [-0.1, 0.1], "clear": False,
            }
            for name in SPACE.names
        ],
    }  # fmt: skip


def candidate(folder: Path, parent: Path, seed: int, **roles: Any) -> Path:
    """A candidate of ``parent`` with figures for the roles ``new`` and ``old``."""
    tiny_model(folder, seed)
    lineage = descended([read_lineage(parent)], "refine", [])
    figures = {"parent_id": bundle_id(parent), "id": bundle_id(folder), "new": None, "old": None, **roles}
    return tiny_model(folder, seed, {"lineage": lineage.record(), "refinement": figures})

"""The benchmark over all networks: what it reports of a training, and on which images."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from benchmark_module import load_benchmark

from segwright.demo.dataset import write_street_scenes


@pytest.fixture(scope="module")
def lineage() -> ModuleType:
    return load_benchmark("lineage")


@pytest.mark.parametrize(("scored", "miou"), [(0, 0.6), (2, 0.6), (3, 0.4)])
def test_every_network_is_scored_on_all_validation_images(
    lineage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: int, miou: float
) -> None:
    """A training by the clock scores as many as it has time for: networks would be compared on different images."""
    data = write_street_scenes(tmp_path / "data", train=8, val=3, test=0, size=(64, 96))
    own = SimpleNamespace(miou=0.4, ids=["a", "b", "c"][:scored]) if scored else None
    progress = SimpleNamespace(step=3, samples=12, seconds=6.0)
    run = SimpleNamespace(folder=tmp_path / "run", plan=SimpleNamespace(entries=()), progress=progress, evaluation=own)
    asked: list[dict[str, Any]] = []

    def train(data: Any, **given: Any) -> SimpleNamespace:
        asked.append(given)
        return run

    monkeypatch.setattr(lineage.sw, "train", train)
    monkeypatch.setattr(lineage.sw, "evaluate", lambda *given, **more: SimpleNamespace(miou=0.6, ids=["a", "b", "c"]))
    found = lineage.train("leannet", Namespace(data=data, minutes_each=2.0, seed=1, device="cpu", out=tmp_path))
    assert (found["miou"], found["images"]) == (miou, 3)
    assert (found["epochs"], found["seconds_per_epoch"]) == (1.5, 4.0)
    out = tmp_path / "runs" / "leannet"
    assert asked == [
        {"model": "leannet", "minutes": 2.0, "weights": None, "seed": 1, "device": "cpu", "out": out}
    ]  # the product's own training, with its plan

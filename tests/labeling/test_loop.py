"""The whole circle: train by day → serve → night comes → alarm → select → label → refine → promote → recovered."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from segwright.training import held_out

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "loop.py"
pytest.importorskip("pyarrow", reason="the journal needs the extra monitor")


def script() -> ModuleType:
    """examples/loop.py as a module."""
    found = importlib.util.spec_from_file_location("loop", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["loop"] = module  # its dataclasses look themselves up there
    found.loader.exec_module(module)
    return module


def check(figures: dict, *, live: bool) -> None:
    assert not figures["day"]["alarm"], figures["day"]
    assert figures["night"]["alarm"] and figures["night"]["first_alarm"] > figures["scale"]["day"]
    assert figures["label"]["clicks"] > 0.8 * figures["select"]["questions"]
    refined, before, after = figures["refine"], figures["train"], figures["recovered"]
    assert refined["new"]["miou"][1] > refined["new"]["miou"][0] and refined["new"]["clear"]
    # Recovered: at least a third of what the night had cost is back, and the day has not been forgotten.
    lost = before["day"] - before["night"]
    assert lost > 0.1 and after["night"] - before["night"] > lost / 3
    assert after["day"] > before["day"] - 0.05
    assert figures["promote"]["version"].startswith("0002-")
    assert any(f"{figures['label']['clicks']} clicks" in line for line in figures["lineage"]["lines"])
    seen = figures["scale"]["day"] + 2 * figures["scale"]["night"]
    assert after["answered"] == seen
    if live:
        assert after["seconds_to_reload"] < 60


def test_the_circle_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "LEAST_IMAGES", 1_000)  # no estimator of accuracy: half of the time
    loop = script()
    check(loop.run_loop(tmp_path / "loop", loop.SMALL, live=False).figures, live=False)


@pytest.mark.slow
def test_the_circle_with_a_service(tmp_path: Path) -> None:
    """As the documentation has it: the script, at its own size, with a service that runs all the time."""
    import json

    subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path / "loop")], check=True, timeout=5400)
    check(json.loads((tmp_path / "loop" / "figures.json").read_text()), live=True)
    images = list((tmp_path / "loop" / "images").iterdir())
    assert len(images) == 4 and sum(image.stat().st_size for image in images) < 1_000_000

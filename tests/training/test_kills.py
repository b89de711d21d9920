"""Killed with SIGKILL at random moments and resumed, trainings end as if they had not been: `kills.py` in processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("kills.py")


def driven(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """The driver's result; it forks, so it has a process of its own."""
    line = [sys.executable, str(DRIVER), *map(str, arguments)]
    line += ["--folder", str(tmp_path / "kills"), "--json", str(tmp_path / "kills.json")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "kills.json").read_text())
    return found


def test_two_kills_change_nothing(tmp_path: Path) -> None:
    found = driven(tmp_path, "--kills", 2, "--recipes", 1, "--jobs", 1, "--commands", 0)
    assert found["kills"] == 2 and found["differences"] == []


@pytest.mark.slow
def test_many_kills_change_nothing(tmp_path: Path) -> None:
    found = driven(tmp_path, "--kills", 100, "--jobs", 2, "--commands", 2, "--seed", 7)
    assert found["kills"] == 100 and found["differences"] == [], found


def test_a_difference_is_found(tmp_path: Path) -> None:
    """A bit of a weight, a loss of the log, a file that is missing: each is named."""
    import torch
    from kills import differences
    from safetensors.torch import save_file

    for name in ("whole", "run"):
        for folder in ("model", "last", "checkpoints/step-00000002"):
            (tmp_path / name / folder).mkdir(parents=True)
            kind = "state" if "step" in folder else "model"
            save_file({"weight": torch.zeros(3)}, str(tmp_path / name / folder / f"{kind}.safetensors"))
            (tmp_path / name / folder / "model.json").write_text("{}")
        (tmp_path / name / "log.jsonl").write_text('{"step": 1, "loss": 0.5, "time": 1.0}\n')
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert list(differences(whole, run)) == []
    save_file({"weight": torch.tensor([0.0, -0.0, 0.0])}, str(run / "last/model.safetensors"))
    (run / "model/model.safetensors").unlink()
    (run / "log.jsonl").write_text('{"step": 1, "loss": 0.50000001, "time": 2.0}\n')
    found = "\n".join(differences(whole, run))
    assert "model/model.safetensors is missing" in found and "last/model.safetensors: 1 of 1" in found
    assert "0.50000001" in found and len(found.splitlines()) == 3

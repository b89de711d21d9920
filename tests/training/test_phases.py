"""The phases of a run hand over frozen values, no phase calls back, and only the trainer writes its state."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import segwright
from segwright.training.build import SavedModel, StartingNetwork
from segwright.training.components import FitResult, TrainerComponents
from segwright.training.context import RunContext
from segwright.training.planning.budget import TimeBudget
from segwright.training.planning.checked_data import CheckedData, DataFacts
from segwright.training.planning.draft import Plan, PlanEntry
from segwright.training.planning.hardware import Hardware
from segwright.training.planning.memory_probe import MemoryEstimate, MemoryReport
from segwright.training.results import RunOutputs
from segwright.training.resume import StoredRun
from segwright.training.run import Run
from segwright.training.state import TrainState
from segwright.training.validate import Limits

PACKAGE = Path(segwright.__file__).parent
PHASES = (
    RunContext, CheckedData, DataFacts, Hardware, Plan, PlanEntry, TimeBudget, SavedModel, StartingNetwork, StoredRun,
    TrainerComponents, MemoryEstimate, MemoryReport, Limits, TrainState, FitResult, RunOutputs, Run,
)  # fmt: skip
OWNED = {"trainer", "validator", "loader", "update", "clock"}  # objects of a trainer


@pytest.mark.parametrize("kind", PHASES, ids=lambda kind: kind.__name__)
def test_what_a_phase_hands_over_is_frozen(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def writes(path: Path) -> list[str]:
    """Assignments in a file to attributes of objects that a trainer owns."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute):
                owner = target.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in OWNED:
                    found.append(f"{path.name}:{target.lineno} {ast.unparse(target)}")
    return found


def test_only_the_trainer_writes_its_state() -> None:
    files = [*(PACKAGE / "training").rglob("*.py"), *(PACKAGE / "search").rglob("*.py")]
    wrong = [line for file in files if file.name != "trainer.py" for line in writes(file)]
    assert not wrong, "\n".join(wrong)


def test_a_write_from_outside_is_found(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text("def probe(trainer):\n    trainer.validator.pixels = 1\n    trainer.stop += 1\n")
    assert [line.split(" ")[1] for line in writes(tmp_path / "probe.py")] == [
        "trainer.validator.pixels",
        "trainer.stop",
    ]


def test_the_planner_imports_no_later_phase() -> None:
    later = {f"segwright.training.{name}" for name in ("run", "build", "trainer", "results", "state", "validate")}
    for name in ("plan", "draft", "hardware", "timing", "budget", "checked_data"):
        tree = ast.parse((PACKAGE / "training" / "planning" / f"{name}.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & later, name

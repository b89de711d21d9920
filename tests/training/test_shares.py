"""Batches that several processes share."""

from __future__ import annotations

import pytest

from segwright.core.errors import UsageError
from segwright.training.config import TrainConfig
from segwright.training.planning.draft import Plan
from segwright.training.planning.shares import with_equal_shares

PHASES = [
    {"until": 0.5, "size": (32, 32), "scale": (0.5, 1.0), "batch": 12},
    {"until": 1.0, "size": (64, 64), "scale": (0.5, 1.0), "batch": 8},
]


def planned(**values: object) -> Plan:
    config = TrainConfig().with_values({f"training.{key}": value for key, value in values.items()})
    return Plan(config, (), None, None)


def batches(plan: Plan) -> list[int]:
    return [phase.batch for phase in plan.config.training.phases]


@pytest.mark.parametrize(("processes", "expected"), [(1, [12, 8]), (2, [12, 8]), (3, [12, 9]), (5, [15, 10])])
def test_planned_batches_are_rounded_up_and_it_is_said(processes: int, expected: list[int]) -> None:
    plan = with_equal_shares(planned(batch=8, phases=PHASES), TrainConfig(), processes)
    assert batches(plan) == expected and plan.config.training.batch == expected[-1]
    reasons = [entry.reason for entry in plan.entries]
    assert reasons == (
        [] if processes < 3 else [f"batches rounded up, so that {processes} processes have equal shares"]
    )


@pytest.mark.parametrize(("batch", "processes", "fix"), [(8, 3, "--batch 6 or 9"), (2, 4, "--batch 4,")])
def test_a_batch_that_was_asked_for_and_cannot_be_shared_is_refused(batch: int, processes: int, fix: str) -> None:
    asked = TrainConfig().with_values({"training.batch": batch})
    with pytest.raises(UsageError, match=f"{batch} images cannot be shared equally by {processes} processes") as caught:
        with_equal_shares(planned(batch=batch, phases=PHASES), asked, processes)
    assert fix in str(caught.value)


def test_phases_that_were_asked_for_are_kept_or_refused() -> None:
    asked = TrainConfig().with_values({"training.phases": PHASES})
    assert batches(with_equal_shares(planned(batch=8, phases=PHASES), asked, 4)) == [12, 8]
    with pytest.raises(UsageError, match=r"training\.phases"):
        with_equal_shares(planned(batch="auto", phases=PHASES), asked, 8)

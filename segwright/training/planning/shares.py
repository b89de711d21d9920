"""Batches that several processes share equally."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.training.config import TrainConfig
from segwright.training.planning.draft import Plan, PlanEntry


def with_equal_shares(plan: Plan, asked: TrainConfig, processes: int) -> Plan:
    """``plan`` with batches that each of ``processes`` has an equal share of.

    Batches that were planned are rounded up, with an entry that shows it. UsageError for one that was ``asked`` for and
    cannot be shared equally: with unequal or left-out images an update would not be that of the whole batch.
    """
    planned = plan.config.training
    rounded: dict[str, Any] = {}
    if planned.batch != "auto" and planned.batch % processes:
        if asked.training.batch != "auto":
            raise _unequal(planned.batch, processes, "training.batch")
        rounded["training.batch"] = _up(planned.batch, processes)
    unequal = [phase.batch for phase in planned.phases if phase.batch % processes]
    if unequal:
        if asked.training.phases:
            raise _unequal(unequal[0], processes, "training.phases")
        rounded["training.phases"] = [
            {**phase.model_dump(), "batch": _up(phase.batch, processes)} for phase in planned.phases
        ]
    if not rounded:
        return plan
    reason = f"batches rounded up, so that {processes} processes have equal shares"
    config = plan.config.with_values(rounded)
    shown = ", ".join(str(phase.batch) for phase in config.training.phases) or str(config.training.batch)
    return replace(plan, config=config, entries=(*plan.entries, PlanEntry("training.batch", shown, reason)))


def _up(batch: int, processes: int) -> int:
    return -(-batch // processes) * processes


def _unequal(batch: int, processes: int, where: str) -> UsageError:
    less, more = batch // processes * processes, _up(batch, processes)
    return UsageError(
        f"a batch of {counted(batch, 'image')} cannot be shared equally by {processes} processes",
        expected=f"a multiple of {processes}",
        found=str(batch),
        where=where,
        fix=f"--batch {f'{less} or {more}' if less else more}, or another number of processes",
    )

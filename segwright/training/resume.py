"""Resuming a run: its stored plan and origin, and reports of what changed since it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import CheckpointError, ConfigError, SegwrightError, UsageError
from segwright.inference.bundle import read_bundle
from segwright.inference.lineage import Ancestor, Lineage
from segwright.training.checkpoint import checkpoints, clear_leftovers, newest_state
from segwright.training.config import TrainConfig, load_config
from segwright.training.context import RunContext
from segwright.training.data_fingerprint import NAME as DATA_PRINT
from segwright.training.data_fingerprint import differences, digest, read_print
from segwright.training.planning.checked_data import CheckedData
from segwright.training.planning.draft import Plan
from segwright.training.run_dir import refuse_second_run, refuse_to_begin_again

Message = Callable[[str], None]


@dataclass(frozen=True)
class StoredRun:
    """The record of the run in ``folder``, from its newest intact checkpoint."""

    folder: Path
    record: Mapping[str, Any]
    seconds: float = 0.0  # of training so far

    @classmethod
    def read(cls, folder: Path) -> StoredRun:
        state = newest_state(folder / "checkpoints") or {}
        seconds = (state.get("progress") or {}).get("seconds")
        return cls(folder, state.get("run") or {}, float(seconds) if isinstance(seconds, int | float) else 0.0)

    def minutes(self) -> float | None:
        """The minutes of the run's own plan; None if epochs end it."""
        stored = (((self.record.get("plan") or {}).get("config") or {}).get("training") or {}).get("minutes")
        return float(stored) if isinstance(stored, int | float) else None

    def refuse_other_classes(self, names: tuple[str, ...], where: Path) -> None:
        """UsageError if the data has other classes than the run had."""
        before, now = self.record.get("classes"), list(names)
        if before is None or list(before) == now:
            return
        raise UsageError(
            "the data has other classes than the run to be resumed",
            expected=f"{len(before)} classes: {', '.join(map(str, before))}",
            found=f"{counted(len(now), 'class')}: {', '.join(now)}",
            where=where,
            fix=f"another --out, and --init-from {self.folder} to begin with the weights of this run",
        )

    def with_unlabeled(self, given: TrainConfig) -> TrainConfig:
        """``given`` with the run's own self-training, unless it names one itself."""
        stored = ((self.record.get("plan") or {}).get("config") or {}).get("unlabeled")
        if given.unlabeled.active or not isinstance(stored, dict):
            return given
        return given.with_values({f"unlabeled.{key}": value for key, value in stored.items()})

    def report_changed_data(self, checked: CheckedData, message: Message) -> None:
        """Report every file of the data that is not as it was when the run stopped."""
        if self.record.get("data") in (None, digest(checked.file_prints)):
            return
        before = read_print(self.folder)
        if before is not None and digest(before) == self.record["data"]:
            lines = differences(before, checked.file_prints)
        else:
            lines = [f"the changed files cannot be named: {DATA_PRINT} is missing or damaged"]
        message("warning: the data changed since the run stopped; it goes on with the data as it is now")
        for line in lines:
            message(f"  {line}")

    def plan(self, given: TrainConfig, message: Message) -> Plan:
        """The plan of the run, with the settings of this command line on top, each of which is reported.

        From the checkpoint, or from the files of the folder where an earlier version wrote it. CheckpointError if
        neither can be read.
        """
        try:
            stored = self.record.get("plan") or json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
            plan = Plan.from_json(stored)
            config = plan.config if self.record.get("plan") else load_config(self.folder / "config.yaml")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
            raise CheckpointError(
                "the plan of the run cannot be read",
                expected="config.yaml and plan.json as the run wrote them",
                found=str(error).splitlines()[0][:200],
                where=self.folder,
                fix="another --out, and --init-from this folder to begin with its weights",
            ) from error
        explicit = changed_settings(given, TrainConfig())
        explicit = {key: value for key, value in explicit.items() if key not in ("data.path", "out")}
        changed = {key: value for key, value in explicit.items() if _setting(config, key) != value}
        for key, value in changed.items():
            message(f"changed on resuming: {key} = {value} (was {_setting(config, key)})")
        return replace(plan, config=config.with_values(changed))

    def lineage(self) -> Lineage | None:
        """The run's lineage as recorded before it stopped; None if an earlier version wrote the checkpoint."""
        found = self.record.get("lineage")
        if not isinstance(found, Mapping):
            return None
        try:
            listed = [Ancestor.from_json(one) for one in found["ancestors"]]
            return Lineage(Ancestor.from_json(found["model"]), {one.id: one for one in listed})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def origin(self) -> str | None:
        """Where the run's starting weights came from, as recorded before it stopped: --init-from is not given again."""
        if self.record.get("origin"):
            return str(self.record["origin"])
        try:
            return read_bundle(self.folder / "model").licenses.get("weights")
        except SegwrightError:
            return None


def find_stored_run(context: RunContext, *, resume: bool) -> StoredRun | None:
    """The run to continue, if there is one; UsageError if a new run would overwrite a finished one."""
    folder, first = context.folder, context.world.is_first
    if first:
        if not resume:
            refuse_second_run(folder)
        clear_leftovers(folder / "checkpoints")
    if not resume:
        return None
    if checkpoints(folder / "checkpoints"):
        return StoredRun.read(folder)
    if first:
        refuse_to_begin_again(folder)
        context.display.message("nothing to resume yet: no checkpoint was written; starting from the beginning")
    return None


def changed_settings(config: TrainConfig, default: TrainConfig) -> dict[str, Any]:
    """Dotted keys whose value is not the default."""
    ours, base = config.model_dump(), default.model_dump()
    found = {}
    for section, values in ours.items():
        if isinstance(values, dict):
            found.update({f"{section}.{k}": v for k, v in values.items() if v != base[section][k]})
        elif values != base[section]:
            found[section] = values
    return found


def _setting(config: TrainConfig, key: str) -> Any:
    node: Any = config.model_dump()
    for part in key.split("."):
        node = node[part]
    return node

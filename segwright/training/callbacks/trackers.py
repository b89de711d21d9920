"""TensorBoard, MLflow and Weights & Biases, fed from the records that go into ``log.jsonl``.

An error of a tracker is reported once and the tracker is dropped; the run continues. A run that is resumed continues
the trackers' runs, whose ids are in ``trackers.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from segwright.core.atomic_io import write_text
from segwright.core.errors import MissingExtraError, UsageError

Message = Callable[[str], None]
NOT_FIGURES = ("step", "epoch", "time")
RUN_IDS_FILE = "trackers.json"  # in the run folder: tracker → the id of its run


class Tracker(Protocol):
    """The interface of a tracker. ``run_id``: what a resumed run continues; None if the run folder has it already."""

    @property
    def run_id(self) -> str | None: ...

    def write(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = None
        self.writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """A run of MLflow; its destination is MLflow's own setting (``MLFLOW_TRACKING_URI``)."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None = None) -> None:
        import mlflow

        self.mlflow: Any = mlflow
        self.run_id = str(mlflow.start_run(run_id=run_id, run_name=folder.name).info.run_id)
        if run_id is None:  # MLflow refuses other values for the parameters of a run
            mlflow.log_params({name: str(value)[:500] for name, value in settings.items()})

    def write(self, figures: Mapping[str, float], step: int) -> None:
        # MLflow allows neither brackets nor most signs in a name.
        clean = {"".join(c if c.isalnum() or c in "_-./ " else "_" for c in name): v for name, v in figures.items()}
        self.mlflow.log_metrics(clean, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


class WandB:
    """A run of Weights & Biases; account and mode are its own settings (``WANDB_MODE=offline``)."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None = None) -> None:
        import wandb

        again = {} if run_id is None else {"id": run_id, "resume": "allow"}
        self.run: Any = wandb.init(
            project="segwright", name=folder.name, dir=str(folder), config=dict(settings), **again
        )
        self.run_id = str(self.run.id)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any], str | None], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "mlflow": ("mlflow", MLflow),
    "wandb": ("wandb", WandB),
}


def installed(names: Sequence[str]) -> tuple[str, ...]:
    """Those of ``names`` whose packages are installed."""
    return tuple(name for name in names if find_spec(TRACKERS[name][0]) is not None)


def check_trackers(names: Sequence[str] | Literal["auto"]) -> None:
    """UsageError for an unknown name, MissingExtraError for one whose package is not installed; before any work.
    "auto" needs no check."""
    for name in () if names == "auto" else names:
        if name not in TRACKERS:
            raise UsageError("unknown tracker", expected=", ".join(TRACKERS), found=name)
        package = TRACKERS[name][0]
        if find_spec(package) is None:
            raise MissingExtraError(
                f"the tracker {name} needs the package {package}",
                found="it is not installed",
                fix=f"pip install {package}, or leave it out of training.trackers",
            )


class Trackers:
    """The trackers of a run, each dropped at its first error. ``resume``: continue the runs of the last sitting."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        settings: Mapping[str, Any],
        message: Message,
        *,
        resume: bool = False,
    ) -> None:
        self.message = message
        self.active: dict[str, Tracker] = {}
        earlier = _run_ids(folder) if resume else {}
        for name in names:
            self._try(name, partial(self._begin, name, folder, settings, earlier.get(name)))
        found = {name: tracker.run_id for name, tracker in self.active.items() if tracker.run_id is not None}
        if found and {**earlier, **found} != earlier:
            with suppress(OSError):  # a full disk: the next sitting begins runs of its own
                write_text(folder / RUN_IDS_FILE, json.dumps({**earlier, **found}))

    def write(self, record: Mapping[str, Any]) -> None:
        """A step's or a validation's record; nested figures come under ``key/name``."""
        if not self.active:
            return
        found = figures(record)
        for name, tracker in list(self.active.items()):
            self._try(name, partial(tracker.write, found, int(record["step"])))

    def close(self) -> None:
        for name, tracker in list(self.active.items()):
            self._try(name, tracker.close)

    def _begin(self, name: str, folder: Path, settings: Mapping[str, Any], run_id: str | None) -> None:
        self.active[name] = TRACKERS[name][1](folder, settings, run_id)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # no error of a tracker may end a run
            self.active.pop(name, None)
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self.message(f"warning: {name} is left out from now on ({first}); training goes on")


def _run_ids(folder: Path) -> dict[str, str]:
    """The ids of the trackers' runs at the last sitting; of a file that is none, nothing."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / RUN_IDS_FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {name: value for name, value in found.items() if name in TRACKERS and isinstance(value, str)}
    return {}


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, flat."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        items = value.items() if isinstance(value, Mapping) else ((None, value),)
        for name, number in items:
            if key not in NOT_FIGURES and isinstance(number, int | float) and math.isfinite(number):
                flat[key if name is None else f"{key}/{name}"] = float(number)
    return flat

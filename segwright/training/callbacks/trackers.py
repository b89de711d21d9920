"""TensorBoard, MLflow and Weights & Biases, fed from the records that go into ``log.jsonl``.

An error of a tracker is reported once and the tracker is dropped; the run continues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from segwright.core.errors import MissingExtraError, UsageError

Message = Callable[[str], None]
NOT_FIGURES = ("step", "epoch", "time")


class Tracker(Protocol):
    """The interface of a tracker."""

    def write(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """A run of MLflow; its destination is MLflow's own setting (``MLFLOW_TRACKING_URI``)."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import mlflow

        self.mlflow: Any = mlflow
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params({name: str(value)[:500] for name, value in settings.items()})

    def write(self, figures: Mapping[str, float], step: int) -> None:
        # MLflow allows neither brackets nor most signs in a name.
        clean = {"".join(c if c.isalnum() or c in "_-./ " else "_" for c in name): v for name, v in figures.items()}
        self.mlflow.log_metrics(clean, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


class WandB:
    """A run of Weights & Biases; account and mode are its own settings (``WANDB_MODE=offline``)."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self.run: Any = wandb.init(project="segwright", name=folder.name, dir=str(folder), config=dict(settings))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any]], Tracker]]] = {
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
    """The trackers of a run, each dropped at its first error."""

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any], message: Message) -> None:
        self.message = message
        self.active: dict[str, Tracker] = {}
        for name in names:
            self._try(name, partial(self._begin, name, folder, settings))

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

    def _begin(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.active[name] = TRACKERS[name][1](folder, settings)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # no error of a tracker may end a run
            self.active.pop(name, None)
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self.message(f"warning: {name} is left out from now on ({first}); training goes on")


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, flat."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        items = value.items() if isinstance(value, Mapping) else ((None, value),)
        for name, number in items:
            if key not in NOT_FIGURES and isinstance(number, int | float) and math.isfinite(number):
                flat[key if name is None else f"{key}/{name}"] = float(number)
    return flat

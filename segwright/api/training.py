"""Training: train, cross-validate, search for better settings, test learning rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.api.data import opened
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset
from segwright.training.config import TrainConfig, load_config

if TYPE_CHECKING:
    from segwright.search.folds import CrossValidation
    from segwright.search.lr_range import LrRange
    from segwright.search.study import Study
    from segwright.training.run import Run

__all__ = ["cross_validate", "lr_range", "train", "tune"]


@renamed_parameters(start="init_from")
def train(
    data: Dataset | str | Path,
    *,
    model: str = "auto",
    encoder: str | None = "auto",
    minutes: float | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
    unlabeled: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    command: str = "",
    started: float | None = None,
    **training: Any,
) -> Run:
    """Train a segmentation model. Whatever is left out is planned from the data and the machine.

    Parameters
    ----------
    data : Dataset or str or Path
        What to train on; checked first.
    model : str, default="auto"
        A network that :func:`segwright.list_models` lists.
    encoder : str or None, default="auto"
        Its encoder, by timm's name.
    minutes : float > 0, optional
        Wall-clock budget of the whole call. Either this or ``epochs``; if both are left out the plan decides.
    epochs : int >= 1, optional
        Passes over the training images.
    out : str or Path, optional
        The run folder. Required with ``resume``.
    resume : bool, default=False
        Continue the run in ``out`` from its newest checkpoint, bit-exact.
    init_from : str or Path, optional
        A saved model to fine-tune.
    unlabeled : str or Path, optional
        Images to use without labels: a folder, a glob or a dataset. The averaged weights label them as training goes on
        (self-training). ``settings={"unlabeled.judge": True}`` trains once more without them and compares.
    config : str or Path, optional
        A ``config.yaml`` to begin with.
    settings : mapping, optional
        Any setting by its dotted key, such as ``{"training.save_every_steps": 100}``.
    dry_run : bool, default=False
        Make the plan and measure the memory, without training.
    command : str, optional
        The command line, kept in the saved model.
    started : float, optional
        When ``minutes`` began to run, by ``time.monotonic()``. Now, if left out.
    **training
        Settings of the training section: ``lr=1e-3``, ``batch=8``, ``loss="ce+dice"``, ``device="cpu"``,
        ``seed=0`` …; ``weights`` is the model's.

    Returns
    -------
    Run
        ``folder``, ``model`` (the saved model), ``plan``, ``evaluation`` on the validation split.

    Raises
    ------
    DataError
        The check finds an error, or there is nothing to train on.
    UsageError
        A setting is unknown or out of range.
    TrainingError
        The loss or the gradients are not finite, or memory does not suffice for one image.

    Examples
    --------
    >>> import segwright as sw
    >>> run = sw.train("streets", model="leannet", epochs=1, out="run-0", size=(32, 48), batch=4, device="cpu")
    >>> run.model.name
    'model'
    """
    from segwright.training.judge import FOLDER, train_judged
    from segwright.training.run import run_training
    from segwright.training.run_dir import default_folder

    started = time.monotonic() if started is None else started
    values: dict[str, Any] = {"training.minutes": minutes, "training.epochs": epochs}
    values |= {"unlabeled.path": str(unlabeled)} if unlabeled is not None else {}
    values |= {"model.name": model} if model != "auto" else {}
    values |= {"model.encoder": encoder} if encoder != "auto" else {}
    values |= {"model.weights": training.pop("weights")} if "weights" in training else {}
    none = ("model.encoder", "model.weights")  # where None is a value: no encoder, random weights
    values = {key: value for key, value in values.items() if value is not None or key in none}
    values |= {f"training.{key}": value for key, value in training.items()} | dict(settings or {})
    data, configured = _configured(data, values, config, out)
    if resume and configured.out is None:
        raise UsageError("--resume needs the run folder", fix="segwright train DATA --resume --out FOLDER")
    given: dict[str, Any] = {"resume": resume, "init_from": init_from, "command": command, "started": started}
    judged = configured.unlabeled.judge or (resume and (Path(str(configured.out)) / FOLDER).is_dir())
    if not judged or dry_run:
        return run_training(data, configured, dry_run=dry_run, **given)
    folder = Path(configured.out) if configured.out else default_folder(data, configured)
    found: Run = train_judged(run_training, data, configured, folder, **given)
    return found


@renamed_parameters(start="init_from")
def cross_validate(
    data: Dataset | str | Path,
    values: Mapping[str, Any],
    folds: int,
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
    command: str = "",
) -> CrossValidation:
    """Train and score one model per fold, and join them into an ensemble.

    Parameters
    ----------
    data : Dataset or str or Path
        What to train on.
    values : mapping
        Settings by their dotted keys, such as ``{"training.epochs": 20}``; may be empty.
    folds : int >= 2
        The number of folds. Groups (sequences, near-duplicates) stay in one fold.
    config, out, resume, init_from, command
        As for :func:`segwright.train`.

    Returns
    -------
    CrossValidation
        ``folds``, ``mean``, ``spread`` and ``model``, the ensemble.

    Raises
    ------
    UsageError
        ``resume`` without ``out``, or more folds than groups.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.cross_validate("streets", {"training.epochs": 20}, 5)  # doctest: +SKIP
    >>> found.mean, found.spread  # doctest: +SKIP
    (0.61, 0.03)
    """
    from segwright.search.cross_validation import cross_validate as train_folds

    data, settings = _configured(data, values, config, out)
    _refuse_judge(settings)
    if resume and settings.out is None:
        raise UsageError("--resume needs the run folder", fix="segwright train DATA --folds K --resume --out FOLDER")
    return train_folds(data, settings, folds, resume=resume, init_from=init_from, command=command)


@renamed_parameters(start="init_from")
def lr_range(
    data: Dataset | str | Path,
    *,
    values: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    init_from: str | Path | None = None,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
) -> LrRange:
    """Measure the loss while the learning rate rises exponentially (Smith 2015), and suggest a rate.

    Parameters
    ----------
    data : Dataset or str or Path
        What to train on. No weight is kept.
    values, config, init_from
        As for :func:`segwright.cross_validate`.
    low, high : float > 0
        The rates of the first and the last step; ``low`` < ``high``.
    steps : int >= 10, default=100
        How many updates.

    Returns
    -------
    LrRange
        The rates, the losses and ``suggestion``.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.lr_range("streets", steps=50)  # doctest: +SKIP
    """
    from segwright.search.lr_range import range_test
    from segwright.training.run import planned_trainer

    data, settings = _configured(data, values or {}, config, None)
    return range_test(planned_trainer(data, settings, init_from=init_from), low=low, high=high, steps=steps)


@renamed_parameters(say="message")
def tune(
    data: Dataset | str | Path,
    out: str | Path,
    *,
    minutes: float,
    trial_minutes: float | None = None,
    final_minutes: float | None = None,
    architectures: Sequence[str] = (),
    config: str | Path | None = None,
    values: Mapping[str, Any] | None = None,
    resume: bool = False,
    message: Callable[[str], None] = lambda line: None,
) -> Study:
    """Search for better settings than the planned ones (Optuna's TPE with median pruning).

    The planned settings are trial 0. At the end the best trial and the plan are trained once more with another seed and
    compared image by image, since the best of many is too good by selection.

    Parameters
    ----------
    data : Dataset or str or Path
        What to train on.
    out : str or Path
        The folder of the search. ``resume`` continues it.
    minutes : float > 0
        Wall-clock budget of the whole search.
    trial_minutes, final_minutes : float > 0, optional
        Of one trial (a twelfth of ``minutes``) and of each final training (as a trial).
    architectures : sequence of str, optional
        Networks to try, such as ``["leannet:small", "unet:resnet18"]``.
    config, values
        As for :func:`segwright.cross_validate`.
    resume : bool, default=False
        Continue the search in ``out``.
    message : callable, optional
        Receives a line per event.

    Returns
    -------
    Study
        ``trials``, ``best``, ``config`` (a file for ``train``), ``beats_default`` with the paired interval.

    Raises
    ------
    MissingExtraError
        Optuna is not installed (``pip install segwright[tune]``).

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.tune("streets", "search", minutes=120)  # doctest: +SKIP
    >>> found.sentence  # doctest: +SKIP
    """
    from segwright.search.tune import require_optuna
    from segwright.search.tune import tune as search

    require_optuna()  # before the data is checked
    data, base = _configured(data, values or {}, config, None)
    _refuse_judge(base)
    return search(
        data,
        base,
        Path(out),
        minutes=minutes,
        trial_minutes=trial_minutes,
        final_minutes=final_minutes,
        architectures=architectures,
        resume=resume,
        message=message,
    )


def _refuse_judge(settings: TrainConfig) -> None:
    if settings.unlabeled.judge:
        raise UsageError(
            "unlabeled.judge compares two trainings, and is for `train` alone",
            found="unlabeled.judge=true",
            fix="leave it out here",
        )


def _configured(
    data: Dataset | str | Path, values: Mapping[str, Any], config: str | Path | None, out: str | Path | None
) -> tuple[Dataset, TrainConfig]:
    """The dataset, opened by the settings, and the settings: ``values`` laid over a file or the defaults."""
    base = load_config(config) if config is not None else TrainConfig()
    settings = base.with_values({**values, **({"out": str(out)} if out is not None else {})})
    if isinstance(data, str | Path):
        settings = settings.with_values({"data.path": str(data)})
    given = settings.data
    return opened(data, given.format, given.images, given.masks, given.labels()), settings

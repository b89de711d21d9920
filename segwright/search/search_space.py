"""The search space of `tune`, and the config of a trial's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segwright.training.config import TrainConfig

PLANNED = "as planned"
LOSSES = (PLANNED, "ce", "ce+dice", "ce+0.5*lovasz", "focal", "ohem")
STRENGTHS = ("none", "light", "medium", "strong")
CROPS = (0.75, 1.0, 1.25)
ARCHITECTURES = ("leannet:small", "leannet:medium", "leannet:large", "ddrnet", "unet:mobilenetv2_100",
                 "deeplabv3plus:mobilenetv2_100")  # fmt: skip
# Settings of one run or one machine, which are no part of a recipe.
UNBOUND = {"out": None, "data.path": "", "training.minutes": None, "training.epochs": None,
           "training.validate_every": "auto", "training.workers": "auto", "training.device": "auto",
           "training.precision": "auto", "training.compile": "auto"}  # fmt: skip


def suggest(trial: Any, architectures: Sequence[str], base: TrainConfig) -> dict[str, Any]:
    """Draw a trial's parameters. Rates and decay are factors on the architecture's planned value, so that one search
    can span networks and optimizers whose usual rates differ by tens."""
    aware = base.augment.class_aware
    return {
        "architecture": trial.suggest_categorical("architecture", list(architectures)),
        "lr": trial.suggest_float("lr", 0.2, 5.0, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 0.1, 10.0, log=True),
        "loss": trial.suggest_categorical("loss", list(LOSSES)),
        "crop": trial.suggest_categorical("crop", list(CROPS)),
        "zoom": trial.suggest_float("zoom", 0.5, 2.0, log=True),
        "strength": trial.suggest_categorical("strength", list(STRENGTHS)),
        "class_aware": trial.suggest_float("class_aware", 0.0, max(0.8, aware if aware != "auto" else 0.0)),
    }


def default_params(base: TrainConfig, architecture: str) -> dict[str, Any]:
    """The parameters that leave the plan unchanged."""
    strength, aware = base.augment.strength, base.augment.class_aware
    return {
        "architecture": architecture,
        "lr": 1.0,
        "weight_decay": 1.0,
        "loss": PLANNED,
        "crop": 1.0,
        "zoom": 1.0,
        "strength": "medium" if strength == "auto" else strength,
        "class_aware": 0.0 if aware == "auto" else float(aware),
    }


def apply_params(base: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """Apply a trial's parameters to the plan."""
    training = base.training
    lr, decay = float(training.lr), float(training.weight_decay)
    values: dict[str, Any] = {
        "training.lr": lr * float(params["lr"]),
        "training.muon_lr": min(training.muon_lr * float(params["lr"]), 0.5),
        "training.weight_decay": decay * float(params["weight_decay"]),
        "augment.strength": params["strength"],
        "augment.class_aware": float(params["class_aware"]),
    }
    if params["loss"] != PLANNED:
        values |= {"training.loss": params["loss"], "training.final_phase_loss": None}
    phases = []
    for phase in training.phases:
        crop, zoom = float(params["crop"]), float(params["zoom"])
        sides = [side if crop == 1 else max(32, round(side * crop / 32) * 32) for side in phase.size]
        middle, reach = (phase.scale[0] * phase.scale[1]) ** 0.5, (phase.scale[1] / phase.scale[0]) ** 0.5
        scale = phase.scale if zoom == 1 else (middle / reach**zoom, middle * reach**zoom)
        phases.append({**phase.model_dump(), "size": tuple(sides), "scale": scale})
    values |= {"training.phases": phases, "training.size": phases[-1]["size"]}
    return base.with_values(values)


def recipe(config: TrainConfig) -> TrainConfig:
    """A config for ``train --config``, without the settings of one run or one machine."""
    return config.with_values(UNBOUND)


def architecture_label(config: TrainConfig) -> str:
    """``name:encoder``, ``leannet:variant`` or ``name``."""
    part = config.model.arguments.get("variant") or config.model.encoder
    return f"{config.model.name}:{part}" if part not in (None, "auto") else config.model.name


def architecture_values(label: str) -> dict[str, Any]:
    """The settings of a label of :func:`architecture_label`."""
    name, _, part = label.partition(":")
    if name == "leannet":
        return {"model.name": name, "model.encoder": None, "model.arguments": {"variant": part} if part else {}}
    return {"model.name": name, "model.encoder": part or "auto", "model.arguments": {}}


def describe_params(params: Mapping[str, Any]) -> str:
    """One line of the parameters that differ from the default."""
    neutral = {"lr": 1.0, "weight_decay": 1.0, "loss": PLANNED, "crop": 1.0, "zoom": 1.0}
    shown = [
        f"{key} {f'×{value:.2g}' if key in ('lr', 'weight_decay', 'crop', 'zoom') else _short(value)}"
        for key, value in params.items()
        if neutral.get(key) != value
    ]
    return ", ".join(shown)


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)

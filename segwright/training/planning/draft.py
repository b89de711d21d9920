"""A plan: a resolved config with an entry, and its reason, per setting; and the draft that it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segwright.core.deprecated import renamed_attribute
from segwright.core.progress import duration
from segwright.data.dataset import Dataset
from segwright.training.config import TrainConfig, build


@dataclass(frozen=True)
class PlanEntry:
    """A setting, its value, and the reason for it."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """A resolved config, with the entries that led to it."""

    config: TrainConfig
    entries: tuple[PlanEntry, ...]
    class_weights: tuple[float, ...] | None
    seconds: float | None  # how long training and validation will take, where a step was timed

    decisions = renamed_attribute("decisions", "entries")

    def to_json(self) -> dict[str, Any]:
        return {
            "decisions": [{"setting": d.setting, "value": d.value, "reason": d.reason} for d in self.entries],
            "class_weights": None if self.class_weights is None else list(self.class_weights),
            "seconds": self.seconds,
            "config": self.config.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_json`."""
        weights = tree.get("class_weights")
        return cls(
            build(TrainConfig, tree["config"]),
            tuple(PlanEntry(d["setting"], d["value"], d["reason"]) for d in tree["decisions"]),
            None if weights is None else tuple(float(weight) for weight in weights),
            tree.get("seconds"),
        )


class Draft:
    """A config being resolved: values are set once, with their reason; what the user gave is kept."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.values: dict[str, Any] = {}
        self.entries: list[PlanEntry] = []
        self.lean = False  # a pretrained network that few CPU cores can train, by a recipe of its own
        self.passes: float | None = None  # over the training images in the time given, where steps were timed for it

    def get(self, key: str) -> Any:
        if key in self.values:
            return self.values[key]
        node: Any = self.config
        for part in key.split("."):
            node = node[part] if isinstance(node, Mapping) else getattr(node, part)
        return node

    def set_default(self, key: str, value: Any, reason: str, *, auto: Any = "auto") -> Any:
        """Set ``key`` if it is still ``auto``; returns its value."""
        given = self.get(key)
        if key in self.values:
            return given
        if given != auto:
            self.entries.append(PlanEntry(key, given, "as asked"))
            return given
        self.values[key] = value
        self.entries.append(PlanEntry(key, value, reason))
        return value

    def resolved(self) -> TrainConfig:
        return self.config.with_values(self.values)


def describe_plan(plan: Plan, data: Dataset) -> list[str]:
    """The plan as lines of text: the label map, then every entry with its reason."""
    lines = [f"data: {data.root} ({data.format})", *(f"  {line}" for line in data.label_space.describe())]
    names = [shown_setting(d.setting) for d in plan.entries]
    width = max(map(len, names), default=0)
    lines.append("plan:")
    lines += [
        f"  {name:{width}}  {shown_value(d.value)}  ({d.reason})" for name, d in zip(names, plan.entries, strict=True)
    ]
    if plan.seconds is not None:
        lines.append(f"this will take about {duration(plan.seconds)}")
    return lines


def shown_setting(key: str) -> str:
    """A setting without its section, where its name alone is clear."""
    return key if key.startswith("unlabeled.") else key.split(".", 1)[-1]


def shown_value(value: Any) -> str:
    """A value as text: sizes as height×width, names separated by commas, None as none."""
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return f"{value[0]}×{value[1]}"
    if isinstance(value, tuple | list) and all(isinstance(name, str) for name in value):
        value = ", ".join(value) or None
    return "none" if value is None else str(value)

"""A line when something looks odd, with what to try: each said once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from segwright.training.validate import Validation

WINDOW = 200  # steps compared with the steps before them
SPIKE = 3.0


class Watch:
    """Looks at the losses and the validations of a run."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.losses: deque[float] = deque(maxlen=2 * WINDOW)
        self.said: set[str] = set()
        self.never: dict[str, int] = {}

    def step(self, record: Mapping[str, Any]) -> list[str]:
        """What is odd about a step's record."""
        loss = float(record["loss"])
        lines = []
        if len(self.losses) >= 20:
            usual = sorted(self.losses)[len(self.losses) // 2]
            if loss > SPIKE * max(usual, 0.1):
                lines += self._once(
                    "spike",
                    f"odd: the loss jumped to {loss:.2f} at step {record['step']} (usual {usual:.2f}); "
                    "if it does not come back, the learning rate is too high: try --lr at a third",
                )
        self.losses.append(loss)
        if len(self.losses) == 2 * WINDOW:
            ordered = list(self.losses)
            before, after = sum(ordered[:WINDOW]) / WINDOW, sum(ordered[WINDOW:]) / WINDOW
            if record["step"] <= 2 * WINDOW and after > 0.98 * before:
                lines += self._once(
                    "flat",
                    f"odd: the loss does not fall ({before:.3f} → {after:.3f} over {2 * WINDOW} steps); "
                    "try another --lr, and look at the data with `segwright check DATA --html check.html`",
                )
        return lines

    def validation(self, found: Validation) -> list[str]:
        """What is odd about a validation: classes that occur and are never predicted, three times in a row."""
        for name, truth, predicted in zip(self.names, found.scores.pixels, found.predicted_pixels, strict=True):
            self.never[name] = self.never.get(name, 0) + 1 if truth and not predicted else 0
        missing = [name for name, count in self.never.items() if count == 3]
        if not missing:
            return []
        return self._once(
            f"never {missing}",
            f"odd: in the validation pictures and not predicted once in three validations: {', '.join(missing)}; "
            "more steps may be all it takes, else try --set training.class_weights=median "
            "and --set augment.class_aware=0.5",
        )

    def _once(self, key: str, line: str) -> list[str]:
        if key in self.said:
            return []
        self.said.add(key)
        return [line]

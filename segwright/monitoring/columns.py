"""Observations as columns of numbers, with names and words for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError
from segwright.monitoring.observation import IMAGE_STATISTICS, Observation

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

GROUPS = ("image", "classes", "confidence", "embedding")
UNITS = {
    "brightness": "0…1", "contrast": "0…1", "saturation": "0…1", "red": "0…1", "green": "0…1", "blue": "0…1",
    "sharpness": "logarithm", "noise": "0…1", "dark": "share of pixels", "bright": "share of pixels",
    "confidence": "0…1", "low confidence": "0…1", "entropy": "0…1", "estimated IoU": "0…1",
}  # fmt: skip
_FRAME = re.compile(r"[_\-. ]*(?:frame|img|image|f)?[_\-. ]?[0-9]+$", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """N rows as columns: F statistics and D embedding values. What is not finite is NaN."""

    names: tuple[str, ...]
    groups: tuple[str, ...]  # (F,) of GROUPS
    values: Float64Array  # (N, F)
    embeddings: Float64Array  # (N, D)
    scenes: IntArray  # (N,) number of the scene; rows of one scene are neighbors in time

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: IntArray | slice) -> Columns:
        """Some rows."""
        return Columns(self.names, self.groups, self.values[rows], self.embeddings[rows], self.scenes[rows])

    def unit(self, index: int) -> str:
        """What a value of a column is in."""
        name = self.names[index]
        if name.startswith("share of "):
            return "share of pixels"
        return "per image" if name.startswith("regions of ") else UNITS.get(name, "")


def columns_of(rows: Sequence[Observation], classes: Sequence[str]) -> Columns:
    """The columns of rows of one model; DataError if their numbers of classes or embedding values differ."""
    count = len(classes)
    for row in rows:
        if len(row.shares) != count or len(row.components) != count:
            raise DataError(
                "a row has another number of classes than the reference",
                expected=f"{count}: {', '.join(classes)[:200]}",
                found=f"{len(row.shares)}",
                where=row.id[:200],
                fix="give the reference of the model that made the journal",
            )
        if len(row.statistics) != len(IMAGE_STATISTICS):
            raise DataError(
                "a row has other image statistics than this version computes",
                expected=str(len(IMAGE_STATISTICS)), found=str(len(row.statistics)), where=row.id[:200],
            )  # fmt: skip
    sizes = Counter(len(row.embedding) for row in rows)
    if len(sizes) > 1:
        raise DataError(
            "embeddings of the rows differ in size",
            expected="one size", found=", ".join(f"{size} ({n} rows)" for size, n in sorted(sizes.items())),
            fix="examine one version of the model at a time: --model",
        )  # fmt: skip
    width = next(iter(sizes), 0)
    names = [*IMAGE_STATISTICS, *(f"share of {name}" for name in classes), *(f"regions of {name}" for name in classes),
             "confidence", "low confidence", "entropy"]  # fmt: skip
    groups = ["image"] * len(IMAGE_STATISTICS) + ["classes"] * (2 * count) + ["confidence"] * 3
    values = np.full((len(rows), len(names)), np.nan)
    embeddings = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        values[place] = [*row.statistics, *row.shares, *row.components, row.mean_confidence,
                         row.confidence[0] if len(row.confidence) else np.nan, row.entropy]  # fmt: skip
        embeddings[place] = row.embedding
    values[~np.isfinite(values)] = np.nan
    embeddings[~np.isfinite(embeddings)] = np.nan
    return Columns(tuple(names), tuple(groups), values, embeddings, scenes_of(rows))


def scenes_of(rows: Sequence[Observation]) -> IntArray:
    """(N,) the scene of each row by number: its tag ``scene``, else the name without the frame's number.

    Names that are other for most rows tell no scenes: then all rows are neighbors, in their order.
    """
    names = [row.tags.get("scene") or _FRAME.sub("", row.id) for row in rows]
    if 2 * len(set(names)) > len(names) and not any("scene" in row.tags for row in rows):
        return np.zeros(len(rows), np.intp)
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.intp)


def scaled(values: Float64Array, names: Sequence[str]) -> Float64Array:
    """Columns on the scale on which their spread is even: roots of shares, logarithms of counts, log-odds of
    probabilities."""
    result = values.copy()
    for index, name in enumerate(names):
        column = result[:, index]
        if name.startswith("share of ") or name in ("dark", "bright", "noise"):
            result[:, index] = np.sqrt(np.clip(column, 0, None))
        elif name.startswith("regions of "):
            result[:, index] = np.log1p(np.clip(column, 0, None))
        elif name in ("confidence", "low confidence", "entropy"):
            safe = np.clip(column, 1e-4, 1 - 1e-4)
            result[:, index] = np.log(safe / (1 - safe))
    return result


def _percent(value: float) -> str:
    share = 100 * value
    return f"{share:.0f} %" if share >= 9.95 else f"{share:.1f} %"


def in_words(name: str, reference: float, found: float) -> str:
    """What moved, as a person would put it."""
    if not np.isfinite(found):
        return f"{name} is not finite"
    if not np.isfinite(reference):
        return f"{name} is {found:.3g}, the reference has none"
    up = found > reference
    against = f"({found:.3g} against {reference:.3g})"
    ratio = abs(found / reference - 1) if abs(reference) > 1e-9 else np.inf
    by = f" {ratio:.0%}".replace("%", " %") if ratio < 10 else " many times"
    if name == "brightness":
        return f"images are{by} {'brighter' if up else 'darker'} than the reference {against}"
    if name == "sharpness":
        factor = float(np.exp(min(50.0, abs(found - reference))))
        return f"images are {'sharper' if up else 'less sharp'} (fine detail {_times(factor)} as {_more(up)})"
    if name == "noise":
        return f"images are {'noisier' if up else 'less noisy'} {against}"
    if name in ("dark", "bright"):
        kind = "nearly black" if name == "dark" else "nearly white"
        return f"share of {kind} pixels {'rose' if up else 'fell'} from {_percent(reference)} to {_percent(found)}"
    if name.startswith("share of "):
        return f"{name} {'rose' if up else 'fell'} from {_percent(reference)} to {_percent(found)}"
    if name.startswith("regions of "):
        return f"{name} per image {'rose' if up else 'fell'} from {reference:.1f} to {found:.1f}"
    if name == "confidence":
        return f"the model is {'more' if up else 'less'} confident {against}"
    if name == "low confidence":
        return f"the least sure 5 % of pixels are {'more' if up else 'less'} sure {against}"
    if name == "entropy":
        return f"predictions are {'less' if up else 'more'} definite (entropy {found:.3g} against {reference:.3g})"
    return f"{name} {'rose' if up else 'fell'}{' by' + by if ratio < 10 else ''} {against}"


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 100 else f"{factor:.0f} times"


def _more(up: bool) -> str:
    return "strong" if up else "weak"

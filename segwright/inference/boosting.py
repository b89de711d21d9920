"""Boosted trees as plain arrays: fitted here with numpy, stored without pickle, applied in microseconds per row.

Friedman 2001 and 2002 (gradient boosting, with rows and columns drawn per tree), second-order leaves as in Chen and
Guestrin 2016. All trees have one depth: a tree is three arrays over its nodes in heap order, and a node that was not
split sends every row left. Columns are cut at quantiles, so that monotone changes of a feature change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from segwright.core.errors import BundleError, UsageError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Loss = Literal["logistic", "squares"]

BINS = 48
MOST_TREES, DEEPEST = 2000, 8


@dataclass(frozen=True)
class BoostedTrees:
    """T trees of depth D over F columns; N = 2^D − 1 inner nodes."""

    loss: Loss
    start: float
    columns: npt.NDArray[np.int16]  # (T, N)
    cuts: Float32Array  # (T, N): a row goes right if its value is greater; infinity where there is no split
    leaves: Float32Array  # (T, N + 1)

    @property
    def depth(self) -> int:
        return int(np.log2(self.leaves.shape[1]))

    def __call__(self, rows: npt.NDArray[np.float32]) -> Float64Array:
        """(R, F) → (R,): the probability of the event, or the value."""
        total = np.full(len(rows), self.start)
        for first in range(0, len(rows), 4096):
            part = rows[first : first + 4096]
            total[first : first + 4096] += self._sum(part)
        return np.asarray(expit(total)) if self.loss == "logistic" else total

    def _sum(self, rows: npt.NDArray[np.float32]) -> Float64Array:
        trees = np.arange(len(self.leaves))
        index = np.arange(len(rows))[:, None]
        node = np.zeros((len(rows), len(trees)), np.int32)
        for _ in range(self.depth):
            right = rows[index, self.columns[trees, node]] > self.cuts[trees, node]
            node = 2 * node + 1 + right
        return np.asarray(self.leaves[trees, node - self.columns.shape[1]].sum(axis=1, dtype=np.float64))

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """The model as named arrays."""
        return {
            f"{prefix}.start": np.array([self.start, float(self.loss == "logistic")], np.float64),
            f"{prefix}.columns": self.columns,
            f"{prefix}.cuts": self.cuts,
            f"{prefix}.leaves": self.leaves,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, features: int) -> BoostedTrees:
        """The model of :meth:`arrays`; BundleError unless the arrays are complete and fit ``features`` columns."""
        try:
            start, columns = np.asarray(arrays[f"{prefix}.start"]), np.asarray(arrays[f"{prefix}.columns"])
            cuts, leaves = np.asarray(arrays[f"{prefix}.cuts"]), np.asarray(arrays[f"{prefix}.leaves"])
        except KeyError as error:
            raise BundleError("the error model lacks an array", found=str(error)) from error
        nodes = columns.shape[1] if columns.ndim == 2 else 0
        fits = (
            columns.ndim == 2
            and columns.dtype.kind == "i"
            and cuts.shape == columns.shape
            and leaves.shape == (len(columns), nodes + 1)
            and nodes + 1 in [2**d for d in range(1, DEEPEST + 1)]
            and len(columns) <= MOST_TREES
            and start.shape == (2,)
            and np.isfinite(start).all()
            and np.isfinite(leaves).all()
            and not np.isnan(cuts).any()
            and (columns.size == 0 or 0 <= int(columns.min()) <= int(columns.max()) < features)
        )
        if not fits:
            raise BundleError(
                "the error model's trees are damaged",
                expected=f"trees over {features} columns",
                found=f"columns {columns.shape}, cuts {cuts.shape}, leaves {leaves.shape}",
            )
        loss: Loss = "logistic" if start[1] else "squares"
        return cls(loss, float(start[0]), columns.astype(np.int16), cuts.astype(np.float32), leaves.astype(np.float32))


def fit_trees(
    rows: npt.NDArray[np.float32],
    wanted: npt.NDArray[Any],
    loss: Loss,
    *,
    trees: int = 200,
    depth: int = 4,
    rate: float = 0.06,
    row_share: float = 0.5,
    column_share: float = 0.3,
    least: float = 10.0,
    ridge: float = 2.0,
    weights: npt.NDArray[Any] | None = None,
    seed: int = 0,
) -> BoostedTrees:
    """Fit ``trees`` trees to rows (R, F) and targets (R,): 0 or 1 for "logistic", any number for "squares".

    ``row_share``, ``column_share``: of rows and columns that a tree is fitted to. ``least``: rows in a leaf. ``ridge``:
    added to the second derivative in a leaf. The same arguments give the same trees. UsageError for no rows, other
    sizes, or values that are not finite.
    """
    rows, target = np.ascontiguousarray(rows, np.float32), np.asarray(wanted, np.float64)
    if rows.ndim != 2 or target.shape != (len(rows),) or not len(rows):
        raise UsageError("trees are fitted to rows and one target each", found=f"{rows.shape}, {target.shape}")
    if not (np.isfinite(rows).all() and np.isfinite(target).all()):
        raise UsageError("trees are fitted to finite numbers", found="NaN or infinity")
    if not (1 <= depth <= DEEPEST and 1 <= trees <= MOST_TREES):
        raise UsageError("too many trees", expected=f"up to {MOST_TREES} of depth {DEEPEST}", found=f"{trees}, {depth}")
    weight = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    rng = np.random.default_rng(seed)
    edges, binned = _binned(rows)
    mean = float(np.average(target, weights=weight))
    share = min(max(mean, 1e-3), 1 - 1e-3)
    start = float(np.log(share / (1 - share))) if loss == "logistic" else mean
    nodes = 2**depth - 1
    columns = np.zeros((trees, nodes), np.int16)
    cuts = np.full((trees, nodes), np.inf, np.float32)
    leaves = np.zeros((trees, nodes + 1), np.float32)
    score = np.full(len(rows), start)
    width = rows.shape[1]
    for tree in range(trees):
        drawn = np.flatnonzero(rng.random(len(rows)) < row_share)
        picked = rng.permutation(width)[: max(1, round(column_share * width))]
        if loss == "logistic":
            chance = expit(score)
            slope, curve = (chance - target) * weight, np.maximum(chance * (1 - chance), 1e-6) * weight
        else:
            slope, curve = (score - target) * weight, weight
        node = np.zeros(len(rows), np.int32)
        for level in range(depth):
            first, count = 2**level - 1, 2**level
            split, cut, value = _best_splits(
                binned[drawn][:, picked], node[drawn] - first, count, slope[drawn], curve[drawn], least, ridge
            )
            for place in range(count):
                if value[place] > 0:
                    column = int(picked[split[place]])
                    columns[tree, first + place], cuts[tree, first + place] = column, edges[column][cut[place]]
            node = 2 * node + 1 + (rows[np.arange(len(rows)), columns[tree, node]] > cuts[tree, node])
        leaf = node - nodes
        top = np.bincount(leaf[drawn], weights=slope[drawn], minlength=nodes + 1)
        bottom = np.bincount(leaf[drawn], weights=curve[drawn], minlength=nodes + 1)
        leaves[tree] = -rate * top / (bottom + ridge)
        score += leaves[tree][leaf]
    return BoostedTrees(loss, start, columns, cuts, leaves)


def _binned(rows: Float32Array) -> tuple[list[Float32Array], npt.NDArray[np.uint8]]:
    """The cuts of each column (at most BINS − 1, between its quantiles) and the bin of each value (R, F)."""
    edges: list[Float32Array] = []
    binned = np.empty(rows.shape, np.uint8)
    for column in range(rows.shape[1]):
        values = rows[:, column]
        inner = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
        inner = inner[inner < values.max()].astype(np.float32)
        edges.append(inner)
        binned[:, column] = np.searchsorted(inner, values, side="left")  # a value equal to a cut stays left
    return edges, binned


def _best_splits(
    binned: npt.NDArray[np.uint8],
    place: npt.NDArray[np.int32],
    count: int,
    slope: Float64Array,
    curve: Float64Array,
    least: float,
    ridge: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float64Array]:
    """For each of ``count`` nodes the column and the cut of the largest gain, and the gain."""
    width = binned.shape[1]
    key = (place[:, None].astype(np.int64) * width + np.arange(width)) * BINS + binned
    size = count * width * BINS
    flat = key.ravel()
    shape = (count, width, BINS)
    slopes = np.bincount(flat, weights=np.repeat(slope, width), minlength=size).reshape(shape).cumsum(axis=2)
    curves = np.bincount(flat, weights=np.repeat(curve, width), minlength=size).reshape(shape).cumsum(axis=2)
    rows = np.bincount(flat, minlength=size).reshape(shape).cumsum(axis=2)
    all_slope, all_curve, all_rows = slopes[..., -1:], curves[..., -1:], rows[..., -1:]
    gain = (
        slopes**2 / (curves + ridge)
        + (all_slope - slopes) ** 2 / (all_curve - curves + ridge)
        - all_slope**2 / (all_curve + ridge)
    )
    gain[(rows < least) | (all_rows - rows < least)] = 0
    gain = gain.reshape(count, -1)
    best = gain.argmax(axis=1)
    return best // BINS, best % BINS, gain[np.arange(count), best]

"""How well a score ranks: area under the ROC curve and R², exact on ties."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def auroc(scores: npt.ArrayLike, events: npt.ArrayLike) -> float:
    """The chance that an event has a higher score than another case, ties count half; NaN without both kinds."""
    values, hit = np.asarray(scores, np.float64).ravel(), np.asarray(events, bool).ravel()
    count, rest = int(hit.sum()), int((~hit).sum())
    if not count or not rest or np.isnan(values).any():
        return float("nan")
    # Mean ranks of equal scores, as scipy.stats.rankdata has them; scipy.stats takes a second to import.
    _, place, equal = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(equal) - (equal - 1) / 2)[place]
    return float((ranks[hit].sum() - count * (count + 1) / 2) / (count * rest))


def auroc_of_draws(
    scores: npt.ArrayLike, events: npt.ArrayLike, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(D,): :func:`auroc` if each case counts as often as each row of ``weights`` (D, N) has it; NaN without both
    kinds."""
    values, hit = np.asarray(scores, np.float64).ravel(), np.asarray(events, bool).ravel()
    if not values.size:
        return np.full(len(weights), np.nan)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))  # of runs of equal scores
    drawn = weights[:, order]
    found = np.add.reduceat(np.where(hit[order], drawn, 0.0), starts, axis=1)
    rest = np.add.reduceat(np.where(hit[order], 0.0, drawn), starts, axis=1)
    below = rest.cumsum(axis=1) - rest / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((found * below).sum(axis=1) / (found.sum(axis=1) * rest.sum(axis=1)))


def r_squared(truth: npt.ArrayLike, estimate: npt.ArrayLike) -> float:
    """1 − the squared error over that of the mean; NaN if the truth does not vary."""
    wanted, found = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    spread = float(((wanted - wanted.mean()) ** 2).sum()) if wanted.size else 0.0
    return 1 - float(((wanted - found) ** 2).sum()) / spread if spread > 0 else float("nan")

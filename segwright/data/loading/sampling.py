"""Oversampling: images that show a rare class come more often.

Class-aware crops look for a rare class within an image; where whole images that show it are rare, only this helps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.data.check.dataset_scan import DatasetScan
from segwright.data.records import Reader, Record, Split
from segwright.imageio.sandbox import WorkerPool, decoder_crashed_error

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def repeat_factors(shown: BoolArray, share: float) -> Float64Array:
    """How much more often each image comes, (N,), 1 or more, from the classes that each shows, (N, K).

    A class in a smaller share f of the images than ``share`` needs √(share / f); an image is repeated as the
    class in it that needs most. Gupta et al. 2019 (LVIS), section 4.1. UsageError where ``share`` is not in 0…1.
    """
    if not 0 <= share <= 1:
        raise UsageError("oversampling takes a share of the images", expected="0 to 1", found=str(share))
    frequency = shown.mean(axis=0) if len(shown) else np.zeros(shown.shape[1])
    asked = np.sqrt(share / np.where(frequency > 0, frequency, 1.0)).clip(min=1.0)
    return np.asarray(np.where(shown, asked, 1.0).max(axis=1, initial=1.0))


def classes_shown(
    split: Split, advance: Callable[[int], None] = lambda count: None, scan: DatasetScan | None = None
) -> BoolArray:
    """Which classes each image of ``split`` shows, (N, K), from its masks; none where it has no mask.

    With a ``scan`` that holds all of the split's records no file is read that the scan has read. The others are decoded
    in worker processes: an error of reading a mask is raised; a mask that crashes its worker is an ImageReadError.
    """
    result = np.zeros((len(split), len(split.label_space)), bool)
    rest = list(range(len(split)))
    rows = None if scan is None else scan.rows(split)
    if scan is not None and rows is not None:
        result = scan.totals.pixels[rows] > 0
        rest = np.flatnonzero(~scan.totals.complete[rows]).tolist()
        advance(len(split) - len(rest))
    if not rest:
        return result
    with WorkerPool[Record, BoolArray](_looker, split.reader, shared=True) as pool:
        records = [split.records[index] for index in rest]
        for index, outcome in zip(rest, pool.in_order(records, batch=4), strict=True):
            if outcome.crash is not None:
                raise decoder_crashed_error(outcome.item.image_path or outcome.item.id, outcome.crash)
            result[index] = outcome.get()
            advance(1)
    return result


def _looker(reader: Reader) -> Callable[[Record], BoolArray]:
    """The function that children run: which classes the mask of a record shows, (K,)."""
    classes = len(reader.label_space)

    def look(record: Record) -> BoolArray:
        mask = Split("", [record], reader).read_mask(0)
        if mask is None:
            return np.zeros(classes, bool)
        return np.asarray(np.bincount(mask.ravel(), minlength=256)[:classes] > 0)

    return look


def describe(factors: Float64Array) -> str:
    """One line for people."""
    more = factors > 1
    if not more.any():
        return "oversampling: no class is rarer than the threshold, every image comes once per epoch"
    return (
        f"oversampling: {more.sum()} of {counted(len(factors), 'image')} come up to {factors.max():.1f} times as often"
    )

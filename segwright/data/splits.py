"""Splits where the files name none: deterministic, balanced by class content, and what belongs together on one side.

Groups (sequences, near-duplicates; :mod:`segwright.data.grouping`) are dealt out so that every part gets its share of
the images, of each class's pixels and of the images that show each class: greedily, the groups that matter most
for a class first, then by single moves as long as one helps. The same data give the same splits on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.data.check.dataset_scan import DatasetScan, scan_dataset
from segwright.data.grouping import Content, Groups, content, group, sequence_of
from segwright.data.records import Dataset, Split

__all__ = ["folds", "make_splits", "sequence_of", "split_records"]

FEWEST_TO_SPLIT = 5  # fewer images than this are one split, "all"
MOST_TO_COMPARE = 20_000  # more are dealt out by name alone: at that size chance balances, and looking would take hours
FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.2}
MOVES = 400


def make_splits(dataset: Dataset, fractions: Mapping[str, float] = FRACTIONS, seed: int = 0) -> dict[str, Split]:
    """The dataset's splits: as given; with val taken from train where the files give none; else made.

    ``fractions`` of train and val hold for a val that is taken from train, too. What was done goes to
    ``dataset.notes``. Fewer than five images are one split, "all". Images without a mask stay out of made splits, and
    keep a split of their own, "unlabeled".
    """
    given = {name: Split(name, records, dataset.reader) for name, records in dataset.given.items()}
    if given and ("val" in given or "train" not in given):
        return given
    source = given.get("train", dataset.all)
    labeled, bare = _by_label(source)
    if len(labeled) < FEWEST_TO_SPLIT:
        return given or {"all": dataset.all}
    wanted = fractions if not given or set(fractions) == {"train", "val"} else FRACTIONS
    scan = scan_dataset(dataset) if len(labeled) <= MOST_TO_COMPARE else None
    parts, notes = split_records(labeled, wanted, seed, scan)
    shares = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
    reason = "the files give no val: taken from train" if given else "the files give no splits: made here"
    dataset.notes += [f"{reason} ({shares})", *notes]
    rest = {name: split for name, split in given.items() if name != "train"}
    if len(bare) and not given:
        rest["unlabeled"] = Split("unlabeled", bare.records, dataset.reader)
    return {**parts, **rest}


def _by_label(split: Split) -> tuple[Split, Split]:
    """(with masks, without)."""
    has = [bool(record.labeled) for record in split.records]
    return (
        split.subset([i for i, labeled in enumerate(has) if labeled], split.name),
        split.subset([i for i, labeled in enumerate(has) if not labeled], split.name),
    )


def split_records(
    source: Split, fractions: Mapping[str, float] = FRACTIONS, seed: int = 0, scan: DatasetScan | None = None
) -> tuple[dict[str, Split], list[str]]:
    """Deal ``source`` out into parts of these fractions; (name → part, what was found)."""
    if (
        not fractions
        or any(not 0 < share < 1 for share in fractions.values())
        or abs(sum(fractions.values()) - 1) > 1e-6
    ):
        raise UsageError("fractions must be between 0 and 1 and sum to 1", found=str(dict(fractions)))
    shares = np.array(list(fractions.values()))
    if len(source) > MOST_TO_COMPARE:
        place = np.array([_chance(sequence_of(name), seed) for name in source.ids])
        part_of = np.searchsorted(np.cumsum(shares)[:-1], place, side="right")
        notes = [f"more than {MOST_TO_COMPARE} images: dealt out by name, sequences of one name together"]
        if len(np.unique(part_of)) < len(shares):  # one name for all
            place = np.array([_chance(name, seed) for name in source.ids])
            part_of = np.searchsorted(np.cumsum(shares)[:-1], place, side="right")
            notes = [f"more than {MOST_TO_COMPARE} images under one name: dealt out by chance"]
    else:
        part_of, found = _deal(source, content(source, scan), shares, seed)
        notes = list(found)
    return (
        {name: source.subset(np.flatnonzero(part_of == i).tolist(), name) for i, name in enumerate(fractions)},
        notes,
    )


def folds(dataset: Dataset | Split, k: int, seed: int = 0) -> list[tuple[Split, Split]]:
    """``k`` pairs (train, val) for cross-validation: every labeled image is in exactly one val, groups together.

    Of a dataset with a test split, that part stays out. UsageError where there are fewer groups than folds.
    """
    scan = None
    if isinstance(dataset, Split):
        source = dataset
    else:
        held_out = {record.id for record in dataset.given.get("test", ())}
        kept = [record for record in dataset.records if record.id not in held_out]
        source = Split("all", kept, dataset.reader)
        scan = scan_dataset(dataset)
    source, _ = _by_label(source)
    if not 2 <= k <= len(source):
        raise UsageError("folds need at least as many images", expected=f"2 to {len(source)}", found=str(k))
    part_of, _ = _deal(source, content(source, scan), np.full(k, 1 / k), seed)
    filled = len(np.unique(part_of))
    if filled < k:
        raise UsageError(
            "fewer groups of images than folds", expected=f"2 to {filled}", found=str(k), fix="ask for fewer folds"
        )
    return [
        (
            source.subset(np.flatnonzero(part_of != fold).tolist(), "train"),
            source.subset(np.flatnonzero(part_of == fold).tolist(), "val"),
        )
        for fold in range(k)
    ]


def _deal(
    source: Split, content: Content, shares: npt.NDArray[np.float64], seed: int
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """(N,) part of each image, and notes: whole sequences where that comes out fair, else sequences cut into runs."""
    groups = group(source, content)
    part_of = assign(content, groups, shares, seed)[groups.of]
    if not _fair(content, groups, part_of, shares):
        groups = group(source, content, at_least=round(2 / shares.min()))
        part_of = assign(content, groups, shares, seed)[groups.of]
    return part_of, groups.notes


def _fair(content: Content, groups: Groups, part_of: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> bool:
    """Every part within 0.6 to 1.5 of its share, and every class in every part that it could be in."""
    sizes = np.bincount(part_of, minlength=len(shares)) / len(part_of)
    if (sizes < 0.6 * shares).any() or (sizes > 1.5 * shares).any():
        return False
    shown = content.pixels > 0
    for label in np.flatnonzero(shown.any(axis=0)):
        homes = len(np.unique(groups.of[shown[:, label]]))
        if homes >= 2 * len(shares) and len(np.unique(part_of[shown[:, label]])) < len(shares):
            return False
    return True


def _chance(name: str, seed: int) -> float:
    """A number in 0…1 that depends on the name and the seed alone."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(content: Content, groups: Groups, shares: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
    """(G,) part of each group. No part is left empty while there are groups enough."""
    count = len(groups)
    features = _features(content, groups)
    tie = np.random.default_rng(seed).permutation(count)
    order = sorted(range(count), key=lambda g: (-features[g].max(), tie[g]))
    placed = np.zeros((len(shares), features.shape[1]))
    part_of = np.full(count, -1, np.int64)
    for place, g in enumerate(order):
        cost = ((placed + features[g] - shares[:, None]) ** 2 - (placed - shares[:, None]) ** 2).sum(axis=1) / shares
        empty = np.flatnonzero([(part_of != part).all() for part in range(len(shares))])
        choices = empty if len(empty) >= count - place else np.arange(len(shares))
        best = int(choices[np.argmin(cost[choices])])
        part_of[g] = best
        placed[best] += features[g]
    return _cover(content, groups, shares, _improve(features, shares, part_of, placed))


def _cover(
    content: Content, groups: Groups, shares: npt.NDArray[np.float64], part_of: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Give every part a group of every class that has groups enough: a part without a class cannot be scored on it.

    Fair shares alone leave a class of two images in train. The smallest group that can be spared moves: not the last
    of any class in its part, and no larger than half of the part it goes to.
    """
    sizes = np.bincount(groups.of, minlength=len(groups))
    shown = np.zeros((len(groups), content.pixels.shape[1]), bool)
    np.logical_or.at(shown, groups.of, content.pixels > 0)
    homes = shown.sum(axis=0)
    for label in sorted(np.flatnonzero(homes >= len(shares)).tolist(), key=lambda label: int(homes[label])):
        for part in range(len(shares)):
            if shown[part_of == part, label].any():
                continue
            held = np.stack([shown[part_of == p].sum(axis=0) for p in range(len(shares))])  # (parts, classes)
            spare = [
                g
                for g in np.flatnonzero(shown[:, label])
                if (held[part_of[g]][shown[g]] > 1).all() and sizes[g] <= 0.5 * shares[part] * sizes.sum()
            ]
            if spare:
                part_of[min(spare, key=lambda g: (int(sizes[g]), int(g)))] = part
    return part_of


def _features(content: Content, groups: Groups) -> npt.NDArray[np.float64]:
    """(G, 2K+1): each group's share of all pixels of each class, of the images that show it, and of the images."""
    count = len(groups)
    shown = content.pixels > 0
    columns: list[npt.NDArray[np.float64]] = []
    for table in (content.pixels.astype(np.float64), shown.astype(np.float64)):
        summed = np.zeros((count, table.shape[1]))
        np.add.at(summed, groups.of, table)
        columns.append(summed[:, summed.sum(axis=0) > 0] / summed.sum(axis=0)[summed.sum(axis=0) > 0])
    size = np.bincount(groups.of, minlength=count) / len(groups.of)
    weight = max(1.0, sum(c.shape[1] for c in columns) / 2) ** 0.5  # sizes count as much as half of all classes
    return np.column_stack([*columns, weight * size])


def _improve(
    features: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    part_of: npt.NDArray[np.int64],
    placed: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Move single groups, the best move first, as long as the parts come closer to their shares."""
    full = np.asarray(shares)[:, None] * features.sum(axis=0)
    for _ in range(MOVES):
        here = placed[part_of]
        leave = (((here - features - full[part_of]) ** 2) - (here - full[part_of]) ** 2).sum(axis=1) / shares[part_of]
        gain = np.stack(
            [
                (((placed[p] + features - full[p]) ** 2) - (placed[p] - full[p]) ** 2).sum(axis=1) / shares[p] + leave
                for p in range(len(shares))
            ],
            axis=1,
        )
        gain[np.arange(len(part_of)), part_of] = 0
        sizes = np.bincount(part_of, minlength=len(shares))
        gain[sizes[part_of] <= 1] = 0  # the last group of a part stays
        g, p = np.unravel_index(int(np.argmin(gain)), gain.shape)
        if gain[g, p] > -1e-9:
            break
        placed[part_of[g]] -= features[g]
        placed[p] += features[g]
        part_of[g] = p
    return part_of

"""Findings about classes and splits: what cannot be learnt or scored, leaks between splits, duplicates, doubtful masks.
Part of :mod:`segwright.data.check.rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segwright.data.check.duplicates import Pair
from segwright.data.check.evidence import Evidence, joins
from segwright.data.check.wording import count, image_file, listed, mask_file
from segwright.data.records import Problem, Record

SHIFT = 0.15  # total variation between the class shares of two splits that is worth a warning
SHIFT_IMAGES = 8  # images that a split needs before its class shares mean anything


def classes(evidence: Evidence) -> list[Problem]:
    """Classes that never occur, or only in some of the splits."""
    overall, prints, objects = evidence.overall, evidence.prints, evidence.totals.objects
    if not overall.labeled:
        return []
    problems = []
    never = [
        name
        for label, (name, images) in enumerate(zip(overall.class_names, overall.class_images, strict=True))
        if not images and not objects.get(label, (0, 0))[0]  # else an error reports it
    ]
    if never:
        text = f"{count(len(never), 'class never occurs', 'classes never occur')}: {listed(never)}"
        fix = "drop it from the class list, or add images that show it"
        problems.append(Problem("warning", "class without pixels", text, (), fix))
    labeled = {name: one for name, one in prints.items() if one.labeled}
    if len(labeled) < 2:
        return problems
    for index, name in enumerate(overall.class_names):
        where = [split for split, one in labeled.items() if one.class_images[index]]
        lacking = [split for split in labeled if split not in where]
        if where and lacking and ("train" in lacking or len(where) == 1):
            consequence = "it cannot be learned" if "train" in lacking else "it is never scored there"
            text = f"class {name} occurs in {listed(where)} but not in {listed(lacking)}: {consequence}"
            fix = "put all images into one folder without splits: new splits are then made, stratified by class"
            problems.append(Problem("warning", "class in one split only", text, (), fix))
    return problems


def label_shift(evidence: Evidence) -> list[Problem]:
    """Class shares that differ between train and another split."""
    prints = evidence.prints
    train = prints.get("train")
    if train is None or train.labeled < SHIFT_IMAGES or evidence.sparse:
        return []
    problems = []
    for name, other in prints.items():
        if name == "train" or other.labeled < SHIFT_IMAGES:
            continue
        here, there = np.array(train.class_shares), np.array(other.class_shares)
        distance = float(np.abs(here - there).sum()) / 2
        if distance > SHIFT:
            most = np.argsort(-np.abs(here - there))[:3].tolist()
            moved = ", ".join(f"{train.class_names[i]} {100 * here[i]:.1f} → {100 * there[i]:.1f} %" for i in most)
            text = (
                f"train and {name} differ in content: {100 * distance:.0f} % of the labels would have to move ({moved})"
            )
            fix = f"scores on {name} are not representative of images like those of train; make new splits if needed"
            problems.append(Problem("warning", "label shift", text, (), fix))
    return problems


def shared_files(evidence: Evidence) -> list[Problem]:
    """The same file in several splits; lists that join others by name (trainval, all) may."""
    records, member = evidence.records, evidence.member
    shared: dict[tuple[str, ...], list[str]] = {}
    for record, names in zip(records, member, strict=True):
        own_splits = [name for name in names if not joins(name)]
        if len(own_splits) > 1:
            shared.setdefault(tuple(sorted(own_splits)), []).append(image_file(record))
    return [
        Problem(
            "error",
            "shared between splits",
            f"{count(len(files), 'image is', 'images are')} in {' and '.join(names)}: scores there are not valid",
            tuple(files),
            "take them out of one of the lists",
        )
        for names, files in shared.items()
    ]


def duplicates(evidence: Evidence) -> list[Problem]:
    """Copies and near-duplicates, between splits and within one."""
    pairs, records, member = evidence.pairs, evidence.records, evidence.member
    across_exact: list[Pair] = []
    across_near: list[Pair] = []
    within: list[Pair] = []
    for pair in pairs:
        a, b = ({name for name in member[i] if not joins(name)} for i in (pair.first, pair.second))
        if a and b and not a & b:
            (across_exact if pair.exact else across_near).append(pair)
        elif pair.exact:
            within.append(pair)
    problems = []
    if across_exact:
        text = f"{count(len(across_exact), 'image occurs', 'images occur')} in two splits: "
        text += _shown(across_exact, records, member)
        fix = "remove the copies outside train: scores on training images are not valid"
        problems.append(Problem("error", "shared between splits", text, _both(across_exact, records), fix))
    if across_near:
        text = (
            f"{count(len(across_near), 'pair', 'pairs')} of images in different splits look nearly the same "
            f"(frames of one scene, or copies): {_shown(across_near, records, member)}"
        )
        fix = "keep a scene in one split; otherwise scores are too high"
        problems.append(Problem("warning", "near-duplicates between splits", text, _both(across_near, records), fix))
    if within:
        text = f"{count(len(within), 'pair')} of images within a split are the same: "
        text += _shown(within, records, member)
        problems.append(Problem("note", "duplicates", text, _both(within, records), "remove one of each pair"))
    return problems


def _both(pairs: Sequence[Pair], records: Sequence[Record]) -> tuple[str, ...]:
    """The files pair by pair: 0 and 1, 2 and 3, …"""
    return tuple(image_file(records[i]) for pair in pairs for i in (pair.first, pair.second))


def _shown(pairs: Sequence[Pair], records: Sequence[Record], member: Sequence[Sequence[str]]) -> str:
    def named(index: int) -> str:
        return f"{records[index].id} ({'+'.join(member[index])})"

    best = sorted(pairs, key=lambda pair: -pair.correlation)[:3]
    shown = [f"{named(pair.first)} = {named(pair.second)}" for pair in best]
    return "; ".join(shown) + ("; …" if len(pairs) > 3 else "")


def label_outliers(evidence: Evidence) -> list[Problem]:
    """Masks with regions that look like another class."""
    if evidence.sparse:
        return []
    outliers, records, names = evidence.outliers, evidence.records, evidence.overall.class_names
    if not outliers:
        return []
    shown = [
        f"{Path(mask_file(records[one.record])).name}: a {names[one.label]} that looks like {names[one.looks_like]}"
        for one in outliers[:3]
    ]
    text = f"{count(len(outliers), 'mask')} to look at, the most doubtful first: " + "; ".join(shown)
    fix = "segwright check DATA --html check.html shows them; correct the masks that are wrong"
    return [Problem("note", "suspicious masks", text, tuple(mask_file(records[one.record]) for one in outliers), fix)]

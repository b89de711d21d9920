"""Splits where the files name none: deterministic, and with what belongs together kept on one side."""

from __future__ import annotations

import hashlib
import re

from segwright.data.records import Dataset, Split

SMALLEST = 5  # fewer pictures than this are one split, "all"
_FRAME = re.compile(r"[_\-. ]?(?:frame|f)?[_\-. ]?[0-9]+$", re.IGNORECASE)


def sequence_of(id: str) -> str:
    """What is left of an id without its frame number: 0001TP_006690 → 0001TP; "" where it is a number alone."""
    return _FRAME.sub("", id)


def make_splits(dataset: Dataset) -> dict[str, Split]:
    """The given splits, with val taken from train where there is none; else train and val; else "all"."""
    given = {name: Split(name, records, dataset.reader) for name, records in dataset.given.items()}
    if not given and len(dataset.records) < SMALLEST:
        return {"all": dataset.all}
    if given and ("val" in given or "train" not in given or len(given["train"]) < SMALLEST):
        return given
    source = given.get("train", dataset.all)
    order = sorted(range(len(source)), key=lambda i: hashlib.sha256(source.records[i].id.encode()).digest())
    count = max(1, round(len(order) * 0.2))
    val, train = sorted(order[:count]), sorted(order[count:])
    parts = {"train": source.subset(train, "train"), "val": source.subset(val, "val")}
    return {**parts, **{name: split for name, split in given.items() if name not in parts}}

"""The classes of a dataset as those of a model: matched by name, renamed on request, new ones appended, no guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX, MAX_CLASSES, LabelSpace, UInt8Array, distinct_colors
from segwright.data.label_maps import is_generated_name


@dataclass(frozen=True)
class ClassMatch:
    """How the class indices of a dataset become those of ``space``."""

    space: LabelSpace  # the classes of the refined model
    table: UInt8Array  # (256,): index in the dataset → index in the space; 255 stays
    notes: tuple[str, ...] = ()


def extended_space(
    model: LabelSpace, data: LabelSpace, renamed: Mapping[str, str], *, append: bool, what: str
) -> LabelSpace:
    """The model's classes, and after them those that only ``data`` has.

    ``renamed``: name in the data → name in the model. LabelError if the data has other names and lacks some of the
    model's, unless ``append``: such a class may be new, or one of the model's under another name.
    """
    if _by_number(model, data):
        return model
    names = _named(data, renamed)
    known = {class_key(name) for name in model.names}
    new = [i for i, name in enumerate(names) if class_key(name) not in known]
    if not new:
        return model
    there = {class_key(name) for name in names}
    absent = [name for name in model.names if class_key(name) not in there]
    added = [names[i] for i in new]
    if absent and not append:
        raise LabelError(
            f"{what} has classes that the model lacks, and lacks classes that the model has",
            expected=f"the model's classes: {', '.join(model.names)}",
            found=f"only in {what}: {', '.join(added)}; only in the model: {', '.join(absent)}",
            fix=f"--rename '{added[0]}={absent[0]}' if they are the same under another name; --append-classes if "
            f"{'it is' if len(added) == 1 else 'they are'} new",
        )
    if len(model.names) + len(added) > MAX_CLASSES:
        raise LabelError("too many classes", expected=f"at most {MAX_CLASSES}", found=f"{len(model.names)} + {added}")
    free = [color for color in distinct_colors(len(model.names) + len(new)) if color not in model.colors]
    colors = [data.colors[i] if data.colors[i] not in model.colors else free.pop() for i in new]
    return LabelSpace((*model.names, *added), (*model.colors, *colors))


def match_classes(space: LabelSpace, data: LabelSpace, renamed: Mapping[str, str], *, what: str) -> ClassMatch:
    """The classes of ``data`` in ``space``; LabelError for names that it lacks."""
    notes = []
    if _by_number(space, data):
        targets = list(range(data.classes))
        if data.names != space.names:
            notes.append(f"{what} names no classes: matched with the model's by their order")
    else:
        names, keys = _named(data, renamed), [class_key(name) for name in space.names]
        strange = [name for name in names if class_key(name) not in keys]
        if strange:
            raise LabelError(
                f"{what} has classes that the model lacks",
                expected=", ".join(space.names),
                found=", ".join(strange),
                fix=f"--rename '{strange[0]}={space.names[0]}', with the model's name of that class",
            )
        targets = [keys.index(class_key(name)) for name in names]
        notes += [f"{what}: {old} is the model's {new}" for old, new in renamed.items() if old in data.names]
        unlabeled = [name for i, name in enumerate(space.names) if i not in targets]
        if unlabeled:
            notes.append(f"{what} does not label {', '.join(unlabeled)}")
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(targets)] = targets
    return ClassMatch(space, table, tuple(notes))


def parse_renamed(texts: Sequence[str]) -> dict[str, str]:
    """``DATA=MODEL`` texts as a mapping; UsageError for any other form."""
    found: dict[str, str] = {}
    for text in texts:
        old, equal, new = text.partition("=")
        if not (equal and old.strip() and new.strip()):
            raise UsageError("a renamed class is OLD=NEW", expected="name in the data=name in the model", found=text)
        if found.setdefault(old.strip(), new.strip()) != new.strip():
            raise UsageError(
                "a class is renamed twice", found=f"{old.strip()} = {found[old.strip()]} and {new.strip()}"
            )
    return found


def check_renamed(renamed: Mapping[str, str], model: LabelSpace, datasets: Sequence[LabelSpace]) -> None:
    """UsageError for a name that no dataset, or not the model, has."""
    held = {name for space in datasets for name in space.names}
    for old, new in renamed.items():
        if old not in held:
            raise UsageError("no dataset has the class to be renamed", expected=", ".join(sorted(held)), found=old)
        if new not in model.names:
            raise UsageError("the model lacks the class", expected=", ".join(model.names), found=new)


def _named(data: LabelSpace, renamed: Mapping[str, str]) -> list[str]:
    names = [renamed.get(name, name) for name in data.names]
    twice = sorted({name for name in names if sum(class_key(name) == class_key(other) for other in names) > 1})
    if twice:
        raise LabelError(
            "two classes of the data become one",
            found=", ".join(twice),
            fix="merge them in the data's class list, or rename only one",
        )
    return names


def _by_number(space: LabelSpace, data: LabelSpace) -> bool:
    """Whether the data has numbers for names, as many as the model has classes."""
    return len(space.names) == len(data.names) and all(map(is_generated_name, data.names))


def class_key(name: str) -> str:
    """A class name as it is compared: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()

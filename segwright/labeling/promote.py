"""Put a candidate into service only if it is better where asked and no class falls: ``segwright promote``.

The conditions are judged by the figures that a refinement has measured and recorded in the candidate, or by measuring
both models on a dataset now. Recorded figures count only if they are of these weights and of the model in service.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.errors import BundleError, LabelError, ModelError, PromotionRefusedError, UsageError
from segwright.core.types import LabelSpace, UInt8Array
from segwright.data.dataset import Split
from segwright.evaluation.evaluate import Evaluation, match_label_spaces
from segwright.inference.bundle import Bundle, read_bundle
from segwright.inference.lineage import Lineage, bundle_id, lineage_of
from segwright.inference.predictor import Predictor, find_bundle, load
from segwright.inference.split_reader import as_model_sees
from segwright.labeling.class_matching import class_key
from segwright.labeling.paired_scores import PairedScores, pair
from segwright.labeling.refine import KEY, scored
from segwright.labeling.slot import Slot, now, who
from segwright.training.data_fingerprint import seen_in_training, training_note

CLASS_DROP = 3.0  # points of IoU
KEEP = 5  # versions
RECORDED = ("new", "old")
TRIED = (96, 128)  # pixels, of an image that a candidate predicts first


@dataclass(frozen=True)
class Gates:
    """The conditions. ``better_on``: where the candidate has to be better, "new", "old" or a split, with the 95 %
    interval of the difference above zero; ``max_class_drop``: points of IoU by which no class may fall anywhere that is
    compared, None: not checked."""

    better_on: tuple[str | Split, ...] = ("new",)
    max_class_drop: float | None = CLASS_DROP

    def __post_init__(self) -> None:
        if not self.better_on:
            raise UsageError("a promotion needs something to be better on", expected="new, old or a dataset")
        if self.max_class_drop is not None and not 0 <= self.max_class_drop <= 100:
            raise UsageError("points of IoU", expected="0 to 100, or none", found=str(self.max_class_drop))


@dataclass(frozen=True)
class Promotion:
    """A switch of a slot."""

    slot: Path
    action: str  # promote or back
    version: str  # in service now
    before: str | None  # that was; None in a new slot
    why: str
    figures: tuple[PairedScores, ...] = ()
    removed: tuple[str, ...] = ()  # old versions that were not kept
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "slot": str(self.slot),
            "action": self.action,
            "version": self.version,
            "before": self.before,
            "why": self.why,
            "figures": [one.to_json() for one in self.figures],
            "removed": list(self.removed),
            "notes": list(self.notes),
        }


def promote(
    candidate: Path,
    slot: Slot,
    gates: Gates,
    *,
    reason: str = "",
    keep: int = KEEP,
    device: str = "auto",
    trust_external: bool = False,
) -> Promotion:
    """Put the candidate into service in ``slot``, if the conditions hold; into an empty slot without conditions.

    PromotionRefusedError with all figures if one does not hold; BundleError for a damaged candidate; UsageError if
    another process changes the slot. The slot is unchanged after an error.
    """
    if keep < 2:
        raise UsageError("the version before is always kept", expected="2 or more versions", found=str(keep))
    folder = find_bundle(candidate)
    bundle, id = read_bundle(folder), bundle_id(folder)  # checks the sums of all files
    with slot.locked():
        current = slot.current()
        if current is not None and current.endswith(f"-{id}"):
            raise UsageError("the candidate is in service already", found=current, where=slot.folder)
        predictor = load(folder, device=device, trust_external=trust_external)
        _try_out(predictor)
        if current is None:
            figures: tuple[PairedScores, ...] = ()
            why = "the first version of the slot"
            notes: tuple[str, ...] = ("nothing was compared: the slot was empty",)
        else:
            judge = _Judge(folder, slot, current, predictor, bundle, id, device, trust_external)
            figures, why = judge.check(gates)
            notes = tuple(judge.notes)
        lineage = lineage_of(bundle, id, candidate.name)
        record = _record("promote", reason or why, figures, before=current, lineage=lineage)
        name = slot.add(folder, id, record)
        slot.switch(name, record)
        removed = tuple(slot.prune(keep))
    return Promotion(slot.folder, "promote", name, current, why, figures, removed, notes)


def go_back(slot: Slot, *, reason: str = "") -> Promotion:
    """Put the version before into service again; UsageError if there is none, BundleError if it is damaged."""
    with slot.locked():
        name = slot.before()
        try:
            current = slot.current()
        except BundleError:  # its folder is gone: all the more reason to go back
            current = None
        if name is None:
            raise UsageError("there is no version before", where=slot.folder, found=current or "an empty slot")
        if name not in slot.versions():
            raise BundleError("the version before is not kept any more", found=name, where=slot.folder)
        read_bundle(slot.version(name))
        why = reason or "gone back on demand"
        slot.switch(name, _record("back", why, (), before=current))
    return Promotion(slot.folder, "back", name, current, why)


class _Judge:
    """The candidate beside the version in service."""

    def __init__(
        self,
        folder: Path,
        slot: Slot,
        current: str,
        predictor: Predictor,
        bundle: Bundle,
        id: str,
        device: str,
        trusted: bool,
    ) -> None:
        self.folder = folder
        self.place, self.current_id = slot.version(current), current.partition("-")[2]
        self.slot, self.current, self.predictor, self.id = slot, current, predictor, id
        self.found = bundle.training.get(KEY)
        self.device, self.trusted = device, trusted
        self.notes: list[str] = []

    def check(self, gates: Gates) -> tuple[tuple[PairedScores, ...], str]:
        """(figures, why it may be put into service); PromotionRefusedError if it may not."""
        asked: list[PairedScores] = []
        for place in gates.better_on:
            asked.append(self._recorded(place) if isinstance(place, str) else self._measured(place))
        figures = [*asked, *self._further({one.data for one in asked})]
        reasons = [_not_better(one) for one in asked if not (one.difference.clear and one.difference.low > 0)]
        most = gates.max_class_drop
        if most is not None:
            for one in figures:
                reasons += [_fall(one, fallen.name, fallen.difference, most) for fallen in one.fallen(most)]
                reasons += [_lost(one, name) for name in lost(one)]
            if all(one.data == "new" for one in figures):
                reasons.append(
                    "whether a class has fallen on old images is not known: the refinement had no old data (--with)"
                )
        if reasons:
            raise PromotionRefusedError(
                "the candidate is not put into service",
                expected=_expected(gates),
                found="\n    ".join([*reasons, *(line for one in figures for line in one.lines())]),
                where=self.slot.folder,
                fix=_fix(figures, most),
            )
        names = " and ".join(one.data for one in asked)
        checked = "" if most is None else f"; no class fell by more than {most:g} points"
        sentences = " ".join(one.sentence("the version before", "this one") for one in asked)
        return tuple(figures), f"better on {names}{checked}. {sentences}"

    def _recorded(self, role: str) -> PairedScores:
        """The figures of the refinement; PromotionRefusedError if they are not of these two models."""
        if role not in RECORDED:
            raise UsageError("no such data", expected="new, old or a dataset", found=role)
        fix = "--better-on DATA compares both models on DATA now"
        if not isinstance(self.found, dict):
            raise PromotionRefusedError(
                "the candidate holds no comparison", expected="a candidate of segwright refine",
                found="a model of a training", where=self.slot.folder, fix=fix,
            )  # fmt: skip
        if self.found.get("id") != self.id:
            raise BundleError(
                "the candidate's figures are of other weights", expected=str(self.found.get("id"))[:40], found=self.id,
                fix="copy the candidate again from its source, or refine again",
            )  # fmt: skip
        if self.found.get("parent_id") != self.current_id:
            raise PromotionRefusedError(
                "the candidate was compared with another model than the one in service",
                expected=self.current_id, found=str(self.found.get("parent_id"))[:40], where=self.slot.folder, fix=fix,
            )  # fmt: skip
        if self.found.get(role) is None:
            raise PromotionRefusedError(
                f"the refinement had no {role} validation images", where=self.slot.folder, fix=fix
            )
        return self._parse(role)

    def _parse(self, role: str) -> PairedScores:
        assert isinstance(self.found, dict)
        try:
            return PairedScores.from_json(self.found[role])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError("the candidate's figures cannot be read", found=str(error)[:200]) from error

    def _further(self, known: set[str]) -> list[PairedScores]:
        """Recorded figures that nothing has to be better on, but on which a class may fall."""
        if not isinstance(self.found, dict) or self.found.get("parent_id") != self.current_id:
            return []
        if self.found.get("id") != self.id:
            return []
        return [self._parse(role) for role in RECORDED if role not in known and self.found.get(role) is not None]

    def _measured(self, split: Split) -> PairedScores:
        """Both models on a split, now."""
        before = load(self.place, device=self.device, trust_external=self.trusted)
        models = {"the version in service": before, "the candidate": self.predictor}
        space = _with_extra(split.label_space, [one.label_space for one in models.values()])
        trained_on = seen_in_training(self.folder, split)
        if note := training_note(trained_on, consequence="it has an advantage if the version in service was not"):
            self.notes.append(f"the candidate: {note}")
        evaluations: list[Evaluation] = []
        for name, predictor in models.items():
            seen = as_model_sees(split, predictor)
            table = _table(predictor.label_space, seen.label_space, space, self.notes, name)
            evaluations.append(scored(predictor, _InClasses(seen, space), title=name, table=table))
        return pair(split.name, evaluations[0], evaluations[1])


def _try_out(predictor: Predictor) -> None:
    """Predict one small image; ModelError if the network cannot."""
    noise = np.random.default_rng(0).integers(0, 256, (*TRIED, predictor.runtime.in_channels), np.uint8)
    found = predictor.predict(noise).labels.shape
    if found != TRIED:
        raise ModelError("the network's output has another size", expected=str(TRIED), found=str(found))


def lost(one: PairedScores) -> list[str]:
    """Classes that had an IoU and have none any more."""
    return [c.name for c in one.classes if math.isnan(c.after) and c.before > 0]


class _InClasses:
    """The images of a split in a space that begins with the split's own classes."""

    def __init__(self, split: Split, label_space: LabelSpace) -> None:
        self.split, self.label_space = split, label_space
        self.ids, self.name = split.ids, split.name

    def __len__(self) -> int:
        return len(self.split)

    def read_image(self, index: int) -> UInt8Array:
        return self.split.read_image(index)

    def read_mask(self, index: int) -> UInt8Array | None:
        return self.split.read_mask(index)


def _with_extra(data: LabelSpace, models: Sequence[LabelSpace]) -> LabelSpace:
    """The data's classes, and after them those that only a model has: what is predicted as one of these is wrong."""
    known = {class_key(name) for name in data.names}
    extra: dict[str, str] = {}
    for model in models:
        if not _matches(model, data):
            extra |= {class_key(name): name for name in model.names if class_key(name) not in known}
    return LabelSpace((*data.names, *extra.values())) if extra else data


def _matches(model: LabelSpace, data: LabelSpace) -> bool:
    try:
        match_label_spaces(model, data)
    except LabelError:
        return False
    return True


def _table(model: LabelSpace, data: LabelSpace, space: LabelSpace, notes: list[str], name: str) -> UInt8Array:
    """(256,): the model's class index → that of ``space``, which begins with the data's classes.

    LabelError if the model has classes that the data lacks and lacks some of the data's: they may be the same ones.
    """
    if _matches(model, data):
        table, note = match_label_spaces(model, data)
        notes += [f"{name}: {note}"] if note else []
        return np.arange(256, dtype=np.uint8) if table is None else table
    own, theirs = [class_key(one) for one in model.names], [class_key(one) for one in data.names]
    missing = [one for one in data.names if class_key(one) not in own]
    extra = [one for one in model.names if class_key(one) not in theirs]
    if missing and extra:
        match_label_spaces(model, data)  # raises, with both lists
    if missing:
        notes.append(f"{name} lacks {', '.join(missing)}: it has no pixel of them right")
    else:
        notes.append(f"{name} has {', '.join(extra)}, which the data lacks: what it predicts so is wrong")
    known = [class_key(one) for one in space.names]
    found = np.zeros(256, np.uint8)
    found[: len(own)] = [known.index(one) for one in own]
    return found


def _not_better(one: PairedScores) -> str:
    return f"not better beyond chance: {one.sentence()}"


def _fall(one: PairedScores, name: str, difference: float, most: float) -> str:
    return f"{name} falls by {-100 * difference:.1f} points of IoU on the {one.data} images, more than {most:g}"


def _lost(one: PairedScores, name: str) -> str:
    return f"{name} is not found any more on the {one.data} images"


def _expected(gates: Gates) -> str:
    names = " and ".join(place if isinstance(place, str) else place.name for place in gates.better_on)
    drop = "" if gates.max_class_drop is None else f", and no class falls by more than {gates.max_class_drop:g} points"
    return f"the 95 % interval of the difference in mIoU is above zero on {names}{drop}"


def _fix(figures: Sequence[PairedScores], most: float | None) -> str:
    fixes = ["more labels, or a longer refinement"]
    if most is not None and all(one.data == "new" for one in figures):
        fixes = ["--better-on DATA with labeled old images, or --max-class-drop none to go without"]
    elif most is not None:
        fixes.append("--max-class-drop POINTS if such a fall is accepted")
    return "; ".join(fixes)


def _record(
    action: str,
    why: str,
    figures: Sequence[PairedScores],
    *,
    before: str | None,
    lineage: Lineage | None = None,
) -> dict[str, Any]:
    """A line of the history."""
    entry: dict[str, Any] = {"action": action, "time": now(), "who": who(), "why": why, "before": before}
    if figures:
        entry["figures"] = [one.to_json() for one in figures]
    if lineage is not None:
        entry |= {"parents": list(lineage.model.parents), "clicks": lineage.clicks}
    return entry

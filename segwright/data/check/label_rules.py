"""Findings about the labels as a whole: objects that cover nothing, classes nobody can learn, stray values, masks that
contradict each other. Part of :mod:`segwright.data.check.rules`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np

from segwright.core.counted import counted
from segwright.core.left_right import find_sides, shown
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.annotations.rasterize import RasterizedReader
from segwright.data.check.evidence import Evidence
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.wording import listed
from segwright.data.label_maps import is_generated_name
from segwright.data.records import Problem, Record, Severity

HANDFUL = 16  # pixels in the whole dataset: no object, whatever its class
ALONE = 4  # masks, and values, from which on it matters that most values occur once
SINGLE = 5  # labeled images from which a value that one of them holds is odd,
SPECK = 0.05  # where it covers less than this share of an image
GUESSED_IGNORE = 0.05  # share of the labels that is ignored by a guess, from which the note is a warning
UNLEARNABLE = frozenset({"one class only", "everything ignored"})  # no file can be left out to mend these


def side_notes(space: LabelSpace) -> list[str]:
    """Notes on the classes that a mirror image exchanges; empty if there are none."""
    return [f"flips exchange {shown(space.pairs)}: left and right of the same"] if space.pairs else []


def sides(evidence: Evidence) -> list[Problem]:
    """Names of a left or a right that flips do not exchange, though the name may mean that they should."""
    if not evidence.overall.labeled:
        return []
    space = evidence.dataset.label_space
    found = find_sides(space.names)
    paired = {name for pair in space.pairs or () for name in pair}
    open_names = [(names, why) for names, why in found.doubtful if not paired.issuperset(names)]
    alone = [name for name in found.alone if name not in paired]
    parts = [f"{', '.join(names)} ({why})" for names, why in open_names]
    if alone:
        parts.append(f"{listed(alone)} (no class is named for the other side)")
    if not parts:
        return []
    pair = ", ".join(open_names[0][0][:2]) if open_names else f"{alone[0]}, …"
    fix = (
        f"if they are mirror images, --set 'augment.flip_pairs=[[{pair}]]'; if sides matter and a class is missing, "
        "--set augment.flip=false"
    )
    return [Problem("note", "sides not exchanged", f"flips do not exchange {'; '.join(parts)}", (), fix)]


def names_alike(evidence: Evidence) -> list[Problem]:
    """Classes whose names differ in letter case, spaces, or the number that a list with one name twice gave them."""
    alike: dict[str, list[str]] = {}
    drawn = isinstance(evidence.dataset.reader, RasterizedReader)  # names as annotators typed them: cat-1, cat-2
    number = r"(?: \(\d+\)|[\s_\-#]+\d+)$" if drawn else r" \(\d+\)$"
    for name in evidence.dataset.label_space.names:
        if not is_generated_name(name):
            plain = re.sub(r"[\s_\-]+", " ", re.sub(number, "", name)).strip().casefold()
            alike.setdefault(plain, []).append(name)
    several = [", ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if not several:
        return []
    text = f"names of classes that differ hardly, each a class of its own: {listed(several)}"
    fix = "if they are one class, write one name for it in the annotations, or give it one name in the class list"
    return [Problem("warning", "class names alike", text, (), fix)]


def _mask(record: Record) -> str:
    return str(record.mask_path or record.image_path or record.id)


def objects(evidence: Evidence) -> list[Problem]:
    """Annotated objects that cover no pixel of any mask."""
    if not evidence.overall.labeled:
        return []
    totals, records, overall = evidence.totals, evidence.records, evidence.overall
    empty: list[int] = []
    partly: list[int] = []
    for label, (annotated, drawn) in sorted(totals.objects.items()):
        if label >= len(overall.class_names) or drawn >= annotated:
            continue
        # Among the images that were not examined, one may show the class.
        (empty if not overall.class_pixels[label] and evidence.examined is None else partly).append(label)
    problems = []

    def files(labels: Sequence[int]) -> tuple[str, ...]:
        places = sorted({place for label in labels for place in totals.lost_objects.get(label, ())})
        return tuple(_mask(records[place]) for place in places)

    def counts(labels: Sequence[int]) -> str:
        pairs = [(overall.class_names[label], *totals.objects[label]) for label in labels]
        return listed([f"{name} ({total - drawn} of {total})" for name, total, drawn in pairs])

    if empty:
        text = f"objects are annotated, and their class covers no pixel in any mask: {counts(empty)}"
        fix = "look at their outlines: fewer than three points, outside the image, or pixels instead of shares?"
        problems.append(Problem("error", "objects without pixels", text, files(empty), fix))
    if partly:
        text = f"annotated objects that cover no pixel: {counts(partly)}"
        fix = (
            "their outlines enclose nothing, are outside the image or are covered by later objects: fix or delete them"
        )
        problems.append(Problem("warning", "objects lost", text, files(partly), fix))
    return problems


def learnable(evidence: Evidence) -> list[Problem]:
    """Labels that a network cannot learn from, or that nothing can be scored on; of a sample this is a warning."""
    if not evidence.overall.labeled:
        return []
    overall, prints = evidence.overall, evidence.prints
    problems = []
    train = prints.get("train")
    learnt, where = (train, " of train") if train is not None and train.labeled else (overall, "")
    shown = np.flatnonzero(learnt.class_pixels)
    severity: Severity = "error"
    if evidence.examined is not None:
        severity, where = "warning", f"{where} in the images examined"
    fix = (
        "look at the masks and the class list: are they read as meant? segwright check DATA --html check.html shows it"
    )
    if not len(shown):
        text = f"every labeled pixel{where} is ignored: there is nothing to learn"
        problems.append(Problem(severity, "everything ignored", text, (), fix))
    elif len(shown) == 1:
        name = learnt.class_names[int(shown[0])]
        text = f"every labeled pixel{where} is of one class, {name}: there is nothing to distinguish"
        if evidence.dataset.partial:
            text += "; what is not labeled is ignored, and no background"
            fix = "label some pixels of another class; or, if all else is background, --unlabeled-pixels background"
        problems.append(Problem(severity, "one class only", text, (), fix))
    for name, one in prints.items():
        if one is not learnt and one.labeled and not any(one.class_pixels) and any(learnt.class_pixels):
            text = f"every labeled pixel of {name} is ignored: nothing can be scored on it"
            problems.append(
                Problem("warning", "everything ignored", text, (), "annotate them, or score on other images")
            )
    return problems


# Findings that take masks for regions, or the labeled pixels for a fair sample of what the images show.
NOT_FOR_SPARSE = ("stray value", "hardly any pixels", "contradicting masks", "label shift", "suspicious masks")


def partial_labels(evidence: Evidence) -> list[Problem]:
    """How much is labeled, where images are labeled in part alone, and what is then not checked."""
    overall, prints = evidence.overall, evidence.prints
    if not overall.labeled or not (evidence.dataset.partial or evidence.sparse):
        return []
    parts = {name: one for name, one in prints.items() if one.labeled} if len(prints) > 1 else {"": overall}
    shown = "; ".join(f"{name + ': ' if name else ''}{share_text(one)}" for name, one in parts.items())
    text = f"images are labeled in part, the rest is ignored: {shown}"
    if evidence.sparse:
        text += f"; not checked, since that takes whole masks: {listed(list(NOT_FOR_SPARSE), 9)}"
    fix = (
        "scores hold for the labeled pixels alone: compare models on the same labels, or score on images with whole "
        "masks (docs/sparse-labels.md)"
    )
    return [Problem("note", "partial labels", text, (), fix)]


def share_text(found: Fingerprint) -> str:
    """The share of labeled pixels, overall and per image, in words."""
    low, median, high = (percent(share) for share in found.labeled_share)
    return f"{percent(1 - found.ignored_share)} of the pixels, {low} to {high} per image (median {median})"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"


def _guessed(names: Sequence[str]) -> bool:
    """Whether the class list is a guess from what the masks hold."""
    if tuple(names) == ("background", "foreground"):
        return True
    return bool(names) and all(is_generated_name(name) for name in names)


def ignored_by_guess(evidence: Evidence) -> list[Problem]:
    dataset, overall = evidence.dataset, evidence.overall
    space = dataset.label_space
    values = sorted(value for value, index in space.mapping.items() if index == IGNORE_INDEX)
    reported = any(problem.kind == "ignored by a guess" for problem in dataset.problems)  # while opening, of some masks
    if reported or not overall.ignored_pixels or not values or not _guessed(space.names):
        return []
    text = (
        f"no class list defines {listed([str(value) for value in values])}: taken for 'ignore', "
        f"{100 * overall.ignored_share:.2g} % of the labels"
    )
    path = dataset.root / "classes.txt"
    fix = f"name every class in {path} (lines such as '{values[-1]} name'), or confirm it with '{values[-1]} ignore'"
    severity = overall.ignored_share >= GUESSED_IGNORE
    return [Problem("warning" if severity else "note", "ignored by a guess", text, (), fix)]


def rare_values(evidence: Evidence) -> list[Problem]:
    """Classes that a slip of the brush, or a value that is no class, has made."""
    totals, records, overall = evidence.totals, evidence.records, evidence.overall
    if overall.labeled < 2 or evidence.sparse:
        return []
    total = max(1, sum(overall.class_pixels) + overall.ignored_pixels)
    stray, few = [], []
    for label, (pixels, images) in enumerate(zip(overall.class_pixels, overall.class_images, strict=True)):
        handful = 0 < pixels <= HANDFUL and pixels < 1e-3 * total
        single = images == 1 and overall.labeled >= SINGLE and pixels < SPECK * total / overall.labeled
        if is_generated_name(overall.class_names[label]) and (handful or single):
            stray.append(label)
        elif handful:
            few.append(label)

    def with_counts(labels: Sequence[int]) -> str:
        return listed(
            [
                f"{overall.class_names[label]} in {overall.class_images[label]} of {counted(overall.labeled, 'mask')} "
                f"({overall.class_pixels[label]} pixel{'s' if overall.class_pixels[label] != 1 else ''}, "
                f"{os.path.basename(_mask(records[totals.shown_by[label]]))})"
                for label in labels
            ],
            4,
        )

    def files(labels: Sequence[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_mask(records[totals.shown_by[label]]) for label in labels))

    problems = []
    guessed = [label for label, name in enumerate(overall.class_names) if is_generated_name(name)]
    alone = [label for label in guessed if overall.class_images[label] == 1]
    if overall.labeled >= ALONE and len(guessed) >= ALONE and 2 * len(alone) > len(guessed):
        text = (
            f"{len(alone)} of {len(guessed)} values are each in a single mask, and taken for classes: "
            f"{listed([overall.class_names[label] for label in alone])}"
        )
        fix = (
            "if they number objects (instances), write masks of class indices (class * 1000 + number: divide by 1000); "
            "if they are classes, name them in classes.csv (id,name)"
        )
        problems.append(Problem("warning", "values of single masks", text, files(alone[:20]), fix))
    if stray:
        text = f"values in hardly any mask, each read as a class: {with_counts(stray)}"
        fix = "if it is a drawing error, correct the mask; list the real classes in classes.txt, then others are errors"
        problems.append(Problem("warning", "stray value", text, files(stray), fix))
    if few:
        text = f"too few pixels to learn from, perhaps a drawing error: {with_counts(few)}"
        fix = "look at the mask; add images that show the class, or take it out of the class list"
        problems.append(Problem("warning", "hardly any pixels", text, files(few), fix))
    return problems


def equal_masks(evidence: Evidence) -> list[Problem]:
    """One mask, of several classes, for all of many different images."""
    totals = evidence.totals
    places = np.flatnonzero(totals.labeled)
    if evidence.sparse or len(places) < FEWEST_EQUAL or len(np.unique(totals.mask_crcs[places])) > 1:
        return []
    if len(np.unique(totals.crcs[places])) < len(places) or np.count_nonzero(evidence.overall.class_pixels) < 2:
        return []
    text = f"all {len(places)} masks are the same, pixel by pixel, and their images differ"
    fix = "export the masks again, for one was written under all names; a model learns no more from it than a place"
    return [Problem("warning", "equal masks", text, (), fix)]


FEWEST_EQUAL = 6  # masks


def contradictions(evidence: Evidence) -> list[Problem]:
    """Equal images whose masks differ: an image laid under another's mask, or two opinions."""
    totals, records = evidence.totals, evidence.records
    if evidence.sparse:  # two people's clicks differ without a contradiction
        return []
    places = np.flatnonzero(totals.labeled & totals.thumbs.any(axis=1))
    keys = np.stack([totals.hashes[places], totals.crcs[places].astype(np.uint64)])
    _, group, counts = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    order = np.argsort(np.ravel(group), kind="stable")
    same: list[int] = []
    copies: list[int] = []
    for members in np.split(places[order], np.cumsum(counts)[:-1]) if len(places) else ():
        if len(members) < 2 or len(np.unique(totals.mask_crcs[members])) < 2:
            continue
        paths = [records[place].image_path for place in members.tolist()]
        repeated = paths[0] is not None and len(set(paths)) < len(paths)
        (same if repeated else copies).extend(members.tolist())
    problems = []

    def files(found: Sequence[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(records[place].image_path or records[place].id) for place in found))

    if same:
        named = listed([records[place].id for place in sorted(same)], 4)
        text = f"{counted(len(same), 'record', 'is')} of the same image file, and their masks differ: {named}"
        fix = "an image has one mask: check whether files are missing, so that others of that name were used"
        problems.append(Problem("error", "contradicting masks", text, files(same), fix))
    if copies:
        named = listed([records[place].id for place in copies], 4)
        text = f"{counted(len(copies), 'image', 'is')} copies of one another, and their masks differ: {named}"
        fix = "keep one mask per image; were images copied over others under the names of other masks?"
        problems.append(Problem("warning", "contradicting masks", text, files(copies), fix))
    return problems

"""Findings about single files: how they pair, which cannot be read, mask values outside the classes, EXIF orientation,
names. Part of :mod:`segwright.data.check.rules`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from segwright.core.counted import counted
from segwright.data.check.evidence import Evidence
from segwright.data.check.scan import FileError, UnmappedValues
from segwright.data.check.wording import count, image_file, listed
from segwright.data.records import Dataset, Problem

LONG_NAME = 143  # bytes: the limit on encrypted file systems; other tools break earlier than at 255
PAIRING = frozenset({"image without mask", "mask without image"})
FIXES = {
    "colliding names": "rename the files apart: one image and one mask per name",
    "unreadable file": "copy it again from its source, or leave it out with --skip-bad",
}


def opening(evidence: Evidence) -> list[Problem]:
    """What was found while opening, without the files that :func:`pairing` reports with a severity of its own."""
    dataset, records, totals = evidence.dataset, evidence.records, evidence.totals
    paths = (*dataset.unpaired_images, *dataset.unpaired_masks)
    named = {str(path) for path in paths} | {image_file(records[index]) for index in totals.unlabeled}
    return [
        problem
        for problem in dataset.problems
        if problem.kind not in PAIRING or not problem.files or not named.issuperset(problem.files)
    ]


def pairing(evidence: Evidence) -> list[Problem]:
    """Images without masks are an error, unless a whole split has none, as in public test sets."""
    dataset, records = evidence.dataset, evidence.records
    member, totals = evidence.member, evidence.totals
    problems = []
    bare = set(totals.unlabeled)
    labeled = {name for index, names in enumerate(member) for name in names if index not in bare}
    lone = [index for index in sorted(bare) if any(name in labeled for name in member[index])]
    unlabeled_splits = {image_file(records[index]) for index in bare.difference(lone)}
    named = {image_file(records[index]) for index in lone} | {str(path) for path in dataset.unpaired_images}
    files = sorted(named - unlabeled_splits)
    if files:
        fix = "add the masks under the same names, move the images away, or leave them out with --skip-bad"
        text = f"{count(len(files), 'image has', 'images have')} no mask"
        problems.append(Problem("error", "image without mask", text, tuple(files), fix))
    whole = sorted({name for index in bare - set(lone) for name in member[index]})
    if whole and not labeled:
        text = "no image has a mask: the dataset can be predicted, neither trained on nor evaluated"
        fix = "if masks lie there, this format has other names for them: pair them with --images GLOB --masks GLOB"
        problems.append(Problem("warning", "split without masks", text, (), fix))
        whole = []
    for name in whole:
        text = f"no image of the split {name} has a mask: it can be predicted, not evaluated"
        problems.append(Problem("note", "split without masks", text))
    if dataset.unpaired_masks:
        fix = "add the images under the same names, or move the masks away"
        text = f"{count(len(dataset.unpaired_masks), 'mask has', 'masks have')} no image"
        problems.append(Problem("error", "mask without image", text, tuple(map(str, dataset.unpaired_masks)), fix))
    return problems


def file_errors(evidence: Evidence) -> list[Problem]:
    """Files that cannot be read or used, by the kind of the error."""
    file_errors = evidence.totals.file_errors
    by_kind: dict[str, list[FileError]] = {}
    for _, error in sorted(file_errors, key=lambda entry: entry[0]):
        by_kind.setdefault(error.kind, []).append(error)
    problems = []
    for kind, found in by_kind.items():
        details = [f"{os.path.basename(one.file)}: {one.message}" for one in found]
        text = details[0] if len(found) == 1 else f"{counted(len(found), 'file')}; " + "; ".join(details[:3])
        fix = found[0].fix or FIXES.get(kind) or FIXES["unreadable file"]
        text = text if len(found) <= 3 else f"{text}; …"
        problems.append(Problem("error", kind, text, tuple(dict.fromkeys(one.file for one in found)), fix))
    return problems


def unmapped_values(evidence: Evidence) -> list[Problem]:
    """Mask values outside the classes: along the borders (anti-aliasing), or anywhere."""
    unmapped_values, dataset = evidence.totals.unmapped_values, evidence.dataset
    if not unmapped_values:
        return []
    edges = [unmapped for _, unmapped in sorted(unmapped_values, key=lambda entry: entry[0]) if unmapped.at_edges]
    others = [unmapped for _, unmapped in sorted(unmapped_values, key=lambda entry: entry[0]) if not unmapped.at_edges]
    problems = []
    if edges:
        pixels, total = sum(one.pixels for one in edges), sum(one.total for one in edges)
        text = (
            f"{count(len(edges), 'mask holds', 'masks hold')} in-between values along the borders of the classes "
            f"({max(one.distinct for one in edges)} values, {100 * pixels / total:.2g} % of the pixels): "
            "anti-aliasing, smooth resizing or JPEG"
        )
        fix = "export the masks again as PNG, without anti-aliasing and with nearest-neighbor resizing"
        problems.append(Problem("error", "anti-aliased masks", text, tuple(one.file for one in edges), fix))
    if others:
        problems.append(_outside(others, dataset))
    return problems


def _outside(unmapped_values: Sequence[UnmappedValues], dataset: Dataset) -> Problem:
    values: dict[int, int] = {}
    for unmapped in unmapped_values:
        for value, pixels in unmapped.values:
            values[value] = values.get(value, 0) + pixels
    ranked = sorted(values, key=lambda value: -values[value])
    named = ["a color of no class" if value < 0 else str(value) for value in ranked]
    share = 100 * sum(one.pixels for one in unmapped_values) / sum(one.total for one in unmapped_values)
    worst = max(unmapped_values, key=lambda one: one.pixels / one.total)
    top, left, bottom, right = worst.box
    text = (
        f"{count(len(unmapped_values), 'mask holds', 'masks hold')} values outside the classes: {listed(named)} "
        f"({share:.3g} % of their pixels; most in {os.path.basename(worst.file)}: "
        f"{100 * worst.pixels / worst.total:.3g} %, rows {top} to {bottom}, columns {left} to {right})"
    )
    lines = ", ".join(f"'{value} name'" for value in sorted(value for value in ranked if value >= 0)[:3])
    fix = f"name them in {dataset.root / 'classes.txt'} (lines such as {lines or 'r g b name'}), or correct the masks"
    return Problem("error", "values outside the classes", text, tuple(one.file for one in unmapped_values), fix)


def orientation(evidence: Evidence) -> list[Problem]:
    """EXIF turns that do not show in the sizes: half turns, mirrors, and quarter turns of square images."""
    totals, records = evidence.totals, evidence.records
    known = {index for index, error in totals.file_errors if error.kind in ("EXIF orientation", "size differs")}
    doubtful = []
    for index, turned, mask_turned in sorted(totals.turned):
        height, width = totals.sizes[index].tolist()
        quarter = (turned >= 5) != (mask_turned >= 5)
        if index not in known and (not quarter or height == width):
            doubtful.append((index, turned, mask_turned))
    if not doubtful:
        return []
    index, turned, mask_turned = doubtful[0]
    text = (
        f"{count(len(doubtful), 'image')} and masks disagree on EXIF orientation (image {turned}, "
        f"mask {mask_turned} in {os.path.basename(image_file(records[index]))}); the size does not tell which is right"
    )
    fix = "look at one with its mask laid over; if the mask fits the pixels as stored: exiftool -Orientation= FILES"
    return [
        Problem("warning", "EXIF orientation", text, tuple(image_file(records[index]) for index, _, _ in doubtful), fix)
    ]


def file_contents(evidence: Evidence) -> list[Problem]:
    """Files whose name does not fit the content, and files that a decoder warned about."""
    records, totals = evidence.records, evidence.totals
    problems = []
    if totals.disguised:
        found = sorted(totals.disguised)
        _, file, kind = found[0]
        text = f"{count(len(found), 'file is', 'files are')} of another kind than named: "
        text += f"{os.path.basename(file)} is {kind}"
        fix = "rename by content; it is read here, other tools may fail"
        problems.append(Problem("warning", "disguised file", text, tuple(file for _, file, _ in found), fix))
    if totals.stderr:
        printed = sorted(totals.stderr)
        _, stderr = printed[0]
        text = f"the decoder printed warnings for {count(len(printed), 'file')}: {stderr.splitlines()[0][:160]}"
        fix = "look at the images; copy damaged ones again from their source"
        problems.append(
            Problem("warning", "damaged file", text, tuple(image_file(records[i]) for i, _ in printed), fix)
        )
    return problems


def names(evidence: Evidence) -> list[Problem]:
    """Names that collide where letter case or endings do not count, and names that break other tools."""
    records = evidence.records
    stems: dict[tuple[str, str], list[str]] = {}
    odd = []
    for record in records:
        if record.image_path is None:
            continue
        path = record.image_path
        stems.setdefault((str(path.parent), path.stem.casefold()), []).append(str(path))
        name = path.name
        raw = os.fsencode(name)
        if len(raw) > LONG_NAME or name != name.strip() or any(ord(letter) < 32 for letter in name) or not _utf8(raw):
            odd.append(str(path))
    colliding = sorted({file for files in stems.values() if len(set(files)) > 1 for file in files})
    problems = []
    if colliding:
        named = listed(_bases(colliding), 4)
        text = f"{counted(len(colliding), 'image', 'has')} names that differ only in letter case or ending: {named}"
        problems.append(Problem("warning", "colliding names", text, tuple(colliding), FIXES["colliding names"]))
    if odd:
        text = f"{count(len(odd), 'file name')} too long, not UTF-8, or with control characters or spaces at an end"
        fix = "rename; they are read here, but archives and other systems lose such files"
        problems.append(Problem("note", "odd names", text, tuple(odd), fix))
    return problems


def _bases(files: Sequence[str]) -> list[str]:
    return [os.path.basename(file) for file in files]


def _utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

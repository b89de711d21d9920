"""From the check's totals to findings: each with its severity, the files, and the fix as a command or an edit."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from segwright.data.check.aggregate import CheckAccumulator
from segwright.data.check.duplicates import Pair, find_pairs
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_outliers import LabelOutlier, rank
from segwright.data.check.label_rules import label_findings
from segwright.data.check.scan import FileError, UnmappedValues
from segwright.data.records import Dataset, Problem, Record, ValueRange

Severity = Literal["error", "warning", "note"]
SHIFT = 0.15  # total variation between the class shares of two splits that is worth a warning
SHIFT_IMAGES = 8  # images that a split needs before its class shares mean anything
MOST_OUTLIERS = 20
DARK = 64  # grays below it are rather class indices than colors
LONG_NAME = 143  # bytes: the limit on encrypted file systems; other tools break earlier than at 255
PAIRING = frozenset({"image without mask", "mask without image"})
FIXES = {
    "colliding names": "rename the files apart: one image and one mask a name",
    "unreadable file": "copy it again from its source, or leave it out with --skip-bad",
}


def run_rules(
    dataset: Dataset,
    records: Sequence[Record],
    member: Sequence[Sequence[str]],
    totals: CheckAccumulator,
    overall: Fingerprint,
    prints: Mapping[str, Fingerprint],
) -> tuple[list[Problem], list[LabelOutlier]]:
    """All findings, and the suspicious regions that one of them is about."""
    parts, together = _parts(member)
    pairs = find_pairs(totals.hashes, totals.crcs, totals.thumbs, parts, totals.gray, together)
    outliers = rank(*totals.regions(), len(overall.class_names))[:MOST_OUTLIERS]
    problems = [
        *_opening(dataset, records, totals),
        *_pairing(dataset, records, member, totals),
        *_file_errors(totals.file_errors),
        *_unmapped_values(totals.unmapped_values, dataset),
        *_orientation(totals, records),
        *_files(totals, records),
        *_names(records),
        *_coding(dataset, totals, records),
        *_images(totals, records),
        *_bit_depths(dataset, totals, records),
        *label_findings(dataset, records, totals, overall, prints),
        *_classes(overall, prints, totals.objects),
        *_shift(prints),
        *_shared(records, member),
        *_duplicates(pairs, records, member),
        *_label_outliers(outliers, records, overall.class_names),
    ]
    return problems, outliers


def _parts(member: Sequence[Sequence[str]]) -> tuple[npt.NDArray[np.int64], list[tuple[int, int]]]:
    """A number for the splits that each record is in, and the numbers of parts that have a split in common.

    A record that is in joining lists alone (trainval) has every split in common with all.
    """
    sides = [frozenset(name for name in names if not _joins(name)) for names in member]
    numbers = {side: number for number, side in enumerate(dict.fromkeys(sides))}
    together = [
        (numbers[a], numbers[b])
        for a in numbers
        for b in (numbers if len(a) != 1 else [side for side in numbers if len(side) != 1])
        if a != b and (not a or not b or a & b)
    ]
    return np.array([numbers[side] for side in sides], np.int64), together


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _image(record: Record) -> str:
    return str(record.image_path or record.id)


def _mask(record: Record) -> str:
    return str(record.mask_path or record.id)


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def _opening(dataset: Dataset, records: Sequence[Record], totals: CheckAccumulator) -> list[Problem]:
    """What was found while opening, but for what :func:`_pairing` says of the same files with its severity."""
    paths = (*dataset.unpaired_images, *dataset.unpaired_masks)
    named = {str(path) for path in paths} | {_image(records[index]) for index in totals.unlabeled}
    return [
        problem
        for problem in dataset.problems
        if problem.kind not in PAIRING or not problem.files or not named.issuperset(problem.files)
    ]


def _pairing(
    dataset: Dataset, records: Sequence[Record], member: Sequence[Sequence[str]], totals: CheckAccumulator
) -> list[Problem]:
    """Images without masks are an error, but where a whole split has none, as public test sets do."""
    problems = []
    bare = set(totals.unlabeled)
    labeled = {name for index, names in enumerate(member) for name in names if index not in bare}
    lone = [index for index in sorted(bare) if any(name in labeled for name in member[index])]
    unlabeled_splits = {_image(records[index]) for index in bare.difference(lone)}
    named = {_image(records[index]) for index in lone} | {str(path) for path in dataset.unpaired_images}
    files = sorted(named - unlabeled_splits)
    if files:
        fix = "add the masks under the same names, move the images away, or leave them out with --skip-bad"
        text = f"{_count(len(files), 'image has', 'images have')} no mask"
        problems.append(Problem("error", "image without mask", text, tuple(files), fix))
    whole = sorted({name for index in bare - set(lone) for name in member[index]})
    for name in whole:
        text = f"no image of the split {name} has a mask: it can be predicted, not evaluated"
        problems.append(Problem("note", "split without masks", text))
    if dataset.unpaired_masks:
        fix = "add the images under the same names, or move the masks away"
        text = f"{_count(len(dataset.unpaired_masks), 'mask has', 'masks have')} no image"
        problems.append(Problem("error", "mask without image", text, tuple(map(str, dataset.unpaired_masks)), fix))
    return problems


def _file_errors(file_errors: Sequence[tuple[int, FileError]]) -> list[Problem]:
    by_kind: dict[str, list[FileError]] = {}
    for _, error in sorted(file_errors, key=lambda entry: entry[0]):
        by_kind.setdefault(error.kind, []).append(error)
    problems = []
    for kind, found in by_kind.items():
        details = [f"{os.path.basename(one.file)}: {one.message}" for one in found]
        text = details[0] if len(found) == 1 else f"{len(found)} files; " + "; ".join(details[:3])
        fix = found[0].fix or FIXES.get(kind) or FIXES["unreadable file"]
        text = text if len(found) <= 3 else f"{text}; …"
        problems.append(Problem("error", kind, text, tuple(dict.fromkeys(one.file for one in found)), fix))
    return problems


def _unmapped_values(unmapped_values: Sequence[tuple[int, UnmappedValues]], dataset: Dataset) -> list[Problem]:
    if not unmapped_values:
        return []
    edges = [unmapped for _, unmapped in sorted(unmapped_values, key=lambda entry: entry[0]) if unmapped.at_edges]
    others = [unmapped for _, unmapped in sorted(unmapped_values, key=lambda entry: entry[0]) if not unmapped.at_edges]
    problems = []
    if edges:
        pixels, total = sum(one.pixels for one in edges), sum(one.total for one in edges)
        text = (
            f"{_count(len(edges), 'mask holds', 'masks hold')} in-between values along the borders of the classes "
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
        f"{_count(len(unmapped_values), 'mask holds', 'masks hold')} values outside the classes: {_listed(named)} "
        f"({share:.3g} % of their pixels; most in {os.path.basename(worst.file)}: "
        f"{100 * worst.pixels / worst.total:.3g} %, rows {top} to {bottom}, columns {left} to {right})"
    )
    lines = ", ".join(f"'{value} name'" for value in sorted(value for value in ranked if value >= 0)[:3])
    fix = f"name them in {dataset.root / 'classes.txt'} (lines such as {lines or 'r g b name'}), or correct the masks"
    return Problem("error", "values outside the classes", text, tuple(one.file for one in unmapped_values), fix)


def _orientation(totals: CheckAccumulator, records: Sequence[Record]) -> list[Problem]:
    """EXIF turns that the sizes do not give away: half turns, mirrors, and quarter turns of square images."""
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
        f"{_count(len(doubtful), 'image')} and masks disagree on EXIF orientation (image {turned}, "
        f"mask {mask_turned} in {os.path.basename(_image(records[index]))}); the size does not tell which is right"
    )
    fix = "look at one with its mask laid over; if the mask fits the pixels as stored: exiftool -Orientation= FILES"
    return [
        Problem("warning", "EXIF orientation", text, tuple(_image(records[index]) for index, _, _ in doubtful), fix)
    ]


def _files(totals: CheckAccumulator, records: Sequence[Record]) -> list[Problem]:
    problems = []
    if totals.disguised:
        found = sorted(totals.disguised)
        _, file, kind = found[0]
        text = f"{_count(len(found), 'file is', 'files are')} of another kind than named: "
        text += f"{os.path.basename(file)} is {kind}"
        fix = "rename by content; it is read all the same, other tools may stumble"
        problems.append(Problem("warning", "disguised file", text, tuple(file for _, file, _ in found), fix))
    if totals.stderr:
        printed = sorted(totals.stderr)
        _, stderr = printed[0]
        text = f"the decoder complains of {_count(len(printed), 'file')}: {stderr.splitlines()[0][:160]}"
        fix = "look at the images; copy them again from their source where they are damaged"
        problems.append(Problem("warning", "damaged file", text, tuple(_image(records[i]) for i, _ in printed), fix))
    return problems


def _names(records: Sequence[Record]) -> list[Problem]:
    """Names that collide where letter case or endings do not count, and names that break other tools."""
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
        text = f"{len(colliding)} images share a name but for letter case or ending: {_listed(_bases(colliding), 4)}"
        problems.append(Problem("warning", "colliding names", text, tuple(colliding), FIXES["colliding names"]))
    if odd:
        text = f"{_count(len(odd), 'file name')} too long, not UTF-8, or with control characters or spaces at an end"
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


def _coding(dataset: Dataset, totals: CheckAccumulator, records: Sequence[Record]) -> list[Problem]:
    """How the masks hold their classes."""
    problems = []
    lossy = sorted(totals.lossy_masks)
    if lossy:
        text = (
            f"{_count(len(lossy), 'mask is', 'masks are')} JPEG, which blurs the borders of classes into other values"
        )
        fix = "export the masks again as PNG; converting these keeps the damage"
        blurred: Severity = "warning" if len(dataset.label_space) <= 2 else "error"
        files = tuple(_mask(records[index]) for index in lossy)
        problems.append(Problem(blurred, "JPEG masks", text, files, fix))
    if dict(dataset.label_space.mapping) == {0: 0, 255: 1}:
        text = "the masks hold 0 and 255: read as background and foreground, nothing is ignored"
        fix = "if 255 means 'ignore' here, say so in classes.txt ('255 void')"
        problems.append(Problem("note", "0/255 masks", text, (), fix))
    groups: dict[str, list[int]] = {}
    for kind, number in totals.mask_kinds.items():
        mode = kind.mode.split(";")[0]
        how = {"P": "palette", "RGB": "RGB", "RGBA": "RGB", "L": "gray", "I": "16-bit", "1": "gray"}.get(mode, mode)
        groups.setdefault(how, []).append(number)
    if len(groups) > 1:
        text = "masks are stored in different ways: " + ", ".join(
            f"{sum(n)} {how}" for how, n in sorted(groups.items())
        )
        example = _examples(totals, records, "mask")
        fix = f"segwright convert {shlex.quote(str(dataset.root))} --to folder --out NEW writes them all alike"
        table = getattr(dataset.reader, "color_table", None)
        dark = sorted({r for r, g, b in table.colors if r == g == b and 0 < r < DARK}) if table is not None else []
        severity: Severity = "warning"
        if dark and {"gray", "RGB"} <= groups.keys():
            severity = "error"
            text += f"; numbers of the gray ones ({_listed(list(map(str, dark)))}) are read as dark colors of their own"
            fix = "write all as colors, or all as class indices, and check again"
        problems.append(Problem(severity, "mixed mask codings", text, example, fix))
    elif "RGB" in groups and getattr(dataset.reader, "color_table", None) is None and totals.mask_kinds:
        text = "the masks are gray saved as RGB: three times the size, read as indices"
        fix = f"segwright convert {shlex.quote(str(dataset.root))} --to folder --out NEW"
        problems.append(Problem("note", "gray saved as RGB", text, (), fix))
    return problems


def _examples(totals: CheckAccumulator, records: Sequence[Record], role: str) -> tuple[str, ...]:
    """One file of each way of storing."""
    take = _mask if role == "mask" else _image
    found = [(index, kind) for (of, kind), index in totals.kind_example.items() if of == role]
    return tuple(take(records[index]) for index, _ in sorted(found, key=lambda entry: entry[0]))


def _images(totals: CheckAccumulator, records: Sequence[Record]) -> list[Problem]:
    problems = []

    def some(severity: Severity, kind: str, text: str, indices: Sequence[int], fix: str | None) -> None:
        files = tuple(_image(records[index]) for index in sorted(indices))
        problems.append(Problem(severity, kind, text, files, fix))

    if totals.blank:
        text = f"{_count(len(totals.blank), 'image is', 'images are')} blank: one color all over"
        some("warning", "blank images", text, totals.blank, "look at them; move them away where they show nothing")
    if totals.tiny:
        text = f"{_count(len(totals.tiny), 'image is', 'images are')} smaller than 32 pixels a side"
        some("warning", "tiny images", text, totals.tiny, "are these thumbnails? take the originals")
    if totals.gray_rgb:
        mixed = totals.color > 0
        text = f"{_count(len(totals.gray_rgb), 'image is', 'images are')} gray saved as RGB"
        text += f", {totals.color} are in color" if mixed else ""
        some("warning" if mixed else "note", "gray saved as RGB", text, totals.gray_rgb if mixed else (), None)
    if totals.all_ignored and len(totals.all_ignored) < totals.labeled.sum():
        files = tuple(_mask(records[index]) for index in sorted(totals.all_ignored))
        text = f"{_count(len(files), 'mask is', 'masks are')} ignored all over: nothing to learn or to score"
        fix = "annotate them, or move the pairs away"
        problems.append(Problem("warning", "all ignored", text, files, fix))
    kinds = {(kind.mode, kind.bits): number for kind, number in totals.image_kinds.items()}
    special = {key: number for key, number in kinds.items() if key[0] not in ("RGB", "L") or key[1] > 8}
    if special:
        text = "images are stored as " + ", ".join(
            f"{mode} {bits} bit ({number})" for (mode, bits), number in sorted(kinds.items())
        )
        text += "; alpha is dropped, CMYK and palettes become RGB, more than 8 bits are scaled to 8"
        problems.append(Problem("note", "kinds of images", text, _examples(totals, records, "image"), None))
    if len(totals.channels) > 1:
        text = "images differ in channels: " + ", ".join(f"{n} with {c}" for c, n in sorted(totals.channels.items()))
        problems.append(Problem("warning", "mixed channels", text, (), "bring them to one number of channels"))
    return problems


def _bit_depths(dataset: Dataset, totals: CheckAccumulator, records: Sequence[Record]) -> list[Problem]:
    """8-bit images among deeper ones: the same scene comes out with other brightness."""
    deep = np.flatnonzero(totals.bits > 8).tolist()
    narrow = np.flatnonzero((totals.bits > 0) & (totals.bits <= 8)).tolist()
    if not deep or not narrow:
        return []
    found: ValueRange | None = getattr(dataset.reader, "value_range", None)
    if found is None:
        how = "8-bit values are kept, each deeper image is stretched from its own lowest to its own highest value"
    else:
        low, high = f"{min(found.low):g}", f"{max(found.high):g}"
        how = f"the deeper ones are brought from {low} … {high} to 0 … 255, "
        if found.eight_bit_reading() == "raw":
            how += "and the 8-bit ones too, because all values fit 8 bits"
        else:
            how += "the 8-bit ones are kept as already on that scale"
    few, which = (narrow, "8-bit") if len(narrow) <= len(deep) else (deep, "deeper")
    names = _listed([os.path.basename(_image(records[index])) for index in few])
    text = f"{_count(len(narrow), 'image has', 'images have')} 8 bits, {len(deep)} more; the {which}: {names}; {how}"
    fix = "make the odd ones again from their originals at the depth of the others, or move them away"
    return [Problem("warning", "mixed bit depth", text, tuple(_image(records[index]) for index in few), fix)]


def _classes(
    overall: Fingerprint, prints: Mapping[str, Fingerprint], objects: Mapping[int, tuple[int, int]]
) -> list[Problem]:
    if not overall.labeled:
        return []
    problems = []
    never = [
        name
        for label, (name, images) in enumerate(zip(overall.class_names, overall.class_images, strict=True))
        if not images and not objects.get(label, (0, 0))[0]  # else an error says so
    ]
    if never:
        text = f"{_count(len(never), 'class never occurs', 'classes never occur')}: {_listed(never)}"
        fix = "drop it from the class list, or add images that show it"
        problems.append(Problem("warning", "class without pixels", text, (), fix))
    labeled = {name: one for name, one in prints.items() if one.labeled}
    if len(labeled) < 2:
        return problems
    for index, name in enumerate(overall.class_names):
        where = [split for split, one in labeled.items() if one.class_images[index]]
        lacking = [split for split in labeled if split not in where]
        if where and lacking and ("train" in lacking or len(where) == 1):
            consequence = "it cannot be learnt" if "train" in lacking else "it is never scored there"
            text = f"class {name} occurs in {_listed(where)} but not in {_listed(lacking)}: {consequence}"
            fix = "put all images into one folder without splits: they are then dealt out anew, stratified by class"
            problems.append(Problem("warning", "class in one split only", text, (), fix))
    return problems


def _shift(prints: Mapping[str, Fingerprint]) -> list[Problem]:
    """Class shares that differ between train and another split."""
    train = prints.get("train")
    if train is None or train.labeled < SHIFT_IMAGES:
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
                f"train and {name} hold different things: {100 * distance:.0f} % of the labels would have to move "
                f"({moved})"
            )
            fix = f"scores on {name} say little of images like train's; deal them out anew if that was not meant"
            problems.append(Problem("warning", "label shift", text, (), fix))
    return problems


def _shared(records: Sequence[Record], member: Sequence[Sequence[str]]) -> list[Problem]:
    """The same file in several splits; lists that join others by name (trainval, all) may."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for record, names in zip(records, member, strict=True):
        apart = [name for name in names if not _joins(name)]
        if len(apart) > 1:
            shared.setdefault(tuple(sorted(apart)), []).append(_image(record))
    return [
        Problem(
            "error",
            "shared between splits",
            f"{_count(len(files), 'image is', 'images are')} in {' and '.join(names)}: scores there are worthless",
            tuple(files),
            "take them out of one of the lists",
        )
        for names, files in shared.items()
    ]


def _joins(name: str) -> bool:
    return name in ("trainval", "trainaug", "all", "train_aug", "trainvaltest")


def _duplicates(pairs: Sequence[Pair], records: Sequence[Record], member: Sequence[Sequence[str]]) -> list[Problem]:
    across_exact: list[Pair] = []
    across_near: list[Pair] = []
    within: list[Pair] = []
    for pair in pairs:
        a, b = ({name for name in member[i] if not _joins(name)} for i in (pair.first, pair.second))
        if a and b and not a & b:
            (across_exact if pair.exact else across_near).append(pair)
        elif pair.exact:
            within.append(pair)
    problems = []
    if across_exact:
        text = f"{_count(len(across_exact), 'image occurs', 'images occur')} in two splits: "
        text += _shown(across_exact, records, member)
        fix = "remove the copies outside train: scores on images that were trained on are worthless"
        problems.append(Problem("error", "shared between splits", text, _both(across_exact, records), fix))
    if across_near:
        text = (
            f"{_count(len(across_near), 'pair', 'pairs')} of images in different splits look nearly the same "
            f"(frames of one scene, or copies): {_shown(across_near, records, member)}"
        )
        fix = "keep a scene on one side; otherwise scores flatter the model"
        problems.append(Problem("warning", "near-duplicates between splits", text, _both(across_near, records), fix))
    if within:
        text = f"{_count(len(within), 'pair')} of images within a split are the same: "
        text += _shown(within, records, member)
        problems.append(Problem("note", "duplicates", text, _both(within, records), "remove one of each pair"))
    return problems


def _both(pairs: Sequence[Pair], records: Sequence[Record]) -> tuple[str, ...]:
    """The files pair by pair: 0 and 1, 2 and 3, …"""
    return tuple(_image(records[i]) for pair in pairs for i in (pair.first, pair.second))


def _shown(pairs: Sequence[Pair], records: Sequence[Record], member: Sequence[Sequence[str]]) -> str:
    def named(index: int) -> str:
        return f"{records[index].id} ({'+'.join(member[index])})"

    best = sorted(pairs, key=lambda pair: -pair.correlation)[:3]
    shown = [f"{named(pair.first)} = {named(pair.second)}" for pair in best]
    return "; ".join(shown) + ("; …" if len(pairs) > 3 else "")


def _label_outliers(outliers: Sequence[LabelOutlier], records: Sequence[Record], names: Sequence[str]) -> list[Problem]:
    if not outliers:
        return []
    shown = [
        f"{Path(_mask(records[one.record])).name}: a {names[one.label]} that looks like {names[one.looks_like]}"
        for one in outliers[:3]
    ]
    text = f"{_count(len(outliers), 'mask')} to look at, the most doubtful first: " + "; ".join(shown)
    fix = "segwright check DATA --html check.html shows them; correct the masks that are wrong"
    return [Problem("note", "suspicious masks", text, tuple(_mask(records[one.record]) for one in outliers), fix)]

"""Findings about how images and masks are stored: encodings, channels, bit depths, blank and tiny images. Part of
:mod:`segwright.data.check.rules`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

import numpy as np

from segwright.data.check.aggregate import CheckAccumulator
from segwright.data.check.evidence import Evidence
from segwright.data.check.wording import count, image_file, listed, mask_file
from segwright.data.records import Problem, Record, Severity, ValueRange

DARK = 64  # grays below it are rather class indices than colors


def mask_encodings(evidence: Evidence) -> list[Problem]:
    """How the masks encode their classes."""
    dataset, totals, records = evidence.dataset, evidence.totals, evidence.records
    problems = []
    lossy = sorted(totals.lossy_masks)
    if lossy:
        text = f"{count(len(lossy), 'mask is', 'masks are')} JPEG, which blurs the borders of classes into other values"
        fix = "export the masks again as PNG; converting these keeps the damage"
        blurred: Severity = "warning" if len(dataset.label_space) <= 2 else "error"
        files = tuple(mask_file(records[index]) for index in lossy)
        problems.append(Problem(blurred, "JPEG masks", text, files, fix))
    if dict(dataset.label_space.mapping) == {0: 0, 255: 1}:
        text = "the masks hold 0 and 255: read as background and foreground, nothing is ignored"
        fix = "if 255 means 'ignore' here, name it in classes.txt ('255 void')"
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
        table = dataset.reader.color_table
        dark = sorted({r for r, g, b in table.colors if r == g == b and 0 < r < DARK}) if table is not None else []
        severity: Severity = "warning"
        if dark and {"gray", "RGB"} <= groups.keys():
            severity = "error"
            text += f"; numbers of the gray ones ({listed(list(map(str, dark)))}) are read as dark colors of their own"
            fix = "write all as colors, or all as class indices, and check again"
        problems.append(Problem(severity, "mixed mask codings", text, example, fix))
    elif "RGB" in groups and dataset.reader.color_table is None and totals.mask_kinds:
        text = "the masks are gray saved as RGB: three times the size, read as indices"
        fix = f"segwright convert {shlex.quote(str(dataset.root))} --to folder --out NEW"
        problems.append(Problem("note", "gray saved as RGB", text, (), fix))
    return problems


def _examples(totals: CheckAccumulator, records: Sequence[Record], role: str) -> tuple[str, ...]:
    """One file of each way of storing."""
    take = mask_file if role == "mask" else image_file
    found = [(index, kind) for (of, kind), index in totals.kind_example.items() if of == role]
    return tuple(take(records[index]) for index, _ in sorted(found, key=lambda entry: entry[0]))


def image_contents(evidence: Evidence) -> list[Problem]:
    """Images that show nothing, and the kinds of images."""
    records, totals = evidence.records, evidence.totals
    problems = []

    def some(severity: Severity, kind: str, text: str, indices: Sequence[int], fix: str | None) -> None:
        files = tuple(image_file(records[index]) for index in sorted(indices))
        problems.append(Problem(severity, kind, text, files, fix))

    if totals.blank:
        text = f"{count(len(totals.blank), 'image is', 'images are')} blank: one color all over"
        some("warning", "blank images", text, totals.blank, "look at them; move away those that show nothing")
    if totals.tiny:
        text = f"{count(len(totals.tiny), 'image is', 'images are')} smaller than 32 pixels per side"
        some("warning", "tiny images", text, totals.tiny, "if these are thumbnails, use the originals")
    if totals.gray_rgb:
        mixed = totals.color > 0
        text = f"{count(len(totals.gray_rgb), 'image is', 'images are')} gray saved as RGB"
        text += f", {totals.color} are in color" if mixed else ""
        some("warning" if mixed else "note", "gray saved as RGB", text, totals.gray_rgb if mixed else (), None)
    if totals.all_ignored and len(totals.all_ignored) < totals.labeled.sum():
        files = tuple(mask_file(records[index]) for index in sorted(totals.all_ignored))
        text = f"{count(len(files), 'mask is', 'masks are')} ignored all over: nothing to learn or to score"
        fix = "annotate them, or move the pairs away; a training leaves them out"
        problems.append(Problem("warning", "all ignored", text, files, fix))
    kinds = {(kind.mode, kind.bits): number for kind, number in totals.image_kinds.items()}
    special = {key: number for key, number in kinds.items() if key[0] not in ("RGB", "L") or key[1] > 8}
    alpha = any("A" in mode for mode, _ in special) and max(totals.channels, default=0) <= 3  # else it is a band
    readings = {
        "alpha is dropped": alpha,
        "CMYK becomes RGB": any(mode.startswith("CMYK") for mode, _ in special),
        "palettes become RGB": any(mode.startswith("P") for mode, _ in special),
        "more than 8 bits are scaled to 8": any(bits > 8 for _, bits in special),
    }
    if any(readings.values()):
        text = "images are stored as " + ", ".join(
            f"{mode} {bits} bit ({number})" for (mode, bits), number in sorted(kinds.items())
        )
        text += "; " + ", ".join(reading for reading, occurs in readings.items() if occurs)
        problems.append(Problem("note", "kinds of images", text, _examples(totals, records, "image"), None))
    if len(totals.channels) > 1:
        text = "images differ in channels: " + ", ".join(f"{n} with {c}" for c, n in sorted(totals.channels.items()))
        problems.append(Problem("warning", "mixed channels", text, (), "convert them to one number of channels"))
    return problems


def bit_depths(evidence: Evidence) -> list[Problem]:
    """8-bit images among deeper ones: the same scene comes out with other brightness."""
    dataset, totals, records = evidence.dataset, evidence.totals, evidence.records
    deep = np.flatnonzero(totals.bits > 8).tolist()
    narrow = np.flatnonzero((totals.bits > 0) & (totals.bits <= 8)).tolist()
    if not deep or not narrow:
        return []
    found: ValueRange | None = dataset.value_range
    if found is None:
        how = "8-bit values are kept, each deeper image is stretched from its own lowest to its own highest value"
    else:
        low, high = f"{min(found.low):g}", f"{max(found.high):g}"
        how = f"the deeper ones are scaled from {low} … {high} to 0 … 255, "
        if found.eight_bit_reading() == "raw":
            how += "and the 8-bit ones too, because all values fit 8 bits"
        else:
            how += "the 8-bit ones are kept as already on that scale"
    few, which = (narrow, "8-bit") if len(narrow) <= len(deep) else (deep, "deeper")
    names = listed([os.path.basename(image_file(records[index])) for index in few])
    text = f"{count(len(narrow), 'image has', 'images have')} 8 bits, {len(deep)} more; the {which}: {names}; {how}"
    fix = "export the odd ones again at the bit depth of the others, or move them away"
    return [Problem("warning", "mixed bit depth", text, tuple(image_file(records[index]) for index in few), fix)]

"""ADE20K's full release (Zhou et al. 2019): ``x_seg.png`` beside ``x.jpg``, thousands of classes.

A pixel's class is R // 10 · 256 + G, its instance is B; 0 is unlabeled and ignored. Parts (``x_parts_1.png``) are not
read. Class names come from the image's own ``x.json`` (2021) or ``x_atr.txt`` (2016). A label space holds 255 classes:
where more occur, ``classes.csv`` (id, name) chooses those to keep, and all others are ignored, with a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, LabelError
from segwright.core.progress import track
from segwright.core.types import IGNORE_INDEX, MAX_CLASSES, LabelSpace
from segwright.data.formats.file_tree import Tree, read_json, read_text
from segwright.data.formats.mask_encoding import MaskEncoding
from segwright.data.formats.mask_histogram import histogram_of_files
from segwright.data.formats.name_matching import find_class_list
from segwright.data.formats.published_layout import PHOTO, Found, Layout, Place
from segwright.data.label_maps import generated_name, read_class_list
from segwright.data.readers import FileReader
from segwright.data.records import Record
from segwright.imageio import read_mask

CLASS_FILES = ("classes.csv", "classes.json", "classes.txt")
HIGHEST = 256 * 26  # more than R // 10 · 256 + G reaches
_ATTRIBUTE = re.compile(r"^\d+ # (\d+) # [01] # ([^#]*) # ([^#]*) #")
_PART = r"(?:(?P<split>training|validation)(?:/[^/]+)*|[^/]*)"


class AdeFullReader(FileReader):
    """Classes from the red and green channels."""

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        return None if record.mask_path is None else class_numbers(record.mask_path)


def class_numbers(path: Path) -> npt.NDArray[np.uint16]:
    """H×W class numbers of a ``_seg.png``."""
    pixels = read_mask(path)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise LabelError(
            "a mask of ADE20K's full release holds colors",
            expected="RGB of 8 bits",
            found=f"{pixels.dtype} {pixels.shape}",
            where=path,
            fix="unpack the release again",
        )
    return np.asarray(pixels[..., 0].astype(np.uint16) // 10 * 256 + pixels[..., 1])


def _names(found: Found) -> tuple[dict[int, str], set[int], str]:
    """(class number → name, numbers without a name, where from) by all images' own descriptions."""
    votes: dict[int, Counter[str]] = {}
    source = ""
    for mask in track(found.masks, "reading class names"):
        base = mask.with_name(mask.name[: -len("_seg.png")])
        described = base.with_name(f"{base.name}.json")
        if not described.is_file():
            continue
        try:
            objects = read_json(described, make=LabelError)["annotation"]["object"]
            for one in objects:
                if int((one.get("parts") or {}).get("part_level") or 0) == 0:
                    votes.setdefault(int(one["name_ndx"]), Counter())[str(one["name"]).split(",")[0].strip()] += 1
            source = "the images' own JSON"
        except (DataError, KeyError, TypeError, ValueError, AttributeError):
            continue  # the names of its classes come from other images, or are numbers
    return {number: names.most_common(1)[0][0] for number, names in votes.items()}, set(votes), source


def _described(found: Found) -> set[str]:
    """Class names in the attribute files of the 2016 release, which hold no numbers."""
    names: set[str] = set()
    for mask in found.masks[:50]:
        path = mask.with_name(mask.name[: -len("_seg.png")] + "_atr.txt")
        if path.is_file():
            names |= {m[2] for m in map(_ATTRIBUTE.match, read_text(path, make=LabelError).splitlines()) if m}
    return names


def _coding(tree: Tree, found: Found) -> MaskEncoding:
    masks = found.masks
    how = "a class is R // 10 · 256 + G of its pixels, instances (B) are not read; 0 is unlabeled and ignored"
    listed = find_class_list([tree.folder()], CLASS_FILES)
    if listed is not None:
        return _chosen(listed, how)
    named, class_ids, source = _names(found)
    seen = histogram_of_files(masks, class_numbers)
    numbers = sorted({*seen.values, *class_ids} - {0})
    if not numbers:
        raise LabelError(
            "the masks hold no labeled pixel", found=f"{seen.masks} of {counted(seen.total, 'mask')}", where=tree.root
        )
    if len(numbers) > MAX_CLASSES:
        common = sorted(numbers, key=lambda n: -seen.values.get(n, 0))[:5]
        raise LabelError(
            "ADE20K's full release has more classes here than a label space holds",
            expected=f"at most {MAX_CLASSES} classes",
            found=f"{counted(len(numbers), 'class')}, such as {', '.join(f'{n} ({named.get(n, n)})' for n in common)}",
            where=tree.root,
            fix="list the classes to keep in classes.csv (id,name), all others are then ignored; or use the scene "
            "parsing benchmark (ADEChallengeData2016), which has 150",
        )
    names = _distinct({n: named.get(n, generated_name(n)) for n in numbers})
    mapping = {0: IGNORE_INDEX, **{n: place for place, n in enumerate(numbers)}}
    missing = sum(n not in named for n in numbers)
    words = (
        f"{counted(len(numbers), 'class')}, names from {source}"
        if source
        else f"{counted(len(numbers), 'class')}, by number"
    )
    notes = [how, words + (f"; {missing} of them have none there" if source and missing else "")]
    if not source and _described(found):
        notes.append("x_atr.txt names objects without their numbers: name the classes in classes.csv (id,name)")
    return MaskEncoding(LabelSpace(tuple(names[n] for n in numbers), mapping=mapping), notes=tuple(notes))


def _chosen(path: Path, how: str) -> MaskEncoding:
    """The classes of a list; every other number is ignored."""
    space = read_class_list(path).label_space()
    mapping = {**dict.fromkeys(range(HIGHEST), IGNORE_INDEX), **{v: i for v, i in space.mapping.items() if v < HIGHEST}}
    mapping[0] = IGNORE_INDEX
    kept = LabelSpace(space.names, space.colors, mapping=mapping)
    return MaskEncoding(
        kept, notes=(how, f"{counted(len(space), 'class')} chosen by {path.name}; all others are ignored")
    )


def _distinct(names: Mapping[int, str]) -> dict[int, str]:
    counts = Counter(names.values())
    return {n: name if counts[name] == 1 else f"{name} ({n})" for n, name in names.items()}


FORMAT = Layout(
    "ade20k_full",
    "ADE20K, full release",
    "ADE_train_00000001.jpg and ADE_train_00000001_seg.png",
    (Place(_PART, rf"(?P<key>ADE_(?:train|val|frame)_[^_.]+)\.{PHOTO}"),),
    (Place(_PART, r"(?P<key>ADE_(?:train|val|frame)_[^_.]+)_seg\.png"),),
    _coding,
    {"masks of parts": Place(r".*", r"ADE_.+_parts_\d+\.png"), "masks per instance": Place(r".*", r"instance_.+\.png")},
    AdeFullReader,
).format()

"""Masks of several people for one image, in one folder: found by their names, or because they show the same thing.

``x_rater1.png`` beside ``x_rater2.png`` are neither classes nor objects: read as such, they would become one mask that
nobody drew. Which one is meant, or that they are to be joined after all, is for the user to choose.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError
from segwright.data.formats.name_matching import NamedFile
from segwright.data.mask_files import read_mask_file
from segwright.data.readers import pack_colors

# Image → its masks, each with the part of its name that distinguishes it.
Masks = Mapping[NamedFile, Sequence[tuple[NamedFile, str]]]

_PEOPLE = re.compile(
    r"(?:^|[\W_\d])(?:(?:1st|2nd|3rd|[4-9]th|first|second|third)(?:HO|manual|observer|rater|reader)?|"
    r"manual|rater|reader|annotator|observer|expert|radiologist|grader|doctor|physician|labell?er|coder)"
    r"(?=s?[\W_]*(?:\d+|[a-z])?(?:$|[\W_]))",
    re.I,
)
# A word of its own is a class: disc and cup may lie on one another
_NAMED = re.compile(
    r"(?<![a-z])(?!(?:mask|label|annot|annotation|anno|seg|gt|truth|ver|version|copy)s?(?![a-z]))[a-z]{3}", re.I
)
LOOKED_AT = 6  # images whose masks are compared
MOST_MASKS = 6  # of an image: more are objects
AGREEMENT = 0.5  # intersection over union: classes and objects lie side by side, two people's masks on one another


def find_raters(masks: Masks) -> str | None:
    """Why the masks of an image come from several annotators; None if they do not."""
    several = [found for found in masks.values() if len({part for _, part in found}) > 1]
    named = [found for found in several if any(_PEOPLE.search(part) for _, part in found)]
    if named and 2 * len(named) >= len(several):
        return "by their names"
    few = [found for found in several if len(found) <= MOST_MASKS and not any(_NAMED.search(part) for _, part in found)]
    if not few or 2 * len(few) < len(several):
        return None
    looked = few[:: max(1, len(few) // LOOKED_AT)][:LOOKED_AT]
    shares = [share for found in looked if (share := _agreement([item.path for item, _ in found])) is not None]
    alike = [share for share in shares if share > AGREEMENT]
    if not shares or 2 * len(alike) <= len(shares):
        return None
    return f"because they show the same thing: two of an image agree on {100 * float(np.median(alike)):.0f} % of it"


def folders_apart(masks: Masks) -> str | None:
    """Why the masks of an image are no objects: each lies in a folder of its own, and no name shows a class.

    DRIVE's and HRF's field of view lies so beside the vessels.
    """
    several = [found for found in masks.values() if len(found) > 1]
    if any(_NAMED.search(part) for found in several for _, part in found):
        return None
    apart = [found for found in several if len({item.folder for item, _ in found}) == len(found)]
    if not several or 2 * len(apart) < len(several):
        return None
    names = dict.fromkeys(item.folder for found in apart for item, _ in found)
    return f"in different folders: {', '.join(list(names)[:6])}"


def _agreement(paths: Sequence[Path]) -> float | None:
    """The largest intersection over union of two masks."""
    marked = []
    for path in paths:
        try:
            raw = read_mask_file(path)
        except DataError:
            continue
        marked.append((raw if raw.ndim == 2 else pack_colors(raw)) != 0)
    best: float | None = None
    for place, one in enumerate(marked):
        for other in marked[place + 1 :]:
            if one.shape != other.shape or not one.any() or not other.any():
                continue
            both = int((one & other).sum())
            share = both / int((one | other).sum())
            best = share if best is None else max(best, share)
    return best


def refusal(masks: Masks, root: Path, why: str) -> FormatError:
    """The error that names the raters, both readings and how to choose."""
    by_rater: dict[str, list[tuple[NamedFile, NamedFile]]] = {}
    for image, found in masks.items():
        for item, part in found:
            by_rater.setdefault(part, []).append((item, image))
    every = [item for owned in by_rater.values() for item, _ in owned]
    images = list(masks)
    image_glob = _glob([(image, image) for image in images], every) or "IMAGES"
    globs = {}
    for part, owned in by_rater.items():
        own = {item for item, _ in owned}
        globs[part] = _glob(owned, [*(item for item in every if item not in own), *images])
    listed = ", ".join(f"{_shown(part)} ({len(owned)})" for part, owned in list(by_rater.items())[:6])
    choices = [f"--masks {shlex.quote(glob)}" for glob in globs.values() if glob][:4]
    command = f"segwright check {shlex.quote(str(root))}"
    one = f"{command} --images {shlex.quote(image_glob)} {' or '.join(choices)}; " if choices else ""
    example = next(iter(masks.items()))
    pair = ",".join(os.path.join(item.folder, item.name) for item in (example[0], example[1][0][0]))
    most = Counter(len(found) for found in masks.values() if len(found) > 1).most_common(1)[0][0]
    who = why if why.startswith("in ") else f"of several people ({why})"
    return FormatError(
        f"images with {counted(most, 'mask')} each, {who}, and which one is meant is not certain",
        expected="one mask per image, or masks of different classes or objects",
        found=f"{counted(len(every), 'mask')} for {counted(len(images), 'image')}: {listed}",
        where=root,
        fix=f"one of them: {one}or a CSV with columns image,mask (such as {pair}); if they are classes or objects, "
        f"joined into one mask per image: {command} --format layers",
    )


def _shown(part: str) -> str:
    return part.strip("_-. ") or "without a further word"


def _glob(owned: Sequence[tuple[NamedFile, NamedFile]], others: Sequence[NamedFile]) -> str | None:
    """A glob of files by the names of their images, which matches none of the others; None where no glob does.

    Each file comes with its image, whose stem becomes the wildcard: so do the globs of images and masks pair.
    """
    able = set()
    for item, image in owned:
        folders = ["*" if part == image.stem else part for part in item.folder.split("/") if part]
        name = item.name if "*" in folders else item.name.replace(image.stem, "*", 1)
        able.add("/".join([*folders, name]))
    if len({len(glob.split("/")) for glob in able}) > 1 or len({os.path.basename(glob) for glob in able}) > 1:
        return None
    columns = zip(*(glob.split("/") for glob in able), strict=True)
    parts = [column[0] if len(set(column)) == 1 else "*" for column in columns]
    whole = [os.path.join(item.folder, item.name).split("/") for item in others]
    if any(len(path) == len(parts) and all(map(fnmatchcase, path, parts)) for path in whole):
        return None
    return "/".join(parts)

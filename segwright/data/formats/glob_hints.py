"""The globs that an error names where it is unknown which files are the masks: ones that pair all files of the tree.

``DICOM/p1/slice/`` and ``DICOM/p1/mask/`` of many patients are named as ``DICOM/*/slice/*`` and ``DICOM/*/mask/*``: a
command for one folder alone would read a part of the data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segwright.core.errors import DataError
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.folder_roles import OTHER_KINDS, is_measurement
from segwright.data.formats.globs import pair_globs
from segwright.data.formats.name_matching import looks_like_labels

LOOKED_AT = 12  # folders of which one file is looked at
MOST_FILES = 50_000  # beyond, globs of one folder alone are tried
MOST_ENDINGS = 6
NAMED = 6  # globs of masks in one error
_LAST = re.compile(r"^.*(?=[_\-. ][^_\-. ]*\.[^.]*$)|^[^_\-. ]*(?=\.)")
_LABELS = re.compile(r"(?i)mask|label|seg")

Folders = Mapping[str, Sequence[str]]  # folder, "." for the root → names of its images and arrays


def suggested_globs(tree: Tree, filled: Folders) -> tuple[str, list[str]] | None:
    """(glob of the images, globs of masks that pair with them); None where none pairs."""
    images, folders = _guessed_roles(tree, filled)
    big = sum(map(len, filled.values())) > MOST_FILES
    for widen in (_narrow,) if big else (_widened, _narrow):
        for own in _names(filled[images]):
            found: list[str] = []
            for masks in folders:
                left, right = widen(images, masks, filled)
                glob = os.path.join(left, own)
                found += _best(tree, glob, right, filled[masks])
            if found:
                return glob, list(dict.fromkeys(found))[:NAMED]
    return None


def _best(tree: Tree, images: str, folder: str, names: Sequence[str]) -> list[str]:
    """The globs of a folder's masks that pair the most files: one for all of its names, or one per ending."""
    endings = [f"*{ending}" for ending in _endings(names)]
    globs = [os.path.join(folder, one) for one in dict.fromkeys(["*", *endings, *_starts(names)])]
    counts = {glob: _paired(tree, images, glob) for glob in globs}
    most = max(counts.values())
    found = [glob for glob, count in counts.items() if count == most and count]
    return found[:1] if found and found[0] == globs[0] else found


def _guessed_roles(tree: Tree, filled: Folders) -> tuple[str, list[str]]:
    """The folder of photos, and those of few-valued files beside one another, that an error names."""
    by_kind: dict[bool | None, list[str]] = {}
    for folder, names in list(filled.items())[:LOOKED_AT]:
        if not is_measurement(folder):
            by_kind.setdefault(looks_like_labels(Path(tree.root, folder, names[0])), []).append(folder)
    labels = sorted(by_kind.get(True, ()), key=lambda folder: bool(OTHER_KINDS & set(os.path.basename(folder).split())))
    photos = next((one for one in by_kind.get(False, ())), next(one for one in filled if one not in labels[:1]))
    labels = labels or _counterpart(photos, filled)
    if not labels:
        return photos, []
    beside = [one for one in labels if os.path.dirname(one) == os.path.dirname(labels[0]) and one != photos]
    return photos, beside


def _counterpart(photos: str, filled: Folders) -> list[str]:
    """The folder of another first part that has a name of this one: clip_img/18/clip_0, matting/18/matting_0."""
    stems = {os.path.splitext(name)[0] for name in filled[photos]}
    top = photos.split("/")[0]
    others = (folder for folder in filled if folder.split("/")[0] != top)
    return [one for one in others if stems & {os.path.splitext(name)[0] for name in filled[one]}][:1]


def _narrow(images: str, masks: str, filled: Folders) -> tuple[str, str]:
    return images, masks


def _widened(images: str, masks: str, filled: Folders) -> tuple[str, str]:
    """The folders with * for the parts that both have and other folders have otherwise: scenes, patients, splits."""
    shared = sorted({part for part in images.split("/") if part in masks and part != "."}, key=len, reverse=True)
    if not shared:
        return images, masks
    seen: list[str] = []
    text = ""
    for piece in re.split(f"({'|'.join(map(re.escape, shared))})", images):
        if piece not in shared:
            text += re.escape(piece)
        else:
            text += f"(?P=p{seen.index(piece)})" if piece in seen else f"(?P<p{len(seen)}>[^/]+)"
            seen += [] if piece in seen else [piece]
    alike = [match for match in (re.fullmatch(text, folder) for folder in filled) if match]
    for place, part in enumerate(seen):
        if len({match[f"p{place}"] for match in alike}) > 1:
            images, masks = images.replace(part, "*"), masks.replace(part, "*")
    return images, masks


def _endings(names: Sequence[str]) -> list[str]:
    """What the names end in by the sign before their last word, those of labels first: ``_gt_labelIds.png``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_LAST.sub("", name), []).append(name)
    shared = [os.path.commonprefix([n[::-1] for n in found])[::-1] if len(found) > 1 else end  # noqa: RUF071
              for end, found in groups.items()]  # fmt: skip
    shared = [re.sub(r"^[0-9]+", "", ending) for ending in shared]
    return sorted(dict.fromkeys(shared), key=lambda ending: _LABELS.search(ending) is None)[:MOST_ENDINGS]


def _starts(names: Sequence[str]) -> list[str]:
    """``classgt_*`` where all names begin so."""
    start = re.sub(r"[0-9]+$", "", os.path.commonprefix(list(names)))  # noqa: RUF071 - of names, letter by letter
    return [f"{start}*"] if len(names) > 1 and start else []


def _names(names: Sequence[str]) -> list[str]:
    endings = [f"*{ending}" for ending in _endings(names)]
    return list(dict.fromkeys(["*", *(endings if len(endings) == 1 else []), *_starts(names)]))


def _paired(tree: Tree, images: str, masks: str) -> int:
    try:
        return pair_globs(tree, images, masks).paired
    except DataError:
        return 0

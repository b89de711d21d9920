"""Pairs by two globs, ``--images GLOB --masks GLOB``: what the wildcards stand for pairs the files, then their stems.

``images/*.jpg`` with ``truth/*_gt.png`` pairs ``images/a.jpg`` with ``truth/a_gt.png``. Globs are relative to the
dataset's root (``**`` for any folders) or absolute. Nothing else is read, and where two masks fit one image the files
are listed.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.errors import FormatError, UsageError
from segwright.core.globs import literal_folders
from segwright.data.formats.base import SPLIT_NAMES
from segwright.data.formats.file_tree import Tree, is_image, natural
from segwright.data.formats.folder_roles import Role
from segwright.data.formats.name_matching import NamedFile, Pairing
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.stem_keys import bare, numbered, words
from segwright.data.mask_files import ARRAY_ENDINGS

MOST_FILES = 5_000_000
_WILD = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/]+\]")

Match = tuple[NamedFile, tuple[str, ...]]  # a file, and what each wildcard of the glob stands for


def pair_globs(tree: Tree, images: str, masks: str) -> Pairing:
    """The pairs of the files that two globs match; FormatError where one matches nothing or two masks fit one image."""
    if tree.is_file:
        raise UsageError("--images and --masks choose files of a folder", found=tree.root.name, fix="name the folder")
    images, masks = _of_folders(tree, images), _of_folders(tree, masks)
    found_masks = _matches(tree, masks, "mask")
    taken = {item.path for item, _ in found_masks}
    found_images = [match for match in _matches(tree, images, "image") if match[0].path not in taken]
    for option, pattern, found in (("--images", images, found_images), ("--masks", masks, found_masks)):
        if not found:
            raise FormatError(
                f"{option} matches no file", expected="a glob relative to the dataset, such as 'images/*.jpg'",
                found=f"{pattern!r}; there are {tree.summary()}", where=tree.root,
                fix="quote the glob; ** means any folders",
            )  # fmt: skip
    pairing = _pair(tree, found_images, found_masks)
    if not pairing.paired:
        raise FormatError(
            "the files of --images and --masks do not pair", expected="the same wildcard parts, or the same stems",
            found=f"{found_images[0][0].name} and {found_masks[0][0].name}, …", where=tree.root,
            fix="write a CSV with columns image,mask, a pair per line",
        )  # fmt: skip
    return pairing


def _of_folders(tree: Tree, pattern: str) -> str:
    """The glob; where it matches nothing, with brackets in the names of folders taken as they are written."""
    root = None if os.path.isabs(pattern) else str(tree.root)
    if "[" not in pattern or next(glob.iglob(pattern, root_dir=root, recursive=True), None) is not None:
        return pattern
    return literal_folders(pattern, root or "")[0]


def _matches(tree: Tree, pattern: str, role: Role) -> list[Match]:
    root = str(tree.root)
    absolute = os.path.isabs(pattern)
    inside = pattern.removeprefix("./")
    expression = _expression(pattern if absolute else inside)
    able: list[Match] = []
    for name in glob.iglob(pattern if absolute else inside, root_dir=None if absolute else root, recursive=True):
        path = name.replace(os.sep, "/")
        ending = os.path.splitext(path)[1].lower()
        if not is_image(path) and not (role == "mask" and ending in ARRAY_ENDINGS):
            continue
        whole = path if absolute else os.path.join(root, path)
        if not os.path.isfile(whole):
            continue
        match = expression.fullmatch(path)
        parts = tuple(part or "" for part in match.groups()) if match else (os.path.splitext(path)[0],)
        folder = os.path.dirname(path)
        split = split_of(folder)
        able.append((
            NamedFile(
                folder, os.path.basename(path), os.path.dirname(whole), SPLIT_NAMES.get(split or "", split), "", role
            ),
            parts,
        ))  # fmt: skip
        if len(able) > MOST_FILES:
            raise FormatError("the glob matches too many files", found=f"more than {MOST_FILES}", where=root)
    return sorted(able, key=lambda match: (natural(match[0].folder), natural(match[0].name)))


def _expression(pattern: str) -> re.Pattern[str]:
    """The glob as a regular expression with a group per wildcard."""
    text, place = "", 0
    for wild in _WILD.finditer(pattern):
        text += re.escape(pattern[place : wild.start()])
        sign, place = wild[0], wild.end()
        if sign == "[[]":  # a bracket as it is
            text += re.escape("[")
            continue
        inner = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(sign)
        text += f"({inner})" if inner else "(" + sign.replace("[!", "[^") + ")"
    return re.compile(text + re.escape(pattern[place:]))


def _without_ending(parts: tuple[str, ...]) -> tuple[str, ...]:
    if not parts or not (is_image(parts[-1]) or parts[-1].lower().endswith(ARRAY_ENDINGS)):
        return parts
    return (*parts[:-1], os.path.splitext(parts[-1])[0])


Key = Callable[[Match], object]
# Each rule with whether a tie in it is refused, or left to the rules that follow
_RULES: tuple[tuple[Key, Key, bool], ...] = (
    (lambda i: _without_ending(i[1]), lambda m: _without_ending(m[1]), True),
    (lambda i: (i[1][:-1], i[0].stem), lambda m: (m[1][:-1], m[0].stem), True),
    (lambda i: (i[1][:-1], i[0].stem.casefold()), lambda m: (m[1][:-1], bare(m[0].stem).casefold()), True),
    (lambda i: (i[1][:-1], words(i[0].stem)), lambda m: (m[1][:-1], words(m[0].stem)), True),
    (lambda i: (i[1][:-1], numbered(i[0].stem)), lambda m: (m[1][:-1], numbered(m[0].stem)), True),
    (lambda i: i[0].stem, lambda m: m[0].stem, False),
    (lambda i: i[0].stem.casefold(), lambda m: bare(m[0].stem).casefold(), False),
    (lambda i: words(i[0].stem), lambda m: words(m[0].stem), False),
)


def _pair(tree: Tree, images: list[Match], masks: list[Match]) -> Pairing:
    partner: dict[NamedFile, NamedFile] = {}
    free_images, free_masks = images, masks
    ties: list[tuple[list[NamedFile], list[NamedFile]]] = []
    for image_key, mask_key, strict in _RULES:
        left, right = _grouped(free_images, image_key), _grouped(free_masks, mask_key)
        for key in (key for key in left if key in right):  # in the images' order, so that errors are the same each time
            if len(left[key]) == len(right[key]) == 1:
                partner[left[key][0]] = right[key][0]
            elif strict:
                raise _tie(tree, left[key], right[key])
            else:
                ties.append((left[key], right[key]))
        used = set(partner.values())
        free_images = [match for match in free_images if match[0] not in partner]
        free_masks = [match for match in free_masks if match[0] not in used]
        if not free_images or not free_masks:
            break
    for several_images, several_masks in ties:  # that no later rule has settled
        if not any(image in partner for image in several_images) and not set(several_masks) & set(partner.values()):
            raise _tie(tree, several_images, several_masks)
    return Pairing([(item, partner.get(item)) for item, _ in images], [item for item, _ in free_masks])


def _grouped(matches: list[Match], key: Key) -> dict[object, list[NamedFile]]:
    groups: dict[object, list[NamedFile]] = {}
    for match in matches:
        groups.setdefault(key(match), []).append(match[0])
    return groups


def _tie(tree: Tree, images: list[NamedFile], masks: list[NamedFile]) -> FormatError:
    def shown(items: list[NamedFile]) -> str:
        return ", ".join(os.path.join(item.folder, item.name) for item in items[:4])

    return FormatError(
        "--images and --masks do not pair the files one to one", expected="one mask per image",
        found=f"{counted(len(images), 'image')} ({shown(images)}) and {counted(len(masks), 'mask')} ({shown(masks)})",
        where=Path(tree.root), fix="narrow the globs, or write a CSV with columns image,mask, a pair per line",
    )  # fmt: skip

"""Which picture goes with which mask, by the names of folders and files in the layouts that people use.

A folder's name tells its role and split (``images``, ``trainannot``, ``labelsTr``, ``val/masks``); a file's own ending
does where both lie together (``x.jpg x_mask.png``). Pairs are then made in passes, the strictest reading first, so that
a loose rule never steals a mask that a strict one would give away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from segwright.data.formats.base import SPLIT_NAMES
from segwright.data.formats.tree import Folder, Tree, is_picture

Role = Literal["image", "mask"]

_SPLIT = r"train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev"
_MASK = (
    r"(?:image|img|gt|label|seg|segmentation|png|binary)?masks?|labels?|lbls?|annot(?:ation)?s?|anns?|gts?|groundtruths?|"
    r"truths?|seg(?:mentation)?s?|segmentationclass(?:png|raw)?|targets?|label(?:train)?ids|labelmaps?|manual|stmanual|"
    r"mattes?|outputs?|y"
)
_IMAGE = (
    r"images?|imgs?|rgb|inputs?|pictures?|photos?|pics?|frames?|originals?|orig|raws?|jpe?gimages|scans?|sources?|src|x"
)
_COMPONENT = re.compile(rf"^({_SPLIT})?(?:({_MASK})|({_IMAGE}))?(?:dir|png|folder|data|set)?({_SPLIT}|tr|ts)?$")
_MASK_ENDING = re.compile(
    r"^(.+?)[_\-. ](?:masks?|labels?|lbl|gt|seg|segmentation|annotations?|annot|target|groundtruth|l|gtfine_labelids|"
    r"labelids|labeltrainids|matte)$",
    re.IGNORECASE,
)
_ROLE_WORDS = frozenset(
    re.split(
        r"\W+",
        "mask masks label labels lbl gt seg segmentation annotation annotations annot target groundtruth l labelids "
        "matte manual image images img imgs im rgb input picture photo pic frame original orig sat raw scan training",
    )
)
_TOKENS = re.compile(r"[a-z]+|[0-9]+|[^a-z0-9_\-. ]+")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture file: where it lies and what the path says of it."""

    folder: str  # relative to the root, "" for the root
    name: str
    directory: str  # absolute
    split: str | None
    free: str  # the parts of the folder that say neither role nor split
    role: Role | None

    @property
    def stem(self) -> str:
        return os.path.splitext(self.name)[0]

    @property
    def path(self) -> Path:
        return Path(self.directory, self.name)


@dataclass
class Pairing:
    """What :func:`pair` found."""

    pairs: list[tuple[Item, Item | None]] = field(default_factory=list)  # in the order of the files
    lone_masks: list[Item] = field(default_factory=list)
    collisions: list[tuple[list[Item], list[Item]]] = field(default_factory=list)  # several pictures or masks, one name


def describe_folder(relative: str) -> tuple[Role | None, str | None, str]:
    """(role, split, free parts) of a folder by its path under the root."""
    role: Role | None = None
    split: str | None = None
    free = []
    for part in relative.split("/") if relative else ():
        match = _COMPONENT.match(re.sub(r"[^a-z]", "", part.lower()))
        if match is None or not any(match.groups()):
            free.append(part)
            continue
        before, mask, image, after = match.groups()
        role = "mask" if mask else "image" if image else role
        word = before or after
        split = SPLIT_NAMES[word] if word else split
    return role, split, "/".join(free)


def list_items(tree: Tree) -> list[Item]:
    """Every picture file under the root."""
    items: list[Item] = []
    for relative, listing in tree.walk():
        role, split, free = describe_folder(relative)
        items += [Item(relative, name, listing.path, split, free, role) for name in listing.files if is_picture(name)]
    return items


def assign_roles(items: Sequence[Item]) -> list[Item]:
    """Every item with its role: by its folder, else by its own ending, else by a twin in PNG, else a picture."""
    by_folder: dict[str, list[Item]] = {}
    for item in items:
        by_folder.setdefault(item.folder, []).append(item)
    decided: list[Item] = []
    for members in by_folder.values():
        decided += members if members[0].role == "mask" else _by_ending(members)
    if not any(item.role == "mask" for item in decided):
        decided = _by_twin(decided)
    return [item if item.role else replace(item, role="image") for item in decided]


def _by_ending(members: list[Item]) -> list[Item]:
    stems = {item.stem.casefold() for item in members}
    matches = [_MASK_ENDING.match(item.stem) for item in members]
    # x_sat.jpg beside x_mask.png: the same but for the words that tell the role
    plain = (
        {words(item.stem) for item, match in zip(members, matches, strict=True) if not match} if any(matches) else ()
    )
    result = []
    for item, match in zip(members, matches, strict=True):
        is_mask = match is not None and (match.group(1).casefold() in stems or words(item.stem) in plain)
        if not is_mask and item.role is None:  # mask_12.png beside image_12.png
            is_mask = re.match(r"(?:mask|label|gt|seg)[_\-. 0-9]", item.stem.lower()) is not None
        result.append(replace(item, role="mask") if is_mask else item)
    return result


def _by_twin(items: list[Item]) -> list[Item]:
    """x.jpg and x.png side by side, throughout: the PNG is the mask, for only it keeps labels."""
    pngs = {(i.folder, i.stem) for i in items if i.role is None and i.name.lower().endswith(".png")}
    others = {(i.folder, i.stem) for i in items if i.role is None and not i.name.lower().endswith(".png")}
    if not pngs or len(pngs & others) < 0.8 * len(pngs):
        return items
    return [
        replace(i, role="mask") if i.name.lower().endswith(".png") and (i.folder, i.stem) in others else i
        for i in items
    ]


def words(stem: str) -> str:
    """The stem without words that tell a role, for img_012 and mask_012 or 21_training and 21_manual1."""
    lower = re.sub(r"manual[0-9]$", "manual", stem.lower())
    return "-".join(token for token in _TOKENS.findall(lower) if token not in _ROLE_WORDS)


Key = Callable[[Item], str]
_PASSES: tuple[tuple[Key, Key], ...] = (  # (key of a picture, key of a mask)
    (lambda i: i.stem, lambda m: m.stem),
    (lambda i: i.name, lambda m: m.stem),
    (lambda i: i.stem.casefold(), lambda m: m.stem.casefold()),
    (lambda i: i.stem.casefold(), lambda m: _bare(m.stem).casefold()),
    (lambda i: re.sub(r"_0000$", "", i.stem), lambda m: m.stem),  # nnU-Net numbers channels
    (lambda i: words(i.stem), lambda m: words(m.stem)),
)
_SCOPES: tuple[Key, ...] = (
    lambda i: f"{i.split}\0{i.free}",
    lambda i: f"{i.free}",
    lambda i: f"{i.split}",
    lambda i: "",
)


def _bare(stem: str) -> str:
    match = _MASK_ENDING.match(stem)
    return match.group(1) if match else stem


def pair(items: Sequence[Item]) -> Pairing:
    """Pictures with their masks. ``items`` have roles (:func:`assign_roles`)."""
    images = [item for item in items if item.role == "image"]
    masks = [item for item in items if item.role == "mask"]
    result = Pairing()
    partner: dict[Item, Item] = {}
    taken: set[Item] = set()
    clashed: set[Item] = set()
    for number, (image_key, mask_key) in enumerate(_PASSES):
        for scope in _SCOPES:
            open_images = _index([i for i in images if i not in partner and i not in clashed], image_key, scope)
            open_masks = _index([m for m in masks if m not in taken and m not in clashed], mask_key, scope)
            if not open_images or not open_masks:
                break
            for key in open_images.keys() & open_masks.keys():
                left, right = open_images[key], open_masks[key]
                if len(left) == len(right) == 1:
                    partner[left[0]] = right[0]
                    taken.add(right[0])
                elif scope is _SCOPES[0] and number in (0, 2):
                    result.collisions.append((left, right))
                    clashed.update(left, right)
    result.pairs = [(image, partner.get(image)) for image in images]
    result.lone_masks = [mask for mask in masks if mask not in taken and mask not in clashed]
    return result


def _index(items: Sequence[Item], key: Key, scope: Key) -> dict[tuple[str, str], list[Item]]:
    index: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        index.setdefault((scope(item), key(item)), []).append(item)
    return index


def find_class_list(folders: Sequence[Folder], names: Sequence[str]) -> Path | None:
    """The first of ``names`` that lies in one of the folders."""
    for folder in folders:
        lower = {name.lower(): name for name in folder.files}
        for name in names:
            if name in lower:
                return Path(folder.path, lower[name])
    return None

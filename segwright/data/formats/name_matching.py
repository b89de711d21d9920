"""Which image goes with which mask, by the names of folders and files in the layouts that people use.

A folder's name gives its role and split (``images``, ``trainannot``, ``labelsTr``, ``val/masks``); a file's own ending
does where both lie together (``x.jpg x_mask.png``). Pairs are then made in passes, the strictest reading first, so that
a loose rule never steals a mask that a strict one would give away.

Where such names pair nothing, words within longer names do (``label_images_semantic``, ``original_images``), then
arrays as masks, then the content: a folder of few-valued lossless images beside one of photos. Where several folders
could be the masks of the same images, :attr:`Pairing.rivals` lists them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from segwright.core.errors import DataError
from segwright.data.formats.base import SPLIT_NAMES
from segwright.data.formats.file_tree import Folder, Tree, is_image, natural
from segwright.data.formats.name_parts import split_of_part
from segwright.data.mask_files import ARRAY_ENDINGS, inspect_mask, read_mask_file
from segwright.data.readers import is_gray, pack_colors
from segwright.imageio import read_file

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
        "matte manual image images img imgs im rgb input picture photo pic frame original orig sat raw scan training "
        "volume stack test",
    )
)
# Words that tell a role within a longer folder name. A mask's word counts for more: label_images, gt_image_2.
_MASK_WORDS = frozenset(
    re.split(
        r"\W+",
        "mask masks label labels lbl lbls gt gts gtfine gtcoarse annotation annotations annot annots anno annos ann "
        "annotated groundtruth groundtruths truth truths seg segs segmentation segmentations segmented segmap segmaps "
        "semantic semantics target targets labelmap labelmaps labelids trainids matte mattes manual instance instances "
        "panoptic segmentationclass segmentationobject",
    )
)
_IMAGE_WORDS = frozenset(
    re.split(
        r"\W+",
        "image images img imgs rgb input inputs picture pictures photo photos pic pics frame frames original originals "
        "orig raw raws scan scans source sources src jpegimages jpgs ortho orthos top sat satellite stills",
    )
)
# Folders that hold something else than classes, where another folder of masks lies beside them
_OTHER_KINDS = frozenset({"instance", "instances", "inst", "panoptic", "object", "objects", "segmentationobject",
                          "parts", "edge", "edges", "boundary", "boundaries", "depth"})  # fmt: skip
_WORDS_IN_NAMES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
FEW_VALUES = 64  # a photo shows more colors
SAMPLED = 3  # files per folder that are looked at for what they are
COMPARED = 4  # images whose masks of two folders are compared
_TOKENS = re.compile(r"[a-z]+|[0-9]+|[^a-z0-9_\-. ]+")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """One file: its path and what its name implies."""

    folder: str  # relative to the root, "" for the root
    name: str
    directory: str  # absolute
    split: str | None
    free: str  # the parts of the folder that are neither role nor split
    role: Role | None
    stem: str = field(init=False, compare=False, repr=False)  # kept: every pass of the pairing needs it

    def __post_init__(self) -> None:
        object.__setattr__(self, "stem", os.path.splitext(self.name)[0])

    def __hash__(self) -> int:  # of one string: a hundred thousand files are hashed a million times
        return hash(self.name)

    @property
    def path(self) -> Path:
        return _folder_path(self.directory) / self.name


@lru_cache(maxsize=1024)
def _folder_path(directory: str) -> Path:
    """Parsing a whole path costs twice as much as adding a name to one."""
    return Path(directory)


@dataclass
class Pairing:
    """The result of :func:`pair`."""

    pairs: list[tuple[NamedFile, NamedFile | None]] = field(default_factory=list)  # in the order of the files
    lone_masks: list[NamedFile] = field(default_factory=list)
    collisions: list[tuple[list[NamedFile], list[NamedFile]]] = field(default_factory=list)  # several files, one name
    rivals: list[Rival] = field(default_factory=list)  # folders of masks for the same images; empty where it is certain
    unread: list[Rival] = field(default_factory=list)  # folders of masks that another one makes superfluous
    guessed: str | None = None  # what the roles rest on, where it is not names

    @property
    def paired(self) -> int:
        return sum(mask is not None for _, mask in self.pairs)


@dataclass(frozen=True)
class Rival:
    """Folders that could all be the masks of the same images."""

    name: str  # for the user: the folder, * for the splits
    masks: tuple[NamedFile, ...]
    images: int  # for how many images it has a mask
    why: str = ""  # of one that is not read


def describe_folder(relative: str, *, loose: bool = False) -> tuple[Role | None, str | None, str]:
    """(role, split, free parts) of a folder by its path under the root; ``loose`` also reads words within names."""
    role: Role | None = None
    split: str | None = None
    free = []
    for part in relative.split("/") if relative else ():
        match = _COMPONENT.match(re.sub(r"[^a-z]", "", part.lower()))
        if match is None or not any(match.groups()):
            found = _role_of_words(part) if loose else None
            if found is None:
                free.append(part)
            else:
                role, split = found, split_of_part(part) or split
            continue
        before, mask, image, after = match.groups()
        if image and role == "mask" and any(letter.isdecimal() for letter in part):
            free.append(part)  # masks/img_012/: an image's name, and no folder of images
            continue
        role = "mask" if mask else "image" if image else role
        word = before or after
        split = SPLIT_NAMES[word] if word else split
    return role, split, "/".join(free)


def _role_of_words(part: str) -> Role | None:
    found = {word.lower() for word in _WORDS_IN_NAMES.findall(part)}
    whole = re.sub(r"[^a-z]", "", part.lower())
    if found & _MASK_WORDS or whole in _MASK_WORDS:
        return "mask"
    return "image" if found & _IMAGE_WORDS or whole in _IMAGE_WORDS else None


def list_items(tree: Tree, *, loose: bool = False, arrays: bool = False) -> list[NamedFile]:
    """Every image file under the root; ``arrays`` also lists those of masks that are arrays."""
    items: list[NamedFile] = []
    for relative, listing in tree.walk():
        role, split, free = describe_folder(relative, loose=loose)
        for name in listing.files:
            if is_image(name):
                items.append(NamedFile(relative, name, listing.path, split, free, role))
            elif arrays and name.lower().endswith(ARRAY_ENDINGS) and role != "image":
                items.append(NamedFile(relative, name, listing.path, split, free, "mask"))
    return items


def pair_files(tree: Tree) -> Pairing:
    """The pairing of all files under the root: by strict names, by words within names, by arrays, by content."""
    best = Pairing()
    for loose, arrays in ((False, False), (True, False), (False, True), (True, True)):
        found = pair(assign_roles(list_items(tree, loose=loose, arrays=arrays)))
        _find_rivals(found)
        certain = found.paired and not found.collisions and 2 * found.paired >= min(len(found.pairs), _masks(found))
        if found.rivals or (certain and found.paired >= best.paired):
            best = found
            if loose or found.rivals or not _masks_among(found.pairs):
                return best
        elif best.paired and loose:
            return best
        elif found.paired > best.paired or (not best.pairs and (found.pairs or found.collisions)):
            best = found
    if not best.paired and not best.collisions:
        by_content = _by_content(tree)
        if by_content is not None:
            _find_rivals(by_content)
            return by_content
    return best


def _masks_among(pairs: Sequence[tuple[NamedFile, NamedFile | None]]) -> bool:
    """Whether files without a mask lie in a folder whose longer name calls them masks."""
    folders = {image.folder for image, mask in pairs if mask is None and image.role == "image"}
    return any(describe_folder(folder)[0] is None and describe_folder(folder, loose=True)[0] for folder in folders)


def _masks(pairing: Pairing) -> int:
    return pairing.paired + len(pairing.lone_masks)


def looks_like_labels(path: Path) -> bool | None:
    """Whether a file holds few values without loss; None where it cannot be read."""
    try:
        found = read_mask_file(path)
    except DataError:
        return None
    numbers = found if found.ndim == 2 else found[..., 0] if is_gray(found) else pack_colors(found)
    return len(np.unique(numbers)) <= FEW_VALUES and not path.name.lower().endswith((".jpg", ".jpeg"))


def _by_content(tree: Tree) -> Pairing | None:
    """A folder of few-valued lossless images beside one of photos, under equal stems; None where that does not fit."""
    items = list_items(tree, loose=True, arrays=True)
    folders: dict[str, list[NamedFile]] = {}
    for item in items:
        folders.setdefault(item.folder, []).append(item)
    if not 2 <= len(folders) <= 64:
        return None
    roles: dict[str, Role] = {}
    for folder, members in folders.items():
        sampled = [members[round(i * (len(members) - 1) / SAMPLED)] for i in range(1, SAMPLED + 1)]
        votes = {looks_like_labels(item.path) for item in sampled} - {None}
        if len(votes) == 1:
            roles[folder] = "mask" if votes.pop() else "image"
    if set(roles.values()) != {"mask", "image"}:
        return None
    decided = [
        replace(item, role=roles[item.folder], free=item.folder.rpartition("/")[0])
        for item in items
        if item.folder in roles
    ]
    found = pair(decided)
    if found.collisions or found.paired < 0.8 * min(len(found.pairs), max(_masks(found), 1)) or not found.paired:
        return None
    named = {role: sorted({f or "." for f, r in roles.items() if r == role}) for role in ("image", "mask")}
    found.guessed = (
        f"{found.paired} pairs by content: masks (few values, no loss) in {_some(named['mask'])}, "
        f"images in {_some(named['image'])}"
    )
    return found


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def _find_rivals(pairing: Pairing) -> None:
    """Look for several folders of masks for the same images; what is superfluous goes to ``unread``, with the reason.

    Two folders that show the same regions under other numbers or colors are one annotation: the one of indices is read.
    """
    images = [image for image, _ in pairing.pairs] + [i for left, _ in pairing.collisions for i in left]
    masks = [mask for _, mask in pairing.pairs if mask is not None] + pairing.lone_masks
    masks += [m for _, right in pairing.collisions for m in right]
    images = list(dict.fromkeys(images))
    masks = list(dict.fromkeys(masks))
    sites = {item.free for item in images}
    variants: dict[tuple[str, ...], list[NamedFile]] = {}
    for mask in masks:
        variants.setdefault(_variant(mask, sites), []).append(mask)
    if len(variants) < 2 or len(variants) > 32:
        return
    for members in variants.values():
        members.sort(key=lambda item: (natural(item.folder), natural(item.name)))
    made = {key: pair([*images, *members]) for key, members in variants.items()}
    owners = {
        key: {image for image, mask in found.pairs if mask is not None}
        | {i for left, _ in found.collisions for i in left}
        for key, found in made.items()
    }
    taken = Counter(image for found in owners.values() for image in found)
    rivals = {key for key, found in owners.items() if any(taken[image] > 1 for image in found)}
    if len(rivals) < 2:
        return
    listed = {key: Rival(_glob(variants[key]), tuple(variants[key]), len(owners[key])) for key in variants}
    plain = {key for key in rivals if not _OTHER_KINDS & {w.lower() for part in key for w in _words_of(part)}}
    dropped = dict.fromkeys(rivals - plain, "it holds objects, not classes, by its name") if plain else {}
    kept = sorted(plain or rivals, key=lambda key: -len(owners[key]))
    certain = kept[0]
    for key in kept[1:]:
        shared = sorted(owners[certain] & owners[key], key=lambda item: item.path)[:COMPARED]
        same = [_same_regions(made[certain], made[key], image) for image in shared]
        if not shared or not all(same):
            pairing.rivals = [listed[k] for k in kept]
            return
        loser, certain = (key, certain) if _is_index(made[certain], shared[0]) else (certain, key)
        dropped[loser] = "it shows the same regions"
    final = pair([*images, *(m for key, members in variants.items() if key not in dropped for m in members)])
    pairing.pairs, pairing.lone_masks, pairing.collisions = final.pairs, final.lone_masks, final.collisions
    pairing.unread = [replace(listed[key], why=why) for key, why in dropped.items()]


def _words_of(part: str) -> list[str]:
    return [*_WORDS_IN_NAMES.findall(part), part]


def _variant(mask: NamedFile, sites: set[str]) -> tuple[str, ...]:
    """The parts of a mask folder that distinguish it from others of the same images, without splits and sites."""
    own = set(mask.free.split("/")) if mask.free in sites else set()
    parts = [part for part in mask.folder.split("/") if part not in own]
    bare = [
        re.sub(rf"(?i)^(?:{_SPLIT})[_\-. ]*|[_\-. ]*(?:{_SPLIT})$|(?<=[a-z])(?:Tr|Ts)$", "", part) for part in parts
    ]
    return tuple(part for part in bare if part)


def _glob(masks: Sequence[NamedFile]) -> str:
    """The folders of the masks as one glob: * where they differ."""
    split = [folder.split("/") for folder in dict.fromkeys(mask.folder for mask in masks)]
    longest = max(map(len, split))
    if any(len(parts) != longest for parts in split):
        return "**/" + os.path.basename(masks[0].folder) + "/*"
    parts = [column[0] if len(set(column)) == 1 else "*" for column in zip(*split, strict=True)]
    return "/".join([*(part for part in parts if part), "*"])


def _of(pairing: Pairing, image: NamedFile) -> NamedFile | None:
    return next((mask for found, mask in pairing.pairs if found == image), None)


def _same_regions(left: Pairing, right: Pairing, image: NamedFile) -> bool:
    """Whether two masks of an image cut it alike: each value of one is one value of the other."""
    found = []
    for pairing in (left, right):
        mask = _of(pairing, image)
        if mask is None:
            return False
        try:
            raw = _numbers(mask.path)
        except DataError:
            return False
        found.append(np.unique(raw, return_inverse=True))
    (first, a), (second, b) = found
    if a.shape != b.shape or len(first) != len(second):
        return False
    return len(np.unique(a.astype(np.int64) * len(second) + b)) == len(first)


def _numbers(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """H×W: a number per value or color; of three channels of 16 bits the first, as SYNTHIA has its classes."""
    content = inspect_mask(read_file(path), path)
    pixels = content.pixels
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    return pixels[..., 0].astype(np.int64) if content.deep else pack_colors(pixels).astype(np.int64)


def _is_index(pairing: Pairing, image: NamedFile) -> bool:
    mask = _of(pairing, image)
    if mask is None:
        return False
    content = inspect_mask(read_file(mask.path), mask.path)
    return content.pixels.ndim == 2 or content.deep


def assign_roles(items: Sequence[NamedFile]) -> list[NamedFile]:
    """Every item with its role: by its folder, else by its own ending, else by a twin in PNG, else an image."""
    by_folder: dict[str, list[NamedFile]] = {}
    for item in items:
        by_folder.setdefault(item.folder, []).append(item)
    decided: list[NamedFile] = []
    for members in by_folder.values():
        decided += members if members[0].role == "mask" else _by_ending(members)
    if not any(item.role == "mask" for item in decided):
        decided = _by_twin(decided)
    return [item if item.role else replace(item, role="image") for item in decided]


def _by_ending(members: list[NamedFile]) -> list[NamedFile]:
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


def _by_twin(items: list[NamedFile]) -> list[NamedFile]:
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
    """The stem without words for a role: equal for img_012 and mask_012, 21_training and 21_manual1."""
    lower = re.sub(r"manual[0-9]$", "manual", stem.lower())
    return "-".join(token for token in _TOKENS.findall(lower) if token not in _ROLE_WORDS)


def numbered(stem: str) -> str:
    """Like :func:`words`, with 007 as 7: equal for img7 and mask007."""
    return "-".join(token.lstrip("0") or "0" if token.isdecimal() else token for token in words(stem).split("-"))


Key = Callable[[NamedFile], str]
_PASSES: tuple[tuple[Key, Key], ...] = (  # (key of an image, key of a mask)
    (lambda i: i.stem, lambda m: m.stem),
    (lambda i: i.name, lambda m: m.stem),
    (lambda i: i.stem.casefold(), lambda m: m.stem.casefold()),
    (lambda i: i.stem.casefold(), lambda m: bare(m.stem).casefold()),
    (lambda i: re.sub(r"_0000$", "", i.stem), lambda m: m.stem),  # nnU-Net numbers channels
    (lambda i: words(i.stem), lambda m: words(m.stem)),
    (lambda i: numbered(i.stem), lambda m: numbered(m.stem)),
)
_SCOPES: tuple[Key, ...] = (
    lambda i: f"{i.split}\0{i.free}",
    lambda i: f"{i.free}",
    lambda i: f"{i.split}",
    lambda i: "",
)


def bare(stem: str) -> str:
    match = _MASK_ENDING.match(stem)
    return match.group(1) if match else stem


def pair(items: Sequence[NamedFile]) -> Pairing:
    """Images with their masks. ``items`` have roles (:func:`assign_roles`)."""
    images = [item for item in items if item.role == "image"]
    masks = [item for item in items if item.role == "mask"]
    result = Pairing()
    partner: dict[NamedFile, NamedFile] = {}
    taken: set[NamedFile] = set()
    clashed: set[NamedFile] = set()
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


def _index(items: Sequence[NamedFile], key: Key, scope: Key) -> dict[tuple[str, str], list[NamedFile]]:
    index: dict[tuple[str, str], list[NamedFile]] = {}
    for item in items:
        index.setdefault((scope(item), key(item)), []).append(item)
    return index


def find_class_list(folders: Sequence[Folder], names: Sequence[str]) -> Path | None:
    """The first of ``names`` that exists in one of the folders."""
    for folder in folders:
        lower = {name.lower(): name for name in folder.files}
        for name in names:
            if name in lower:
                return Path(folder.path, lower[name])
    return None

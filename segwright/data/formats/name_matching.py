"""Which image goes with which mask, by the names of folders and files in the layouts that people use.

A folder's name gives its role and split (``images``, ``trainannot``, ``labelsTr``, ``val/masks``); a file's own ending
does where both lie together (``x.jpg x_mask.png``). Pairs are then made in passes, the strictest reading first, so that
a loose rule never steals a mask that a strict one would give away.

Where such names pair nothing, words within longer names do (``label_images_semantic``, ``original_images``), then
arrays as masks, then the content: a folder of few-valued lossless images beside one of photos. Where several folders
could be the masks of the same images, :attr:`Pairing.rivals` lists them.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from segwright.core.errors import DataError
from segwright.data.formats.file_tree import Folder, Tree, is_image, natural
from segwright.data.formats.folder_roles import (
    OTHER_KINDS,
    SPLIT,
    Role,
    is_measurement,
    is_rendering,
    rendered_from,
    site_of,
    words_of,
)
from segwright.data.formats.folder_roles import describe_folder as describe_folder
from segwright.data.formats.name_parts import composed
from segwright.data.formats.stem_keys import (
    MASK_ENDING,
    MASK_STEM,
    bare,
    constant_words,
    numbered,
    without_words,
    words,
)
from segwright.data.mask_files import ARRAY_ENDINGS, inspect_mask, read_mask_file
from segwright.data.readers import is_gray, pack_colors
from segwright.imageio import read_file

FEW_VALUES = 64  # a photo shows more colors
SAMPLED = 3  # files per folder that are looked at for what they are
MOSTLY = 0.8  # of the files of a scope must pair by a loose reading for it to count
FEWEST = 3  # files with an ending for it to tell the masks
COMPARED = 4  # images whose masks of two folders are compared


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
        object.__setattr__(self, "stem", composed(os.path.splitext(self.name)[0]))

    def __hash__(self) -> int:  # of two strings, which keep theirs: a hundred thousand files are hashed a million times
        return hash(self.name) ^ hash(self.directory)  # all files may have one name: scene_1/image.png

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
    by_suffix: bool = False  # the weakest guess of all: a format that is known and not read comes before it

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
    copies = _copies(items)
    for item, first in copies.items():
        tree.memo.setdefault("copies", {})[os.path.join(item.folder, item.name)] = first
    return [item for item in items if item not in copies] if copies else items


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files hold the same; not where one cannot be read."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # a link to nothing: reading it is an error
        return False


_COPY = re.compile(r"(?i)(.+?)(?: - copy(?: ?\(\d+\))?| - (?:kopie|copie|copia)| ?\(\d+\)|[ _]copy[ _]?\d*)")


def _copies(items: Sequence[NamedFile]) -> dict[NamedFile, str]:
    """``3 - Copy.png`` and ``3 (1).png`` with the bytes of ``3.png`` and without a partner → the name of the first."""
    named = [(item, match) for item in items if (match := _COPY.fullmatch(item.stem))]
    if not named:
        return {}
    stems = Counter(item.stem for item in items)
    files = {(item.folder, item.name): item for item in items}
    found: dict[NamedFile, str] = {}
    for item, match in named:
        first = files.get((item.folder, match[1] + os.path.splitext(item.name)[1]))
        if first is not None and stems[item.stem] == 1 and same_bytes(first.path, item.path):
            found[item] = first.name
    return found


def pair_files(tree: Tree) -> Pairing:
    """The pairing of all files under the root: by strict names, by words within names, by arrays, by content."""
    found = _with_arrays(tree, _paired(tree))
    files = [*(item for pair in found.pairs for item in pair if item is not None), *found.lone_masks]
    files += [item for rival in (*found.rivals, *found.unread) for item in rival.masks]
    files += [item for collision in found.collisions for side in collision for item in side]
    used = {(item.folder, item.name) for item in files}
    left: dict[str, list[NamedFile]] = {}
    endings: list[NamedFile] = []
    images = {(image.split, image.stem) for image, _ in found.pairs}
    for item in list_items(tree):
        if (item.folder, item.name) in used:
            continue
        if is_measurement(item.folder) or is_rendering(item.folder):
            left.setdefault(os.path.basename(item.folder), []).append(item)
        elif rendered_from(item.stem) is not None:
            endings.append(item)
        elif item.role is None and found.paired and (item.split, item.stem) in images:
            left.setdefault(os.path.basename(item.folder), []).append(item)
    for folder, members in left.items():
        kind = "by its name it holds overlays or predictions"
        if is_measurement(folder):
            kind = "by its name it holds measurements"
        elif not is_rendering(folder):
            kind = "it has the names of the images, and no word for images or masks"
        found.unread.append(Rival(glob_of(members), (), 0, kind))
    for path, first in tree.memo.get("copies", {}).items():
        found.unread.append(Rival(path, (), 0, f"it is a copy of {first}"))
    if endings:
        name = f"{os.path.join(endings[0].folder, endings[0].name)} (and {len(endings) - 1} more)"
        found.unread.append(Rival(name, (), 0, "by its name it is an overlay or a prediction"))
    return found


def _with_arrays(tree: Tree, found: Pairing) -> Pairing:
    """The pairing with arrays in mask folders for images that have no mask file: half PNG, half NumPy."""
    if found.guessed or found.rivals or not found.paired or found.paired == len(found.pairs):
        return found
    arrays = [
        item
        for item in list_items(tree, arrays=True)
        if not is_image(item.name) and describe_folder(item.folder)[0] == "mask"
    ]
    if not arrays:
        return found
    images = [image for image, _ in found.pairs]
    more = pair([*images, *(mask for _, mask in found.pairs if mask is not None), *found.lone_masks, *arrays])
    if more.collisions or more.paired <= found.paired or len(more.pairs) != len(found.pairs):
        return found
    return replace(more, unread=found.unread)


def _paired(tree: Tree) -> Pairing:
    best = Pairing()
    listed: list[list[NamedFile]] = []
    for loose, arrays in ((False, False), (True, False), (False, True), (True, True)):
        items = list_items(tree, loose=loose, arrays=arrays)
        if items in listed:  # no array, or no longer name, among them: the same pairs again
            if loose and best.paired:
                return best
            continue
        listed.append(items)
        found = pair(assign_roles(items))
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
        by_content = _by_content(tree) or _by_suffix(tree)
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


def _by_suffix(tree: Tree) -> Pairing | None:
    """``x.png`` beside ``x_L0.png`` in one folder, for most files and of few values: the mask; None elsewhere."""
    items = list_items(tree)
    stems: dict[tuple[str, str], list[NamedFile]] = {}
    for item in items:
        stems.setdefault((item.folder, item.stem), []).append(item)
    endings: Counter[str] = Counter()
    for folder, stem in stems:
        endings.update(stem[n:] for n in range(1, len(stem)) if stem[n] in "_-. " and (folder, stem[:n]) in stems)
    if not endings:
        return None
    ending, count = endings.most_common(1)[0]
    masks = [item for (_, stem), found in stems.items() if stem.endswith(ending) for item in found]
    images = [item for (_, stem), found in stems.items() if not stem.endswith(ending) for item in found]
    if count < FEWEST or len(masks) < MOSTLY * len(images) or re.search(r"[^\W\d_]", ending) is None:
        return None
    sampled = [round(i * (min(len(masks), len(images)) - 1) / SAMPLED) for i in range(1, SAMPLED + 1)]
    if not all(looks_like_labels(masks[n].path) for n in sampled):
        return None
    if any(looks_like_labels(images[n].path) for n in sampled):
        return None
    by_stem = {(item.folder, item.stem): item for item in masks}
    found = Pairing([(item, by_stem.get((item.folder, item.stem + ending))) for item in images])
    used = {mask for _, mask in found.pairs}
    found.lone_masks = [item for item in masks if item not in used]
    found.by_suffix = True
    found.guessed = f"{found.paired} pairs by content: files that end in {ending} (few values, no loss) are the masks"
    return found if found.paired == count else None


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
    sites = {
        "/".join(parts[:n]) for item in images for parts in [item.free.split("/")] for n in range(1, len(parts) + 1)
    }
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
    listed = {key: Rival(glob_of(variants[key]), tuple(variants[key]), len(owners[key])) for key in variants}
    plain = {key for key in rivals if not OTHER_KINDS & {w.lower() for part in key for w in words_of(part)}}
    dropped = dict.fromkeys(rivals - plain, "it holds objects, not classes, by its name") if plain else {}
    kept = sorted(plain or rivals, key=lambda key: (-len(owners[key]), key))  # the same in every process
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


def _variant(mask: NamedFile, sites: set[str]) -> tuple[str, ...]:
    """The parts of a mask folder that distinguish it from others of the same images, without splits and sites."""
    own = set(mask.free.split("/")) if mask.free in sites else set()
    parts = [part for part in mask.folder.split("/") if part not in own]
    bare = [re.sub(rf"(?i)^(?:{SPLIT})[_\-. ]*|[_\-. ]*(?:{SPLIT})$|(?<=[a-z])(?:Tr|Ts)$", "", part) for part in parts]
    return tuple(part for part in bare if part)


def glob_of(masks: Sequence[NamedFile]) -> str:
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
            raw = label_numbers(mask.path)
        except DataError:
            return False
        found.append(np.unique(raw, return_inverse=True))
    (first, a), (second, b) = found
    if a.shape != b.shape or len(first) != len(second):
        return False
    return len(np.unique(a.astype(np.int64) * len(second) + b)) == len(first)


def label_numbers(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
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
    decided = _without_unnamed(_without_renderings(_without_measurements(decided)))
    masks = [item for item in decided if item.role == "mask"]
    frees, sites = {item.free for item in masks}, {site_of(item.folder, "mask") for item in masks}
    return [item if item.role == "mask" else _as_image(item, frees, sites) for item in decided]


def _as_image(item: NamedFile, frees: set[str], sites: set[str]) -> NamedFile:
    """An item without a role of its own, as an image: ``site/color/x.jpg`` beside ``site/label/x.png`` is of site.

    Not so ``siteA/x.jpg`` beside ``siteA_masks/x.png``: its folder names the site.
    """
    above = os.path.dirname(item.free)
    inner = item.free and item.free not in frees and above in frees and site_of(item.folder, "image") not in sites
    return replace(item, role="image", free=above if inner else item.free)


def _without_measurements(items: list[NamedFile]) -> list[NamedFile]:
    """The items without folders of depth, normals and the like, where other folders hold what may be the images.

    Nor, where there are masks, with those of overlays or predictions.
    """
    labeled = any(item.role == "mask" for item in items)
    by_folder: dict[str, list[NamedFile]] = {}
    for item in items:
        if item.role != "mask":
            by_folder.setdefault(item.folder, []).append(item)
    measured = {
        folder for folder in by_folder if is_measurement(os.path.basename(folder)) or (labeled and is_rendering(folder))
    }
    if not measured or len(measured) == len(by_folder):
        return items
    # images/thermal/ beside masks/thermal/ are a site, with masks of its own
    masked = {os.path.basename(item.folder) for item in items if item.role == "mask" and item.free}
    measured = {folder for folder in measured if os.path.basename(folder) not in masked}
    others = {item.stem for folder, members in by_folder.items() if folder not in measured for item in members}
    # images/thermal/ of other scenes than images/day/ are images
    dropped = {
        folder for folder in measured
        if by_folder[folder][0].role is None or any(item.stem in others for item in by_folder[folder])
    }  # fmt: skip
    return [item for item in items if item.folder not in dropped]


def _without_unnamed(items: list[NamedFile]) -> list[NamedFile]:
    """The items without weights/, heatmaps/ or edges/ beside images/ and masks/, under the names of the images.

    Only where the folder has no word for a role, no split of its own, and no masks that have its name (``night`` and
    ``night_masks``).
    """
    named = {(item.split, item.free, item.stem) for item in items if item.role == "image"}
    masks = {item.folder.casefold() for item in items if item.role == "mask"}
    if not named or not masks:
        return items
    kept: set[str] = set()
    unnamed: set[str] = set()
    for item in items:
        if item.role is None and item.folder not in kept:
            parts = item.free.split("/") if item.free else []
            own = (parts[n] for n in range(len(parts))
                   if (item.split, "/".join(parts[:n] + parts[n + 1 :]), item.stem) in named)  # fmt: skip
            part = next(own, None)
            fits = part is not None and not any(part.casefold() in mask for mask in masks)
            (unnamed if fits else kept).add(item.folder)
    unnamed = {folder for folder in unnamed - kept if describe_folder(folder, loose=True)[0] is None}
    return [item for item in items if item.folder not in unnamed] if unnamed else items


def _without_renderings(items: list[NamedFile]) -> list[NamedFile]:
    """The items without ``label_viz`` beside ``label``, ``x_pred`` beside ``x_gt`` and an image: drawn from others."""
    made = [item for item in items if rendered_from(item.stem) is not None]
    if not made or len(made) == len(items):
        return items
    beside: dict[tuple[str, str], set[Role | None]] = {}
    for item in items:
        if rendered_from(item.stem) is None:
            for key in {item.stem, bare(item.stem), re.sub(r"[_\-. ][^_\-. ]+$", "", item.stem)}:
                beside.setdefault((item.folder, key), set()).add(item.role)
    dropped = {item for item in made if "mask" in beside.get((item.folder, rendered_from(item.stem) or ""), ())}
    # x_vis.png beside x_ir.png, images and masks: the word distinguishes two images
    images = {item.stem for item in made if item not in dropped and item.role != "mask"}
    dropped = {item for item in dropped if item.role != "mask" or item.stem not in images}
    return [item for item in items if item not in dropped]


def _by_ending(members: list[NamedFile]) -> list[NamedFile]:
    stems = {item.stem.casefold() for item in members}
    matches = [MASK_ENDING.match(item.stem) for item in members]
    # x_sat.jpg beside x_mask.png: the same but for the words that tell the role
    plain = (
        {words(item.stem) for item, match in zip(members, matches, strict=True) if not match} if any(matches) else ()
    )
    result = []
    for item, match in zip(members, matches, strict=True):
        is_mask = match is not None and (
            match.group(1).casefold() in stems
            or words(item.stem) in plain
            or (match.group(2).casefold() in _MASKS and any(one in stems for one in _beginnings(match.group(1))))
        )
        if not is_mask and item.role is None:  # mask_12.png beside image_12.png
            is_mask = MASK_STEM.match(item.stem) is not None
        result.append(replace(item, role="mask") if is_mask else item)
    return result


_MASKS = frozenset({"mask", "masks"})


def _beginnings(stem: str) -> Iterator[str]:
    """What is left of a stem, letter case aside, when it is cut at a sign between its words: x of x_color."""
    lower = stem.casefold()
    return (lower[:place] for place in range(len(lower) - 1, 0, -1) if lower[place] in "_-. ")


def _by_twin(items: list[NamedFile]) -> list[NamedFile]:
    """x.jpg and x.png side by side, throughout: the PNG is the mask, for only it keeps labels."""
    pngs = {(i.folder, i.stem): i for i in items if i.name.lower().endswith(".png")}
    others = {(i.folder, i.stem) for i in items if not i.name.lower().endswith(".png")}
    if not pngs or len(pngs.keys() & others) < 0.8 * len(pngs):
        return items
    if any(i.role is not None for i in items):  # a folder called images holds photos, unless the content is none
        twins = [item for key, item in pngs.items() if key in others]
        if not all(looks_like_labels(twins[round(n * (len(twins) - 1) / SAMPLED)].path) for n in range(SAMPLED + 1)):
            return items
    return [
        replace(i, role="mask") if i.name.lower().endswith(".png") and (i.folder, i.stem) in others else i
        for i in items
    ]


Key = Callable[[NamedFile], str]
_PASSES: tuple[tuple[Key, Key], ...] = (  # (key of an image, key of a mask)
    (lambda i: i.stem, lambda m: m.stem),
    (lambda i: composed(i.name), lambda m: m.stem),
    (lambda i: i.stem.casefold(), lambda m: m.stem.casefold()),
    (lambda i: i.stem.casefold(), lambda m: bare(m.stem).casefold()),
    (lambda i: composed(i.name).casefold(), lambda m: bare(m.stem).casefold()),
    (lambda i: re.sub(r"_0000$", "", i.stem), lambda m: m.stem),  # nnU-Net numbers channels
    (lambda i: words(i.stem), lambda m: words(m.stem)),
    (lambda i: numbered(i.stem), lambda m: numbered(m.stem)),
)
_SCOPES: tuple[Key, ...] = (
    lambda i: f"{i.split}\0{i.free}\0{site_of(i.folder, i.role)}",
    lambda i: f"{i.split}\0{i.free}",
    lambda i: f"{i.free}",
    lambda i: site_of(i.folder, i.role),
    lambda i: f"{i.split}",
    lambda i: "",
)


def pair(items: Sequence[NamedFile]) -> Pairing:
    """Images with their masks. ``items`` have roles (:func:`assign_roles`)."""
    images = [item for item in items if item.role == "image"]
    masks = [item for item in items if item.role == "mask"]
    if not images or not masks:
        return Pairing([(image, None) for image in images], masks)
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
            for key in (key for key in open_images if key in open_masks):
                left, right = open_images[key], open_masks[key]
                if len(left) == len(right) == 1:
                    partner[left[0]] = right[0]
                    taken.add(right[0])
                elif scope is _SCOPES[1] and number in (0, 2):
                    result.collisions.append((left, right))
                    clashed.update(left, right)
    for scope in _SCOPES:
        for image, mask in _by_distinctive_words(
            [i for i in images if i not in partner and i not in clashed],
            [m for m in masks if m not in taken and m not in clashed],
            scope,
        ):
            partner[image] = mask
            taken.add(mask)
    result.pairs = [(image, partner.get(image)) for image in images]
    result.lone_masks = [mask for mask in masks if mask not in taken and mask not in clashed]
    return result


def _by_distinctive_words(
    images: Sequence[NamedFile], masks: Sequence[NamedFile], scope: Key
) -> Iterator[tuple[NamedFile, NamedFile]]:
    """Pairs by what is left of the names without the words that all images, or all masks, of a scope share.

    ``camera_front_091`` and ``label_front_091``; only where most files of the scope pair so.
    """
    groups: dict[str, tuple[list[NamedFile], list[NamedFile]]] = {}
    for item in images:
        groups.setdefault(scope(item), ([], []))[0].append(item)
    for item in masks:
        groups.setdefault(scope(item), ([], []))[1].append(item)
    everywhere = _constant(images, masks)
    for left, right in groups.values():
        dropped = [own | all_ for own, all_ in zip(_constant(left, right), everywhere, strict=True)]
        if not any(dropped):
            continue
        by_key = [
            _index(side, lambda item, words=words: without_words(item.stem, words), lambda _: "")  # type: ignore[misc]
            for side, words in zip((left, right), dropped, strict=True)
        ]
        shared = [key for key in by_key[0] if key in by_key[1] and key[1]]
        found = [(by_key[0][key], by_key[1][key]) for key in shared]
        found = [(a, b) for a, b in found if len(a) == len(b) == 1]
        if len(found) >= MOSTLY * min(len(left), len(right)):
            yield from ((a[0], b[0]) for a, b in found)


def _constant(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> tuple[frozenset[str], frozenset[str]]:
    left, right = [item.stem for item in images], [item.stem for item in masks]
    return constant_words(left, right), constant_words(right, left)


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

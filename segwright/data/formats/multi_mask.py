"""Several masks per image, one for each class or for each object: background 0, anything else is the class.

Three ways to lie on the disk: in a folder an image (``masks/<image>/*.png``), in a folder a class
(``masks/<class>/x.png``), under names that begin with the image's (``x_road.png``, ``x_car_2.png``). The names that
come back in image after image are the classes; names that do not (numbers, hashes) are objects of one class. Where
masks of an image overlap, the smaller is on top, as in COCO.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.types import LabelSpace
from segwright.data.annotations.rasterize import BACKGROUND_NAMES, RasterizedReader, Region, paint, sort_by_area
from segwright.data.formats.base import Format, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.folder import pair_tree
from segwright.data.formats.list_doubts import guessed
from segwright.data.formats.mask_histogram import spread_order
from segwright.data.formats.name_matching import NamedFile, find_class_list
from segwright.data.formats.raters import find_raters, folders_apart, refusal
from segwright.data.label_maps import FILE_NAMES, read_class_list
from segwright.data.readers import pack_colors
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import DEFAULT_LIMITS, Limits, UInt8Array, read_mask

LOOKED_AT = 12  # masks that are read to see whether they are of two values
MOST_CLASSES = 64
OBJECT = "object"  # the class where names tell none apart
_IDS = re.compile(r"(?i)label(?:train)?ids?$")
_SEPARATOR = re.compile(r"[_\-. ()]+")
_ROLES = frozenset(
    {"mask", "masks", "label", "labels", "gt", "seg", "segmentation", "binary", "annotation", "attribute"}
)
# JPEG and a few others cannot hold a mask; what lies beside an image under a longer name must be one of these
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm")


@dataclass(frozen=True)
class MultiMaskIndex:
    """Images with their masks, each with the part of its name that may be a class."""

    masks: Mapping[NamedFile, Sequence[tuple[NamedFile, str]]]
    lone_masks: tuple[NamedFile, ...] = ()
    raters: str | None = None  # why the masks of an image are several people's, or of several kinds


@dataclass
class MultiMaskReader(RasterizedReader):
    """``payload`` of a record: (path, class index) of each of its masks."""

    def draw(self, record: Record) -> UInt8Array:
        height, width = self.size(record)
        regions = []
        for path, index in record.payload:
            mask = read_binary(path, self.limits)
            if mask.shape != (height, width):
                raise LabelError(
                    "image and mask differ in size",
                    expected=f"{height}×{width} (height×width), as the image",
                    found="{}×{}".format(*mask.shape),
                    where=path,
                    fix="make the mask again at the image's size, or leave the pair out",
                )
            regions.append(Region(index, mask))
        return paint(sort_by_area(regions), height, width, 0)


def read_binary(path: Path, limits: Limits = DEFAULT_LIMITS) -> npt.NDArray[np.bool_]:
    """H×W: where a mask is not 0; LabelError where it holds more than two values."""
    raw: npt.NDArray[Any] = read_mask(path, limits)
    values = raw if raw.ndim == 2 else pack_colors(raw)
    inside = values != 0
    found = np.unique(values[inside])
    if len(found) > 1:
        raise LabelError(
            "one of several masks of an image, and it holds more than one class",
            expected="0 outside the class and one other value inside",
            found=f"{len(found) + 1} values",
            where=path,
            fix="export it without anti-aliasing, or give every image one mask of class indices",
        )
    return np.asarray(inside)


def find_layers(tree: Tree) -> MultiMaskIndex | None:
    """The images and their masks where some image has several; None where one mask per image explains the files."""
    if "layers" not in tree.memo:
        tree.memo["layers"] = None if tree.is_file else _find(tree)
    found: MultiMaskIndex | None = tree.memo["layers"]
    return found


def _find(tree: Tree) -> MultiMaskIndex | None:
    pairing = pair_tree(tree)
    images = [image for image, _ in pairing.pairs]
    masks = [mask for _, mask in pairing.pairs if mask is not None] + pairing.lone_masks
    longer = _longer_names([image for image, mask in pairing.pairs if mask is None], images)
    if masks:  # beside x_mask.png, x_mask_1.png is no image
        longer = [item for item in longer if _ROLES & set(_SEPARATOR.split(item.stem.lower()))]
    if masks and not pairing.lone_masks and not longer:
        return None
    masks += longer
    images = [image for image in images if image not in set(longer)]
    owners = _owners(images, masks)
    grouped: dict[NamedFile, list[tuple[NamedFile, str]]] = {}
    for mask in masks:
        if mask in owners:
            grouped.setdefault(owners[mask][0], []).append((mask, owners[mask][1]))
    known_parts = sum(len(parts) for parts in grouped.values())
    if not any(len(parts) > 1 for parts in grouped.values()) or known_parts < 0.9 * len(masks):
        return None
    lone = tuple(mask for mask in masks if mask not in owners)
    layers = MultiMaskIndex({image: grouped.get(image, []) for image in images}, lone)
    return replace(layers, raters=find_raters(grouped) or folders_apart(grouped))


def _longer_names(items: Sequence[NamedFile], images: Sequence[NamedFile]) -> list[NamedFile]:
    """The items whose names begin with the name of an image beside them."""
    stems = {(image.folder, image.stem) for image in images}
    return [
        item
        for item in items
        if item.name.lower().endswith(_LOSSLESS)
        and any((item.folder, stem) in stems for stem in _beginnings(item.stem) if stem != item.stem)
    ]


def _beginnings(stem: str) -> Iterable[str]:
    """The stem, and what is left of it when it is cut at a separator, the longest first."""
    yield stem
    yield from (stem[:place] for place in range(len(stem) - 1, 0, -1) if stem[place] in "_-. (")


def _ends(stem: str) -> Iterable[str]:
    """The ends of the stem after its first words, the longest first."""
    yield from (stem[place + 1 :] for place in range(1, len(stem) - 1) if stem[place] in "_-. ")


def _owners(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> dict[NamedFile, tuple[NamedFile, str]]:
    """Mask → (its image, the part of its name that differs from the image's other masks)."""
    by_name: dict[str, list[NamedFile]] = {}
    for image in images:
        by_name.setdefault(_plain(image.stem), []).append(image)
    owners = {}
    for mask in masks:
        folders = mask.folder.split("/")
        choices = [(name, mask.stem) for name in reversed(folders) if name]  # masks/<image>/road.png
        choices += [(start, mask.stem[len(start) :]) for start in _beginnings(mask.stem)]
        choices += [(end, mask.stem[: -len(end)]) for end in _ends(mask.stem)]  # rater1_x.png
        for name, part in choices:
            candidates = by_name.get(_plain(name), [])
            owner = _nearest(candidates, mask)
            if owner is not None:
                free = mask.free.split("/")[-1] if mask.free != owner.free else ""
                owners[mask] = (owner, part if class_of(part) or not free else free)
                break
    return owners


def _nearest(candidates: Sequence[NamedFile], mask: NamedFile) -> NamedFile | None:
    """The one image of that name, or the one of the mask's split; None where that leaves it open."""
    if len(candidates) > 1:
        candidates = [item for item in candidates if item.split == mask.split]
    if len(candidates) > 1:
        candidates = [item for item in candidates if item.free == mask.free]
    return candidates[0] if len(candidates) == 1 else None


def _plain(name: str) -> str:
    """Letter case aside, and 00012 as 12."""
    return str(int(name)) if name.isdecimal() else name.casefold()


def class_of(part: str) -> str:
    """The distinguishing part without words for masks and numbers: "hard exudate", or "" if nothing is left."""
    words = [word for word in _SEPARATOR.split(part) if word and word.lower() not in _ROLES]
    kept = [word for word in words if not word.isdecimal()]
    return re.sub(r"(?<=[a-z])\d+$", "", " ".join(kept))


def name_classes(layers: MultiMaskIndex) -> dict[str, str]:
    """Telling part → class name: the names where they come back, else one class for all."""
    parts = [[class_of(part) for _, part in found] for found in layers.masks.values()]
    images = Counter(name for found in parts for name in set(found))
    shown = sum(bool(found) for found in parts)
    returning = [name for name, count in images.items() if count > 1 or shown < 4]
    known_parts = [part for found in layers.masks.values() for _, part in found]
    if len(images) > MOST_CLASSES or len(returning) < 0.5 * len(images) or _only_hashes(images):
        return dict.fromkeys(known_parts, OBJECT)
    return {part: class_of(part) or OBJECT for part in known_parts}


def _only_hashes(names: Iterable[str]) -> bool:
    return all(len(name) >= 16 and re.fullmatch(r"[0-9a-f]+", name) for name in names)


def detect(tree: Tree) -> str | None:
    layers = find_layers(tree)
    if layers is not None and not layers.raters and not _two_values(layers):
        layers = tree.memo["layers"] = replace(layers, raters=_kinds(tree, layers))
        if layers.raters is None:
            return None
    if layers is None:
        return None
    count = sum(len(found) for found in layers.masks.values())
    return f"{counted(count, 'mask')} of two values for {counted(sum(map(bool, layers.masks.values())), 'image')}"


def _kinds(tree: Tree, layers: MultiMaskIndex) -> str | None:
    """Why the masks of an image are of several kinds: most images have the same ones, and one alone would be read.

    The Pixel Annotation Tool writes ``x_mask.png``, ``x_color_mask.png`` and ``x_watershed_mask.png``.
    """
    kinds = Counter(frozenset(part for _, part in found) for found in layers.masks.values() if found)
    common, count = kinds.most_common(1)[0]
    if len(common) < 2 or 2 * count < sum(kinds.values()) or pair_tree(tree).paired < count:
        return None
    if len(pair_tree(tree).lone_masks) < count or sum(map(bool, map(_IDS.search, common))) == 1:
        return None  # labelIds beside color and instanceIds: the classes are read
    return f"in several kinds: {', '.join(sorted(part.strip('_-. ') for part in common)[:6])}"


def _two_values(layers: MultiMaskIndex) -> bool:
    paths = [mask.path for found in layers.masks.values() for mask, _ in found]
    for place in spread_order(len(paths))[:LOOKED_AT]:
        try:
            read_binary(paths[place])
        except LabelError:
            return False
        except DataError:
            continue  # reported when it is read
    return True


def hint(tree: Tree) -> FormatError | None:
    """The error for a similar layout: several masks per image that hold several classes each."""
    layers = find_layers(tree)
    if layers is None:
        return None
    image, found = max(layers.masks.items(), key=lambda item: len(item[1]))
    return FormatError(
        "several masks per image, and what each one holds is not clear",
        expected="one mask of class indices per image, or masks of two values whose names end in a class",
        found=f"{counted(len(found), 'mask')} of {image.name}: " + ", ".join(mask.name for mask, _ in found[:4]),
        where=tree.root,
        fix="keep one of them per image, or name them after their classes: masks/road/x.png, masks/car/x.png",
    )


def open_layers(tree: Tree) -> Dataset:
    layers = find_layers(tree)
    if layers is None:
        raise FormatError("no image has several masks", expected="masks/<image>/*.png, masks/<class>/x.png or "
                          "x_<class>.png", found=tree.summary(), where=tree.root)  # fmt: skip
    if layers.raters is not None and tree.memo.get("format") != "layers":
        raise refusal({image: found for image, found in layers.masks.items() if found}, tree.root, layers.raters)
    named = name_classes(layers)
    names, listed = _order(tree, set(named.values()))
    images = list(layers.masks)
    ids = unique_ids([(item.folder, item.stem, Path(item.name).suffix) for item in images])
    records, lone = [], []
    given: dict[str, list[Record]] = {}
    for name, image in zip(ids, images, strict=True):
        found = tuple((mask.path, names.index(named[part])) for mask, part in layers.masks[image])
        record = Record(name, image.path, None, found or None)
        records.append(record)
        split = image.split or next((mask.split for mask, _ in layers.masks[image] if mask.split), None)
        if split is not None:
            given.setdefault(split, []).append(record)
        if not found:
            lone.append(image.path)
    count = sum(len(found) for found in layers.masks.values())
    notes = [
        f"{counted(count, 'mask')} become one per image: {', '.join(names[1:])}{listed}; uncovered pixels are "
        "background, "
        "of overlapping masks the smaller is on top",
    ]
    if names[1:] == [OBJECT]:
        notes.append("their names distinguish no classes: all are objects of one class")
    unpaired = [mask.path for mask in layers.lone_masks]
    problems = [*pairing_problems(lone, unpaired), *_partly_named(layers, named)]
    return Dataset(
        root=tree.root,
        format="layers",
        reader=MultiMaskReader(LabelSpace(tuple(names))),
        records=tuple(records),
        given=sort_splits(given),
        notes=notes,
        problems=problems,
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(unpaired),
    )


def _partly_named(layers: MultiMaskIndex, named: Mapping[str, str]) -> list[Problem]:
    """A warning where some masks name a class and others, in a folder of their own, none."""
    folders: dict[str, set[str]] = {}
    for found in layers.masks.values():
        for mask, part in found:
            folders.setdefault(mask.folder, set()).add(named[part])
    bare = [folder for folder, names in folders.items() if names == {OBJECT}]
    if not bare or len(bare) == len(folders):
        return []
    text = f"the masks in {', '.join(bare[:4])} name no class, and others do: read as a class of its own, {OBJECT}"
    fix = "if they are no class (the valid area, all classes in one), move that folder away; else call it by the class"
    return [guessed(text, fix)]


def _order(tree: Tree, found: set[str]) -> tuple[list[str], str]:
    """(background and the classes, in a class list's order where one names them all, where from)."""
    kept = sorted(name for name in found if name.lower() not in BACKGROUND_NAMES)
    path = find_class_list([tree.folder()], FILE_NAMES)
    if path is not None:
        entries = [e.name for e in read_class_list(path).entries if not e.ignored]
        entries = [name for name in entries if name.lower() not in BACKGROUND_NAMES]
        if set(kept) <= set(entries):
            return ["background", *dict.fromkeys(entries)], f" (in the order of {path.name})"
    return ["background", *kept], ""


FORMAT = Format(
    "layers",
    "several masks per image",
    "a mask of two values for each class or object: masks/<image>/*.png, masks/<class>/x.png or x_<class>.png",
    detect,
    open_layers,
    hint,
)

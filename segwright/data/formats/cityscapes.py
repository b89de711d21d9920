"""Cityscapes (Cordts et al. 2016): ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``, 34 ids → 19 classes.

Masks are ``…_gtFine_labelIds.png``, or ``…_labelTrainIds.png`` where only those lie there, or ``…_color.png`` where
there is nothing else; ``gtCoarse`` serves where there is no fine annotation. The test part's published masks are
dummies and are not read. A tree of the same names whose masks are another dataset's (IDD's ``labellevel3Ids``) is not
this format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.formats.base import Format, distinct, pairing_problems, sort_splits, unique_records
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.mask_encoding import infer_encoding
from segwright.data.formats.name_matching import find_class_list, label_numbers, same_bytes
from segwright.data.formats.name_parts import split_of
from segwright.data.label_maps import FILE_NAMES, read_class_list
from segwright.data.readers import ColorTable, FileReader
from segwright.data.records import Dataset, Problem, Record, evenly_spread

# id in labelIds → the 19 classes of the benchmark in the order of their train ids; every other id is void.
CLASSES: dict[str, tuple[int, Color]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
IDS = range(34)
LOOKED_AT = 3  # masks of a test part, and of those that come twice
DUMMIES = "the test part's masks are dummies, as published, and are not read"
_NAMES = {*CLASSES, "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground",
          "parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer",
          "license plate", "void"}  # fmt: skip
_IMAGE = re.compile(r"(.+)_leftImg8bit\.(?:png|jpe?g)$")
_MASK = re.compile(r"(.+)_gt(Fine|Coarse)_(labelIds|labelTrainIds|color)\.png$")
_OTHER = re.compile(r".+_gt(?:Fine|Coarse)_(?!instance)[^_]+\.png$")
_POLYGONS = re.compile(r".+_gt(?:Fine|Coarse)_polygons\.json$")


def label_space(*, train_ids: bool = False) -> LabelSpace:
    """Label space from the 34 ids of labelIds (-1, the license plate, is 255 in a PNG), or from the train ids."""
    names = tuple(CLASSES)
    colors = tuple(color for _, color in CLASSES.values())
    if train_ids:
        return LabelSpace(names, colors, mapping={**{i: i for i in range(19)}, IGNORE_INDEX: IGNORE_INDEX})
    mapping = dict.fromkeys((*IDS, IGNORE_INDEX), IGNORE_INDEX)
    mapping |= {value: index for index, (value, _) in enumerate(CLASSES.values())}
    return LabelSpace(names, colors, mapping=mapping)


@dataclass(frozen=True)
class _Base:
    """One tree: the folder of its images and those of its masks, relative to the root."""

    images: str
    masks: tuple[str, ...]  # coarse before fine


def _bases(tree: Tree) -> list[_Base]:
    """The trees: of the root, of one or several folders in it, or of two archives unpacked side by side."""
    if tree.is_file:
        return []
    found: dict[str, list[str]] = {}
    for relative, listing in tree.walk(depth=1):
        for name in ("leftImg8bit", "gtCoarse", "gtFine"):
            if name in listing.dirs:
                found.setdefault(name, []).append(os.path.join(relative, name))
    images = found.get("leftImg8bit", [])
    masks = [*found.get("gtCoarse", ()), *found.get("gtFine", ())]
    bases = [_Base(i, tuple(m for m in masks if os.path.dirname(m) == os.path.dirname(i))) for i in images]
    if len(images) == 1 and masks and not bases[0].masks:
        return [_Base(images[0], tuple(masks))]
    return [base for base in bases if base.masks]


@dataclass(frozen=True)
class _Loose:
    """Images and masks by Cityscapes' names in folders of other names: name → (folder, path), masks by their kind."""

    images: dict[str, tuple[str, Path]]
    masks: dict[str, Path]
    kind: str
    twice: list[tuple[Path, Path]]  # masks of one name


def _loose(tree: Tree) -> _Loose | None:
    """The pairs by names alone; None where none pairs, or where the name of an image comes twice."""
    if "cityscapes loose" not in tree.memo:
        tree.memo["cityscapes loose"] = None if tree.is_file else _find_loose(tree)
    found: _Loose | None = tree.memo["cityscapes loose"]
    return found


def _find_loose(tree: Tree) -> _Loose | None:
    images: dict[str, tuple[str, Path]] = {}
    masks: dict[tuple[str, str], dict[str, Path]] = {}
    twice: dict[str, list[tuple[Path, Path]]] = {}
    for relative, listing in tree.walk():
        for name in listing.files:
            match = _IMAGE.match(name)
            if match is not None:
                if match[1] in images:
                    return None
                images[match[1]] = relative, Path(listing.path, name)
            elif (match := _MASK.match(name)) is not None:
                path = Path(listing.path, name)
                if (other := masks.setdefault((match[2], match[3]), {}).setdefault(match[1], path)) != path:
                    twice.setdefault(match[3], []).append((other, path))
    for kind in KINDS:
        found = masks.get(("Coarse", kind), {}) | masks.get(("Fine", kind), {})
        if found.keys() & images.keys():
            return _Loose(images, found, kind, twice.get(kind, []))
    return None


def _open_loose(tree: Tree, loose: _Loose) -> Dataset:
    compared = [loose.twice[n] for n in evenly_spread(len(loose.twice), LOOKED_AT)]
    for pair in compared:
        if not same_bytes(*pair):
            raise FormatError(
                "two masks of one name that differ, and which to read is not certain", expected="one mask per image",
                found=" and ".join(str(path.relative_to(tree.root)) for path in pair),
                where=tree.root, fix="move one of the folders away",
            )  # fmt: skip
    tests = {name for name, (folder, _) in loose.images.items() if split_of(folder) == "test" and name in loose.masks}
    others = [loose.masks[name] for name in loose.images if name in loose.masks and name not in tests]
    reader, notes, problems = _read_by(tree, loose.kind, others or [*loose.masks.values()])
    notes = [*notes, "images and masks by Cityscapes' names, in folders of other names"]
    looked_at = [loose.masks[sorted(tests)[n]] for n in evenly_spread(len(tests), LOOKED_AT)]
    dummies = bool(tests) and reader.label_space.names == tuple(CLASSES)
    dummies = dummies and all(_is_dummy(path, loose.kind) for path in looked_at)
    if dummies:
        notes.append(DUMMIES)
    if loose.twice:
        first = loose.twice[0][1].relative_to(tree.root)
        notes.append(f"{counted(len(loose.twice), 'mask')} such as {first} are copies of others, and are not read")
    given: dict[str, list[Record]] = {}
    records = []
    for name, (folder, path) in loose.images.items():
        split = split_of(folder)
        records.append(Record(name, path, None if split == "test" and dummies else loose.masks.get(name)))
        if split is not None:
            given.setdefault(split, []).append(records[-1])
    lone = [r.image_path for r in records if r.image_path is not None and r.mask_path is None]
    lone = [path for path in lone if split_of(str(path.parent.relative_to(tree.root))) != "test"]
    strays = [path for name, path in loose.masks.items() if name not in loose.images]
    return Dataset(
        root=tree.root,
        format="cityscapes",
        reader=reader,
        records=tuple(records),
        given=sort_splits(given),
        notes=notes,
        problems=[*pairing_problems(lone, strays), *problems],
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(strays),
    )


def _is_dummy(path: Path, kind: str) -> bool:
    """Whether a mask shows none of the classes, as those of the published test part."""
    if kind == "color":
        known = {red << 16 | green << 8 | blue for _, (red, green, blue) in CLASSES.values()}
    else:
        known = set(range(len(CLASSES))) if kind == "labelTrainIds" else {value for value, _ in CLASSES.values()}
    try:
        return known.isdisjoint(np.unique(label_numbers(path)).tolist())
    except DataError:
        return False  # reading it is an error


def detect(tree: Tree) -> str | None:
    bases = _bases(tree)
    if not bases and _loose(tree) is not None:
        return "…_leftImg8bit.png and …_gtFine_labelIds.png"
    if not bases or not (any(_masks(tree, base)[0] for base in bases) or not _annotated(tree, bases)):
        return None
    return "leftImg8bit and gtFine"


def _annotated(tree: Tree, bases: Sequence[_Base]) -> bool:
    """Whether annotations lie there, of whatever kind: not a test set alone."""
    names = (name for base in bases for folder in base.masks for _, part in tree.walk(folder) for name in part.files)
    return any(_OTHER.match(name) or _POLYGONS.match(name) for name in names)


def hint(tree: Tree) -> FormatError | None:
    """The error for a tree of polygons without the masks that the set's own scripts draw from them."""
    bases = _bases(tree)
    if not bases:
        return None
    files = [name for base in bases for folder in base.masks for _, part in tree.walk(folder) for name in part.files]
    polygons = [name for name in files if _POLYGONS.match(name)]
    if not polygons:
        return None
    return FormatError(
        "polygons in Cityscapes' format, and no masks drawn from them",
        expected="…_gtFine_labelIds.png, …_labelTrainIds.png or …_color.png",
        found=f"{counted(len(polygons), 'file')} such as {polygons[0]}",
        where=tree.root,
        fix="draw the masks with the dataset's own script: createTrainIdLabelImgs.py of cityscapesscripts, or "
        "createLabels.py of IDD's AutoNUE; or write masks/x.png beside images/x.png",
    )


KINDS = ("labelIds", "labelTrainIds", "color")


def _masks(tree: Tree, base: _Base) -> tuple[dict[str, Path], str]:
    """(image's name → mask, their kind); fine before coarse, labelIds before train ids before colors."""
    memo = f"cityscapes {base}"
    if memo not in tree.memo:
        found: dict[tuple[str, str], dict[str, Path]] = {}
        for folder in base.masks:
            for _, listing in tree.walk(folder):
                for name in listing.files:
                    match = _MASK.match(name)
                    if match:
                        found.setdefault((match[2], match[3]), {})[match[1]] = Path(listing.path, name)
        kind = next((kind for kind in KINDS if {("Coarse", kind), ("Fine", kind)} & found.keys()), KINDS[1])
        tree.memo[memo] = found.get(("Coarse", kind), {}) | found.get(("Fine", kind), {}), kind
    result: tuple[dict[str, Path], str] = tree.memo[memo]
    return result


def open_cityscapes(tree: Tree) -> Dataset:
    bases = _bases(tree)
    if not bases and (loose := _loose(tree)) is not None:
        return _open_loose(tree, loose)
    if not bases:
        raise FormatError(
            "no Cityscapes tree", expected="leftImg8bit/ and gtFine/", found=tree.summary(), where=tree.root
        )
    given: dict[str, list[Record]] = {}
    lone: list[Path] = []
    strays: list[Path] = []
    kinds = {_read_base(tree, base, given, lone, strays) for base in bases}
    if len(kinds) > 1:
        raise FormatError(
            f"one tree has {' and another '.join(sorted(kinds))}", expected="masks of one kind",
            found=", ".join(base.images for base in bases),
            where=tree.root, fix="open one of them, or write the same kind for both",
        )  # fmt: skip
    kind = kinds.pop()
    given = distinct(given)
    masks = [record.mask_path for part in given.values() for record in part if record.mask_path is not None]
    reader, notes, problems = _read_by(tree, kind, masks)
    if "test" in given:
        notes.append(DUMMIES)
    return Dataset(
        root=tree.root,
        format="cityscapes",
        reader=reader,
        records=unique_records(given),
        given=sort_splits(given),
        notes=notes,
        problems=[*pairing_problems(lone, strays), *problems],
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(strays),
    )


NOTES = {
    "labelIds": "the 34 ids of labelIds, mapped to the benchmark's 19 classes",
    "labelTrainIds": "train ids as they are",
    "color": "the colors of the 19 classes; every other color is ignored",
}


def _read_by(tree: Tree, kind: str, masks: Sequence[Path]) -> tuple[FileReader, list[str], list[Problem]]:
    """(reader, notes, findings): Cityscapes' classes, or those of a class list that names others, as CVAT writes it."""
    folders = [listing for _, listing in tree.walk(depth=1)]
    path = find_class_list(folders, FILE_NAMES)
    names = {entry.name.strip().lower() for entry in read_class_list(path).entries} if path is not None else set()
    if path is None or not masks or 2 * len(names & _NAMES) >= len(names):
        return _reader(kind), [NOTES[kind]], []
    coding = infer_encoding(masks, read_class_list(path), tree.root)
    note = f"Cityscapes' folders, and {path.name} names other classes than Cityscapes': the masks are read by it"
    reader = FileReader(coding.label_space, coding.color_table, source=coding.source)
    return reader, [note, *coding.notes], list(coding.problems)


def _reader(kind: str) -> FileReader:
    if kind != "color":
        return FileReader(label_space(train_ids=kind == "labelTrainIds"))
    # Void colors of the published set; caravan, trailer and license plate are void in the benchmark as well.
    void: list[Color] = [(0, 0, 0), (20, 20, 20), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140),
                         (180, 165, 180), (150, 100, 100), (150, 120, 90), (0, 0, 90), (0, 0, 110)]  # fmt: skip
    colors = [color for _, color in CLASSES.values()]
    mapping = {row: row for row in range(len(colors))} | {len(colors) + i: IGNORE_INDEX for i in range(len(void))}
    space = LabelSpace(tuple(CLASSES), tuple(colors), mapping={**mapping, IGNORE_INDEX: IGNORE_INDEX})
    return FileReader(space, ColorTable((*colors, *void)))


def _read_base(tree: Tree, base: _Base, given: dict[str, list[Record]], lone: list[Path], strays: list[Path]) -> str:
    """Add one tree's records and what does not pair; returns the kind of its masks."""
    masks, kind = _masks(tree, base)
    unused = dict(masks)
    for split in tree.folder(base.images).dirs:
        for _, listing in tree.walk(f"{base.images}/{split}"):
            for name in listing.files:
                match = _IMAGE.match(name)
                if match is None:
                    continue
                unused.pop(match[1], None)
                mask = None if split == "test" else masks.get(match[1])
                if mask is None and split != "test":
                    lone.append(Path(listing.path, name))
                given.setdefault(split, []).append(Record(match[1], Path(listing.path, name), mask))
    strays += unused.values()
    return kind


FORMAT = Format("cityscapes", "Cityscapes", "leftImg8bit/ and gtFine/", detect, open_cityscapes, hint)

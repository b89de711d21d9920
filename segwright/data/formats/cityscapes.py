"""Cityscapes (Cordts et al. 2016): ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``, 34 ids → 19 classes.

Masks are ``…_gtFine_labelIds.png``, or ``…_labelTrainIds.png`` where only those lie there; ``gtCoarse`` serves where
there is no fine annotation. The test part's published masks are dummies and are not read.
"""

from __future__ import annotations

import re
from pathlib import Path

from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.formats.base import Format, distinct, pairing_problems, sort_splits, unique_records
from segwright.data.formats.file_tree import Tree
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record

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
_IMAGE = re.compile(r"(.+)_leftImg8bit\.(?:png|jpe?g)$")
_MASK = re.compile(r"(.+)_gt(Fine|Coarse)_label(Ids|TrainIds)\.png$")


def label_space(*, train_ids: bool = False) -> LabelSpace:
    """Label space from the 34 ids of labelIds (-1, the license plate, is 255 in a PNG), or from the train ids."""
    names = tuple(CLASSES)
    colors = tuple(color for _, color in CLASSES.values())
    if train_ids:
        return LabelSpace(names, colors, mapping={**{i: i for i in range(19)}, IGNORE_INDEX: IGNORE_INDEX})
    mapping = dict.fromkeys((*IDS, IGNORE_INDEX), IGNORE_INDEX)
    mapping |= {value: index for index, (value, _) in enumerate(CLASSES.values())}
    return LabelSpace(names, colors, mapping=mapping)


def _bases(tree: Tree) -> list[str]:
    """The folders that hold a tree: the root, or one or several in it."""
    if tree.is_file:
        return []
    return [
        relative
        for relative, listing in tree.walk(depth=1)
        if "leftImg8bit" in listing.dirs and {"gtFine", "gtCoarse"} & set(listing.dirs)
    ]


def detect(tree: Tree) -> str | None:
    return "leftImg8bit and gtFine" if _bases(tree) else None


def _masks(tree: Tree, prefix: str) -> tuple[dict[str, Path], bool]:
    """(image's name → mask, whether they hold train ids); fine before coarse, labelIds before train ids."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for folder in ("gtCoarse", "gtFine"):
        for _, listing in tree.walk(prefix + folder):
            for name in listing.files:
                match = _MASK.match(name)
                if match:
                    found.setdefault((match[2], match[3]), {})[match[1]] = Path(listing.path, name)
    ids = found.get(("Coarse", "Ids"), {}) | found.get(("Fine", "Ids"), {})
    if ids:
        return ids, False
    return found.get(("Coarse", "TrainIds"), {}) | found.get(("Fine", "TrainIds"), {}), True


def open_cityscapes(tree: Tree) -> Dataset:
    bases = _bases(tree)
    if not bases:
        raise FormatError(
            "no Cityscapes tree", expected="leftImg8bit/ and gtFine/", found=tree.summary(), where=tree.root
        )
    given: dict[str, list[Record]] = {}
    lone: list[Path] = []
    strays: list[Path] = []
    kinds = {_read_base(tree, f"{base}/" if base else "", given, lone, strays) for base in bases}
    if len(kinds) > 1:
        raise FormatError(
            "one tree has labelIds and another labelTrainIds", expected="masks of one kind", found=", ".join(bases),
            where=tree.root, fix="open one of them, or write the same kind for both",
        )  # fmt: skip
    train_ids = kinds.pop()
    given = distinct(given)
    notes = ["train ids as they are" if train_ids else "the 34 ids of labelIds, mapped to the benchmark's 19 classes"]
    if "test" in given:
        notes.append("the test part's masks are dummies, as published, and are not read")
    return Dataset(
        root=tree.root,
        format="cityscapes",
        reader=FileReader(label_space(train_ids=train_ids)),
        records=unique_records(given),
        given=sort_splits(given),
        notes=notes,
        problems=pairing_problems(lone, strays),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(strays),
    )


def _read_base(tree: Tree, prefix: str, given: dict[str, list[Record]], lone: list[Path], strays: list[Path]) -> bool:
    """Add one tree's records and what does not pair; returns whether its masks hold train ids."""
    masks, train_ids = _masks(tree, prefix)
    unused = dict(masks)
    for split in tree.folder(f"{prefix}leftImg8bit").dirs:
        for _, listing in tree.walk(f"{prefix}leftImg8bit/{split}"):
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
    return train_ids


FORMAT = Format("cityscapes", "Cityscapes", "leftImg8bit/ and gtFine/", detect, open_cityscapes)

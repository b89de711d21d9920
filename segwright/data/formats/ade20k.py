"""ADE20K's scene parsing benchmark (Zhou et al. 2017): ``ADEChallengeData2016``, 150 classes, 0 = other, ignored.

``images/{training,validation}/ADE_train_00000001.jpg`` and ``annotations/…/….png``, whose values are 1…150.
"""

from __future__ import annotations

from pathlib import Path

from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.formats.base import SPLIT_NAMES, Format, distinct, pairing_problems, sort_splits, unique_records
from segwright.data.formats.file_tree import Tree, is_image, stem
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record

_NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, "
    "apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, "
    "conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, "
    "cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, "
    "blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, "
    "bulletin board, shower, radiator, glass, clock, flag"
)
CLASSES = tuple(_NAMES.split(", "))


def label_space() -> LabelSpace:
    """1…150 → 0…149, 0 (other) ignored."""
    return LabelSpace(CLASSES, mapping={0: IGNORE_INDEX, **{value: value - 1 for value in range(1, 151)}})


def _bases(tree: Tree) -> list[str]:
    """The folders that hold a tree: the root, or one or several in it."""
    if tree.is_file:
        return []
    found = []
    for relative, listing in tree.walk(depth=1):
        if not {"images", "annotations"} <= set(listing.dirs):
            continue
        prefix = f"{relative}/" if relative else ""
        for split in tree.folder(f"{prefix}images").dirs:
            files = tree.folder(f"{prefix}images/{split}").files
            if SPLIT_NAMES.get(split) and files and files[0].startswith("ADE_"):
                found.append(relative)
                break
    return found


def detect(tree: Tree) -> str | None:
    return "images and annotations with ADE_… names" if _bases(tree) else None


def open_ade20k(tree: Tree) -> Dataset:
    bases = _bases(tree)
    if not bases:
        raise FormatError(
            "no ADE20K tree",
            expected="images/training/ADE_train_….jpg and annotations/training/ADE_train_….png",
            found=tree.summary(),
            where=tree.root,
        )
    given: dict[str, list[Record]] = {}
    lone: list[Path] = []
    unused: list[Path] = []
    for prefix in (f"{base}/" if base else "" for base in bases):
        for split in tree.folder(f"{prefix}images").dirs:
            images, masks = tree.folder(f"{prefix}images/{split}"), tree.folder(f"{prefix}annotations/{split}")
            by_stem = {stem(name): Path(masks.path, name) for name in masks.files if is_image(name)}
            for name in filter(is_image, images.files):
                mask = by_stem.pop(stem(name), None)
                if mask is None and masks.files:
                    lone.append(Path(images.path, name))
                record = Record(stem(name), Path(images.path, name), mask)
                given.setdefault(SPLIT_NAMES.get(split, split), []).append(record)
            unused += by_stem.values()
    given = distinct(given)
    return Dataset(
        root=tree.root,
        format="ade20k",
        reader=FileReader(label_space()),
        records=unique_records(given),
        given=sort_splits(given),
        notes=["150 classes, file values 1 to 150; 0 (other) is ignored"],
        problems=pairing_problems(lone, unused),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(unused),
    )


FORMAT = Format("ade20k", "ADE20K", "images/training/ADE_train_….jpg and annotations/training/", detect, open_ade20k)

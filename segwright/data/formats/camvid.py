"""CamVid (Brostow et al. 2008) in both forms that people hold.

*Index*: SegNet's copy, 480×360, folders ``train/ trainannot/ val/ valannot/ test/ testannot/``, grayscale PNGs with
11 classes and 11 = unlabeled. Its lists name files by paths of the authors' machine, so images are found by name.
*Color*: the original, 960×720, ``701_StillsRaw_full`` and ``LabeledApproved_full`` (or any two folders of ``x.png``
and ``x_L.png``), 32 colors, grouped into the 11 classes of SegNet (Badrinarayanan et al. 2017) as published examples
do it: walls, bridges, tunnels and archways are building, cones pole, lane markings road, parking blocks and shoulders
pavement, trailers and trains car, prams and animals pedestrian, motorcycles bicyclist.
"""

from __future__ import annotations

import os
from pathlib import Path

from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.formats.base import Format, distinct, pairing_problems, sort_splits, unique_records
from segwright.data.formats.file_tree import Tree, is_image, read_ends, stem
from segwright.data.readers import ColorTable, FileReader
from segwright.data.records import Dataset, Record

CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

# The 32 colors of label_colors.txt, and the class that each is grouped into (None: void).
COLORS: dict[str, tuple[tuple[int, int, int], str | None]] = {
    "Animal": ((64, 128, 64), "pedestrian"),
    "Archway": ((192, 0, 128), "building"),
    "Bicyclist": ((0, 128, 192), "bicyclist"),
    "Bridge": ((0, 128, 64), "building"),
    "Building": ((128, 0, 0), "building"),
    "Car": ((64, 0, 128), "car"),
    "CartLuggagePram": ((64, 0, 192), "pedestrian"),
    "Child": ((192, 128, 64), "pedestrian"),
    "Column_Pole": ((192, 192, 128), "pole"),
    "Fence": ((64, 64, 128), "fence"),
    "LaneMkgsDriv": ((128, 0, 192), "road"),
    "LaneMkgsNonDriv": ((192, 0, 64), "road"),
    "Misc_Text": ((128, 128, 64), "sign"),
    "MotorcycleScooter": ((192, 0, 192), "bicyclist"),
    "OtherMoving": ((128, 64, 64), "car"),
    "ParkingBlock": ((64, 192, 128), "pavement"),
    "Pedestrian": ((64, 64, 0), "pedestrian"),
    "Road": ((128, 64, 128), "road"),
    "RoadShoulder": ((128, 128, 192), "pavement"),
    "Sidewalk": ((0, 0, 192), "pavement"),
    "SignSymbol": ((192, 128, 128), "sign"),
    "Sky": ((128, 128, 128), "sky"),
    "SUVPickupTruck": ((64, 128, 192), "car"),
    "TrafficCone": ((0, 0, 64), "pole"),
    "TrafficLight": ((0, 64, 64), "sign"),
    "Train": ((192, 64, 128), "car"),
    "Tree": ((128, 128, 0), "tree"),
    "Truck_Bus": ((192, 128, 192), "car"),
    "Tunnel": ((64, 0, 64), "building"),
    "VegetationMisc": ((192, 192, 0), "tree"),
    "Void": ((0, 0, 0), None),
    "Wall": ((64, 192, 0), "building"),
}
SPLITS = ("train", "val", "test")


def _label_space(mapping: dict[int, int]) -> LabelSpace:
    return LabelSpace(tuple(CLASSES), tuple(CLASSES.values()), mapping=mapping)


def index_label_space() -> LabelSpace:
    """0…10 as they are, 11 (unlabeled) ignored."""
    return _label_space({**{i: i for i in range(11)}, 11: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX})


def color_label_space() -> LabelSpace:
    """Rows of the 32 colors to the 11 classes."""
    names = list(CLASSES)
    return _label_space(
        {row: IGNORE_INDEX if group is None else names.index(group) for row, (_, group) in enumerate(COLORS.values())}
    )


def detect(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    if _index_splits(tree):
        listed = tree.has("train.txt") and _looks_like_segnet_list(tree.path(tree.find("train.txt") or ""))
        if listed or _camvid_names(tree):
            return "folders train and trainannot with CamVid's file names or lists (11-class index masks)"
    if _color_folders(tree) is not None:
        return "CamVid's names with _L.png color masks beside them (32 colors)"
    return None


def open_camvid(tree: Tree) -> Dataset:
    folders = _color_folders(tree)
    if folders is not None:
        return _open_color(tree, *folders)
    return _open_index(tree)


def _index_splits(tree: Tree) -> list[str]:
    dirs = {name.lower() for name in tree.folder().dirs}
    return [name for name in SPLITS if name in dirs and f"{name}annot" in dirs]


def _looks_like_segnet_list(path: Path) -> bool:
    line = read_ends(path, 4096).partition("\n")[0]
    return "trainannot/" in line and "CamVid" in line


def _camvid_names(tree: Tree) -> bool:
    prefixes = ("0001TP_", "0006R0_", "0016E5_", "Seq05VD_")
    for name in _index_splits(tree):
        files = tree.folder(tree.find(name) or name).files
        if files and all(file.startswith(prefixes) for file in files[:50]):
            return True
    return False


def _open_index(tree: Tree) -> Dataset:
    given: dict[str, list[Record]] = {}
    lone_images: list[Path] = []
    lone_masks: list[Path] = []
    for name in _index_splits(tree):
        images = tree.folder(tree.find(name) or name)
        masks = tree.folder(tree.find(f"{name}annot") or f"{name}annot")
        by_stem = {stem(file): file for file in masks.files if is_image(file)}
        given[name] = []
        for file in filter(is_image, images.files):
            mask = by_stem.pop(stem(file), None)
            image_path = Path(images.path, file)
            if mask is None:
                lone_images.append(image_path)
            given[name].append(Record(stem(file), image_path, None if mask is None else Path(masks.path, mask)))
        lone_masks += [Path(masks.path, file) for file in by_stem.values()]
    return Dataset(
        root=tree.root,
        format="camvid",
        reader=FileReader(index_label_space()),
        records=unique_records(given),
        given=sort_splits(given),
        notes=["CamVid's 11 classes as indices; 11 (unlabeled) is ignored; its lists are not needed, names pair"],
        problems=pairing_problems(lone_images, lone_masks),
        unpaired_images=tuple(lone_images),
        unpaired_masks=tuple(lone_masks),
    )


def _color_folders(tree: Tree) -> tuple[list[str], list[str]] | None:
    """(folders of images, folders of ``x_L.png`` masks), by CamVid's file names."""
    images, masks = [], []
    for relative, listing in tree.walk(depth=2):
        names = [file for file in listing.files if file.startswith(("0001TP_", "0006R0_", "0016E5_", "Seq05VD_"))]
        colored = sum(stem(file).endswith("_L") for file in names)
        if colored:
            masks.append(relative)
        if len(names) > colored:
            images.append(relative)
    return (images, masks) if images and masks else None


def _common_start(left: str, right: str) -> int:
    """How many folders two paths share from the root on."""
    count = 0
    for a, b in zip(left.split("/"), right.split("/"), strict=False):
        if a != b:
            break
        count += 1
    return count


def _open_color(tree: Tree, image_folders: list[str], mask_folders: list[str]) -> Dataset:
    masks: dict[str, dict[str, Path]] = {}  # name → folder → mask
    for relative in mask_folders:
        listing = tree.folder(relative)
        for file in listing.files:
            if stem(file).endswith("_L") and is_image(file):
                masks.setdefault(stem(file)[:-2], {})[relative] = Path(listing.path, file)
    records, lone = [], []
    places: dict[str, list[Record]] = {}
    for relative in image_folders:
        listing = tree.folder(relative)
        for file in listing.files:
            if not is_image(file) or stem(file).endswith("_L"):
                continue
            able = masks.get(stem(file), {})
            nearest = max(able, key=lambda folder: _common_start(folder, relative), default=None)
            mask = able.pop(nearest) if nearest is not None else None
            record = Record(stem(file), Path(listing.path, file), mask)
            records.append(record)
            if record.mask_path is None:
                lone.append(Path(listing.path, file))
            if os.path.basename(relative).lower() in SPLITS:
                places.setdefault(os.path.basename(relative).lower(), []).append(record)
    strays = [path for able in masks.values() for path in able.values()]
    unique = distinct({"": records})[""]
    new = {record.image_path: record for record in unique}
    given = {split: [new[record.image_path] for record in members] for split, members in places.items()}
    reader = FileReader(color_label_space(), ColorTable(tuple(color for color, _ in COLORS.values())))
    return Dataset(
        root=tree.root,
        format="camvid",
        reader=reader,
        records=tuple(unique),
        given=sort_splits(given),
        notes=["CamVid's 32 colors, grouped into 11 classes; a file value is a color's row in label_colors.txt"],
        problems=pairing_problems(lone, strays),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(strays),
    )


FORMAT = Format(
    "camvid",
    "CamVid",
    "train/ and trainannot/ with CamVid's names or lists, or x.png with x_L.png color masks",
    detect,
    open_camvid,
)

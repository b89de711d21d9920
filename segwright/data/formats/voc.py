"""PASCAL VOC's segmentation layout (Everingham et al. 2010), as the devkit unpacks or bare.

``JPEGImages``, ``SegmentationClass`` (palette PNGs, 21 classes, 255 = border and difficult) and the lists in
``ImageSets/Segmentation``. Where ``SegmentationClassAug`` lies beside them (the masks of SBD, Hariharan et al. 2011),
its ``trainaug`` list is a split, and its masks serve images that have no original one. A ``class_names.txt`` beside
the folders, as exporters of annotation tools write it, gives other classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.annotations.sparse import box_choices
from segwright.data.formats.base import SPLIT_NAMES, Format, distinct, pairing_problems, sort_splits
from segwright.data.formats.class_lists import choose
from segwright.data.formats.file_tree import Folder, Tree, is_image, read_text, stem
from segwright.data.formats.mask_encoding import MaskEncoding, encoding_of
from segwright.data.formats.mask_histogram import MaskValueHistogram, histogram_of_files, look_at
from segwright.data.formats.writing import OutputSample, split_names, write_classes
from segwright.data.mask_files import MaskSource
from segwright.data.readers import ColorTable, FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import write_bytes

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
BORDER: Color = (224, 224, 192)
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
_ORIGINAL_NAME = re.compile(r"(?:19|20)\d\d_\d{6}$")
AUGMENTED_FOLDERS = ("SegmentationClassAug", "SegmentationClassTrainAug", "SegmentationAug")


def voc_colors(count: int = 21) -> tuple[Color, ...]:
    """VOC's palette: the bits of the index dealt out to red, green and blue, the highest first."""
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


def voc_label_space() -> LabelSpace:
    return LabelSpace(
        CLASSES, voc_colors(), mapping={**{i: i for i in range(len(CLASSES))}, IGNORE_INDEX: IGNORE_INDEX}
    )


@dataclass
class _Part:
    """One year's tree."""

    base: str
    images: Folder
    masks: dict[str, Path] = field(default_factory=dict)
    originals: int = 0
    lists: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def _bases(tree: Tree) -> list[str]:
    """Folders under the root that hold JPEGImages and masks: the root, VOC2012, VOCdevkit/VOC2012, …"""
    found = []
    for relative, listing in tree.walk(depth=2):
        dirs = set(listing.dirs)
        if "JPEGImages" in dirs and dirs & {*MASK_FOLDERS, *AUGMENTED_FOLDERS}:
            found.append(relative)
    return found


def detect(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    bases = _bases(tree)
    return f"JPEGImages and SegmentationClass in {', '.join(base or '.' for base in bases)}" if bases else None


def hint(tree: Tree) -> FormatError | None:
    """The error for VOC's detection data: XML with boxes, and no masks."""
    for relative, listing in () if tree.is_file else tree.walk(depth=2):
        if {"JPEGImages", "Annotations"} <= set(listing.dirs):
            return FormatError(
                "these are boxes, not masks: VOC's annotations for detection",
                expected="SegmentationClass/ with a mask per image",
                found="Annotations/ and no SegmentationClass/",
                where=Path(tree.path(relative)),
                fix=f"unpack the masks, too; {box_choices()}",
            )
    return None


def open_voc(tree: Tree) -> Dataset:
    parts = [_read_part(tree, base) for base in _bases(tree)]
    if not parts:
        raise FormatError(
            "no PASCAL VOC tree",
            expected="JPEGImages/ and SegmentationClass/",
            found=tree.summary(),
            where=tree.root,
        )
    records: dict[str, Record] = {}
    given: dict[str, list[Record]] = {}
    lone_images: list[Path] = []
    lone_masks: list[Path] = []
    missing: list[str] = []
    notes: list[str] = []
    for part in parts:
        images = {stem(name): Path(part.images.path, name) for name in part.images.files if is_image(name)}
        listed = {name for names in part.lists.values() for name in names}
        for name, path in images.items():
            if name in part.masks or name in listed or not part.lists:
                records[name if len(parts) == 1 else f"{part.base}/{name}"] = Record(name, path, part.masks.get(name))
        if not part.lists:
            lone_images += [path for name, path in images.items() if name not in part.masks]
        elif len(images) > len(listed | part.masks.keys()):
            notes.append(f"{counted(len(images), 'image', 'is')} there; those with masks or in the lists are used")
        lone_masks += [path for name, path in part.masks.items() if name not in images]
        missing += sorted(listed - images.keys())
        for split, names in part.lists.items():
            keys = [name if len(parts) == 1 else f"{part.base}/{name}" for name in names]
            given.setdefault(split, []).extend(records[key] for key in keys if key in records)
    # Two trees may hold other images under the same names; VOC's own years do not.
    unique = distinct({"": list(records.values())})[""]
    new = {record.image_path: record for record in unique}
    records = {record.id: record for record in unique}
    given = {split: [new[record.image_path] for record in members] for split, members in given.items()}
    coding = _coding(tree, parts, records)
    problems = [*(one for part in parts for one in part.problems), *pairing_problems(lone_images, lone_masks)]
    if missing:
        message = f"{len(missing)} names in the lists have no image"
        problems.append(Problem("warning", "listed but missing", message, tuple(missing), "correct the lists"))
    return Dataset(
        root=tree.root,
        format="voc",
        reader=FileReader(coding.label_space, coding.color_table, source=coding.source),
        records=tuple(records.values()),
        given=sort_splits(given),
        notes=[*notes, *coding.notes],
        problems=[*problems, *coding.problems],
        unpaired_images=tuple(lone_images),
        unpaired_masks=tuple(lone_masks),
    )


def _read_part(tree: Tree, base: str) -> _Part:
    prefix = f"{base}/" if base else ""
    part = _Part(base, tree.folder(f"{prefix}JPEGImages"))
    for folders in (AUGMENTED_FOLDERS, MASK_FOLDERS):  # the original masks, with their borders, win
        for name in folders:
            listing = tree.folder(prefix + name)
            part.masks |= {stem(file): Path(listing.path, file) for file in listing.files if is_image(file)}
    lists = tree.folder(f"{prefix}ImageSets/Segmentation")
    bare = not any(name.endswith(".txt") for name in lists.files)
    if bare:  # Aeroscapes: ImageSets/trn.txt
        lists = tree.folder(f"{prefix}ImageSets")
    images = {stem(file) for file in part.images.files}
    hashes = any(name.startswith("#") for name in images)
    for name in lists.files:
        if not name.endswith(".txt"):
            continue
        try:
            text = read_text(Path(lists.path, name))
        except DataError as error:
            files = (str(Path(lists.path, name)),)
            part.problems.append(Problem("warning", "list not read", f"{name}: {error.message}", files, error.fix))
            continue
        lines = [line.strip() for line in text.splitlines()]
        split = SPLIT_NAMES.get(stem(name).lower(), stem(name)) if bare else stem(name)
        meant = [_listed_name(line, images, hashes) for line in lines if line]
        part.lists[split] = [name for name in meant if name is not None]
    return part


def _listed_name(line: str, images: set[str], hashes: bool) -> str | None:
    """The image that a line means: the line itself, else its first column, as a name or as a path.

    ``hashes``: whether images begin with a hash, and not comments.
    """
    if line in images:
        return line
    if line.startswith("#") and not hashes:
        return None  # a comment
    return os.path.splitext(os.path.basename(line.split()[0]))[0]


def _coding(tree: Tree, parts: list[_Part], records: dict[str, Record]) -> MaskEncoding:
    folders = [tree.folder(base) for part in parts for base in (part.base, os.path.dirname(part.base), "")]
    masks = [record.mask_path for record in records.values() if record.mask_path is not None]
    seen = histogram_of_files(masks, look_at, 6_000_000)
    classes, problems = choose(folders, set(seen.values), set(seen.colors) | set(seen.palette_colors))
    if classes is not None:
        coding = encoding_of(seen, classes, tree.root)
        return replace(coding, problems=(*problems, *coding.problems))
    original = all(_ORIGINAL_NAME.match(os.path.basename(name)) for name in list(records)[:200])
    guess = Problem(
        "warning", "classes guessed", "no class list, and the masks' values are among VOC's: read as VOC's 21 classes",
        fix="name the classes in class_names.txt, a name per line, if they are others",
    )  # fmt: skip
    found = (*problems, *(() if original else (guess,)))
    known = {_packed(color) for color in (*voc_colors(), BORDER)}
    if seen.colors and (original or set(seen.colors) | set(seen.palette_colors) <= known):
        space = LabelSpace(CLASSES, voc_colors(), mapping={**{i: i for i in range(21)}, 21: IGNORE_INDEX})
        source: MaskSource = "colors" if seen.palette_files else "values"
        note = "masks hold VOC's colors; the border is ignored"
        return MaskEncoding(space, ColorTable((*voc_colors(), BORDER)), (note,), found, source)
    if not seen.colors and (original or (_vocs_palette(seen) and set(seen.values) <= {*range(21), IGNORE_INDEX})):
        return MaskEncoding(voc_label_space(), notes=("VOC's 21 classes; 255 (border) is ignored",), problems=found)
    coding = encoding_of(seen, None, tree.root)
    return replace(coding, problems=(*problems, *coding.problems))


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _vocs_palette(seen: MaskValueHistogram) -> bool:
    """Whether the palettes, where there are any, give each index VOC's color or the gray of its number."""
    table = voc_colors(256)
    return all(
        kinds <= {_packed(table[index]), index * 0x010101, _packed(BORDER)}
        for index, kinds in seen.index_colors.items()
        if index < 256
    )


def write_voc(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """JPEGImages, SegmentationClass, ImageSets/Segmentation, classes.csv."""
    palette = dataset.label_space.palette()
    names: dict[str, str] = {}
    for sample in samples:
        data, ending = sample.image
        names[sample.record.id] = sample.name
        write_bytes(out / "JPEGImages" / f"{sample.name}{ending}", data)
        mask = sample.mask_png(palette)
        if mask is not None:
            write_bytes(out / "SegmentationClass" / f"{sample.name}.png", mask)
    for split, records in dataset.given.items():
        split = split_names(dataset)[split]
        lines = "".join(f"{names[record.id]}\n" for record in records)
        write_bytes(out / "ImageSets" / "Segmentation" / f"{split}.txt", lines.encode())
    write_classes(dataset, out)


FORMAT = Format(
    "voc",
    "PASCAL VOC",
    "JPEGImages/ and SegmentationClass/ (bare, or in VOCdevkit/VOC2012)",
    detect,
    open_voc,
    hint,
    writer=write_voc,
)

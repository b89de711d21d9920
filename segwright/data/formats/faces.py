"""Published datasets of faces and outdoors: CelebAMask-HQ, LFW part labels, Freiburg Forest.

CelebAMask-HQ (Lee et al. 2020): 30,000 images of 1024×1024 by number, and up to 18 masks of 512×512 for each in 15
folders (``00000_hair.png``); its own script draws them in a fixed order, later over earlier. LFW part labels (Kae et
al. 2013): red hair, green face, blue background in PPM files. Freiburg Forest (Valada et al. 2016): colors, paired by
the number in the name.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import Color, LabelSpace
from segwright.data.annotations.rasterize import RasterizedReader, Region, paint
from segwright.data.formats.base import Format
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.multi_mask import read_binary
from segwright.data.formats.published_layout import PHOTO, Layout, Place, assemble, by_color
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import UInt8Array

# The order is that of the numbers, and of the drawing.
_PARTS = "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth"
PARTS = tuple(_PARTS.split())
_MASK = re.compile(r"(\d+)_([a-z_]+)\.png$")
_IMAGE = re.compile(r"(\d+)\.(?:jpe?g|png)$")


@dataclass
class PartsReader(RasterizedReader):
    """``payload`` of a record: (path, class index) of its masks in the order of the drawing."""

    def draw(self, record: Record) -> UInt8Array:
        height, width = self.size(record)
        regions = []
        for path, index in record.payload:
            mask = read_binary(path, self.limits)
            if mask.shape != (height, width):
                down, across = mask.shape
                if height % down or width % across or height // down != width // across:
                    raise LabelError(
                        "a mask is neither of its image's size nor of an even part of it",
                        expected=f"{width}×{height} (width×height), or half of it",
                        found=f"{across}×{down}",
                        where=path,
                        fix="unpack the masks again",
                    )
                mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
            regions.append(Region(index, np.asarray(mask, bool)))
        return paint(regions, height, width, 0)


def _mask_folders(tree: Tree) -> list[str]:
    """Folders that hold masks by number and part."""
    found = []
    for relative, listing in () if tree.is_file else tree.walk(depth=4):
        names = [match[2] for match in map(_MASK.match, listing.files[:40]) if match is not None]
        if len(set(names) & set(PARTS)) >= 2 or (names and "mask-anno" in relative):
            found.append(relative)
    return found


def _celeba_images(tree: Tree) -> dict[int, Path]:
    """Number → image, from a folder called CelebA-HQ-img, else from any with names that are numbers alone."""
    folders = [(relative, listing) for relative, listing in tree.walk(depth=4) if any(map(_IMAGE.match, listing.files))]
    named = [item for item in folders if re.search(r"celeba.*hq.*img|images?$", item[0], re.I)]
    found: dict[int, Path] = {}
    for _, listing in named or folders:
        for name in listing.files:
            match = _IMAGE.match(name)
            if match is not None:
                if int(match[1]) in found:
                    raise FormatError(
                        "two images of one number", expected="CelebA-HQ-img/0.jpg … 29999.jpg once",
                        found=f"{found[int(match[1])]} and {Path(listing.path, name)}", where=tree.root,
                        fix="open the folder of one copy",
                    )  # fmt: skip
                found[int(match[1])] = Path(listing.path, name)
    return found


def recognize_celeba(tree: Tree) -> str | None:
    folders = _mask_folders(tree)
    return f"masks by number and part of a face in {len(folders)} folders" if folders and _celeba_images(tree) else None


def open_celeba(tree: Tree) -> Dataset:
    folders = _mask_folders(tree)
    images = _celeba_images(tree) if folders else {}
    if not folders or not images:
        raise FormatError(
            "no CelebAMask-HQ tree",
            expected="CelebA-HQ-img/0.jpg and CelebAMask-HQ-mask-anno/0/00000_hair.png",
            found=tree.summary(),
            where=tree.root,
        )
    masks: dict[int, dict[str, Path]] = {}
    unknown: Counter[str] = Counter()
    for relative in folders:
        listing = tree.folder(relative)
        for name in listing.files:
            match = _MASK.match(name)
            if match is None:
                continue
            if match[2] not in PARTS:
                unknown[match[2]] += 1
                continue
            place = masks.setdefault(int(match[1]), {})
            if match[2] in place:
                raise FormatError(
                    "two masks of one part of one image", expected="each part once",
                    found=f"{place[match[2]]} and {Path(listing.path, name)}", where=tree.root,
                    fix="open the folder of one copy",
                )  # fmt: skip
            place[match[2]] = Path(listing.path, name)
    numbers = sorted(images)
    payloads = [
        tuple((masks[n][part], index) for index, part in enumerate(PARTS, 1) if part in masks[n])
        if n in masks
        else None
        for n in numbers
    ]
    problems = []
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        problems.append(
            Problem("warning", "objects lost", f"masks of parts that are no class of CelebAMask-HQ: {listed}", (), None)
        )
    lone = [path for n in sorted(masks.keys() - images.keys()) for path in masks[n].values()]
    return assemble(
        tree,
        "celebamask_hq",
        [(None, images[n], None) for n in numbers],
        PartsReader(LabelSpace(("background", *PARTS))),
        [
            "19 classes; the parts are drawn in the order of the set's own script, later over earlier",
            "masks of half the image's size are doubled",
        ],
        problems,
        lone,
        payloads,
    )


CELEBA = Format(
    "celebamask_hq",
    "CelebAMask-HQ",
    "CelebA-HQ-img/0.jpg and CelebAMask-HQ-mask-anno/0/00000_hair.png",
    recognize_celeba,
    open_celeba,
)

LFW_CLASSES: dict[str, Color] = {"background": (0, 0, 255), "hair": (255, 0, 0), "face": (0, 255, 0)}


class _Lfw(Layout):
    """13,233 images lie there and 2,927 have masks: the others are no finding."""

    def open(self, tree: Tree) -> Dataset:
        dataset = super().open(tree)
        kept = tuple(record for record in dataset.records if record.mask_path is not None)
        if len(kept) < len(dataset.records):
            dataset.notes.append(
                f"{counted(len(dataset.records), 'image', 'is')} there, the {len(kept)} with part labels are used"
            )
            dataset.records, dataset.unpaired_images = kept, ()
            dataset.problems = [p for p in dataset.problems if p.kind != "image without mask"]
        return dataset


LFW = _Lfw(
    "lfw_parts",
    "LFW part labels",
    "lfw_funneled/Name/Name_0001.jpg and parts_lfw_funneled_gt_images/Name_0001.ppm",
    (Place(r"(?!.*gt_images).*", rf"(?P<key>[^.]+_\d{{4}})\.{PHOTO}"),),
    (Place(r"[^/]*parts_lfw[^/]*gt_images", r"(?P<key>[^.]+_\d{4})\.(?:ppm|png)"),),
    by_color(LFW_CLASSES, notes=("red is hair, green is face, blue is background",)),
).format()

FOREST_CLASSES: dict[str, Color] = {
    "trail": (170, 170, 170),
    "grass": (0, 255, 0),
    "vegetation": (102, 102, 51),
    "tree": (0, 60, 0),
    "sky": (0, 120, 255),
    "obstacle": (0, 0, 0),
}
FOREST = Layout(
    "freiburg_forest",
    "Freiburg Forest",
    "train/rgb/b1-09517_Clipped.jpg and train/GT_color/b1-09517_mask.png",
    (Place(r"(?:(?P<split>train|val|test)/)?rgb", rf"(?P<key>[^_.]+)(?:_[^.]*)?\.{PHOTO}"),),
    (Place(r"(?:(?P<split>train|val|test)/)?GT_color", r"(?P<key>[^_.]+)(?:_[^.]*)?\.png"),),
    by_color(
        FOREST_CLASSES,
        {"void": (255, 255, 255)},
        notes=("Freiburg Forest's six colors (trees apart from other vegetation); white is ignored",),
    ),
    {
        "other modalities": Place(r"(?:nir|nrg|ndvi|evi|depth)_?\w*", rf".+\.{PHOTO}"),
    },
).format()

FORMATS = (CELEBA, LFW, FOREST)

"""Published datasets from the air: ISPRS Potsdam and Vaihingen, iSAID, the Semantic Drone Dataset, Dubai.

ISPRS's masks are colors; the copies called ``noBoundary`` have black outlines, which the benchmark does not score. Of
Potsdam's ortho-photos the RGB ones are read. iSAID (Zamir et al. 2019) gives each image a mask of colors and one of
instance ids. The Dubai set's ``classes.json`` names colors that its masks do not hold; they are those below.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from segwright.core.errors import LabelError
from segwright.core.types import IGNORE_INDEX, Color
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.geotiff import GeoTiffReader, cut_into_tiles, look_at_mask
from segwright.data.formats.mask_encoding import MaskEncoding, encoding_of, infer_encoding
from segwright.data.formats.mask_histogram import histogram_of_files
from segwright.data.formats.published_layout import PHOTO, Found, Key, Layout, Place, color_coding, indices
from segwright.data.label_maps import read_class_list
from segwright.data.mask_files import read_mask_file
from segwright.data.readers import ColorTable
from segwright.data.records import Dataset

# --- ISPRS

ISPRS_CLASSES: dict[str, Color] = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}
_BOUNDARY = {"boundary": (0, 0, 0)}
_POTSDAM = (
    "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12"
)
_VAIHINGEN = "1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37"
_TRAIN = {"isprs_potsdam": frozenset(_POTSDAM.split()), "isprs_vaihingen": frozenset(_VAIHINGEN.split())}
_TIF = r"\.(?:tiff?|png)"


class _Isprs(Layout):
    """Splits are the benchmark's where the tiles of its training part are here."""

    def split_of(self, key: Key) -> str | None:
        return key[0] or ("train" if key[2].lstrip("0") in _TRAIN[self.name] else "test")

    def open(self, tree: Tree) -> Dataset:
        dataset = super().open(tree)
        labeled = [r for r in dataset.given.get("train", ()) if r.mask_path is not None]
        if not labeled:
            dataset.given = {}
        return cut_into_tiles(dataset)


def _isprs(tree: Tree, found: Found) -> MaskEncoding:
    masks = found.masks
    seen = histogram_of_files(masks, look_at_mask, 12_000_000)
    if seen.values and not seen.colors:
        if set(seen.values) <= {*range(7), IGNORE_INDEX}:  # reduced to indices by a converter
            first = 1 if 6 in seen.values else 0
            ignored = (0, IGNORE_INDEX) if first else (IGNORE_INDEX,)
            origin = "masks reduced to indices: the six classes in the benchmark's order, from"
            return indices(
                tuple(ISPRS_CLASSES), tuple(ISPRS_CLASSES.values()), first=first, ignored=ignored,
                notes=(f"{origin} {first}{'; 0 (boundary) is ignored' if first else ''}",),
            )(tree, found)  # fmt: skip
        return encoding_of(seen, None, tree.root)
    note = "ISPRS's six colors; black (the eroded outlines of noBoundary) is ignored"
    return color_coding(ISPRS_CLASSES, _BOUNDARY, (note,))


POTSDAM = _Isprs(
    "isprs_potsdam",
    "ISPRS Potsdam",
    "2_Ortho_RGB/top_potsdam_2_10_RGB.tif and 5_Labels_all/top_potsdam_2_10_label.tif",
    (
        Place(r"[^/]*", rf"top_potsdam_(?P<key>\d+_\d+)_RGB{_TIF}"),
        Place(r"[^/]*", rf"top_potsdam_(?P<key>\d+_\d+)_IRRG{_TIF}"),
        Place(r"[^/]*", rf"top_potsdam_(?P<key>\d+_\d+)_RGBIR{_TIF}"),
    ),
    (
        Place(r"[^/]*", rf"top_potsdam_(?P<key>\d+_\d+)_label{_TIF}"),
        Place(r"[^/]*", rf"top_potsdam_(?P<key>\d+_\d+)_label_noBoundary{_TIF}"),
    ),
    _isprs,
    {
        "IRRG": Place(r"[^/]*", rf"top_potsdam_\d+_\d+_IRRG{_TIF}"),
        "RGBIR": Place(r"[^/]*", rf"top_potsdam_\d+_\d+_RGBIR{_TIF}"),
        "eroded masks (noBoundary)": Place(r"[^/]*", rf"top_potsdam_\d+_\d+_label_noBoundary{_TIF}"),
        "heights": Place(r"[^/]*", rf"dsm_potsdam_.*{_TIF}"),
    },
    GeoTiffReader,
).format()

_AREA = r"top_mosaic_09cm_area(?P<key>\d+)"
VAIHINGEN = _Isprs(
    "isprs_vaihingen",
    "ISPRS Vaihingen",
    "top/top_mosaic_09cm_area1.tif and gts_for_participants/top_mosaic_09cm_area1.tif",
    (Place(r"(?!gts?(?:_|$)|.*(?:ground_truth|label|mask|annot|COMPLETE)).*", _AREA + _TIF),),
    (
        Place(r"(?:gts?(?:_[^/]*)?|[^/]*(?:ground_truth|label|mask|annot|COMPLETE)[^/]*)", _AREA + _TIF),
        Place(r"[^/]*", _AREA + "_noBoundary" + _TIF),
    ),
    _isprs,
    {
        "eroded masks (noBoundary)": Place(r"[^/]*", r"top_mosaic_09cm_area\d+_noBoundary" + _TIF),
        "heights": Place(r"[^/]*", r"dsm_09cm_.*" + _TIF),
    },
    GeoTiffReader,
).format()

# --- iSAID

ISAID_CLASSES: dict[str, Color] = {
    "background": (0, 0, 0),
    "ship": (0, 0, 63),
    "storage tank": (0, 63, 63),
    "baseball diamond": (0, 63, 0),
    "tennis court": (0, 63, 127),
    "basketball court": (0, 63, 191),
    "ground track field": (0, 63, 255),
    "bridge": (0, 127, 63),
    "large vehicle": (0, 127, 127),
    "small vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191),
    "swimming pool": (0, 0, 255),
    "roundabout": (0, 191, 127),
    "soccer ball field": (0, 127, 191),
    "plane": (0, 127, 255),
    "harbor": (0, 100, 155),
}
_FOLDER = r"(?:(?P<split>train|val|test)(?:/[^/]+)*|[^/]*)"
_TILE = r"(?P<key>P\d{4}(?:_\d+){0,4})"


def _isaid(tree: Tree, found: Found) -> MaskEncoding:
    masks = found.masks
    seen = histogram_of_files(masks, partial(read_mask_file, source="colors"), 12_000_000)
    if seen.values and not seen.colors and set(seen.values) <= {*range(16), IGNORE_INDEX} and len(seen.values) > 1:
        note = "masks reduced to indices by a converter: iSAID's 15 classes and background in their usual order"
        return indices(tuple(ISAID_CLASSES), tuple(ISAID_CLASSES.values()), notes=(note,))(tree, found)
    return color_coding(ISAID_CLASSES, {}, ("iSAID's 15 classes by color; black is background",))


ISAID = Layout(
    "isaid",
    "iSAID",
    "P0001.png and P0001_instance_color_RGB.png",
    (Place(_FOLDER, _TILE + r"\.png"),),
    (Place(_FOLDER, _TILE + r"_instance_color_RGB\.png"),),
    _isaid,
    {"instance ids": Place(r"[^/]*", r"P\d{4}(?:_\d+){0,4}_instance_id_RGB\.png")},
).format()

# --- Semantic Drone Dataset and Dubai: colors of a list, in folders of their own

DUBAI_CLASSES: dict[str, Color] = {
    "Building": (0x3C, 0x10, 0x98),
    "Land (unpaved area)": (0x84, 0x29, 0xF6),
    "Road": (0x6E, 0xC1, 0xE4),
    "Vegetation": (0xFE, 0xDD, 0x3A),
    "Water": (0xE2, 0xA9, 0x29),
}
_UNLABELED = {"Unlabeled": (0x9B, 0x9B, 0x9B)}


def _list_of(tree: Tree, *names: str) -> Path | None:
    for _, listing in tree.walk(depth=3):
        lower = {name.lower(): name for name in listing.files}
        for name in names:
            if name in lower:
                return Path(listing.path, lower[name])
    return None


def _colors_of(masks: Sequence[Path]) -> set[Color]:
    seen = histogram_of_files(masks, partial(read_mask_file, source="colors"), 12_000_000)
    gray = {(v, v, v) for v in seen.values if v < 256}
    return gray | {(c >> 16, c >> 8 & 255, c & 255) for c in seen.colors}


def _dubai(tree: Tree, found: Found) -> MaskEncoding:
    colors = _colors_of(found.masks)
    path = _list_of(tree, "classes.json")
    listed = read_class_list(path) if path is not None else None
    if listed is not None and listed.colors is not None and colors <= set(listed.colors):
        return MaskEncoding(
            listed.label_space(by_row=True), ColorTable(listed.colors), tuple(listed.notes()), source="colors"
        )
    known = {*DUBAI_CLASSES.values(), *_UNLABELED.values()}
    if colors <= known:
        notes = ["the Dubai set's five classes by the colors of its masks; gray (Unlabeled) is ignored"]
        if listed is not None:
            notes.append("the colors in its classes.json are not those of its masks, and are not used")
        return color_coding(DUBAI_CLASSES, _UNLABELED, notes)
    stray = sorted(colors - known)[:6]
    raise LabelError(
        "colors that neither the Dubai set nor a class list beside the masks names",
        expected=", ".join("#{:02x}{:02x}{:02x}".format(*c) for c in sorted(known)),
        found=", ".join("#{:02x}{:02x}{:02x}".format(*c) for c in stray),
        where=tree.root,
        fix="name the colors in classes.json (title and color), or read it as --format folder",
    )


DUBAI = Layout(
    "dubai_aerial",
    "Semantic segmentation of aerial imagery (Dubai)",
    "Tile 1/images/image_part_001.jpg, Tile 1/masks/image_part_001.png and classes.json",
    (Place(r"(?P<scope>Tile \d+)/images", r"(?P<key>image_part_\d+)\.(?:jpe?g|png)"),),
    (Place(r"(?P<scope>Tile \d+)/masks", r"(?P<key>image_part_\d+)\.png"),),
    _dubai,
).format()


class _Drone(Layout):
    """Semantic Drone: of the two forms of the masks the indices are read, which need no table."""

    def detect(self, tree: Tree) -> str | None:
        listed = None if tree.is_file else _list_of(tree, "class_dict_seg.csv")
        folders = [] if tree.is_file else [path.rpartition("/")[2] for path, _ in tree.walk(depth=4)]
        if listed is None and "label_images_semantic" not in folders:
            return None
        return super().detect(tree)


def _drone(tree: Tree, found: Found) -> MaskEncoding:
    path = _list_of(tree, "class_dict_seg.csv", "class_dict.csv")
    return infer_encoding(found.masks, read_class_list(path) if path is not None else None, tree.root)


DRONE = _Drone(
    "semantic_drone",
    "Semantic Drone Dataset",
    "original_images/000.jpg, label_images_semantic/000.png and class_dict_seg.csv",
    (Place(r"original_images", rf"(?P<key>\d+)\.{PHOTO}"),),
    (
        Place(r"label_images_semantic", r"(?P<key>\d+)\.png"),
        Place(r"RGB_color_image_masks", r"(?P<key>\d+)\.png"),
    ),
    _drone,
    {"colored masks of the same": Place(r"RGB_color_image_masks", r"\d+\.png")},
).format()

FORMATS = (POTSDAM, VAIHINGEN, ISAID, DUBAI, DRONE)

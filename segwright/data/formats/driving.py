"""Published datasets of streets: Mapillary Vistas, BDD100K, KITTI semantics, CARLA, SYNTHIA, fastai's CamVid.

Vistas (Neuhold et al. 2017): class names and colors from ``config*.json``, else the 66 of version 1.2. BDD100K (Yu et
al. 2020) and KITTI (Alhaija et al. 2018) have Cityscapes' classes, as train ids and as label ids. CARLA's cameras put
the class into the red channel; SYNTHIA (Ros et al. 2016) into the first of three channels of 16 bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.formats import cityscapes
from segwright.data.formats.file_tree import Tree, read_text
from segwright.data.formats.mask_encoding import MaskEncoding
from segwright.data.formats.mask_histogram import histogram_of_files
from segwright.data.formats.name_matching import find_class_list
from segwright.data.formats.published_layout import PHOTO, Found, Layout, Place, indices
from segwright.data.label_maps import FILE_NAMES, generated_name, read_class_list
from segwright.data.readers import FileReader
from segwright.data.records import Record
from segwright.imageio import read_mask, read_raster

_PART = r"(?P<split>training|validation|testing|train|val|test)"
MAX_CONFIG = 4_000_000  # bytes

# Vistas 1.2: name, color; the values are 0, 1, 2, …
_VISTAS = (
    "Bird a52a2a, Ground Animal 00c000, Curb c4c4c4, Fence be9999, Guard Rail b4a5b4, Barrier 5a7896, Wall 66669c, "
    "Bike Lane 8040ff, Crosswalk - Plain 8c8cc8, Curb Cut aaaaaa, Parking faaaa0, Pedestrian Area 606060, "
    "Rail Track e6968c, Road 804080, Service Lane 6e6e6e, Sidewalk f423e8, Bridge 966464, Building 464646, "
    "Tunnel 96785a, Person dc143c, Bicyclist ff0000, Motorcyclist ff0064, Other Rider ff00c8, "
    "Lane Marking - Crosswalk c88080, Lane Marking - General ffffff, Mountain 40aa40, Sand e6a032, Sky 4682b4, "
    "Snow beffff, Terrain 98fb98, Vegetation 6b8e23, Water 00aa1e, Banner ffff80, Bench fa001e, Bike Rack 648cb4, "
    "Billboard dcdcdc, Catch Basin dc8080, CCTV Camera de2828, Fire Hydrant 64aa1e, Junction Box 282828, "
    "Mailbox 212121, Manhole 6480a0, Phone Booth 8e0000, Pothole 466496, Street Light d2aa64, Pole 999999, "
    "Traffic Sign Frame 808080, Utility Pole 000050, Traffic Light faaa1e, Traffic Sign (Back) c0c0c0, "
    "Traffic Sign (Front) dcdc00, Trash Can 8c8c14, Bicycle 770b20, Boat 9600ff, Bus 003c64, Car 00008e, "
    "Caravan 00005a, Motorcycle 0000e6, On Rails 005064, Other Vehicle 804040, Trailer 00006e, Truck 000046, "
    "Wheeled Slow 0000c0, Car Mount 202020, Ego Vehicle 780a0a, Unlabeled 000000"
)
_CARLA_NAMES = (
    "none, building, fence, other, pedestrian, pole, road line, road, sidewalk, vegetation, vehicle, wall, traffic sign"
)
_CARLA = tuple(_CARLA_NAMES.split(", "))
_SYNTHIA_NAMES = (
    "sky, building, road, sidewalk, fence, vegetation, pole, car, traffic sign, pedestrian, bicycle, motorcycle, "
    "parking slot, road work, traffic light, terrain, rider, truck, bus, train, wall, lane marking"
)


def named_colors(text: str) -> dict[str, Color]:
    """``"Bird a52a2a, Curb c4c4c4"`` to name → color."""
    found: dict[str, Color] = {}
    for item in text.split(", "):
        name, _, code = item.rpartition(" ")
        found[name] = (int(code[0:2], 16), int(code[2:4], 16), int(code[4:6], 16))
    return found


# --- Mapillary Vistas


def _vistas_config(tree: Tree, version: str) -> Path | None:
    """config_v1.2.json (or config.json of older copies) within the root's first levels."""
    wanted = [f"config_v{version}.json", *(["config.json"] if version == "1.2" else [])]
    for _, listing in () if tree.is_file else tree.walk(depth=2):
        for name in wanted:
            if name in listing.files:
                return Path(listing.path, name)
    return None


def _vistas_coding(version: str) -> Any:
    def coding(tree: Tree, found: Found) -> MaskEncoding:
        path = _vistas_config(tree, version)
        other = "2.0" if version == "1.2" else "1.2"
        notes = [f"the other version's masks are here too: --format mapillary_{other} reads them"] * _has(tree, other)
        if path is not None:
            return _from_config(path, notes)
        if version != "1.2":
            raise FormatError(
                "the class names of Mapillary Vistas 2.0 are not here",
                expected="config_v2.0.json of the download, above training/",
                found=tree.summary(),
                where=tree.root,
                fix="copy it there, or read the masks of version 1.2 with --format mapillary_1.2",
            )
        known = named_colors(_VISTAS)
        names = [name for name in known if name != "Unlabeled"]
        notes.insert(0, "config_v1.2.json is not here: the 65 class names of version 1.2; 65 (Unlabeled) is ignored")
        return indices(names, [known[n] for n in names], ignored=(65, IGNORE_INDEX), notes=notes)(tree, found)

    return coding


def _has(tree: Tree, version: str) -> bool:
    return not tree.is_file and any(re.search(rf"(?:^|/)v{version}/labels$", path) for path, _ in tree.walk(depth=4))


def _from_config(path: Path, notes: Sequence[str]) -> MaskEncoding:
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"{path.stat().st_size} bytes")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        labels: list[Mapping[str, Any]] = data["labels"]
        readable_names = [str(label.get("readable") or label["name"]) for label in labels]
        names = [
            n if readable_names.count(n) == 1 else str(label["name"])
            for n, label in zip(readable_names, labels, strict=True)
        ]
        colors: list[Color] = [(int(c[0]), int(c[1]), int(c[2])) for c in (label["color"] for label in labels)]
        skipped = {i for i, label in enumerate(labels) if label.get("evaluate") is False}
    except (
        OSError,
        ValueError,
        OverflowError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
    ) as error:
        raise LabelError(
            "not the class list of Mapillary Vistas", expected="an object with a list of labels", found=repr(error),
            where=path, fix="copy it from the download again",
        ) from error  # fmt: skip
    if len(skipped) == len(names):
        skipped = set()
    kept = [i for i in range(len(names)) if i not in skipped]
    mapping = {IGNORE_INDEX: IGNORE_INDEX, **dict.fromkeys(skipped, IGNORE_INDEX)}
    mapping |= {value: place for place, value in enumerate(kept)}
    space = LabelSpace(tuple(names[i] for i in kept), tuple(colors[i] for i in kept), mapping=mapping)
    class_notes = [f"{path.name} names {counted(len(kept), 'class')}"]
    if skipped:
        class_notes.append(f"not evaluated there, and ignored: {', '.join(names[i] for i in sorted(skipped))}")
    return MaskEncoding(space, notes=(*class_notes, *notes))


class _Vistas(Layout):
    """Mapillary Vistas; a bare ``labels`` folder counts only beside its class list."""

    def detect(self, tree: Tree) -> str | None:
        version = self.name.rpartition("_")[2]
        if not _has(tree, version) and _vistas_config(tree, version) is None:
            return None
        return super().detect(tree)


def _vistas(version: str, folders: Sequence[str]) -> Layout:
    other = {"instances": "instances", "panoptic": "panoptic ids", "polygons": "polygons"}
    return _Vistas(
        f"mapillary_{version}",
        f"Mapillary Vistas {version}",
        f"training/images and training/v{version}/labels",
        (Place(rf"{_PART}/images", rf"(?P<key>.+)\.{PHOTO}"),),
        tuple(Place(rf"{_PART}/{folder}", r"(?P<key>.+)\.png") for folder in folders),
        _vistas_coding(version),
        {
            what: Place(rf"{_PART}/(?:v{re.escape(version)}/)?{name}", r".+\.(?:png|json)")
            for name, what in other.items()
        },
    )


VISTAS_2 = _vistas("2.0", (r"v2\.0/labels",)).format()
VISTAS_1 = _vistas("1.2", (r"v1\.2/labels", "labels")).format()


# --- BDD100K


def _train_ids(note: str) -> Any:
    names, colors = tuple(cityscapes.CLASSES), [color for _, color in cityscapes.CLASSES.values()]
    return indices(names, colors, notes=(note,))


BDD100K = Layout(
    "bdd100k",
    "BDD100K",
    "images/10k/train and labels/sem_seg/masks/train",
    (
        Place(rf"images/10k/{_PART}", r"(?P<key>.+)\.jpe?g"),
        Place(rf"seg/images/{_PART}", r"(?P<key>.+)\.jpe?g"),
    ),
    (
        Place(rf"(?:labels/)?sem_seg/masks/{_PART}", r"(?P<key>.+?)(?:_train_id)?\.png"),
        Place(rf"seg/labels/{_PART}", r"(?P<key>.+?)(?:_train_id)?\.png"),
    ),
    _train_ids("train ids of Cityscapes' 19 classes; 255 is ignored"),
    {
        "colormaps": Place(rf"(?:sem_seg/colormaps|seg/color_labels)/{_PART}", r".+\.png"),
        "drivable areas (--format bdd100k_drivable)": Place(rf"drivable/masks/{_PART}", r".+\.png"),
        "panoptic and instance bitmasks": Place(rf"(?:pan_seg|ins_seg)/bitmasks/{_PART}", r".+\.png"),
    },
).format()

DRIVABLE = Layout(
    "bdd100k_drivable",
    "BDD100K drivable areas",
    "images/100k/train and labels/drivable/masks/train",
    (Place(rf"images/100k/{_PART}", r"(?P<key>.+)\.jpe?g"), Place(rf"images/10k/{_PART}", r"(?P<key>.+)\.jpe?g")),
    (Place(rf"drivable/masks/{_PART}", r"(?P<key>.+?)(?:_drivable_id)?\.png"),),
    indices(
        ("direct", "alternative", "background"),
        ((219, 94, 86), (86, 211, 219), (0, 0, 0)),
        notes=("drivable areas: 0 direct, 1 alternative, 2 background; 255 is ignored",),
    ),
    {"colormaps": Place(rf"drivable/colormaps/{_PART}", r".+\.png")},
).format()


# --- KITTI semantics


def _kitti(tree: Tree, found: Found) -> MaskEncoding:
    return MaskEncoding(
        cityscapes.label_space(), notes=("Cityscapes' label ids, mapped to its 19 classes; others ignored",)
    )


KITTI = Layout(
    "kitti_semantics",
    "KITTI semantics",
    "training/image_2 and training/semantic",
    (Place(r"(?:(?P<split>training|testing)/)?image_2", r"(?P<key>\d{6}_\d{2})\.png"),),
    (Place(r"(?:(?P<split>training|testing)/)?semantic", r"(?P<key>\d{6}_\d{2})\.png"),),
    _kitti,
    {
        "colored previews": Place(r"(?:(?:training|testing)/)?semantic_rgb", r".+\.png"),
        "instances": Place(r"(?:(?:training|testing)/)?instance", r".+\.png"),
    },
).format()


# --- CARLA and SYNTHIA: the class is in one channel


class FirstChannelReader(FileReader):
    """The class is in the first (red) channel of the mask, 8 or 16 bits; the others hold no class."""

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        return None if record.mask_path is None else first_channel(record.mask_path)


def first_channel(path: Path) -> npt.NDArray[Any]:
    """H×W: the first channel of a mask file in its own number type."""
    pixels = read_raster(path)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise LabelError("a mask holds whole numbers", expected="8 or 16 bits", found=str(pixels.dtype), where=path)
    return np.ascontiguousarray(pixels[..., 0])


def _listed(tree: Tree) -> Path | None:
    return find_class_list([listing for _, listing in tree.walk(depth=1)], FILE_NAMES)


def _carla(tree: Tree, found: Found) -> MaskEncoding:
    path = _listed(tree)
    red = "the red channel of CARLA's semantic camera holds the class"
    if path is not None:
        classes = read_class_list(path)
        return MaskEncoding(classes.label_space(), notes=(red, *classes.notes()))
    seen = histogram_of_files(found.masks, first_channel, 6_000_000)
    most = max(seen.values, default=0)
    if most < len(_CARLA):
        note = "the 13 classes of CARLA before 0.9.10; later versions have other numbers: name them in classes.txt"
        return indices(_CARLA, notes=(red, note), ignored=())(tree, found)
    names = [generated_name(i) for i in range(most + 1)]
    note = f"values up to {most}: CARLA's versions number their classes differently; name them in classes.txt"
    return indices(names, notes=(red, note), ignored=())(tree, found)


CARLA = Layout(
    "carla",
    "CARLA",
    "CameraRGB and CameraSeg",
    (Place(r"(?:(?P<scope>[^/]+)/)?CameraRGB", r"(?P<key>.+)\.(?:png|jpe?g)"),),
    (Place(r"(?:(?P<scope>[^/]+)/)?CameraSeg(?:mentation)?", r"(?P<key>.+)\.png"),),
    _carla,
    reader=FirstChannelReader,
).format()

SYNTHIA = Layout(
    "synthia",
    "SYNTHIA",
    "RGB and GT/LABELS",
    (Place(r"(?:(?P<scope>[^/]+)/)?RGB(?P<scope2>(?:/[^/]+)*)", r"(?P<key>.+)\.(?:png|jpe?g)"),),
    (Place(r"(?:(?P<scope>[^/]+)/)?GT/LABELS(?P<scope2>(?:/[^/]+)*)", r"(?P<key>.+)\.png"),),
    indices(
        tuple(_SYNTHIA_NAMES.split(", ")),
        first=1,
        ignored=(0, IGNORE_INDEX),
        notes=("the first of three channels holds SYNTHIA's 22 classes, the second the instance; 0 (void) is ignored",),
    ),
    {"colored previews": Place(r"GT/COLOR(?:/[^/]+)*", r".+\.png"), "depth": Place(r"Depth/?.*", r".+\.png")},
    FirstChannelReader,
).format()


# --- fastai's CamVid: images/x.png, labels/x_P.png, codes.txt, valid.txt


def _lines(tree: Tree, name: str) -> list[str]:
    for _, listing in tree.walk(depth=2):
        if name in listing.files:
            return read_text(Path(listing.path, name)).splitlines()
    return []


def _codes(tree: Tree, found: Found) -> MaskEncoding:
    names = [line.strip() for line in _lines(tree, "codes.txt") if line.strip()]
    if not names:
        seen = histogram_of_files(found.masks, read_mask, 6_000_000)
        names = [generated_name(i) for i in range(max(seen.values, default=1) + 1)]
        return indices(names, notes=("codes.txt is not here: classes are numbered",))(tree, found)
    void = [i for i, name in enumerate(names) if name.lower() == "void"]
    kept = [i for i in range(len(names)) if i not in void]
    mapping = {**dict.fromkeys((*void, IGNORE_INDEX), IGNORE_INDEX), **{v: i for i, v in enumerate(kept)}}
    notes = [f"codes.txt names {counted(len(kept), 'class')}", *(["Void is ignored"] if void else [])]
    return MaskEncoding(LabelSpace(tuple(names[i] for i in kept), mapping=mapping), notes=tuple(notes))


class _Fastai(Layout):
    """The validation part is listed in valid.txt."""

    def open(self, tree: Tree) -> Any:
        listed = {line.strip() for line in _lines(tree, "valid.txt") if line.strip()}
        dataset = super().open(tree)
        if listed:
            held = [r for r in dataset.records if r.image_path is not None and r.image_path.name in listed]
            names = {r.id for r in held}
            dataset.given = {"train": [r for r in dataset.records if r.id not in names], "val": held}
            missing = len(listed) - len(held)
            dataset.notes.append(
                f"valid.txt names the validation part{f'; {missing} of its images are not here' if missing else ''}"
            )
        return dataset


FASTAI = _Fastai(
    "camvid_fastai",
    "fastai's CamVid",
    "images/x.png and labels/x_P.png",
    (Place("images", r"(?P<key>.+)\.(?:png|jpe?g)"),),
    (Place("labels", r"(?P<key>.+)_P\.png"),),
    _codes,
).format()

FORMATS = (VISTAS_2, VISTAS_1, BDD100K, DRIVABLE, KITTI, CARLA, SYNTHIA, FASTAI)

"""Published medical and material sets of files: DRIVE, CHASE_DB1, ISIC, CoNSeP (HoVer-Net), CrackForest.

DRIVE (Staal et al. 2004): the vessels are in ``1st_manual``, the benchmark's reference; ``2nd_manual`` is a second
observer, ``mask`` the field of view. CHASE_DB1 (Fraz et al. 2012) has two observers and names neither the reference.
ISIC: ``_segmentation.png`` beside or apart from the images; superpixels are not masks. CoNSeP (Graham et al. 2019) and
CrackForest (Shi et al. 2016) keep the classes in MATLAB files: ``type_map``, ``groundTruth.Segmentation``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import FormatError, ImageReadError, LabelError
from segwright.core.types import LabelSpace
from segwright.data import mat_files
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.mask_encoding import MaskEncoding, encoding_of, infer_encoding
from segwright.data.formats.mask_histogram import histogram_of_files
from segwright.data.formats.published_layout import LOSSLESS, PHOTO, Found, Layout, Place, indices
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record
from segwright.imageio import DEFAULT_LIMITS, read_file

MAX_MAT = 500_000_000  # bytes of a MATLAB file


def _binary(note: str) -> Any:
    """The masks' own values: 0 and 255 (or 1) are background and foreground."""

    def coding(tree: Tree, found: Found) -> MaskEncoding:
        concluded = infer_encoding(found.masks, None, tree.root)
        return replace(concluded, notes=(note, *concluded.notes))

    return coding


# --- DRIVE and CHASE_DB1

DRIVE = Layout(
    "drive",
    "DRIVE",
    "training/images/21_training.tif and training/1st_manual/21_manual1.gif",
    (Place(r"(?:(?P<split>training|test)/)?images", rf"(?P<key>\d+)_(?:training|test)\.{PHOTO}"),),
    (Place(r"(?:(?P<split>training|test)/)?1st_manual", rf"(?P<key>\d+)_manual1\.{LOSSLESS}"),),
    _binary("the vessels of the first observer, DRIVE's reference"),
    {
        "the second observer's masks": Place(r".*", rf"\d+_manual2\.{LOSSLESS}"),
        "the field of view": Place(r"mask", rf"\d+_(?:training|test)_mask\.{LOSSLESS}"),
    },
).format()

_EYE = r"(?P<key>Image_\d+[LR])"


def _both_observers(tree: Tree) -> FormatError | None:
    """The error for CHASE_DB1 with both observers: two masks per image, without a choice."""
    first = Place(r".*", rf"{_EYE}_1stHO\.{LOSSLESS}").find(tree)
    second = Place(r".*", rf"{_EYE}_2ndHO\.{LOSSLESS}").find(tree)
    if not first or not second:
        return None
    one, two = next(iter(first.values()))[0], next(iter(second.values()))[0]
    return FormatError(
        "CHASE_DB1 with several masks per image: those of two observers, and none of them is marked as the one to use",
        expected="one mask per image",
        found=f"{one.name} ({len(first)}) and {two.name} ({len(second)})",
        where=tree.root,
        fix="choose one: --images '*.jpg' --masks '*_1stHO.png', or --masks '*_2ndHO.png'",
    )


class _Chase(Layout):
    """Both observers' masks are recognized, and refused on opening: no other format is to take either."""

    def detect(self, tree: Tree) -> str | None:
        return "Image_01L and masks of both observers" if _both_observers(tree) is not None else super().detect(tree)

    def open(self, tree: Tree) -> Dataset:
        both = _both_observers(tree)
        if both is not None:
            raise both
        return super().open(tree)


CHASE = _Chase(
    "chase_db1",
    "CHASE_DB1",
    "Image_01L.jpg and Image_01L_1stHO.png",
    (Place(r".*", rf"{_EYE}\.{PHOTO}"),),
    (Place(r".*", rf"{_EYE}_(?:1st|2nd)HO\.{LOSSLESS}"),),
    _binary("the vessels of the one observer whose masks are here"),
).format()

# --- ISIC

_PART = r"(?P<split>Training|Validation|Test)"
ISIC = Layout(
    "isic",
    "ISIC",
    "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg and …_GroundTruth/ISIC_0000000_segmentation.png",
    (
        Place(
            rf"(?:(?:ISIC[-_]?|ISBI)(?P<scope>20\d\d).*?{_PART}.*?(?:Input|Data)|(?!.*GroundTruth)[^/]*)",
            rf"(?P<key>ISIC_\d+)\.{PHOTO}",
        ),
    ),
    (
        Place(
            rf"(?:(?:ISIC[-_]?|ISBI)(?P<scope>20\d\d).*?{_PART}.*?GroundTruth|[^/]*)",
            rf"(?P<key>ISIC_\d+)_segmentation\.{LOSSLESS}",
        ),
    ),
    _binary("the lesion's outline (ISIC's task 1)"),
    {
        "superpixels": Place(r".*", r"ISIC_\d+_superpixels\.png"),
        "attributes (task 2; they overlap: read one at a time)": Place(r".*", r"ISIC_\d+_attribute_\w+\.png"),
    },
).format()

# --- classes in MATLAB files


def read_mat(path: Path, *names: str) -> tuple[str, Any]:
    """(name, value) of the first of these variables in a MATLAB file up to version 7.2, sides of 1 taken away;
    LabelError naming the file."""
    found: dict[str, Any] = {}
    problem = "it holds none of them"
    try:
        found = mat_files.read_mat(read_file(path, replace(DEFAULT_LIMITS, max_bytes=MAX_MAT)), path, DEFAULT_LIMITS)
    except ImageReadError as error:
        problem = error.found or error.message
    name = next((name for name in names if name in found), None)
    if name is None:
        raise LabelError(
            "the mask is not in this MATLAB file", expected=f"the variable {' or '.join(names)}", found=problem,
            where=path, fix="unpack the archive again; files of MATLAB 7.3 (HDF5) need saving as version 7",
        )  # fmt: skip
    value = found[name]
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return name, value.squeeze() if isinstance(value, np.ndarray) else value


def _whole_numbers(values: Any, path: Path) -> npt.NDArray[Any]:
    """H×W whole numbers from 0 to 65535, for MATLAB keeps them as floating point."""
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "buif" or array.size == 0:
        raise LabelError("a mask is a table of numbers", found=f"{array.dtype} {array.shape}", where=path)
    if not np.isfinite(array).all() or (array < 0).any() or (array > 65535).any() or (array != np.trunc(array)).any():
        raise LabelError("a mask holds whole numbers from 0 up", found=f"{array.min()} to {array.max()}", where=path)
    return np.ascontiguousarray(array, np.uint8 if array.max() < 256 else np.uint16)


class TypeMapReader(FileReader):
    """The classes of cell nuclei from ``type_map``; without it, nucleus or not from ``inst_map``."""

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        return None if record.mask_path is None else type_map(record.mask_path)


def type_map(path: Path) -> npt.NDArray[Any]:
    """H×W classes of the nuclei in a HoVer-Net MATLAB file, 0 outside; 1 inside where it has instances alone."""
    name, values = read_mat(path, "type_map", "inst_map")
    numbers = _whole_numbers(values, path)
    return np.asarray(numbers > 0, np.uint8) if name == "inst_map" else numbers


# The seven types of CoNSeP in the order of its numbers.
_CONSEP_NAMES = (
    "background, other, inflammatory, healthy epithelial, malignant epithelial, fibroblast, muscle, endothelial"
)
_CONSEP = tuple(_CONSEP_NAMES.split(", "))


def _nuclei(tree: Tree, found: Found) -> MaskEncoding:
    masks = found.masks
    seen = histogram_of_files(masks, type_map, 12_000_000)
    most = max(seen.values, default=0)
    named = {read_mat(mask, "type_map", "inst_map")[0] for mask in masks[:3] if _readable(mask)}
    if named == {"inst_map"}:
        note = "the MATLAB files hold instances and no types: nucleus or background"
        return indices(("background", "nucleus"), notes=(note,))(tree, found)
    if seen.masks and most < len(_CONSEP):
        return indices(_CONSEP, notes=("CoNSeP's seven types of nuclei from type_map; 0 is background",))(tree, found)
    return encoding_of(seen, None, tree.root)


def _readable(path: Path, look: Callable[[Path], object] = type_map) -> bool:
    try:
        look(path)
    except LabelError:
        return False
    return True


class _InMat(Layout):
    """Recognized where one of the first MATLAB files holds what the set's files hold; else left to other formats."""

    def detect(self, tree: Tree) -> str | None:
        reason = super().detect(tree)
        look = crack_map if self.name == "crackforest" else type_map
        return reason if reason and any(_readable(mask, look) for mask in self.find(tree).masks[:5]) else None


CONSEP = _InMat(
    "consep",
    "CoNSeP (HoVer-Net)",
    "Train/Images/train_1.png and Train/Labels/train_1.mat",
    (Place(r"(?:(?P<split>Train|Valid|Test)/)?Images", rf"(?P<key>.+)\.{PHOTO}"),),
    (Place(r"(?:(?P<split>Train|Valid|Test)/)?Labels", r"(?P<key>.+)\.mat"),),
    _nuclei,
    {"previews": Place(r"(?:(?:Train|Valid|Test)/)?Overlay", rf".+\.{PHOTO}")},
    TypeMapReader,
).format()


class CrackReader(FileReader):
    """``groundTruth.Segmentation`` of a MATLAB file."""

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        return None if record.mask_path is None else crack_map(record.mask_path)


def crack_map(path: Path) -> npt.NDArray[Any]:
    """H×W: 1 background, 2 crack (3 and 4 in a few files are further regions of cracks)."""
    _, truth = read_mat(path, "groundTruth")
    try:
        return _whole_numbers(truth["Segmentation"], path)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise LabelError(
            "not a mask of CrackForest", expected="groundTruth.Segmentation", found=repr(error), where=path
        ) from error


def _cracks(tree: Tree, found: Found) -> MaskEncoding:
    space = LabelSpace(("background", "crack"), ((0, 0, 0), (255, 255, 255)), mapping={1: 0, 2: 1, 3: 1, 4: 1})
    note = "groundTruth.Segmentation: 1 is background, 2 is crack (so are 3 and 4, which a few files hold)"
    return MaskEncoding(space, notes=(note,))


CRACKFOREST = _InMat(
    "crackforest",
    "CrackForest",
    "image/001.jpg and groundTruth/001.mat",
    (Place(r"images?", rf"(?P<key>\d+)\.{PHOTO}"),),
    (Place(r"groundTruth", r"(?P<key>\d+)\.mat"),),
    _cracks,
    {"text files of the same": Place(r"seg", r"\d+\.seg")},
    CrackReader,
).format()

FORMATS = (DRIVE, CHASE, ISIC, CONSEP, CRACKFOREST)

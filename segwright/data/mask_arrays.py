"""Masks that are arrays: ``.npy``, ``.npz`` and MATLAB's ``.mat`` up to version 7.

Nothing is unpickled, and an array's size is known from its header before memory is asked for. Of several arrays in one
file the only one that can be a label map is taken (two dimensions, whole numbers); where several can, the names by
which published datasets call theirs decide (``Segmentation``, ``type_map``), else the file is refused with the names.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import ImageReadError, LabelError, SegwrightError, TooLargeError
from segwright.data.mat_files import read_mat
from segwright.imageio import Limits

ARRAY_ENDINGS = (".npy", ".npz", ".mat")
# What published datasets call their label maps, before what lies beside it (instances, edges).
KNOWN = ("segmentation", "type_map", "mask", "label", "labels", "labelmap", "label_map", "semantic", "seg", "gt",
         "groundtruth", "annotation", "s", "arr_0", "data")  # fmt: skip
NO_CLASSES = ("inst_map", "instance", "instances", "inst_type", "boundaries", "boundary", "edges", "centroid")
FIX = "write the masks as PNG: numpy.asarray(mask, 'uint8') with Pillow's Image.fromarray(...).save('x.png')"


def is_array(head: bytes) -> bool:
    """Whether a file begins as one of these."""
    return head.startswith((b"\x93NUMPY", b"PK\x03\x04", b"MATLAB", b"\x89HDF"))


def array_of(data: bytes, where: str | Path, limits: Limits) -> npt.NDArray[Any]:
    """H×W of uint8 or uint16 from the bytes of a file; LabelError where which array it is is not certain."""
    try:
        found = _arrays(data, where, limits)
    except SegwrightError:
        raise
    except Exception as error:  # NumPy's and SciPy's parsers raise whatever they trip over
        raise ImageReadError(
            "not a readable array", expected="a whole .npy, .npz or .mat file without pickled objects",
            found=f"{type(error).__name__}: {str(error)[:160]}", where=where, fix=FIX,
        ) from error  # fmt: skip
    return _whole_numbers(_chosen(found, where), where)


def _arrays(data: bytes, where: str | Path, limits: Limits) -> dict[str, npt.NDArray[Any]]:
    if data.startswith(b"\x93NUMPY"):
        return {"": _npy(io.BytesIO(data), where, limits)}
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {}
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    raise ImageReadError("a ZIP archive, and no .npz", found=info.filename[:100], where=where, fix=FIX)
                with archive.open(info) as member:
                    found[info.filename[:-4]] = _npy(member, where, limits)
            return found
    if data.startswith(b"\x89HDF") or data[:19] == b"MATLAB 7.3 MAT-file":
        raise ImageReadError(
            "a MATLAB file of version 7.3, which is HDF5", expected="version 7 or older", found="version 7.3",
            where=where, fix="in MATLAB: save('x.mat', 'mask', '-v7'); or write the masks as PNG",
        )  # fmt: skip
    return _mat(data, where, limits)


def _npy(stream: Any, where: str | Path, limits: Limits) -> npt.NDArray[Any]:
    """One array; its shape and type are read and weighed first."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    _check_size(shape, dtype.itemsize, where, limits)
    count = int(np.prod(shape, dtype=np.int64))
    body = stream.read(count * dtype.itemsize)
    if len(body) < count * dtype.itemsize:
        raise ValueError(f"the file ends after {len(body)} of {count * dtype.itemsize} bytes")
    flat = np.frombuffer(body, dtype)
    return flat.reshape(shape, order="F" if columns_first else "C")


def _check_size(shape: tuple[int, ...], item: int, where: str | Path, limits: Limits) -> None:
    total = item
    for side in shape:
        total *= max(int(side), 0)
    if total > min(limits.max_bytes, limits.max_pixels * 16):
        raise TooLargeError(
            "the array needs more memory than the limit", expected=f"at most {limits.max_pixels} pixels",
            found=f"{'×'.join(map(str, shape))} of {item} bytes", where=where, fix="cut it into tiles",
        )  # fmt: skip


def _mat(data: bytes, where: str | Path, limits: Limits) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {}
    for name, value in read_mat(data, where, limits).items():
        _gather(name, value, found)
    return found


def _gather(name: str, value: Any, found: dict[str, npt.NDArray[Any]]) -> None:
    """The arrays in structures and cells, under ``outer.inner`` and ``outer[0]``."""
    if isinstance(value, dict):
        for inner, part in value.items():
            _gather(f"{name}.{inner}", part, found)
    elif isinstance(value, list):
        for place, part in enumerate(value[:64]):
            _gather(f"{name}[{place}]", part, found)
    elif isinstance(value, np.ndarray):
        found[name] = value


def _chosen(found: Mapping[str, npt.NDArray[Any]], where: str | Path) -> npt.NDArray[Any]:
    able = {name: flat for name, array in found.items() if (flat := _flat(array)) is not None}
    listed = [name for name in able if _OF_OBJECTS.search(name)]
    if listed and len(listed) == len(able):
        raise LabelError(
            "a list of objects with a mask each, and no label map",
            expected="one array of two dimensions and whole numbers",
            found=f"{', '.join(listed)}"[:300],
            where=where,
            fix="draw the objects into one array per image, a value per class, and save it as an 8-bit PNG",
        )
    if len(able) > 1:
        kept = {name: array for name, array in able.items() if _last(name) not in NO_CLASSES}
        able = kept or able
    if len(able) == 1:
        return next(iter(able.values()))
    for known in KNOWN:
        named = [name for name in able if _last(name) == known]
        if len(named) == 1:
            return able[named[0]]
    shown = ", ".join(f"{name or 'an array'} ({'×'.join(map(str, a.shape))} {a.dtype})" for name, a in found.items())
    raise LabelError(
        "which array is the mask is not certain" if able else "no array is a label map",
        expected="one array of two dimensions and whole numbers",
        found=(shown or "no array")[:300],
        where=where,
        fix=f"{FIX}; or keep one array per file, called mask",
    )


# PASCAL's Person Part: anno.objects[0].mask, anno.objects[0].parts[1].mask
_OF_OBJECTS = re.compile(r"(?:^|\.)(?:objects?|parts|instances)(?:\[\d+\])?\.")


def _last(name: str) -> str:
    return name.rpartition(".")[2].rpartition("/")[2].lower()


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """H×W (or H×W×3 colors) of numbers; None where an array is no label map."""
    if array.dtype.kind not in "buif":
        return None
    if array.ndim > 2:
        sides = [side for side in array.shape if side != 1]
        array = array.reshape(sides) if len(sides) == 2 else array
    colors = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if (array.ndim != 2 and not colors) or min(array.shape[:2]) < 4:
        return None
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        return None
    return array


def _whole_numbers(array: npt.NDArray[Any], where: str | Path) -> npt.NDArray[Any]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    low, high = array.min(initial=0), array.max(initial=0)
    if low < 0 or high > 65535:
        raise LabelError(
            "mask values must be whole numbers of 16 bits", expected="0 to 65535", found=f"{low} to {high}",
            where=where, fix="write the mask as an 8-bit PNG of class indices, with 255 for what is ignored",
        )  # fmt: skip
    return np.ascontiguousarray(array.astype(np.uint8 if high <= 255 else np.uint16))

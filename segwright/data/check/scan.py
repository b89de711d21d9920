"""Read one image and its mask and report what the check needs, in some hundred numbers.

Runs in child processes (:mod:`segwright.imageio.sandbox`); what comes back is small, so that a hundred thousand
images fit in memory as numbers. Only the single file is judged; :mod:`segwright.data.check.rules` judges the whole.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import ImageReadError, LabelError, NameClashError, ReadReason, SegwrightError
from segwright.core.types import IGNORE_INDEX
from segwright.data.records import Reader, Record
from segwright.imageio import ImageInfo, UInt8Array
from segwright.imageio.image_info import ENDINGS

THUMB = 16  # side of the thumbnail that confirms what the hash proposes
REGION_SIDE = 384  # regions are found at no more than this size: only their rough extent counts
REGIONS_A_CLASS = 3  # the largest of each class are kept for the search of suspicious labels,
SMALLEST_REGION = 0.004  # and of those what is no smaller than this share of the image
SIZE_BINS = 48  # of region sizes: quarter octaves of the square root of the area
FLAT = 2.0  # gray levels of spread below which an image shows nothing

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FileError:
    """Why a file cannot be used, in the words of the error it raised."""

    kind: str
    message: str
    file: str
    fix: str | None = None


@dataclass(frozen=True)
class UnmappedValues:
    """Mask values outside the classes."""

    pixels: int
    total: int
    values: tuple[tuple[int, int], ...]  # (value, pixels), the most frequent first, at most 16
    distinct: int
    box: tuple[int, int, int, int]  # top, left, bottom, right of all of them
    at_edges: bool  # they line the borders between classes: anti-aliasing, interpolation or JPEG
    file: str


@dataclass
class SampleReport:
    """The report of one record. Arrays are small; absent parts are None."""

    id: str
    image: ImageInfo | None = None
    mask: ImageInfo | None = None
    file_errors: list[FileError] = field(default_factory=list)
    unmapped: UnmappedValues | None = None
    size: tuple[int, int] | None = None  # (height, width), upright
    channels: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    gray_rgb: bool = False
    hash: int = 0  # perceptual, 64 bit
    crc: int = 0  # of all pixels
    gray: float = 0.0  # mean gray level
    thumb: Float32 | None = None  # (THUMB², ) zero mean, unit length; None where flat
    labeled: bool = False
    complete: bool = False  # the image was read, and the mask if there is one
    counts: npt.NDArray[np.int64] | None = None  # (256,) pixels per class index
    mask_crc: int = 0  # of all labels
    objects: dict[int, tuple[int, int]] = field(default_factory=dict)  # class → objects listed, objects that are drawn
    boundary: float = 0.0  # share of labeled pixels that touch another class
    region_sizes: npt.NDArray[np.int32] | None = None  # (K, SIZE_BINS)
    regions: Float32 | None = None  # (n, 11): class, area share, r, g, b, spread, y, x, and the box's y, x, height
    stderr: str = ""  # what decoders printed


def examiner(reader: Reader, regions: bool = True) -> Callable[[Record], SampleReport]:
    """The function that children run."""
    return lambda record: examine(record, reader, regions)


def examine(record: Record, reader: Reader, regions: bool = True) -> SampleReport:
    """Read image and mask of a record and report on them. Never raises for bad files."""
    found = SampleReport(record.id)
    image = _image(record, reader, found)
    labels = _labels(record, reader, found)
    found.complete = image is not None and found.unmapped is None and not found.file_errors
    if image is not None:
        _describe_image(image, found)
    if labels is not None:
        found.labeled = True
        found.counts = np.asarray(np.bincount(labels.ravel(), minlength=256), np.int64)
        found.mask_crc = zlib.crc32(np.ascontiguousarray(labels).data)
        found.objects = _objects(record, reader)
        if image is not None and image.shape[:2] != labels.shape:
            found.file_errors.append(_size_error(record, found, image, labels))
        elif regions:
            _describe_labels(image, labels, len(reader.label_space), found)
        if image is not None:
            _compare(record, reader, found)
    return found


def _compare(record: Record, reader: Reader, found: SampleReport) -> None:
    """Compare where image and mask lie on the ground, for formats with a georeference."""
    error = reader.georeference_mismatch(record)
    if error is not None:
        text = f"{error.message}: {error.found}"
        found.file_errors.append(FileError("different ground", text, error.where or record.id, error.fix))


def _image(record: Record, reader: Reader, found: SampleReport) -> UInt8Array | None:
    path = record.image_path
    try:
        if path is not None and _is_own_image(path):
            found.image = reader.header(path)
        return reader.image(record)
    except (SegwrightError, OSError, ValueError, MemoryError) as error:
        found.file_errors.append(_unreadable(error, path or record.id))
    return None


def _is_own_image(path: Path) -> bool:
    """Whether the path is an image file, and no archive or list that images come from."""
    return path.suffix.lower() in {ending for endings in ENDINGS.values() for ending in endings}


KINDS: dict[ReadReason, str] = {"empty": "empty file", "too_large": "bomb-sized file", "truncated": "truncated file",
         "unknown_format": "disguised file", "killed": "kills the decoder"}  # fmt: skip


def _unreadable(error: Exception, where: Path | str) -> FileError:
    """The exception of a read as a file error; its kind follows from the ``reason`` of the error."""
    if not isinstance(error, SegwrightError):
        return FileError("unreadable file", f"{type(error).__name__}: {error}", str(where))
    kind = KINDS.get(error.reason) if isinstance(error, ImageReadError) else None
    message = error.message if not error.found else f"{error.message}: {error.found}"
    return FileError(kind or "unreadable file", message, error.where or str(where), error.fix)


def _labels(record: Record, reader: Reader, found: SampleReport) -> UInt8Array | None:
    path = record.mask_path
    try:
        if path is not None and path != record.image_path and _is_own_image(path):
            found.mask = reader.header(path)
        return reader.mask(record)
    except ImageReadError as error:
        found.file_errors.append(_unreadable(error, path or record.id))
    except LabelError as error:
        try:
            values = reader.values(record)
            found.unmapped = (
                None if values is None else _find_unmapped(values, reader.label_space.lookup(), str(path or record.id))
            )
        except SegwrightError:
            found.unmapped = None
        if found.unmapped is None:
            text = error.message if not error.found else f"{error.message}: {error.found}"
            kind = "colliding names" if isinstance(error, NameClashError) else "wrong mask"
            found.file_errors.append(FileError(kind, text, error.where or str(path or record.id), error.fix))
    except SegwrightError as error:
        found.file_errors.append(
            FileError("wrong mask", error.message, error.where or str(path or record.id), error.fix)
        )
    except (OSError, ValueError, MemoryError) as error:
        found.file_errors.append(_unreadable(error, path or record.id))
    return None


def _objects(record: Record, reader: Reader) -> dict[int, tuple[int, int]]:
    """For formats with single objects: per class, the listed ones and those that cover a pixel."""
    try:
        found = reader.object_counts(record)
    except (SegwrightError, OSError, ValueError, MemoryError):  # reading the mask has reported it
        found = None
    return {} if found is None else {int(label): (one.listed, one.drawn) for label, one in found.items()}


def _find_unmapped(values: npt.NDArray[Any], lookup: npt.NDArray[np.int32], file: str) -> UnmappedValues | None:
    inside = (values >= 0) & (values < lookup.size)
    unmapped = ~inside | (lookup[np.where(inside, values, 0)] < 0)
    if not unmapped.any():
        return None
    unique, counts = np.unique(values[unmapped], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:16]
    rows, columns = np.flatnonzero(unmapped.any(axis=1)), np.flatnonzero(unmapped.any(axis=0))
    # Smeared edges are thin: whatever is known reaches them within two pixels, on more than one side.
    known = cv2.dilate((~unmapped).astype(np.uint8), np.ones((5, 5), np.uint8))
    thin = float(known[unmapped].mean()) > 0.9 and not unmapped.all()
    return UnmappedValues(
        int(unmapped.sum()),
        int(values.size),
        tuple((int(unique[i]), int(counts[i])) for i in order),
        len(unique),
        (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1),
        thin and len(unique) >= 4,
        file,
    )


def _size_error(record: Record, found: SampleReport, image: UInt8Array, labels: UInt8Array) -> FileError:
    height, width = image.shape[:2]
    text = f"image {height}×{width}, mask {labels.shape[0]}×{labels.shape[1]} (height×width)"
    file = str(record.mask_path or record.id)
    turned = found.image is not None and found.image.orientation >= 5
    if turned and labels.shape == (width, height):
        file_name = shlex.quote(str(record.image_path or ""))
        orientation = found.image.orientation if found.image else 0
        return FileError(
            "EXIF orientation",
            f"the image is turned by its EXIF orientation {orientation}, the mask is not: {text}",
            file,
            f"exiftool -Orientation= {file_name}  (if the mask fits the pixels as stored)",
        )
    return FileError("size differs", text, file, f"make the mask again at {height}×{width}, or leave the pair out")


def _describe_image(image: UInt8Array, found: SampleReport) -> None:
    height, width, channels = image.shape
    found.size, found.channels = (height, width), channels
    found.crc = zlib.crc32(np.ascontiguousarray(image).data)
    if channels <= 4:
        mean, std = cv2.meanStdDev(image)
    else:
        flat = image.reshape(-1, channels)
        mean, std = flat.mean(axis=0), flat.std(axis=0)
    found.mean, found.std = tuple(mean.ravel().tolist()), tuple(std.ravel().tolist())
    gray: npt.NDArray[Any] = image[..., 0]
    if channels == 3:
        found.gray_rgb = _all_gray(image[::7, ::7]) and _all_gray(image)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    found.hash = perceptual_hash(small)
    found.thumb, found.gray = thumbnail(gray)


def thumbnail(gray: npt.NDArray[Any]) -> tuple[Float32 | None, float]:
    """(THUMB² numbers of zero mean and unit length, mean gray level) of an H×W gray image; None if it is flat."""
    small = cv2.resize(np.asarray(gray, np.float32), (THUMB, THUMB), interpolation=cv2.INTER_AREA).ravel()
    mean = float(small.mean())
    centered = small - mean
    length = float(np.linalg.norm(centered))
    return (np.asarray(centered / length, np.float32) if length >= FLAT * THUMB else None), mean


def _all_gray(image: UInt8Array) -> bool:
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())


def perceptual_hash(small: Float32) -> int:
    """64 bits: the signs of the low frequencies of a 32×32 image against their median (pHash)."""
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _describe_labels(image: UInt8Array | None, labels: UInt8Array, classes: int, found: SampleReport) -> None:
    right, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    known = labels != IGNORE_INDEX
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= right & known[:, :-1]
    border[1:] |= down & known[:-1]
    border &= known
    found.boundary = float(border.sum()) / max(1, int(known.sum()))
    step = max(1, -(-max(labels.shape) // REGION_SIDE))
    small = np.ascontiguousarray(labels[::step, ::step])
    small_image = None if image is None or image.shape[2] < 3 else np.ascontiguousarray(image[::step, ::step, :3])
    if image is not None and image.shape[2] < 3:
        small_image = np.repeat(np.ascontiguousarray(image[::step, ::step, :1]), 3, axis=2)
    sizes = np.zeros((classes, SIZE_BINS), np.int32)
    rows: list[tuple[float, ...]] = []
    for index in np.flatnonzero(np.bincount(small.ravel(), minlength=256)[:classes]).tolist():
        _, marks, stats, centers = cv2.connectedComponentsWithStats((small == index).view(np.uint8), connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        octaves = (np.log2(np.sqrt(areas.astype(np.float64)) * step) * 4).astype(np.intp)
        sizes[index] += np.bincount(np.minimum(octaves, SIZE_BINS - 1), minlength=SIZE_BINS).astype(np.int32)
        if small_image is not None:
            for part in (np.argsort(-areas, kind="stable")[:REGIONS_A_CLASS] + 1).tolist():
                if stats[part, cv2.CC_STAT_AREA] < SMALLEST_REGION * marks.size:
                    break
                rows.append((index, *_region(small_image, marks, stats[part], centers[part], part)))
    found.region_sizes = sizes
    found.regions = np.array(rows, np.float32).reshape(-1, 11)


def _region(
    image: UInt8Array, marks: npt.NDArray[np.int32], stats: npt.NDArray[np.int32], center: npt.NDArray[Any], part: int
) -> tuple[float, ...]:
    """(area share, r, g, b, spread, y, x, box top, left, height) with places as shares of the image."""
    left, top, width, height, area = stats.tolist()
    rows, columns = slice(top, top + height), slice(left, left + width)
    inside = (marks[rows, columns] == part).view(np.uint8)
    mean, spread = cv2.meanStdDev(image[rows, columns], mask=inside)
    full_height, full_width = marks.shape
    return (
        area / marks.size,
        *mean.ravel().tolist(),
        float(sum(spread[:, 0])) / 3,
        float(center[1]) / full_height,
        float(center[0]) / full_width,
        top / full_height,
        left / full_width,
        height / full_height,
    )

"""The images of the label page: display pixels in tiles, the model's mask, and superpixels, each made once and cached.

Images are shown as the model sees them: upright, deeper values brought to 8 bits by one range. Tiles come from a
pyramid of halved copies, so that a phone never loads twelve megapixels to show a third of one.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError, UsageError
from segwright.core.types import Float32Array, UInt8Array
from segwright.data.formats.bit_depth import find_pixel_format
from segwright.data.formats.file_tree import Tree, is_image, natural
from segwright.data.records import ValueRange
from segwright.data.strokes import encode_labels
from segwright.imageio import encode_jpeg, encode_png, read_header, read_image, read_raster
from segwright.postprocess.superpixels import superpixels

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor
    from segwright.labeling.scores import Opinion

TILE = 1024  # pixels per side
LOSSLESS = 1_200_000  # pixels: smaller images travel as PNG, without JPEG's ringing at edges
CACHED_BYTES = 600_000_000
MOST_PIXELS = 120_000_000  # of an image on the page
MOST_PROBABILITIES = 40_000_000  # of one image, 160 MB
UNIT_PIXELS = 150  # of a superpixel in an image of up to 3 megapixels
MOST_UNITS = 20_000
DEEP = (".tif", ".tiff", ".png", ".pgm", ".ppm")

Int32Array = npt.NDArray[np.int32]
Made = TypeVar("Made")


def list_images(images: Path, exclude: Sequence[Path] = ()) -> list[str]:
    """The images below a folder, as paths with slashes, in natural order; without what lies in ``exclude``.

    UsageError if there is no such folder, DataError if it holds no image.
    """
    if not images.is_dir():
        raise UsageError("no such folder of images", expected="a folder", found=str(images), fix="check the path")
    tree = Tree(images)
    left_out = {path.resolve() for path in exclude}
    names = [
        f"{relative}/{name}" if relative else name
        for relative, listing in tree.walk()
        if not left_out & {place.resolve() for place in (Path(listing.path), *Path(listing.path).parents)}
        for name in listing.files
        if is_image(name)
    ]
    if not names:
        raise DataError("the folder holds no image", found=tree.summary(), where=images, fix="check the path")
    return sorted(names, key=natural)


@dataclass(frozen=True)
class Prediction:
    """What the model gives for an image."""

    labels: UInt8Array  # (H, W)
    confidence: Float32Array  # (H, W), 0 to 1
    encoded: bytes  # labels as runs
    version: int  # of the model: how often it was replaced


class LabelImages:
    """Images by their number. Methods run in the caller's thread and may be called from several.

    ``predictor`` None: plain labeling. The network runs one image at a time.
    """

    def __init__(self, images: Path, names: Sequence[str], predictor: Predictor | None) -> None:
        self.images, self.names = images, list(names)
        self.predictor, self.version = predictor, 0
        self._cache: OrderedDict[tuple[str, int, int], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[tuple[str, int, int], Future[Any]] = {}
        self._network = threading.Lock()
        self._range: ValueRange | None = None
        self._bands: int | None = None
        if predictor is None:
            found = find_pixel_format([images / name for name in names])
            self._range, self._bands = found.value_range, found.bands
        self.workers = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), thread_name_prefix="label")

    def replace_model(self, predictor: Predictor) -> int:
        """Use another model from now on; returns its version. Masks of the one before are dropped."""
        with self._network:
            self.predictor = predictor
            self.version += 1
        return self.version

    def size(self, number: int) -> tuple[int, int]:
        """Height and width, upright, from the header; ImageReadError or LabelError."""
        height, width = read_header(self.path(number)).size
        if height * width > MOST_PIXELS:
            raise DataError(
                "the image is too large for the label page", expected=f"at most {MOST_PIXELS / 1e6:g} megapixels",
                found=f"{width}×{height}", where=self.path(number), fix="cut it into tiles first",
            )  # fmt: skip
        return height, width

    def path(self, number: int) -> Path:
        """The file of an image."""
        return self.images / self.names[number]

    def pixels(self, number: int) -> UInt8Array:
        """The display pixels, uint8 H×W×3."""
        return self._once("pixels", number, 0, lambda: self._read(number))

    def _read(self, number: int) -> UInt8Array:
        self.size(number)
        path = self.path(number)
        if self.predictor is not None:
            image = self.predictor.read(path)
        elif self._range is not None:
            raster = read_raster(path)
            image = self._range.among_deeper(raster) if raster.dtype == np.uint8 else self._range.apply(raster)
        else:
            image = read_image(path)
        return as_display(image)

    def tile(self, number: int, level: int, row: int, column: int) -> tuple[bytes, str]:
        """One tile of the image halved ``level`` times, and its content type. UsageError outside of the image."""
        shown = self._level(number, level)
        top, left = row * TILE, column * TILE
        if not (0 <= top < shown.shape[0] and 0 <= left < shown.shape[1]):
            raise UsageError("no such tile", found=f"{level}/{row}/{column}")
        part = np.ascontiguousarray(shown[top : top + TILE, left : left + TILE])
        whole = self.pixels(number)
        if whole.shape[0] * whole.shape[1] <= LOSSLESS:
            return encode_png(part), "image/png"
        return encode_jpeg(part), "image/jpeg"

    def _level(self, number: int, level: int) -> UInt8Array:
        if not 0 <= level <= 12:
            raise UsageError("no such level", expected="0 to 12", found=str(level))
        if level == 0:
            return self.pixels(number)
        return self._once("level", number, level, lambda: _halved(self._level(number, level - 1)))

    def prediction(self, number: int) -> Prediction | None:
        """The model's mask; None without a model."""
        if self.predictor is None:
            return None
        return self._once("prediction", number, self.version, lambda: self._predict(number))

    def _predict(self, number: int) -> Prediction:
        with self._network:
            predictor, version = self.predictor, self.version
            assert predictor is not None
            found = predictor.predict(predictor.read(self.path(number)))
        return Prediction(found.labels, found.confidence, encode_labels(found.labels), version)

    def opinion(self, number: int) -> tuple[UInt8Array, Opinion | None]:
        """The pixels as the network sees them and its probabilities for them; None without a model.

        A large image is reduced first: all its probabilities would take gigabytes.
        """
        from segwright.labeling.scores import opinion

        with self._network:
            predictor = self.predictor
            if predictor is None:
                return self.pixels(number), None
            pixels = predictor.read(self.path(number))
            factor = math.ceil(math.sqrt(pixels[..., 0].size * predictor.label_space.classes / MOST_PROBABILITIES))
            if factor > 1:
                size = (max(1, pixels.shape[1] // factor), max(1, pixels.shape[0] // factor))
                pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
                pixels = pixels if pixels.ndim == 3 else pixels[..., None]
            return pixels, opinion([predictor], pixels, "margin")

    def units(self, number: int) -> Int32Array:
        """Superpixel numbers (H, W)."""
        return self._once("units", number, 0, lambda: _units(self.pixels(number)))

    def prepare(self, number: int) -> None:
        """Make everything of an image, so that opening it takes no time; errors are raised when it is opened."""

        def work() -> None:
            self._level(number, 0)
            self.prediction(number)
            self.units(number)

        if 0 <= number < len(self.names):
            self.workers.submit(work)

    def _once(self, kind: str, number: int, detail: int, make: Callable[[], Made]) -> Made:
        """From the cache, or made; two threads that want the same thing at a time wait for one."""
        key = (kind, number, detail)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                kept: Made = self._cache[key][0]
                return kept
            waiting = self._making.get(key)
            if waiting is None:
                mine = self._making[key] = Future()
        if waiting is not None:
            other: Made = waiting.result()
            return other
        try:
            found = make()
        except BaseException as error:
            with self._lock:
                self._making.pop(key, None)
            mine.set_exception(error)
            raise
        with self._lock:
            self._making.pop(key, None)
            self._cache[key] = (found, _bytes(found))
            while len(self._cache) > 1 and sum(size for _, size in self._cache.values()) > CACHED_BYTES:
                self._cache.popitem(last=False)
        mine.set_result(found)
        return found

    def close(self) -> None:
        """End the threads; what is running is finished."""
        self.workers.shutdown(wait=True, cancel_futures=True)


def as_display(image: UInt8Array) -> UInt8Array:
    """H×W×C as three channels: gray spread, of more bands the first three."""
    channels = image.shape[2]
    return np.ascontiguousarray(image[..., :3] if channels >= 3 else np.repeat(image[..., :1], 3, axis=2))


def _halved(image: UInt8Array) -> UInt8Array:
    height, width = image.shape[:2]
    half = cv2.resize(image, (max(1, -(-width // 2)), max(1, -(-height // 2))), interpolation=cv2.INTER_AREA)
    return np.asarray(half, np.uint8)


def _units(image: UInt8Array) -> Int32Array:
    area = image.shape[0] * image.shape[1]
    return superpixels(image, size=max(4, round(max(UNIT_PIXELS, area / MOST_UNITS) ** 0.5)))


def encode_units(units: Int32Array) -> bytes:
    """Superpixel numbers as runs for the page: pairs of little-endian uint32, length and number."""
    flat = units.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.concatenate((starts, [flat.size])))
    return np.asarray(np.stack([lengths, flat[starts]], axis=1), "<u4").tobytes()


def _bytes(found: Any) -> int:
    if isinstance(found, Prediction):
        return found.labels.nbytes + found.confidence.nbytes + len(found.encoded)
    return int(found.nbytes)

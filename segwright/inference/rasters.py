"""Rasters that no memory holds: read in windows, predicted, and written as they were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import TooLargeError
from segwright.core.types import IGNORE_INDEX, Float32Array
from segwright.data.formats.geotiff import nodata_of
from segwright.imageio import DEFAULT_LIMITS, TiffInfo, UInt8Array, WindowReader, read_raster, tiff_info
from segwright.inference.cog import ReadRows
from segwright.inference.georeference import TIFF, is_no_data, no_data, placement, write_geotiff
from segwright.inference.image_outputs import STRIP, ImageOutputs, Item
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.inference.raster_files import RasterFiles
from segwright.inference.raster_overlay import RasterOverlay
from segwright.inference.raster_polygons import write_raster_geojson
from segwright.inference.sliding_window import Window
from segwright.inference.thinned import ThinnedOutput

MAX_RASTER_PIXELS = 50_000_000_000  # one byte on the disk per pixel, for the labels
KEPT_BYTES = 256 << 20  # of decoded strips and tiles, which several windows touch
Advance = Callable[[int], None]


class RasterJob:
    """The prediction of one raster at ``path``, whose outputs are called ``name``."""

    def __init__(
        self,
        predictor: Predictor,
        outputs: ImageOutputs,
        path: Path,
        name: str,
        size: TiffInfo,
        settings: Mapping[str, Any],
        *,
        resume: bool,
    ) -> None:
        self.predictor, self.outputs, self.path, self.name = predictor, outputs, path, name
        self.shape = (size.height, size.width)
        self.place = placement(path)
        self.files = RasterFiles(
            outputs.folder.root, name, self.shape, {**settings, "window": predictor.window},
            confidence=outputs.options.confidence, resume=resume and not predictor.observed,
        )  # fmt: skip
        self._overlay: RasterOverlay | None = None
        if outputs.options.overlay:
            self._overlay = RasterOverlay(self.files.folder, self.shape, predictor.runtime.in_channels)
        self._source = WindowReader(path, keep=KEPT_BYTES)
        self._no_data = nodata_of(path)
        self._empty: dict[Window, npt.NDArray[np.bool_]] = {}  # from the thread that reads to the one that writes
        self._parts: list[Window] = []
        self._advance: Advance = lambda count: None

    def run(
        self, progress: Callable[[int], Advance] | None
    ) -> tuple[Item, npt.NDArray[np.int64], ThinnedOutput | None]:
        """Predict and write it: what was written, the pixels of each label (256,), the thinned output.

        What is on the disk stays if the process is stopped or killed, and goes if it ends or fails.
        """
        remove, facts = True, dict[str, Any]()
        try:
            if progress is not None:
                self._advance = progress(self.predictor.window_count_of(*self.shape))
            thinned = self.predictor.predict_windows(*self.shape, self._read, self._write, done=self._done, facts=facts)
            item, counts = self._finish()
            item["windows"] = facts
            return item, counts, thinned
        except (KeyboardInterrupt, SystemExit):
            remove = False
            raise
        finally:
            self._source.close()
            if self._overlay is not None:
                self._overlay.close()
            self.files.close(remove=remove)

    def _done(self, part: Window) -> bool:
        if part.core_top == part.core_left == 0:  # from the beginning, perhaps again in smaller windows
            self._parts.clear()
        self._parts.append(part)
        if not self.files.has(part):
            return False
        self._advance(1)
        return True

    def _read(self, part: Window) -> UInt8Array:
        raster = self._source.read(part.top, part.left, part.bottom - part.top, part.right - part.left)
        if self._no_data is not None:
            self._empty[part] = is_no_data(raster, self._no_data)
        image = self.predictor.scaled(raster, self.path)
        if self._overlay is not None:
            self._overlay.see(part, image)
        return image

    def _write(self, part: Window, found: UInt8Array, confidence: Float32Array) -> None:
        nothing = self._empty.pop(part, None)
        if nothing is not None:
            found = np.where(nothing, np.uint8(IGNORE_INDEX), found)
        sure = confidence[part.core_in_window]
        layers = {"labels": found[part.core_in_window]}
        if self.outputs.options.confidence:
            layers["confidence"] = (sure * 255 + 0.5).astype(np.uint8)
        self.files.write(part, layers, {"confidence": float(sure.sum(dtype=np.float64))})
        self._advance(1)

    def _finish(self) -> tuple[Item, npt.NDArray[np.int64]]:
        read, (height, width) = self.files.rows("labels"), self.shape
        item = self.outputs.write_raster_mask(read, self.shape, self.name, self.place)
        if self.outputs.options.confidence:
            target, rows = self.outputs.path(self.name, ".confidence.tif"), self.files.rows("confidence")
            self.outputs.folder.write(
                target, lambda beside: write_geotiff(beside, rows, self.place, shape=self.shape, ignore=None)
            )
            item["confidence"] = str(target)
        if self._overlay is not None:
            target, drawn = self.outputs.path(self.name, ".overlay.jpg"), self._overlay.jpeg(read, self.outputs.space)
            item["overlay"] = str(self.outputs.folder.write_bytes(target, drawn))
        if "geojson" in self.outputs.options.polygons:
            item["geojson"] = str(self._write_geojson(read))
        counts = np.zeros(256, np.int64)
        for top in range(0, height, STRIP):
            counts += np.bincount(read(top, min(top + STRIP, height), 1).ravel(), minlength=256)
        pixels = height * width
        item["shares"] = {n: float(c) / pixels for n, c in zip(self.outputs.space.names, counts, strict=False) if c}
        item["mean_confidence"] = self.files.total(self._parts, "confidence") / pixels
        if self.outputs.options.quality:
            item["quality"] = {"note": "not estimated for a raster that is read in windows"}
        return item, counts

    def _write_geojson(self, read: ReadRows) -> Path:
        ground, options = self.place.reference if self.place is not None else None, self.outputs.options
        target, space = self.outputs.path(self.name, ".geojson"), self.outputs.space

        def save(beside: Path) -> None:
            write_raster_geojson(beside, read, self.shape, space, ground, options.simplify)

        return self.outputs.folder.write(target, save)


def without_no_data(prediction: Prediction, path: Path) -> Prediction:
    """Set the no-data pixels of a GeoTIFF to the ignore value, as in training."""
    if nodata_of(path) is None:
        return prediction
    empty = no_data(path, read_raster(path))
    if empty is None or empty.shape != prediction.labels.shape or not empty.any():
        return prediction
    labels = np.where(empty, np.uint8(IGNORE_INDEX), prediction.labels)
    return replace(prediction, labels=labels)


def beyond_limits(path: Path) -> TiffInfo | None:
    """The size of a TIFF that is beyond the limits of one image and can be read in windows; None for others."""
    if path.suffix.lower() not in TIFF:
        return None
    limits = DEFAULT_LIMITS
    found = tiff_info(path)
    if found is None or found.dtype in ("None", "object"):
        return None
    total = found.height * found.width * found.bands * np.dtype(found.dtype).itemsize
    beyond = (
        found.height * found.width > limits.max_pixels
        or max(found.height, found.width) > limits.max_side
        or total > limits.max_bytes
        or path.stat().st_size > limits.max_bytes
    )
    if not beyond:
        return None
    if found.height * found.width > MAX_RASTER_PIXELS:
        raise TooLargeError(
            "the raster is larger than the limit for windows",
            expected=f"at most {MAX_RASTER_PIXELS} pixels",
            found=f"{found.width}×{found.height}",
            where=path,
            fix="cut it into parts: gdal_translate -srcwin X Y WIDTH HEIGHT IN.tif OUT.tif",
        )
    return found

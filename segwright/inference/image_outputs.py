"""The files of one prediction: mask, overlay, confidence, probabilities, uncertainty, polygons, areas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.core.types import IGNORE_INDEX, Float32Array, row_strips
from segwright.imageio import UInt8Array, encode_jpeg, encode_png, read_mask
from segwright.inference.cog import ReadRows
from segwright.inference.georeference import TIFF, Placement, write_geotiff
from segwright.inference.output_options import OutputOptions, file_values
from segwright.inference.outputs import OutputFolder
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.inference.quality import NO_ERROR_MODEL
from segwright.inference.tables import AreaTable, CocoTable
from segwright.inference.vectorize import geojson, labelme

COCO_FILE = "predictions.coco.json"
STRIP = 512  # rows of a raster that are in memory at a time
Item = dict[str, Any]


class ImageOutputs:
    """Writes predictions into a folder, in the formats of ``options``; ``note`` gets remarks for the user."""

    def __init__(
        self, predictor: Predictor, folder: OutputFolder, options: OutputOptions, note: Callable[[str], None]
    ) -> None:
        self.folder, self.options, self.note = folder, options, note
        self.space = predictor.label_space
        self.suffix = ""  # of masks
        self.coco: CocoTable | None = None  # both from open_tables
        self.areas: AreaTable | None = None
        self.values: npt.NDArray[Any] | None = None
        if options.mask_format == "values":
            bundle = predictor.bundle
            if bundle is not None and bundle.preprocessing.get("masks") == "colors":
                raise UsageError(
                    "the masks of the training data contain colors, not values",
                    expected="masks of numbers",
                    found=f"colors of {counted(len(self.space), 'class')}",
                    fix="--mask-format palette writes each class in its color, --mask-format index its number",
                )
            self.values = file_values(self.space, note)

    def open_tables(self) -> None:
        """Open the files over all images."""
        if "coco" in self.options.polygons:
            self.coco = CocoTable(self.folder.root, self.space, self.options.simplify)
        if self.options.areas is not None:
            self.areas = AreaTable(self.options.areas)

    def finish(self, result: Item) -> None:
        """Write the files over all images, and put their paths into ``result``."""
        try:
            if self.coco is not None and self.coco.images:
                path = self.folder.root / COCO_FILE
                self.folder.write(path, self.coco.save)
                result["coco"] = str(path)
        finally:
            if self.coco is not None:
                self.coco.close()
            if self.areas is not None:
                self.areas.finish()
                result["areas"] = str(self.areas.path)

    # -- names ------------------------------------------------------------------------------------------------------

    def mask_paths(self, name: str, path: Path) -> list[Path]:
        """The files that the mask of a source may become."""
        if self.options.mask_format == "npy":
            return [self.path(name, f"{self.suffix}.npy")]
        endings = (".png", ".tif") if path.suffix.lower() in TIFF else (".png",)
        return [self.path(name, self.suffix + ending) for ending in endings]

    def endings(self) -> list[str]:
        """The endings of the other files per image."""
        wanted = [
            (self.options.overlay, ".overlay.jpg"),
            (self.options.confidence, ".confidence.png"),
            (self.options.probabilities is not None, f".probabilities.{self.options.probabilities}"),
            (self.options.uncertainty is not None, f".uncertainty.{self.options.uncertainty_format}"),
            ("geojson" in self.options.polygons, ".geojson"),
            ("labelme" in self.options.polygons, ".json"),
        ]
        return [ending for one, ending in wanted if one]

    def path(self, name: str, ending: str) -> Path:
        """The file of an output."""
        return self.folder.root / f"{name}{ending}"

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(
        self, prediction: Prediction, name: str, source: Path | None, label: str, place: Placement | None
    ) -> Item:
        """Write all files of one prediction; their paths, shares and confidence. ``source``: its file, None if it is
        no local one; ``label``: what it is called."""
        item: Item = self.write_mask(prediction.labels, name, place)
        if self.options.overlay:
            path = self.path(name, ".overlay.jpg")
            item["overlay"] = str(self.folder.write_bytes(path, encode_jpeg(prediction.overlay())))
        if self.options.confidence:
            path = self.path(name, ".confidence.png")
            item["confidence"] = str(self.folder.write_bytes(path, encode_png(prediction.confidence_image())))
        if prediction.probabilities is not None and self.options.probabilities is not None:
            path = self.path(name, f".probabilities.{self.options.probabilities}")
            item["probabilities"] = str(self._write_probabilities(path, prediction.probabilities))
        if prediction.uncertainty is not None:
            path = self.path(name, f".uncertainty.{self.options.uncertainty_format}")
            values = prediction.uncertainty
            if path.suffix == ".npy":
                self.folder.write(path, lambda beside: np.save(beside, values))
            else:
                self.folder.write_bytes(path, encode_png(prediction.uncertainty_image()))
            item["uncertainty"] = str(path)
            item["mean_uncertainty"] = float(values.mean(dtype=np.float64))
        if "geojson" in self.options.polygons:
            ground = place.reference if place is not None else None
            at, epsg = (ground.at, ground.epsg) if ground is not None else (None, None)
            tree = geojson(prediction.labels, self.space, at, epsg, self.options.simplify)
            item["geojson"] = str(self.folder.write_bytes(self.path(name, ".geojson"), json.dumps(tree).encode()))
        if "labelme" in self.options.polygons:
            tree = labelme(
                prediction.labels, self.space, label if source is None else str(source.resolve()), self.options.simplify
            )
            item["labelme"] = str(self.folder.write_bytes(self.path(name, ".json"), json.dumps(tree).encode()))
        if self.coco is not None:
            self.coco.add(prediction.labels, label)
        item["shares"] = {key: value for key, value in prediction.shares().items() if value > 0}
        item["mean_confidence"] = float(prediction.confidence.mean())
        if prediction.windows is not None:
            item["windows"] = dict(prediction.windows)
        if self.options.quality:
            found = prediction.quality
            item["quality"] = found.to_json() if found is not None else {"note": NO_ERROR_MODEL}
        return item

    def write_mask(self, labels: npt.NDArray[Any], name: str, place: Placement | None) -> Item:
        """Write class indices (H, W) in the format of the options, at their place on the ground."""
        if place is not None and place.note:
            self.note(place.note)
        if self.options.mask_format == "npy":
            path = self.path(name, f"{self.suffix}.npy")
            self.folder.write(path, lambda beside: np.save(beside, np.asarray(labels)))
            if place is not None and (place.tags or place.sidecars):
                self.note("an .npy mask has no georeference; other mask formats keep it")
            return {"mask": str(path)}
        colors, ignore = self.space.palette() if self.options.mask_format == "palette" else None, IGNORE_INDEX
        values = labels
        if self.values is not None:
            values, ignore = self.values[labels], int(self.values[IGNORE_INDEX])
        if place is not None and place.tags:
            path = self.path(name, f"{self.suffix}.tif")
            self.folder.write(path, lambda beside: write_geotiff(beside, values, place, colors=colors, ignore=ignore))
            return {"mask": str(path), "placed": "the GeoTIFF tags of the source"}
        path = self.path(name, f"{self.suffix}.png")
        self.folder.write_bytes(path, encode_png(values, colors))
        if place is not None and place.sidecars:
            for ending, content in place.sidecars:
                self.folder.write_bytes(self.path(name, f"{self.suffix}.{ending}"), content)
            return {"mask": str(path), "placed": "the world file of the source"}
        return {"mask": str(path)}

    def write_raster_mask(self, read: ReadRows, shape: tuple[int, int], name: str, place: Placement | None) -> Item:
        """As :meth:`write_mask`, of a raster (H, W) whose rows are read as they are written: always a TIFF, or .npy."""
        if place is not None and place.note:
            self.note(place.note)
        if self.options.mask_format == "npy":
            path = self.path(name, f"{self.suffix}.npy")
            self.folder.write(path, lambda beside: _save_rows(beside, read, shape))
            return {"mask": str(path)}
        colors, ignore = self.space.palette() if self.options.mask_format == "palette" else None, IGNORE_INDEX
        values, kind = self.values, np.dtype(np.uint8)
        rows = read
        if values is not None:
            table = values
            kind, ignore = table.dtype, int(table[IGNORE_INDEX])
            rows = lambda top, bottom, step: table[read(top, bottom, step)]  # noqa: E731
        path = self.path(name, f"{self.suffix}.tif")
        self.folder.write(
            path,
            lambda beside: write_geotiff(beside, rows, place, shape=shape, dtype=kind, colors=colors, ignore=ignore),
        )
        placed = place is not None and bool(place.tags)
        return {"mask": str(path), **({"placed": "the GeoTIFF tags of the source"} if placed else {})}

    def _write_probabilities(self, path: Path, probabilities: Float32Array) -> Path:
        half = probabilities.astype(np.float16)
        if path.suffix == ".npy":
            return self.folder.write(path, lambda beside: np.save(beside, half))
        classes = np.array(self.space.names)
        return self.folder.write(path, lambda beside: np.savez_compressed(beside, probabilities=half, classes=classes))

    def area_rows(self, source: str, labels: npt.NDArray[Any], place: Placement | None) -> list[tuple[object, ...]]:
        """The rows of one image in the table of areas."""
        return self.area_rows_of(source, label_counts(labels), place)

    def area_rows_of(
        self, source: str, counts: npt.NDArray[np.int64], place: Placement | None
    ) -> list[tuple[object, ...]]:
        """As :meth:`area_rows`, from the pixels of each label (256,)."""
        pixel = place.pixel_area if place is not None else None
        unit = place.unit if place is not None and pixel is not None else ""
        total = max(1, int(counts.sum()))
        return [
            (
                source, name, int(counts[index]), f"{float(counts[index]) / total:.6f}",
                "" if pixel is None else f"{counts[index] * pixel:.10g}", unit,
            )
            for index, name in enumerate(self.space.names)
        ]  # fmt: skip

    def written_labels(self, mask: Path) -> UInt8Array:
        """The class indices (H, W) of a mask that was written before."""
        found = np.load(mask) if mask.suffix == ".npy" else read_mask(mask)
        if self.values is None:
            return np.asarray(found, np.uint8)
        table = np.full(65536, IGNORE_INDEX, np.uint8)
        for index in range(len(self.space)):
            table[self.values[index]] = index
        return table[found]


def _save_rows(path: Path, read: ReadRows, shape: tuple[int, int]) -> None:
    """An .npy file of uint8, strip by strip."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for top in range(0, shape[0], STRIP):
            file.write(np.ascontiguousarray(read(top, min(top + STRIP, shape[0]), 1)).tobytes())


def label_counts(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(256,): the number of pixels of each label (H, W)."""
    counts = np.zeros(256, np.int64)
    for rows in row_strips(labels):
        counts += np.bincount(labels[rows].ravel(), minlength=256)
    return counts

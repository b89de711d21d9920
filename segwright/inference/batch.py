"""Prediction of many files: every image is predicted and written, or listed with its error."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import check_output, write_text
from segwright.core.errors import DataError, ImageReadError, SegwrightError, TooLargeError, UsageError
from segwright.core.types import IGNORE_INDEX, Float32Array, LabelSpace
from segwright.imageio import (
    DEFAULT_LIMITS,
    TiffInfo,
    UInt8Array,
    encode_jpeg,
    encode_png,
    read_raster,
    read_window,
    tiff_info,
)
from segwright.inference.georeference import TIFF, Placement, no_data, placement, write_geotiff
from segwright.inference.output_options import OutputOptions, file_values
from segwright.inference.outputs import BESIDE_SOURCES, OutputFolder, OutputFolderError, unwritable
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.inference.quality import NO_ERROR_MODEL
from segwright.inference.sliding_window import Window
from segwright.inference.sources import Source, frame_count, frames_per_second, is_video, read_frames
from segwright.inference.thinned import ThinnedOutput
from segwright.inference.uncertainty import check_measure, parse_measure
from segwright.inference.vectorize import CocoWriter, geojson, labelme

COCO_FILE = "predictions.coco.json"
PALETTE_NOTE = (
    "masks are palette PNGs: their values are class indices, but OpenCV reads them as colors; --mask-format index "
    "writes plain gray ones"
)
Advance = Callable[[int], None]
Result = dict[str, Any]
Observe = Callable[[str, Prediction | ThinnedOutput], None]  # an image's name, and its prediction


def new_result(out: Path) -> Result:
    """The empty result of :func:`predict_source`."""
    return {"images": 0, "out": str(out), "results": [], "failed": [], "notes": []}


def predict_source(
    predictor: Predictor,
    source: Source,
    out: Path,
    options: OutputOptions,
    *,
    overwrite: bool = False,
    advance: Advance = lambda count: None,
    windows: Callable[[int], Advance] | None = None,
    observe: Observe | None = None,
    result: Result | None = None,
) -> Result:
    """Predict every file of ``source`` into the folder ``out``.

    A file that fails is listed under ``failed`` and the others continue; only an error that every further file would
    have too, such as a full disk, ends the run, with its reason in ``stopped``. The error of a single image is also
    raised. ``advance`` is called after every file or frame; ``windows`` is called with the number of windows of a
    single large image and returns its progress function. ``observe`` is called with every prediction of an observed
    predictor, before anything of it is written. ``result`` is filled during the work, so that it is not lost
    if the run is interrupted. UsageError, before anything is written, if an output would replace a source or a file
    that no prediction wrote.
    """
    found = result if result is not None else new_result(out)
    found["notes"] += source.notes
    folder = OutputFolder(out, source.files, overwrite=overwrite)
    folder.prepare()
    run = _Run(predictor, source, folder, options, found, advance, windows, observe)
    run.plan()
    try:
        run.work()
    finally:
        run.finish()
    return found


@dataclass
class _Run:
    predictor: Predictor
    source: Source
    folder: OutputFolder
    options: OutputOptions
    result: Result
    advance: Advance
    windows: Callable[[int], Advance] | None
    observe: Observe | None = None
    suffix: str = ""  # of masks

    def __post_init__(self) -> None:
        self.space: LabelSpace = self.predictor.label_space
        self.coco = CocoWriter(self.space, self.options.simplify) if "coco" in self.options.polygons else None
        self.rows: list[tuple[object, ...]] = []  # of the CSV file
        self.values: npt.NDArray[Any] | None = None
        if self.options.uncertainty is not None:
            check_measure(parse_measure(self.options.uncertainty), self.predictor.runtime)
        if self.options.mask_format == "values":
            bundle = self.predictor.bundle
            if bundle is not None and bundle.preprocessing.get("masks") == "colors":
                raise UsageError(
                    "the masks of the training data contain colors, not values",
                    expected="masks of numbers",
                    found=f"colors of {len(self.space)} classes",
                    fix="--mask-format palette writes each class in its color, --mask-format index its number",
                )
            self.values = file_values(self.space, self.note)

    # -- before ---------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Raise UsageError if an output would replace a source or a foreign file."""
        images = [(path, name) for path, name in self.source.names.items() if not is_video(path)]
        masks = [mask for path, name in images for mask in self._mask_paths(name, path)]
        if any(self.folder.is_source(mask) for mask in masks):
            self.suffix = BESIDE_SOURCES
            self.note(f"the output folder contains the sources, so masks are named NAME{BESIDE_SOURCES}.png")
            masks = [mask for path, name in images for mask in self._mask_paths(name, path)]
        others = [self._path(name, ending) for _, name in images for ending in self._endings()]
        alone = [self.folder.root / COCO_FILE] if self.coco is not None else []
        if self.options.areas is not None:
            if self.folder.is_source(self.options.areas):
                raise UsageError("the CSV file would replace a source", where=self.options.areas, fix="another name")
            _check_writable(self.options.areas)
        self.folder.refuse_foreign([*masks, *others, *alone])

    def _mask_paths(self, name: str, path: Path) -> list[Path]:
        if self.options.mask_format == "npy":
            return [self._path(name, f"{self.suffix}.npy")]
        endings = (".png", ".tif") if path.suffix.lower() in TIFF else (".png",)
        return [self._path(name, self.suffix + ending) for ending in endings]

    def _endings(self) -> list[str]:
        wanted = [
            (self.options.overlay, ".overlay.jpg"),
            (self.options.confidence, ".confidence.png"),
            (self.options.probabilities is not None, f".probabilities.{self.options.probabilities}"),
            (self.options.uncertainty is not None, f".uncertainty.{self.options.uncertainty_format}"),
            ("geojson" in self.options.polygons, ".geojson"),
            ("labelme" in self.options.polygons, ".json"),
        ]
        return [ending for one, ending in wanted if one]

    def _path(self, name: str, ending: str) -> Path:
        return self.folder.root / f"{name}{ending}"

    def note(self, text: str) -> None:
        if text not in self.result["notes"]:
            self.result["notes"].append(text)

    # -- the work -------------------------------------------------------------------------------------------------

    def work(self) -> None:
        for number, (path, name) in enumerate(self.source.names.items()):
            try:
                if is_video(path):
                    self._video(path, name)
                else:
                    self._done(path, self._image(path, name))
            except OutputFolderError as error:
                self._failed(path, error)
                if error.lasting:
                    left = len(self.source.names) - number - 1
                    self.result["stopped"] = f"{error.message}: {error.found}; {left} further files were not predicted"
                    return
            except Exception as error:  # of decoders and others: an invalid file fails alone
                self._failed(path, error)
            if not is_video(path):
                self.advance(1)

    def finish(self) -> None:
        """Write the files over all images, and the list of written files."""
        for note in self.predictor.notes:
            self.note(note)
        if self.options.mask_format == "palette" and any(
            str(item.get("mask", "")).endswith(".png") for item in self.result["results"]
        ):
            self.note(PALETTE_NOTE)
        try:
            if self.coco is not None and self.coco.images:
                path = self.folder.root / COCO_FILE
                self.folder.write_bytes(path, json.dumps(self.coco.tree()).encode())
                self.result["coco"] = str(path)
            if self.options.areas is not None:
                write_text(self.options.areas, _csv(self.rows))
                self.result["areas"] = str(self.options.areas)
            self.folder.finish()
        except OSError as error:
            self.result.setdefault("stopped", str(unwritable(self.folder.root, error)))
        except OutputFolderError as error:
            self.result.setdefault("stopped", str(error))

    def _done(self, path: Path, item: Result) -> None:
        self.result["results"].append({"file": str(path), **item})
        self.result["images"] += 1

    def _failed(self, path: Path, error: Exception, frame: int | None = None) -> None:
        typed = error
        if not isinstance(error, SegwrightError):
            typed = ImageReadError(
                "the file cannot be predicted", found=f"{type(error).__name__}: {str(error)[:300]}", where=path
            )
        entry: dict[str, Any] = {"file": str(path), "error": str(typed), "kind": type(typed).__name__}
        self.result["failed"].append(entry if frame is None else {**entry, "frame": frame})
        if self.source.kind == "image":
            raise typed

    def _image(self, path: Path, name: str) -> Result:
        large = _too_large(path)
        if large is not None:
            return self._large_raster(path, name, large)
        image = self.predictor.read(path)
        single = self.windows is not None and len(self.source.names) == 1
        inner: Advance = lambda count: None  # noqa: E731
        if single and self.windows is not None:
            inner = self.windows(self.predictor.window_count(image))
        prediction = self._predict(image, inner)
        self._observed(name, prediction)
        place = placement(path)
        if path.suffix.lower() in TIFF:
            prediction = _without_no_data(prediction, path)
        return self._write(prediction, name, path, place)

    def _observed(self, name: str, prediction: Prediction | ThinnedOutput | None) -> None:
        if self.observe is not None and prediction is not None:
            self.observe(name, prediction)

    def _predict(self, image: UInt8Array, advance: Advance = lambda count: None) -> Prediction:
        return self.predictor.predict(
            image,
            probabilities=self.options.probabilities is not None,
            uncertainty=self.options.uncertainty,
            quality=self.options.quality,
            advance=advance,
        )

    def _write(self, prediction: Prediction, name: str, source: Path, place: Placement | None) -> Result:
        item: Result = self._write_mask(prediction.labels, name, place)
        if self.options.overlay:
            path = self._path(name, ".overlay.jpg")
            item["overlay"] = str(self.folder.write_bytes(path, encode_jpeg(prediction.overlay())))
        if self.options.confidence:
            path = self._path(name, ".confidence.png")
            item["confidence"] = str(self.folder.write_bytes(path, encode_png(prediction.confidence_image())))
        if prediction.probabilities is not None and self.options.probabilities is not None:
            path = self._path(name, f".probabilities.{self.options.probabilities}")
            item["probabilities"] = str(self._write_probabilities(path, prediction.probabilities))
        if prediction.uncertainty is not None:
            path = self._path(name, f".uncertainty.{self.options.uncertainty_format}")
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
            item["geojson"] = str(self.folder.write_bytes(self._path(name, ".geojson"), json.dumps(tree).encode()))
        if "labelme" in self.options.polygons:
            tree = labelme(prediction.labels, self.space, str(source.resolve()), self.options.simplify)
            item["labelme"] = str(self.folder.write_bytes(self._path(name, ".json"), json.dumps(tree).encode()))
        if self.coco is not None:
            self.coco.add(prediction.labels, str(source))
        item["shares"] = {key: value for key, value in prediction.shares().items() if value > 0}
        item["mean_confidence"] = float(prediction.confidence.mean())
        if self.options.quality:
            found = prediction.quality
            item["quality"] = found.to_json() if found is not None else {"note": NO_ERROR_MODEL}
        self._count(source, prediction.labels, place)
        return item

    def _write_mask(self, labels: npt.NDArray[Any], name: str, place: Placement | None, tiff: bool = False) -> Result:
        if place is not None and place.note:
            self.note(place.note)
        if self.options.mask_format == "npy":
            path = self._path(name, f"{self.suffix}.npy")
            self.folder.write(path, lambda beside: np.save(beside, np.asarray(labels)))
            if place is not None and (place.tags or place.sidecars):
                self.note("an .npy mask has no georeference; other mask formats keep it")
            return {"mask": str(path)}
        colors, ignore = self.space.palette() if self.options.mask_format == "palette" else None, IGNORE_INDEX
        values = labels
        if self.values is not None:
            values, ignore = self.values[labels], int(self.values[IGNORE_INDEX])
        if tiff or (place is not None and place.tags):
            path = self._path(name, f"{self.suffix}.tif")
            self.folder.write(path, lambda beside: write_geotiff(beside, values, place, colors=colors, ignore=ignore))
            placed = place is not None and bool(place.tags)
            return {"mask": str(path), **({"placed": "the GeoTIFF tags of the source"} if placed else {})}
        path = self._path(name, f"{self.suffix}.png")
        self.folder.write_bytes(path, encode_png(values, colors))
        if place is not None and place.sidecars:
            for ending, content in place.sidecars:
                self.folder.write_bytes(self._path(name, f"{self.suffix}.{ending}"), content)
            return {"mask": str(path), "placed": "the world file of the source"}
        return {"mask": str(path)}

    def _write_probabilities(self, path: Path, probabilities: Float32Array) -> Path:
        half = probabilities.astype(np.float16)
        if path.suffix == ".npy":
            return self.folder.write(path, lambda beside: np.save(beside, half))
        classes = np.array(self.space.names)
        return self.folder.write(path, lambda beside: np.savez_compressed(beside, probabilities=half, classes=classes))

    def _count(self, source: Path, labels: npt.NDArray[Any], place: Placement | None) -> None:
        if self.options.areas is None:
            return
        counts = np.zeros(256, np.int64)
        for rows in _strips(labels):
            counts += np.bincount(labels[rows].ravel(), minlength=256)
        pixel = place.pixel_area if place is not None else None
        for index, name in enumerate(self.space.names):
            area = "" if pixel is None else f"{counts[index] * pixel:.10g}"
            unit = place.unit if place is not None and pixel is not None else ""
            share = float(counts[index]) / labels.size
            self.rows.append((str(source), name, int(counts[index]), f"{share:.6f}", area, unit))

    # -- rasters that are read by windows ---------------------------------------------------------------------------

    def _large_raster(self, path: Path, name: str, size: TiffInfo) -> Result:
        """Predict a TIFF beyond the limits of one image: read in windows, labels on the disk, written as a TIFF."""
        height, width = size.height, size.width
        place = placement(path)
        skipped = [ending for ending in self._endings() if ending != ".confidence.png"]
        if skipped or self.coco is not None:
            self.note(
                f"{path.name} is read in windows: of such rasters only the mask, the class shares and the confidence "
                "are written"
            )
        with tempfile.TemporaryDirectory(dir=self.folder.root, prefix=".writing-") as temporary:
            beside = Path(temporary)
            labels = np.memmap(beside / "labels", np.uint8, "w+", shape=(height, width))
            certain = None
            if self.options.confidence:
                certain = np.memmap(beside / "confidence", np.uint8, "w+", shape=(height, width))
            empty: dict[Window, npt.NDArray[np.bool_] | None] = {}
            total = [0.0]

            def read(part: Window) -> UInt8Array:
                shape = (part.bottom - part.top, part.right - part.left)
                raster = read_window(path, part.top, part.left, *shape)
                empty[part] = no_data(path, raster)
                return self.predictor.scaled(raster, path)

            def write(part: Window, found: UInt8Array, confidence: Float32Array) -> None:
                nothing = empty.pop(part)
                if nothing is not None:
                    found = np.where(nothing, np.uint8(IGNORE_INDEX), found)
                labels[part.core] = found[part.core_in_window]
                total[0] += float(confidence[part.core_in_window].sum(dtype=np.float64))
                if certain is not None:
                    certain[part.core] = (confidence[part.core_in_window] * 255 + 0.5).astype(np.uint8)
                inner(1)

            inner: Advance = lambda count: None  # noqa: E731
            if self.windows is not None and len(self.source.names) == 1:
                inner = self.windows(self.predictor.window_count(labels))
            self._observed(name, self.predictor.predict_windows(height, width, read, write))
            item = self._write_mask(labels, name, place, tiff=True)
            if certain is not None:
                target = self._path(name, ".confidence.tif")
                values = certain
                self.folder.write(target, lambda beside: write_geotiff(beside, values, place, ignore=None))
                item["confidence"] = str(target)
            counts = np.zeros(256, np.int64)
            for rows in _strips(labels):
                counts += np.bincount(labels[rows].ravel(), minlength=256)
            item["shares"] = {n: float(c) / labels.size for n, c in zip(self.space.names, counts, strict=False) if c}
            item["mean_confidence"] = total[0] / labels.size
            if self.options.quality:
                item["quality"] = {"note": "not estimated for a raster that is read in windows"}
            self._count(path, labels, place)
        return item

    # -- videos -----------------------------------------------------------------------------------------------------

    def _video(self, path: Path, name: str) -> None:
        if self.options.video:
            target = self._path(name, ".overlay.mp4")
            frames = [0]

            def save(beside: Path) -> None:
                frames[0] = self._write_video(path, beside, name)

            self.folder.write(target, save)
            self._done(path, {"video": str(target), "frames": frames[0]})
            return
        count = 0
        for count, frame in enumerate(read_frames(path), 1):
            try:
                prediction = self._predict(frame)
                self._observed(f"{name}-{count - 1:06d}", prediction)
                item = self._write(prediction, f"{name}-{count - 1:06d}", path, None)
                self._done(path, {"frame": count - 1, **item})
            except OutputFolderError as error:
                if error.lasting:
                    raise
                self._failed(path, error, count - 1)
            except Exception as error:
                self._failed(path, error, count - 1)
            self.advance(1)
        self._check_length(path, count)

    def _write_video(self, path: Path, beside: Path, name: str) -> int:
        """Write the overlay of every frame; a frame that fails is listed and written without labels."""
        writer: cv2.VideoWriter | None = None
        count = 0
        try:
            for count, frame in enumerate(read_frames(path), 1):
                try:
                    prediction = self.predictor.predict(frame)
                    self._observed(f"{name}-{count - 1:06d}", prediction)
                    shown = prediction.overlay()
                except Exception as error:
                    self._failed(path, error, count - 1)
                    shown = frame
                if writer is None:
                    height, width = shown.shape[:2]
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(beside), code, frames_per_second(path), (width, height))
                    if not writer.isOpened():
                        raise OutputFolderError(
                            "this build of OpenCV cannot write an .mp4 video",
                            where=beside.with_name(f"{path.stem}.overlay.mp4"),
                            fix="leave out --video, for a mask and an overlay per frame",
                        )
                writer.write(cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
                self.advance(1)
        finally:
            if writer is not None:
                writer.release()
        self._check_length(path, count)
        written = frame_count(beside) or 0
        if written < count:  # OpenCV does not report a full disk
            raise OutputFolderError(
                "the video could not be written completely", expected=f"{count} frames", found=str(written), where=path,
                fix="free some space, or another folder with --out",
            )  # fmt: skip
        return count

    def _check_length(self, path: Path, count: int) -> None:
        if count == 0:
            raise DataError("no frame of the video can be decoded", where=path, fix="convert it to H.264 in .mp4")
        stated = frame_count(path)
        if stated is not None and stated > count:
            self.note(f"{path}: {count} frames could be decoded, its header states {stated}")


def _without_no_data(prediction: Prediction, path: Path) -> Prediction:
    """Set the no-data pixels of a GeoTIFF to the ignore value, as in training."""
    from segwright.data.formats.geotiff import nodata_of

    if nodata_of(path) is None:
        return prediction
    empty = no_data(path, read_raster(path))
    if empty is None or empty.shape != prediction.labels.shape or not empty.any():
        return prediction
    labels = np.where(empty, np.uint8(IGNORE_INDEX), prediction.labels)
    return replace(prediction, labels=labels)


def _too_large(path: Path) -> TiffInfo | None:
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


MAX_RASTER_PIXELS = 50_000_000_000  # one byte on the disk per pixel, for the labels


def _strips(labels: npt.NDArray[Any]) -> Iterator[slice]:
    height = max(1, 16_000_000 // max(1, labels.shape[1]))
    for top in range(0, labels.shape[0], height):
        yield slice(top, top + height)


def _csv(rows: list[tuple[object, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("file", "class", "pixels", "share", "area", "area_unit"))
    writer.writerows(rows)
    return buffer.getvalue()


def _check_writable(path: Path) -> None:
    """Raise OutputFolderError if a file cannot be written at ``path``; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_output(path)
    except OSError as error:
        raise unwritable(path, error) from error

"""Prediction of many files: every image is predicted and written, or listed with its error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import check_output
from segwright.core.counted import counted
from segwright.core.errors import DataError, ImageReadError, OutputError, SegwrightError, UsageError
from segwright.core.telemetry import span
from segwright.imageio import UInt8Array
from segwright.inference.georeference import TIFF, Placement, placement
from segwright.inference.image_outputs import COCO_FILE, ImageOutputs
from segwright.inference.ledger import Ledger
from segwright.inference.origins import url_text
from segwright.inference.output_options import OutputOptions
from segwright.inference.outputs import BESIDE_SOURCES, OutputFolder, OutputFolderError, unwritable
from segwright.inference.pages import page_images
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.inference.rasters import RasterJob, beyond_limits, without_no_data
from segwright.inference.remote_outputs import RemoteFolder, RemoteLedger
from segwright.inference.sources import Source
from segwright.inference.thinned import ThinnedOutput
from segwright.inference.uncertainty import check_measure, parse_measure
from segwright.inference.video_outputs import write_video
from segwright.inference.videos import LiveFrames, frame_count, frames_per_second, is_video, read_frames

PALETTE_NOTE = (
    "masks are palette PNGs: their values are class indices, but OpenCV reads them as colors; --mask-format index "
    "writes plain gray ones"
)
RASTER_ENDINGS = (".confidence.png", ".overlay.jpg", ".geojson")  # that RasterJob writes
Advance = Callable[[int], None]
Result = dict[str, Any]
Observe = Callable[[str, Prediction | ThinnedOutput], None]  # an image's name, and its prediction


@dataclass(frozen=True)
class RunOptions:
    """How a run over many files goes."""

    overwrite: bool = False  # replace files in the output folder that no prediction wrote
    resume: bool = False  # leave out what an earlier run has finished
    frames: int | None = None  # of a video, camera or stream; None: to its end
    model: str = ""  # names the weights, so that only a run of the same model is resumed


def new_result(out: Path | str) -> Result:
    """The empty result of :func:`predict_source`."""
    return {"images": 0, "out": url_text(str(out)), "results": [], "failed": [], "notes": []}


def predict_source(
    predictor: Predictor,
    source: Source,
    out: Path | str,
    options: OutputOptions,
    *,
    run: RunOptions | None = None,
    advance: Advance = lambda count: None,
    windows: Callable[[int], Advance] | None = None,
    observe: Observe | None = None,
    result: Result | None = None,
) -> Result:
    """Predict every file of ``source`` into the folder ``out``, which may be a URL of fsspec.

    A file that fails is listed under ``failed`` and the others continue; only an error that every further file would
    have too, such as a full disk, ends the run, with its reason in ``stopped``. The error of a single image is also
    raised. ``advance`` is called after every file or frame; ``windows`` is called with the number of windows of a
    single large image and returns its progress function. ``observe`` is called with every prediction of an observed
    predictor, before anything of it is written. ``result`` is filled during the work, so that it is not lost
    if the run is interrupted. UsageError, before anything is written, if an output would replace a source or a file
    that no prediction wrote, or if the run to be resumed had another model or other options.
    """
    found = result if result is not None else new_result(out)
    found["notes"] += source.notes
    chosen = run or RunOptions()
    folder = _output_folder(out, source, chosen.overwrite)
    try:
        folder.prepare()
        job = _Run(predictor, source, folder, options, chosen, found, advance, windows, observe)
        job.plan()
    except BaseException:
        folder.abandon()
        raise
    try:
        job.work()
    finally:
        job.finish()
    return found


def run_settings(predictor: Predictor, options: OutputOptions) -> dict[str, Any]:
    """What a run that is resumed must have in common with the earlier one, besides the model."""
    kept = {key: value for key, value in asdict(options).items() if key != "areas"}
    return {
        **kept, "areas": options.areas is not None, "postprocess": str(predictor.pipeline or "none"),
        "tta": str(predictor.tta or "none"), "eight_bit": predictor.eight_bit or "",
    }  # fmt: skip


@dataclass
class _Run:
    predictor: Predictor
    source: Source
    folder: OutputFolder
    options: OutputOptions
    run: RunOptions
    result: Result
    advance: Advance
    windows: Callable[[int], Advance] | None
    observe: Observe | None = None

    def __post_init__(self) -> None:
        if self.options.uncertainty is not None:
            check_measure(parse_measure(self.options.uncertainty), self.predictor.runtime)
        self.outputs = ImageOutputs(self.predictor, self.folder, self.options, self.note)
        self.settings = {"model": self.run.model, **run_settings(self.predictor, self.options)}
        remote = self.folder if isinstance(self.folder, RemoteFolder) else None
        self.ledger = (
            Ledger(self.folder.root, self.settings, resume=self.run.resume)
            if remote is None
            else RemoteLedger(remote, self.settings, resume=self.run.resume)
        )
        # One image has no progress to keep; the windows of a large one are kept by RasterJob.
        self.kept = (
            remote is not None
            or self.run.resume
            or len(self.source.files) > 1
            or self.source.kind in ("video", "archive")
        )

    # -- before -----------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Raise UsageError if an output would replace a source or a foreign file."""
        names = self.source.names
        images = [(path, name) for path, name in names.items() if not is_video(path) and path not in self.source.lives]
        if any(self.folder.is_source(mask) for path, name in images for mask in self.outputs.mask_paths(name, path)):
            self.outputs.suffix = BESIDE_SOURCES
            self.note(f"the output folder contains the sources, so masks are named NAME{BESIDE_SOURCES}.png")
        new = [(path, name) for path, name in images if self._earlier(name, path) is None]
        masks = [mask for path, name in new for mask in self.outputs.mask_paths(name, path)]
        others = [self.outputs.path(name, ending) for _, name in new for ending in self.outputs.endings()]
        alone = [self.folder.root / COCO_FILE] if "coco" in self.options.polygons else []
        if self.options.areas is not None:
            if self.folder.is_source(self.options.areas):
                raise UsageError("the CSV file would replace a source", where=self.options.areas, fix="another name")
            _check_writable(self.options.areas)
        self.folder.refuse_foreign([*masks, *others, *alone])
        self.outputs.open_tables()

    def note(self, text: str) -> None:
        """Keep a remark for the user, once."""
        if text not in self.result["notes"]:
            self.result["notes"].append(text)

    # -- the work ---------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Predict the files in order."""
        if not any(is_video(path) or path in self.source.lives for path in self.source.names):
            given = {"--video": self.options.video, "--frames": self.run.frames is not None}
            if unused := [name for name, is_given in given.items() if is_given]:
                self.note(f"{' and '.join(unused)} did nothing: no source is a video, a camera or a stream")
        for number, (path, name) in enumerate(self.source.names.items()):
            frames = is_video(path) or path in self.source.lives
            try:
                if path in self.source.lives:
                    with span("segwright.predict", kind="live"):
                        self._live(path, name)
                elif not self._resumed(name, path):
                    with span("segwright.predict", kind="video" if frames else "image"):
                        self._one_file(path, name, frames)
            except OutputFolderError as error:
                self._failed(path, error)
                if error.lasting:
                    left = len(self.source.names) - number - 1
                    self.result["stopped"] = f"{error.message}: {error.found}; {left} further files were not predicted"
                    return
            except Exception as error:  # of decoders and others: an invalid file fails alone
                self._failed(path, error)
            if not frames:
                self.advance(1)

    def _one_file(self, path: Path, name: str, frames: bool) -> None:
        with self.source.local(path) as local:
            if frames:
                self._video(path, local, name)
            else:
                self._image(path, local, name)

    def finish(self) -> None:
        """Write the files over all images, and the list of written files."""
        for note in self.predictor.notes:
            self.note(note)
        if self.options.mask_format == "palette" and any(
            str(item.get("mask", "")).endswith(".png") for item in self.result["results"]
        ):
            self.note(PALETTE_NOTE)
        try:
            self.outputs.finish(self.result)
            if "coco" in self.result:
                self.result["coco"] = self.folder.shown_name(self.result["coco"])
            self.folder.finish()
        except OSError as error:
            self.result.setdefault("stopped", str(unwritable(self.folder.root, error)))
        except (OutputFolderError, OutputError) as error:
            self.result.setdefault("stopped", str(error))
        finally:
            self.ledger.close()

    def _earlier(self, name: str, path: Path) -> dict[str, Any] | None:
        return self.ledger.finished(name, self.source.stamp(path)) if self.run.resume else None

    def _resumed(self, name: str, path: Path) -> bool:
        """Whether an earlier run has finished this image; its results are those of then."""
        entry = self._earlier(name, path)
        if entry is None:
            return False
        item = entry["item"]
        if self.outputs.coco is not None and "mask" in item:
            self.outputs.coco.add(self.outputs.written_labels(self.folder.fetch(item["mask"])), self.source.label(path))
        if self.outputs.areas is not None:
            self.outputs.areas.add(entry.get("rows", ()))
        self.result["results"].append(item)
        self.result["images"] += 1
        self.result["resumed"] = self.result.get("resumed", 0) + 1
        return True

    def _done(self, path: Path, name: str, item: Result, rows: list[Any] | None = None) -> None:
        entry = {"file": self.source.label(path), **self._named_outputs(item)}
        if self.kept:
            try:
                self.ledger.add(name, self.source.stamp(path), entry, rows or [])
            except OutputError as error:  # what was predicted is in place
                self.kept = False
                self.note(f"the run cannot be resumed: {error.message}: {error.found}")
        if self.outputs.areas is not None and rows is not None:
            self.outputs.areas.add(rows)
        self.result["results"].append(entry)
        self.result["images"] += 1

    def _named_outputs(self, item: Result) -> Result:
        return {key: self.folder.shown_name(one) if isinstance(one, str) else one for key, one in item.items()}

    def _failed(self, path: Path, error: Exception, frame: int | None = None) -> None:
        self.folder.discard()
        typed, label = error, self.source.label(path)
        if not isinstance(error, SegwrightError):
            typed = ImageReadError(
                "the file cannot be predicted", found=f"{type(error).__name__}: {str(error)[:300]}", where=label
            )
        text = _named(str(typed), typed, label)
        entry: dict[str, Any] = {"file": label, "error": text, "kind": type(typed).__name__}
        self.result["failed"].append(entry if frame is None else {**entry, "frame": frame})
        if self.source.kind == "image" or (self.source.kind == "live" and frame is None):
            raise typed

    def _image(self, path: Path, local: Path, name: str) -> None:
        large = beyond_limits(local)
        if large is not None:
            self._large_raster(path, local, name, large)
            return
        pages = page_images(self.predictor, local)
        if pages is not None:
            self._frames(path, name, pages, "page")
            return
        image = self.predictor.read(local)
        inner: Advance = lambda count: None  # noqa: E731
        if self.windows is not None and len(self.source.names) == 1:
            inner = self.windows(self.predictor.window_count(image))
        prediction = self._predict(image, inner)
        self._observed(name, prediction)
        place = placement(local)
        if local.suffix.lower() in TIFF:
            prediction = without_no_data(prediction, local)
        self._written(path, name, prediction, place, {})

    def _written(
        self, path: Path, name: str, prediction: Prediction, place: Placement | None, facts: Mapping[str, Any]
    ) -> None:
        """Write a prediction, and keep what was written."""
        label = self.source.label(path)
        item = self.outputs.write(prediction, name, path if path not in self.source.origins else None, label, place)
        rows = self.outputs.area_rows(label, prediction.labels, place) if self.outputs.areas is not None else None
        self._done(path, name, {**facts, **item}, rows)

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

    def _large_raster(self, path: Path, local: Path, name: str, size: Any) -> None:
        """Predict a TIFF beyond the limits of one image."""
        left_out = [ending for ending in self.outputs.endings() if ending not in RASTER_ENDINGS]
        if self.outputs.coco is not None:
            left_out.append(COCO_FILE)
        if left_out:
            self.note(f"{path.name} is read in windows; of such rasters these are not written: {', '.join(left_out)}")
        settings = {**self.settings, "source": [self.source.label(path), self.source.stamp(path)]}
        job = RasterJob(self.predictor, self.outputs, local, name, size, settings, resume=self.run.resume)
        item, counts, thinned = job.run(self.windows if len(self.source.names) == 1 else None)
        self._observed(name, thinned)
        rows = None
        if self.outputs.areas is not None:
            rows = self.outputs.area_rows_of(self.source.label(path), counts, job.place)
        self._done(path, name, item, rows)

    # -- frames -----------------------------------------------------------------------------------------------------

    def _video(self, path: Path, local: Path, name: str) -> None:
        frames = islice(read_frames(local), self.run.frames)
        if self.options.video:
            count = self._as_video(path, name, frames, frames_per_second(local))
        else:
            count = self._frames(path, name, frames, "frame")
        if count == 0:
            raise DataError("no frame of the video can be decoded", where=self.source.label(path),
                            fix="convert it to H.264 in .mp4")  # fmt: skip
        stated = frame_count(local)
        if stated is not None and stated > count and self.run.frames is None:
            self.note(
                f"{self.source.label(path)}: {counted(count, 'frame')} could be decoded, its header states {stated}"
            )

    def _live(self, path: Path, name: str) -> None:
        """Predict the frames of a camera or stream until it ends, or Ctrl-C."""
        live = LiveFrames(self.source.lives[path])
        frames = islice(live, self.run.frames)
        try:
            if self.options.video:
                self._as_video(path, name, frames, 25.0)
            else:
                self._frames(path, name, frames, "frame")
        except KeyboardInterrupt:
            self.note(f"{live.live.label}: stopped after {counted(self.result['images'], 'frame')}")
        if live.reconnects:
            self.note(f"{live.live.label}: the stream broke off and was opened again {live.reconnects} times")
        if live.lost:
            count = self.result["images"]
            self.result["stopped"] = f"{live.live.label}: {live.lost}; {counted(count, 'frame', 'was')} predicted"
        if live.dropped:
            self.note(f"{live.live.label}: {counted(live.dropped, 'frame')} came faster than they could be predicted")

    def _frames(self, path: Path, name: str, frames: Iterable[UInt8Array], kind: str) -> int:
        """Predict and write each frame or page; the number of them."""
        count = 0
        for count, frame in enumerate(frames, 1):
            number = count - 1
            own = f"{name}-{number:06d}"
            try:
                if not self._resumed(own, path):
                    prediction = self._predict(frame)
                    self._observed(own, prediction)
                    self._written(path, own, prediction, None, {kind: number})
            except OutputFolderError as error:
                if error.lasting:
                    raise
                self._failed(path, error, number)
            except Exception as error:
                self._failed(path, error, number)
            if kind == "frame":
                self.advance(1)
        return count

    def _as_video(self, path: Path, name: str, frames: Iterator[UInt8Array], rate: float) -> int:
        """Write the overlay of every frame; a frame that fails is listed and written without labels."""
        counted = [0]

        def show(number: int, frame: UInt8Array) -> UInt8Array:
            try:
                prediction = self.predictor.predict(frame)
                self._observed(f"{name}-{number:06d}", prediction)
                return prediction.overlay()
            except Exception as error:
                self._failed(path, error, number)
                return frame
            finally:
                self.advance(1)

        def save(beside: Path) -> None:
            counted[0] = write_video(beside, frames, show, rate, name)

        target = self.outputs.path(name, ".overlay.mp4")
        self.folder.write(target, save)
        self._done(path, name, {"video": str(target), "frames": counted[0]})
        return counted[0]


def _named(text: str, error: SegwrightError | Exception, label: str) -> str:
    """The error's text with the name of the source, in place of a temporary file's or of none."""
    where = getattr(error, "where", None)
    if where is None and label not in text:
        return f"{label}: {text}"
    return text.replace(where, label) if where and "segwright-" in where and where not in label else text


def _output_folder(out: Path | str, source: Source, overwrite: bool) -> OutputFolder:
    if "://" in str(out):
        return RemoteFolder(str(out), [origin.label for origin in source.origins.values()], overwrite=overwrite)
    return OutputFolder(Path(out), source.files, overwrite=overwrite)


def _check_writable(path: Path) -> None:
    """Raise OutputFolderError if a file cannot be written at ``path``; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_output(path)
    except OSError as error:
        raise unwritable(path, error) from error

"""The predictor: from a saved model (bundle, run folder or exported file) and an image to a :class:`Prediction`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segwright.core.deprecated import renamed_attribute
from segwright.core.errors import BundleError, ModelError, SegwrightError, UsageError
from segwright.core.types import Float32Array, LabelSpace
from segwright.data.records import ValueRange
from segwright.imageio import UInt8Array, read_header, read_image, read_raster
from segwright.inference.ahead import WriteBehind
from segwright.inference.attachments import Attachment, attachment_names
from segwright.inference.blending import Strips
from segwright.inference.description import Bundle, read_attachment, read_bundle
from segwright.inference.description import find_bundle as find_bundle
from segwright.inference.exported_files import ExportedFile, find_exported, open_exported
from segwright.inference.passes import Answer, Passes
from segwright.inference.pixels import as_rgb, check_image, fit_channels
from segwright.inference.prediction import Prediction
from segwright.inference.quality import (
    ATTACHMENT,
    OUTDATED,
    ErrorModel,
    Quality,
    is_outdated,
    parse_error_model,
    thinning,
)
from segwright.inference.runtime_choice import choose_runtime
from segwright.inference.runtimes import Runtime, features_of, labels_and_scores
from segwright.inference.sliding_window import DEFAULT_WINDOW, Window
from segwright.inference.thinned import ThinnedOutput, Thinner
from segwright.inference.tta import TestTimeAugmentation, parse_tta
from segwright.inference.uncertainty import UncertaintyMeasure, check_measure, parse_measure, uncertainty_map
from segwright.inference.window_run import UNKNOWN, Windowing, WindowRun
from segwright.inference.windowed import Assembly, Wanted, check_finite, is_out_of_memory
from segwright.postprocess.pipeline import Pipeline, parse_pipeline

if TYPE_CHECKING:
    from segwright.models.base import SegmentationModel

AnyArray = npt.NDArray[Any]
Advance = Callable[[int], None]  # called with the number of windows that are finished
ReadWindow = Callable[[Window], AnyArray]
WriteWindow = Callable[[Window, UInt8Array, Float32Array], None]

MIN_WINDOW = 128  # pixels; smaller windows are not tried if memory runs out
DEEP_ENDINGS = (".tif", ".tiff", ".png", ".pgm", ".ppm")
STRETCHED = (
    "images of more than 8 bits: the model has no value range, so each image is scaled from its own lowest to its own "
    "highest value"
)
STRETCHED_DATA = "images of more than 8 bits: the model has no value range, so the one of this dataset is used"
READINGS = {
    "scaled": "8-bit images for a model of deeper ones: their values are taken as already scaled to 0…255",
    "raw": "8-bit images for a model of deeper ones: their values are taken as units of the model's value range",
}


def _no_progress(count: int) -> None:
    """Ignore the progress."""


class Predictor:
    """A network with its label space, for images of any size.

    ``post``: a pipeline of :mod:`segwright.postprocess.pipeline`; "none" turns off the one saved with the model.
    ``tta``: test-time augmentation, such as "flip,0.75,1,1.25". Images of more than ``window``² pixels are predicted in
    overlapping windows, including augmentation and CRF, so that memory does not grow with classes × pixels.
    ``eight_bit``: how a model of deeper images reads 8-bit ones, see :meth:`segwright.data.records.ValueRange.scale`.
    """

    def __init__(
        self,
        runtime: Runtime,
        label_space: LabelSpace,
        *,
        bundle: Bundle | None = None,
        post: str | None = None,
        tta: str | None = None,
        eight_bit: str | None = None,
    ) -> None:
        if eight_bit not in (None, *READINGS):
            raise UsageError("unknown reading of 8-bit images", expected=", ".join(READINGS), found=str(eight_bit))
        if runtime.classes != label_space.classes:
            raise ModelError(
                "network and label space differ",
                expected=f"{label_space.classes} classes",
                found=f"{runtime.classes} outputs",
            )
        self.runtime = runtime
        self.label_space = label_space
        self.bundle = bundle
        text = post if post is not None else (bundle.postprocess if bundle else None)
        self.pipeline: Pipeline | None = (
            None if text in (None, "", "none") else parse_pipeline(str(text), label_space.names)
        )
        saved = (bundle.preprocessing if bundle else {}).get("value_range")
        self.value_range = _saved_range(saved) if saved else None
        self.tta: TestTimeAugmentation | None = parse_tta(tta, label_space.mirrored()) if tta else None
        self.eight_bit = eight_bit
        self.window = DEFAULT_WINDOW
        self.window_batch: int | None = None  # windows per call of the network; None: see windows_together
        self.error_model: ErrorModel | None = None  # of the bundle, see segwright.inference.quality
        self.notes: list[str] = []  # how images were read, if there was a choice
        self.attachments: tuple[str, ...] = ()  # names of what the saved model carries beside its weights
        self.observed = False  # True: every prediction also has its thinned output, for monitoring

    chain = renamed_attribute("chain", "pipeline")

    @classmethod
    def from_model(cls, model: SegmentationModel, label_space: LabelSpace, device: str = "auto") -> Predictor:
        """A predictor over a network in memory."""
        from segwright.inference.torch_runtime import TorchRuntime

        return cls(TorchRuntime(model, device), label_space)

    def __call__(
        self,
        image: str | Path | AnyArray,
        *,
        probabilities: bool = False,
        uncertainty: str | UncertaintyMeasure | None = None,
        quality: bool = False,
    ) -> Prediction:
        """Predict a file, or an array H×W×C (or H×W), RGB order where C is 3; the rest as for :meth:`predict`."""
        pixels = self.read(image) if isinstance(image, str | Path) else np.asarray(image)
        return self.predict(pixels, probabilities=probabilities, uncertainty=uncertainty, quality=quality)

    def read(self, path: str | Path) -> UInt8Array:
        """Read an image file as in training, with the network's channels and value range."""
        if self.value_range is not None:
            return self.scaled(read_raster(path), path)
        return self.eight_bits(path)

    def eight_bits(self, path: str | Path, page: int | None = None) -> UInt8Array:
        """:meth:`read` without a value range, one page of a TIFF if given. A model of other than 1 or 3 channels takes
        the bands as stored: where a file calls its fourth band alpha, as GDAL does by default, it is infrared."""
        if self.runtime.in_channels not in (1, 3) and read_header(path).bits <= 8:
            return fit_channels(check_image(read_raster(path, page=page)), self.runtime.in_channels)
        if page is None and Path(path).suffix.lower() in DEEP_ENDINGS and read_header(path).bits > 8:
            self.note(STRETCHED)
        return fit_channels(read_image(path, page=page), self.runtime.in_channels)

    def scaled(self, raster: AnyArray, where: str | Path) -> UInt8Array:
        """A raster H×W×C of a file, of any number type, as the network was taught to see it; ImageReadError for an
        8-bit one of a model of deeper images, unless ``eight_bit`` states the scale."""
        if self.value_range is None:
            return fit_channels(check_image(raster), self.runtime.in_channels)
        if raster.dtype == np.uint8:
            reading = self.eight_bit or self.value_range.eight_bit_reading()
            if reading is not None:
                self.note(READINGS[reading])
        if raster.shape[2] in (2, 4) and self.runtime.in_channels in (1, 3):
            raster = raster[..., :-1]  # alpha
        return fit_channels(self.value_range.scale(raster, where, self.eight_bit), self.runtime.in_channels)

    def batches(self, image: UInt8Array) -> bool:
        """Whether :meth:`predict_batch` runs images of this size together."""
        return self.pipeline is None and self.tta is None and not self._large(image)

    def predict(
        self,
        image: AnyArray,
        *,
        probabilities: bool = False,
        uncertainty: str | UncertaintyMeasure | None = None,
        quality: bool = False,
        advance: Advance = _no_progress,
    ) -> Prediction:
        """Labels and confidence of one image H×W×C, in RGB order if C is 3.

        uint8, or any other number type if the model has a value range. ``probabilities`` adds float32 K×H×W; the labels
        are the same. ``uncertainty``: a measure of :mod:`segwright.inference.uncertainty`, as a map float32 H×W in 0…1;
        UsageError for an unknown one, ModelError if the network cannot give it. ``quality`` adds the estimate of the
        model's error model; None without one. ``advance`` is called after every window of a large image
        (:meth:`window_count`). If memory runs out, this image and all later ones are predicted in smaller windows.
        """
        pixels = self.prepare(image)
        measure = parse_measure(uncertainty) if isinstance(uncertainty, str) else uncertainty
        if measure is not None:
            check_measure(measure, self.runtime)
        wanted = Wanted(probabilities, measure, quality and self.error_model is not None)
        while True:
            try:
                return self._predict(pixels, wanted, advance)
            except Exception as error:
                if not self._shrink(pixels.shape[0], pixels.shape[1], error):
                    raise

    def prepare(self, image: AnyArray) -> UInt8Array:
        """Convert an array to uint8 with the network's number of channels; ModelError if that is not possible: more
        than 8 bits without a value range, or other channels."""
        image = np.asarray(image)
        if image.dtype != np.uint8 and image.dtype.kind in "uif" and image.ndim in (2, 3):
            if self.value_range is None:
                raise ModelError(
                    "the array is not 8 bit, and the model has no value range to scale it",
                    expected="uint8 height×width×channels, in RGB order for color",
                    found=f"{image.dtype} {image.shape}",
                    fix="ValueRange.of(low, high).apply(image), of segwright.data.records, with the range of the "
                    "training data",
                )
            image = self.value_range.apply(image if image.ndim == 3 else image[..., None])
        return fit_channels(check_image(image), self.runtime.in_channels)

    def _predict(self, image: UInt8Array, wanted: Wanted, advance: Advance) -> Prediction:
        height, width = image.shape[:2]
        thinner = Thinner(height, width, self.label_space.classes) if self.observed else None
        if not self._large(image):
            seen = None if thinner is None else (thinner, thinner.whole())
            labels, confidence, marginals, _ = self._passes.one(
                image, self.pipeline or Pipeline(), wanted.marginals, None, seen
            )
            unsure = uncertainty_map(wanted.measure, self.runtime, image, marginals, self.label_space)
            quality = self._quality(marginals, labels) if wanted.quality else None
            kept = marginals if wanted.probabilities else None
            return self._checked(image, labels, confidence, kept, thinner, unsure, quality)
        found = Assembly(height, width, self.label_space.classes, wanted)
        local, regional = self._pipelines()
        run = self._run(height, width, local, thinner)
        for one in run.outputs(lambda part: image[part.window], wanted.marginals):
            unsure = uncertainty_map(wanted.measure, self.runtime, one.pixels, one.marginals, self.label_space)
            found.add(one.part, one.labels, one.confidence, one.marginals, unsure)
            advance(1)
        self._note_windows(run)
        if regional:  # on the whole image: regions extend over windows
            found.settle(regional.on_labels(as_rgb(image), found.labels))
        quality = self._quality(found.thinned, found.labels, found.step) if found.thinned is not None else None
        return self._checked(
            image, found.labels, found.confidence, found.marginals, thinner, found.uncertainty, quality, run.facts()
        )  # fmt: skip

    def _quality(self, marginals: Float32Array | None, labels: UInt8Array, thin: int = 0) -> Quality | None:
        """The estimate of the error model; ``thin``: how far the marginals are thinned out already, 0: not yet."""
        if self.error_model is None or marginals is None:
            return None
        check_finite(marginals)
        step = thin or thinning(*labels.shape)
        if not thin and step > 1:
            marginals = np.ascontiguousarray(marginals[:, ::step, ::step])
        return self.error_model(marginals, np.ascontiguousarray(labels[::step, ::step]), self.label_space, step)

    def predict_windows(
        self,
        height: int,
        width: int,
        read: ReadWindow,
        write: WriteWindow,
        *,
        done: Callable[[Window], bool] = lambda part: False,
        facts: dict[str, Any] | None = None,
    ) -> ThinnedOutput | None:
        """Predict an image that does not fit into memory, in the windows of :meth:`predict`.

        ``read`` returns the image (H, W, C) of a :class:`Window`, ``write`` gets its labels and confidence, of which
        ``window.core_in_window`` is kept at ``window.core``. ``done`` is called for each window first, and True leaves
        it out. ``facts`` is filled with what :meth:`WindowRun.facts` holds. Returns the thinned output if the predictor
        is observed. ModelError if the pipeline has steps on regions, which need the whole image.
        """
        local, regional = self._pipelines()
        if regional:
            raise ModelError(
                "post-processing on regions needs the whole image, which is too large for that",
                found=", ".join(step.text for step in regional.steps),
                fix="--postprocess none, or a pipeline that ends with a CRF",
            )
        while True:
            thinner = Thinner(height, width, self.label_space.classes) if self.observed else None
            try:
                run = self._run(height, width, local, thinner)
                finished = [done(part) for part in run.parts]
                with WriteBehind() as behind:
                    for one in run.outputs(lambda part: self.prepare(read(part)), False, finished, ahead=True):
                        if thinner is not None:
                            thinner.see(one.part, one.pixels)
                        behind(write, one.part, one.labels, one.confidence)
                self._note_windows(run)
                if facts is not None:
                    facts |= run.facts()
                return thinner.finish() if thinner is not None else None
            except Exception as error:
                if not self._shrink(height, width, error):  # otherwise again, from the first window
                    raise

    def probabilities(self, image: UInt8Array, advance: Advance = _no_progress) -> Float32Array:
        """float32 K×H×W before post-processing, averaged over the test-time augmentation if there is one.

        Without post-processing, the numbers of ``predict(image, probabilities=True)``: windows of a large image are
        blended. ``advance``, and what happens if memory runs out, as for :meth:`predict`.
        """
        while True:
            try:
                return self._blended(image, advance) if self._large(image) else self._passes.probabilities(image)
            except Exception as error:
                if not self._shrink(image.shape[0], image.shape[1], error):
                    raise

    def _blended(self, image: UInt8Array, advance: Advance) -> Float32Array:
        height, width = image.shape[:2]
        result = np.empty((self.label_space.classes, height, width), np.float32)
        run = self._run(height, width, Pipeline(), None)
        for one in run.outputs(lambda part: image[part.window], True):
            assert one.marginals is not None
            result[:, *one.part.core] = one.marginals[:, *one.part.core_in_window]
            advance(1)
        self._note_windows(run)
        return result

    def window_count(self, image: AnyArray) -> int:
        """The number of windows in which an image is predicted; 1 if it is predicted whole."""
        return self.window_count_of(*image.shape[:2]) if self._large(image) else 1

    def window_count_of(self, height: int, width: int) -> int:
        """The number of windows of an image of this size, if it is predicted in windows."""
        return len(self.windowing().parts(height, width, self.label_space.classes))

    def _large(self, image: AnyArray) -> bool:
        return bool(image.shape[0] * image.shape[1] > self.window**2)

    def windowing(self) -> Windowing:
        """How images of more than ``window``² pixels are cut into windows."""
        reach = self.pipeline.receptive_radius if self.pipeline is not None else 0
        return Windowing.of(self.window, self._radius(), reach, self.tta is not None)

    def _radius(self) -> int | None:
        """The radius of the network's receptive field, measured once; UNKNOWN for a runtime that cannot."""
        found: int | None = getattr(self.runtime, "receptive_radius", UNKNOWN)
        return found

    def _run(self, height: int, width: int, local: Pipeline, thinner: Thinner | None) -> WindowRun:
        passes, whole = self._passes, height * width

        def predict(
            pixels: Sequence[UInt8Array], parts: Sequence[Window], strips: Sequence[Strips] | None, marginals: bool
        ) -> list[Answer]:
            if passes.together(local, marginals, thinner is not None):
                return passes.several(pixels, strips)
            return [
                passes.one(
                    image, local, marginals or strips is not None, whole, None if thinner is None else (thinner, part)
                )
                for image, part in zip(pixels, parts, strict=True)
            ]

        batch = self.windows_together() if passes.together(local, False, thinner is not None) else 1
        return WindowRun(self.windowing(), height, width, self.label_space.classes, predict, batch)

    def windows_together(self) -> int:
        """How many windows go through the network in one call, if nothing but labels and confidence is wanted."""
        room = getattr(self.runtime, "room", None)
        if self.window_batch is not None or room is None:
            return self.window_batch or 1
        return int(room((self.window, self.window, self.runtime.in_channels)))

    @property
    def _passes(self) -> Passes:
        return Passes(self.runtime, self.tta)

    def _note_windows(self, run: WindowRun) -> None:
        text = run.note(self.bundle.architecture if self.bundle is not None else "the network")
        if text is not None:
            self.note(text)

    def _pipelines(self) -> tuple[Pipeline, Pipeline]:
        return self.pipeline.parted() if self.pipeline is not None else (Pipeline(), Pipeline())

    def _shrink(self, height: int, width: int, error: Exception) -> bool:
        """If ``error`` is a lack of memory, make the window smaller: True. ModelError if it is the smallest."""
        if not is_out_of_memory(error):
            return False
        together = self.windows_together()
        if height * width > self.window**2 and together > 1:
            self.window_batch = together // 2
            return True
        side = min(self.window, max(height, width))
        smaller = max(MIN_WINDOW, side // 2 // 32 * 32)
        if smaller >= side:
            raise ModelError(
                "not enough memory to predict",
                expected=f"memory for a window of {side}×{side}",
                found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
                fix="close other programs on the device, or --device cpu",
            ) from error
        self.window = smaller
        self.note(f"out of memory: images are predicted in windows of {smaller}×{smaller}")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def note(self, text: str) -> None:
        """Keep a remark on how images were read or predicted, once."""
        if text not in self.notes:
            self.notes.append(text)

    def predict_batch(self, images: Sequence[UInt8Array]) -> list[Prediction]:
        """Predictions in order; images of one size are run together, others one by one."""
        if len(images) < 2 or len({image.shape for image in images}) > 1 or not self.batches(images[0]):
            return [self.predict(image) for image in images]
        pixels = np.stack([self.prepare(image) for image in images])
        try:
            if self.observed:
                return self._observed_batch(pixels)
            labels, confidence = self.runtime.labels(pixels)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return [self.predict(image) for image in images]
        return [self._checked(pixels[i], labels[i], confidence[i]) for i in range(len(images))]

    def _observed_batch(self, pixels: UInt8Array) -> list[Prediction]:
        height, width = pixels.shape[1:3]
        thinners = [Thinner(height, width, self.label_space.classes) for _ in pixels]
        rows, columns = thinners[0].grid.slices
        with features_of(self.runtime) as features:
            labels, confidence, scores = labels_and_scores(self.runtime, pixels, rows, columns)
        for i, thinner in enumerate(thinners):
            thin = labels[i][rows, columns], confidence[i][rows, columns], None if scores is None else scores[i]
            thinner.add(thinner.whole(), *thin, features[0][i] if features else np.zeros(0, np.float32))
        return [self._checked(pixels[i], labels[i], confidence[i], None, thinner) for i, thinner in enumerate(thinners)]

    def _checked(
        self,
        image: UInt8Array,
        labels: UInt8Array,
        confidence: Float32Array,
        probabilities: Float32Array | None = None,
        thinner: Thinner | None = None,
        uncertainty: Float32Array | None = None,
        quality: Quality | None = None,
        windows: dict[str, Any] | None = None,
    ) -> Prediction:
        """A prediction; ModelError if the confidence is not finite, because labels of NaN would look valid."""
        check_finite(confidence)
        thinned = thinner.finish(image) if thinner is not None else None
        return Prediction(
            labels, confidence, self.label_space, image, probabilities, thinned, uncertainty, quality, windows
        )  # fmt: skip


def load(
    model: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    post: str | None = None,
    tta: str | None = None,
    eight_bit: str | None = None,
    trust_external: bool = False,
    runtime_name: str = "usual",
) -> Predictor:
    """A predictor from a run folder, a bundle or an exported file; BundleError if there is none. ``runtime_name``: see
    :func:`segwright.inference.runtime_choice.choose_runtime`.
    ``trust_external``: see :func:`segwright.inference.bundle.load_bundle`."""
    path = Path(model)
    exported = find_exported(path)
    choice = choose_runtime(path, runtime_name, device, precision)
    runtime: Runtime
    attachment: Attachment | None = None
    names: tuple[str, ...] = ()
    if exported is not None:
        opened = open_exported(
            exported, runtime=choice.runtime, device=device, precision=choice.precision, trust_external=trust_external
        )
        runtime, bundle = opened, opened.bundle
    else:
        folder = find_bundle(path)
        attachment, names = read_attachment(folder, ATTACHMENT), tuple(attachment_names(folder))
        if choice.file is not None:
            runtime = open_exported(
                ExportedFile("onnx", choice.file), runtime=choice.runtime, device=device, precision=choice.precision
            )
            bundle = read_bundle(folder)
        else:
            from segwright.inference.bundle import load_bundle
            from segwright.inference.torch_runtime import TorchRuntime

            network, bundle = load_bundle(folder, trust_external=trust_external)
            runtime = TorchRuntime(network, device, choice.precision)
    predictor = Predictor(runtime, bundle.label_space, bundle=bundle, post=post, tta=tta, eight_bit=eight_bit)
    predictor.attachments = names
    if choice.note:
        predictor.note(choice.note)
    if attachment is not None and is_outdated(attachment):
        predictor.note(OUTDATED)
    elif attachment is not None:
        predictor.error_model = parse_error_model(attachment, bundle.label_space.classes).used_with(
            str(predictor.pipeline) if predictor.pipeline else "none", str(predictor.tta) if predictor.tta else "none"
        )
    return predictor


def _saved_range(saved: Any) -> ValueRange:
    try:
        return ValueRange.from_json(saved)
    except (SegwrightError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError("the model's value range cannot be used", found=str(saved)[:200]) from error

"""From a saved model and a picture to a :class:`Prediction`: one class for bundles, run folders and exported files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from segwright.data.records import ValueRange
from segwright.errors import BundleError, ModelError
from segwright.images import UInt8Array, read_image, read_raster
from segwright.inference.bundle import Bundle, is_bundle, load_bundle
from segwright.inference.runtimes import OnnxRuntime, Runtime, TorchRuntime
from segwright.inference.tiling import DEFAULT_MARGIN, DEFAULT_WINDOW, predict_tiled, windows
from segwright.inference.tta import TestTimeAugmentation, parse_tta
from segwright.models.segmenter import SegmentationModel
from segwright.postprocess.chain import Chain, parse_chain
from segwright.types import Float32Array, LabelSpace, Prediction

Advance = Callable[[int], None]  # told how many windows are done


def _unseen(count: int) -> None:
    """Progress that nobody looks at."""


class Predictor:
    """A network with its label space, ready for pictures of any size.

    ``post`` is a chain of :mod:`segwright.postprocess.chain` ("none" switches off the one saved with the model),
    ``tta`` a list of test-time views ("flip,0.75,1,1.25"). Pictures of more than ``window``² pixels are worked on in
    windows that overlap, views and CRF included, so that memory does not grow with classes × pixels.
    """

    def __init__(
        self,
        runtime: Runtime,
        label_space: LabelSpace,
        *,
        bundle: Bundle | None = None,
        post: str | None = None,
        tta: str | None = None,
    ) -> None:
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
        self.chain: Chain | None = None if text in (None, "", "none") else parse_chain(str(text), label_space.names)
        saved = (bundle.preprocessing if bundle else {}).get("value_range")
        self.value_range = ValueRange.from_json(saved) if saved else None
        self.tta: TestTimeAugmentation | None = parse_tta(tta) if tta else None
        self.window = DEFAULT_WINDOW

    @classmethod
    def from_model(cls, model: SegmentationModel, label_space: LabelSpace, device: str = "auto") -> Predictor:
        """A predictor over a network in memory."""
        return cls(TorchRuntime(model, device), label_space)

    def __call__(self, picture: str | Path | UInt8Array, *, probabilities: bool = False) -> Prediction:
        """Predict a file, or an array uint8 H×W×C (or H×W)."""
        if isinstance(picture, str | Path):
            return self.predict(self.read(picture), probabilities=probabilities)
        return self.predict(np.asarray(picture), probabilities=probabilities)

    def read(self, path: str | Path) -> UInt8Array:
        """A picture file as the network was taught to see it: its channels, its value range."""
        if self.value_range is not None:
            return fit_channels(self.value_range.apply(read_raster(path)), self.runtime.in_channels)
        return fit_channels(read_image(path), self.runtime.in_channels)

    def batches(self, image: UInt8Array) -> bool:
        """Whether pictures of this one's size go through the network together in :meth:`predict_batch`."""
        return self.chain is None and self.tta is None and not self._large(image)

    def predict(self, image: UInt8Array, *, probabilities: bool = False, advance: Advance = _unseen) -> Prediction:
        """Labels and confidence of one picture, uint8 H×W×C; ``probabilities`` adds float32 K×H×W.

        ``advance`` is told of every finished window of a large picture (:meth:`window_count` says how many there are).
        """
        image = fit_channels(check_image(image), self.runtime.in_channels)
        if self._large(image) and not probabilities:
            labels, confidence = self._in_windows(image, advance)
            return self._answer(image, labels, confidence)
        if probabilities or self.chain is not None or self.tta is not None:
            marginals = self.probabilities(image, advance)
            if self.chain is not None:
                labels, marginals = self.chain(as_rgb(image), marginals)
            else:
                labels = marginals.argmax(axis=0).astype(np.uint8)
            kept = marginals if probabilities else None
            return self._answer(image, labels, _confidence(marginals, labels), kept)
        found, sure = self.runtime.labels(image[None])
        return self._answer(image, found[0], sure[0])

    def probabilities(self, image: UInt8Array, advance: Advance = _unseen) -> Float32Array:
        """float32 K×H×W, before any post-processing; test-time views averaged where asked for."""
        if not self._large(image):
            return self._probabilities(image)
        height, width = image.shape[:2]
        result = np.empty((self.label_space.classes, height, width), np.float32)
        for part in windows(height, width, self.window, DEFAULT_MARGIN):
            found = self._probabilities(image[part.seen])
            result[:, *part.kept] = found[:, *part.inside]
            advance(1)
        return result

    def window_count(self, image: UInt8Array) -> int:
        """In how many windows a picture is worked on; 1 where it is small enough to go whole."""
        if not self._large(image):
            return 1
        height, width = image.shape[:2]
        return len(list(windows(height, width, self.window, self._margin())))

    def _large(self, image: UInt8Array) -> bool:
        return bool(image.shape[0] * image.shape[1] > self.window**2)

    def _margin(self) -> int:
        """What is seen around a window, and not kept: as far as CRFs look, where a window leaves room for that."""
        reach = self.chain.reach if self.chain is not None else 0
        return min(max(DEFAULT_MARGIN, reach), self.window // 4)

    def _probabilities(self, image: UInt8Array) -> Float32Array:
        if self.tta is not None:
            return np.asarray(self.tta(self.runtime.logits, image[None])[0], np.float32)
        return np.asarray(softmax(self.runtime.logits(image[None])[0], axis=0), np.float32)

    def _in_windows(self, image: UInt8Array, advance: Advance) -> tuple[UInt8Array, Float32Array]:
        """Labels and confidence of a large picture: network, views and CRFs window by window, then the steps on
        regions over the whole, since a region does not end at a window."""
        local, regional = self.chain.parted() if self.chain is not None else (Chain(), Chain())

        def run(pixels: UInt8Array) -> tuple[UInt8Array, Float32Array]:
            if not local and self.tta is None:
                return self.runtime.labels(pixels)
            labels, marginals = local(as_rgb(pixels[0]), self._probabilities(pixels[0]), whole=image[..., 0].size)
            return labels[None], _confidence(marginals, labels)[None]

        labels, confidence = predict_tiled(image, run, self.window, self._margin(), advance)
        return (regional.on_labels(as_rgb(image), labels) if regional else labels), confidence

    def predict_batch(self, images: Sequence[UInt8Array]) -> list[Prediction]:
        """Pictures of one size together, others one by one; the answers in order."""
        if len(images) < 2 or len({image.shape for image in images}) > 1 or not self.batches(images[0]):
            return [self.predict(image) for image in images]
        pixels = np.stack([fit_channels(check_image(image), self.runtime.in_channels) for image in images])
        labels, confidence = self.runtime.labels(pixels)
        return [self._answer(pixels[i], labels[i], confidence[i]) for i in range(len(images))]

    def _answer(
        self, image: UInt8Array, labels: UInt8Array, confidence: Float32Array, probabilities: Float32Array | None = None
    ) -> Prediction:
        """ModelError where the network answered NaN: its labels would look like labels."""
        if not np.isfinite(confidence.sum()):
            wrong = int((~np.isfinite(confidence)).sum())
            raise ModelError(
                "the network does not answer with numbers",
                expected="finite logits",
                found=f"NaN or infinity at {wrong} of {confidence.size} pixels",
                fix="a training that diverged leaves such weights; in fp16 large values overflow: use fp32 or bf16",
            )
        return Prediction(labels, confidence, self.label_space, image, probabilities)


def load(
    model: str | Path, *, device: str = "auto", precision: str = "fp32", post: str | None = None, tta: str | None = None
) -> Predictor:
    """A predictor from a run folder, a bundle or an exported ``.onnx`` file. BundleError where there is none."""
    path = Path(model)
    if path.suffix.lower() == ".onnx":
        runtime = OnnxRuntime(path, device)
        return Predictor(runtime, runtime.bundle.label_space, bundle=runtime.bundle, post=post, tta=tta)
    network, bundle = load_bundle(find_bundle(path))
    return Predictor(TorchRuntime(network, device, precision), bundle.label_space, bundle=bundle, post=post, tta=tta)


def _confidence(marginals: Float32Array, labels: UInt8Array) -> Float32Array:
    """The probability (H, W) of each pixel's label, of marginals (K, H, W)."""
    return np.asarray(np.take_along_axis(marginals, labels[None].astype(np.int64), axis=0)[0], np.float32)


def find_bundle(path: str | Path) -> Path:
    """The bundle folder that ``path`` means: itself, or the ``model`` folder of a run."""
    path = Path(path)
    for folder in (path, path / "model"):
        if is_bundle(folder):
            return folder
    raise BundleError(
        "no saved model here",
        expected="a run folder, a bundle (model.json and model.safetensors) or an exported .onnx file",
        found="nothing"
        if not path.exists()
        else ", ".join(sorted(e.name for e in path.iterdir())[:8] or ["an empty folder"])
        if path.is_dir()
        else "a file",
        where=path,
        fix="train one: segwright train DATA",
    )


def check_image(image: UInt8Array) -> UInt8Array:
    """uint8 H×W×C with at least one pixel; a grey H×W picture gets its channel axis. ModelError otherwise."""
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise ModelError(
            "a picture is uint8 height×width×channels, at least one pixel", found=f"{image.dtype} {image.shape}"
        )
    return image


def fit_channels(image: UInt8Array, channels: int) -> UInt8Array:
    """Grey becomes RGB, RGB becomes grey, alpha is dropped; ModelError where no such step fits."""
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if found == 4 and channels == 3:
        return np.ascontiguousarray(image[..., :3])
    if found in (3, 4) and channels == 1:
        # ITU-R BT.601 luma, as Pillow's convert("L")
        grey = image[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return (grey + 0.5).astype(np.uint8)[..., None]
    raise ModelError(
        "the picture's channels do not fit the model", expected=f"{channels} channels", found=f"{found} channels"
    )


def as_rgb(image: UInt8Array) -> UInt8Array:
    """Three channels for post-processing that looks at colours."""
    return image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)

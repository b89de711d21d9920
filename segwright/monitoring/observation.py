"""What is kept of one predicted image: some hundred numbers, never the image.

The journal of a service and the reference in a saved model hold the same record, so that one is compared with the
other. All figures are of the image's grid of at most :data:`VIEW_PIXELS` pixels
(:mod:`segwright.inference.thinned`), before post-processing, so that records made with and without it compare; only
sharpness and noise are of parts at full resolution. The same image gives the same record, alone, in a batch or in
windows, up to rounding.
"""

from __future__ import annotations

import functools
import hashlib
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.core.types import UInt8Array
from segwright.inference.exported import ExportedRuntime
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.inference.thinned import MOST_PIXELS, ThinnedOutput
from segwright.kernels.components import count_components

if TYPE_CHECKING:
    from torch import nn

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]

VIEW_PIXELS = MOST_PIXELS
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CONFIDENCE_BINS = 20  # equal bins of 0…1
EMBEDDING_SIZE = 64  # at most; a fixed random projection of wider features
MOST_ID = 200  # characters of an id and of a tag
MOST_TAGS = 16
FINE = 2048  # bins of the histogram that quantiles are read from
# Of 8-bit values in 0…1, after the channels are averaged where a single number is meant.
IMAGE_STATISTICS = (
    "brightness",  # mean
    "contrast",  # standard deviation
    "saturation",  # mean of (max − min) over channels
    "red",  # mean of the first channel, and so on; equal for gray images
    "green",
    "blue",
    "sharpness",  # logarithm of the variance of the Laplacian
    "noise",  # Immerkær's estimate, 1996
    "dark",  # share of values below 0.02
    "bright",  # share of values above 0.98
)


@dataclass(frozen=True)
class Observation:
    """The record of one predicted image; K classes, B confidence bins, D embedding values.

    All shares are of the image's pixels. Probabilities are those of the network with its saved calibration.
    """

    time: float  # seconds since 1970, UTC
    id: str  # the file's name or the request's number, at most 200 characters
    model: str  # the first 16 hexadecimal digits of the SHA-256 of the weights
    height: int
    width: int
    shares: Float32Array  # (K,): of pixels predicted as the class
    expected_shares: Float32Array  # (K,): the mean probability of the class
    expected_hits: Float32Array  # (K,): the sum over pixels predicted k of p(k), over the pixels of the image
    confidence: Float32Array  # (5,): QUANTILES of the confidence over pixels
    mean_confidence: float
    confidence_histogram: Float32Array  # (K, B): share of pixels predicted k with a confidence in the bin
    entropy: float  # mean entropy of a pixel, over log K: 0…1
    entropy_quantiles: Float32Array  # (5,)
    components: Int32Array  # (K,): connected components of the predicted class
    statistics: Float32Array  # (len(IMAGE_STATISTICS),)
    embedding: Float32Array  # (D,): pooled features of the encoder; empty if the runtime has none
    estimated_iou: float = float("nan")  # and its interval, if the model has an error model
    iou_low: float = float("nan")
    iou_high: float = float("nan")
    tags: dict[str, str] = field(default_factory=dict)  # such as {"scene": "camera 3"}


def observe(
    prediction: Prediction,
    *,
    id: str,
    model: str,
    time: float | None = None,
    tags: Mapping[str, str] | None = None,
    estimated_iou: tuple[float, float, float] | None = None,
) -> Observation:
    """The record of a prediction of an observed predictor (``predictor.observed = True``).

    ``model``: :func:`model_id`. ``time``: seconds since 1970, now by default. ``estimated_iou``: the estimate and its
    interval, low and high. UsageError if the prediction has no thinned output.
    """
    if prediction.thinned is None:
        raise UsageError(
            "the prediction has nothing to observe", fix="set predictor.observed = True before the image is predicted"
        )
    return observe_output(
        prediction.thinned, id=id, model=model, time=time, tags=tags,
        estimated_iou=estimated_iou or prediction.estimated_iou(),
        classes=len(prediction.label_space),
    )  # fmt: skip


def observe_output(
    output: ThinnedOutput,
    *,
    id: str,
    model: str,
    classes: int,
    time: float | None = None,
    tags: Mapping[str, str] | None = None,
    estimated_iou: tuple[float, float, float] | None = None,
) -> Observation:
    """As :func:`observe`, for a raster that is predicted in windows and never whole in memory.

    Without scores (an exported file that has only labels and confidence) the mean probabilities and the entropy are
    NaN.
    """
    labels, confidence = output.labels.ravel(), output.confidence.ravel()
    pixels = labels.size
    share = 1.0 / pixels
    counts = np.bincount(labels, minlength=classes)[:classes]
    hits = np.bincount(labels, confidence, minlength=classes)[:classes]
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    histogram = np.bincount(labels.astype(np.int64) * CONFIDENCE_BINS + bins, minlength=classes * CONFIDENCE_BINS)
    expected, entropy, entropies = _soft(output.scores, classes)
    iou, low, high = estimated_iou or (float("nan"),) * 3
    return Observation(
        time=clock.time() if time is None else float(time),
        id=bounded_text(id),
        model=model,
        height=output.height,
        width=output.width,
        shares=(counts * share).astype(np.float32),
        expected_shares=expected,
        expected_hits=(hits * share).astype(np.float32),
        confidence=_quantiles(confidence),
        mean_confidence=float(confidence.mean(dtype=np.float64)),
        confidence_histogram=(histogram[: classes * CONFIDENCE_BINS] * share)
        .astype(np.float32)
        .reshape(classes, CONFIDENCE_BINS),
        entropy=entropy,
        entropy_quantiles=entropies,
        components=count_components(output.labels, classes),
        statistics=image_statistics(output.image, output.details),
        embedding=embed(output.features),
        estimated_iou=iou,
        iou_low=low,
        iou_high=high,
        tags={bounded_text(key): bounded_text(value) for key, value in list((tags or {}).items())[:MOST_TAGS]},
    )


def _soft(scores: Float32Array | None, classes: int) -> tuple[Float32Array, float, Float32Array]:
    """Mean probability of each class, mean entropy over log K, and the entropy's quantiles, of scores (K, h, w)."""
    if scores is None:
        nothing = np.full(len(QUANTILES), np.nan, np.float32)
        return np.full(classes, np.nan, np.float32), float("nan"), nothing
    shifted = scores.reshape(classes, -1)
    shifted = shifted - shifted.max(axis=0)
    power = np.exp(shifted)
    total = power.sum(axis=0)
    np.multiply(shifted, power, out=shifted)
    # −Σ p·log p = log Σ e^z − Σ z·e^z / Σ e^z, with z below the largest score
    entropy = (np.log(total) - shifted.sum(axis=0) / total) / np.float32(np.log(max(classes, 2)))
    np.clip(entropy, 0.0, 1.0, out=entropy)
    expected = (power @ (1 / total)) / total.size
    return expected.astype(np.float32), float(entropy.mean(dtype=np.float64)), _quantiles(entropy)


def _quantiles(values: Float32Array) -> Float32Array:
    """QUANTILES of values in 0…1, from a histogram of FINE bins, linear within a bin."""
    counts = np.bincount((values * np.float32(FINE - 1)).astype(np.int32), minlength=FINE)
    upto = np.cumsum(counts)
    wanted = np.array(QUANTILES) * values.size
    places = np.minimum(np.searchsorted(upto, wanted), FINE - 1)
    within = (wanted - (upto[places] - counts[places])) / np.maximum(counts[places], 1)
    return np.asarray(np.minimum((places + within) / (FINE - 1), 1.0), np.float32)


def image_statistics(view: UInt8Array, details: Sequence[UInt8Array]) -> Float32Array:
    """IMAGE_STATISTICS of a thinned image (h, w, C); sharpness and noise of parts at full resolution, averaged."""
    planes = cv2.split(np.ascontiguousarray(view))
    count = len(planes)
    total = np.zeros(view.shape[:2], np.float32)
    for plane in planes:
        total += plane
    spread = 0.0
    if count > 1:
        widest = cv2.subtract(functools.reduce(cv2.max, planes), functools.reduce(cv2.min, planes))
        spread = float(cv2.mean(widest)[0]) / 255
    first = [float(cv2.mean(planes[min(k, count - 1)])[0]) / 255 for k in range(3)]
    mean, deviation = (float(value[0, 0]) / (255 * count) for value in cv2.meanStdDev(total))
    sharpness, noise = _detail(details)
    dark, bright = (np.count_nonzero(total < 0.02 * 255 * count), np.count_nonzero(total > 0.98 * 255 * count))
    shares = [dark / total.size, bright / total.size]
    return np.array([mean, deviation, spread, *first, sharpness, noise, *shares], np.float32)


def _detail(details: Sequence[UInt8Array]) -> tuple[float, float]:
    """Logarithm of the variance of the Laplacian, and the standard deviation of the noise (Immerkær 1996), 0…1."""
    variance, noise, weight = 0.0, 0.0, 0
    for tile in details:
        color = tile.shape[2] >= 3
        gray = cv2.cvtColor(np.ascontiguousarray(tile[..., :3]), cv2.COLOR_RGB2GRAY) if color else tile[..., 0].copy()
        if min(gray.shape) < 3:
            continue
        inner = np.s_[1:-1, 1:-1]
        laplacian = cv2.Laplacian(gray, cv2.CV_16S)[inner]
        variance += float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2) * gray.size
        masked = cv2.sepFilter2D(gray, cv2.CV_16S, NOISE_MASK, NOISE_MASK)[inner]
        noise += float(cv2.norm(masked, cv2.NORM_L1)) / masked.size * gray.size
        weight += gray.size
    if weight == 0:
        return float(np.log(1e-6)), 0.0
    return float(np.log(variance / weight / 255**2 + 1e-6)), noise / weight * (np.pi / 2) ** 0.5 / 6 / 255


NOISE_MASK = np.array([1, -2, 1], np.float32)  # in both directions


def embed(features: Float32Array) -> Float32Array:
    """At most EMBEDDING_SIZE values of features (C,), scaled by 1 / √C; wider ones by a projection that is fixed."""
    size = features.size
    if size == 0:
        return np.zeros(0, np.float32)
    scaled = features.astype(np.float32) / np.float32(np.sqrt(size))
    return scaled if size <= EMBEDDING_SIZE else np.asarray(scaled @ _projection(size), np.float32)


@functools.lru_cache(maxsize=8)
def _projection(size: int) -> Float32Array:
    """(C, EMBEDDING_SIZE) normal values of variance 1 / EMBEDDING_SIZE, which keep distances on average; the same
    everywhere for a number of features."""
    name = f"segwright embedding of {size} features"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    drawn = np.random.Generator(np.random.PCG64(seed)).normal(size=(size, EMBEDDING_SIZE))
    return np.asarray(drawn / np.sqrt(EMBEDDING_SIZE), np.float32)


def bounded_text(text: object) -> str:
    """Text of at most MOST_ID characters that prints on one line, for an id or a tag: other characters become ``?``."""
    cut = str(text)[:MOST_ID]
    return "".join(c if c.isprintable() else "?" for c in cut).encode("utf-8", "replace").decode("utf-8")


def model_id(predictor: Predictor) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the network's weights, the same for a saved model and for what
    it was exported to; of an exported file without that record, of its bytes."""
    runtime = predictor.runtime
    if isinstance(runtime, ExportedRuntime):
        if runtime.weights_id is not None:
            return runtime.weights_id
        with open(runtime.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    network = getattr(runtime, "model", None)
    return weights_id(network) if network is not None else ""


def weights_id(network: nn.Module) -> str:
    """As :func:`model_id`, of a network."""
    from segwright.inference.lineage import state_id

    return state_id(network.state_dict())


# -- many records as arrays -------------------------------------------------------------------------------------------

SCALARS = {  # and their types in arrays and files
    "time": "float64", "height": "int32", "width": "int32", "mean_confidence": "float32", "entropy": "float32",
    "estimated_iou": "float32", "iou_low": "float32", "iou_high": "float32",
}  # fmt: skip
VECTORS = (
    "shares", "expected_shares", "expected_hits", "confidence", "confidence_histogram", "entropy_quantiles",
    "statistics", "embedding", "components",
)  # fmt: skip


def to_arrays(rows: Sequence[Observation]) -> dict[str, npt.NDArray[Any]]:
    """The numbers of N records of one label space as arrays (N, …) by field; ids, models and tags are not in it.

    Records whose embeddings differ in size get an empty one. UsageError for records of different numbers of classes.
    """
    if len({row.shares.size for row in rows}) > 1:
        raise UsageError("records of different label spaces are not one array", fix="take those of one label space")
    found: dict[str, npt.NDArray[Any]] = {
        name: np.array([getattr(row, name) for row in rows], dtype) for name, dtype in SCALARS.items()
    }
    sizes = {row.embedding.size for row in rows}
    for name in VECTORS:
        values = [getattr(row, name) for row in rows]
        if name == "embedding" and len(sizes) > 1:
            values = [np.zeros(0, np.float32)] * len(rows)
        found[name] = np.stack(values) if values else np.zeros((0, 0), np.float32)
    return found


def from_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    ids: Sequence[str],
    models: Sequence[str],
    tags: Sequence[Mapping[str, str]] | None = None,
) -> list[Observation]:
    """The records of :func:`to_arrays` with their ids, models and tags."""
    rows = []
    for i, (name, model) in enumerate(zip(ids, models, strict=True)):
        values: dict[str, Any] = {key: arrays[key][i].item() for key in SCALARS}
        for key in VECTORS:
            values[key] = np.asarray(arrays[key][i], np.int32 if key == "components" else np.float32)
        rows.append(Observation(id=name, model=model, tags=dict(tags[i]) if tags else {}, **values))
    return rows

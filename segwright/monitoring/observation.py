"""What is kept of one predicted image: some hundred numbers, never the image.

The journal of a service and the reference in a saved model hold the same record, so that one is compared with the
other. All figures are of a view of the image of at most :data:`VIEW_PIXELS` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]

VIEW_PIXELS = 30_000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CONFIDENCE_BINS = 20  # equal bins of 0…1
EMBEDDING_SIZE = 64  # at most; a fixed random projection of wider features
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

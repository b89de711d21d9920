"""The output for an image, put together from its windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segwright.core.errors import ModelError
from segwright.core.types import Float32Array
from segwright.imageio import UInt8Array
from segwright.inference.quality import thinning
from segwright.inference.sliding_window import Window
from segwright.inference.uncertainty import UncertaintyMeasure

MEMORY_SIGNS = ("out of memory", "not enough memory", "failed to allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class Wanted:
    """What a prediction is asked for beside labels and confidence."""

    probabilities: bool
    measure: UncertaintyMeasure | None
    quality: bool

    @property
    def marginals(self) -> bool:
        """Whether the probabilities of all classes are needed."""
        return self.probabilities or self.quality or (self.measure is not None and self.measure.of_probabilities)


class Assembly:
    """Labels, confidence and what else is wanted of an image, filled window by window."""

    def __init__(self, height: int, width: int, classes: int, wanted: Wanted) -> None:
        self.labels, self.confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.float32)
        self.marginals = np.empty((classes, height, width), np.float32) if wanted.probabilities else None
        self.uncertainty = np.empty((height, width), np.float32) if wanted.measure is not None else None
        self.step = thinning(height, width)
        view = (classes, -(-height // self.step), -(-width // self.step))
        self.thinned = np.empty(view, np.float32) if wanted.quality else None  # of the marginals, for the error model

    def add(
        self,
        part: Window,
        labels: UInt8Array,
        confidence: Float32Array,
        marginals: Float32Array | None,
        uncertainty: Float32Array | None,
    ) -> None:
        """Keep a window's output (h, w), marginals (K, h, w), at its core."""
        inner = part.core_in_window
        self.labels[part.core], self.confidence[part.core] = labels[inner], confidence[inner]
        if self.marginals is not None and marginals is not None:
            self.marginals[:, *part.core] = marginals[:, *inner]
        if self.uncertainty is not None and uncertainty is not None:
            self.uncertainty[part.core] = uncertainty[inner]
        if self.thinned is not None and marginals is not None:
            _thin_into(self.thinned, marginals, part, self.step)

    def settle(self, labels: UInt8Array) -> None:
        """Take other labels (H, W); the label stays the most probable class, as without windows."""
        if self.marginals is not None:
            rows, columns = np.nonzero(labels != self.labels)
            old, new = self.labels[rows, columns], labels[rows, columns]
            taken = self.marginals[old, rows, columns]
            self.marginals[old, rows, columns] = self.marginals[new, rows, columns]
            self.marginals[new, rows, columns] = taken
        self.labels = labels


def confidence_of(marginals: Float32Array, labels: UInt8Array) -> Float32Array:
    """The probability (H, W) of each pixel's label, from marginals (K, H, W)."""
    return np.asarray(np.take_along_axis(marginals, labels[None].astype(np.int64), axis=0)[0], np.float32)


def check_finite(confidence: Float32Array) -> None:
    """Raise ModelError if the confidence is not finite, because labels of NaN would look valid."""
    if not np.isfinite(confidence.sum()):
        wrong = int((~np.isfinite(confidence)).sum())
        raise ModelError(
            "the network's output is not finite",
            expected="finite logits",
            found=f"NaN or infinity at {wrong} of {confidence.size} pixels",
            fix="retrain if the training diverged; in fp16 large values overflow, so use fp32 or bf16",
        )


def _thin_into(view: Float32Array, marginals: Float32Array, part: Window, step: int) -> None:
    """Put every ``step``-th pixel of the image that lies in the core of a window into ``view`` (K, h, w)."""
    top, left = -(-part.core_top // step), -(-part.core_left // step)
    bottom, right = -(-part.core_bottom // step), -(-part.core_right // step)
    view[:, top:bottom, left:right] = marginals[
        :,
        top * step - part.top : part.core_bottom - part.top : step,
        left * step - part.left : part.core_right - part.left : step,
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch, onnxruntime or Python means a lack of memory."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ModelError) and any(sign in text for sign in MEMORY_SIGNS)

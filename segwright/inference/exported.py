"""What the runtimes of exported files share: the description in the file, and the checks of what comes out.

An exported file contains the bundle's description as metadata, so one file is enough to predict and to evaluate. Its
input is ``images``, uint8 N×H×W×C; its outputs are ``labels`` N×H×W, ``confidence`` float32 N×H×W and perhaps
``logits`` float32 N×K×H×W.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import BundleError, ModelError
from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.description import Bundle, parse_description

METADATA_KEY = "segwright"
WEIGHTS_KEY = "segwright-weights"  # the model id of the network that was exported
OUTPUTS = ("labels", "confidence")


class ExportedRuntime(ABC):
    """An exported file in memory. ``description``, ``weights``: its metadata; ``outputs``: the names of its outputs."""

    name: str  # of the runtime, as in --runtime
    in_channels: int

    def __init__(self, path: Path, description: str | None, weights: str, outputs: Sequence[str]) -> None:
        self.path = path
        if description is None:
            raise BundleError(
                "the exported file has no class names",
                expected="a file made by `segwright export`",
                where=path,
                fix="export the model again with segwright",
            )
        self.bundle: Bundle = parse_description(description, path)
        self.weights_id = weights if re.fullmatch(r"[0-9a-f]{16}", weights) else None
        self.classes = self.bundle.label_space.classes
        self.outputs = list(outputs)

    @abstractmethod
    def run(self, outputs: tuple[str, ...], images: UInt8Array) -> list[npt.NDArray[Any]]:
        """The outputs of these names for uint8 N×H×W×C; ModelError if the file cannot be run."""

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        labels, confidence = self.run(OUTPUTS, images)
        return self._checked_labels(labels, confidence, images)

    def logits(self, images: UInt8Array) -> Float32Array:
        if "logits" not in self.outputs:
            raise ModelError(
                "the exported file has no logits, only labels and confidence",
                found="a pipeline that needs the probabilities of every class",
                where=self.path,
                fix="export it with --logits, or use the run folder",
            )
        (logits,) = self.run(("logits",), images)
        return self._checked_logits(logits, images)

    def labels_and_scores(
        self, images: UInt8Array, rows: slice, columns: slice
    ) -> tuple[UInt8Array, Float32Array, Float32Array | None]:
        if "logits" not in self.outputs:
            return *self.labels(images), None
        labels, confidence, logits = self.run((*OUTPUTS, "logits"), images)
        scores = np.ascontiguousarray(self._checked_logits(logits, images)[:, :, rows, columns])
        return *self._checked_labels(labels, confidence, images), scores

    def _check_signature(self, right: bool, inputs: Sequence[str]) -> None:
        """BundleError unless the input is ``right`` and the outputs are ours."""
        if not right:
            raise BundleError(
                "the exported file has an unexpected input",
                expected="one input: images, uint8 N×H×W×C",
                found="; ".join(inputs) or "no input",
                where=self.path,
                fix="export the model again with segwright",
            )
        if any(name not in self.outputs for name in OUTPUTS):
            raise BundleError("the exported file lacks outputs", expected=", ".join(OUTPUTS),
                              found=", ".join(self.outputs), where=self.path)  # fmt: skip

    def _checked_labels(
        self, labels: npt.NDArray[Any], confidence: npt.NDArray[Any], images: UInt8Array
    ) -> tuple[UInt8Array, Float32Array]:
        size = images.shape[:3]
        if labels.shape != size or confidence.shape != size or labels.dtype.kind not in "iu":
            raise self._wrong_output(f"labels and confidence {size}", f"{labels.shape} and {confidence.shape}")
        if int(labels.max(initial=0)) >= self.classes:
            raise self._wrong_output(f"labels below {self.classes}", f"labels up to {int(labels.max())}")
        return labels.astype(np.uint8, copy=False), confidence.astype(np.float32, copy=False)

    def _checked_logits(self, logits: npt.NDArray[Any], images: UInt8Array) -> Float32Array:
        count, height, width = images.shape[:3]
        if logits.shape != (count, self.classes, height, width):
            raise self._wrong_output(f"logits {(count, self.classes, height, width)}", str(logits.shape))
        return logits.astype(np.float32, copy=False)

    def _wrong_output(self, expected: str, found: str) -> ModelError:
        return ModelError(
            "the exported file's output is not labels of the image",
            expected=expected,
            found=found,
            where=self.path,
            fix="export the model again with segwright",
        )

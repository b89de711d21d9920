"""The runtimes of a network have one interface: raw pixels in, labels and confidence out.

| module | network | needs |
|---|---|---|
| ``torch_runtime`` | a saved model (run folder, bundle) | torch |
| ``onnx_runtime`` | an exported ``.onnx`` file | onnxruntime |

This module and those of exported files import no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from segwright.core.deprecated import warn_renamed
from segwright.core.types import Float32Array, UInt8Array

_MOVED = {
    "TorchRuntime": "torch_runtime",
    "argmax_with_confidence": "torch_runtime",
    "choose_device": "torch_runtime",
    "OnnxRuntime": "onnx_runtime",
    "check_onnx_file": "onnx_runtime",
}


class Runtime(Protocol):
    """A network that runs on raw pixels."""

    classes: int
    in_channels: int

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        """uint8 N×H×W×C → labels uint8 N×H×W and their softmax probability float32 N×H×W."""
        ...

    def logits(self, images: UInt8Array) -> Float32Array:
        """uint8 N×H×W×C → float32 N×K×H×W."""
        ...


def labels_and_scores(
    runtime: Runtime, images: UInt8Array, rows: slice, columns: slice
) -> tuple[UInt8Array, Float32Array, Float32Array | None]:
    """Labels and confidence as of ``runtime.labels``, and the logits (N, K, h, w) at some rows and columns, of one run;
    None in place of logits if the runtime has none."""
    own = getattr(runtime, "labels_and_scores", None)
    if own is not None:
        found: tuple[UInt8Array, Float32Array, Float32Array | None] = own(images, rows, columns)
        return found
    labels, confidence = runtime.labels(images)
    return labels, confidence, np.ascontiguousarray(runtime.logits(images)[:, :, rows, columns])


@contextmanager
def features_of(runtime: Runtime) -> Iterator[list[Float32Array]]:
    """Yield a list that holds, once the runtime has run, the deepest features averaged over each image, (N, C), in one
    array per run; it stays empty for a runtime that has none."""
    watch = getattr(runtime, "watch_features", None)
    if watch is None:
        yield []
        return
    with watch() as found:
        yield found


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"segwright.inference.{_MOVED[name]}"
    warn_renamed(f"{__name__}.{name}", f"{home}.{name}")
    return getattr(import_module(home), name)

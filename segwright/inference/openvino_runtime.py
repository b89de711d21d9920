"""An exported file as a runtime of OpenVINO: its own ``model.xml`` and ``model.bin``, or an ``.onnx`` file."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import BundleError, MissingExtraError, ModelError, UsageError
from segwright.core.types import UInt8Array
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY, ExportedRuntime
from segwright.inference.onnx_runtime import check_onnx_file
from segwright.kernels.threads import processors

LOOPS = ("Loop", "TensorIterator", "If")
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
CAPABILITIES = {"f32": "FP32", "bf16": "BF16"}
DESCRIPTION_PATH = [METADATA_KEY, "description"]  # of the metadata in an .xml file
WEIGHTS_PATH = [METADATA_KEY, "weights"]


class OpenVinoRuntime(ExportedRuntime):
    """An exported ``.xml`` or ``.onnx`` file on the CPU, by OpenVINO.

    ``precision``: of the arithmetic, fp32 or bf16; integers of a quantized file stay integers. ``threads``: of one run;
    None: as many as the process may use. MissingExtraError without the package ``openvino``.
    """

    name = "openvino"

    def __init__(
        self, path: str | Path, device: str = "auto", precision: str = "fp32", threads: int | None = None
    ) -> None:
        openvino = require_openvino()
        path = Path(path)
        core = openvino.Core()
        check_device(device)
        model, description, weights = _read(core, path)
        inputs = [(port.any_name, str(port.element_type), port.partial_shape) for port in model.inputs]
        outputs = [name for port in model.outputs for name in sorted(port.names)[:1]]
        super().__init__(path, description, weights, outputs)
        shape = inputs[0][2] if inputs else None
        right = len(inputs) == 1 and "images" in model.inputs[0].names and inputs[0][1] == "<Type: 'uint8_t'>"
        self._check_signature(
            right and shape is not None and shape.rank.is_static and shape.rank.get_length() == 4,
            [f"{name} {kind} {size}" for name, kind, size in inputs],
        )
        self.in_channels = shape[3].get_length() if shape is not None and shape[3].is_static else 3
        self.precision = precision
        hint = _precision(core, precision)
        options = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or processors(),  # the CPUs of the container, not of the machine
        }
        try:
            self.compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise BundleError("OpenVINO cannot load the file", found=str(error)[-400:], where=path) from error
        self._places = {name: place for place, name in enumerate(outputs)}
        self._threads = threading.local()  # .request: one per thread, with its own memory

    def run(self, outputs: tuple[str, ...], images: UInt8Array) -> list[npt.NDArray[Any]]:
        request = getattr(self._threads, "request", None)
        if request is None:
            request = self._threads.request = self.compiled.create_infer_request()
        try:
            request.infer([np.ascontiguousarray(images)], share_inputs=True, share_outputs=True)
            # Copied: the next run writes into the same memory.
            return [np.array(request.get_output_tensor(self._places[name]).data) for name in outputs]
        except RuntimeError as error:
            raise ModelError(
                "OpenVINO cannot run the exported file on this image",
                found=f"{str(error)[-300:]} (image {images.shape})",
                where=self.path,
                fix="use a smaller image if memory is short; otherwise export the model again",
            ) from error


def require_openvino() -> Any:
    """The package; MissingExtraError if it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "this runtime needs the package openvino", found=str(error), fix="pip install 'segwright[openvino]'"
        ) from error
    return openvino


def has_openvino() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("openvino") is not None


def supports_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this CPU by instructions of its own."""
    return "BF16" in require_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check_device(device: str) -> None:
    """UsageError for another device than the CPU."""
    if device not in ("auto", "cpu"):
        raise UsageError(
            "OpenVINO runs exported files on the CPU only", expected="auto, cpu", found=device, fix="--device cpu"
        )


def _precision(core: Any, precision: str) -> str:
    if precision not in PRECISIONS:
        raise UsageError("unknown precision for OpenVINO", expected=", ".join(PRECISIONS), found=precision)
    hint = PRECISIONS[precision]
    if CAPABILITIES[hint] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UsageError(
            "this CPU has no instructions for the precision", expected="fp32", found=precision, fix="--precision fp32"
        )
    return hint


def _read(core: Any, path: Path) -> tuple[Any, str | None, str]:
    """The model, its description and the id of its weights; BundleError if it is none of ours."""
    if path.suffix.lower() == ".onnx":
        metadata = {entry.key: entry.value for entry in check_onnx_file(path).metadata_props}
        return _parsed(core, path), metadata.get(METADATA_KEY), metadata.get(WEIGHTS_KEY, "")
    if not path.is_file():
        raise BundleError("no such exported file", where=path)
    weights = path.with_suffix(".bin")
    if weights.is_symlink() and not weights.resolve().is_relative_to(path.resolve().parent):
        raise BundleError("the weights are outside the file's folder", found=str(weights.resolve()), where=path)
    model = _parsed(core, path)
    try:
        description = str(model.get_rt_info(DESCRIPTION_PATH).value)
        identity = str(model.get_rt_info(WEIGHTS_PATH).value)
    except RuntimeError:
        return model, None, ""
    return model, description, identity


def _parsed(core: Any, path: Path) -> Any:
    try:
        model = core.read_model(str(path))
    except RuntimeError as error:
        raise BundleError("not a file that OpenVINO reads", found=str(error)[-300:], where=path) from error
    loops = sorted({operation.get_type_name() for operation in model.get_ops()} & set(LOOPS))
    if loops:
        raise BundleError(
            "the file holds loops, which may never end", expected="a file made by `segwright export`",
            found=", ".join(loops), where=path,
        )  # fmt: skip
    return model

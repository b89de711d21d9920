"""An exported ``.onnx`` file as a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import BundleError, ModelError, UsageError
from segwright.core.types import UInt8Array
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY, ExportedRuntime
from segwright.kernels.threads import processors

LOOPS = ("Loop", "Scan")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(ExportedRuntime):
    """An exported ``.onnx`` file on the CPU, or on CUDA with that build of onnxruntime.

    ``threads``: of one run; None: as many as the process may use.
    """

    name = "onnxruntime"

    def __init__(self, path: str | Path, device: str = "auto", threads: int | None = None) -> None:
        import onnxruntime

        path = Path(path)
        check_onnx_file(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or processors()  # the CPUs of the container, not of the machine
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors derive from Exception directly
            raise BundleError("onnxruntime cannot load the file", found=str(error)[:400], where=path) from error
        try:
            metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        except ValueError as error:  # no UTF-8
            raise BundleError("the ONNX file's description is damaged", found=str(error)[:200], where=path) from error
        try:
            outputs = [output.name for output in self.session.get_outputs()]
            inputs = self.session.get_inputs()
            shape = list(inputs[0].shape or ()) if inputs else []
            described = [f"{one.name} {one.type} {one.shape}" for one in inputs]
        except ValueError as error:  # names that are no text
            raise BundleError("the ONNX file is damaged", found=str(error), where=path) from error
        super().__init__(path, metadata.get(METADATA_KEY), metadata.get(WEIGHTS_KEY, ""), outputs)
        right = len(inputs) == 1 and inputs[0].name == "images" and "uint8" in inputs[0].type and len(shape) == 4
        self._check_signature(right, described)
        self.in_channels = int(shape[3]) if isinstance(shape[3], int) else 3

    def run(self, outputs: tuple[str, ...], images: UInt8Array) -> list[npt.NDArray[Any]]:
        try:
            arrays: list[npt.NDArray[Any]] = self.session.run(list(outputs), {"images": np.ascontiguousarray(images)})
        except Exception as error:  # onnxruntime's errors derive from Exception directly
            raise ModelError(
                "onnxruntime cannot run the exported file on this image",
                found=f"{str(error)[:300]} (image {images.shape})",
                where=self.path,
                fix="use a smaller image if memory is short; otherwise export the model again",
            ) from error
        return arrays


def _providers(device: str, available: list[str]) -> list[str]:
    """onnxruntime's providers for ``auto``, ``cpu``, ``cuda``; UsageError if this build has none for the device."""
    kind = device.partition(":")[0]
    if kind == "auto":
        return [name for name in (PROVIDERS["cuda"], PROVIDERS["cpu"]) if name in available]
    if kind not in PROVIDERS or PROVIDERS[kind] not in available:
        here = [name for name, provider in PROVIDERS.items() if provider in available]
        raise UsageError(
            "onnxruntime cannot run on this device",
            expected=f"auto, {', '.join(here)}",
            found=device,
            fix="--device cpu, or install onnxruntime-gpu in place of onnxruntime",
        )
    return [PROVIDERS[kind]] if kind == "cpu" else [PROVIDERS[kind], PROVIDERS["cpu"]]


def check_onnx_file(path: Path) -> Any:
    """The file as onnx's ModelProto; BundleError if it is missing, or its external data is outside its folder, by path
    or by link."""
    import onnx

    if not path.is_file():
        raise BundleError("no such exported file", where=path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no public base
        raise BundleError("not an ONNX file", found=str(error)[:200], where=path) from error
    folder = path.resolve().parent
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "NodeProto" and message.op_type in LOOPS:
            raise BundleError(
                "the ONNX file holds loops, which may never end", expected="a file made by `segwright export`",
                found=message.op_type, where=path,
            )  # fmt: skip
        for entry in message.external_data if kind == "TensorProto" else ():
            if entry.key != "location":
                continue
            target = path.parent / entry.value
            inside = target.resolve().is_relative_to(folder) and not target.is_symlink()
            if not inside or ".." in Path(entry.value).parts:
                raise BundleError("external data leaves the file's folder", found=entry.value, where=path)
    return model


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it, at any depth: attributes and functions contain tensors, too."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        yield one
        for field, value in one.ListFields():
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                waiting.extend([value] if hasattr(value, "ListFields") else value)

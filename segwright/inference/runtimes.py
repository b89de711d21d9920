"""Runtimes of a network: torch, or onnxruntime on an exported file, with the same input and output.

An exported file contains the bundle's description as metadata, so one file is enough to predict and to evaluate.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from segwright import kernels
from segwright.core.errors import BundleError, ModelError, UsageError
from segwright.core.types import Float32Array
from segwright.imageio import UInt8Array
from segwright.inference.bundle import Bundle, parse_description
from segwright.inference.thinned import coarsest
from segwright.kernels.threads import processors
from segwright.models.base import SegmentationModel

ONNX_METADATA_KEY = "segwright"
ONNX_WEIGHTS_KEY = "segwright-weights"  # the model id of the network that was exported
ONNX_OUTPUTS = ("labels", "confidence")
LOOPS = ("Loop", "Scan")


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


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: the first CUDA device, else Apple's, else the CPU. UsageError if the named one does not exist."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("unknown device", expected="auto, cpu, cuda, cuda:1, mps", found=name) from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UsageError("the device does not exist", found=name, fix="--device cpu, or --device auto")
    return device


class TorchRuntime:
    """A :class:`SegmentationModel` in eval mode on a device, channels-last."""

    def __init__(self, model: SegmentationModel, device: str | torch.device = "auto", precision: str = "fp32") -> None:
        self.device = choose_device(device) if isinstance(device, str) else device
        self.model = model.to(device=self.device).to(memory_format=torch.channels_last).eval()
        if self.device.type == "cpu":
            kernels.patch(self.model)
        self.classes, self.in_channels = model.classes, model.in_channels
        if precision not in ("fp32", "bf16", "fp16"):
            raise UsageError("unknown precision", expected="fp32, bf16, fp16", found=precision)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._watched: Sequence[torch.nn.Module] = ()  # with hooks
        self._watching = threading.local()  # .maps: of the run in progress in this thread, by module

    @torch.inference_mode()
    def run(self, images: UInt8Array) -> torch.Tensor:
        """float32 logits (N, K, H, W) on the device."""
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = self.model(pixels).logits
        self._keep_features()
        result: torch.Tensor = logits.float()
        return result

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        labels, confidence = argmax_with_confidence(self.run(images))
        return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()

    def logits(self, images: UInt8Array) -> Float32Array:
        return self.run(images).contiguous().cpu().numpy()

    def labels_and_scores(
        self, images: UInt8Array, rows: slice, columns: slice
    ) -> tuple[UInt8Array, Float32Array, Float32Array | None]:
        logits = self.run(images)
        labels, confidence = argmax_with_confidence(logits)
        scores = logits[:, :, rows, columns].contiguous().cpu().numpy()
        return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy(), scores

    @contextmanager
    def watch_features(self) -> Iterator[list[Float32Array]]:
        """See :func:`features_of`. Of several runs in the block, each that has features adds one array."""
        if not self._watched:
            self._watched = tuple(self.model.feature_modules())
            for number, module in enumerate(self._watched):
                module.register_forward_hook(self._hook(number))
        found: list[Float32Array] = []
        self._watching.maps, self._watching.found = {}, found
        try:
            yield found
        finally:
            self._watching.maps = None

    def _hook(self, number: int) -> Any:
        def keep(module: torch.nn.Module, given: Any, output: Any) -> None:
            maps = getattr(self._watching, "maps", None)
            if maps is not None and number not in maps:  # a module that runs at several scales: the first
                features = coarsest(output)
                if features is not None:
                    maps[number] = features.detach().float().mean(dim=(2, 3))

        return keep

    def _keep_features(self) -> None:
        maps = getattr(self._watching, "maps", None)
        if maps:
            joined = torch.cat([maps[number] for number in sorted(maps)], dim=1)
            self._watching.found.append(joined.cpu().numpy())
            maps.clear()


def argmax_with_confidence(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K, H, W) → labels int64 (N, H, W) and their softmax probability, without computing the whole softmax."""
    top, labels = logits.max(dim=1)
    return labels, torch.exp(top - torch.logsumexp(logits, dim=1))


class OnnxRuntime:
    """An exported ``.onnx`` file on the CPU, or on CUDA with that build of onnxruntime."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        import onnxruntime

        self.path = Path(path)
        check_onnx_file(self.path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = processors()  # the CPUs of the container, not of the machine
        wanted = ["CPUExecutionProvider"]
        if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
            wanted.insert(0, "CUDAExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors derive from Exception directly
            raise BundleError("onnxruntime cannot load the file", found=str(error)[:400], where=self.path) from error
        try:
            metadata = self.session.get_modelmeta().custom_metadata_map.get(ONNX_METADATA_KEY)
        except ValueError as error:  # no UTF-8
            raise BundleError("the ONNX file's description is damaged", found=str(error)[:200], where=path) from error
        if metadata is None:
            raise BundleError(
                "the ONNX file has no class names",
                expected="a file made by `segwright export`",
                where=self.path,
                fix="export the model again with segwright",
            )
        self.bundle: Bundle = parse_description(metadata, self.path)
        weights = str(self.session.get_modelmeta().custom_metadata_map.get(ONNX_WEIGHTS_KEY, ""))
        self.weights_id = weights if re.fullmatch(r"[0-9a-f]{16}", weights) else None
        self.classes = self.bundle.label_space.classes
        try:
            self.outputs = [output.name for output in self.session.get_outputs()]
            inputs = self.session.get_inputs()
            shape = list(inputs[0].shape or ()) if inputs else []
            _ = [(one.name, one.type) for one in inputs]
        except ValueError as error:  # names that are no text
            raise BundleError("the ONNX file is damaged", found=str(error), where=self.path) from error
        if len(inputs) != 1 or inputs[0].name != "images" or "uint8" not in inputs[0].type or len(shape) != 4:
            raise BundleError(
                "the ONNX file has an unexpected input",
                expected="one input: images, uint8 N×H×W×C",
                found="; ".join(f"{one.name} {one.type} {one.shape}" for one in inputs) or "no input",
                where=self.path,
                fix="export the model again with segwright",
            )
        missing = [name for name in ONNX_OUTPUTS if name not in self.outputs]
        if missing:
            raise BundleError("the ONNX file lacks outputs", expected=", ".join(ONNX_OUTPUTS),
                              found=", ".join(self.outputs), where=self.path)  # fmt: skip
        self.in_channels = int(shape[3]) if isinstance(shape[3], int) else 3

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        labels, confidence = self._run(ONNX_OUTPUTS, images)
        return self._checked_labels(labels, confidence, images)

    def _checked_labels(
        self, labels: npt.NDArray[Any], confidence: npt.NDArray[Any], images: UInt8Array
    ) -> tuple[UInt8Array, Float32Array]:
        size = images.shape[:3]
        if labels.shape != size or confidence.shape != size or labels.dtype.kind not in "iu":
            raise self._wrong_output(f"labels and confidence {size}", f"{labels.shape} and {confidence.shape}")
        if int(labels.max(initial=0)) >= self.classes:
            raise self._wrong_output(f"labels below {self.classes}", f"labels up to {int(labels.max())}")
        return labels.astype(np.uint8, copy=False), confidence.astype(np.float32, copy=False)

    def logits(self, images: UInt8Array) -> Float32Array:
        if "logits" not in self.outputs:
            raise ModelError(
                "the exported file has no logits, only labels and confidence",
                found="a pipeline that needs the probabilities of every class",
                where=self.path,
                fix="export it with --logits, or use the run folder",
            )
        (logits,) = self._run(("logits",), images)
        return self._checked_logits(logits, images)

    def _checked_logits(self, logits: npt.NDArray[Any], images: UInt8Array) -> Float32Array:
        count, height, width = images.shape[:3]
        if logits.shape != (count, self.classes, height, width):
            raise self._wrong_output(f"logits {(count, self.classes, height, width)}", str(logits.shape))
        return logits.astype(np.float32, copy=False)

    def labels_and_scores(
        self, images: UInt8Array, rows: slice, columns: slice
    ) -> tuple[UInt8Array, Float32Array, Float32Array | None]:
        if "logits" not in self.outputs:
            return *self.labels(images), None
        labels, confidence, logits = self._run((*ONNX_OUTPUTS, "logits"), images)
        scores = np.ascontiguousarray(self._checked_logits(logits, images)[:, :, rows, columns])
        return *self._checked_labels(labels, confidence, images), scores

    def _run(self, outputs: tuple[str, ...], images: UInt8Array) -> list[npt.NDArray[Any]]:
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

    def _wrong_output(self, expected: str, found: str) -> ModelError:
        return ModelError(
            "the exported file's output is not labels of the image",
            expected=expected,
            found=found,
            where=self.path,
            fix="export the model again with segwright",
        )


def check_onnx_file(path: Path) -> None:
    """Raise BundleError if the file is missing, or its external data is outside its folder, by path or by link."""
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


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it, at any depth: attributes and functions contain tensors, too."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        yield one
        for field, value in one.ListFields():
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                waiting.extend([value] if hasattr(value, "ListFields") else value)

"""Export as int8, or a refusal that gives both figures: what it costs in mIoU and what it gains in speed here.

Static quantization in QDQ form (Jacob et al. 2018, arXiv 1712.05877): activations uint8 with a zero point, weights int8
per output channel, of Conv, Gemm and MatMul and the ReLUs fused with them; everything else stays float. One ONNX file
serves onnxruntime and OpenVINO. Ranges are those of the training images. Layers whose quantization changes the logits
most stay in float if the whole network would lose too much.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.atomic_io import atomic_file
from segwright.core.errors import ExportError, UsageError
from segwright.core.types import Float32Array, Sample, UInt8Array
from segwright.evaluation.sequences import find_units
from segwright.exporting.job import ExportJob, ExportResult, finish
from segwright.exporting.onnx import checked_onnx, without_logits
from segwright.exporting.parity import compare
from segwright.inference.exported import ExportedRuntime
from segwright.inference.exported_files import ExportedFile, open_exported
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.inference.openvino_runtime import has_openvino
from segwright.inference.pixels import fit_channels
from segwright.metrics.bootstrap import PairedDifference, paired_difference
from segwright.metrics.confusion import class_counts, count_pairs

MAX_LOSS = 0.002  # of the mIoU, 0…1
MIN_SPEEDUP = 1.3
OPERATORS = ("Conv", "Gemm", "MatMul")
FUSED = ("Relu", "Clip")  # taken into the operator before them, with no arithmetic of their own
DETAILS_KEY = "segwright-quantization"  # in the file's metadata
ROUNDS = 15  # of timing, runtimes and precisions in turn
PROBES = 2  # calibration images on which the layers are compared
MOST_FLOAT = 0.5  # of the layers: with more in float, nothing is left to gain


@dataclass(frozen=True)
class QuantizationData:
    """``calibration``: images as in training; ``judged``: labeled images that the loss is measured on."""

    calibration: Sequence[Sample]
    judged: Sequence[Sample]
    source: str


@dataclass(frozen=True)
class Quantization:
    """What an int8 file costs and gains."""

    loss: PairedDifference  # mIoU of int8 minus mIoU of fp32, on the same images
    agreement: float  # share of equal labels
    speedup: float  # the fastest fp32 runtime here over the fastest int8 runtime here, measured in turn
    milliseconds: Mapping[str, float]  # per image, by "runtime precision"; the median
    layers: int  # quantized
    float_layers: tuple[str, ...]  # kept in float because they cost too much
    images: int

    def figures(self) -> str:
        """Both figures in a line."""
        times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in sorted(self.milliseconds.items(), key=lambda i: i[1]))
        low, high = 100 * self.loss.low, 100 * self.loss.high
        return (
            f"{100 * self.loss.difference:+.2f} mIoU points (95 % interval {low:+.2f} to {high:+.2f}, {self.images} "
            f"images), {self.speedup:.2f} × as fast ({times}), {self.layers} layers in int8, "
            f"{len(self.float_layers)} kept in float"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "miou_difference": self.loss.difference,
            "miou_difference_ci95": [self.loss.low, self.loss.high],
            "agreement": self.agreement,
            "speedup": self.speedup,
            "milliseconds": dict(self.milliseconds),
            "layers": self.layers,
            "float_layers": list(self.float_layers),
            "images": self.images,
        }


def export_int8(job: ExportJob, data: QuantizationData) -> ExportResult:
    """Write a quantized ONNX file if it loses at most MAX_LOSS and is at least MIN_SPEEDUP times as fast on this
    machine; ExportError with both figures otherwise."""
    if not data.calibration or not any(sample.mask is not None for sample in data.judged):
        raise UsageError(
            "int8 is calibrated on training images and judged by its mIoU", expected="labeled images",
            found=data.source or "none", fix="give the dataset with --data",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        folder = Path(temporary)
        whole, _ = checked_onnx(replace(job, with_logits=True), folder)
        quantizer = Quantizer(whole, folder, [fit_channels(s.image, job.network.in_channels) for s in data.calibration])
        chosen, found = _choose(quantizer, whole, data, job.network.in_channels)
        check_quantization(found, job.path)
        parity = compare(job.original, OnnxRuntime(chosen, "cpu"), job.samples, job.source)
        final = chosen if job.with_logits else without_logits(chosen)
        _describe(whole, final, found)
        OnnxRuntime(final, "cpu").labels(fit_channels(job.samples[0].image, job.network.in_channels)[None])
        with atomic_file(job.path) as beside:
            shutil.copyfile(final, beside)
    milliseconds = min(ms for name, ms in found.milliseconds.items() if name.endswith("int8"))
    parity = replace(parity, argmax_agreement=found.agreement, miou_delta=found.loss.difference)
    return finish(job, "onnx", parity, milliseconds, "int8", found.to_json(), found.figures())


def check_quantization(found: Quantization, path: Path) -> None:
    """ExportError with both figures unless the file is worth having."""
    wrong = []
    if not found.loss.difference >= -MAX_LOSS:
        wrong.append("loses too much")
    if not found.speedup >= MIN_SPEEDUP:
        wrong.append("is not faster enough on this machine")
    if wrong:
        raise ExportError(
            f"int8 {' and '.join(wrong)}; nothing was written",
            expected=f"at most {100 * MAX_LOSS:.1f} mIoU points lost, at least {MIN_SPEEDUP} × as fast as fp32",
            found=found.figures(),
            where=path,
            fix="use the fp32 export (segwright benchmark MODEL shows the fastest runtime), or try the target machine",
        )


def _choose(quantizer: Quantizer, whole: Path, data: QuantizationData, channels: int) -> tuple[Path, Quantization]:
    """The file with the fewest float layers that loses little enough, or else the last one tried."""
    judged = [sample for sample in data.judged if sample.mask is not None]
    counts, labels = _counts(OnnxRuntime(whole, "cpu"), judged, channels)
    order: list[str] | None = None
    kept = 0
    while True:
        excluded = tuple((order or [])[:kept])
        file = quantizer.quantize(excluded)
        ours, theirs = _counts(OnnxRuntime(file, "cpu"), judged, channels)
        units = find_units([sample.id for sample in judged])
        loss = paired_difference(counts, ours, groups=units.groups)
        equal = [float((a == b).mean()) for a, b in zip(labels, theirs, strict=True)]
        more = max(1, 2 * kept)
        if loss.difference >= -MAX_LOSS or more > MOST_FLOAT * len(quantizer.layers):
            speedup, times = compare_speed(whole, file, fit_channels(judged[0].image, channels)[None])
            left = len(quantizer.layers) - len(excluded)
            return file, Quantization(loss, float(np.mean(equal)), speedup, times, left, excluded, len(judged))
        order = order or quantizer.sensitivity()
        kept = more


def _counts(runtime: ExportedRuntime, judged: Sequence[Sample], channels: int) -> tuple[Any, list[UInt8Array]]:
    """Class counts (N, 3, K) and labels of each image."""
    matrices, labels = [], []
    for sample in judged:
        assert sample.mask is not None
        found = runtime.labels(fit_channels(sample.image, channels)[None])[0][0]
        matrices.append(count_pairs(found, sample.mask, runtime.classes))
        labels.append(found)
    return class_counts(np.stack(matrices)), labels


def compare_speed(whole: Path, quantized: Path, images: UInt8Array) -> tuple[float, dict[str, float]]:
    """How many times as fast int8 is, by the fastest runtime here of each precision; and the median milliseconds of
    each. All run in turn, so that a busy machine slows all alike."""
    runs: dict[str, Callable[[UInt8Array], object]] = {}
    for precision, file in (("fp32", whole), ("int8", quantized)):
        exported = ExportedFile("onnx", file)
        for name in exported.runtimes if has_openvino() else exported.runtimes[:1]:
            runs[f"{name} {precision}"] = open_exported(exported, runtime=name, device="cpu").labels
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images)
            if turn >= 2:  # the first ones prepare memory
                times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(found) for name, found in times.items()}
    fastest = [
        min((name for name in medians if name.endswith(precision)), key=medians.__getitem__)
        for precision in ("fp32", "int8")
    ]
    ratios = [a / b for a, b in zip(times[fastest[0]], times[fastest[1]], strict=True)]
    return statistics.median(ratios), medians


class Quantizer:
    """The quantization of one ONNX file, calibrated once. ``layers``: the names of the nodes that it quantizes."""

    def __init__(self, whole: Path, folder: Path, images: Sequence[UInt8Array]) -> None:
        import onnx
        import onnxruntime

        self.folder, self.images = folder, images
        self.folded = folder / "folded.onnx"  # batch normalization is folded into the convolutions before it
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(self.folded)
        onnxruntime.InferenceSession(str(whole), options, providers=["CPUExecutionProvider"])
        model = onnx.load(str(self.folded))
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"
        onnx.save(model, str(self.folded))
        self.layers = [node.name for node in model.graph.node if node.op_type in OPERATORS]
        if not self.layers:
            raise ExportError("the network has no layer to quantize", expected=", ".join(OPERATORS), where=whole)
        self._ranges = self._calibrate()
        self._number = 0

    def _calibrate(self) -> Any:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

        class Images(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, images: Sequence[UInt8Array]) -> None:
                self.waiting = iter(images)

            def get_next(self) -> dict[str, UInt8Array] | None:
                image = next(self.waiting, None)
                return None if image is None else {"images": image[None]}

        calibrator = create_calibrator(
            self.folded,
            [*OPERATORS, *FUSED],
            augmented_model_path=str(self.folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            # Images may differ in size; the mean of their extremes is less moved by a single one than the extreme.
            extra_options={"moving_average": True, "averaging_constant": 0.05},
        )
        calibrator.collect_data(Images(self.images))
        return calibrator.compute_data()

    def quantize(self, excluded: Sequence[str] = (), only: str | None = None) -> Path:
        """Write the network with all layers but ``excluded`` in int8, or with one layer ``only``."""
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        quantizer = QDQQuantizer(
            onnx.load(str(self.folded)),
            per_channel=True,
            reduce_range=not has_vnni(),
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[only] if only is not None else [],
            nodes_to_exclude=list(excluded),
            op_types_to_quantize=[*OPERATORS, *FUSED],
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        quantizer.quantize_model()
        self._number += 1
        path = self.folder / f"int8-{self._number}.onnx"
        quantizer.model.save_model_to_file(str(path))
        return path

    def sensitivity(self) -> list[str]:
        """The layers by the mean square that each alone changes the logits by, the largest first."""
        probes = [np.ascontiguousarray(image[:256, :256])[None] for image in self.images[:PROBES]]
        expected = [_logits(self.folded, probe) for probe in probes]
        found = {}
        for layer in self.layers:
            file = self.quantize(only=layer)
            changed = [_logits(file, probe) for probe in probes]
            found[layer] = sum(float(((a - b) ** 2).mean()) for a, b in zip(expected, changed, strict=True))
            file.unlink()
        return sorted(self.layers, key=lambda layer: -found[layer])


def _logits(file: Path, images: UInt8Array) -> Float32Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": images})[0], np.float32)


def _describe(whole: Path, quantized: Path, found: Quantization) -> None:
    """Give the quantized file the metadata of the original, and what it costs and gains."""
    import onnx

    model, original = onnx.load(str(quantized)), onnx.load(str(whole))
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    entry = model.metadata_props.add()
    entry.key, entry.value = DETAILS_KEY, json.dumps(found.to_json())
    onnx.save(model, str(quantized))


def has_vnni() -> bool:
    """Whether the CPU multiplies bytes in one instruction. Without it, sums of two products overflow 16 bits, and
    weights use seven bits."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True  # ARM and Apple: dot products of bytes
    return any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp"))

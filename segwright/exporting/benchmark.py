"""The runtimes of a model beside each other on this machine: latency, throughput, memory, agreement.

Runtimes run in turn, image by image, so that a busy machine slows all alike; ratios are medians over the turns. A
runtime's memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segwright.core.errors import MissingExtraError, SegwrightError, UsageError
from segwright.core.types import Sample, UInt8Array
from segwright.exporting.parity import views
from segwright.inference.exported_files import ExportedFile, find_exported, open_exported
from segwright.inference.openvino_runtime import has_openvino, supports_bf16
from segwright.inference.pixels import fit_channels
from segwright.inference.proofs import Measured, save_proof
from segwright.inference.runtimes import Runtime

LEAST_TURNS = 7
NAN = float("nan")
WARM_UP = 2  # turns that are not counted: memory is prepared
PROBE = "from segwright.exporting.memory_probe import main; main()"
PROBE_SECONDS = 300


@dataclass(frozen=True)
class RuntimeFigures:
    """One runtime; NaN where it could not be measured, for the reason in ``problem``."""

    runtime: str
    precision: str
    latency_ms: float  # of one image: the median
    latency_p95_ms: float
    speedup: float  # times as fast as the first runtime: the median over turns
    images_per_second: float  # in batches
    memory_mb: float  # peak of a process of its own
    agreement: float  # share of the labels equal to the first runtime's
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True)
class Benchmark:
    """The result; the first runtime is the usual one of the model."""

    model: str
    size: str  # height×width of the timed image
    batch: int  # images of a run for the throughput
    turns: int
    machine: Mapping[str, str]
    source: str  # of the images
    runtimes: tuple[RuntimeFigures, ...]
    fastest: str  # what --runtime auto takes from now on
    proof: str | None  # where that is kept

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"machine": dict(self.machine), "runtimes": [asdict(one) for one in self.runtimes]}


def benchmark(
    model: str | Path,
    *,
    samples: Sequence[Sample],
    source: str = "",
    size: tuple[int, int] | None = None,
    batch: int = 4,
    seconds: float = 20.0,
    memory: bool = True,
    keep: bool = True,
    trust_external: bool = False,
) -> Benchmark:
    """Measure a saved model or an exported file on the CPU. ``size``: height and width of the timed image instead of
    its own; ``keep`` the result as a proof for ``--runtime auto``. Errors as of loading."""
    from segwright.inference.proofs import machine

    if batch < 1 or not seconds > 0:
        raise UsageError("a benchmark takes a batch of 1 or more and some seconds", found=f"{batch}, {seconds}")
    with tempfile.TemporaryDirectory(prefix="segwright-benchmark-") as temporary:
        opened = _open_all(Path(model), Path(temporary), trust_external)
        first = opened.runtimes[next(iter(opened.runtimes))]
        image = fit_channels(samples[0].image, first.in_channels)
        if size is not None:
            image = _resized(image, size)
        agreements = _agreements(opened.runtimes, samples, first.in_channels)
        turns, times = _take_turns(opened.runtimes, image[None], seconds)
        _, batches = _take_turns(opened.runtimes, np.repeat(image[None], batch, axis=0), seconds / 2)
        peaks = _peaks(opened, image.shape, trust_external) if memory else {}
        rows = _rows(opened, times, batches, batch, peaks, agreements)
        measured = [
            Measured(r.runtime, r.precision, r.agreement, r.latency_ms, r.speedup) for r in rows if not r.problem
        ]
        kept = None
        if keep:
            kept = save_proof(model, measured[1:], len(views(samples, first.in_channels)), source, opened.converted)
    proven = max((one for one in measured[1:] if one.proven), key=lambda one: one.gain, default=measured[0])
    return Benchmark(
        str(model), f"{image.shape[0]}×{image.shape[1]}", batch, turns, machine(), source, tuple(rows),
        f"{proven.runtime} {proven.precision}", None if kept is None else str(kept),
    )  # fmt: skip


@dataclass(frozen=True)
class _Opened:
    runtimes: dict[str, Runtime]  # by "runtime precision", the usual one first
    problems: dict[str, str]
    places: dict[str, Path]  # what each of them opened
    converted: Path | None


def _rows(
    opened: _Opened,
    times: Mapping[str, list[float]],
    batches: Mapping[str, list[float]],
    batch: int,
    peaks: Mapping[str, float],
    agreements: Mapping[str, float],
) -> list[RuntimeFigures]:
    """The figures of each runtime, and those that could not be opened."""
    base = times[next(iter(times))]
    rows = []
    for name, found in times.items():
        runtime, _, precision = name.partition(" ")
        speedup = statistics.median(a / b for a, b in zip(base, found, strict=True))
        throughput = 1000 * batch / statistics.median(batches[name])
        latency, latest = statistics.median(found), float(np.quantile(found, 0.95))
        peak, equal = peaks.get(name, NAN), agreements[name]
        rows.append(RuntimeFigures(runtime, precision, latency, latest, speedup, throughput, peak, equal))
    for name, problem in opened.problems.items():
        runtime, _, precision = name.partition(" ")
        rows.append(RuntimeFigures(runtime, precision, NAN, NAN, NAN, NAN, NAN, NAN, problem))
    return rows


def _open_all(model: Path, folder: Path, trust_external: bool) -> _Opened:
    """Every runtime that exists for the model here."""
    runtimes: dict[str, Runtime] = {}
    problems: dict[str, str] = {}
    places: dict[str, Path] = {}
    exported, converted = find_exported(model), None
    if exported is None:
        from segwright.exporting.onnx import trace
        from segwright.inference.bundle import load_bundle
        from segwright.inference.predictor import find_bundle
        from segwright.inference.torch_runtime import TorchRuntime

        place = find_bundle(model)
        for precision in ("fp32", "bf16"):
            network, bundle = load_bundle(place, trust_external=trust_external)
            runtimes[f"torch {precision}"] = TorchRuntime(network, "cpu", precision)
            places[f"torch {precision}"] = place
        try:
            converted = folder / "model.onnx"
            trace(load_bundle(place, trust_external=trust_external)[0].cpu().eval(), bundle, converted)
            exported = ExportedFile("onnx", converted)
        except SegwrightError as error:
            converted = None
            problems["onnxruntime fp32"] = str(error).splitlines()[0]
    for name in exported.runtimes if exported is not None else ():
        for precision in _precisions(name):
            try:
                assert exported is not None
                runtimes[f"{name} {precision}"] = open_exported(
                    exported, runtime=name, device="cpu", precision=precision, trust_external=trust_external
                )
                places[f"{name} {precision}"] = exported.file
            except MissingExtraError as error:
                problems[f"{name} {precision}"] = f"{error.message}: {error.fix}"
    return _Opened(runtimes, problems, places, converted)


def _precisions(name: str) -> tuple[str, ...]:
    return ("fp32", "bf16") if name == "openvino" and has_openvino() and supports_bf16() else ("fp32",)


def _agreements(runtimes: Mapping[str, Runtime], samples: Sequence[Sample], channels: int) -> dict[str, float]:
    """The share of labels that equal the first runtime's, on the images at several sizes and as a batch."""
    equal, total = dict.fromkeys(runtimes, 0), 0
    for images, _ in views(samples, channels):
        expected: UInt8Array | None = None
        for name, runtime in runtimes.items():
            labels = runtime.labels(images)[0]
            expected = labels if expected is None else expected
            equal[name] += int((labels == expected).sum())
        total += 0 if expected is None else expected.size
    return {name: count / total for name, count in equal.items()}


def _take_turns(
    runtimes: Mapping[str, Runtime], images: UInt8Array, seconds: float
) -> tuple[int, dict[str, list[float]]]:
    """Milliseconds of each runtime per turn, for about ``seconds`` in all; and the number of turns."""
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    turn, end = 0, time.monotonic() + seconds
    while turn < WARM_UP + LEAST_TURNS or time.monotonic() < end:
        for name, runtime in runtimes.items():
            started = time.perf_counter()
            runtime.labels(images)
            if turn >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
        turn += 1
    return turn - WARM_UP, times


def _peaks(opened: _Opened, shape: tuple[int, ...], trust_external: bool) -> dict[str, float]:
    """Megabytes of each runtime in a process of its own."""
    found = {}
    for name, place in opened.places.items():
        runtime, precision = name.split()
        job = {"place": str(place), "runtime": runtime, "precision": precision, "shape": list(shape),
               "trust_external": trust_external}  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", PROBE], input=json.dumps(job), capture_output=True, text=True,
                timeout=PROBE_SECONDS, check=True,
            )  # fmt: skip
            found[name] = float(json.loads(done.stdout.splitlines()[-1])["peak_mb"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError):
            found[name] = NAN
    return found


def _resized(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    found = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)
    return found if found.ndim == 3 else found[..., None]

"""Exports, each verified against the original on real images at several sizes before it replaces a file.

Several models are exported as their ensemble; the original is then the mean of their probabilities.

``bundle`` is the folder that segwright itself loads. ``onnx``: the input of the graph is raw uint8 pixels N×H×W×C of
any batch and size, its output labels and confidence; normalization, padding and cropping are part of it. The file
contains the weights and, as metadata, the bundle's description, so ``predict`` and ``evaluate`` need nothing else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segwright.core.atomic_io import atomic_file, write_json
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import ExportError, UsageError
from segwright.core.types import Sample
from segwright.imageio import UInt8Array
from segwright.inference.attachments import Attachment
from segwright.inference.bundle import Bundle, is_bundle, load_bundle, read_attachments, save_bundle
from segwright.inference.ensemble import EnsembleRuntime, join_models
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.inference.pixels import fit_channels
from segwright.inference.predictor import find_bundle
from segwright.inference.runtimes import Runtime
from segwright.inference.torch_runtime import TorchRuntime, argmax_with_confidence
from segwright.metrics.confusion import ConfusionMatrix
from segwright.models.base import SegmentationModel
from segwright.monitoring.observation import weights_id

OPSET = 18
MAX_ABS_LOGIT = 1e-2  # float32 sums in another order over some hundred layers differ by much less
MIN_AGREEMENT = 0.999


@dataclass(frozen=True)
class Parity:
    """The difference between an export and its original."""

    max_abs_logit: float
    argmax_agreement: float  # share of equal labels over all images and sizes
    miou_delta: float  # mIoU of the export minus mIoU of the original, with masks; otherwise 0
    sizes: tuple[str, ...]  # height×width of the compared images
    source: str = ""  # the source of the images


@dataclass(frozen=True)
class ExportResult:
    """The written export and its comparison with the original."""

    path: Path
    format: str
    precision: str
    parity: Parity
    latency_ms: float  # one image of the first size, median
    not_included: tuple[str, ...] = ()  # what the model carries and the exported file cannot

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format,
            "precision": self.precision,
            "parity": asdict(self.parity),
            "latency_ms": self.latency_ms,
        }


class ExportedGraph(nn.Module):
    """The traced module: raw pixels to labels (uint8), confidence and logits."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (N, H, W, C) → labels (N, H, W), confidence (N, H, W), logits (N, K, H, W)."""
        logits = self.model(images).logits
        labels, confidence = argmax_with_confidence(logits)
        return labels.to(torch.uint8), confidence, logits


@renamed_parameters(pictures="source")
def export(
    model: str | Path | Sequence[str | Path],
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    samples: Sequence[Sample] = (),
    source: str = "",
    with_logits: bool = False,
    command: str = "",
    trust_external: bool = False,
) -> ExportResult:
    """Export a run folder or bundle, or several as their ensemble; ExportError if it cannot be exported or differs from
    the original.

    ``samples``: the real images to compare on, with masks if they have them; ``with_logits`` adds a third output, which
    test-time augmentation and post-processing need; ``command`` is written into an ensemble.
    """
    if to not in EXPORTERS:
        raise UsageError("unknown export format", expected=", ".join(EXPORTERS), found=to)
    if not samples:
        raise UsageError("an export is compared on real images", found="none", fix="give some with --data")
    models = [model] if isinstance(model, str | Path) else list(model)
    if len(models) == 1:
        network, bundle = load_bundle(find_bundle(models[0]), trust_external=trust_external)
    else:
        network, bundle = join_models(models, command=command, trust_external=trust_external)
    folders = [find_bundle(m) for m in models]
    # Loaded again, one by one: the exported network must not be compared with itself.
    originals = [TorchRuntime(load_bundle(folder, trust_external=trust_external)[0], "cpu") for folder in folders]
    original = originals[0] if len(originals) == 1 else EnsembleRuntime(originals)
    run = folders[0].parent
    usual = run / f"{run.name or 'model'}.{to}" if len(models) == 1 else Path(f"ensemble.{to}")
    path = Path(out) if out is not None else usual
    _refuse_overwriting(path, to, folders)
    path.parent.mkdir(parents=True, exist_ok=True)
    with_logits = with_logits or bundle.postprocess is not None
    attachments = read_attachments(folders[0]) if len(folders) == 1 else {}
    return EXPORTERS[to](ExportJob(network, bundle, original, path, samples, source, with_logits, attachments))


@dataclass(frozen=True)
class ExportJob:
    """The input of an exporter."""

    network: SegmentationModel
    bundle: Bundle
    original: Runtime
    path: Path
    samples: Sequence[Sample]
    source: str
    with_logits: bool
    attachments: Mapping[str, Attachment] = field(default_factory=dict)  # of the only model; an ensemble has none


def export_onnx(job: ExportJob) -> ExportResult:
    """Write an ONNX file of dynamic batch, height and width after comparing it with the original."""
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        whole = Path(temporary) / "whole.onnx"
        _trace(job.network.cpu().eval(), job.bundle, whole)
        parity = compare(job.original, OnnxRuntime(whole, "cpu"), job.samples, job.source)
        check_parity(parity, job.path)
        final = whole if job.with_logits else _without_logits(whole)
        runtime = OnnxRuntime(final, "cpu")
        latency = _latency(runtime.labels, fit_channels(job.samples[0].image, runtime.in_channels)[None])
        with atomic_file(job.path) as beside:
            shutil.copyfile(final, beside)
    result = ExportResult(job.path, "onnx", "fp32", parity, latency, tuple(sorted(job.attachments)))
    write_json(job.path.with_suffix(".parity.json"), result.to_json())
    return result


def export_bundle(job: ExportJob) -> ExportResult:
    """Write a bundle after comparing it with the original; the comparison is part of its metrics."""
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        written, _ = load_bundle(save_bundle(Path(temporary) / "bundle", job.network, job.bundle), trust_external=True)
        runtime = TorchRuntime(written, "cpu")
        parity = compare(job.original, runtime, job.samples, job.source)
        check_parity(parity, job.path)
        latency = _latency(runtime.labels, fit_channels(job.samples[0].image, runtime.in_channels)[None])
    save_bundle(
        job.path,
        job.network,
        replace(job.bundle, metrics={**job.bundle.metrics, "parity": asdict(parity)}),
        job.attachments,
    )
    return ExportResult(job.path, "bundle", "fp32", parity, latency)


EXPORTERS: dict[str, Callable[[ExportJob], ExportResult]] = {"onnx": export_onnx, "bundle": export_bundle}


def _refuse_overwriting(path: Path, to: str, models: Sequence[Path]) -> None:
    """Raise UsageError if ``path`` exists and is not an earlier export."""
    if to == "bundle":
        mine = path.resolve() in [model.resolve() for model in models]
        wrong = mine or path.is_file() or (path.is_dir() and any(path.iterdir()) and not is_bundle(path))
    else:
        wrong = path.is_dir()
    if wrong:
        raise UsageError(
            "the output exists and is not an earlier export",
            expected="a new name, an empty folder or an earlier bundle" if to == "bundle" else "a file's name",
            found="a file" if path.is_file() else "a folder",
            where=path,
            fix="another name with --out",
        )


def compare(original: Runtime, exported: Runtime, samples: Sequence[Sample], source: str = "") -> Parity:
    """Compare an export with its original on every sample at its own size and, for the first one, at odd and small
    sizes and as a batch."""
    worst, equal, total = 0.0, 0, 0
    ours, theirs = ConfusionMatrix(original.classes), ConfusionMatrix(original.classes)
    sizes: dict[str, None] = {}
    for images, mask in _views(samples, original.in_channels):
        expected, found = original.logits(images), exported.logits(images)
        labels = exported.labels(images)[0]
        own = expected.argmax(axis=1).astype(np.uint8)
        difference = float(np.abs(expected - found).max())  # NaN if either is
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
        equal, total = equal + int((own == labels).sum()), total + own.size
        sizes["×".join(str(n) for n in (images.shape[1:3] if len(images) == 1 else images.shape[:3]))] = None
        if mask is not None:
            ours.update(own[0], mask)
            theirs.update(labels[0], mask)
    delta = theirs.scores().miou - ours.scores().miou
    return Parity(worst, equal / total, 0.0 if np.isnan(delta) else delta, tuple(sizes), source)


def check_parity(parity: Parity, path: Path) -> None:
    """Raise ExportError if the export differs too much from the original."""
    if not (parity.max_abs_logit <= MAX_ABS_LOGIT and parity.argmax_agreement >= MIN_AGREEMENT):
        raise ExportError(
            "the export differs from the original; nothing was written",
            expected=f"logits within {MAX_ABS_LOGIT}, at least {MIN_AGREEMENT:.1%} of the labels equal",
            found=f"logits within {parity.max_abs_logit:.3g}, {parity.argmax_agreement:.3%} equal",
            where=path,
            fix="report the network and the versions of torch and onnxruntime",
        )


def _views(samples: Sequence[Sample], channels: int) -> list[tuple[UInt8Array, UInt8Array | None]]:
    """(batch of images, mask): every sample whole; the first cropped to odd and tiny sizes; two as one batch."""
    views: list[tuple[UInt8Array, UInt8Array | None]] = []
    for sample in samples:
        views.append((fit_channels(sample.image, channels)[None], sample.mask))
    first = views[0][0]
    height, width = first.shape[1:3]
    for h, w in ((height - 1, width - 3), (height * 2 // 3 + 1, width // 2 + 1), (33, 65)):
        if 0 < h <= height and 0 < w <= width:
            views.append((np.ascontiguousarray(first[:, :h, :w]), None))
    views.append((np.concatenate([first, first[:, ::-1]]), None))
    return views


def _trace(network: SegmentationModel, bundle: Bundle, path: Path) -> None:
    """Write the graph with its three outputs and the bundle's description as metadata."""
    # Sides are unequal and odd: with equal ones the tracer would treat height and width as one symbol.
    example = torch.randint(0, 255, (2, 97, 131, network.in_channels), dtype=torch.uint8)
    dynamic = {"images": dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                ExportedGraph(network),
                (example,),
                input_names=["images"],
                output_names=["labels", "confidence", "logits"],
                dynamic_shapes=dynamic,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props[METADATA_KEY] = json.dumps(describe(bundle))
        program.model.metadata_props[WEIGHTS_KEY] = weights_id(network)
        program.save(str(path), external_data=False)
    except Exception as error:  # the exporter raises many kinds of errors
        raise ExportError(
            "torch cannot export this network to ONNX",
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
            where=path,
        ) from error


def describe(bundle: Bundle) -> dict[str, Any]:
    """The metadata of an exported file: the bundle's description without most of the training record."""
    short = replace(bundle, training={k: v for k, v in bundle.training.items() if k in ("data", "command")})
    return short.to_json()


def _without_logits(whole: Path) -> Path:
    import onnx

    model = onnx.load(str(whole))
    kept = [output for output in model.graph.output if output.name != "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    path = whole.with_name("final.onnx")
    onnx.save(model, str(path))
    return path


def _latency(run: Callable[[UInt8Array], object], images: UInt8Array, repeats: int = 7) -> float:
    """Milliseconds: the median of ``repeats`` runs after a first one."""
    run(images)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1000)

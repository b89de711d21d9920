"""Export as an ONNX file of dynamic batch, height and width."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segwright.core.atomic_io import atomic_file, write_json
from segwright.core.deprecated import warn_renamed
from segwright.core.errors import ExportError
from segwright.exporting.job import ExportJob, ExportResult
from segwright.exporting.parity import check_parity, compare, latency
from segwright.inference.description import Bundle
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY
from segwright.inference.lineage import KEY as LINEAGE
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.inference.pixels import fit_channels
from segwright.inference.torch_runtime import argmax_with_confidence
from segwright.models.base import SegmentationModel
from segwright.monitoring.observation import weights_id

OPSET = 18
_MOVED = {"EXPORTERS": "export", "export": "export", "Parity": "parity"}


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


def export_onnx(job: ExportJob) -> ExportResult:
    """Write an ONNX file of dynamic batch, height and width after comparing it with the original."""
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        whole = Path(temporary) / "whole.onnx"
        trace(job.network.cpu().eval(), job.bundle, whole)
        parity = compare(job.original, OnnxRuntime(whole, "cpu"), job.samples, job.source)
        check_parity(parity, job.path)
        final = whole if job.with_logits else without_logits(whole)
        runtime = OnnxRuntime(final, "cpu")
        milliseconds = latency(runtime.labels, fit_channels(job.samples[0].image, runtime.in_channels)[None])
        with atomic_file(job.path) as beside:
            shutil.copyfile(final, beside)
    result = ExportResult(job.path, "onnx", "fp32", parity, milliseconds, tuple(sorted(job.attachments)))
    write_json(job.path.with_suffix(".parity.json"), result.to_json())
    return result


def trace(network: SegmentationModel, bundle: Bundle, path: Path) -> None:
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
    short = replace(bundle, training={k: v for k, v in bundle.training.items() if k in ("data", "command", LINEAGE)})
    return short.to_json()


def without_logits(whole: Path) -> Path:
    import onnx

    model = onnx.load(str(whole))
    kept = [output for output in model.graph.output if output.name != "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    path = whole.with_name("final.onnx")
    onnx.save(model, str(path))
    return path


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"segwright.exporting.{_MOVED[name]}"
    warn_renamed(f"{__name__}.{name}", f"{home}.{name}")
    return getattr(import_module(home), name)

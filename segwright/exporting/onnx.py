"""Export as an ONNX file of dynamic batch, height and width."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from segwright.core.atomic_io import atomic_file
from segwright.core.deprecated import warn_renamed
from segwright.core.errors import ExportError
from segwright.exporting.graph import ExportedGraph, describe, example_images
from segwright.exporting.job import ExportJob, ExportResult, finish
from segwright.exporting.parity import Parity, check_parity, compare, time_one_image
from segwright.exporting.same_padding import constant_padding
from segwright.inference.description import Bundle
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.models.base import SegmentationModel
from segwright.monitoring.observation import weights_id

OPSET = 18
_MOVED = {"EXPORTERS": "export", "export": "export"}


def export_onnx(job: ExportJob) -> ExportResult:
    """Write an ONNX file of dynamic batch, height and width after comparing it with the original."""
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        final, parity = checked_onnx(job, Path(temporary))
        milliseconds = time_one_image(OnnxRuntime(final, "cpu"), job.samples)
        with atomic_file(job.path) as beside:
            shutil.copyfile(final, beside)
    return finish(job, "onnx", parity, milliseconds)


def checked_onnx(job: ExportJob, folder: Path) -> tuple[Path, Parity]:
    """Write the ONNX file into ``folder`` and compare it with the original; ExportError if it differs."""
    whole = folder / "whole.onnx"
    trace(job.network.cpu().eval(), job.bundle, whole)
    parity = compare(job.original, OnnxRuntime(whole, "cpu"), job.samples, job.source)
    check_parity(parity, job.path)
    return (whole if job.with_logits else without_logits(whole)), parity


def trace(network: SegmentationModel, bundle: Bundle, path: Path) -> None:
    """Write the graph with its three outputs and the bundle's description as metadata."""
    dynamic = {"images": dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)}
    try:
        with warnings.catch_warnings(), constant_padding(network):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                ExportedGraph(network),
                (example_images(network),),
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


def without_logits(whole: Path) -> Path:
    """Write the file again with labels and confidence alone."""
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

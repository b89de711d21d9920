"""Export as a program of torch.export: a ``.pt2`` file, which torch runs without segwright."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import torch

from segwright.core.atomic_io import atomic_file
from segwright.core.errors import ExportError
from segwright.exporting.graph import ExportedGraph, describe, example_images
from segwright.exporting.job import ExportJob, ExportResult, finish
from segwright.exporting.parity import check_parity, compare, time_one_image
from segwright.exporting.same_padding import constant_padding
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY
from segwright.inference.torch_program_runtime import TorchProgramRuntime
from segwright.monitoring.observation import weights_id


def export_torch(job: ExportJob) -> ExportResult:
    """Write the file after its comparison with the original."""
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        whole = _program(job, Path(temporary) / "whole.pt2", with_logits=True)
        parity = compare(job.original, TorchProgramRuntime(whole, "cpu"), job.samples, job.source)
        check_parity(parity, job.path)
        final = whole if job.with_logits else _program(job, Path(temporary) / "final.pt2", with_logits=False)
        milliseconds = time_one_image(TorchProgramRuntime(final, "cpu"), job.samples)
        with atomic_file(job.path) as beside:
            shutil.copyfile(final, beside)
    return finish(job, "torch", parity, milliseconds)


def _program(job: ExportJob, path: Path, *, with_logits: bool) -> Path:
    graph = ExportedGraph(job.network.cpu().eval(), with_logits=with_logits)
    dynamic = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO},)
    outputs = ["labels", "confidence", "logits"][: 3 if with_logits else 2]
    extra = {
        METADATA_KEY: json.dumps(describe(job.bundle)),
        WEIGHTS_KEY: weights_id(job.network),
        "outputs": json.dumps(outputs),
    }
    try:
        with warnings.catch_warnings(), constant_padding(job.network):
            warnings.simplefilter("ignore")
            program = torch.export.export(graph, (example_images(job.network),), dynamic_shapes=dynamic)
            torch.export.save(program, str(path), extra_files=extra)
    except Exception as error:  # torch.export raises many kinds of errors
        raise ExportError(
            "torch cannot export this network as a program",
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
            where=job.path,
        ) from error
    return path

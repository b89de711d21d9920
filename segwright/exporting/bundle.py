"""Export as a bundle: the folder that segwright itself loads."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from segwright.exporting.job import ExportJob, ExportResult
from segwright.exporting.parity import check_parity, compare, time_one_image
from segwright.inference.bundle import load_bundle, save_bundle
from segwright.inference.torch_runtime import TorchRuntime


def export_bundle(job: ExportJob) -> ExportResult:
    """Write a bundle after comparing it with the original; the comparison is part of its metrics."""
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        written, _ = load_bundle(save_bundle(Path(temporary) / "bundle", job.network, job.bundle), trust_external=True)
        runtime = TorchRuntime(written, "cpu")
        parity = compare(job.original, runtime, job.samples, job.source)
        check_parity(parity, job.path)
        milliseconds = time_one_image(runtime, job.samples)
    save_bundle(
        job.path,
        job.network,
        replace(job.bundle, metrics={**job.bundle.metrics, "parity": asdict(parity)}),
        job.attachments,
    )
    return ExportResult(job.path, "bundle", "fp32", parity, milliseconds)

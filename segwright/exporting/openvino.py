"""Export for OpenVINO: a folder with ``model.xml`` and ``model.bin``, made of the ONNX graph."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from segwright.core.atomic_io import write_checksums, write_folder
from segwright.core.errors import ExportError
from segwright.exporting.graph import describe
from segwright.exporting.job import ExportJob, ExportResult, finish
from segwright.exporting.onnx import trace, without_logits
from segwright.exporting.parity import check_parity, compare, time_one_image
from segwright.inference.openvino_runtime import DESCRIPTION_PATH, WEIGHTS_PATH, OpenVinoRuntime, require_openvino
from segwright.monitoring.observation import weights_id

GRAPH = "model.xml"


def export_openvino(job: ExportJob) -> ExportResult:
    """Write the folder after its comparison with the original in fp32. MissingExtraError without ``openvino``."""
    require_openvino()
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        onnx = Path(temporary) / "whole.onnx"
        trace(job.network.cpu().eval(), job.bundle, onnx)
        whole = _convert(job, onnx, Path(temporary) / "whole")
        parity = compare(job.original, OpenVinoRuntime(whole, "cpu"), job.samples, job.source)
        check_parity(parity, job.path)
        final = whole if job.with_logits else _convert(job, without_logits(onnx), Path(temporary) / "final")
        milliseconds = time_one_image(OpenVinoRuntime(final, "cpu"), job.samples)
        with write_folder(job.path) as beside:
            for suffix in (".xml", ".bin"):
                shutil.copyfile(final.with_suffix(suffix), (beside / GRAPH).with_suffix(suffix))
            write_checksums(beside)
    return finish(job, "openvino", parity, milliseconds)


def _convert(job: ExportJob, onnx: Path, folder: Path) -> Path:
    openvino = require_openvino()
    folder.mkdir()
    try:
        model = openvino.convert_model(str(onnx))
        model.set_rt_info(json.dumps(describe(job.bundle)), DESCRIPTION_PATH)
        model.set_rt_info(weights_id(job.network), WEIGHTS_PATH)
        openvino.save_model(model, str(folder / GRAPH), compress_to_fp16=False)
    except Exception as error:  # OpenVINO's errors derive from several kinds
        raise ExportError(
            "OpenVINO cannot convert this network", found=f"{type(error).__name__}: {str(error)[-300:]}", where=job.path
        ) from error
    return folder / GRAPH

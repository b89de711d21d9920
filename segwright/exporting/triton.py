"""Export as a model repository for a Triton Inference Server: its ONNX file, and the configuration that fits it.

::

    street.triton/              tritonserver --model-repository street.triton
      street/
        config.pbtxt
        1/model.onnx

The configuration is parsed by the published schema, ``model_config.proto`` of triton-inference-server/common, whose
compiled form is beside this module.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import write_checksums, write_folder
from segwright.core.errors import ExportError
from segwright.exporting.job import ExportJob, ExportResult, finish
from segwright.exporting.onnx import checked_onnx
from segwright.exporting.parity import time_one_image
from segwright.inference.onnx_runtime import OnnxRuntime

SCHEMA = Path(__file__).with_name("model_config.binpb")
LARGEST_BATCH = 8
QUEUE_MICROSECONDS = 2_000  # how long an image waits for others of its size
TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}


def export_triton(job: ExportJob) -> ExportResult:
    """Write the repository after the comparison of its file with the original, and of its configuration with the
    file."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", job.path.stem) or "model"
    with tempfile.TemporaryDirectory(dir=job.path.parent, prefix=".exporting-") as temporary:
        final, parity = checked_onnx(job, Path(temporary))
        runtime = OnnxRuntime(final, "cpu")
        text = configuration(name, runtime)
        check_configuration(text, job.path)
        milliseconds = time_one_image(runtime, job.samples)
        with write_folder(job.path) as beside:
            version = beside / name / "1"
            version.mkdir(parents=True)
            (beside / name / "config.pbtxt").write_text(text, encoding="utf-8")
            shutil.copyfile(final, version / "model.onnx")
            write_checksums(beside)
    return finish(job, "triton", parity, milliseconds)


def configuration(name: str, runtime: OnnxRuntime) -> str:
    """``config.pbtxt`` for an exported file; ExportError if an input or output is of a type that Triton lacks.

    Triton adds the batch to the dimensions that are listed here.
    """
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {LARGEST_BATCH}",
    ]
    for block, ports in (("input", runtime.session.get_inputs()), ("output", runtime.session.get_outputs())):
        for port in ports:
            if port.type not in TYPES:
                raise ExportError("Triton has no such type", found=f"{port.name}: {port.type}", where=runtime.path)
            dims = ", ".join(str(side) if isinstance(side, int) else "-1" for side in port.shape[1:])
            lines += [f"{block} [", "  {", f'    name: "{port.name}"', f"    data_type: {TYPES[port.type]}",
                      f"    dims: [ {dims} ]", "  }", "]"]  # fmt: skip
    classes = json.dumps(json.dumps(list(runtime.bundle.label_space.names)))  # a JSON list as a quoted string
    lines += [
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}",
        f'parameters {{ key: "classes" value {{ string_value: {classes} }} }}',
    ]
    return "\n".join(lines) + "\n"


def check_configuration(text: str, where: Path) -> Any:
    """The configuration as a ``ModelConfig`` of the published schema; ExportError for text that is none."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(SCHEMA.read_bytes()))
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ExportError("the configuration is none of Triton's", found=str(error)[:300], where=where) from error
    return config

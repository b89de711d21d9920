"""What every exporter takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import write_json
from segwright.core.types import Sample
from segwright.exporting.parity import Parity
from segwright.inference.attachments import Attachment
from segwright.inference.description import Bundle
from segwright.inference.runtimes import Runtime
from segwright.models.base import SegmentationModel


@dataclass(frozen=True)
class ExportResult:
    """The written export and its comparison with the original."""

    path: Path
    format: str
    precision: str
    parity: Parity
    latency_ms: float  # one image of the first size, median
    not_included: tuple[str, ...] = ()  # what the model carries and the exported file cannot
    remark: str = ""  # for people: what an int8 file costs and gains
    dropped: tuple[str, ...] = ()  # what members of an ensemble carry; it holds for their own outputs alone

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format,
            "precision": self.precision,
            "parity": asdict(self.parity),
            "latency_ms": self.latency_ms,
            **({"dropped": list(self.dropped)} if self.dropped else {}),
        }


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


def finish(
    job: ExportJob,
    format: str,
    parity: Parity,
    milliseconds: float,
    precision: str = "fp32",
    details: Mapping[str, Any] | None = None,
    remark: str = "",
) -> ExportResult:
    """The result of a written export, whose comparison is also kept beside it as a ``.parity.json`` file, there with
    ``details``."""
    result = ExportResult(job.path, format, precision, parity, milliseconds, tuple(sorted(job.attachments)), remark)
    name = job.path.stem if format == "onnx" else job.path.name
    tree = result.to_json() | ({precision: dict(details)} if details else {})
    write_json(job.path.with_name(f"{name}.parity.json"), tree)
    return result

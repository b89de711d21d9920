"""What every exporter takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format,
            "precision": self.precision,
            "parity": asdict(self.parity),
            "latency_ms": self.latency_ms,
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

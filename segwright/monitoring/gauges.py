"""A look at a journal as Prometheus gauges: in the service's own registry, in a file, or on a port.

Labels are names of statistics and classes of one model, bounded in number; never an id.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.core.atomic_io import write_bytes
from segwright.core.errors import MissingExtraError, OutputError, UsageError
from segwright.monitoring.result import MonitorResult

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

GAUGES = {  # name → (help, labels)
    "segwright_monitor_images": ("Images of the journal that were compared with the reference.", ()),
    "segwright_monitor_alarm": ("1 while an alarm is going on.", ()),
    "segwright_monitor_alarms": ("Alarms by detector, those that ended too.", ("detector",)),
    "segwright_monitor_evidence": ("Evidence of drift in the stream of images; an alarm at the threshold.", ()),
    "segwright_monitor_evidence_threshold": ("The evidence at which there is an alarm.", ()),
    "segwright_monitor_embedding_p": ("p-value of the last window's embeddings against the reference's.", ()),
    "segwright_monitor_statistic": ("Mean of a statistic over the last window.", ("name",)),
    "segwright_monitor_reference": ("Mean of a statistic over the reference.", ("name",)),
    "segwright_monitor_estimated_miou": (
        "Mean IoU of the last window estimated without labels, and its interval.",
        ("bound",),
    ),
    "segwright_monitor_skipped_rows": ("Rows of the journal that were not counted.", ()),
    "segwright_monitor_last_image_seconds": ("Time of the newest image, in seconds since 1970.", ()),
    "segwright_monitor_updated_seconds": ("Time of this look at the journal, in seconds since 1970.", ()),
}
DETECTORS = ("stream", "statistics", "embeddings")


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise MissingExtraError(
            "Prometheus needs the package prometheus-client", fix="pip install 'segwright[serve]'"
        ) from error
    return prometheus_client


class MonitorGauges:
    """The gauges in a registry; MissingExtraError without prometheus-client."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        client = _client()
        self.registry = registry if registry is not None else client.CollectorRegistry()
        self._gauges: dict[str, Any] = {
            name: client.Gauge(name, text, labels, registry=self.registry) for name, (text, labels) in GAUGES.items()
        }
        # Before the first look nothing is known: 0 would be a p-value of 0 and evidence at its threshold.
        for name, (_, labels) in GAUGES.items():
            if not labels:
                self._gauges[name].set(math.nan)

    def update(self, result: MonitorResult, *, now: float | None = None) -> None:
        """Set every gauge."""
        gauge = self._gauges
        gauge["segwright_monitor_images"].set(result.images)
        gauge["segwright_monitor_alarm"].set(int(result.alarm))
        for name in DETECTORS:
            count = sum(alarm.detector == name for alarm in result.alarms)
            gauge["segwright_monitor_alarms"].labels(name).set(count)
        drift = next((series for series in result.series if series.group == "drift"), None)
        gauge["segwright_monitor_evidence"].set(drift.value[-1] if drift else 0)
        gauge["segwright_monitor_evidence_threshold"].set(drift.threshold if drift else math.nan)
        gauge["segwright_monitor_embedding_p"].set(result.embedding_p)
        gauge["segwright_monitor_statistic"].clear()
        gauge["segwright_monitor_reference"].clear()
        for movement in result.movements:
            gauge["segwright_monitor_statistic"].labels(movement.name).set(movement.found)
            gauge["segwright_monitor_reference"].labels(movement.name).set(movement.reference)
        found = result.recent if result.recent is not None else result.estimate
        for bound in ("estimate", "low", "high"):
            value = math.nan if found is None else found.miou if bound == "estimate" else getattr(found, bound)
            gauge["segwright_monitor_estimated_miou"].labels(bound).set(value)
        gauge["segwright_monitor_skipped_rows"].set(sum(result.skipped.values()))
        gauge["segwright_monitor_last_image_seconds"].set(result.last)
        gauge["segwright_monitor_updated_seconds"].set(time.time() if now is None else now)

    def write(self, path: str | Path) -> Path:
        """Write the exposition format into a file, atomically: for the text-file collector of the node exporter."""
        return write_bytes(path, _client().generate_latest(self.registry))

    def serve(self, port: int) -> Any:
        """Answer on a port of this machine until the process ends; OutputError if it is in use."""
        if not 0 <= port <= 65_535:
            raise UsageError("no port", expected="0 to 65535", found=str(port))
        try:
            return _client().start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise OutputError(
                "the port cannot be opened", found=error.strerror or str(error), where=f"127.0.0.1:{port}",
                fix="choose another port",
            ) from error  # fmt: skip

"""What the service counts, for Prometheus.

Labels are a route's template and a status's class, nothing that a client can choose: a label with free values grows the
process's memory, and the one of whoever collects, without bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segwright.core.errors import MissingExtraError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32)


class ServiceMetrics:
    """Counters of one service in a registry of their own, so that two services in a process do not meet."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
        except ImportError as error:
            raise missing_package("prometheus-client") from error
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "segwright_requests", "Answered requests.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "segwright_request_seconds", "From a request's headers to its answer.", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batch_images = Histogram(
            "segwright_batch_images", "Images a run of the network.", buckets=IMAGES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "segwright_batch_seconds", "A run of the network and its post-processing.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.taken = Gauge("segwright_taken", "Requests taken and not yet answered.", registry=self.registry)
        self.left = Counter("segwright_left", "Clients that left before their answer.", registry=self.registry)
        self.reloads = Counter("segwright_reloads", "Models exchanged while running.", registry=self.registry)
        self.failed_reloads = Counter(
            "segwright_failed_reloads", "Reloads that failed; the old model went on.", registry=self.registry
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """One answered request; ``route`` is a template, never a path as it was asked for."""
        self._requests.labels(route, f"{status // 100}xx").inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The exposition format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def missing_package(name: str) -> MissingExtraError:
    """The error for an absent package of the extra ``serve``."""
    return MissingExtraError(
        "serving needs another package", expected=name, found="not installed", fix="pip install 'segwright[serve]'"
    )

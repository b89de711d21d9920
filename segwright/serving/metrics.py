"""Prometheus metrics of the service.

Labels are a route's template, a status class, and names of models and API keys, never a value that a client can choose:
free values would grow the memory of this process and of the Prometheus server without bound.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32)


class ServiceMetrics:
    """The counters of one service, in a registry of its own so that two services in a process stay apart."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("segwright_requests", "Requests.", ("route", "status"), registry=registry)
        self._seconds = Histogram(
            "segwright_request_seconds", "Time from a request's headers to its response.", ("route",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_images = Histogram(
            "segwright_batch_images", "Images per run of the network.", buckets=IMAGES, registry=registry
        )
        self.batch_seconds = Histogram(
            "segwright_batch_seconds", "Time of a run of the network and its post-processing.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "segwright_inflight_requests", "Requests accepted and not yet answered.", registry=registry
        )
        self._disconnects = Counter(
            "segwright_client_disconnects", "Clients that disconnected before their response.", registry=registry
        )
        # The former names, for one release.
        self._taken = Gauge("segwright_taken", "Deprecated: segwright_inflight_requests.", registry=registry)
        self._left = Counter("segwright_left", "Deprecated: segwright_client_disconnects_total.", registry=registry)
        self.reloads = Counter("segwright_reloads", "Reloads of the model.", registry=registry)
        self.failed_reloads = Counter(
            "segwright_failed_reloads", "Failed reloads; the previous model stayed in use.", registry=registry
        )
        self._images = Counter("segwright_images", "Images predicted.", ("model",), registry=registry)
        self._by_key = Counter(
            "segwright_key_requests", "Requests with an API key.", ("key", "status"), registry=registry
        )
        self.loaded_models = Gauge("segwright_loaded_models", "Models in memory, with versions.", registry=registry)
        self.loaded_bytes = Gauge("segwright_loaded_model_bytes", "Size of the files of these.", registry=registry)
        self.journal_rows = Counter("segwright_journal_rows", "Rows written to the journal.", registry=registry)
        self.journal_lost = Counter(
            "segwright_journal_lost_rows", "Rows that the journal could not take.", registry=registry
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is a template, never the requested path."""
        self._requests.labels(route, f"{status // 100}xx").inc()
        self._seconds.labels(route).observe(seconds)

    def count_key(self, name: str, status: int) -> None:
        """Count one request with the API key of a name."""
        self._by_key.labels(name, f"{status // 100}xx").inc()

    def count_image(self, model: str) -> None:
        """Count one image that a model has predicted."""
        self._images.labels(model).inc()

    def set_in_flight(self, count: int) -> None:
        """Set the number of requests accepted and not yet answered."""
        self._in_flight.set(count)
        self._taken.set(count)

    def count_disconnect(self) -> None:
        """Count a client that disconnected before its response."""
        self._disconnects.inc()
        self._left.inc()

    def disconnects(self) -> int:
        """The number of clients that disconnected before their response."""
        return int(self._disconnects._value.get())

    def text(self) -> tuple[bytes, str]:
        """The exposition format and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

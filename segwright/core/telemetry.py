"""OpenTelemetry spans, if the process is set up for them; otherwise nothing, not even an import.

Set up means: an application called ``trace.set_tracer_provider``, or the environment names an exporter
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_TRACES_EXPORTER``) and the packages
are installed, for which the extra ``otel`` is.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("segwright.telemetry")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[None]:
    """A span around the block, with attributes; an exception is recorded and goes on. No image, path or text of a
    request belongs into an attribute."""
    found = _tracer()
    if found is None:
        yield
        return
    with found.start_as_current_span(name, attributes=attributes):
        yield


def _tracer() -> Any:
    """The tracer, or None if nothing is set up. A provider that the application sets later is found too."""
    if any(os.environ.get(name) for name in ENDPOINTS) or _exporter():
        _set_up()
    api = sys.modules.get("opentelemetry.trace")
    return None if api is None else api.get_tracer("segwright")


def _exporter() -> bool:
    return os.environ.get("OTEL_TRACES_EXPORTER", "none") not in ("none", "")


@functools.cache
def _set_up() -> None:
    """Once: a provider that exports by OTLP over HTTP, as the environment has it, if there is none yet."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
    except ImportError:
        logger.warning("OpenTelemetry is configured but not installed: pip install 'segwright[otel]'")
        return
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return  # the application's own
    exporter: SpanExporter
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        exporter = ConsoleSpanExporter()
    else:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            logger.warning("the OTLP exporter is not installed: pip install 'segwright[otel]'")
            return
        exporter = OTLPSpanExporter()
    name = os.environ.get("OTEL_SERVICE_NAME", "segwright")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

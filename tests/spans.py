"""Recording of OpenTelemetry spans in tests, without a global provider."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def record_spans(patch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the package records until ``patch`` ends, by a tracer of the SDK."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    patch.setattr("segwright.core.telemetry._tracer", lambda: provider.get_tracer("segwright"))
    return kept

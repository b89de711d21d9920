"""The dashboard names gauges that exist; spans exist only where they are set up; the service's gauges never end it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from monitoring.streams import CLASSES, rows

from segwright.core.errors import DataError
from segwright.monitoring.gauges import GAUGES, MonitorGauges
from segwright.monitoring.monitor import examine
from segwright.monitoring.periodic import PeriodicMonitor
from segwright.serving.metrics import ServiceMetrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "segwright.json"
NAME = re.compile(r"segwright_[a-z_]+")


def known_names() -> dict[str, set[str]]:
    """Names of a service's metrics, with the labels that each has."""
    metrics = ServiceMetrics()
    with suppress(ValueError):  # if the service has them already
        MonitorGauges(metrics.registry)
    found = {}
    for family in metrics.registry.collect():
        kind = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for ending in kind:
            found[family.name + ending] = {label for sample in family.samples for label in sample.labels}
    return found


def expressions() -> list[str]:
    tree = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in tree["panels"] for target in panel["targets"]]
    return found + [one["definition"] for one in tree["templating"]["list"] if "definition" in one]


def test_the_dashboard_names_gauges_that_exist() -> None:
    names = known_names()
    used = {name for text in expressions() for name in NAME.findall(text)}
    assert len(used) >= 10 and used <= set(names), used - set(names)


def test_the_dashboard_is_one_that_opens() -> None:
    tree = json.loads(DASHBOARD.read_text())
    assert tree["title"] == "segwright" and tree["schemaVersion"] >= 36 and tree["uid"]
    ids = [panel["id"] for panel in tree["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in tree["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for text in expressions():
        assert text.count("(") == text.count(")") and text.count("{") == text.count("}")


def look() -> Any:
    return examine(rows(60, 1, brightness=0.3), rows(80, 2), CLASSES)


def test_gauges_are_set_and_alarms_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = ServiceMetrics()
    gauges = MonitorGauges(metrics.registry)
    written = [1]
    periodic = PeriodicMonitor(look, gauges, written=lambda: written[0])
    assert periodic.look_once() is not None and periodic.look_once() is None
    written[0] = 2
    assert periodic.look_once() is not None
    alarms = [record for record in caplog.records if record.message.startswith("alarm: ")]
    assert len(alarms) == len({record.message for record in alarms}) >= 1
    assert metrics.registry.get_sample_value("segwright_monitor_alarm") == 1
    value = metrics.registry.get_sample_value("segwright_monitor_statistic", {"name": "brightness"})
    assert value is not None and value > 0.7


def test_before_the_first_look_nothing_is_known() -> None:
    """Not 0, which as a p-value, or as evidence at a threshold of 0, would be an alarm."""
    metrics = ServiceMetrics()
    gauges = MonitorGauges(metrics.registry)
    plain = [name for name, (_, labels) in GAUGES.items() if not labels]
    assert all(math.isnan(metrics.registry.get_sample_value(name) or 0) for name in plain) and len(plain) >= 8
    gauges.update(look())
    assert metrics.registry.get_sample_value("segwright_monitor_images") == 60


def test_a_restarted_service_looks_before_its_first_row_and_again_after_an_error() -> None:
    looks: list[int] = []

    def second_time() -> Any:
        looks.append(1)
        if len(looks) == 1:
            raise DataError("the journal cannot be read")
        return look()

    gauges = MonitorGauges()
    periodic = PeriodicMonitor(second_time, gauges, written=lambda: 0)
    assert periodic.look_once() is None and periodic.look_once() is not None and periodic.look_once() is None
    assert len(looks) == 2 and gauges.registry.get_sample_value("segwright_monitor_alarm") == 1


def test_an_error_of_the_look_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise DataError("the journal cannot be read")

    periodic = PeriodicMonitor(broken, MonitorGauges())
    assert periodic.look_once() is None and periodic.look_once() is None
    assert [record.message for record in caplog.records] == [
        "the journal could not be examined: the journal cannot be read"
    ]


def test_the_thread_looks_and_ends() -> None:
    seen: list[int] = []

    def count() -> Any:
        seen.append(1)
        return look()

    periodic = PeriodicMonitor(count, MonitorGauges(), seconds=0.01)
    periodic.start()
    periodic.start()
    while not seen:
        pass
    periodic.close()
    assert seen


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=120)  # fmt: skip


def test_no_span_and_no_import_unless_set_up() -> None:
    done = run(
        "import sys\nfrom segwright.core.telemetry import span\n"
        "with span('a', n=1): pass\nprint('opentelemetry' in sys.modules)"
    )
    assert done.stdout.strip() == "False", done.stderr


def test_spans_reach_the_applications_provider() -> None:
    done = run(
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "kept = InMemorySpanExporter(); provider = TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(kept)); trace.set_tracer_provider(provider)\n"
        "from segwright.core.telemetry import span\n"
        "try:\n    with span('segwright.predict', images=2): raise ValueError('x')\nexcept ValueError: pass\n"
        "[one] = kept.get_finished_spans()\n"
        "print(one.name, dict(one.attributes), one.status.status_code.name)"
    )
    assert done.stdout.strip() == "segwright.predict {'images': 2} ERROR", done.stderr


def test_spans_are_exported_as_the_environment_has_it() -> None:
    code = "from segwright.core.telemetry import span\nwith span('segwright.monitor'): pass\n"
    done = run(code, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="street")
    assert '"name": "segwright.monitor"' in done.stdout and "street" in done.stdout, done.stderr
    assert "segwright.monitor" not in run(code, OTEL_TRACES_EXPORTER="console", OTEL_SDK_DISABLED="true").stdout


def test_a_missing_package_is_one_line() -> None:
    code = (
        "import sys, logging\nlogging.basicConfig()\nsys.modules['opentelemetry'] = None\n"
        "from segwright.core.telemetry import span\nfor _ in range(3):\n    with span('a'): pass\n"
    )
    done = run(code, OTEL_TRACES_EXPORTER="console")
    assert done.returncode == 0 and done.stderr.count("segwright[otel]") == 1, done.stderr

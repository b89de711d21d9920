"""The files of ``deploy/``: one port, one user, one set of paths in all of them, metrics and routes that exist, and the
linters of each kind where they are installed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("prometheus_client")
pytest.importorskip("starlette")

from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.predictor import Predictor
from segwright.monitoring.gauges import GAUGES, MonitorGauges
from segwright.serving.app import create_app
from segwright.serving.metrics import ServiceMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
METRIC = re.compile(r"\bsegwright_[a-z_]+\b")
LABELS = re.compile(r"\b(segwright_[a-z_]+)\{([^}]*)\}")
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 140}, document-start: disable, braces: disable, "
    "comments: {min-spaces-from-content: 1}}}"
)


class Dark:
    classes, in_channels = 2, 3

    def logits(self, images: UInt8Array) -> Float32Array:
        return np.zeros((len(images), 2, *images.shape[1:3]), np.float32)


def paths() -> set[str]:
    """The routes that the service has."""
    return set(create_app(Predictor(Dark(), LabelSpace(("a", "b")))).paths)  # type: ignore[arg-type]


def metrics() -> dict[str, set[str]]:
    """Name in a query → labels, of everything that a service can export."""
    service = ServiceMetrics()
    service.count("/predict", 200, 0.1)
    MonitorGauges(service.registry)
    of_monitor = {name: set(labels) for name, (_, labels) in GAUGES.items()}
    found = {}
    for family in service.registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        labels = {label for sample in family.samples for label in sample.labels} | of_monitor.get(family.name, set())
        for ending in endings:
            found[family.name + ending] = labels | {"instance", "job"}
    return found


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a container file, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [
        (one.split(None, 1)[0], one.split(None, 1)[1]) for one in "\n".join(lines).replace("\\\n", " ").splitlines()
    ]


def documents(folder: str = "") -> dict[str, Any]:
    return {
        str(path.relative_to(DEPLOY)): yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((DEPLOY / folder).rglob("*.y*ml"))
    }


def kubernetes() -> dict[str, Any]:
    return {tree["kind"]: tree for tree in documents("kubernetes").values()}


def container() -> Any:
    return kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"][0]


# ---- the container file ---------------------------------------------------------------------------------------------


def test_the_container_has_two_stages_no_root_and_a_check_of_its_health() -> None:
    found = instructions(CONTAINER)
    last = [index for index, (name, _) in enumerate(found) if name == "FROM"]
    assert len(last) == 2 and all("slim" in found[index][1] and ":latest" not in found[index][1] for index in last)
    final = found[last[1] :]
    assert ("USER", "10001:10001") in final and ("EXPOSE", "8000") in final
    assert [name for name, _ in final].index("USER") < [name for name, _ in final].index("ENTRYPOINT")
    assert not any("pip install" in text or "apt-get" in text for name, text in final if name == "RUN")
    check = next(text for name, text in final if name == "HEALTHCHECK")
    assert re.search(r"http://127\.0\.0\.1:8000(/\w+)", check)[1] in paths()  # type: ignore[index]
    names = re.findall(r"https?://", CONTAINER)
    assert len(names) == 1, "nothing else is fetched by an address"


def test_the_build_copies_files_that_exist_and_no_others_reach_it() -> None:
    copied = {
        source
        for name, text in instructions(CONTAINER) if name == "COPY" and "--from" not in text
        for source in text.split()[:-1]
    }  # fmt: skip
    assert copied and all((DEPLOY.parent / source).exists() for source in copied)
    allowed = {line[1:] for line in (DEPLOY / "Containerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == allowed


def test_the_commands_of_all_files_are_options_of_serve() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "segwright", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    command = json.loads(next(text for name, text in instructions(CONTAINER) if name == "CMD"))
    compose = documents()["compose.yaml"]["services"]["segwright"]["command"]
    for arguments in (command, compose, container()["args"]):
        assert arguments[:2] == ["serve", "/model/model.onnx"] and arguments[arguments.index("--port") + 1] == "8000"
        assert all(one in help_text for one in arguments if one.startswith("--")), arguments


# ---- compose, Prometheus, Grafana -----------------------------------------------------------------------------------


def test_compose_hardens_every_service_and_mounts_what_exists() -> None:
    tree = documents()["compose.yaml"]
    for name, one in tree["services"].items():
        assert one["cap_drop"] == ["ALL"] and one["security_opt"] == ["no-new-privileges:true"], name
        assert not one["image"].endswith(":latest") and ":" in one["image"], name
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", [])), (
            "others have to be let in on purpose"
        )
        for mount in one["volumes"]:
            if isinstance(mount, str) and mount.startswith("./"):
                assert (DEPLOY / mount.split(":")[0]).exists(), mount
            elif isinstance(mount, str):
                assert mount.split(":")[0] in tree["volumes"], mount
    service = tree["services"]["segwright"]
    assert service["read_only"] is True and service["tmpfs"][0].startswith("/tmp:")
    scraped = documents()["prometheus/prometheus.yml"]["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["segwright:8000"] and scraped["metrics_path"] in paths()
    source = documents()["grafana/provisioning/datasources/prometheus.yaml"]["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in tree["services"]
    provider = documents()["grafana/provisioning/dashboards/segwright.yaml"]["providers"][0]["options"]["path"]
    mounts = [one.split(":") for one in tree["services"]["grafana"]["volumes"]]
    assert any(to == f"{provider}/segwright.json" and (DEPLOY / here).is_file() for here, to, *_ in mounts)
    home = tree["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider}/segwright.json"


def queries() -> dict[str, str]:
    """Every PromQL expression of rules and dashboard, by its place."""
    rules = documents()["prometheus/rules.yml"]["groups"]
    found = {f"rule {rule['alert']}": rule["expr"] for group in rules for rule in group["rules"]}
    board = json.loads((DEPLOY / "grafana" / "segwright.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    return found


def test_queries_name_metrics_and_labels_that_the_service_exports() -> None:
    assert unknown(queries()) == []
    assert len(queries()) > 15


def unknown(expressions: dict[str, str]) -> list[str]:
    """What expressions name and the service lacks."""
    names, wrong = metrics(), []
    for place, text in expressions.items():
        outside = re.sub(r'"[^"]*"', '""', text)  # values are the client's
        wrong += [f"{place}: {name}" for name in METRIC.findall(outside) if name not in names]
        for name, selector in LABELS.findall(outside):
            labels = set(re.findall(r"(\w+)\s*[=!]", selector))
            known = names.get(name, labels) | {"le"}
            wrong += [f"{place}: {name}{{{label}}}" for label in sorted(labels - known)]
    return wrong


def test_a_query_for_what_does_not_exist_is_found() -> None:
    assert unknown({"a": 'rate(segwright_pictures_total{instance="x"}[5m])'}) == ["a: segwright_pictures_total"]
    assert unknown({"b": 'segwright_requests_total{color="x"}'}) == ["b: segwright_requests_total{color}"]


def test_status_and_route_of_the_queries_are_values_that_occur() -> None:
    known = paths()
    for place, text in queries().items():
        for pattern in re.findall(r'route=~?"([^"]*)"', text):
            assert any(re.fullmatch(pattern, path) for path in known), (place, pattern)
        for value in re.findall(r'status="([^"]*)"', text):
            assert value in {f"{digit}xx" for digit in range(1, 6)}, (place, value)


# ---- Kubernetes -----------------------------------------------------------------------------------------------------


def test_the_pod_may_do_nothing_that_it_does_not_need() -> None:
    pod = kubernetes()["Deployment"]["spec"]["template"]["spec"]
    user = re.search(r"USER (\d+):(\d+)", CONTAINER)
    assert user is not None
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == int(user[1])
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert set(container()["resources"]) == {"requests", "limits"}
    mounted = {one["name"]: one["mountPath"] for one in container()["volumeMounts"]}
    assert mounted == {"model": "/model", "tmp": "/tmp"} and {one["name"] for one in pod["volumes"]} == set(mounted)


def test_probes_ports_and_names_fit_each_other() -> None:
    found = kubernetes()
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container()[name]["httpGet"]
        assert probe["path"] in paths() and probe["port"] == container()["ports"][0]["name"] == "http"
    assert container()["readinessProbe"]["httpGet"]["path"] == "/ready"
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert found["Service"]["spec"]["selector"].items() <= labels
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert found[kind]["spec"]["selector"]["matchLabels"].items() <= labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert found["NetworkPolicy"]["spec"]["egress"] == [] and "Egress" in found["NetworkPolicy"]["spec"]["policyTypes"]
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    assert "replicas" not in found["Deployment"]["spec"], "each `apply` would undo the autoscaler"
    annotations = found["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in paths() and annotations["prometheus.io/port"] == "8000"
    listed = set(found["Kustomization"]["resources"])
    assert listed == {path.name for path in (DEPLOY / "kubernetes").iterdir()} - {"kustomization.yaml"}
    assert found["Kustomization"]["images"][0]["name"] == container()["image"].split(":")[0]


# ---- linters --------------------------------------------------------------------------------------------------------


def lint(program: str, *arguments: str) -> None:
    """Skips where the program is not installed."""
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: pip install -r deploy/lint.txt")
    done = subprocess.run([found, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint() -> None:
    lint("hadolint", str(DEPLOY / "Containerfile"))


def test_yamllint() -> None:
    lint("yamllint", "--strict", "-d", YAML_RULES, str(DEPLOY))


def test_the_schema_of_compose() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_the_schemas_of_kubernetes() -> None:
    files = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
    lint("kubernetes-validate", "--strict", *map(str, files))


def test_promql_parses() -> None:
    if importlib.util.find_spec("promql_parser") is None:
        pytest.skip("promql-parser is not installed: pip install -r deploy/lint.txt")
    import promql_parser

    for place, text in queries().items():
        try:
            promql_parser.parse(text.replace("$instance", ".*"))
        except ValueError as error:
            raise AssertionError(f"{place}: {error}") from error

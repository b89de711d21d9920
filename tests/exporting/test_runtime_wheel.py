"""segwright-runtime: the wheel of the modules that need no torch."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import urllib.request
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

import segwright as sw
from segwright.core import installation
from segwright.core.errors import UsageError
from segwright.demo.dataset import write_street_scenes
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model

ROOT = Path(sw.__file__).resolve().parent.parent
RUNTIME = ROOT / "runtime"
ARGUMENTS = {"width": 4, "in_channels": 3}
# Import names whose package has another name
PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "prometheus_client": "prometheus-client",
}
# Imported at the top of modules that are themselves imported only where their command or extra is used
OPTIONAL = {"numba", "llvmlite", "starlette", "uvicorn", "h11", "prometheus_client", "pyarrow", "rasterio", "optuna"}

pytestmark = pytest.mark.skipif(not RUNTIME.is_dir(), reason="not a checkout")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", RUNTIME / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_modules_reach_no_torch_and_run_the_three_commands(build: ModuleType) -> None:
    modules = set(build.runtime_modules())
    for name in ("cli", "api", "inference.predictor", "inference.batch", "inference.onnx_runtime",
                 "inference.openvino_runtime", "evaluation.evaluate", "evaluation.report", "serving.server",
                 "monitoring.recorder"):  # fmt: skip
        assert f"segwright.{name}" in modules
    for name in ("inference.torch_runtime", "inference.bundle", "models.catalog", "training.trainer", "exporting.onnx"):
        assert f"segwright.{name}" not in modules


def test_dependencies_are_those_that_are_imported(build: ModuleType) -> None:
    project = tomllib.loads((RUNTIME / "pyproject.toml").read_text())["project"]
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[]", one)[0] for one in project["dependencies"]}
    assert names <= {re.split(r"[<>=\[]", one)[0] for one in whole["dependencies"]}
    imported = set()
    for path in build.runtime_modules().values():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"segwright"} - OPTIONAL
    assert {PACKAGES.get(name, name) for name in others} <= names


def test_two_versions_over_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installation.check_installation()  # the whole one alone
    monkeypatch.setattr(installation, "find_spec", lambda name: object())
    versions = {"segwright": "0.2", "segwright-runtime": "0.1"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    with pytest.raises(UsageError, match="different versions") as caught:
        installation.check_installation()
    assert "segwright 0.2, segwright-runtime 0.1" in str(caught.value)
    versions["segwright"] = "0.1"
    installation.check_installation()


@pytest.mark.slow
def test_the_wheel_works_where_there_is_no_torch(tmp_path: Path) -> None:
    """Builds and installs it with its dependencies from a package index: some minutes."""
    run = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True)
    tool = [sys.executable, "-m", "pip"] if run.returncode == 0 else ["pip"]
    build = [*tool, "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(RUNTIME)]
    subprocess.run(build, check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "segwright/_runtime.py" in names and not any("torch_runtime" in name for name in names)
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([bin / "python", "-m", "pip", "install", "-q", f"{wheel}[serve]"], check=True, timeout=1800)
    assert subprocess.run([bin / "python", "-c", "import torch"], capture_output=True).returncode == 1

    data = write_street_scenes(tmp_path / "street", train=2, val=2, test=0, size=(64, 96))
    labels = sw.open_dataset(data).label_space
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=labels.classes, weights=None, **ARGUMENTS)
    save_bundle(tmp_path / "model", network, Bundle("segnet_basic", labels, ARGUMENTS))
    file = sw.export(tmp_path / "model", "onnx", tmp_path / "m.onnx", data=data).path

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = [str(bin / "segwright"), *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=tmp_path)

    assert "predict" in command("--help").stdout
    done = command("predict", file, data / "images" / "val", "--out", "masks", "--json", "p.json")
    assert done.returncode == 0 and json.loads((tmp_path / "p.json").read_text())["images"] == 2, done.stderr
    done = command("evaluate", file, data, "--split", "val", "--json", "e.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "e.json").read_text())["miou"] == pytest.approx(sw.evaluate(file, data).miou)
    done = command("train", data)
    assert done.returncode == 2 and "pip install segwright" in done.stderr
    line = [str(bin / "segwright"), "serve", str(file), "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        text = ""
        while "http://" not in text:
            text = server.stdout.readline()
            assert text, "the service ended before it listened"
        url = "http://" + text.partition("http://")[2].split()[0].rstrip("/")
        image = next((data / "images" / "val").glob("*.png")).read_bytes()
        request = urllib.request.Request(f"{url}/predict?as=json", image, {"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["height"] == 64
        server.terminate()
        server.stdout.read()
    assert server.returncode == 0

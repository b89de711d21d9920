"""Networks, losses and formats of packages that are really installed, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segwright.core.plugins import load_plugin, plugin_names

ROOT = Path(__file__).resolve().parents[2]
USE = """
import json, sys
from pathlib import Path
import numpy as np
from typer.testing import CliRunner
import segwright as sw
from segwright.cli import app
from segwright.demo.dataset import write_street_scenes

def tried(action):
    try:
        action()
    except sw.SegwrightError as error:
        return f"{type(error).__name__}: {error}"
    return ""

found = {"imported early": any(name.startswith("segwright_example") for name in sys.modules)}
write_street_scenes("streets", train=4, val=2, test=0, size=(64, 96))
place = Path("data")
for name in ("images", "labels"):
    (place / name).mkdir(parents=True)
streets = sw.open_dataset("streets").all
for number, record in enumerate(streets.records):
    (place / "images" / f"{number}.png").write_bytes(record.image_path.read_bytes())
    np.save(place / "labels" / f"{number}.npy", streets.read_mask(number))
(place / "classes.txt").write_text(Path("streets/classes.txt").read_text())
data = sw.open_dataset(place, format="npy_masks")
found["images"], found["classes"] = len(data.all), data.label_space.classes
run = CliRunner().invoke(app, [
    "train", "data", "--format", "npy_masks", "--model", "ladder", "--loss", "0.5*ce+poly1(epsilon=2)", "--weights",
    "none", "--epochs", "1", "--size", "32x32", "--batch", "2", "--device", "cpu", "--out", "run",
])
assert run.exit_code == 0, run.output[-3000:] + repr(run.exception)
image = str(sorted((place / "images").iterdir())[0])
found["untrusted"] = tried(lambda: sw.load("run", device="cpu"))
found["labels"] = sw.load("run", device="cpu", trust_external=True)(image).labels.shape
found["listed"] = CliRunner().invoke(app, ["models", "ladder"]).output
found["formats"] = CliRunner().invoke(app, ["datasets"]).output
found["unknown"] = tried(lambda: sw.create_model("laddr", classes=2, weights=None))
found["broken"] = tried(lambda: sw.create_model("broken", classes=2, weights=None))
found["other kind"] = tried(lambda: sw.create_model("other_kind", classes=2, weights=None))
listed = CliRunner().invoke(app, ["models", "unet", "ladder"])
found["with a broken one"] = listed.exit_code
Path("found.json").write_text(json.dumps(found))
"""
BROKEN = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "NAME"
version = "0.3"
[project.entry-points."segwright.models"]
broken = "no_such_module_at_all:NET"
other_kind = "json:dumps"
[tool.hatch.build.targets.wheel]
bypass-selection = true
"""


def install(source: Path, target: Path) -> None:
    """A package, as pip installs it, into a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(target), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    if "No module named pip" in done.stderr:
        pytest.skip("this environment has no pip")
    assert done.returncode == 0, done.stderr


def broken(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(BROKEN.replace("NAME", name))
    return folder


def test_plugins_of_an_installed_package(tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    install(ROOT / "examples" / "plugin", site)
    install(broken(tmp_path / "broken", "half-a-plugin"), site)
    paths = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=work, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((work / "found.json").read_text())
    assert not found["imported early"]
    assert found["images"] == 6 and found["classes"] > 3
    assert "ladder" in found["untrusted"] and "--trust-external" in found["untrusted"]
    assert found["labels"] == [64, 96]
    assert "Of plugins" in found["listed"] and "npy_masks" in found["formats"]
    assert "ladder" in found["unknown"] and found["unknown"].startswith("UsageError")
    assert found["broken"].startswith("PluginError") and "half-a-plugin 0.3" in found["broken"]
    assert "ModuleNotFoundError" in found["broken"]
    assert found["other kind"].startswith("PluginError") and "Entry" in found["other kind"]
    assert found["with a broken one"] == 0


def test_a_name_that_two_packages_offer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segwright.core.errors import PluginError

    install(broken(tmp_path / "a", "first-package"), tmp_path / "one")
    install(broken(tmp_path / "b", "second-package"), tmp_path / "two")
    monkeypatch.syspath_prepend(str(tmp_path / "one"))
    monkeypatch.syspath_prepend(str(tmp_path / "two"))
    assert "broken" in plugin_names("models") and load_plugin("models", "nothing", "") is None
    with pytest.raises(PluginError, match=r"(?s)broken.*first-package 0.3, second-package 0.3"):
        load_plugin("models", "broken", "an Entry")

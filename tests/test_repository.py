"""What stands at the root of the repository agrees with the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

import segwright

ROOT = Path(__file__).resolve().parents[1]
YAML = [ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff", *sorted((ROOT / ".github").rglob("*.yml"))]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_files_of_the_forge_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_citation_is_of_this_version_and_license() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == segwright.__version__ and citation["license"] == project["license"]


def test_ci_runs_on_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [line.split(" :: ")[-1] for line in project["classifiers"] if "Python :: 3." in line]
    assert jobs["whole"]["strategy"]["matrix"]["python"] == promised

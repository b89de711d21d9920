"""The files that are published: what the wheels and the source archive hold, and that the docs name every extra."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import segwright

ROOT = Path(__file__).resolve().parents[1]
NOT_PUBLISHED = (".gitignore",)  # added by hatchling anyway, or not


def build(project: Path, target: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=300)
    return next(out.iterdir())


@pytest.mark.parametrize("folder", ["", "runtime"], ids=["segwright", "segwright-runtime"])
def test_the_wheel_holds_the_package_and_what_an_index_shows(folder: str, tmp_path: Path) -> None:
    wheel = zipfile.ZipFile(build(ROOT / folder, "wheel", tmp_path))
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} <= {
        "segwright",
        next(n.split("/")[0] for n in names if "dist-info" in n),
    }
    assert any(name.endswith("LICENSE") for name in names) and "segwright/py.typed" in names
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]
    metadata = Parser().parsestr(wheel.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    assert metadata["Version"] == segwright.__version__ and metadata["Description-Content-Type"] == "text/markdown"
    assert len(str(metadata.get_payload())) > 300 and metadata["Summary"] and metadata["Requires-Python"]
    assert b"segwright = segwright.cli:main" in wheel.read(next(n for n in names if n.endswith("entry_points.txt")))


def test_the_source_archive_holds_every_tracked_file(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    tracked = {
        name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and not name.startswith("shared/")
    }
    with tarfile.open(build(ROOT, "sdist", tmp_path)) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked - held == set()
    strange = {name for name in held - tracked if name not in ("PKG-INFO", *NOT_PUBLISHED)}
    untracked = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert strange - set(untracked) == set()


def extras(project: Path) -> set[str]:
    return set(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def test_install_names_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `segwright\[(\w+)\]`", page, re.M)) == extras(ROOT / "pyproject.toml")
    assert set(re.findall(r"^\| `segwright-runtime\[(\w+)\]`", page, re.M)) == extras(
        ROOT / "runtime" / "pyproject.toml"
    )


def test_the_changelog_keeps_its_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Changelog" and "keepachangelog.com" in "\n".join(lines[:8])
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", line) for line in releases[1:])
    kinds = {line[4:] for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_table_of_licenses_is_the_catalogs() -> None:
    from segwright.models.catalog import CATALOG
    from segwright.models.licenses import licenses_of_networks, licenses_table

    assert (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8").endswith(licenses_table() + "\n")
    rows = licenses_of_networks()
    assert [row.name for row in rows] == list(CATALOG)
    assert all(row.license and row.publisher for row in rows if row.weights != "none")
    assert not [row for row in rows if "non-commercial" in row.license and row.weights != "none"]

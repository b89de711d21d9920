"""Tests that the pages name exist, in the file that is named for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from doc_blocks import ROOT, pages

TESTS = ROOT / "tests"
_QUOTED = re.compile(r"`([^`\n]+)`")
_FILE, _TEST = re.compile(r"[\w./-]*\btest_\w+\.py"), re.compile(r"\btest_\w+\*?(?![\w./*=])")


@cache
def functions_in(file: Path) -> frozenset[str]:
    """The names of the tests in a file, also of those in classes."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def files_named(name: str) -> list[Path]:
    """The test files of this path, or of this name in any folder."""
    return [ROOT / name] if "/" in name and (ROOT / name).is_file() else sorted(TESTS.rglob(name))


def mentions(text: str) -> Iterator[tuple[str | None, str]]:
    """(the file named before it in its line, the test) for every test in backquotes."""
    for line in text.splitlines():
        file = None
        for quoted in _QUOTED.findall(line):
            named = _FILE.findall(quoted)
            file = named[-1] if named else file
            yield from ((file, name) for name in _TEST.findall(_FILE.sub("", quoted)))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in _FILE.findall(" ".join(_QUOTED.findall(text))):
        assert files_named(name), f"no file {name}"
    everywhere = frozenset[str]().union(*map(functions_in, TESTS.rglob("test_*.py")))
    for file, name in mentions(text):
        known = everywhere if file is None else frozenset[str]().union(*map(functions_in, files_named(file)))
        found = name in known if name[-1] != "*" else any(one.startswith(name[:-1]) for one in known)
        assert found, f"no test {name}" + (f" in {file}" if file else "")


def test_the_lineage_has_a_test_for_every_detail() -> None:
    """A row without a file and a test would state what nothing holds; parameter counts are in each network's file."""
    text = (ROOT / "docs" / "lineage.md").read_text(encoding="utf-8")
    rows = [line for line in text.partition("## Which test")[2].partition("\n## ")[0].splitlines() if line[:1] == "|"]
    assert len(rows) > 30
    for row in rows[2:]:
        found = list(mentions(row))
        assert found and all(file is not None or name == "test_parameters*" for file, name in found), row
    files = {"test_fcn.py", "test_unet_2015.py", "test_segnet.py", "test_deeplab_v1.py", "test_deeplab_v2.py",
             "test_fc_densenet.py"}  # fmt: skip
    assert files <= {file for row in rows for file, _ in mentions(row)}
    for file in files:
        assert any(name.startswith("test_parameters") for name in functions_in(TESTS / "models" / file)), file


def test_a_name_that_is_gone_is_seen() -> None:
    row = "| x | `test_fcn.py`: `test_at_once_scales`, `test_gone`; `tests/a.py` |"
    assert list(mentions(row)) == [("test_fcn.py", "test_at_once_scales"), ("test_fcn.py", "test_gone")]
    assert list(mentions("`test_parameters*` of each file")) == [(None, "test_parameters*")]
    assert list(mentions("`pytest tests/models/test_fcn.py -k test_at_once_scales`")) == [
        ("tests/models/test_fcn.py", "test_at_once_scales")
    ]

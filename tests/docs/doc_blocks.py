"""The code blocks of the documentation, and how a page's blocks are run in this process."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from segwright.cli import app

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One code block: its language, its text, and the line it begins at."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every page with code in it that people read."""
    fixed = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*fixed, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]


def blocks(path: Path, language: str | None = None) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text)]
    return [block for block in found if language in (None, block.language)]


def commands(block: Block) -> Iterator[str]:
    """The lines of a shell block, joined where they go on, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_page(path: Path, folder: Path, shorter: Mapping[str, str]) -> dict[str, Any]:
    """Run the shell and Python blocks of a page in their order, with budgets made shorter. Returns the namespace.

    ``shorter``: text of the page and what is run in its place; each has to occur. A line that ends in ``&`` is a
    process of its own until the page ends.
    """
    text = path.read_text(encoding="utf-8")
    for old in shorter:
        assert old in text, f"{path.name} has no {old!r}"
    namespace: dict[str, Any] = {}
    started: list[subprocess.Popen[bytes]] = []
    try:
        with inside(folder):
            for block in blocks(path):
                code = block.text
                for old, new in shorter.items():
                    code = code.replace(old, new)
                where = f"{path.name}:{block.line}"
                if block.language == "python":
                    exec(compile(code, where, "exec"), namespace)
                elif block.language == "sh":
                    for line in commands(Block("sh", code, block.line)):
                        _run(line, where, started)
    finally:
        for process in started:
            process.terminate()
            process.wait(60)
    return namespace


def _run(line: str, where: str, started: list[subprocess.Popen[bytes]]) -> None:
    program, *arguments = words(line)
    assert program == "segwright", f"{where}: {line}"
    if arguments[-1] == "&":
        started.append(subprocess.Popen([sys.executable, "-m", "segwright", *arguments[:-1]]))
        return
    result = CliRunner().invoke(app, arguments)
    allowed = (0, 1) if arguments[0] == "monitor" else (0,)
    assert result.exit_code in allowed, f"{where}: {line}\n{result.output[-3000:]}\n{result.exception!r}"

"""The files of segwright-runtime: every module that can be imported without torch, found by its imports."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # the tests read the list without a build
    BuildHookInterface = object  # type: ignore[assignment,misc]

PACKAGE = Path(__file__).resolve().parent.parent / "segwright"
WITHOUT = {"torch", "torchvision", "timm", "onnxscript"}
MARKER = "_runtime.py"  # only in this wheel; see segwright/core/installation.py


class RuntimeFiles(BuildHookInterface):  # type: ignore[misc]
    """Adds the files to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for path in runtime_files():
            build_data["force_include"][str(path)] = str(path.relative_to(PACKAGE.parent))
        build_data["force_include"][str(Path(__file__).with_name(MARKER))] = f"segwright/{MARKER}"
        build_data["extra_metadata"][str(PACKAGE.parent / "LICENSE")] = "LICENSE"


def runtime_files() -> list[Path]:
    """The modules, and the data files of their packages."""
    modules = runtime_modules()
    folders = {path.parent for path in modules.values()}
    data = [
        path for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".nbi", ".nbc")
        and any(folder in path.parents for folder in folders - {PACKAGE})
    ]  # fmt: skip
    return [*modules.values(), *data, PACKAGE / "py.typed"]


def runtime_modules() -> dict[str, Path]:
    """Dotted name → file of the modules whose import imports none of WITHOUT, themselves or through others."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    imported = {name: _imports(name, path, files) for name, path in files.items()}
    left_out = {name for name, found in imported.items() if found & WITHOUT}
    while True:
        more = {name for name, found in imported.items() if name not in left_out and found & left_out}
        if not more:
            return {name: path for name, path in files.items() if name not in left_out}
        left_out |= more


def _imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """What importing a module imports: its own modules by dotted name with their packages, others by their first
    name. Imports in functions and under TYPE_CHECKING are not run."""
    found = set()
    waiting: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one for one in inner if one in known} | {node.module}
        waiting += ast.iter_child_nodes(node)
    packages = {".".join(one.split(".")[:depth]) for one in {*found, name} for depth in range(1, one.count(".") + 1)}
    ours = {one for one in found | packages if one in known and one != name}
    return ours | {one.split(".")[0] for one in found if one.split(".")[0] != "segwright"}

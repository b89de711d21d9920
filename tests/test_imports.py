"""The import rule: a module imports only lower levels, packages of one level do not import each other, no circles.

Imports in functions and under TYPE_CHECKING count, and so do those between the modules of one package.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "segwright"
LEVELS = {
    "core": 0,
    "kernels": 1,
    "imageio": 2, "reports": 2,
    "data": 3, "augment": 3, "models": 3, "losses": 3, "metrics": 3, "postprocess": 3,
    "inference": 4,
    "evaluation": 5,
    "monitoring": 6,
    "training": 7, "exporting": 7, "serving": 7,
    "search": 8, "labeling": 8, "demo": 8,
    "api": 9, "__init__": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip
# Inside models/: an architecture may import these, they none of it.
MODEL_FOUNDATIONS = ("base", "encoders", "blocks")


def modules() -> dict[str, Path]:
    """Dotted name → file; a package is its ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The segwright modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found


def part_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            place = stack.index(module)
            if len(stack) - place > 1:
                found.append(sorted(stack[place:]))
            del stack[place:]

    for module in edges:
        if module not in index:
            visit(module)
    return found


def test_every_import_goes_down() -> None:
    known, wrong = modules(), []
    for module, path in known.items():
        here = part_of(module)
        if module == "segwright":
            continue  # the front door re-exports lazily from api
        for other in imports(path, known):
            there = part_of(other)
            if there != here and LEVELS[there] >= LEVELS[here]:
                wrong.append(f"{module} (level {LEVELS[here]}) imports {other} (level {LEVELS[there]})")
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle() -> None:
    known = modules()
    edges = {module: imports(path, known) - {module} for module, path in known.items() if module != "segwright"}
    found = circles({module: {other for other in others if other in edges} for module, others in edges.items()})
    assert not found, "\n".join(" ↔ ".join(circle) for circle in found)


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d2"}, "d2": set()}
    assert circles(edges) == [["b", "c"]]


def test_foundations_of_models_import_no_architecture() -> None:
    known = modules()
    for name in MODEL_FOUNDATIONS:
        for module, path in known.items():
            if f"{module}.".startswith(f"segwright.models.{name}."):
                for other in imports(path, known):
                    parts = other.split(".")
                    assert parts[1] != "models" or parts[2] in MODEL_FOUNDATIONS, f"{module} imports {other}"


def test_every_package_has_a_level() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert found - {"__pycache__"} <= set(LEVELS)

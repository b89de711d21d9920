"""The import rule: a module imports only modules of a lower level; packages of one level do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "segwright"
LEVELS = {
    "types": 0, "sides": 0, "errors": 0, "config": 0, "images": 0, "files": 0, "console": 0, "pages": 0,
    "compiled": 0, "eager": 0, "halves": 0, "lanes": 0, "workers": 0, "yaml_text": 0,
    "data": 1, "augment": 1, "models": 1, "losses": 1, "metrics": 1, "postprocess": 1,
    "inference": 2, "evaluation": 3, "training": 4, "deploy": 4, "monitoring": 4,
    "api": 5, "__init__": 5, "cli": 6, "__main__": 7,
}  # fmt: skip
# Inside models/: an architecture may import these, they none of it.
MODELS_ORDER = [
    "norm_kernels", "norms", "winograd_kernels", "winograd", "depthwise", "segmenter", "weights", "blocks", "encoders",
]  # fmt: skip


def part_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def imports(path: Path) -> set[str]:
    """The segwright modules that a file imports, type-checking blocks and functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "segwright"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "segwright":
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "segwright" else {node.module}
            )
    return found


def test_every_import_goes_down() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        here = part_of(".".join(parts))
        if parts == ("segwright", "__init__"):
            continue  # the front door re-exports lazily from api
        for module in imports(path):
            there = part_of(module)
            if there == "__version__" or there not in LEVELS:
                continue
            allowed = LEVELS[there] < LEVELS[here] or there == here or LEVELS[here] == LEVELS[there] == 0
            if not allowed:
                wrong.append(f"{'/'.join(parts)} (level {LEVELS[here]}) imports {module} (level {LEVELS[there]})")
    assert not wrong, "\n".join(wrong)


def test_foundations_of_models_import_no_architecture() -> None:
    for rank, name in enumerate(MODELS_ORDER):
        path = PACKAGE / "models" / f"{name}.py"
        for module in imports(path) if path.exists() else ():
            parts = module.split(".")
            if parts[1] == "models" and len(parts) > 2:
                assert parts[2] in MODELS_ORDER[:rank], f"models/{name}.py imports {module}"


def test_every_package_has_a_level() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert found - {"__pycache__"} <= set(LEVELS)

"""Make the notebooks of ``examples/`` from the tutorials: one text, two forms. ``python docs/scripts/notebooks.py``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("road-scenes", "microscopy", "satellite", "fine-tuning", "service", "monitoring", "paper")
PAGES = [ROOT / "docs" / "tutorials" / f"{name}.md" for name in NAMES]
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)


def place_of(page: Path) -> Path:
    """Where a page's notebook is."""
    return ROOT / "examples" / f"{page.stem}.ipynb"


def notebook(page: Path) -> dict[str, Any]:
    """The page's notebook: text becomes Markdown cells, Python code cells, shell blocks cells of bash."""
    text = page.read_text(encoding="utf-8")
    cells: list[dict[str, Any]] = []
    at = 0
    for match in _BLOCK.finditer(text):
        _add(cells, "markdown", _links(text[at : match.start()]))
        code = match[2].rstrip()
        if match[1] == "sh":
            background = code.endswith("&")
            if background:
                code = f"%%bash --bg\n{code.removesuffix('&').rstrip()}"
            elif "segwright monitor" in code:  # an alarm is exit code 1, and no error of the notebook
                code = f"%%bash --no-raise-error\n{code}"
            else:
                code = f"%%bash\n{code}"
        _add(cells, "code", code)
        at = match.end()
    _add(cells, "markdown", _links(text[at:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _add(cells: list[dict[str, Any]], kind: str, text: str) -> None:
    text = text.strip("\n")
    if not text:
        return
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
    cell["source"] = text.splitlines(keepends=True)
    cells.append(cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []})


def _links(text: str) -> str:
    """Relative links of a page in docs/tutorials as they are from examples/."""

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return (
            f"](../docs/{target.removeprefix('../')})" if target.startswith("../") else f"](../docs/tutorials/{target})"
        )

    return re.sub(r"\]\(([^)\s]+)\)", moved, text)


def main() -> None:
    for page in PAGES:
        place_of(page).write_text(json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""axe-core on a page; the tests that import this skip where axe-playwright-python is missing."""

from __future__ import annotations

from typing import Any

import pytest

axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


def violations(page: Any) -> list[str]:
    """What axe-core finds, a line per element."""
    found = axe_api.Axe().run(page).response["violations"]
    return [
        f"{v['id']} ({v['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for v in found
        for node in v["nodes"]
    ]

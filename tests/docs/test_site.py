"""The built site in Chromium: axe-core finds nothing serious at both sizes and in both schemes, nothing is fetched."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from doc_blocks import ROOT

PAGES = [
    "",
    "get-started/",
    "why/",
    "tutorials/road-scenes/",
    "from/ultralytics/",
    "reference/cli/",
    "reference/api/",
    "results/",
]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The site, built strictly, at an address of this machine."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious_and_nothing_is_fetched(browser: Any, site: str, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(600_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        page.goto(site + name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), (
            f"{name} is wider than the window"
        )
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in SERIOUS]
        places = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
        assert not places, (name, places)
    assert all(url.startswith((site, "data:")) for url in asked), [url for url in asked if not url.startswith(site)]
    page.close()

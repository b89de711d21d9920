"""Measure the site and the pages of a model with Lighthouse, and print a table for ``docs/results.md``.

``npm install lighthouse; python docs/scripts/lighthouse.py --run RUN --images IMAGES``: the site is built, the service
and the label page of the model RUN are started, and its report is served. CHROME_PATH names the browser, LIGHTHOUSE the
program. Figures of speed hold for the machine at hand: Lighthouse simulates a slow phone from what it measures here.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from images import service

ROOT = Path(__file__).resolve().parents[2]
SITE = ("", "get-started/", "tutorials/road-scenes/", "reference/cli/", "reference/api/", "results/")
CATEGORIES = ("performance", "accessibility", "best-practices")
TIMES = ("first-contentful-paint", "largest-contentful-paint", "total-blocking-time")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder at an address of this machine, with the types that their names state."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def measure(address: str, scratch: Path, keep: Path | None) -> list[str]:
    """The scores, 0 to 100, and three times of a page; the audits that failed go to stderr."""
    program = os.environ.get("LIGHTHOUSE") or shutil.which("lighthouse")
    start = [program] if program else ["npx", "--no-install", "lighthouse"]
    out = scratch / "lighthouse.json"
    flags = ["--quiet", "--output=json", f"--output-path={out}", f"--only-categories={','.join(CATEGORIES)}"]
    browser = "--chrome-flags=--headless=new --no-sandbox --disable-gpu"
    subprocess.run([*start, address, *flags, browser, "--max-wait-for-load=120000"], check=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    if keep is not None:
        shutil.copy(out, keep / f"{len(list(keep.iterdir()))}.json")
    for name in CATEGORIES[1:]:
        for one in found["categories"][name]["auditRefs"]:
            audit = found["audits"][one["id"]]
            if audit["score"] is not None and audit["score"] < 0.9:
                nodes = [item.get("node", {}).get("snippet", "") for item in audit.get("details", {}).get("items", [])]
                print(f"{address}: {audit['id']}: {audit['title']} {nodes[:3]}", file=sys.stderr)
    scores = [round(100 * (found["categories"][name]["score"] or 0)) for name in CATEGORIES]
    return [*map(str, scores), *(found["audits"][name]["displayValue"] for name in TIMES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run folder with its report")
    parser.add_argument("--images", type=Path, required=True, help="a few images, for the label page")
    parser.add_argument("--keep", type=Path, help="a folder for Lighthouse's reports")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        scratch = Path(place)
        build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(scratch / "site")]
        subprocess.run(build, cwd=ROOT, check=True)
        site = stack.enter_context(served(scratch / "site"))
        report = stack.enter_context(served(given.run))
        page = stack.enter_context(service("serve", given.run, port=8723, path="/"))
        label = ("label", given.images, "--model", given.run, "--train-every", "never")
        pages = {f"site: `{name or '/'}`": site + name for name in SITE}
        pages |= {"report of a training": report + "report.html", "service": page}
        pages["label page"] = stack.enter_context(service(*label, port=8724, path="/"))
        print("| page | " + " | ".join([*CATEGORIES, "first paint", "largest paint", "blocked"]) + " |")
        print("|---" * 7 + "|")
        for name, address in pages.items():
            print(f"| {name} | " + " | ".join(measure(address, scratch, given.keep)) + " |", flush=True)


if __name__ == "__main__":
    main()

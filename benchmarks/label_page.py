"""The time of an answer on the label page in Chromium at 1920×1080: from the key to the screen, and to the disk.

    python benchmarks/label_page.py [--images FOLDER --model MODEL] [--answers 60] [--json FILE]
    python benchmarks/label_page.py --images FOLDER --model MODEL --screenshot docs/images/label-page.jpg

For each answer, in milliseconds: *screen*, from the key event until the frame after the next question is drawn (two
calls of requestAnimationFrame later, so that the paint is over); *disk*, until the server has acknowledged the stroke,
which it does after fsync; *cpu*, what all processes of Chromium use of their cores in that time (Linux), which does not
grow with what else the machine does. Half of the answers stay on an image, half go to the next one, which the page has
loaded ahead. Without ``--images``, scenes of 1920×1080 and of 4000×3000 pixels are drawn. Needs playwright, Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from segwright.core.types import Float32Array, LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import UInt8Array, write_image
from segwright.inference.predictor import Predictor, load
from segwright.labeling.page.app import LabelApplication
from segwright.labeling.page.images import list_images
from segwright.labeling.page.server import open_label_page
from segwright.labeling.page.service import LabelService
from segwright.labeling.questions import Question, Selection
from segwright.serving.http import LOOPBACK
from segwright.serving.server import bind, build_server

LOOKING = 700  # milliseconds between two answers
SPACE = LabelSpace(("road", "sky", "car", "tree", "building"))
MEASURE = """async key => {
  const page = window.labelPage;
  const before = document.body.dataset.image + "/" + document.body.dataset.asked;
  const began = performance.now();
  document.getElementById("stage").dispatchEvent(
    new KeyboardEvent("keydown", {key, code: key === "Enter" ? "Enter" : "Digit" + key, bubbles: true}));
  const frame = () => new Promise(done => requestAnimationFrame(done));
  while (document.body.dataset.image + "/" + document.body.dataset.asked === before) await frame();
  await frame();
  await frame();
  const screen = performance.now() - began;
  while (document.body.dataset.waiting !== "0") await new Promise(done => setTimeout(done, 1));
  const disk = performance.now() - began;
  return [screen, disk, document.body.dataset.image + "/" === before.split("/")[0] + "/"];
}"""


class Bands:
    """A network that takes no time: its masks do not matter here."""

    classes, in_channels = 5, 3

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        count, height, width = images.shape[:3]
        rows = (np.arange(height) * self.classes // height).astype(np.uint8)
        shape = (count, height, width)
        return np.broadcast_to(rows[None, :, None], shape).copy(), np.full(shape, 0.5, np.float32)

    def logits(self, images: UInt8Array) -> Float32Array:
        right = np.arange(self.classes)[None, :, None, None] == self.labels(images)[0][:, None]
        return np.asarray(right, np.float32)


def questions(photos: Path, names: list[str], sizes: dict[str, tuple[int, int]], count: int) -> Selection:
    """Pairs of questions per image in turn, so that every second answer leads to another image."""
    rng = np.random.default_rng(0)
    items = []
    for number in range(count + 2):
        name = names[number // 2 % len(names)]
        height, width = sizes[name]
        mask = np.zeros((height, width), bool)
        y, x = int(rng.integers(0, height - height // 8)), int(rng.integers(0, width - width // 8))
        mask[y : y + height // 10, x : x + width // 10] = True
        items.append(Question.of_mask(name, mask, kind="check", predicted=int(rng.integers(5)), score=1.0))
    return Selection(tuple(items), (), photos)


@contextlib.contextmanager
def opened(
    photos: Path, model: Path | None, chromium: str, size: tuple[int, int], asked: int | None
) -> Iterator[tuple[Any, LabelService]]:
    """The page in Chromium, once a question is on it, and its service. ``asked``: how many made-up questions."""
    from playwright.sync_api import sync_playwright

    predictor = Predictor(Bands(), SPACE) if model is None else load(model)
    names = list_images(photos)
    with tempfile.TemporaryDirectory() as place:
        service = open_label_page(photos, Path(place) / "labels", predictor.label_space, predictor=predictor)
        if asked is not None:
            sizes = {name: service.images.size(number) for number, name in enumerate(names)}
            service.queue.use(questions(photos, names, sizes, asked))
        sock, address = bind("127.0.0.1", 0)
        started = threading.Event()
        server = build_server(LabelApplication(service, LOOPBACK), started.set)
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        started.wait()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.set_default_timeout(180_000)
            page.goto(f"http://localhost:{address.port}/")
            page.wait_for_selector("body[data-asked]:not([data-asked=''])")
            yield page, service
            browser.close()
        server.should_exit = True
        thread.join()
        sock.close()


def measure(photos: Path, model: Path | None, answers: int, chromium: str) -> dict[str, Any]:
    """Percentiles in milliseconds over the answers on one folder of images."""
    rows = []
    with opened(photos, model, chromium, (1920, 1080), answers) as (page, service):
        for number in range(answers):
            page.wait_for_timeout(LOOKING)  # a person looks; the page loads ahead
            before = cpu_milliseconds()
            row = page.evaluate(MEASURE, "Enter" if number % 3 else "2")
            rows.append([*row, cpu_milliseconds() - before])
        height, width = service.images.size(0)
    return {
        "image": f"{width}×{height}",
        "answers": len(rows),
        "screen_same_image": spread([row[0] for row in rows if row[2]]),
        "screen_next_image": spread([row[0] for row in rows if not row[2]]),
        "disk": spread([row[1] for row in rows]),
        "cpu_same_image": spread([row[3] for row in rows if row[2]]),
        "cpu_next_image": spread([row[3] for row in rows if not row[2]]),
        "load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),  # processes that want a core, per core
    }


def cpu_milliseconds() -> float:
    """The time that the threads of this process's Chromium have run so far; 0 where the system does not show it."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
            if "chrom" in child.name():
                for thread in Path(f"/proc/{child.pid}/task").iterdir():
                    total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e6


def screenshot(photos: Path, model: Path, chromium: str, out: Path) -> None:
    """The page at work: some answers given, a stroke painted."""
    with opened(photos, model, chromium, (1280, 800), None) as (page, _):
        page.evaluate("localStorage.setItem('segwright-label-name', 'Anna')")
        page.reload()
        page.wait_for_selector("body[data-asked]:not([data-asked=''])")
        for _ in range(3):
            page.keyboard.press("Enter")
            page.wait_for_timeout(800)
        page.keyboard.press("r")
        page.wait_for_timeout(1000)
        data = page.screenshot(type="jpeg", quality=72)
    out.write_bytes(data)


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
        "max": round(ordered[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--answers", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--screenshot", type=Path)
    given = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed; CHROMIUM names it elsewhere")
    if given.screenshot:
        screenshot(given.images, given.model, chromium, given.screenshot)
        return
    found = []
    with tempfile.TemporaryDirectory() as place:
        folders = [given.images] if given.images else [Path(place) / "hd", Path(place) / "photo"]
        if not given.images:
            for folder, size, count in ((folders[0], (1080, 1920), 6), (folders[1], (3000, 4000), 4)):
                for number in range(count):
                    small = draw_street(f"{number}", (size[0] // 4, size[1] // 4))[0]
                    write_image(folder / f"{number}.jpg", np.kron(small, np.ones((4, 4, 1), np.uint8)))
        for folder in folders:
            found.append(measure(folder, given.model, given.answers, chromium))
            print(json.dumps(found[-1], ensure_ascii=False), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

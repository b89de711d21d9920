"""The time of an answer on the label page in Chromium at 1920×1080: from the key to the screen, and to the disk.

    python benchmarks/label_page.py [--photos] [--images FOLDER --model MODEL] [--answers 40] [--json FILE]
    python benchmarks/label_page.py --images FOLDER --model MODEL --screenshot docs/images/label-page.jpg

For each answer, in milliseconds from the key press: *screen*, until the frame after the one that draws the next
question has begun; *event*, the browser's own figure for the same (Event Timing: from the key to the next paint, in
steps of 8, 0 for less than 16); *sharp*, until every tile of the image is drawn at the screen's resolution; *disk*,
until the server has acknowledged the stroke, which it does after fsync; *cpu*, what all processes of Chromium use of
their cores until then (Linux), which does not grow with what else the machine does. Half of the answers stay on an
image, half go to the next one, which the page has loaded ahead. Without ``--images``, six scenes of 1920×1080 are
drawn, with ``--photos`` also four of 4000×3000. Takes some 40 seconds without it. Needs playwright and Chromium.
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

import cv2
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

LOOKING = 500  # milliseconds between two answers
PARTS = ("screen", "event", "sharp", "disk", "cpu")
SPACE = LabelSpace(("road", "sky", "car", "tree", "building"))
# Before the page: when a key arrives, when the next question is drawn, and the browser's own time from key to paint.
WATCH = """() => {
  const now = window.answerTimes = {};
  const body = document.body, shown = () => body.dataset.image + "/" + body.dataset.asked;
  addEventListener("keydown", event => {
    Object.assign(now, {key: event.timeStamp, before: shown(), sameImage: body.dataset.image, screen: 0, sharp: 0});
  }, {capture: true});
  const frame = () => new Promise(done => requestAnimationFrame(done));
  new MutationObserver(async () => {
    if (!now.before || now.screen || shown() === now.before || !body.dataset.asked) return;
    const key = now.key;
    now.screen = 1;
    await frame();
    await frame();  // the frame before this one is painted
    now.screen = performance.now() - key;
    const view = window.labelPage.view;
    while (!view.loaded(view.level())) await frame();
    now.sharp = performance.now() - key;
    now.same = now.sameImage === body.dataset.image;
  }).observe(body, {attributes: true, attributeFilter: ["data-image", "data-asked"]});
  new PerformanceObserver(list => {
    for (const one of list.getEntries()) if (one.name === "keydown") now.event = one.duration;
  }).observe({type: "event", durationThreshold: 16});
}"""
DONE = """() => window.answerTimes.sharp && document.body.dataset.waiting === "0"
  && {...window.answerTimes, disk: performance.now() - window.answerTimes.key}"""


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
    for number in range(2 * count):  # one that lies in an answered region is not asked
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
        page.evaluate(WATCH)
        for number in range(answers):
            page.wait_for_timeout(LOOKING)  # a person looks; the page loads ahead
            before = cpu_milliseconds()
            page.evaluate("answerTimes.event = 0")
            page.keyboard.press("Enter" if number % 3 else "2")
            row = page.wait_for_function(DONE, polling=5).json_value()
            rows.append({**row, "cpu": cpu_milliseconds() - before})
        height, width = service.images.size(0)
    found: dict[str, Any] = {"image": f"{width}×{height}", "answers": len(rows)}
    for name, same in (("same", True), ("next", False)):
        chosen = [row for row in rows if row["same"] == same]
        found |= {f"{part}_{name}_image": spread([row[part] for row in chosen]) for part in PARTS}
    return {
        **found,
        "load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
    }  # processes that want a core, per core


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


def scenes(folder: Path, size: tuple[int, int], count: int) -> Path:
    """Generated images of a size (height, width)."""
    for number in range(count):
        small = draw_street(f"{number}", (270, 360 * size[1] // size[0]))[0]
        write_image(folder / f"{number}.jpg", cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--photos", action="store_true", help="also images of 4000×3000")
    parser.add_argument("--answers", type=int, default=40)
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
        folders = [given.images] if given.images else [scenes(Path(place) / "hd", (1080, 1920), 6)]
        if given.photos:
            folders.append(scenes(Path(place) / "photo", (3000, 4000), 4))
        for folder in folders:
            found.append(measure(folder, given.model, given.answers, chromium))
            print(json.dumps(found[-1], ensure_ascii=False), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Make the screenshots of the README and the docs again: real pages in Chromium, from a real model and real images.

``python docs/scripts/images.py --run RUN --data DATA`` writes ``docs/images/gallery-*.jpg``, ``crf-figure.jpg`` and the
recording ``demo.svg``; ``--only check report`` makes some. The published ones are of a LeanNet of 20 minutes on CamVid.
Playwright and Chromium are needed (extra ``dev``); the environment variable CHROMIUM names the browser.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

WIDTH, VIEW, QUALITY = 1000, (1280, 860), 80  # of a screenshot in the docs; of the browser's window; of the JPEG
PATIENCE = 600  # seconds until a page or a service is there
SEGWRIGHT = (sys.executable, "-m", "segwright")


@dataclass(frozen=True)
class Studio:
    """What the screenshots are made of."""

    run: Path
    data: Path
    out: Path
    scratch: Path
    browser: Any

    def image(self, number: int = 20) -> Path:
        """One image of the validation part."""
        found = sorted(path for path in (self.data / "val").iterdir() if path.suffix in (".png", ".jpg"))
        return found[number % len(found)]

    def shot(self, address: str, name: str, prepare: Callable[[Any], None] = lambda page: None) -> None:
        """A page of the browser as ``docs/images/NAME.jpg``."""
        page = self.browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(address)
        prepare(page)
        page.wait_for_timeout(1000)
        save(self.out / f"{name}.jpg", page.screenshot(timeout=PATIENCE * 1000))
        page.close()


def save(path: Path, png: bytes, width: int = WIDTH) -> None:
    """A PNG as a JPEG of a width."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    height = round(image.shape[0] * width / image.shape[1])
    cv2.imwrite(
        str(path), cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


def segwright(*arguments: object, codes: Sequence[int] = (0,)) -> None:
    """Run a command. RuntimeError unless it ends with one of ``codes``."""
    done = subprocess.run([*SEGWRIGHT, *map(str, arguments)])
    if done.returncode not in codes:
        raise RuntimeError(f"segwright {arguments[0]} ended with {done.returncode}")


@contextmanager
def service(*arguments: object, port: int, path: str) -> Iterator[str]:
    """A service of segwright while it is photographed."""
    address = f"http://127.0.0.1:{port}{path}"
    process = subprocess.Popen([*SEGWRIGHT, *map(str, arguments), "--port", str(port)])
    try:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(address, timeout=10).close()
                break
            except OSError:
                if time.monotonic() > ends or process.poll() is not None:
                    raise
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def check(studio: Studio) -> None:
    """The check's page of street scenes with faults: a cut file, a mask of another size, a class that hides, a copy."""
    from segwright.demo.dataset import write_street_scenes

    folder = studio.scratch / "street"
    write_street_scenes(folder, train=24, val=8, test=0, size=(128, 192))
    images, masks = folder / "images" / "train", folder / "masks" / "train"
    names = sorted(path.name for path in images.iterdir())
    (images / names[0]).write_bytes((images / names[0]).read_bytes()[:900])
    with Image.open(masks / names[1]) as mask:
        mask.crop((0, 0, mask.width, mask.height - 8)).save(masks / names[1])
    (masks / names[2]).unlink()
    shutil.copyfile(images / names[3], folder / "images" / "val" / sorted(os.listdir(folder / "images" / "val"))[0])
    page = studio.scratch / "check.html"
    segwright("check", folder, "--html", page, codes=(0, 1))
    studio.shot(page.resolve().as_uri(), "gallery-check")


def report(studio: Studio) -> None:
    """The report of the training, at its images."""
    page = studio.run / "report.html"

    def errors(page: Any) -> None:
        page.evaluate("(document.querySelector('.viewer, canvas') || document.body).scrollIntoView({block: 'center'})")

    studio.shot(page.resolve().as_uri(), "gallery-report", errors)


def serve(studio: Studio) -> None:
    """The service's page with an image and its classes."""

    def give(page: Any) -> None:
        page.set_input_files("input[type=file] >> nth=0", str(studio.image(29)))
        page.get_by_text("mean confidence").wait_for(state="visible")

    with service("serve", studio.run, port=8713, path="/") as address:
        studio.shot(address, "gallery-service", give)


def label(studio: Studio) -> None:
    """The label page with questions of a selection."""
    images = studio.scratch / "unlabeled"
    images.mkdir()
    for number in (10, 40, 70):
        shutil.copy(studio.image(number), images)
    chosen = studio.scratch / "selection.json"
    segwright("select", studio.run, images, "--count", 3, "--out", chosen)
    arguments = ("label", images, "--model", studio.run, "--questions", chosen, "--train-every", "never")
    with service(*arguments, port=8714, path="/") as address:
        studio.shot(address, "label-page", lambda page: page.wait_for_timeout(15_000))


def crf(studio: Studio) -> None:
    """The papers' figure."""
    segwright(
        "plot-crf", studio.run, studio.data, "--crf", "crf(deeplab-v2-vgg)", "--out", studio.out / "crf-figure.jpg"
    )


def terminal(studio: Studio) -> None:
    """The recording of the demo."""
    script = Path(__file__).with_name("terminal.py")
    command = [
        sys.executable,
        str(script),
        "--out",
        str((studio.out / "demo.svg").resolve()),
        "--",
        "segwright",
        "demo",
    ]
    subprocess.run([*command, "--no-open"], check=True, cwd=studio.scratch)


def tutorials(studio: Studio) -> None:
    """The steps of the tutorials that show data, predictions and screens: each page is run, with smaller budgets."""
    script = Path(__file__).with_name("tutorial_images.py")
    subprocess.run([sys.executable, str(script), "--run", "all", "--out", str(studio.out)], check=True)


MADE = {"check": check, "report": report, "service": serve, "label": label, "crf": crf, "terminal": terminal}
MADE["tutorials"] = tutorials


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run folder of CamVid")
    parser.add_argument("--data", type=Path, required=True, help="CamVid")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "images")
    parser.add_argument("--only", nargs="+", choices=MADE, default=list(MADE))
    given = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        studio = Studio(given.run, given.data, given.out, Path(scratch), browser)
        for name in given.only:
            MADE[name](studio)
        browser.close()


if __name__ == "__main__":
    main()

"""``segwright demo``: the whole road on the embedded dataset, with the very commands that work on anyone's folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.text import Text

from segwright.core.errors import UsageError
from segwright.core.progress import duration, literal
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import UInt8Array, read_image

MARK = ".segwright-demo"  # so that only a folder of an earlier demo is ever cleared
SIZE = (128, 192)
TRAIN, VAL, TEST = 160, 24, 40
TRAINING = ("--model", "unet", "--encoder", "resnet10t", "--weights", "none", "--epochs", "3", "--seed", "0")

Command = Callable[[Sequence[str]], None]


def run_demo(out: Path, *, open_report: bool, console: Console, command: Command) -> dict[str, Any]:
    """Generate the scenes and run the commands on them, each printed before it runs. Returns the figures."""
    started = time.monotonic()
    _clear(out)
    data, run = out / "data", out / "run"

    def message(title: str, *arguments: object) -> None:
        console.print(Text(f"\n{title}", style="bold"))
        if arguments:
            words = [str(argument) for argument in arguments]
            console.print(
                literal(f"$ segwright {shlex.join(words)}", "bold cyan"), soft_wrap=True
            )  # one line, to be copied
            command(words)

    console.print(
        "segwright labels every pixel of an image. This demo draws a small street dataset, checks it, trains a "
        "U-Net on it, scores it on images it has not seen, and segments one. Nothing is downloaded."
    )
    write_street_scenes(data, train=TRAIN, val=VAL, test=TEST, size=SIZE)
    (out / MARK).write_text("made by `segwright demo`; cleared by the next one\n", encoding="utf-8")
    console.print(literal(f"{TRAIN + VAL + TEST} images and masks drawn: {data}"), soft_wrap=True)
    message("1. Is the data sound?", "check", data)
    message("2. Train.", "train", data, *TRAINING, "--out", run)
    message("3. How good is it on new images?", "evaluate", run, data, "--split", "test", "--json", out / "test.json")
    image = sorted((data / "images" / "test").glob("*.png"))[0]
    message("4. Segment an image.", "predict", run, image, "--out", out / "predictions")
    show(console, image, out / "predictions" / f"{image.stem}.overlay.jpg")
    found = json.loads((out / "test.json").read_text(encoding="utf-8"))
    seconds = time.monotonic() - started
    report = run / "report.html"
    done = (f"\nDone in {duration(seconds)}.", "bold")
    console.print(Text.assemble(done, " mIoU on new images: ", (f"{found['miou']:.3f}", "bold")))
    console.print(literal(f"The report, with curves, classes and images: {report}"), soft_wrap=True)
    console.print(Text.assemble("Your own folder of images and masks: ", ("segwright train FOLDER", "bold cyan")))
    if open_report and _has_browser():
        webbrowser.open(report.resolve().as_uri())
    return {"miou": found["miou"], "pixel_accuracy": found["pixel_accuracy"], "seconds": seconds, "out": str(out)}


def show(console: Console, image: Path, overlay: Path) -> None:
    """Image and prediction side by side, two pixels a character, on a terminal with colors."""
    if not console.is_terminal or console.color_system != "truecolor":
        console.print(literal(f"image: {image}"), soft_wrap=True)
        console.print(literal(f"prediction: {overlay}"), soft_wrap=True)
        return
    side = max(20, min(60, console.width // 2 - 2))
    halves = [_shrunk(read_image(path), side) for path in (image, overlay)]
    canvas = np.concatenate([halves[0], np.zeros((halves[0].shape[0], 2, 3), np.uint8), halves[1]], axis=1)
    for upper, lower in zip(canvas[0::2], canvas[1::2], strict=True):
        line = Text()
        for (r, g, b), (r2, g2, b2) in zip(upper, lower, strict=True):
            line.append("▀", style=f"rgb({r},{g},{b}) on rgb({r2},{g2},{b2})")
        console.print(line, soft_wrap=True)


def _shrunk(image: UInt8Array, width: int) -> UInt8Array:
    height = max(2, round(image.shape[0] * width / image.shape[1]) // 2 * 2)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _clear(out: Path) -> None:
    if not out.exists() or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        return
    if not (out / MARK).is_file():
        raise UsageError(
            "the folder is not empty and not of an earlier demo",
            where=out,
            fix="segwright demo --out ANOTHER",
        )
    for part in ("data", "run", "predictions"):
        shutil.rmtree(out / part, ignore_errors=True)


def _has_browser() -> bool:
    """A browser that opens a window: not one of the text kind, which would take the terminal."""
    if os.name == "posix" and os.uname().sysname == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True

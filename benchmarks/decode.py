"""Decoding side by side: segwright.imageio against Pillow, OpenCV and torchvision, on the same files in one run.

    python benchmarks/decode.py [--data ../shared/data] [--rounds 40]

One thread each. Rounds interleave the contenders, so that a busy machine hits all of them alike, in a new order each
time: what comes first finds the caches cold. The figure is the least disturbed round's processor time for one file,
the ratio is ours to the fastest peer's. Only ours checks limits and completeness: Pillow passes over a PNG whose data
ends early, OpenCV and torchvision over a JPEG's. Palette masks: ours and Pillow hand out the indices; OpenCV and
torchvision spread them into colors, which is no mask, but is timed."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
import torchvision.io
from PIL import Image

from segwright.demo.dataset import write_street_scenes
from segwright.imageio import read_image, read_mask, write_image

Reader = Callable[[str], object]
PEERS_RGB: dict[str, Reader] = {
    "pillow": lambda path: np.asarray(Image.open(path).convert("RGB")),
    "opencv": lambda path: cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
    "torchvision": lambda path: torchvision.io.decode_image(torchvision.io.read_file(path)),
}
if hasattr(cv2, "IMREAD_COLOR_RGB"):
    PEERS_RGB["opencv rgb"] = lambda path: cv2.imread(path, cv2.IMREAD_COLOR_RGB)
PEERS_MASK: dict[str, Reader] = {
    "pillow": lambda path: np.asarray(Image.open(path)),
    "opencv": lambda path: cv2.imread(path, cv2.IMREAD_UNCHANGED),
    "torchvision": lambda path: torchvision.io.decode_image(torchvision.io.read_file(path)),
}


def files(data: Path, made: Path) -> dict[str, tuple[list[str], Reader, dict[str, Reader]]]:
    """Kind → (files, our reader, peers); CamVid and VOC images where they are, generated ones else."""

    def some(folder: Path, pattern: str, fallback: str) -> list[str]:
        found = sorted(str(path) for path in folder.rglob(pattern)) if folder.is_dir() else []
        return (found or sorted(str(path) for path in made.rglob(fallback)))[:12]

    return {
        "PNG image": (some(data / "camvid/train", "*.png", "images/*/*.png"), read_image, PEERS_RGB),
        "JPEG image": (some(data / "voc3/voc", "*.jpg", "*.jpg"), read_image, PEERS_RGB),
        "gray mask": (some(data / "camvid/trainannot", "*.png", "gray/*.png"), read_mask, PEERS_MASK),
        "palette mask": (some(data / "voc3/voc", "SegmentationClass/*.png", "masks/*/*.png"), read_mask, PEERS_MASK),
    }


def measure(paths: list[str], readers: dict[str, Reader], rounds: int) -> dict[str, float]:
    """Milliseconds of processor time a file, by reader."""
    least = {name: dict.fromkeys(paths, math.inf) for name in readers}
    order = random.Random(0)
    for number in range(rounds + 1):
        for path in paths:  # file by file: the shorter the turns, the fairer
            for name in order.sample(list(readers), len(readers)):
                start = time.process_time()
                readers[name](path)
                spent = (time.process_time() - start) * 1e3
                if number:  # round 0 warms up
                    least[name][path] = min(least[name][path], spent)
    return {name: sum(values.values()) / len(values) for name, values in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    result = {}
    with TemporaryDirectory() as folder:
        whole = all((arguments.data / name).is_dir() for name in ("camvid/train", "camvid/trainannot", "voc3/voc"))
        made = write_street_scenes(folder, train=1 if whole else 8, val=0, test=0, size=(360, 480))
        for path in sorted(made.glob("images/train/*.png")):
            write_image(made / "jpeg" / f"{path.stem}.jpg", read_image(path))
            write_image(made / "gray" / path.name, read_mask(made / "masks" / "train" / path.name)[..., None])
        for kind, (paths, ours, peers) in files(arguments.data, made).items():
            figures = measure(paths, {"segwright": ours, **peers}, arguments.rounds)
            fastest = min(peers, key=lambda name: figures[name])
            ratio = figures["segwright"] / figures[fastest]
            result[kind] = {"ms": figures, "ratio_to_fastest": ratio, "fastest": fastest}
            row = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"{kind:13} {row}  | ours / {fastest}: {ratio:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

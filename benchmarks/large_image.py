"""An image of 100 megapixels through ``segwright predict``, with a chain: how long, how much memory, do seams show?

    python benchmarks/large_image.py [--side 10000] [--postprocess CHAIN] [--seam-side 2600] [--json out.json]

A made-up image (soft colors, discs, noise) is written as a file, and the command runs on it in a process of its own,
with a small network of random weights, saved as a bundle. Reported are that process's peak memory (ru_maxrss), and the
peak of one that does the same on a small image: what interpreter, torch and kernels take by themselves. Then a
cut-out of the image is predicted whole and in windows, and their labels are compared: all of them, and those
within four pixels of a window's edge.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import segwright as sw
from segwright.core.types import LabelSpace
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model

POST = "crf(w1=4,sa=30,sb=8,w2=3,sg=2,iterations=5)>min-area(64)"
ARGUMENTS = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "in_channels": 3}


def photo(side: int) -> np.ndarray:
    """side×side×3, made strip by strip."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (side // 200 + 2, side // 200 + 2, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(side * side // 40_000):
        center = (int(rng.integers(side)), int(rng.integers(side)))
        cv2.circle(image, center, int(rng.integers(3, 90)), rng.integers(0, 256, 3).tolist(), -1)
    for top in range(0, side, 500):
        strip = image[top : top + 500]
        np.copyto(strip, np.clip(strip + rng.normal(0, 8, strip.shape), 0, 255).astype(np.uint8))
    return image


def model(folder: Path) -> Path:
    """A small network of random weights, large enough that it looks at the image."""
    torch.manual_seed(1)
    network = create_model("leannet", classes=6, weights=None, **ARGUMENTS).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0 if parameter.ndim == 4 else 1.0)
    return save_bundle(folder / "model", network, Bundle("leannet", LabelSpace(tuple("abcdef")), ARGUMENTS))


def predicted(bundle: Path, path: Path, post: str, out: Path) -> dict[str, float]:
    """The command in a process of its own: seconds, and its peak memory in megabytes."""
    command = [sys.executable, "-m", "segwright", "predict", bundle, path, "--out", out, "--postprocess", post]
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"predict failed: {status}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def seams(bundle: Path, image: np.ndarray, post: str) -> dict[str, float]:
    """How many labels differ between the whole and windows, everywhere and beside the windows' edges."""
    predictor = sw.load(bundle, postprocess=post)
    parts = predictor.windowing().parts(*image.shape[:2], predictor.label_space.classes)
    in_windows = predictor.predict(image).labels
    predictor.window = max(image.shape)
    differ = in_windows != predictor.predict(image).labels
    near = np.zeros(differ.shape, bool)
    for part in parts:
        for edge in (part.core_top, part.core_bottom):
            if 0 < edge < image.shape[0]:
                near[max(0, edge - 4) : edge + 4] = True
        for edge in (part.core_left, part.core_right):
            if 0 < edge < image.shape[1]:
                near[:, max(0, edge - 4) : edge + 4] = True
    return {
        "seam_windows": len(parts), "labels_differ": float(differ.mean()),
        "labels_differ_beside_seams": float(differ[near].mean()), "classes_found": len(np.unique(in_windows)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--seam-side", type=int, default=2600)
    parser.add_argument("--postprocess", default=POST)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = model(folder)
        image = photo(arguments.side)
        cut = image[: arguments.seam_side, : arguments.seam_side].copy()
        cv2.imwrite(str(folder / "large.png"), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        cv2.imwrite(str(folder / "small.png"), image[:256, :256, ::-1])
        del image
        small = predicted(bundle, folder / "small.png", arguments.postprocess, folder / "out")
        large = predicted(bundle, folder / "large.png", arguments.postprocess, folder / "out")
        found = {
            "megapixels": arguments.side**2 / 1e6, "post": arguments.postprocess, **large,
            "peak_mb_of_a_small_image": small["peak_mb"], **seams(bundle, cut, arguments.postprocess),
        }  # fmt: skip
    print(
        "\n".join(
            f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}" for key, value in found.items()
        )
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

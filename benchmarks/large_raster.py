"""A large GeoTIFF through ``predict``, by windows: memory above the model, and the model's share of the time.

    python benchmarks/large_raster.py [--side 30000] [--model RUN] [--json out.json]

The raster is made of one repeated block of soft colors and noise, so that it is small on the disk. It is predicted in a
process of its own. Reported are that process's peak memory, the peak when it had predicted one window alone, and the
CPU time spent in the network as a share of all CPU time from the first window to the finished mask: a ratio that holds
on a busy machine too. ``net_rate``: the same share without the overlap of windows, which is predicted twice.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch

from segwright.core.types import LabelSpace
from segwright.imageio import Limits
from segwright.inference import rasters
from segwright.inference.batch import predict_source
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.output_options import OutputOptions
from segwright.inference.predictor import load
from segwright.inference.sources import open_source
from segwright.models.catalog import create_model

TILE = 512


def write_raster(path: Path, side: int) -> None:
    """side×side×3, placed on the ground, tile by tile."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    block = cv2.resize(coarse, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    block = np.clip(block + rng.normal(0, 8, block.shape), 0, 255).astype(np.uint8)

    def tiles() -> Iterator[np.ndarray]:
        for _ in range((-(-side // TILE)) ** 2):
            yield block

    tags = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 5e5, 4.1e6, 0), True),
        (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
    ]  # fmt: skip
    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression="zlib", extratags=tags, bigtiff=True, metadata=None,
    )  # fmt: skip


def small_model(folder: Path) -> Path:
    """A U-Net of few channels with random weights."""
    torch.manual_seed(1)
    arguments = {"widths": [8, 16, 24, 32, 48], "decoder_channels": [16, 16, 16, 16], "in_channels": 3}
    network = create_model("leannet", classes=6, weights=None, **arguments).eval()
    return save_bundle(folder / "model", network, Bundle("leannet", LabelSpace(tuple("abcdef")), arguments))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(model: str, path: str, out: str) -> None:
    """In the process of its own: predict, and print the figures as JSON."""
    rasters.DEFAULT_LIMITS = Limits(max_pixels=1_000_000)  # smaller rasters take the same way
    predictor = load(model, device="cpu")
    spent = [0.0]
    for name in ("labels", "logits"):
        inner = getattr(predictor.runtime, name)

        def timed(images: np.ndarray, inner: object = inner) -> object:
            began = time.process_time()
            try:
                return inner(images)  # type: ignore[operator]
            finally:
                spent[0] += time.process_time() - began

        setattr(predictor.runtime, name, timed)
    windowing = predictor.windowing()
    predictor.runtime.labels(np.zeros((1, predictor.window, predictor.window, predictor.runtime.in_channels), np.uint8))
    before, spent[0] = peak_mb(), 0.0
    began, cpu = time.perf_counter(), time.process_time()
    found = predict_source(predictor, open_source(path), Path(out), OutputOptions(mask_format="index", overlay=False))
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    useful = ((windowing.window - 2 * windowing.margin) / windowing.window) ** 2
    print(json.dumps({
        "seconds": seconds, "cpu_seconds": cpu, "network_cpu_seconds": spent[0], "network_share": spent[0] / cpu,
        "net_rate": useful * spent[0] / cpu, "peak_mb": peak_mb(), "peak_mb_of_one_window": before,
        "above_the_model_mb": peak_mb() - before, **found["results"][0]["windows"],
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measured", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measured:
        measured(*arguments.measured)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_raster(folder / "raster.tif", arguments.side)
        model = arguments.model or small_model(folder)
        command = [sys.executable, __file__, "--measured", model, folder / "raster.tif", folder / "out"]
        done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
        found = {"raster_side": arguments.side, "megapixels": arguments.side**2 / 1e6, **json.loads(done.stdout)}
        found["mask_mb"] = (folder / "out" / "raster.tif").stat().st_size / 1e6
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

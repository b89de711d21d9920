"""A large GeoTIFF through ``predict``, by windows: memory above the model, and the raster's rate beside the network's.

    python benchmarks/large_raster.py [--side 30000] [--model RUN | --stand-in] [--overlay] [--polygons]

The raster is made of one repeated block of soft colors and noise. It is predicted in a process of its own. Reported are

- that process's peak memory above what it had with the model loaded;
- ``rate_of_the_network``: the seconds that the bare network takes for the same windows, in the same process afterwards,
  per second of the prediction from the first window to the finished mask;
- ``cpu_rate_of_the_network``: the same of CPU seconds, all threads, a ratio that holds on a busy machine too.

The pixels that overlap are in both. ``--stand-in``: a network that costs nothing, for reading and writing alone.
The finished mask is checked: size, place, no data, and the layout of a cloud-optimized TIFF by rio-cogeo.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch

from segwright.core.types import LabelSpace
from segwright.imageio import Limits, read_window, tiff_info
from segwright.inference import rasters
from segwright.inference.batch import predict_source
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.output_options import OutputOptions
from segwright.inference.predictor import Predictor, load
from segwright.inference.sliding_window import Window
from segwright.inference.sources import open_source
from segwright.models.catalog import create_model

TILE = 512


def write_raster(path: Path, height: int, side: int) -> None:
    """height×side×3, placed on the ground, tile by tile."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    block = cv2.resize(coarse, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    block = np.clip(block + rng.normal(0, 8, block.shape), 0, 255).astype(np.uint8)

    encoded = zlib.compress(block.tobytes(), 6)  # once: every tile is the same

    def tiles() -> Iterator[bytes]:
        for _ in range(-(-side // TILE) * -(-height // TILE)):
            yield encoded

    tags = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 5e5, 4.1e6, 0), True),
        (42113, "s", 0, "255", True),
        (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
    ]  # fmt: skip
    tifffile.imwrite(
        path, tiles(), shape=(height, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression="zlib", extratags=tags, bigtiff=True, metadata=None,
    )  # fmt: skip


def small_model(folder: Path) -> Path:
    """A U-Net of few channels with random weights."""
    torch.manual_seed(1)
    arguments = {"widths": [8, 16, 24, 32, 48], "decoder_channels": [16, 16, 16, 16], "in_channels": 3}
    network = create_model("leannet", classes=6, weights=None, **arguments).eval()
    return save_bundle(folder / "model", network, Bundle("leannet", LabelSpace(tuple("abcdef")), arguments))


class StandIn:
    """A network that costs nothing: the class is the first channel's highest bits."""

    classes, in_channels, receptive_radius = 4, 3, 32

    def labels(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images[..., 0] >> 6, np.full(images.shape[:3], 0.5, np.float32)

    def logits(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def held_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def bare_seconds(predictor: Predictor, path: str, parts: list[Window]) -> tuple[float, float]:
    """Median seconds and CPU seconds (of all threads) of the bare network per window, over windows of the raster."""
    found = []
    for part in parts:
        image = read_window(path, part.top, part.left, part.bottom - part.top, part.right - part.left)
        wall, cpu = time.perf_counter(), time.process_time()
        predictor.runtime.labels(image[None])
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return float(np.median([wall for wall, _ in found])), float(np.median([cpu for _, cpu in found]))


def measured(model: str, path: str, out: str, more: str, batch: int) -> None:
    """In the process of its own: predict, and print the figures as JSON."""
    rasters.DEFAULT_LIMITS = Limits(max_pixels=1_000_000)  # smaller rasters take the same way
    stand_in = model == "stand-in"
    predictor = Predictor(StandIn(), LabelSpace(tuple("abcd"))) if stand_in else load(model, device="cpu")
    predictor.window_batch = batch or None
    windowing = predictor.windowing()
    loaded = held_mb()
    polygons = ("geojson",) if "polygons" in more else ()
    options = OutputOptions(mask_format="index", overlay="overlay" in more, polygons=polygons)
    began, cpu = time.perf_counter(), time.process_time()
    found = predict_source(predictor, open_source(path), Path(out), options)
    cpu, seconds, peak = time.process_time() - cpu, time.perf_counter() - began, peak_mb()
    size = tiff_info(path)
    assert size is not None
    height, width = size.height, size.width
    parts = windowing.parts(height, width, predictor.label_space.classes)
    wall, own = bare_seconds(predictor, path, parts[:: max(1, len(parts) // 8)])
    useful = height * width / sum((p.bottom - p.top) * (p.right - p.left) for p in parts)
    print(json.dumps({
        "seconds": seconds, "cpu_seconds": cpu, "rate_of_the_network": wall * len(parts) / seconds,
        "cpu_rate_of_the_network": own * len(parts) / cpu, "pixels_that_do_not_overlap": useful,
        "loaded_mb": loaded, "peak_mb": peak, "above_the_model_mb": peak - loaded,
        **found["results"][0]["windows"],
    }))  # fmt: skip


def check_mask(path: Path, source: Path) -> dict[str, Any]:
    """What GDAL finds of the mask: size, whether its place is the source's, no data, tiles and overviews."""
    import rasterio
    from rio_cogeo.cogeo import cog_validate

    valid, errors, _ = cog_validate(str(path))
    with rasterio.open(path) as mask, rasterio.open(source) as image:
        return {
            "mask_mb": path.stat().st_size / 1e6, "mask_size": [mask.width, mask.height],
            "same_place": mask.transform == image.transform and mask.crs == image.crs, "crs": str(mask.crs),
            "nodata": mask.nodata, "tiled": mask.profile["tiled"], "overviews": mask.overviews(1),
            "cloud_optimized": valid, "errors": errors,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--height", type=int, help="rows, if other than --side")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--overlay", action="store_true")
    parser.add_argument("--polygons", action="store_true")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--measured", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measured:
        model, path, out, more, batch = arguments.measured
        measured(model, path, out, more, int(batch))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        height = arguments.height or arguments.side
        write_raster(folder / "raster.tif", height, arguments.side)
        model = "stand-in" if arguments.stand_in else arguments.model or small_model(folder)
        more = "+".join(["mask", *["overlay"] * arguments.overlay, *["polygons"] * arguments.polygons])
        command = [
            sys.executable, __file__, "--measured", model, folder / "raster.tif", folder / "out", more, arguments.batch,
        ]  # fmt: skip
        done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
        found = {
            "width": arguments.side,
            "height": height,
            "megapixels": height * arguments.side / 1e6,
            **json.loads(done.stdout),
        }
        found |= check_mask(folder / "out" / "raster.tif", folder / "raster.tif")
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

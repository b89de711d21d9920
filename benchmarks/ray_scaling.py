"""Prediction on Ray with one and two workers in turn, beside the plain command, and a model for more workers.

    python benchmarks/ray_scaling.py MODEL IMAGES --repeat 3 --json ray.json

Rates are those between the first and the last record of a run, without the start of Ray and of the workers, which is
given by itself. The model for w workers is Amdahl's: rate(w) = min(w · r / (1 + a (w - 1)), B · n), with the rate r of
one worker, the shared part a = 2 r / rate(2) - 1 that two workers show, the blocks per second B that the command itself
handles (measured with blocks of one tiny image), and n images per block. It needs a quiet machine with two processors,
and the extra ``ray``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import segwright as sw
from segwright.imageio import write_image
from segwright.inference.blocks import DONE

BLOCK = 4


def one_run(model: Path, images: Path, workers: int, block: int, place: Path) -> dict[str, float]:
    """Images per second between the first and the last record, and the seconds until the first."""
    start = time.time()
    sw.predict_on_ray(
        model, images, out=place, address="local", workers=workers, block=block, overlay=False, device="cpu"
    )
    ends = sorted(path.stat().st_mtime for path in (place / DONE).glob("*.json"))
    first = len(json.loads(next((place / DONE).glob("*.json")).read_text())["jobs"])
    count = len(list(place.glob("*.png"))) - first
    return {"images_per_second": count / max(1e-9, ends[-1] - ends[0]), "start": ends[0] - start}


def plain(model: Path, images: Path, place: Path) -> float:
    """Images per second of the plain command's loop."""
    predictor = sw.load(model, device="cpu")
    files = sorted(path for path in images.iterdir() if path.is_file())
    sw.predict(predictor, files[:2], out=place / "warm", overlay=False)
    start = time.perf_counter()
    found = sw.predict(predictor, files, out=place / "all", overlay=False)
    return found.images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"plain": [], "1": [], "2": [], "start": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(options.repeat):
            found["plain"].append(plain(options.model, options.images, root / f"plain{number}"))
            for workers in (1, 2):
                one = one_run(options.model, options.images, workers, BLOCK, root / f"{workers}-{number}")
                found[str(workers)].append(one["images_per_second"])
                found["start"].append(one["start"])
        for i in range(200):
            write_image(root / "tiny" / f"{i}.png", np.zeros((8, 8, 3), np.uint8))
        found["driver"] = one_run(options.model, root / "tiny", 2, 1, root / "out-tiny")["images_per_second"]
    best = {key: max(found[key]) for key in ("plain", "1", "2")}
    shared = max(0.0, 2 * best["1"] / best["2"] - 1)
    limit = found["driver"] * BLOCK
    found["model"] = {str(w): min(w * best["1"] / (1 + shared * (w - 1)), limit) for w in (2, 4, 8, 16)}
    found |= {"best": best, "shared_part": shared, "one_worker_to_plain": best["1"] / best["plain"]}
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

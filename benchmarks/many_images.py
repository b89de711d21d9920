"""Many small images through ``predict``: rate, memory as they go by, a kill, and what the resumed run writes.

    python benchmarks/many_images.py [--images 100000] [--side 64] [--kill-at 0.4] [--json out.json]

Images are written as PNG (one of them damaged), then predicted by ``segwright predict``'s own function with a network
that costs nothing, in a process that is killed with SIGKILL at a share of them. A second process resumes. Reported are
the rate of each, the process's memory after the first and the last tenth, and, of the masks in place at the kill, how
many the second run wrote again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from segwright import api
from segwright.core.types import LabelSpace
from segwright.imageio import encode_png
from segwright.inference.predictor import Predictor

FOLDER = 1000  # images per folder


class StandIn:
    """A network that costs nothing: the class is the first channel's highest bits."""

    classes, in_channels = 4, 3

    def __init__(self, stop: int, step: int) -> None:
        self.runs, self.stop, self.step, self.began = 0, stop, step, time.perf_counter()

    def labels(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.runs += 1
        if self.runs == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.runs % self.step == 0:
            held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
            print(json.dumps([self.runs, held, time.perf_counter() - self.began, time.process_time()]), flush=True)
        return images[..., 0] >> 6, np.full(images.shape[:3], 0.5, np.float32)


def write_images(folder: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    kinds = [encode_png(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1))
             for _ in range(64)]  # fmt: skip
    for i in range(count):
        place = folder / f"{i // FOLDER:04d}"
        if i % FOLDER == 0:
            place.mkdir(parents=True)
        (place / f"{i:06d}.png").write_bytes(kinds[i % 64] if i != count // 2 else b"no image")


def child(source: Path, out: Path, stop: int, count: int, resume: bool) -> None:
    network = StandIn(stop, max(1, count // 10))
    found = api.predict(
        Predictor(network, LabelSpace(tuple("abcd"))), source, out=out, overlay=False, mask_format="index",
        resume=resume, areas=out.parent / "areas.csv",
    )  # fmt: skip
    print(json.dumps({"images": found.images, "failed": len(found.failed), "resumed": found.resumed or 0,
                      "runs": network.runs}), flush=True)  # fmt: skip


def run(source: Path, out: Path, stop: int, count: int, resume: bool) -> tuple[int, dict[str, float]]:
    command = [sys.executable, __file__, "--child", source, out, stop, count, int(resume)]
    began = time.perf_counter()
    done = subprocess.run([str(one) for one in command], stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]
    steps = [line for line in lines if isinstance(line, list)]
    facts: dict[str, float] = {"seconds": time.perf_counter() - began}
    if len(steps) > 1:
        facts |= {
            "images_per_second": (steps[-1][0] - steps[0][0]) / (steps[-1][2] - steps[0][2]),
            "images_per_cpu_second": (steps[-1][0] - steps[0][0]) / (steps[-1][3] - steps[0][3]),
            "memory_mb_first": steps[0][1], "memory_mb_last": steps[-1][1],
            "bytes_per_image": 1e6 * (steps[-1][1] - steps[0][1]) / (steps[-1][0] - steps[0][0]),
        }  # fmt: skip
    return done.returncode, facts | next((line for line in lines if isinstance(line, dict)), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--kill-at", type=float, default=0.4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        source, out, stop, count, resume = arguments.child
        child(Path(source), Path(out), int(stop), int(count), resume == "1")
        return
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "in", Path(name) / "out"
        write_images(source, arguments.images, arguments.side)
        killed, first = run(source, out, int(arguments.images * arguments.kill_at), arguments.images, False)
        assert killed == -signal.SIGKILL, killed
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
        ended, second = run(source, out, -1, arguments.images, True)
        again = sum(path.stat().st_mtime_ns != time for path, time in before.items())
        masks = sum(1 for _ in out.rglob("*.png"))
        rows = len((Path(name) / "areas.csv").read_text().splitlines()) - 1
    found = {"images": arguments.images, "killed_run": first, "masks_at_the_kill": len(before), "resumed_run": second,
             "exit": ended, "written_again": again, "masks": masks, "rows_per_image": rows / masks}  # fmt: skip
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

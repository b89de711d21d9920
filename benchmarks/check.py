"""The data check on many files: seconds, images per second and the most memory, for 100,000 images with masks.

    python benchmarks/check.py [--images 100000] [--different 1000] [--side 64] [--folder NEW] [--json FILE]

Writes street scenes of --side pixels, --different of them, and names each many times over by hard links; then runs
``segwright check`` on them as a process of its own. Reading goes through every name, so that a link costs what a file
of its own costs once it is in the page cache. Memory is the largest resident set of the check and, apart, that of the
largest of its child processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from subprocess import PIPE, Popen

import psutil

from segwright.demo.dataset import write_street_scenes


def lay_out(folder: Path, images: int, different: int, side: int) -> Path:
    """images/ and masks/ with that many pairs, of which so many differ."""
    made = folder / "made"
    if not made.exists():
        write_street_scenes(made, train=different, val=0, test=0, size=(side, side))
    originals = sorted((made / "images").rglob("*.png"))
    masks = [made / "masks" / path.relative_to(made / "images") for path in originals]
    root = folder / "data"
    root.mkdir()
    os.link(made / "classes.txt", root / "classes.txt")
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        place = number % len(originals)
        os.link(originals[place], root / "images" / f"{number:06d}.png")
        os.link(masks[place], root / "masks" / f"{number:06d}.png")
    return root


def watch(process: psutil.Process, peak: dict[str, float]) -> None:
    """Note the largest resident sets until the process ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            peak["check"] = max(peak["check"], process.memory_info().rss / 1e6)
            for child in process.children(recursive=True):
                peak["child"] = max(peak["child"], child.memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            pass
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--different", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where the data goes and stays; a temporary folder if left out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        root = folder / "data"
        if not root.exists():
            root = lay_out(folder, arguments.images, arguments.different, arguments.side)
        started, cpu = time.monotonic(), os.times()
        process = Popen([sys.executable, "-m", "segwright", "check", str(root)], stdout=PIPE, text=True)
        peak = {"check": 0.0, "child": 0.0}
        threading.Thread(target=watch, args=(psutil.Process(process.pid), peak), daemon=True).start()
        output = process.communicate()[0]
        spent = os.times()
        seconds = time.monotonic() - started
        processor = spent.children_user + spent.children_system - cpu.children_user - cpu.children_system
        print(output[-3000:])
        result = {"images": arguments.images, "seconds": round(seconds, 1), "cpu_seconds": round(processor, 1),
                  "images_a_second": round(arguments.images / seconds, 1), "peak_mb": peak}  # fmt: skip
        print(json.dumps(result))
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

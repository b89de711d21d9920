"""What a journal costs, and whether it can be left alone for hours.

    python benchmarks/journal.py [--rounds 25] [--threads 1] [--size 360x480] [--classes 11] [--networks unet]
    python benchmarks/journal.py --soak 20000

Per network: milliseconds of CPU time of this process (the journal's thread included, other processes not) for a
prediction and for the observed prediction with its row, in pairs whose order alternates; the median of the pairs'
ratios with its 95 % interval (bootstrap over pairs), and what the record takes alone. Needs no data: weights are
random, the image is a drawn street.

``--soak``: that many images are predicted by a small network and recorded, with files that become Parquet after 200
rows, a folder of 1 MB at most and every tenth image kept, and the journal is read every now and then. Printed are the
memory of the process and the bytes of the folder; the exit code is 1 if memory grows or the folder is larger than
allowed.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.inference.predictor import Predictor
from segwright.inference.torch_runtime import TorchRuntime
from segwright.models.catalog import create_model
from segwright.monitoring.journal import read_journal
from segwright.monitoring.recorder import JournalOptions, Recorder

SOAK_ROWS = 200  # per file
SOAK_BYTES = 1_000_000
SOAK_KEEP = 0.1  # of the images
SAMPLES = 25
GROWTH = 0.02  # of the memory after a fifth of the images that the rest may add: the allocator is not still
NETWORKS = {"leannet": {}, "unet": {"encoder": "resnet34"}}


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--soak", type=int, metavar="IMAGES")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.soak is not None:
        raise SystemExit(soak(given.soak))
    height, width = map(int, given.size.split("x"))
    image = draw_street("journal", (height, width))[0]
    print(f"{given.size}, {given.classes} classes, {given.threads} threads, {given.rounds} pairs; milliseconds")
    for name in given.networks:
        cost(name, image, given.classes, given.rounds)


def space_of(classes: int) -> LabelSpace:
    return LabelSpace(tuple(f"class {k}" for k in range(classes)))


def cost(name: str, image: np.ndarray, classes: int, rounds: int) -> None:
    """Print what a row of one network costs."""
    network = create_model(name, classes=classes, weights=None, **NETWORKS[name])
    predictor = Predictor(TorchRuntime(network, "cpu"), space_of(classes))
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(JournalOptions(folder), predictor, name)

        def plain() -> None:
            predictor.observed = False
            predictor.predict(image)

        def recorded() -> None:
            predictor.observed = True
            recorder.current.record(predictor.predict(image), recorder.next_id())

        def record_alone() -> None:
            recorder.current.record(found, recorder.next_id())

        for work in (plain, recorded, plain, recorded):
            work()
        predictor.observed = True
        found = predictor.predict(image)
        times: dict[str, list[float]] = {"plain": [], "recorded": [], "record": []}
        for number in range(rounds):
            pair = [("plain", plain), ("recorded", recorded)]
            for key, work in pair if number % 2 else reversed(pair):
                times[key].append(1e3 * seconds(work))
            times["record"].append(1e3 * seconds(record_alone))
        recorder.close()
        lost = recorder.writer.lost + recorder.failed
    low = {key: min(values) for key, values in times.items()}
    ratios = np.array(times["recorded"]) / np.array(times["plain"])
    drawn = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    below, above = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    print(
        f"{name:8} plain {low['plain']:7.2f} with a row {low['recorded']:7.2f}, fastest of both "
        f"{low['recorded'] / low['plain']:.3f}, median of pairs {np.median(ratios):.3f} (95 %: {below:.3f} to "
        f"{above:.3f}); the record alone {low['record']:.2f} = "
        f"{low['record'] / low['plain']:.1%}, median {statistics.median(times['record']):.2f}; {lost} rows lost",
        flush=True,
    )


# ---------------------------------------------------------------- hours, in minutes


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a folder; what is removed meanwhile does not count."""
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            continue
    return sum(sizes), len(sizes)


def soak(images: int) -> int:
    """Record ``images`` predictions; the exit code."""
    network = create_model("segnet_basic", classes=11, weights=None, width=4, in_channels=3)
    predictor = Predictor(TorchRuntime(network, "cpu"), space_of(11))
    drawn = [draw_street(f"{k}", (64, 96))[0] for k in range(20)]
    memory: list[int] = []
    largest = most_files = 0
    print(
        f"{images} images, at most {SOAK_BYTES} bytes\n| images | memory, MB | folder, MB | files |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(JournalOptions(folder, keep_images=SOAK_KEEP, max_size=SOAK_BYTES), predictor, "soak")
        recorder.writer.rotate_rows = SOAK_ROWS
        started = time.monotonic()
        for number in range(1, images + 1):
            recorder.current.record(predictor.predict(drawn[number % len(drawn)]), recorder.next_id())
            while len(recorder.writer._queue) > 200:  # faster than any service: the thread is given time
                time.sleep(0.01)
            if number % max(1, images // SAMPLES) == 0:
                read_journal(folder, max_rows=500)
                size, files = size_of(Path(folder))
                largest, most_files = max(largest, size), max(most_files, files)
                memory.append(resident())
                print(f"| {number} | {memory[-1] / 1e6:.1f} | {size / 1e6:.2f} | {files} |", flush=True)
        recorder.close()
        writer, took = recorder.writer, time.monotonic() - started
        lost = writer.lost + recorder.failed
    begun = memory[len(memory) // 5]
    growth = float(np.median(memory[-5:])) - begun
    print(
        f"{images} images in {took:.0f} s: {writer.written} rows, {lost} lost, {writer.kept_images} images kept, "
        f"{writer.removed_files} files removed; the folder had at most {largest / 1e6:.2f} MB in {most_files} files; "
        f"memory {begun / 1e6:.1f} MB after a fifth, {growth / 1e6:+.1f} MB since ({growth / begun:+.1%})"
    )
    return int(growth > GROWTH * begun or largest > SOAK_BYTES or lost > 0)


if __name__ == "__main__":
    main()

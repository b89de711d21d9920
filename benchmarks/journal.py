"""What a journal costs: predictions of one image with and without a row, interleaved in one process.

    python benchmarks/journal.py [--rounds 25] [--threads 1] [--size 360x480] [--classes 11]

Per network: milliseconds of CPU time of this process (the journal's thread included, other processes not) for a
prediction and for the observed prediction with its row; the ratio of their fastest rounds and of their medians; and
what the record takes alone. Needs no data: weights are random, the image is a drawn street.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch

from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.inference.predictor import Predictor
from segwright.inference.torch_runtime import TorchRuntime
from segwright.models.catalog import create_model
from segwright.monitoring.recorder import JournalOptions, Recorder

NETWORKS = {"leannet": {}, "unet": {"encoder": "resnet34"}}


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--classes", type=int, default=11)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    height, width = map(int, given.size.split("x"))
    image = draw_street("journal", (height, width))[0]
    space = LabelSpace(tuple(f"class {k}" for k in range(given.classes)))
    print(f"{given.size}, {given.classes} classes, {given.threads} threads, {given.rounds} rounds; milliseconds")
    for name, arguments in NETWORKS.items():
        network = create_model(name, classes=given.classes, weights=None, **arguments)
        predictor = Predictor(TorchRuntime(network, "cpu"), space)
        with tempfile.TemporaryDirectory() as folder:
            recorder = Recorder(JournalOptions(folder), predictor, name)

            def plain() -> None:
                predictor.observed = False  # noqa: B023
                predictor.predict(image)  # noqa: B023

            def recorded() -> None:
                predictor.observed = True  # noqa: B023
                found = predictor.predict(image)  # noqa: B023
                recorder.current.record(found, recorder.next_id())  # noqa: B023

            def record_alone() -> None:
                recorder.current.record(found, recorder.next_id())  # noqa: B023

            for work in (plain, recorded, plain, recorded):
                work()
            times: dict[str, list[float]] = {"plain": [], "recorded": [], "record": []}
            for _ in range(given.rounds):
                times["plain"].append(1e3 * seconds(plain))
                times["recorded"].append(1e3 * seconds(recorded))
                predictor.observed = True
                found = predictor.predict(image)
                times["record"].append(1e3 * seconds(record_alone))
            recorder.close()
            lost = recorder.writer.lost + recorder.failed
        low = {key: min(values) for key, values in times.items()}
        middle = {key: statistics.median(values) for key, values in times.items()}
        ratios = [low["recorded"] / low["plain"], middle["recorded"] / middle["plain"]]
        print(
            f"{name:8} plain {low['plain']:7.2f} with a row {low['recorded']:7.2f} ratio {ratios[0]:.3f} "
            f"(medians {middle['plain']:.2f}, {middle['recorded']:.2f}, {ratios[1]:.3f}); "
            f"the record {low['record']:.2f} = {low['record'] / low['plain']:.1%}; {lost} rows lost",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What feeding a device costs, and what compiling gains: the plan's own training step, on a GPU or on the CPU.

    python benchmarks/train_device.py [--data ../shared/data/camvid] [--device cuda] [--model auto] [--steps 60]

Updates per second of three kinds, taking turns in one process, medians over the rounds:

- *on the device*: batches that are there before the clock starts;
- *end to end*: files, decoding, augmentation, copying, the update: what ``segwright train`` does;
- *compiled*, and *compiled into CUDA graphs*: the first kind once more with ``torch.compile`` (``--compiled``).

The share of *end to end* in *on the device* is the figure: 90 % or more is wanted. The last phase of a plan for ten
minutes is measured, where images are largest.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from segwright.core.types import Batch
from segwright.data.dataset import open_dataset
from segwright.training.config import TrainConfig
from segwright.training.deterministic import deterministic_mode
from segwright.training.planning.cpu import prepare_cpu
from segwright.training.run import planned_trainer
from segwright.training.trainer import Trainer

WARM_UP = 10  # updates of every kind: kernels are chosen, memory is taken, images are decoded
HELD = 8  # batches on the device


def batches(run: Trainer) -> Iterator[Batch]:
    """The loader's, epoch after epoch."""
    phase = run.phases[-1]
    for epoch in itertools.count():
        yield from run.loader.batches(
            epoch=epoch,
            batch_size=phase.batch,
            transform=run.components.transforms[phase],
            pin=run.device.type == "cuda",
        )


def held_updates(run: Trainer) -> Callable[[], None]:
    """Updates from batches that are on the device."""
    held = []
    for batch in itertools.islice(batches(run), HELD):
        images, masks = (torch.from_numpy(array.copy()).to(run.device) for array in (batch.images, batch.masks))
        held.append(SimpleNamespace(images=images, masks=masks.long(), ids=batch.ids))
    in_turn = itertools.cycle(held)

    def update() -> None:
        run.update([next(in_turn)], 0.0, run.components.criterion, run.config.aux_weight)

    return update


def fed_updates(run: Trainer) -> Callable[[], None]:
    """Updates from files."""
    stream = batches(run)

    def update() -> None:
        run.update([next(stream)], 0.0, run.components.criterion, run.config.aux_weight)

    return update


def rate(update: Callable[[], None], device: torch.device, steps: int) -> float:
    """Updates per second."""
    began = time.perf_counter()
    for _ in range(steps):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also compiled, and compiled into CUDA graphs")
    options = parser.parse_args()
    prepare_cpu()
    values = {"model.name": options.model, "training.device": options.device, "training.minutes": 10.0}
    run = planned_trainer(open_dataset(options.data), TrainConfig().with_values(values))
    run.model.train()
    config, phase = run.components.config, run.phases[-1]
    print(f"{config.model.name} {config.model.arguments} in {config.training.precision} on {run.device}: {phase}")
    kinds = {"on the device": held_updates(run), "end to end": fed_updates(run)}
    with deterministic_mode(run.device, deterministic=False):
        compare(kinds, run, options)
        for mode in ("default", "reduce-overhead") if options.compiled else ():
            run.update.forward = torch.compile(run.model, mode=mode, dynamic=False)
            compare({f"compiled, {mode}": kinds["on the device"]}, run, options)


def compare(kinds: dict[str, Callable[[], None]], run: Trainer, options: argparse.Namespace) -> None:
    """Print the rates of ``kinds``, round by round in turns, and each one's share of the first."""
    for update in kinds.values():
        rate(update, run.device, WARM_UP)
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, update in kinds.items():
            rates[name].append(rate(update, run.device, options.steps))
    first = next(iter(rates.values()))
    for name, found in rates.items():
        share = statistics.median(one / base for one, base in zip(found, first, strict=True))
        images = statistics.median(found) * run.phases[-1].batch
        print(f"{name:26} {statistics.median(found):8.2f} updates/s {images:9.1f} images/s {share:7.1%}")


if __name__ == "__main__":
    main()

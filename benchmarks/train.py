"""The training step end to end, files to updated weights, beside the peers: the same U-Net at 352×480.

    python benchmarks/train.py [--data ../shared/data/camvid] [--batch 8] [--rounds 5] [--steps 2] [--threads 2]

Contestants: ours (the loader, a preset, ``create_model``, ``create_loss`` and the step of ``segwright train``),
segmentation_models_pytorch trained as in its CamVid notebook, the same made fast by hand, torchvision's reference loop,
and, with ``--ultralytics data.yaml`` and the package installed, ultralytics' trainer.

Every contestant lives in a process of its own (our memory settings must not help the peers), and they take turns:
round by round, each takes ``--steps`` updates while the others wait. A machine that is busy or throttled in between
slows all alike, and the ratio of a round is a fair one; medians over rounds are printed. CPU seconds (the process, its
threads and workers) are printed beside wall seconds: on a machine with neighbors they are the steadier figure.
``--notebook-batch 32`` gives the notebook's loop the batch that it was published with (some 12 GB).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
PEERS = {
    "smp, notebook": "peer_smp_notebook",
    "smp, by hand": "peer_smp_tuned",
    "torchvision reference": "peer_torchvision_reference",
}
SIZE = (352, 480)
WARM_UP = 3  # updates of every contestant before the first round


def ours(data: Path, batch: int) -> Callable[[], int]:
    """One update per call, with the parts that ``segwright train`` is made of."""
    from segwright.training.planning.cpu import prepare_cpu

    prepare_cpu()
    import torch

    from segwright.augment import presets
    from segwright.data.dataset import open_dataset
    from segwright.data.loading.loader import Loader
    from segwright.losses.catalog import create_loss
    from segwright.models.catalog import create_model
    from segwright.training.planning.timing import choose_precision
    from segwright.training.train_step import TrainStep

    split = open_dataset(data).train
    classes = split.label_space.classes
    model = create_model("unet", classes=classes, encoder="mobilenetv2_100", weights=None).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    loss = create_loss("ce", classes=classes)

    def probe(precision: str) -> float:
        from segwright.training.planning.timing import seconds_per_step

        trial = TrainStep(model, optimizer, precision=precision)
        first = next(iter(loader.batches(epoch=0, batch_size=batch, transform=transform)))
        return seconds_per_step(lambda: trial([first], 0.0, loss, 0.4), repeats=2)

    loader = Loader(split, seed=0, workers=1)
    transform = presets.training(size=SIZE, scale=(0.6, 1.6))
    step = TrainStep(model, optimizer, precision=choose_precision("cpu", probe)[0])
    state = {"epoch": 0, "batches": loader.batches(epoch=0, batch_size=batch, transform=transform)}

    def update() -> int:
        item = next(state["batches"], None)  # type: ignore[call-overload]
        if item is None:
            state["epoch"] += 1  # type: ignore[operator]
            state["batches"] = loader.batches(epoch=state["epoch"], batch_size=batch, transform=transform)  # type: ignore[arg-type]
            item = next(state["batches"])  # type: ignore[call-overload]
        step([item], 0.0, loss, 0.4)
        return batch

    return update


def cpu_seconds() -> float:
    """Of this process and everything that it started and that still runs."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [me, *me.children(recursive=True)])


def serve(name: str, data: Path, batch: int, threads: int) -> None:
    """A contestant: builds itself, then takes as many updates as each line of stdin states."""
    build = ours if name == "segwright" else importlib.import_module(PEERS[name]).contestant
    if name == "segwright":
        from segwright.training.planning.cpu import prepare_cpu

        prepare_cpu()  # before torch
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    step = build(data, batch)
    for _ in range(WARM_UP):  # they allocate, compile, and fill the pipelines
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu, count = time.perf_counter(), cpu_seconds(), 0
        for _ in range(int(line)):
            count += step()
        print(json.dumps([count, time.perf_counter() - wall, cpu_seconds() - cpu]), flush=True)


def run_alone(build: Callable[[Path, int], Callable[[], int]], steps: int = 5) -> None:
    """For a peer's script called by itself."""
    step = build(HERE.parent.parent / "shared/data/camvid", 4)
    step()
    started = time.perf_counter()
    count = sum(step() for _ in range(steps))
    print(f"{count / (time.perf_counter() - started):.2f} images per second")


def compare(names: list[str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median images per second by wall and by CPU clock, and the ratios of ours to each peer, round by round."""
    processes = {}
    for name in names:
        command = [sys.executable, __file__, "--serve", name, "--data", str(options.data)]
        batch = options.notebook_batch if name == "smp, notebook" and options.notebook_batch else options.batch
        command += ["--batch", str(batch), "--threads", str(options.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        processes[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE
        )
        # One after the other: while one builds itself the others would only disturb it.
        assert processes[name].stdout.readline().strip() == "ready", f"{name} did not start"  # type: ignore[union-attr]
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    try:
        for _ in range(options.rounds):
            for name, process in processes.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(f"{options.steps}\n")
                process.stdin.flush()
                count, wall, cpu = json.loads(process.stdout.readline())
                rounds[name].append((count / wall, count / cpu))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    result = {}
    for name, values in rounds.items():
        pairs = list(zip(rounds["segwright"], values, strict=True))
        result[name] = {
            "images per second": statistics.median(wall for wall, _ in values),
            "images per CPU second": statistics.median(cpu for _, cpu in values),
            "ours / it": statistics.median(own[0] / it[0] for own, it in pairs),
            "ours / it, CPU": statistics.median(own[1] / it[1] for own, it in pairs),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data/camvid")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--notebook-batch", type=int, help="for the notebook's loop alone; 32 is its own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="updates per round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(PEERS), help=f"peers, of: {', '.join(PEERS)}")
    parser.add_argument("--ultralytics", type=Path, help="its data.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = options.data.resolve()
    if options.serve:
        serve(options.serve, options.data, options.batch, options.threads)
        return
    result = compare(["segwright", *options.only], options)
    for name, figures in result.items():
        print(f"{name:24s}" + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))
    if options.ultralytics:
        import peer_ultralytics

        found = peer_ultralytics.rate(options.ultralytics, options.batch)
        print(f"ultralytics: {'not installed' if found is None else f'{found:.2f} images per second'}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

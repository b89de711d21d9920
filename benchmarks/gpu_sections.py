"""The sections of ``benchmarks/gpu.py``, each in a process of its own: what one cannot harm the others.

A section prepares itself (imports, data, kernels compiled), prints a line, and waits for the seconds it may take on
standard input. What it finds it writes to its JSON file as soon as it is found.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
DEVICE = torch.device("cuda", 0)


class Record:
    """A section's findings: a JSON file that is whole at every moment, and a printed line per finding."""

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.monotonic()
        self.found: dict[str, Any] = {}

    def put(self, **found: Any) -> None:
        self.found.update(found)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1, default=str))
        os.replace(partial, self.path)
        for key, value in found.items():
            self.message(f"{key}: {value}")

    def message(self, line: str) -> None:
        print(f"[{self.path.stem} {time.monotonic() - self.began:6.1f} s] {line[:400]}", flush=True)


def wait_for_start(record: Record) -> float:
    """Report that the section is prepared; returns the seconds that it is then given."""
    record.put(prepared_seconds=round(time.monotonic() - record.began, 1), device=torch.cuda.get_device_name())
    line = sys.stdin.readline()
    record.began = time.monotonic()
    return float(line) if line.strip() else 0.0


def rate(work: Callable[[], object], steps: int) -> float:
    """Calls per second of ``work``, the device's part included."""
    began = time.perf_counter()
    for _ in range(steps):
        work()
    torch.cuda.synchronize()
    return steps / (time.perf_counter() - began)


def rates(work: dict[str, Callable[[], object]], seconds: float, *, rounds: int = 5) -> dict[str, list[float]]:
    """Calls per second of each, in turns, ``rounds`` times in about ``seconds`` in all."""
    pace = {name: rate(one, 2) for name, one in work.items()}
    share = seconds / rounds / len(work)
    found: dict[str, list[float]] = {name: [] for name in work}
    for _, (name, one) in itertools.product(range(rounds), work.items()):
        found[name].append(rate(one, max(2, int(share * pace[name]))))
    return found


# -- (b) equal seeds, equal weights ------------------------------------------------------------------------------------


def deterministic(options: argparse.Namespace, record: Record) -> None:
    """Two trainings with ``deterministic`` and one seed, compared byte by byte; and two without, to compare."""
    import segwright as sw
    from segwright.demo.dataset import write_street_scenes

    # 9 classes in small images: seconds per training, and every kind of layer of the planned network.
    size, count = ((64, 96), 8) if options.rehearse else ((128, 192), 48)
    folder = Path(tempfile.mkdtemp())
    data = write_street_scenes(folder / "scenes", train=count, val=4, test=1, size=size)
    settings = {"model.name": "leannet", "model.arguments": {"variant": "small"}}
    if options.rehearse:
        narrow = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}
        settings["model.arguments"] = narrow
    seconds = wait_for_start(record)
    for label, fixed in (("deterministic", True), ("fastest kernels", False)):
        weights = []
        for turn in ("first", "second"):
            out = folder / f"{label} {turn}"
            began = time.monotonic()
            sw.train(data, epochs=2, device="cuda", deterministic=fixed, out=out, settings=settings)
            weights.append((out / "model" / "model.safetensors").read_bytes())
            record.put(**{f"{label}, {turn} training, seconds": round(time.monotonic() - began, 1)})
        record.put(**{f"{label}: bit-equal weights": weights[0] == weights[1]})
        if time.monotonic() - record.began > seconds / 2:
            return


# -- (c) feeding from files --------------------------------------------------------------------------------------------


def feeding(options: argparse.Namespace, record: Record) -> None:
    """The planned training step fed from files, beside one whose batches are on the device already."""
    from train_device import fed_updates, held_updates

    from segwright.data.dataset import open_dataset
    from segwright.training.config import TrainConfig
    from segwright.training.deterministic import deterministic_mode
    from segwright.training.run import planned_trainer

    values: dict[str, Any] = {"training.device": "cuda", "training.minutes": 10.0, "model.name": "leannet"}
    if options.rehearse:
        narrow = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}
        values |= {"model.arguments": narrow, "training.batch": 2}
    run = planned_trainer(open_dataset(options.data), TrainConfig().with_values(values))
    run.model.train()
    config, phase = run.components.config, run.phases[-1]
    work = {"on the device": held_updates(run), "from files": fed_updates(run)}
    with deterministic_mode(DEVICE, deterministic=False):
        for one in work.values():
            rate(one, 3)
        for _ in range(0 if options.rehearse else 2 * len(run.components.train) // phase.batch):
            work["from files"]()  # two epochs: every image is decoded and kept
        record.put(
            network=f"{config.model.name} {dict(config.model.arguments)}",
            step=f"batch {phase.batch} at {phase.size[0]}×{phase.size[1]}, {config.training.precision}",
            workers=config.training.workers,
            goal="at least 90 %",
        )
        seconds = wait_for_start(record)
        found = rates(work, 0.75 * seconds)
    for name, values_found in found.items():
        record.put(**{f"{name}, images/s": round(statistics.median(values_found) * phase.batch, 1)})
    shares = [a / b for a, b in zip(found["from files"], found["on the device"], strict=True)]
    record.put(share=round(statistics.median(shares), 4), shares=[round(s, 3) for s in shares])


# -- (d) CUDA graphs ---------------------------------------------------------------------------------------------------


def graphs(options: argparse.Namespace, record: Record) -> None:
    """Forward, loss and backward launched kernel by kernel, and replayed as one CUDA graph."""
    from gpu_camvid import Recipe, build_network, random_batch

    from segwright.losses import create_loss

    recipe = Recipe.of(options.rehearse)
    small = dict(recipe.network) if options.rehearse else {"variant": "small"}
    cases = {"the CamVid network": (recipe.network, recipe.batch), "LeanNet small, batch 8": (small, 8)}
    torch.backends.cudnn.benchmark = True
    prepared = {}
    for name, (arguments, batch) in cases.items():
        network = build_network(arguments, 11, DEVICE).train()
        criterion = create_loss("ce(smoothing=0.05)", classes=11).to(DEVICE)
        images, masks = random_batch(batch, recipe.size, 11, DEVICE)

        def work(
            network: Any = network, criterion: Any = criterion, images: torch.Tensor = images, masks: Any = masks
        ) -> torch.Tensor:
            network.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                logits, _ = network(images)
            loss: torch.Tensor = criterion(logits, masks)
            loss.backward()
            return loss

        rate(work, 3)
        prepared[name] = work
    seconds = wait_for_start(record)
    for name, work in prepared.items():
        if options.rehearse:
            record.put(**{f"{name}, steps/s": round(rate(work, 3), 2), "graphs": "not on a pretended device"})
            continue
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = work()
        graph.replay()
        if not bool(torch.isfinite(loss)):
            record.put(**{f"{name}: loss of the replay": float(loss)})
        found = rates({"launched": work, "replayed": graph.replay}, 0.3 * seconds, rounds=3)
        medians = {kind: statistics.median(values) for kind, values in found.items()}
        record.put(
            **{
                f"{name}, launched, steps/s": round(medians["launched"], 2),
                f"{name}, replayed, steps/s": round(medians["replayed"], 2),
                f"{name}, gain": round(medians["replayed"] / medians["launched"], 3),
            }
        )


# -- (e) the dense CRF -------------------------------------------------------------------------------------------------


def crf(options: argparse.Namespace, record: Record) -> None:
    """Ten iterations with DeepLab v1's parameters on CamVid images: milliseconds and labels, GPU against CPU."""
    from segwright.data.dataset import open_dataset
    from segwright.postprocess.crf import DenseCRF

    split = open_dataset(options.data).val
    cases = [_soft_labels(split[index].image, split[index].mask, seed=index) for index in range(0, len(split), 20)]
    field = DenseCRF.preset("deeplab-v1")
    image, probabilities = cases[0]
    field(image[:96, :96], np.ascontiguousarray(probabilities[:, :96, :96]))  # compiles the CPU's kernels
    on_device = [(torch.from_numpy(i).to(DEVICE), torch.from_numpy(p).to(DEVICE)) for i, p in cases]
    field(*on_device[0])
    torch.cuda.synchronize()
    seconds = wait_for_start(record)
    here: list[float] = []
    there: list[float] = []
    equal, off = [], []
    for (image, probabilities), tensors in zip(cases, on_device, strict=True):
        began = time.perf_counter()
        expected = field(image, probabilities)
        here.append(time.perf_counter() - began)
        for _ in range(2):
            torch.cuda.synchronize()
            began = time.perf_counter()
            found = field(*tensors)
            torch.cuda.synchronize()
            there.append(time.perf_counter() - began)
        labels = found.cpu().numpy()
        equal.append(float((labels.argmax(0) == expected.argmax(0)).mean()))
        off.append(float(np.abs(labels - expected).mean()))
        if time.monotonic() - record.began > 0.7 * seconds:
            break
    size, threads = f"{image.shape[1]}×{image.shape[0]}", os.cpu_count()
    record.put(
        **{
            "images": f"{len(equal)} of {size}, {len(probabilities)} classes, 10 iterations",
            "GPU, ms (median)": round(1000 * statistics.median(there), 1),
            f"CPU, ms (median, {threads} cores)": round(1000 * statistics.median(here), 1),
            "equal labels, share (lowest)": round(min(equal), 6),
            "mean difference of marginals (largest)": f"{max(off):.1e}",
        }
    )
    batch = 4 if len(on_device) >= 4 else len(on_device)
    images = torch.stack([image for image, _ in on_device[:batch]])
    several = torch.stack([p for _, p in on_device[:batch]])
    field(images, several)
    record.put(
        **{f"GPU, batch of {batch}, ms per image": round(1000 / rate(lambda: field(images, several), 2) / batch, 1)}
    )


def _soft_labels(image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, H, W) as a coarse network gives them: blurred, noisy ground truth."""
    classes = 11
    noise = np.random.default_rng(seed).random((45, 60, classes)).astype(np.float32)
    coarse = np.stack([cv2.resize(noise[..., k], mask.shape[::-1]) for k in range(classes)], axis=2)
    truth = np.eye(classes, dtype=np.float32)[np.minimum(mask, classes - 1)]
    soft = cv2.GaussianBlur(truth, (0, 0), 8) + 0.3 * coarse
    return image, np.ascontiguousarray((soft / soft.sum(axis=2, keepdims=True)).transpose(2, 0, 1))


# ----------------------------------------------------------------------------------------------------------------------


def _camvid(options: argparse.Namespace, record: Record) -> None:
    from gpu_camvid import camvid

    camvid(options, record, lambda: wait_for_start(record))


SECTIONS: dict[str, Callable[[argparse.Namespace, Record], None]] = {
    "deterministic": deterministic,
    "feeding": feeding,
    "graphs": graphs,
    "crf": crf,
    "camvid": _camvid,
}


@contextlib.contextmanager
def device(rehearse: bool) -> Iterator[None]:
    """The machine's own GPU, or for a rehearsal the one that the tests pretend."""
    if not rehearse:
        yield
        return
    torch.set_num_threads(1)  # several sections prepare themselves at once, perhaps on few cores
    sys.path.insert(0, str(HERE.parent / "tests"))
    from pretend_cuda import pretended_gpu

    with pretended_gpu():
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the section's JSON file")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="camvid: do not try torch.compile")
    parser.add_argument("--compile-seconds", type=float, default=75.0)
    options = parser.parse_args()
    record = Record(options.out)
    try:
        with device(options.rehearse):
            SECTIONS[options.section](options, record)
    except BaseException as error:
        record.put(error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()[-3000:])
        return 1
    record.put(finished=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

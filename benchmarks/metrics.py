"""The pooled confusion matrix against torchmetrics' and against numpy's bincount, in one run.

    python benchmarks/metrics.py [--rounds 15] [--threads 2] [--json FILE]

12 classes, 8 masks of 360×480 in uint8, one tenth of the rows ignored. Two kinds of masks: every pixel at random (the
worst case) and smooth regions with scattered errors (as networks predict). All take turns within each round, so that
what else the machine does falls on all of them; the best round of each counts. torchmetrics runs as it comes, which
checks its arguments, and with validate_args=False, on uint8 and on int64 tensors; the ratio is against its fastest.
Then the CPU time per image of the other figures of an evaluation, on the smooth masks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from segwright.metrics.boundary import BFScore, BoundaryIoU, TrimapCurve
from segwright.metrics.calibration import Calibration
from segwright.metrics.confusion import ConfusionMatrix

CLASSES, SHAPE = 12, (8, 360, 480)


def masks(kind: str) -> tuple[Any, Any]:
    """Prediction and ground truth, uint8."""
    rng = np.random.default_rng(0)
    if kind == "random":
        target = rng.integers(0, CLASSES, SHAPE).astype(np.uint8)
        prediction = rng.integers(0, CLASSES, SHAPE).astype(np.uint8)
    else:
        coarse = rng.normal(size=(SHAPE[0], 45, 60, CLASSES)).astype(np.float32)
        size = (SHAPE[2], SHAPE[1])
        layers = [
            [cv2.resize(image[..., k], size, interpolation=cv2.INTER_CUBIC) for k in range(CLASSES)] for image in coarse
        ]
        target = np.array(layers).argmax(1).astype(np.uint8)
        wrong = rng.random(SHAPE) < 0.1
        prediction = np.where(wrong, rng.integers(0, CLASSES, SHAPE), target).astype(np.uint8)
    target[:, :36] = 255
    return prediction, target


def bincount(prediction: Any, target: Any) -> Any:
    valid = target != 255
    codes = target[valid].astype(np.int64) * CLASSES + prediction[valid]
    return np.bincount(codes, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def contenders(prediction: Any, target: Any) -> dict[str, Callable[[], Any]]:
    def ours() -> Any:
        matrix = ConfusionMatrix(CLASSES)
        matrix.update(prediction, target)
        return matrix.matrix

    found: dict[str, Callable[[], Any]] = {"segwright": ours, "numpy bincount": lambda: bincount(prediction, target)}
    for check in (True, False):
        for dtype in (torch.uint8, torch.int64):
            p, t = torch.from_numpy(prediction).to(dtype), torch.from_numpy(target).to(dtype)

            def theirs(p: Any = p, t: Any = t, check: bool = check) -> Any:
                metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255, validate_args=check)
                metric.update(p, t)
                return metric.confmat.numpy()

            name = str(dtype).removeprefix("torch.")
            found[f"torchmetrics {name}" + ("" if check else ", unchecked")] = theirs
    return found


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, the best of ``rounds``; equal results first."""
    results = {name: run() for name, run in runs.items()}
    for name, matrix in results.items():
        assert np.array_equal(matrix, results["numpy bincount"]), f"{name} counts differently"
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - started))
    return best


def figures(prediction: Any, target: Any, rounds: int) -> dict[str, float]:
    """CPU milliseconds per image of the figures beside the class counts, the best of ``rounds``."""
    confidence = np.random.default_rng(0).random(SHAPE[1:], np.float32)
    calibration = Calibration()
    runs: dict[str, Callable[[Any, Any], Any]] = {
        "boundary IoU": BoundaryIoU(CLASSES).update,
        "BF score": BFScore(CLASSES).update,
        "mIoU near borders": TrimapCurve(CLASSES).update,
        "calibration": lambda p, t: calibration.update(confidence, p, t),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time()
            for p, t in zip(prediction, target, strict=True):
                run(p, t)
            best[name] = min(best[name], 1e3 * (time.process_time() - started) / len(target))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {}
    for kind in ("random", "smooth"):
        best = measure(contenders(*masks(kind)), options.rounds)
        report[kind] = best
        print(f"{kind} masks, {CLASSES} classes, {SHAPE[0]}×{SHAPE[1]}×{SHAPE[2]}")
        for name, milliseconds in sorted(best.items(), key=lambda item: item[1]):
            print(f"  {name:34s} {milliseconds:9.3f} ms  {milliseconds / best['segwright']:8.1f} × ours")
        fastest = min(ms for name, ms in best.items() if name.startswith("torchmetrics"))
        plain = best["torchmetrics uint8"]
        report[f"{kind} ratio"] = {"as it comes": plain / best["segwright"], "fastest": fastest / best["segwright"]}
    report["figures"] = figures(*masks("smooth"), options.rounds)
    print("figures, per image: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in report["figures"].items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

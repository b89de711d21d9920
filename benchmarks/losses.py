"""Forward and backward of the losses on a CPU, against torch's own operations and segmentation_models_pytorch's losses.

    python benchmarks/losses.py [--rounds 5] [--threads 2] [--json FILE]

8×11×352×480 fp32 logits in both memory formats, uint8 targets with a tenth ignored. All take turns within each round;
the best round counts, in CPU time of the whole process too, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from segwright.losses import create_loss

SHAPE = (8, 11, 352, 480)


def contenders(logits: Any, target: Any) -> dict[str, dict[str, Callable[[], Any]]]:
    """Group → name → loss value."""
    ce, smooth = create_loss("ce", classes=11), create_loss("ce(smoothing=0.05)", classes=11)
    dice, both = create_loss("dice", classes=11), create_loss("ce+dice", classes=11)
    smp_dice = smp.losses.DiceLoss("multiclass", ignore_index=255)

    def torch_ce(smoothing: float = 0.0) -> Any:
        return F.cross_entropy(logits, target.long(), ignore_index=255, label_smoothing=smoothing)

    return {
        "ce": {"segwright": lambda: ce(logits, target), "torch": torch_ce},
        "ce(smoothing=0.05)": {"segwright": lambda: smooth(logits, target), "torch": lambda: torch_ce(0.05)},
        "dice": {"segwright": lambda: dice(logits, target), "smp": lambda: smp_dice(logits, target.long())},
        "ce+dice": {
            "segwright": lambda: both(logits, target),
            "torch + smp": lambda: torch_ce() + smp_dice(logits, target.long()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    target = torch.randint(0, SHAPE[1], (SHAPE[0], *SHAPE[2:]), dtype=torch.uint8)
    target[:, :35] = 255
    report: dict[str, Any] = {}
    for name, layout in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        logits = torch.randn(SHAPE).contiguous(memory_format=layout).requires_grad_()
        for group, runs in contenders(logits, target).items():
            best: dict[str, list[float]] = {who: [float("inf"), float("inf")] for who in runs}
            for turn in range(options.rounds + 1):
                for who, run in runs.items():
                    logits.grad = None
                    wall, cpu = time.perf_counter(), time.process_time()
                    run().backward()
                    spent = [1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)]
                    if turn:  # the first round compiles and warms up
                        best[who] = [min(a, b) for a, b in zip(best[who], spent, strict=True)]
            ours = best["segwright"]
            report[f"{name} {group}"] = best
            for who, (wall, cpu) in best.items():
                ratios = "" if who == "segwright" else f"  {wall / ours[0]:5.2f} × ours, CPU {cpu / ours[1]:5.2f} ×"
                print(f"{name:14s} {group:20s} {who:12s} {wall:8.1f} ms, CPU {cpu:8.1f} ms{ratios}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

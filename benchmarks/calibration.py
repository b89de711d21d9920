"""Temperature scaling with a drive left out: fitted on one drive, judged on another.

    python benchmarks/calibration.py RUN FIT_DATA JUDGE_DATA [--fit-split val] [--judge-split val] [--every 1]

RUN is a model that saw no image of either split. The temperature is found on FIT_DATA as after a training, folded
into the weights whether or not it would be kept, and both models are scored on JUDGE_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import segwright as sw
from segwright.evaluation.evaluate import evaluate
from segwright.evaluation.temperature import find_scale, fit_temperature, scale_logits
from segwright.inference.bundle import load_bundle
from segwright.inference.predictor import Predictor, find_bundle

FIGURES = ("ece", "nll", "brier", "classwise_ece")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("fit", type=Path)
    parser.add_argument("judge", type=Path)
    parser.add_argument("--fit-split", default="val")
    parser.add_argument("--judge-split", default="val")
    parser.add_argument("--every", type=int, default=1, help="judge on every n-th image")
    arguments = parser.parse_args()
    network, bundle = load_bundle(find_bundle(arguments.run))
    predictor = Predictor.from_model(network, bundle.label_space, "cpu")
    fit = sw.open_dataset(arguments.fit).splits[arguments.fit_split]
    judge = sw.open_dataset(arguments.judge).splits[arguments.judge_split]
    judge = judge.subset(list(range(0, len(judge), arguments.every)), judge.name)
    before = evaluate(predictor, judge, probabilities=True)
    found = fit_temperature(predictor, network, fit, message=print)
    if not found.kept:
        weights = find_scale(network)
        assert weights is not None
        scale_logits(weights, 1 / found.temperature)
    after = evaluate(predictor, judge, probabilities=True)
    print(f"fitted on {found.images} images, judged on {before.images}, over {before.independent}")
    for name in FIGURES:
        (a, (b, c)), (d, (e, f)) = ((x.figures[name], x.interval(name)) for x in (before, after))
        print(f"{name:14} {a:.4f} ({b:.4f} to {c:.4f}) -> {d:.4f} ({e:.4f} to {f:.4f})")
    print(f"labels changed: {int(abs(before.matrix - after.matrix).sum())}; mIoU {before.miou:.4f} {after.miou:.4f}")


if __name__ == "__main__":
    main()

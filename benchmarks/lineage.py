"""Every network of the catalog, trained for the same small budget on CamVid from scratch: do they learn?

    python benchmarks/lineage.py --data ../shared/data/camvid --minutes-each 2 --out lineage
    python benchmarks/lineage.py --models unet,ddrnet,fcn8s --minutes-each 5

One network at a time in a process of its own, each result written to ``OUT/NAME.json`` as soon as it is there; run
again, and those that are done are passed over. ``OUT/lineage.md`` is the table: val mIoU (one pooled confusion matrix),
seconds per epoch, peak memory. The row "class priors" is what the most frequent class everywhere scores; none may fall
below it.

The product trains them: ``segwright train DATA --model NAME --weights none --minutes M``, with the plan that it makes
for each network (written beside the figures), its crops, losses, averages and final scoring. Where its minutes were not
enough to score all validation images, ``segwright evaluate`` scores them after it. Minutes are of wall clock, so the
table of a busy machine is a worse one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

import segwright as sw
from segwright.core.errors import SegwrightError
from segwright.metrics.confusion import ConfusionMatrix
from segwright.models.catalog import CATALOG, parameters_of

SHOWN = ("model.arguments", "training.optimizer", "training.lr", "training.batch", "training.size")


def prior_miou(data: sw.Dataset) -> float:
    """What the most frequent class of the training masks scores everywhere on the validation part."""
    classes = data.label_space.classes
    counts = np.zeros(256, np.int64)
    for index in range(len(data.train)):
        counts += np.bincount(data.train.read_mask(index).ravel(), minlength=256)
    prior = ConfusionMatrix(classes)
    for index in range(len(data.val)):
        mask = data.val.read_mask(index)
        prior.update(np.full_like(mask, counts[:classes].argmax()), mask)
    return float(prior.scores().miou)


def train(name: str, options: argparse.Namespace) -> dict[str, object]:
    """One network for ``minutes_each``, as the command line trains it."""
    data = sw.open_dataset(options.data)
    run = sw.train(
        data, model=name, minutes=options.minutes_each, weights=None, seed=options.seed, device=options.device,
        out=options.out / "runs" / name,
    )  # fmt: skip
    decisions = {entry.setting: entry.value for entry in run.plan.entries}
    evaluation = run.evaluation
    if evaluation is None or len(evaluation.ids) < len(data.val):
        evaluation = sw.evaluate(run.folder, data, split="val", device=options.device)
    epochs = run.progress.samples / len(data.train)
    return {
        "name": name,
        "miou": evaluation.miou,
        "images": len(evaluation.ids),
        "prior_miou": prior_miou(data),
        "steps": run.progress.step,
        "epochs": epochs,
        "seconds_per_epoch": run.progress.seconds / epochs,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": parameters_of(name, classes=data.label_space.classes),
        "plan": ", ".join(f"{key}={decisions[key]}" for key in SHOWN if key in decisions),
        "minutes": options.minutes_each,
    }


def table(folder: Path) -> str:
    """The markdown table of everything that is done, best first."""
    rows = sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda row: -row["miou"])
    lines = [
        "| network | val mIoU | parameters | steps | epochs | seconds per epoch | peak memory (MiB) | plan |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['miou'] * 100:.1f} | {row['parameters'] / 1e6:.2f} M | {row['steps']} "
            f"| {row['epochs']:.1f} | {row['seconds_per_epoch']:.0f} | {row['peak_mib']:.0f} | {row['plan']} |"
        )
    if rows:
        lines.append(f"| class priors | {rows[0]['prior_miou'] * 100:.1f} | | | | | | |")
    return "\n".join(lines) + "\n"


def apart(name: str, options: argparse.Namespace) -> str:
    """Train ``name`` in a process of its own (its peak memory is its own); returns the name if it failed."""
    print(f"{name}: {options.minutes_each:g} minutes", file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name]).returncode
    if code:
        print(f"{name}: failed ({code})", file=sys.stderr, flush=True)
    (options.out / "lineage.md").write_text(table(options.out))
    return name if code else ""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="train every network of the catalog for the same budget on CamVid")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    parser.add_argument("--models", default=",".join(CATALOG), help="names, separated by commas")
    parser.add_argument("--minutes-each", type=float, default=4.0, help="of wall clock, per network")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lineage"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # train this one here: the child process of a run
    return parser.parse_args()


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        try:
            result = train(options.one, options)
        except SegwrightError as error:
            print(error, file=sys.stderr)
            return 1
        (options.out / f"{options.one}.json").write_text(json.dumps(result, indent=1))
        return 0
    names = [name for name in options.models.split(",") if not (options.out / f"{name}.json").exists()]
    failed = [failure for name in names if (failure := apart(name, options))]
    print(table(options.out))
    rows = [json.loads(file.read_text()) for file in options.out.glob("*.json")]
    failed += [row["name"] for row in rows if row["miou"] <= row["prior_miou"]]
    if failed:
        print(f"not better than the class priors, or failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Training judged on drives that were never seen: each drive of a dataset in CamVid's layout left out once.

    python benchmarks/drives.py ../shared/data/camvid --epochs 36
    python benchmarks/drives.py ../shared/data/camvid --minutes 20 --only 0006R0
    python benchmarks/drives.py ../shared/data/camvid --who scratch --out runs --judge

Per drive (the part of a file's name before the first ``_``) a dataset is made of links: the others' training images
train, the drive's are the validation. Every contender is ``segwright train`` in a process of its own, one after
another: **planned** with no other flag, which takes pretrained weights where they can be had, and **scratch** with
``--weights none``. Scored is the last model of a run (``RUN/last``), which was not chosen on the drive left out. Prints
a Markdown table with 95 % intervals; ``--out`` keeps the runs, and one that is there already is not trained again.

``--judge`` judges everything else on the same drives, with the models of the last contender: scores with calibration,
slices and all corruptions (``segwright evaluate``, a page per drive beside the run), the uncertainty and the
error model, likely label errors, drift and the accuracy without labels, each by its own benchmark beside this one
(names after ``--judge`` choose among them). Where the dataset's ``val`` is of the drive left out, the last quarter of
each other drive is not trained on: it is the reference that drift is judged against.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

CONTENDERS = {"planned": [], "scratch": ["--weights", "none"]}
JUDGES = ("evaluation", "uncertainty", "label_errors", "monitoring")
HELD = 4  # one of so many frames of a drive is held out as a reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="drives")
    parser.add_argument("--who", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--set", action="append", default=[], help="section.key=value of every training")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--judge", nargs="*", choices=JUDGES, help="benchmarks, all if none is named; needs --out")
    parser.add_argument("--every", type=int, default=1, help="with --judge: every n-th image")
    given = parser.parse_args()
    if given.judge is not None and given.out is None:
        parser.error("--judge reads the runs again: name a folder for them with --out")
    budget = ["--epochs", str(given.epochs or 36)] if given.minutes is None else ["--minutes", str(given.minutes)]
    asked = [text for value in given.set for text in ("--set", value)]
    with tempfile.TemporaryDirectory() as kept:
        out = given.out or Path(kept)
        names = sorted(path.name for path in (given.data / "train").iterdir())
        of_val = (
            {drive(path.name) for path in (given.data / "val").iterdir()} if (given.data / "val").is_dir() else set()
        )
        drives = given.only or sorted({drive(name) for name in names})
        print(f"| who | {' | '.join(drives)} | mean | seconds |\n|---|{'---|' * (len(drives) + 2)}")
        for who in given.who:
            scores, cells, started = [], [], time.monotonic()
            for left_out in drives:
                tree = out / f"without-{left_out}"
                if not tree.exists():
                    held = out / f"held-{left_out}" if left_out in of_val else None
                    link(given.data, names, left_out, tree, held)
                score = train(
                    tree, out / f"{who}-{left_out}", [*budget, "--seed", str(given.seed), *CONTENDERS[who], *asked]
                )
                scores.append(score["miou"])
                cells.append(f"{score['miou']:.3f} ({score['low']:.3f} to {score['high']:.3f})")
            seconds = time.monotonic() - started
            print(f"| {who} | {' | '.join(cells)} | {fmean(scores):.3f} | {seconds:.0f} |", flush=True)
        if given.judge is not None:
            raise SystemExit(
                judge(judgments(given.judge or JUDGES, given.data, out, given.who[-1], drives, given.every))
            )


def judgments(which: Sequence[str], data: Path, out: Path, who: str, drives: list[str], every: int) -> list[list[str]]:
    """The commands that judge ``which`` over the runs in ``out``: one each, or one per drive."""
    runs = {name: out / f"{who}-{name}" / "last" for name in drives}
    trees = {name: out / f"without-{name}" for name in drives}
    folds = [text for name in drives for text in ("--fold", str(runs[name]), str(trees[name]))]
    pairs = [str(path) for name in drives for path in (runs[name], trees[name])]
    monitored = [text for name in drives for text in ("--fold", f"{name}={runs[name]}")]
    for name in drives:
        if (out / f"held-{name}").is_dir():
            monitored += ["--reference", f"{name}={out / f'held-{name}' / 'images'}"]
    evaluations = [
        [
            sys.executable, "-m", "segwright", "evaluate", str(runs[name]), str(trees[name]), "--probabilities",
            "--slices", "auto", "--corruption", "all", "--report", str(out / f"{who}-{name}" / "drive.html"),
        ]
        for name in drives
    ]  # fmt: skip
    options = {
        "uncertainty": [*folds, "--every", str(every)],
        "label_errors": [*pairs, "--every", str(every)],
        "monitoring": [str(data), *monitored, "--cache", str(out / "rows"), "--step", str(6 * every)],
    }
    commands = evaluations if "evaluation" in which else []
    others = [name for name in which if name in options]
    return [
        *commands,
        *([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *options[name]] for name in others),
    ]


def judge(commands: list[list[str]]) -> int:
    """Run benchmarks one after another; 1 if one of them failed, after all have run."""
    failed = 0
    for command in commands:
        print(f"\n## {' '.join(command[1:])}\n", flush=True)
        failed |= int(subprocess.run(command, check=False).returncode != 0)
    return failed


def drive(name: str) -> str:
    return name.split("_")[0]


def link(data: Path, names: list[str], left_out: str, tree: Path, held: Path | None = None) -> None:
    """CamVid's folders, with ``left_out`` as the validation and every other drive to train on; of these the last of
    HELD parts goes to ``held``/images and ``held``/imagesannot if that is named."""
    masks = {path.stem: path for path in (data / "trainannot").iterdir()}
    for left in sorted({drive(name) for name in names}):
        own = [name for name in names if drive(name) == left]
        for number, name in enumerate(own):
            image = data / "train" / name
            folder = tree / ("val" if left == left_out else "train")
            if held is not None and left != left_out and number * HELD >= len(own) * (HELD - 1):
                folder = held / "images"
            for place, file in ((folder, image), (folder.with_name(f"{folder.name}annot"), masks[image.stem])):
                place.mkdir(parents=True, exist_ok=True)
                (place / file.name).symlink_to(file.resolve())


def train(data: Path, run: Path, options: list[str]) -> dict[str, Any]:
    """{"miou", "low", "high"} of the drive left out, as the saved model scores on it."""
    if not (run / "last" / "model.json").exists():
        command = [sys.executable, "-m", "segwright", "train", str(data), "--out", str(run), *options]
        environment = {**os.environ, "COLUMNS": "120"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    result = run / "drive.json"
    command = [sys.executable, "-m", "segwright", "evaluate", str(run / "last"), str(data), "--json", str(result)]
    subprocess.run(command, capture_output=True, check=True)
    found = json.loads(result.read_text())
    low, high = found["miou_ci95"]
    return {"miou": found["miou"], "low": low, "high": high}


if __name__ == "__main__":
    main()

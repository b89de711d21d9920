"""Training judged on drives that were never seen: each drive of a dataset in CamVid's layout left out once.

    python benchmarks/drives.py ../shared/data/camvid --epochs 36
    python benchmarks/drives.py ../shared/data/camvid --minutes 20 --only 0006R0

Per drive (the part of a file's name before the first ``_``) a dataset is made of links: the others' training images
train, the drive's are the validation. Every contender is ``segwright train`` in a process of its own, one after
another: **planned** with no other flag, which takes pretrained weights where they can be had, and **scratch** with
``--weights none``. Scored is the last model of a run (``RUN/last``), which was not chosen on the drive left out. Prints
a Markdown table with 95 % intervals; ``--out`` keeps the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

CONTENDERS = {"planned": [], "scratch": ["--weights", "none"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="drives")
    parser.add_argument("--who", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, help="folder for the runs")
    given = parser.parse_args()
    budget = ["--epochs", str(given.epochs or 36)] if given.minutes is None else ["--minutes", str(given.minutes)]
    with tempfile.TemporaryDirectory() as kept:
        out = given.out or Path(kept)
        names = sorted(path.name for path in (given.data / "train").iterdir())
        drives = given.only or sorted({drive(name) for name in names})
        print(f"| who | {' | '.join(drives)} | mean | seconds |\n|---|{'---|' * (len(drives) + 2)}")
        for who in given.who:
            scores, cells, started = [], [], time.monotonic()
            for left_out in drives:
                tree = out / f"without-{left_out}"
                if not tree.exists():
                    link(given.data, names, left_out, tree)
                score = train(tree, out / f"{who}-{left_out}", [*budget, "--seed", str(given.seed), *CONTENDERS[who]])
                scores.append(score["miou"])
                cells.append(f"{score['miou']:.3f} ({score['low']:.3f} to {score['high']:.3f})")
            seconds = time.monotonic() - started
            print(f"| {who} | {' | '.join(cells)} | {fmean(scores):.3f} | {seconds:.0f} |", flush=True)


def drive(name: str) -> str:
    return name.split("_")[0]


def link(data: Path, names: list[str], left_out: str, tree: Path) -> None:
    """CamVid's folders, with ``left_out`` as the validation and every other drive to train on."""
    masks = {path.stem: path for path in (data / "trainannot").iterdir()}
    for name in names:
        split = "val" if drive(name) == left_out else "train"
        image = data / "train" / name
        for folder, file in ((split, image), (f"{split}annot", masks[image.stem])):
            target = tree / folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.resolve())


def train(data: Path, run: Path, options: list[str]) -> dict[str, Any]:
    """{"miou", "low", "high"} of the drive left out, as the saved model scores on it."""
    command = [sys.executable, "-m", "segwright", "train", str(data), "--out", str(run), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}, check=False)
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

"""Self-training against labels: how much of the gap between few and all labels do unlabeled images recover?

    python benchmarks/self_training.py ../shared/data/camvid --seeds 1 2 3
    python benchmarks/self_training.py ../shared/data/camvid --steps 2000 --height 180 --crop 160x224 --batch 8
    python benchmarks/self_training.py ../shared/data/camvid --only self --set unlabeled.mix=classmix

CamVid's layout (train, trainannot, val, valannot). ``--labeled`` training images, evenly spread over all of them, keep
their labels; the others are unlabeled. Three trainings from random weights with the same plan and the same number of
updates on labeled images: **few** (those labels alone), **self** (and the unlabeled images) and **all** (every label).
Scored are the averaged weights after the last update on the validation images, so nothing is chosen on them. With
``--drives`` each drive (the part of a file's name before the first ``_``) is left out once instead, and is the
validation: with it, no image of the validation's sequence was trained on, labeled or not.

Prints a line per training, and per seed the recovered share, (self − few) ÷ (all − few), and the paired 95 % interval
of self − few. Results are kept in ``--out`` as JSON and not trained again, so a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Tree = tuple[str, list[Path], list[Path]]  # (name, training images, validation images)
ARMS = ("few", "all", "self")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--labeled", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--drives", nargs="*", help="leave drives out: these, or with no name all")
    parser.add_argument("--only", nargs="*", choices=ARMS, default=ARMS)
    parser.add_argument("--steps", type=int, default=600, help="updates of every training")
    parser.add_argument("--height", type=int, default=120, help="of the images, which are reduced to it")
    parser.add_argument("--crop", default="96x128")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--widths", type=int, nargs=5, default=[16, 24, 32, 48, 48], help="of LeanNet; 0: as planned")
    parser.add_argument("--set", action="append", default=[], help="section.key=value of the arm self")
    parser.add_argument("--every", action="append", default=[], help="section.key=value of every arm")
    parser.add_argument("--name", default="self", help="of the arm self in the results, for other settings")
    parser.add_argument("--out", type=Path, default=Path("self-training"))
    given = parser.parse_args()
    given.data, given.out = given.data.resolve(), given.out.resolve()
    images, held_out = (sorted((given.data / split).iterdir()) for split in ("train", "val"))
    trees: list[Tree] = [("camvid", images, held_out)]
    if given.drives is not None:
        everything = sorted([*images, *held_out], key=lambda path: path.name)
        names = given.drives or sorted({drive(path) for path in everything})
        trees = [
            (name, [p for p in everything if drive(p) != name], [p for p in everything if drive(p) == name])
            for name in names
        ]
    for name, train, val in trees:
        for seed in given.seeds:
            report(name, seed, {arm: result(given, (name, train, val), arm, seed) for arm in given.only})


def drive(path: Path) -> str:
    return path.name.split("_")[0]


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    return [paths[round(place)] for place in np.linspace(0, len(paths) - 1, count)]


def result(given: argparse.Namespace, tree: Tree, arm: str, seed: int) -> dict[str, Any]:
    """The scores of one training; read again where it was done before."""
    shape = "-".join(
        map(str, (tree[0], given.height, given.crop, given.batch, given.steps, given.labeled, *given.every))
    )
    path = given.out / shape / f"{arm if arm != 'self' else given.name}-{seed}.json"
    if not path.exists():
        prepare(given, tree, given.out / f"{tree[0]}-{given.height}-{given.labeled}")
        found = train(given, given.out / f"{tree[0]}-{given.height}-{given.labeled}", arm, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
        print(f"{path.parent.name} {path.stem}: mIoU {found['miou']:.4f}, {found['seconds']:.0f} s", flush=True)
    found = json.loads(path.read_text())
    return dict(found)


def prepare(given: argparse.Namespace, tree: Tree, out: Path) -> None:
    """``few/`` and ``all/`` in CamVid's layout and ``unlabeled/``, reduced."""
    import cv2

    if (out / "done").exists():
        return
    _, train, val = tree
    labeled = spread(train, given.labeled)

    def put(source: Path, target: Path, method: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
        width = round(pixels.shape[1] * given.height / pixels.shape[0])
        cv2.imwrite(str(target), cv2.resize(pixels, (width, given.height), interpolation=method))

    for name, images in (("few", labeled), ("all", train)):
        for split, paths in (("train", images), ("val", val)):
            for path in paths:
                mask = path.parent.with_name(f"{path.parent.name}annot") / path.name
                put(path, out / name / split / path.name, cv2.INTER_AREA)
                put(mask, out / name / f"{split}annot" / path.name, cv2.INTER_NEAREST)
    for path in set(train) - set(labeled):
        put(path, out / "unlabeled" / path.name, cv2.INTER_AREA)
    (out / "done").touch()


def train(given: argparse.Namespace, data: Path, arm: str, seed: int) -> dict[str, Any]:
    import segwright as sw
    from segwright.evaluation.evaluate import evaluate
    from segwright.inference.predictor import Predictor
    from segwright.training.config import TrainConfig, parse_overrides
    from segwright.training.run import planned_trainer

    dataset = sw.open_dataset(data / ("all" if arm == "all" else "few"))
    an_epoch = len(dataset.train) // given.batch
    epochs = max(1, round(given.steps / an_epoch))
    network = {} if not all(given.widths) else {"widths": given.widths, "decoder_channels": [16, 24, 24, 24]}
    values: dict[str, Any] = {
        "model.name": "leannet", "model.weights": None, "model.arguments": network, "training.epochs": epochs,
        "training.size": given.crop, "training.batch": given.batch, "training.validate_every": epochs,
        "training.precision": "fp32", "training.seed": seed, "training.device": "cpu", "training.trackers": [],
        "training.workers": 1, "training.save_every_seconds": 1e6,
    }  # fmt: skip
    values |= parse_overrides(given.every)
    if arm == "self":
        values |= {"unlabeled.path": str(data / "unlabeled"), **parse_overrides(given.set)}
    folder = given.out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    run = planned_trainer(dataset, TrainConfig().with_values(values))
    started, used = time.monotonic(), time.process_time()
    done = run.fit()
    seconds, used = time.monotonic() - started, time.process_time() - used
    if done.stopped_by:  # by a signal: half a training is no result
        raise SystemExit(f"{arm} {seed} was stopped by {done.stopped_by} at step {done.progress.step}")
    predictor = Predictor.from_model(run.networks.evaluated_model(), dataset.label_space, "cpu")
    scored = evaluate(predictor, dataset.val)
    log = [json.loads(line) for line in (run.recorder.folder / "log.jsonl").read_text().splitlines()]
    accepted = [entry["accepted"] for entry in log if entry.get("accepted") is not None]
    return {
        "miou": scored.miou,
        "iou": [float(value) for value in scored.scores.iou],
        "ids": scored.ids,
        "counts": scored.counts.tolist(),
        "groups": [str(group) for group in scored.independent.groups],
        "over": str(scored.independent),
        "steps": done.progress.step,
        "seconds": seconds,
        "cpu_seconds": used,
        "accepted": float(np.mean(accepted[-50:])) if accepted else None,
        "settings": given.set if arm == "self" else [],
    }


def report(name: str, seed: int, found: dict[str, dict[str, Any]]) -> None:
    from segwright.metrics.bootstrap import paired_difference

    if not {"few", "self"} <= set(found):
        return
    few, trained = found["few"], found["self"]
    d = paired_difference(few["counts"], trained["counts"], groups=few["groups"])
    line = f"{name} seed {seed}: few {few['miou']:.3f}, self {trained['miou']:.3f} ({100 * d.difference:+.2f} points, "
    line += f"95 %: {100 * d.low:+.2f} to {100 * d.high:+.2f} over {few['over']}), accepted {trained['accepted']:.0%}"
    if "all" in found:
        gap = found["all"]["miou"] - few["miou"]
        line += f", all {found['all']['miou']:.3f}"
        line += f", recovered {(trained['miou'] - few['miou']) / gap:.0%}" if gap > 0 else ", no gap"
    print(line, flush=True)


if __name__ == "__main__":
    main()

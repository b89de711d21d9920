"""What clicks are worth: a simulated annotator answers `segwright select`'s questions, and a model is trained on it.

    python benchmarks/labeling.py ../shared/data/camvid --drives 0006R0 --seeds 1 --out runs/labeling

Data in CamVid's layout. Per drive (the part of a file's name before the first ``_``) the other drives' training images
are the pool, and the drive is what is scored. Per seed one run of each arm, all trained from random weights for the
same number of samples, on the same images with the same clicks per image:

| arm | labels |
|---|---|
| full | every pixel of the truth |
| ours | the questions of `segwright select`, in rounds; each trains on the answers so far and selects again |
| random-units | superpixels drawn at random |
| random-pixels | single pixels drawn at random |
| entropy | in rounds as ours: superpixels of the highest mean entropy |

The oracle: an answer is the dominant class of the region in the truth and fills the region; one click. A region whose
truth is mostly unlabeled costs its click and gives nothing. A question whether the prediction is right costs a click,
and a second one for the class where it is wrong; with ``--questions class`` none is asked. ``--core`` fills all but the
region's outermost pixels; with ``--exact`` its pixels get their true labels. After the last round ``--self-train`` also
gives the pixels that the last model predicts with this confidence their prediction as label; no truth is used in that.

Every finished training is kept in ``--out`` (JSON with the confusion matrix of each image) and not repeated. Prints a
Markdown table; the interval of a difference is over pairs of drive and seed (Student's t), and beside it a bootstrap
over blocks of ten neighboring frames of all drives.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

import segwright as sw
from segwright.core.types import IGNORE_INDEX
from segwright.inference.predictor import Predictor
from segwright.labeling.questions import Question
from segwright.labeling.scores import Opinion, opinion, rarity
from segwright.labeling.select import SelectOptions, ask
from segwright.labeling.units import superpixel_units
from segwright.training.config import TrainConfig, parse_overrides
from segwright.training.run import planned_trainer

ARMS = ("full", "ours", "random-units", "random-pixels", "entropy")
CLASSES = 11
BLOCK = 10  # frames; CamVid's labeled frames are a second apart


@dataclass
class Pool:
    """The images to label with their truth, and those to score on, at the benchmark's size."""

    images: dict[str, Any]
    truth: dict[str, Any]
    held_out: dict[str, tuple[Any, Any]]


@dataclass
class Labels:
    """Label masks as they grow, and what they cost."""

    masks: dict[str, Any]
    clicks: int = 0
    checks: int = 0
    wrong_checks: int = 0
    seconds: list[float] = field(default_factory=list)  # per round, selection and training

    def answer(self, item: Question, truth: Any, given: argparse.Namespace) -> None:
        """The oracle's answer to a question about an image with this truth."""
        inside = item.mask()
        self.clicks += 1
        values = truth[inside]
        known = values[values != IGNORE_INDEX]
        if 2 * known.size <= values.size:
            return
        dominant = int(np.bincount(known).argmax())
        if item.kind == "check":
            self.checks += 1
            if dominant != item.predicted:
                self.wrong_checks += 1
                self.clicks += 1
        if given.exact:
            self.masks[item.image][inside] = values
            return
        if given.core:
            padded = cv2.copyMakeBorder(inside.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
            smaller = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
            inside = smaller if smaller.any() else inside
        self.masks[item.image][inside] = dominant


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    done: dict[tuple[str, str, int], Any] = {}
    for drive in given.drives:
        for seed in given.seeds if not given.paired else [given.seeds[given.drives.index(drive) % len(given.seeds)]]:
            for arm in given.arms:
                done[arm, drive, seed] = run_once(given, arm, drive, seed)
    print(table(given, done))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--drives", nargs="+", default=["0001TP", "0006R0", "0016E5"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--paired", action="store_true", help="the n-th drive with the n-th seed alone")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--clicks", type=int, default=20, help="per image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20, help="of a scored training")
    parser.add_argument("--round-epochs", type=int, default=8, help="of a training between rounds")
    parser.add_argument("--thin", type=int, default=1, help="every n-th image of the pool and of the held-out drive")
    parser.add_argument("--scale", type=float, default=1 / 3, help="of the images")
    parser.add_argument("--zoom", type=float, nargs=2, default=[0.6, 1.3], help="range of the training's scaling")
    parser.add_argument("--units", default="superpixels")
    parser.add_argument("--unit-count", type=int, default=60)
    parser.add_argument("--unit-size", type=int, default=22, help="of superpixels, for a shorter side of 256")
    parser.add_argument("--size-power", type=float, default=0.25)
    parser.add_argument("--questions", choices=("auto", "check", "class"), default="class")
    parser.add_argument("--draw", choices=("best", "proportional"), default="proportional")
    parser.add_argument("--cold", choices=("representative", "random"), default="random", help="the first round")
    parser.add_argument("--core", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--self-train", type=float, default=None, metavar="CONFIDENCE")
    parser.add_argument("--name", default="", help="of this variant of ours, in the kept files")
    parser.add_argument("--set", action="append", default=[], help="section.key=value of every arm's scored training")
    parser.add_argument("--tag", default="", help="of this variant of every arm but full, in the kept files")
    parser.add_argument(
        "--plan",
        choices=("scratch", "pretrained"),
        help="what `segwright train` plans, from random or ImageNet weights",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def run_once(given: argparse.Namespace, arm: str, drive: str, seed: int) -> Any:
    """The result of one arm; from its file if it is there."""
    variant = (given.name if arm == "ours" else "") + (given.tag if arm != "full" else "")
    path = given.out / f"{arm}{variant}-{drive}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    pool, started = load_pool(given, drive), time.monotonic()
    labels = make_labels(given, arm, pool, seed)
    labeled = labeled_facts(labels, pool)
    other = parse_overrides(given.set) if arm != "full" else {}
    predictor, seconds = train(given, pool, labels.masks, given.epochs, seed, other)
    confusion = score(predictor, pool)
    found = {
        "arm": arm, "drive": drive, "seed": seed, "clicks_per_image": labels.clicks / len(pool.images),
        "checks": labels.checks, "wrong_checks": labels.wrong_checks, "images": len(pool.images), **labeled,
        "miou": miou(confusion), "seconds": seconds, "round_seconds": labels.seconds,
        "total_seconds": time.monotonic() - started, "confusion": confusion.tolist(),
    }  # fmt: skip
    path.write_text(json.dumps(found))
    brief = {key: value for key, value in found.items() if key != "confusion"}
    print(json.dumps(brief), flush=True)
    return found


def load_pool(given: argparse.Namespace, drive: str) -> Pool:
    names = sorted(path.name for path in (given.data / "train").iterdir())
    others = [name for name in names if name.split("_")[0] != drive][:: given.thin]
    held_out = [name for name in names if name.split("_")[0] == drive][:: given.thin]
    pool = Pool({}, {}, {})
    for name in others:
        pool.images[name], pool.truth[name] = read(given, name)
    for name in held_out:
        pool.held_out[name] = read(given, name)
    return pool


def read(given: argparse.Namespace, name: str) -> tuple[Any, Any]:
    image = cv2.cvtColor(cv2.imread(str(given.data / "train" / name)), cv2.COLOR_BGR2RGB)
    truth = cv2.imread(str(given.data / "trainannot" / name), cv2.IMREAD_UNCHANGED)
    size = (round(image.shape[1] * given.scale), round(image.shape[0] * given.scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    truth = cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST)
    return image, np.where(truth < CLASSES, truth, IGNORE_INDEX).astype(np.uint8)


# -- labels -----------------------------------------------------------------------------------------------------------


def make_labels(given: argparse.Namespace, arm: str, pool: Pool, seed: int) -> Labels:
    if arm == "full":
        return Labels({name: mask.copy() for name, mask in pool.truth.items()})
    blank = Labels({name: np.full(mask.shape, IGNORE_INDEX, np.uint8) for name, mask in pool.truth.items()})
    rng = np.random.default_rng(seed)
    if arm == "random-pixels":
        for name, truth in pool.truth.items():
            for place in rng.choice(truth.size, given.clicks, replace=False):
                blank.masks[name].flat[place] = truth.flat[place]
                blank.clicks += 1
        return blank
    if arm == "random-units":
        options = SelectOptions(clicks=given.clicks, units="superpixels", unit_size=given.unit_size)
        for name, image in pool.images.items():
            for item in ask(name, image, None, None, options, drawn=True, rng=rng):
                blank.answer(item, pool.truth[name], given)
        return blank
    return in_rounds(given, arm, pool, seed, blank)


def in_rounds(given: argparse.Namespace, arm: str, pool: Pool, seed: int, labels: Labels) -> Labels:
    predictor = None
    for number in range(given.rounds):
        started, budget = time.monotonic(), given.clicks * (number + 1) * len(pool.images) // given.rounds
        opinions = predict_pool(predictor, pool)
        weights = None if predictor is None else rarity(mean_shares(opinions))
        each = -(-given.clicks // given.rounds)
        for number_of_image, (name, image) in enumerate(pool.images.items()):
            rng, found = np.random.default_rng([seed, number, number_of_image]), opinions.get(name)
            if arm == "entropy" and found is not None:
                items = most_entropy(given, name, image, found, labels.masks[name], each)
            else:
                options = SelectOptions(
                    clicks=each, units=units_of(given, arm, found), unit_size=given.unit_size,
                    unit_count=given.unit_count, questions="class" if found is None else given.questions,
                    size_power=given.size_power, draw=given.draw,
                )  # fmt: skip
                cold = found is None and given.cold == "random"
                items = ask(name, image, found, weights, options, drawn=cold, rng=rng, known=labels.masks[name])
            for item in items:
                if labels.clicks < budget:
                    labels.answer(item, pool.truth[name], given)
        if number + 1 < given.rounds or (given.self_train and arm == "ours"):
            predictor, _ = train(given, pool, labels.masks, given.round_epochs, seed)
        labels.seconds.append(time.monotonic() - started)
        print(f"  {arm} round {number + 1}: {labels.seconds[-1]:.0f} s {labeled_facts(labels, pool)}", flush=True)
    if given.self_train and arm == "ours" and predictor is not None:
        for name, image in pool.images.items():
            chance, mask = predictor.probabilities(image), labels.masks[name]
            sure = (mask == IGNORE_INDEX) & (chance.max(axis=0) >= given.self_train)
            mask[sure] = chance.argmax(axis=0)[sure]
    return labels


def units_of(given: argparse.Namespace, arm: str, found: Opinion | None) -> str:
    if arm != "ours":
        return "superpixels"
    return str(given.units if found is not None else "merged" if given.units == "segments" else given.units)


def predict_pool(predictor: Predictor | None, pool: Pool) -> dict[str, Opinion]:
    if predictor is None:
        return {}
    return {name: opinion([predictor], image, "margin") for name, image in pool.images.items()}


def mean_shares(opinions: dict[str, Opinion]) -> Any:
    shares = [np.bincount(found.labels.ravel(), minlength=CLASSES) / found.labels.size for found in opinions.values()]
    return np.mean(shares, axis=0)


def most_entropy(given: argparse.Namespace, name: str, image: Any, found: Opinion, known: Any, count: int) -> list[Any]:
    """Questions about the free superpixels of the highest mean entropy, as many."""
    units = superpixel_units(image, max(4, round(given.unit_size * min(image.shape[:2]) / 256)))
    entropy = -(found.probabilities * np.log(np.maximum(found.probabilities, 1e-9))).sum(axis=0)
    pixels = np.bincount(units.ravel())
    worth = np.bincount(units.ravel(), entropy.ravel()) / pixels
    worth[np.bincount(units.ravel(), (known != IGNORE_INDEX).ravel()) / pixels >= 0.5] = -1
    return [Question.of_mask(name, units == one) for one in np.argsort(-worth, kind="stable")[:count]]


def labeled_facts(labels: Labels, pool: Pool) -> dict[str, float]:
    """How much is labeled, and how much of that is right."""
    labeled = right = known = total = 0
    for name, mask in labels.masks.items():
        here, truth = mask != IGNORE_INDEX, pool.truth[name]
        labeled += int(here.sum())
        total += mask.size
        known += int((here & (truth != IGNORE_INDEX)).sum())
        right += int((here & (truth == mask) & (truth != IGNORE_INDEX)).sum())
    return {"labeled": round(labeled / total, 4), "right": round(right / max(1, known), 4)}


# -- training and scores ----------------------------------------------------------------------------------------------


def train(
    given: argparse.Namespace, pool: Pool, masks: dict[str, Any], epochs: int, seed: int, other: Any = None
) -> tuple[Predictor, Any]:
    """A network trained from random weights on the masks; the last one, chosen on nothing."""
    root = given.out / "work"
    for folder in ("train", "trainannot", "val", "valannot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for old in (root / folder).iterdir():
            old.unlink()
    for name, mask in masks.items():
        cv2.imwrite(str(root / "train" / name), cv2.cvtColor(pool.images[name], cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / "trainannot" / name), mask)
    for name, (image, truth) in list(pool.held_out.items())[::20]:  # nothing is chosen on it, but a run wants one
        cv2.imwrite(str(root / "val" / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / "valannot" / name), truth)
    settings = {
        "training.epochs": epochs, "training.seed": seed, "training.validate_every": 10_000,
        "training.logit_adjustment": False, "training.trackers": (), "out": str(root / "run"),
    }  # fmt: skip
    if not given.plan:
        settings |= {
            "model.name": "leannet", "model.weights": None, "model.arguments": {"variant": "small"},
            "training.batch": 8, "training.precision": "bf16", "training.size": (96, 128),
            "training.phases": [{"until": 1.0, "size": (96, 128), "scale": tuple(given.zoom)}],
            "training.workers": 1, "training.device": "cpu",
        }  # fmt: skip
    elif given.plan == "scratch":
        settings["model.weights"] = None
    settings |= other or {}
    data = sw.open_dataset(root, format="camvid")
    trainer = planned_trainer(data, TrainConfig().with_values(settings))
    started = time.monotonic()
    done = trainer.fit()
    if done.stopped_by:  # by a signal: half a training is no result
        raise SystemExit(f"stopped by {done.stopped_by} at step {done.progress.step}")
    network = trainer.networks.evaluated_model().eval()
    return Predictor.from_model(network, data.label_space, "cpu"), round(time.monotonic() - started, 1)


def score(predictor: Predictor, pool: Pool) -> Any:
    """Confusion matrices (images, classes, classes) of the held-out drive, truth by prediction."""
    found = []
    for image, truth in pool.held_out.values():
        labels, known = predictor.predict(image).labels, truth != IGNORE_INDEX
        pairs = truth[known].astype(np.int64) * CLASSES + labels[known]
        found.append(np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES))
    return np.stack(found)


def miou(confusion: Any) -> float:
    """Over the classes that the truth or the prediction has."""
    total = np.asarray(confusion).sum(axis=0)
    hits, union = np.diag(total), total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
    return float((hits[union > 0] / union[union > 0]).mean())


# -- the table --------------------------------------------------------------------------------------------------------


def table(given: argparse.Namespace, done: dict[tuple[str, str, int], Any]) -> str:
    cells = sorted({key[1:] for key in done})
    lines = [
        "| labels | clicks per image | labeled | right | mIoU per drive and seed | mean | of full | ours better by |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for arm in given.arms:
        rows = [done[arm, *cell] for cell in cells]
        mean = float(np.mean([row["miou"] for row in rows]))
        part = [row["miou"] / done["full", *cell]["miou"] for row, cell in zip(rows, cells, strict=True)] if (
            "full" in given.arms
        ) else [float("nan")]  # fmt: skip
        gain = difference(done, arm, cells) if "ours" in given.arms and arm != "ours" else ""
        figures = " · ".join(f"{cell[0]}/{cell[1]} {row['miou']:.3f}" for row, cell in zip(rows, cells, strict=True))
        lines.append(
            f"| {arm} | {np.mean([row['clicks_per_image'] for row in rows]):.1f} | "
            f"{np.mean([row['labeled'] for row in rows]):.1%} | {np.mean([row['right'] for row in rows]):.1%} | "
            f"{figures} | {mean:.3f} | {np.mean(part):.1%} | {gain} |"
        )
    return "\n".join(lines)


def difference(done: dict[tuple[str, str, int], Any], arm: str, cells: list[tuple[str, int]]) -> str:
    """The mean difference of ours to an arm in points of mIoU, with both intervals."""
    from scipy.stats import t

    gaps = 100 * np.array([done["ours", *cell]["miou"] - done[arm, *cell]["miou"] for cell in cells])
    text = f"{gaps.mean():+.1f}"
    if len(gaps) > 1:
        half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
        text += f" (t: {gaps.mean() - half:+.1f} to {gaps.mean() + half:+.1f})"
    drawn = bootstrap([(done["ours", *cell]["confusion"], done[arm, *cell]["confusion"]) for cell in cells])
    return f"{text} (frames: {np.percentile(drawn, 2.5):+.1f} to {np.percentile(drawn, 97.5):+.1f})"


def bootstrap(pairs: list[tuple[Any, Any]], times: int = 1000) -> Any:
    """Differences in points, of blocks of neighboring frames drawn with replacement within each pair's drive."""
    rng, found = np.random.default_rng(0), np.zeros(times)
    for one, other in pairs:
        first, second = np.asarray(one), np.asarray(other)
        starts = np.arange(0, len(first), BLOCK)
        blocks = [np.stack([part[s : s + BLOCK].sum(axis=0) for s in starts]) for part in (first, second)]
        for number in range(times):
            drawn = rng.integers(0, len(starts), len(starts))
            found[number] += 100 * (miou(blocks[0][drawn]) - miou(blocks[1][drawn])) / len(pairs)
    return found


if __name__ == "__main__":
    main()

"""How many of the first 50 suspect regions are label errors: errors are planted in the masks of images held out.

    python benchmarks/label_errors.py RUN DATA [RUN DATA ...] --split val --places 100 --seeds 0 1 2

Three kinds in equal numbers, in two thirds of the images, at random: **swap** (a whole region gets another class),
**drop** (an object is forgotten: its place gets the class of the nearest region), **shift** (an object is moved by
three quarters of its smaller side, at least 16 pixels). ``--swaps confusable`` takes the other class by the model's own
confusions in place of any. Each changes at least 0.2 % of the image's pixels. A region is right if half of its pixels
were changed. Real errors of the dataset that rank high count as wrong, so that the precision is a lower bound.

Per scoring: precision at 50 and 100, places found among the first 50 regions, and the AUROC and precision at 20 of the
ranking of images (an image is right if it has a planted error). cleanlab's ranking of images (softmin of the pixels'
probabilities of the given class) is printed beside it if the package is installed; it is never needed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import segwright as sw
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.evaluation.label_errors import SCORINGS, LabelErrorCollector, LabelErrors

KINDS = ("swap", "drop", "shift")
LEAST, MOST, MOST_OBJECT = 0.002, 0.1, 0.05  # shares of the image's pixels


@dataclass
class Planted:
    """Masks with errors: which pixels changed (number of the place), and what each place is."""

    masks: list[Any]
    places: list[Any]  # (H, W) int32, 0: unchanged
    kinds: list[tuple[int, str]]  # image, kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="RUN DATA, one pair or several")
    parser.add_argument("--split", default="val")
    parser.add_argument("--places", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--swaps", choices=("any", "confusable"), default="any")
    parser.add_argument("--every", type=int, default=1, help="every n-th image")
    given = parser.parse_args()
    if len(given.pairs) % 2:
        parser.error("runs and datasets come in pairs")
    print("| held out | images | scoring | precision at 50 | at 100 | places in 50 | images: AUROC | precision at 20 |")
    print("|---|---|---|---|---|---|---|---|")
    for run, data in zip(given.pairs[::2], given.pairs[1::2], strict=True):
        split = sw.choose_split(sw.open_dataset(data), given.split)
        predictor = sw.load(run, device="cpu")
        indices = range(0, len(split), given.every)
        probabilities, truth = [], []
        for index in indices:
            sample = split[index]
            predicted = predictor.predict(sample.image, probabilities=True)
            probabilities.append(predicted.probabilities.astype(np.float16))
            truth.append(sample.mask)
        judge(Path(run).name, split.label_space, probabilities, truth, given)


def judge(name: str, space: LabelSpace, probabilities: list[Any], truth: list[Any], given: Any) -> None:
    """Print the rows of one model."""
    rows: dict[str, list[list[float]]] = {}
    kinds: dict[str, list[int]] = {kind: [0, 0, 0] for kind in KINDS}  # planted, among the first 50, regions among them
    confusion = confusions(probabilities, truth, space.classes) if given.swaps == "confusable" else None
    seconds = 0.0
    for seed in given.seeds:
        planted = plant(truth, given.places, seed, space.classes, confusion)
        for _, kind in planted.kinds:
            kinds[kind][0] += 1
        collector, started = LabelErrorCollector(space), time.perf_counter()
        for index, mask in enumerate(planted.masks):
            collector.add(index, str(index), None, mask, mask, None, probabilities[index].astype(np.float32))
        seconds += (time.perf_counter() - started) / len(truth) / len(given.seeds)
        wrong_images = np.array([place.any() for place in planted.places])
        for scoring in SCORINGS:
            found = collector.result(limit=100, scoring=scoring)
            hits, places = right(found, planted)
            scores = dict(found.images)
            images = np.array([scores[str(index)] for index in range(len(truth))])
            rows.setdefault(scoring, []).append(
                [hits[:50].mean(), hits[:100].mean(), len(set(places[:50][hits[:50]])), *ranking(images, wrong_images)]
            )
            if scoring == "confident_joint":
                for place in set(places[:50][hits[:50]].tolist()):
                    kinds[planted.kinds[place - 1][1]][1] += 1
        quality = cleanlab_scores(probabilities, planted.masks, space.classes)
        if quality is not None:
            row = [np.nan, np.nan, np.nan, *ranking(-quality, wrong_images)]
            rows.setdefault("cleanlab, softmin (images only)", []).append(row)
    for scoring, values in rows.items():
        mean = np.mean(values, axis=0)
        single = " ".join(f"{value[0]:.2f}" for value in values)
        cells = ["–"] * 3 if np.isnan(mean[0]) else [f"{mean[0]:.3f} ({single})", f"{mean[1]:.3f}", f"{mean[2]:.1f}"]
        print(
            f"| {name} | {len(truth)} | {scoring} | {' | '.join(cells)} | {mean[3]:.3f} | {mean[4]:.3f} |", flush=True
        )
    found_by_kind = ", ".join(f"{kind} {hit} of {count}" for kind, (count, hit, _) in kinds.items())
    print(
        f"\n{name}: places in the first 50, all seeds: {found_by_kind}; {1000 * seconds:.0f} ms per image\n", flush=True
    )


def right(found: LabelErrors, planted: Planted) -> tuple[Any, Any]:
    """Per region whether half of it was changed, and the place that most of that belongs to."""
    hits, places = [], []
    for region in found.regions:
        x, y, w, h = region.box
        numbers = planted.places[region.index][y : y + h, x : x + w][region.mask()]
        hits.append((numbers > 0).mean() >= 0.5)
        places.append(int(np.bincount(numbers[numbers > 0]).argmax()) if (numbers > 0).any() else 0)
    return np.array(hits), np.array(places)


def ranking(scores: Any, wrong: Any) -> tuple[float, float]:
    """AUROC of scores for images with a planted error, and the precision of the first 20."""
    order = np.argsort(-scores, kind="stable")
    if wrong.all() or not wrong.any():
        return float("nan"), float(wrong[order[:20]].mean())
    above = (scores[wrong][:, None] > scores[~wrong][None]).mean()
    ties = (scores[wrong][:, None] == scores[~wrong][None]).mean()
    return float(above + 0.5 * ties), float(wrong[order[:20]].mean())


def cleanlab_scores(probabilities: list[Any], masks: list[Any], classes: int) -> Any:
    """cleanlab's quality of each image's labels, or None if it is not installed; ignored pixels count as right."""
    try:
        from cleanlab.segmentation.rank import get_label_quality_scores
    except ImportError:
        return None
    labels, held = [], []
    for mask, p in zip(masks, probabilities, strict=True):
        ignored = mask == IGNORE_INDEX
        label = np.where(ignored, p.argmax(axis=0), mask).astype(int)
        filled = p.astype(np.float32).copy()
        filled[:, ignored] = np.eye(classes, dtype=np.float32)[label[ignored]].T
        labels.append(label)
        held.append(filled)
    scores, _ = get_label_quality_scores(np.stack(labels), np.stack(held), verbose=False)
    return np.asarray(scores)


def confusions(probabilities: list[Any], truth: list[Any], classes: int) -> Any:
    """(K, K) counts of truth and prediction, the diagonal empty."""
    matrix = np.zeros((classes, classes))
    for p, mask in zip(probabilities, truth, strict=True):
        valid = mask != IGNORE_INDEX
        np.add.at(matrix, (mask[valid], p.argmax(axis=0)[valid]), 1)
    np.fill_diagonal(matrix, 0)
    return matrix


# ---------------------------------------------------------------------------------------------------------------------
# Planting


def plant(truth: list[Any], count: int, seed: int, classes: int, confusion: Any = None) -> Planted:
    """``count`` errors of the three kinds in turn, in two thirds of the images in random order."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(truth))[: max(1, 2 * len(truth) // 3)]
    made = Planted([mask.copy() for mask in truth], [np.zeros(mask.shape, np.int32) for mask in truth], [])
    order: list[int] = []
    for _ in range(200 * count):
        if len(made.kinds) == count:
            break
        order = order or list(rng.permutation(chosen))
        index, kind = int(order.pop()), KINDS[len(made.kinds) % len(KINDS)]
        regions = components(truth[index], MOST if kind == "swap" else MOST_OBJECT)
        if not regions:
            continue
        old, region = regions[rng.integers(len(regions))]
        before = made.masks[index]
        after = changed(before, region, old, kind, rng, classes, confusion)
        if after is None:
            continue
        after[before == IGNORE_INDEX] = IGNORE_INDEX
        new = after != before
        if new.mean() < LEAST or (made.places[index][new | region] > 0).any():
            continue
        made.masks[index] = after
        made.kinds.append((index, kind))
        made.places[index][new] = len(made.kinds)
    return made


def changed(before: Any, region: Any, old: int, kind: str, rng: Any, classes: int, confusion: Any) -> Any:
    """The mask with one error, or None if it cannot be made here."""
    if kind == "swap":
        chance = np.ones(classes) if confusion is None else confusion[old] + 1e-9
        chance = np.where(np.arange(classes) == old, 0, chance)
        after = before.copy()
        after[region] = rng.choice(classes, p=chance / chance.sum())
        return after
    after = filled(before, region)
    if kind == "shift":
        rows, columns = np.nonzero(region)
        side = min(np.ptp(rows), np.ptp(columns)) + 1
        step, angle = max(16.0, 0.75 * side), rng.uniform(0, 2 * np.pi)
        move = np.array([[1, 0, round(step * np.cos(angle))], [0, 1, round(step * np.sin(angle))]], np.float32)
        size = (before.shape[1], before.shape[0])
        moved = cv2.warpAffine(region.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST) > 0
        if moved.sum() < 0.6 * region.sum():
            return None  # it leaves the image
        after[moved] = old
    return after


def components(mask: Any, most: float) -> list[tuple[int, Any]]:
    """The connected regions of one class between LEAST and ``most`` of the image."""
    found = []
    for index in np.unique(mask[mask != IGNORE_INDEX]).tolist():
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats((mask == index).astype(np.uint8), connectivity=8)
        for n in range(1, count):
            if LEAST <= boxes[n, cv2.CC_STAT_AREA] / mask.size <= most:
                found.append((index, numbers == n))
    return found


def filled(mask: Any, hole: Any) -> Any:
    """The mask with ``hole`` given to the nearest class outside it."""
    source = ~hole & (mask != IGNORE_INDEX)
    _, nearest = cv2.distanceTransformWithLabels(
        (~source).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(nearest.max()) + 1, np.uint8)
    table[nearest[source]] = mask[source]
    after = mask.copy()
    after[hole] = table[nearest[hole]]
    return after


if __name__ == "__main__":
    main()

"""What a click labels: the questions of `segwright select` about images that a model never saw, answered by the truth.

    python benchmarks/questions.py RUN DATA [RUN DATA ...] --split val --every 6

Per kind of units and way of choosing: the share of the pixels that ``--clicks`` answers per image label, the share of
these that get their own class (an answer is the region's dominant class and fills it), the same for the regions' cores
(without the outermost pixels), how often the model's prediction is the right answer, and how often it is where the
question is "is this right?" (a mean probability of 0.8 or more). Below it, the share of each class's pixels that end up
with their own label. No training.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import numpy as np

import segwright as sw
from segwright.core.types import IGNORE_INDEX
from segwright.labeling.questions import Question
from segwright.labeling.scores import opinion, rarity
from segwright.labeling.select import SelectOptions, ask
from segwright.labeling.units import core

WAYS = {
    "merged, chosen": ({"units": "merged"}, False),
    "segments, chosen": ({"units": "segments"}, False),
    "superpixels, chosen": ({"units": "superpixels"}, False),
    "merged, at random": ({"units": "merged"}, True),
    "superpixels, at random": ({"units": "superpixels"}, True),
    "merged, without a model": ({"units": "merged"}, None),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="RUN DATA, one pair or several")
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1, help="every n-th image")
    parser.add_argument("--clicks", type=int, default=20)
    given = parser.parse_args()
    counts: dict[str, dict[str, Any]] = {way: defaultdict(int) for way in WAYS}
    names: tuple[str, ...] = ()
    for run, data in zip(given.pairs[::2], given.pairs[1::2], strict=True):
        split = sw.choose_split(sw.open_dataset(data), given.split)
        predictor = sw.load(run, device="cpu", postprocess="none")
        names = split.label_space.names
        samples = [split[index] for index in range(0, len(split), given.every)]
        opinions = [opinion([predictor], sample.image) for sample in samples]
        shares = [np.bincount(one.labels.ravel(), minlength=len(names)) / one.labels.size for one in opinions]
        weights = rarity(np.mean(shares, axis=0))
        for number, (sample, found) in enumerate(zip(samples, opinions, strict=True)):
            for way, (options, drawn) in WAYS.items():
                asked = ask(
                    sample.id, sample.image, None if drawn is None else found, None if drawn is None else weights,
                    SelectOptions(clicks=given.clicks, **options), drawn=bool(drawn),
                    rng=np.random.default_rng(number),
                )  # fmt: skip
                add(counts[way], asked, sample.mask, len(names))
    print(table(counts, names))


def add(count: dict[str, Any], asked: list[Question], truth: Any, classes: int) -> None:
    filled = np.full(truth.shape, IGNORE_INDEX, np.uint8)
    inner = np.zeros(truth.shape, bool)
    for item in asked:
        inside = item.mask()
        values = truth[inside]
        known = values[values != IGNORE_INDEX]
        if 2 * known.size <= values.size:
            continue
        answer = int(np.bincount(known).argmax())
        filled[inside] = answer
        inner |= inside & core(inside.astype(np.int32))
        count["answers"] += 1
        if item.predicted is not None:
            count["predicted"] += answer == item.predicted
            count["checks"] += item.kind == "check"
            count["right checks"] += item.kind == "check" and answer == item.predicted
    known = truth != IGNORE_INDEX
    right = (filled == truth) & known
    count["pixels"] += truth.size
    count["labeled"] += int((filled != IGNORE_INDEX).sum())
    count["known"] += int((known & (filled != IGNORE_INDEX)).sum())
    count["right"] += int(right.sum())
    count["core"] += int((inner & known).sum())
    count["right core"] += int((inner & right).sum())
    for name, mask in (("of class", known), ("right of class", right)):
        count[name] = count[name] + np.bincount(truth[mask], minlength=classes)[:classes]


def table(counts: dict[str, dict[str, Any]], names: tuple[str, ...]) -> str:
    lines = ["| units | labeled | right | right in the core | prediction right | where checked | checks |"]
    lines.append("|---|---|---|---|---|---|---|")
    for way, count in counts.items():
        predicted = ["–"] * 3
        if count["answers"] and not way.endswith("model"):
            checks = count["checks"]
            predicted = [
                f"{count['predicted'] / count['answers']:.0%}",
                f"{count['right checks'] / checks:.0%}" if checks else "–", str(checks),
            ]  # fmt: skip
        lines.append(
            f"| {way} | {count['labeled'] / count['pixels']:.1%} | {count['right'] / max(1, count['known']):.1%} | "
            f"{count['right core'] / max(1, count['core']):.1%} | {' | '.join(predicted)} |"
        )
    lines += ["", f"| units | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for way, count in counts.items():
        parts = count["right of class"] / np.maximum(count["of class"], 1)
        lines.append(f"| {way} | {' | '.join(f'{part:.0%}' for part in parts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

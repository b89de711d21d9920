"""One small page of each kind, with names that would break out of a page that does not escape them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.types import LabelSpace
from segwright.data.check.report_html import write_check_page
from segwright.data.check.runner import check_path
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation.compare import compare, comparison_page
from segwright.evaluation.disagreements import disagreement
from segwright.evaluation.evaluate import Evaluation, MappedPrediction, score
from segwright.evaluation.model_costs import ModelCost
from segwright.evaluation.report import RunFacts, report_page
from segwright.imageio import read_mask, write_bytes, write_image, write_mask
from segwright.monitoring.page import monitor_page
from segwright.monitoring.result import (
    AccuracyEstimate,
    Alarm,
    MonitorResult,
    Movement,
    Series,
    UnlikeImage,
    VersionCount,
)
from segwright.search.cross_validation_page import folds_page
from segwright.search.folds import CrossValidation, Fold
from segwright.search.lr_range import LrRange, range_page
from segwright.search.study import Study, Trial
from segwright.search.tune_page import study_page

MARKUP = "<script>window.broken = 1</script>\"'&<img src=x onerror='window.broken = 1'>"
RTL = "שדה ירוק \u202eabc"
LONG = "a very long class name without an end " * 3 + "x" * 120
NAMES = ("road", MARKUP, RTL, LONG)
SIZE = (96, 144)


class Scenes:
    """Three images of four stripes; the prediction is off by some columns."""

    def __init__(self, count: int = 3) -> None:
        self.name, self.count, self.label_space = "val", count, LabelSpace(NAMES)
        self.ids = [MARKUP, RTL, LONG, "four", "five", "six"][:count]

    def __len__(self) -> int:
        return self.count

    def read_image(self, index: int) -> Any:
        ramp = np.linspace(40, 220, SIZE[1])[None, :, None] * np.ones((SIZE[0], 1, 3))
        return (ramp * (1 - 0.1 * index)).astype(np.uint8)

    def read_mask(self, index: int) -> Any:
        mask = np.roll(np.indices(SIZE)[1] * 4 // SIZE[1], 6 * index, axis=1).astype(np.uint8)
        mask[:8] = 255
        return mask

    def predict(self, shift: int) -> Callable[[Any, Any], list[MappedPrediction]]:
        def answers(indices: Any, _: Any) -> list[MappedPrediction]:
            found = []
            for index in indices:
                labels = np.roll(np.indices(SIZE)[1] * 4 // SIZE[1], 6 * index + shift * (index + 1), axis=1)
                sure = np.linspace(0.3, 0.99, SIZE[0])[:, None].repeat(SIZE[1], 1)
                found.append(MappedPrediction(labels.astype(np.uint8), sure.astype(np.float32)))
            return found

        return answers


def evaluated(shift: int = 4, count: int = 3) -> Evaluation:
    split = Scenes(count)
    return score(split, split.predict(shift), boundary=False)


def history() -> list[dict[str, Any]]:
    steps = [{"step": n, "loss": 2 / n + 1, "main_loss": 2 / n, "lr": 1e-3 / n} for n in range(1, 40)]
    scores = [{"step": n, "val_loss": 2.2 / n, "val_miou": 0.1 + n / 100} for n in (10, 20, 39)]
    return [*steps, *scores]


class Made:
    """A part of an evaluation."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    def to_json(self) -> Any:
        return self.tree

    def sentence(self) -> str:
        return f"Clearly weaker than the rest: {MARKUP}."


def parts() -> dict[str, Made]:
    def part(by: str, name: str, difference: float | None, clear: bool) -> dict[str, Any]:
        return {
            "by": by, "name": name, "images": 3, "pixels": 99, "miou": 0.5, "miou_ci95": [0.4, 0.6], "clear": clear,
            "difference": difference, "difference_ci95": [None, None] if difference is None else [-0.2, -0.01],
        }  # fmt: skip

    region = {
        "rank": 1, "id": MARKUP, "given": RTL, "suggested": MARKUP, "score": 2.0, "given_probability": 0.1,
        "suggested_probability": 0.9, "pixels": 50, "share": 0.01, "box": [3, 4, 10, 20], "in_training": None,
    }  # fmt: skip
    measured = {
        "auroc": 0.91, "aupr": 0.4, "aurc": 0.011, "coverage": [0.0, 0.5, 1.0], "risk": [None, 0.01, 0.1],
        "risk_low": [None, 0.005, 0.08], "risk_high": [None, 0.02, 0.12],
        "intervals": {name: [0.1, None] for name in ("auroc", "aupr", "aurc")},
    }  # fmt: skip
    corrupted = {
        "miou": 0.3, "miou_ci95": [0.2, 0.4], "pixel_accuracy": 0.6, "ece": None, "change": -0.2, "clear": True,
        "change_ci95": [-0.3, -0.1], "corruption": MARKUP, "strength": 5,
    }  # fmt: skip
    corruptions = {
        "clean": {"miou": 0.5, "miou_ci95": [0.4, 0.6], "pixel_accuracy": 0.8, "ece": 0.05},
        "corruptions": [corrupted, {**corrupted, "miou": None, "miou_ci95": [None, None], "change": None}],
        "mean": {"miou": 0.3, "miou_ci95": [0.2, 0.4], "change": -0.2, "change_ci95": [None, None]},
    }
    return {
        "corruptions": Made(corruptions),
        "uncertainty": Made({"entropy": measured, MARKUP: {**measured, "auroc": None}}),
        "slices": Made([part(MARKUP, LONG, -0.1, True), part("brightness", RTL, None, False)]),
        "label_errors": Made({"regions_found": 2, "regions": [region, {**region, "rank": 2, "id": "not shown"}]}),
    }


def evaluation() -> str:
    facts = RunFacts(
        title=MARKUP, command=f"segwright evaluate '{MARKUP}'", history=history(), model={"name": LONG},
        plan=[("size", RTL, MARKUP)], versions={"torch": "2.11"}, licenses={"weights": "Apache-2.0"},
    )  # fmt: skip
    found = evaluated()
    found.parts |= parts()
    found.convention, found.temperature = "torchvision", 1.4
    return report_page(found, Scenes(), facts)


def comparison() -> str:
    split, one, two = Scenes(), evaluated(9), evaluated(2)
    models = [
        (name, lambda i, shift=shift: split.predict(shift)([i], None)[0].labels)
        for name, shift in ((MARKUP, 9), (RTL, 2))
    ]
    apart = [found for i in range(3) if (found := disagreement(i, split.ids[i], split, models)) is not None]
    costs = {name: ModelCost(20.0 + len(name), 5.0, 10**6, "cpu") for name in (MARKUP, RTL)}
    return comparison_page(
        compare({MARKUP: one, RTL: two}, disagreements=apart, costs=costs), command=f"segwright compare {LONG}"
    )


def check(folder: Path) -> str:
    root = write_street_scenes(folder / "set", train=4, val=2, test=0, size=(64, 96))
    names = (root / "classes.txt").read_text().replace("sky", MARKUP).replace("car", LONG)
    write_bytes(root / "classes.txt", names.encode())
    masks = sorted((root / "masks" / "train").iterdir())
    labels = read_mask(masks[1])
    labels[:9] = 99
    write_mask(masks[1], labels)
    return write_check_page(check_path(root, workers=0), folder / "check.html").read_text()


def cross_validation(folder: Path) -> str:
    rng = np.random.default_rng(0)
    folds = []
    for number in (1, 2):
        counts = rng.integers(50, 90, (6, 3, 4))
        counts[:, 0] //= 2
        folds.append(Fold(number, folder / f"fold-{number}", 0.5 + number / 20, (0.4, 0.7), counts))
    return folds_page(CrossValidation(folder, NAMES, tuple(folds), 2), command=f"segwright train {LONG} --folds 2")


def study(folder: Path) -> str:
    trials = [
        Trial(
            n, "pruned" if n == 3 else "complete", 0.4 + n / 50,
            {"lr": 0.5 * (n + 1), "loss": MARKUP if n % 2 else "ce"}, {1: 0.2, 5: 0.3 + n / 50, 10: 0.4 + n / 50}, 60.0,
        )
        for n in range(6)
    ]  # fmt: skip
    return study_page(
        Study(
            folder, tuple(trials), trials[5], f"nothing beats {MARKUP}", False, 1.0, importance={"lr": 0.7, LONG: 0.3}
        )
    )


def lr_range() -> str:
    rates = (10.0 ** np.linspace(-6, 0, 60)).tolist()
    losses = [2 - n / 40 if n < 45 else (n - 44) for n in range(60)]
    return range_page(
        LrRange(tuple(rates), tuple(losses), tuple(losses), 1e-3, 1e-2, True, 3e-3),
        command=f"segwright lr-range {LONG}",
    )


def watched(folder: Path, alarms: int = 1) -> MonitorResult:
    """A journal of 200 images in which fog comes up after 120; one image was kept, and one that was kept is gone."""
    kept = folder / "kept.png"
    write_image(kept, np.full((40, 60, 3), 200, np.uint8))
    rows = tuple(range(9, 200, 10))
    times = tuple(1.76e9 + 60.0 * row for row in rows)
    moved = tuple(
        Movement(name, group, 0.3, 0.5, 1e-6, 1e-5, True, f"{name}: 0.50 against 0.30")
        for name, group in (("brightness", "image"), (f"share of {MARKUP}", "classes"), (f"share of {LONG}", "classes"))
    )
    still = Movement("entropy", "confidence", 0.2, math.nan, math.nan, math.nan, False, "entropy: nothing finite")

    def series(name: str, group: str, unit: str, value: float, threshold: float = math.nan) -> Series:
        values = tuple(value * (1 if row < 120 else 1.6) for row in rows)
        bounds = (math.nan,) * 3 if group == "drift" else (value, 0.8 * value, 1.2 * value)
        return Series(name, group, unit, times, rows, values, *bounds, threshold)

    return MonitorResult(
        journal=f"/data/{MARKUP}", model="0123456789abcdef", classes=NAMES, images=200, reference_images=80,
        first=times[0], last=times[-1], rate=0.001, block=5,
        alarms=(Alarm(times[13], 139, MARKUP, "stream", 1234.5, 1000.0, 120, moved, f"{MARKUP}: it grew"),) * alarms,
        movements=(*moved, still),
        series=(
            series("evidence of drift", "drift", "logarithm", 4.0, 6.9), series("brightness", "image", "0…1", 0.4),
            series("mean confidence", "confidence", "0…1", 0.8),
            *(series(f"share of {name}", "classes", "share of pixels", 0.2) for name in NAMES),
            Series("estimated mean IoU", "accuracy", "mean IoU", times, rows,
                   tuple(0.7 if row < 120 else 0.35 for row in rows), 0.7, math.nan, math.nan,
                   lows=tuple(0.65 if row < 120 else 0.2 for row in rows),
                   highs=tuple(0.75 if row < 120 else 0.5 for row in rows)),
        ),
        unlike=(
            UnlikeImage(MARKUP, times[-1], 199, 7.5, "brightness 0.91", str(kept)),
            UnlikeImage(LONG, times[-2], 189, 5.5, "brightness 0.90", str(folder / "gone.png")),
            UnlikeImage(RTL, math.nan, 188, 5.0, "entropy 0.7"),
        ),
        estimate=AccuracyEstimate(0.61, 0.55, 0.67, 0.9, "soft confusion", 0.7, 200, {"ATC": 0.6, LONG: 0.5}, (RTL,)),
        recent=AccuracyEstimate(0.35, 0.2, 0.5, 0.9, "soft confusion", 0.7, 100),
        since_alarm=AccuracyEstimate(0.34, 0.21, 0.47, 0.9, "soft confusion", 0.7, 80) if alarms else None,
        embedding_p=0.00001,
        versions=(
            VersionCount("0123456789abcdef", 200, times[0], times[-1], True),
            VersionCount(MARKUP, 3, 1e30, 2.0, False),
        ),
        skipped={"cut in the middle": 3, MARKUP: 1}, notes=(f"clocks: {MARKUP}",),
    )  # fmt: skip


def monitor(folder: Path) -> str:
    return monitor_page(watched(folder), command=f"segwright monitor {LONG}")

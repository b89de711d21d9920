"""How well errors are found without ground truth, judged with each drive left out.

    python benchmarks/uncertainty.py --fold RUN/last DATA --fold RUN/last DATA [--every 3] [--json FILE]

Each fold is a model and the dataset whose ``val`` is a drive that the model was not trained on (``drives.py``
beside this makes them). Per fold: how well measures of uncertainty find wrong pixels; then the error model, fitted

- on one half of the drive and judged on the other (both ways),
- on the other folds' drives and judged on this one: neither the network nor the error model has seen the drive,
- and, as the paper does, on a random half of the regions of all images of the drive.

With scikit-learn installed, its histogram gradient boosting is fitted to the same regions.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.evaluation.quality import ErrorModelFitter, FittedImage
from segwright.inference.boosting import fit_trees
from segwright.inference.predictor import load
from segwright.inference.quality import ErrorModel
from segwright.inference.region_features import feature_names
from segwright.inference.uncertainty import check_measure, map_of_probabilities, parse_measures
from segwright.metrics.ranking import auroc, r_squared
from segwright.metrics.risk_coverage import RiskCoverage

INSIDE = feature_names(0).index("log_inside")


def read_fold(run: Path, data: Path, every: int, measures: str, sampled_every: int) -> tuple[ErrorModelFitter, dict]:
    """The fold's images with their figures, and the figures of error detection per measure."""
    predictor = load(run, device="cpu", post="none")
    split = open_dataset(data).splits["val"]
    fitter = ErrorModelFitter(predictor.label_space)
    found = {measure: RiskCoverage() for measure in parse_measures(measures)}
    for measure in found:
        check_measure(measure, predictor.runtime)
    groups: dict[Any, list[str]] = {measure: [] for measure in found}
    for number, index in enumerate(range(0, len(split), every)):
        image, truth = split.read_image(index), split.read_mask(index)
        if truth is None:
            continue
        prediction = predictor.predict(image, probabilities=True)
        assert prediction.probabilities is not None
        fitter.add(split.ids[index], prediction.probabilities, prediction.labels, truth, image)
        for measure, counts in found.items():
            if not measure.of_probabilities and number % sampled_every:
                continue
            plane = (
                map_of_probabilities(measure, prediction.probabilities)
                if measure.of_probabilities
                else predictor.predict(image, uncertainty=measure).uncertainty
            )
            assert plane is not None
            counts.update(plane, prediction.labels, truth)
            groups[measure].append(str(number // 5))  # blocks of neighboring frames
    tables = {str(m): counts.result(groups[m]).to_json() for m, counts in found.items()}
    return fitter, tables


def judge(model: ErrorModel, images: Sequence[FittedImage], space: LabelSpace) -> dict[str, float]:
    """The figures of an error model on images that it was not fitted on."""
    wrong, iou, adjusted, inside = [], [], [], []
    errors, covered, widths, class_errors, class_covered, far = [], [], [], [], [], []
    for image in images:
        quality = model.of_figures(image.figures, space)
        wrong.append(model.wrong(image.figures.rows))
        iou.append(np.clip(model.iou(image.figures.rows), 0, 1))
        adjusted.append(image.adjusted)
        inside.append(image.figures.rows[:, INSIDE] > 0)
        errors.append(quality.miou.value - image.miou)
        if math.isfinite(quality.miou.low):
            covered.append(quality.miou.low <= image.miou <= quality.miou.high)
            widths.append(quality.miou.high - quality.miou.low)
        far.append(quality.extrapolates)
        for kind, true in zip(image.figures.present, image.class_iou, strict=True):
            one = quality.per_class[space.names[kind]]
            if math.isfinite(true):
                class_errors.append(one.value - true)
                if math.isfinite(one.low):
                    class_covered.append(one.low <= true <= one.high)
    w, i, a, kept = map(np.concatenate, (wrong, iou, adjusted, inside))
    known = np.isfinite(a)
    kept &= known
    return {
        "images": len(images),
        "regions": int(kept.sum()),
        "share_wrong": float((a[kept] == 0).mean()),
        "auroc": auroc(w[kept], a[kept] == 0),
        "r_squared": r_squared(a[kept], i[kept]),
        "auroc_all_regions": auroc(w[known], a[known] == 0),
        "r_squared_all_regions": r_squared(a[known], i[known]),
        "miou_error": float(np.abs(errors).mean()),
        "miou_bias": float(np.mean(errors)),
        "coverage": float(np.mean(covered)) if covered else float("nan"),
        "width": float(np.mean(widths)) if widths else float("nan"),
        "class_error": float(np.abs(class_errors).mean()),
        "class_coverage": float(np.mean(class_covered)) if class_covered else float("nan"),
        "extrapolates": float(np.mean(far)),
    }


def fitted(images: Sequence[FittedImage], space: LabelSpace, groups: Sequence[str] | None = None) -> ErrorModel:
    fitter = ErrorModelFitter(space)
    fitter.images = list(images)
    return fitter.fit(groups)


def random_halves(images: Sequence[FittedImage], peer: bool) -> dict[str, float]:
    """The paper's protocol: regions with an inside, a random half to fit, the other to judge, both ways."""
    rows = np.concatenate([image.figures.rows for image in images])
    target = np.concatenate([image.adjusted for image in images])
    kept = np.isfinite(target) & (rows[:, INSIDE] > 0)
    rows, target = rows[kept], target[kept]
    half = np.random.default_rng(0).random(len(rows)) < 0.5
    settings: dict[str, Any] = {"trees": 200, "depth": 5, "column_share": 0.2, "least": 20.0}
    chance, value = np.zeros(len(rows)), np.zeros(len(rows))
    theirs, their_value = np.zeros(len(rows)), np.zeros(len(rows))
    for test in (half, ~half):
        chance[test] = fit_trees(rows[~test], target[~test] == 0, "logistic", **settings)(rows[test])
        value[test] = fit_trees(rows[~test], target[~test], "squares", **settings)(rows[test])
        if peer:
            from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

            model = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.06, max_leaf_nodes=12)
            theirs[test] = model.fit(rows[~test], target[~test] == 0).predict_proba(rows[test])[:, 1]
            model = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.06, max_leaf_nodes=12)
            their_value[test] = model.fit(rows[~test], target[~test]).predict(rows[test])
    result = {"auroc": auroc(chance, target == 0), "r_squared": r_squared(target, np.clip(value, 0, 1))}
    if peer:
        result |= {
            "sklearn_auroc": auroc(theirs, target == 0),
            "sklearn_r_squared": r_squared(target, np.clip(their_value, 0, 1)),
        }
    return result


def show(title: str, found: dict[str, float]) -> None:
    print(title + ": " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", nargs=2, type=Path, action="append", required=True, metavar=("RUN", "DATA"))
    parser.add_argument("--every", type=int, default=1, help="use every Nth image")
    parser.add_argument(
        "--measures", default="confidence,entropy,margin,tta(flip,1),tta-information(flip,1),dropout(5)"
    )
    parser.add_argument("--sampled-every", type=int, default=4, help="of these, every Nth for measures by sampling")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        import sklearn  # noqa: F401

        peer = True
    except ImportError:
        peer = False
    folds: dict[str, ErrorModelFitter] = {}
    result: dict[str, Any] = {}
    for run, data in arguments.fold:
        fitter, tables = read_fold(run, data, arguments.every, arguments.measures, arguments.sampled_every)
        name = data.name
        folds[name], result[name] = fitter, {"uncertainty": tables}
        for measure, table in tables.items():
            show(f"{name}: {measure}", {key: table[key] for key in ("auroc", "aupr", "aurc", "excess_aurc")})
    space = next(iter(folds.values())).space
    for name, fitter in folds.items():
        images = sorted(fitter.images, key=lambda image: image.id)
        middle = len(images) // 2
        found = result[name]
        found["random_regions"] = random_halves(images, peer)
        show(f"{name}: random halves of the regions", found["random_regions"])
        for title, train, test in (
            ("first half → second", images[:middle], images[middle:]),
            ("second half → first", images[middle:], images[:middle]),
        ):
            found[title] = judge(fitted(train, space, ["one"] * len(train)), test, space)
            show(f"{name}: {title}", found[title])
        others = [(other, image) for other, them in folds.items() if other != name for image in them.images]
        if others:
            model = fitted([image for _, image in others], space, [other for other, _ in others])
            found["drive left out"] = judge(model, images, space)
            show(f"{name}: other drives → this one", found["drive left out"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""What other tools print, against the tools themselves where they can be installed, else against their published
arithmetic, written down again here from its description: pixel by pixel where theirs is, and in their own types."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segwright.core.errors import UsageError
from segwright.metrics.confusion import class_counts, count_pairs
from segwright.metrics.conventions import (
    CONVENTIONS,
    ConventionResult,
    ScoredCounts,
    apply_convention,
    apply_conventions,
    miou_by_convention,
)

Pairs = Sequence[tuple[Any, Any]]  # prediction, ground truth


def pairs(case: str, classes: int = 5) -> Pairs:
    """Images of the edge cases of conventions."""
    rng = np.random.default_rng(len(case))
    found = []
    for number in range(4):
        target = rng.integers(0, classes, (12, 15)).astype(np.uint8)
        prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, classes, target.shape))
        prediction = prediction.astype(np.uint8)
        if case in ("ignored", "all ignored", "absent and ignored"):
            target[rng.random(target.shape) < 0.2] = 255
        if "absent" in case:
            target[target == 2], prediction[prediction == 2] = 1, 1
        if case == "only predicted":
            target[target == 3] = 0
            prediction[0, 0] = 3
        if case == "absent in one" and number == 0:
            target[target == 4], prediction[prediction == 4] = 0, 0
        if case == "all ignored" and number == 2:
            target[:] = 255
        found.append((prediction, target))
    return found


CASES = ("plain", "ignored", "absent", "absent in one", "absent and ignored", "only predicted", "all ignored")


def scored(found: Pairs, classes: int = 5) -> ScoredCounts:
    """As an evaluation counts."""
    counts = [class_counts(count_pairs(p, t, classes)) for p, t in found if (t != 255).any()]
    return ScoredCounts(
        np.stack(counts),
        ignored=sum(int((t == 255).sum()) for _, t in found if (t != 255).any()),
        all_ignored=sum(not (t != 255).any() for _, t in found),
        stray=sum(bool((p >= classes).any()) for p, _ in found),
    )


def ours(name: str, found: Pairs, classes: int = 5) -> dict[str, float]:
    return {figure.name: figure.value for figure in apply_convention(name, scored(found, classes)).figures}


def equal(value: float, expected: float) -> bool:
    return (math.isnan(value) and math.isnan(expected)) or value == pytest.approx(expected, rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------------------------------------------------------------
# Tools that can be installed


@pytest.mark.parametrize("case", CASES)
def test_segmentation_models_pytorch(case: str) -> None:
    metrics = pytest.importorskip("segmentation_models_pytorch").metrics
    found = pairs(case)
    p, t = (torch.from_numpy(np.stack(arrays)).long() for arrays in zip(*found, strict=True))
    stats = metrics.get_stats(p, t, mode="multiclass", ignore_index=255, num_classes=5)
    figures = ours("smp", found)
    assert next(iter(figures)) == "iou_score macro-imagewise"
    for reduction in ("micro", "macro", "micro-imagewise", "macro-imagewise"):
        theirs = float(metrics.iou_score(*stats, reduction=reduction))
        assert equal(figures[f"iou_score {reduction}"], theirs), reduction
    assert equal(ours("smp-micro-imagewise", found).popitem()[1], figures["iou_score micro-imagewise"])


@pytest.mark.parametrize("case", CASES)
def test_torchmetrics(case: str) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    found = pairs(case)
    jaccard = torchmetrics.classification.MulticlassJaccardIndex(num_classes=5, ignore_index=255)
    mean_iou = importlib.import_module("torchmetrics.segmentation").MeanIoU(num_classes=5, input_format="index")
    result = apply_convention("torchmetrics", scored(found))
    refused = False
    for prediction, target in found:
        p, t = torch.from_numpy(prediction).long()[None], torch.from_numpy(target).long()[None]
        jaccard.update(p, t)
        try:
            mean_iou.update(p, t)
        except RuntimeError:
            refused = True
    index, mean = result.figures
    assert equal(index.value, float(jaccard.compute())) and not index.why_not
    assert refused == bool(mean.why_not) == (case in ("ignored", "absent and ignored", "all ignored"))
    if refused:
        assert math.isnan(mean.value) and mean.printed == "" and "255" in mean.why_not
    else:
        assert equal(mean.value, float(mean_iou.compute()))


def test_torchmetrics_of_one_class_is_refused_as_by_itself() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    with pytest.raises(ValueError, match="larger than 1"):
        torchmetrics.classification.MulticlassJaccardIndex(num_classes=1)
    found = [(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8))]
    assert "larger than 1" in apply_convention("torchmetrics", scored(found, 1)).figures[0].why_not


@pytest.mark.parametrize("case", CASES)
def test_cityscapes_scripts(case: str) -> None:
    module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    from cityscapesscripts.helpers.labels import trainId2label

    found, names = pairs(case), [trainId2label[i] for i in range(5)]
    ids = np.array([label.id for label in names], np.int64)
    everything = sorted({label.id for label in module.labels if label.id >= 0})
    matrix = np.zeros((max(everything) + 1,) * 2, np.ulonglong)
    for prediction, target in found:
        truth = np.where(target == 255, 0, ids[np.minimum(target, 4)])  # id 0: unlabeled, not evaluated
        np.add.at(matrix, (truth, ids[prediction]), 1)
    arguments = SimpleNamespace(evalLabels=everything)
    each = {label.name: module.getIouScoreForLabel(label.id, matrix, arguments) for label in names}
    assert equal(ours("cityscapes", found)["Score Average"], module.getScoreAverage(each, arguments))


# ---------------------------------------------------------------------------------------------------------------------
# Tools of which only the arithmetic is published


def torchvision_reference(found: Pairs, classes: int) -> dict[str, float]:
    """pytorch/vision at 058f331cc652, references/segmentation/utils.py, ConfusionMatrix.update and .compute: a
    confusion matrix where the target is in 0…n−1; scores in float32; a plain mean."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for prediction, target in found:
        for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
            if 0 <= t < classes:
                matrix[t, p] += 1
    h = matrix.float()
    iou = h.diag() / (h.sum(dim=1) + h.sum(dim=0) - h.diag())
    return {"mean IoU": float(iou.mean()), "global correct": float(h.diag().sum() / h.sum())}


def mmseg_reference(found: Pairs, classes: int) -> dict[str, float]:
    """open-mmlab/mmsegmentation at 01c96235453a, mmseg/evaluation/metrics/iou_metric.py,
    IoUMetric.intersect_and_union, .total_area_to_metrics and .compute_metrics: histograms per image without ignored
    pixels, summed; np.nanmean over the classes."""
    total = torch.zeros(3, classes)
    for prediction, target in found:
        p, t = torch.from_numpy(prediction).float(), torch.from_numpy(target).float()
        p, t = p[t != 255], t[t != 255]
        for row, values in enumerate((p[p == t], p, t)):
            total[row] += torch.histc(values, bins=classes, min=0, max=classes - 1)
    hit, predicted, truth = total.double().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mIoU": float(np.nanmean(hit / (predicted + truth - hit))),
            "aAcc": float(hit.sum() / truth.sum()),
            "mAcc": float(np.nanmean(hit / truth)),
        }


def voc_reference(found: Pairs, classes: int) -> dict[str, float]:
    """PASCAL VOC 2012 development kit, VOCcode/VOCevalseg.m: a result above the highest class is an error; joint
    histogram where truth < 255; mean, which in MATLAB is NaN with one NaN."""
    matrix = np.zeros((classes, classes))
    for prediction, target in found:
        if prediction.max() > classes - 1:
            raise ValueError("out of range value")
        kept = target < 255
        code = 1 + target[kept].astype(float) + prediction[kept].astype(float) * classes
        counts = np.array([(code == value).sum() for value in range(1, classes * classes + 1)])
        matrix += counts.reshape(classes, classes).T  # MATLAB fills columns first
    accuracies = []
    for j in range(classes):
        under = matrix[j].sum() + matrix[:, j].sum() - matrix[j, j]
        accuracies.append(matrix[j, j] / under if under else math.nan)
    return {"Average accuracy": sum(accuracies) / classes}


def cityscapes_reference(found: Pairs, classes: int) -> dict[str, float]:
    """cityscapesScripts 2.3.0, evaluation/evalPixelLevelSemanticLabeling.py, getIouScoreForLabel and
    getScoreAverage: false positives only on evaluated truth; the average skips NaN."""
    values = []
    for label in range(classes):
        tp = fn = fp = 0
        for prediction, target in found:
            tp += int(((prediction == label) & (target == label)).sum())
            fn += int(((prediction != label) & (target == label)).sum())
            fp += int(((prediction == label) & (target != label) & (target != 255)).sum())
        if tp + fn + fp:
            values.append(tp / (tp + fn + fp))
    return {"Score Average": sum(values) / len(values)}


def ultralytics_reference(found: Pairs, classes: int) -> dict[str, float]:
    """ultralytics 8.4, task semantic, SemanticMetrics: a float32 matrix of valid pairs; IoU 0 where there is no
    union; the mean over the classes of the ground truth; pixel accuracy with 1e-10 below."""
    matrix = torch.zeros(classes, classes, dtype=torch.float32)
    for prediction, target in found:
        p, t = torch.from_numpy(prediction).long(), torch.from_numpy(target).long()
        valid = (t != 255) & (p < classes) & (t < classes)
        matrix.index_put_((t[valid], p[valid]), torch.ones(int(valid.sum())), accumulate=True)
    hit, truth = matrix.diagonal(), matrix.sum(dim=1)
    union = truth + matrix.sum(dim=0) - hit
    iou = torch.where(union > 0, hit / union.clamp(min=1), torch.zeros(classes))
    miou = float(iou[truth > 0].mean()) if bool((truth > 0).any()) else 0.0
    return {"mIoU": miou, "PixAcc": float(hit.sum() / (matrix.sum() + 1e-10))}


REFERENCES = {
    "torchvision": torchvision_reference,
    "mmseg": mmseg_reference,
    "voc": voc_reference,
    "cityscapes": cityscapes_reference,
    "ultralytics": ultralytics_reference,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", REFERENCES)
def test_published_arithmetic(name: str, case: str) -> None:
    found = pairs(case)
    expected, figures = REFERENCES[name](found, 5), ours(name, found)
    assert list(figures) == list(expected)
    for figure, value in expected.items():
        assert equal(figures[figure], value), (figure, figures[figure], value)


def test_the_cases_tell_the_conventions_apart() -> None:
    """Else the tests above would prove little."""
    only, absent = pairs("only predicted"), pairs("absent")
    assert ours("ultralytics", only)["mIoU"] > ours("mmseg", only)["mIoU"] + 0.01
    assert math.isnan(ours("torchvision", absent)["mean IoU"]) and math.isnan(ours("voc", absent)["Average accuracy"])
    assert not math.isnan(ours("mmseg", absent)["mIoU"])
    different = {name: round(next(iter(ours(name, pairs("all ignored")).values())), 6) for name in CONVENTIONS}
    assert different["smp"] != different["pooled"] != different["per-image"]


def test_voc_refuses_what_the_devkit_refuses() -> None:
    found = [(p.copy(), t.copy()) for p, t in pairs("ignored")]
    prediction, target = found[1]
    prediction[target == 255] = 255  # another tool's mask has its own void there
    with pytest.raises(ValueError, match="out of range"):
        voc_reference(found, 5)
    figure = apply_convention("voc", scored(found)).figures[0]
    assert "1 prediction has" in figure.why_not and math.isnan(figure.value) and math.isnan(figure.ci95[0])
    for name in ("torchvision", "mmseg", "cityscapes", "ultralytics"):  # the others do not look there
        expected = REFERENCES[name]([(np.where(t == 255, 0, p), t) for p, t in found], 5)
        assert equal(next(iter(ours(name, found).values())), next(iter(expected.values())))


def test_one_class() -> None:
    found = [(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8))]
    for name in CONVENTIONS:
        result = apply_convention(name, scored(found, 1))
        assert result.value == 1 or result.figures[0].why_not, name
    assert "background" in apply_convention("ultralytics", scored(found, 1)).figures[0].why_not


# ---------------------------------------------------------------------------------------------------------------------
# Intervals, text


def drawn_by_hand(name: str, found: Pairs, groups: Sequence[int], draws: int = 2000) -> Any:
    """Whole groups drawn with replacement, the tool run on what was drawn."""
    rng, values = np.random.default_rng(3), []
    names = sorted(set(groups))
    for _ in range(draws // 10):
        chosen = rng.choice(names, len(names))
        values.append(next(iter(ours_of_groups(name, found, groups, chosen).values())))
    return np.quantile(values, [0.025, 0.975])


def ours_of_groups(name: str, found: Pairs, groups: Sequence[int], chosen: Any) -> dict[str, float]:
    drawn = [pair for group in chosen for pair, mine in zip(found, groups, strict=True) if mine == group]
    data = scored(drawn)
    return {f.name: f.value for f in apply_convention(name, data, intervals=False).figures}


@pytest.mark.parametrize("name", ["smp", "mmseg", "torchmetrics", "ultralytics", "per-image"])
def test_intervals_are_those_of_drawn_images(name: str) -> None:
    found = [pair for _ in range(3) for pair in pairs("absent in one")]
    rng = np.random.default_rng(0)
    found = [(np.where(rng.random(p.shape) < 0.06 * i, 0, p).astype(np.uint8), t) for i, (p, t) in enumerate(found)]
    groups = [i // 2 for i in range(len(found))]
    low, high = apply_convention(name, scored(found), groups=groups).figures[0].ci95
    expected = drawn_by_hand(name, found, groups)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02) and low < high


def test_all_conventions_at_once_are_each_by_itself() -> None:
    for case in ("plain", "all ignored", "absent in one"):
        data = scored([pair for _ in range(3) for pair in pairs(case)])
        groups = [i // 2 for i in range(len(data.counts))]
        together = apply_conventions(CONVENTIONS, data, groups=groups)
        assert list(together) == list(CONVENTIONS)
        for name, found in together.items():
            assert str(found) == str(apply_convention(name, data, groups=groups)), name  # str: NaN equals itself


@pytest.mark.parametrize("case", CASES)
def test_torchvision_prints_figures_of_every_class(case: str) -> None:
    found = pairs(case)
    matrix = np.zeros((5, 5), np.float32)
    for prediction, target in found:
        np.add.at(matrix, (target[target < 5], prediction[target < 5]), 1)
    h = torch.from_numpy(matrix)
    row, union = h.sum(1), h.sum(1) + h.sum(0) - h.diag()
    result = apply_convention("torchvision", scored(found))
    for one, values in zip(result.lists, (h.diag() / row, h.diag() / union), strict=True):
        assert one.printed == str([f"{value:.1f}" for value in (values * 100).tolist()]), one.name
    assert [one["name"] for one in result.to_json()["lists"]] == ["average row correct", "IoU"]
    assert "lists" not in apply_convention("mmseg", scored(found)).to_json()


def test_what_is_printed_is_in_the_tool_s_own_form() -> None:
    found = pairs("plain")

    def printed(name: str) -> str:
        return apply_convention(name, scored(found)).figures[0].printed

    value = miou_by_convention(scored(found).counts, "mmseg")
    assert printed("torchvision") == f"{100 * value:.1f}" and printed("mmseg") == f"{100 * value:.2f}"
    assert printed("voc") == f"{100 * value:.3f}" and printed("cityscapes") == f"{value:.3f}"
    assert printed("ultralytics") == f"{value:.3g}"
    absent: ConventionResult = apply_convention("torchvision", scored(pairs("absent")))
    assert absent.figures[0].printed == "nan" and all(math.isnan(bound) for bound in absent.figures[0].ci95)
    tree = absent.to_json()
    assert tree["name"] == "torchvision" and "plain mean" in tree["differs"] and len(tree["figures"]) == 2
    assert all(convention.differs and convention.tool for convention in CONVENTIONS.values())


def test_unknown_conventions_and_no_images() -> None:
    with pytest.raises(UsageError, match="torchvision"):
        apply_convention("coco", scored(pairs("plain")))
    nothing = np.zeros((0, 3, 5), np.int64)
    assert math.isnan(miou_by_convention(nothing))
    assert apply_convention("mmseg", ScoredCounts(nothing)).figures[0].why_not

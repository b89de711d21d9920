"""report.html: the results of a training or an evaluation as one self-contained page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright import reports
from segwright.core.errors import SegwrightError
from segwright.core.types import IGNORE_INDEX, LabelSpace, blend
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluate import Evaluation, Example, LabeledImages
from segwright.evaluation.terminal import notes
from segwright.imageio import UInt8Array
from segwright.metrics.confusion import CONVENTIONS
from segwright.reports import Markup, Number, Series, percent

IMAGE_SIDE = 400  # pixels; sharp on a phone and in a quarter of a desktop's width
TOP_CONFUSIONS = 8
MISSED, IGNORED_SHADE = (230, 40, 40), 0.35  # the color of an error; how dark ignored pixels are drawn

OWN_LOSS = (
    "Both losses are one criterion of the network's output, with the same class weights and without ignored pixels; "
    "auxiliary heads are left out. By design the images differ: training has augmented crops in training mode "
    "(dropout, statistics of the batch) and the weights of the step, validation whole images as they are and the "
    "weights that are saved. A loss that the last phase adds appears in both from there on."
)
OTHER_LOSS = (
    "The two losses differ in more than the images: that of training includes auxiliary heads, and may include class "
    "weights and smoothing, which that of validation leaves out."
)


@dataclass(frozen=True)
class RunFacts:
    """The facts on the page besides the scores; all are optional."""

    title: str = "Evaluation"
    command: str = ""  # as it was typed
    history: Sequence[Mapping[str, Any]] = ()  # lines of log.jsonl
    afterwards: str = ""  # a sentence on what was done to the model after the end of the history
    model: Mapping[str, object] = field(default_factory=dict)  # name, encoder, parameters, …
    plan: Sequence[tuple[str, str, str]] = ()  # (what, value, reason)
    versions: Mapping[str, str] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)


def write_report(path: str | Path, evaluation: Evaluation, split: LabeledImages, facts: RunFacts | None = None) -> Path:
    """Write the page atomically and return its path.

    ``split`` must be the one that was evaluated: the worst and best images are read from it again. An image that can no
    longer be read is left out.
    """
    return reports.write_page(path, report_page(evaluation, split, facts or RunFacts()))


def report_page(evaluation: Evaluation, split: LabeledImages, facts: RunFacts) -> str:
    """The page as a string."""
    e = evaluation
    total = max(1, int(e.scores.pixels.sum()))
    return reports.page(
        "evaluation.html.j2",
        title=facts.title,
        leads=(
            ", ".join(f"{value}" for value in facts.model.values()),
            f"{e.images} images of split {e.split}, {e.label_space.classes} classes",
        ),
        tiles=_headline(e),
        sentences=_in_words(e),
        warnings=notes(e),
        curves=_curves(facts.history),
        training_remarks=_training_remarks(facts),
        classes=[
            {**row, "color": color, "share": row["pixels"] / total}
            for row, color in zip(e.per_class, e.label_space.colors, strict=True)
        ],
        confusion=_confusion(e),
        confusions=_common_errors(e),
        image_legend=[*zip(e.label_space.names, e.label_space.colors, strict=True), ("wrong", MISSED)],
        worst=_images(e.worst, split),
        best=_images(e.best, split),
        spread=_spread(e),
        facts=facts,
        made_with=[
            (title, list(items.items()))
            for title, items in (("Model", facts.model), ("Versions", facts.versions), ("Licenses", facts.licenses))
            if items
        ],
        conventions=[(name, CONVENTIONS[name][0], value) for name, value in e.by_convention().items()],
        seconds=e.seconds,
        convention=e.convention,
    )


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl; a truncated line is skipped, a missing file has none."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def _headline(e: Evaluation) -> list[Number]:
    interval = interval_text(e.miou_ci95)
    tiles = [
        Number(
            "mean IoU",
            f"{percent(e.miou)} %",
            f"95 % interval {interval} over {e.independent}" if interval else "one image: no interval",
        ),
        Number("pixel accuracy", f"{percent(e.pixel_accuracy)} %"),
        Number("mean accuracy", f"{percent(e.mean_accuracy)} %", "mean recall"),
        Number("weighted IoU", f"{percent(e.fwiou)} %", "by frequency"),
        Number("mean Dice", f"{percent(e.mean_dice)} %"),
    ]
    if e.boundary is not None:
        tiles.append(Number("boundary IoU", f"{percent(e.boundary_iou)} %"))
    if e.calibration is not None:
        tiles.append(Number("calibration error", f"{percent(e.calibration.ece())} %", "0 is perfect"))
    return tiles


def _in_words(e: Evaluation) -> list[str]:
    """The scores in two or three sentences."""
    defined = [i for i in range(e.label_space.classes) if not math.isnan(e.scores.iou[i])]
    ranked = sorted(defined, key=lambda i: float(e.scores.iou[i]))
    names = e.label_space.names
    sentences = []
    if len(ranked) > 1:
        weak = ", ".join(f"{names[i]} ({percent(float(e.scores.iou[i]))})" for i in ranked[:3])
        strong = ", ".join(f"{names[i]} ({percent(float(e.scores.iou[i]))})" for i in ranked[:-4:-1])
        sentences.append(f"Strongest classes: {strong}. Weakest: {weak}.")
    confused = confusions(e.matrix)
    if confused:
        truth, predicted, _, of_errors, of_truth = confused[0]
        sentences.append(
            f"The commonest confusion: {names[truth]} taken for {names[predicted]} ({100 * of_truth:.0f} % of the "
            f"pixels of {names[truth]}, {100 * of_errors:.0f} % of all wrong pixels)."
        )
    return sentences


def _own_loss(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every step has the loss of the output alone; logs of earlier versions have only the sum with the
    auxiliary heads."""
    return all("main_loss" in entry for entry in history if "loss" in entry)


def _curves(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Loss, score, learning rate and speed over the steps, as far as the log has them: titles and charts."""
    cards = []
    own = _own_loss(history)
    training = ("main_loss", "training (augmented crops)") if own else ("loss", "training (crops, auxiliary heads)")
    for title, label, keys, zero in (
        ("Loss", "loss", (training, ("val_loss", "validation (whole images)")), True),
        ("Validation mean IoU", "mean IoU, %", (("val_miou", "val_miou"),), False),
        ("Learning rate", "learning rate", (("lr", "lr"),), True),
        ("Throughput", "images per second", (("images_per_second", "images_per_second"),), True),
        ("Time spent waiting for images", "share of the time, %", (("loader_share", "loader_share"),), True),
    ):
        series = [s for key, name in keys if (s := _series(history, key, name)) is not None]
        if series:
            cards.append((title, reports.line_chart(series, x_label="step", y_label=label, zero=zero)))
    return cards


def _training_remarks(facts: RunFacts) -> list[str]:
    remarks = [facts.afterwards] if facts.afterwards else []
    if any("val_loss" in entry for entry in facts.history):
        remarks.append(OWN_LOSS if _own_loss(facts.history) else OTHER_LOSS)
    return remarks


def _series(history: Sequence[Mapping[str, Any]], key: str, name: str) -> Series | None:
    points = [(entry.get("step"), entry[key]) for entry in history if key in entry]
    kept = [(float(x), float(y)) for x, y in points if isinstance(x, int | float) and isinstance(y, int | float)]
    if not kept:
        return None
    scale = 100.0 if key in ("val_miou", "loader_share") else 1.0
    return Series(name, [x for x, _ in kept], [scale * y for _, y in kept])


def confusions(matrix: npt.NDArray[np.int64], count: int = TOP_CONFUSIONS) -> list[tuple[int, int, int, float, float]]:
    """The commonest errors: (truth, prediction, pixels, share of all wrong pixels, share of the truth's pixels)."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    errors, truth = int(wrong.sum()), matrix.sum(axis=1)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:count]
    found = []
    for flat in order.tolist():
        i, j = divmod(flat, len(matrix))
        if wrong[i, j] > 0:
            found.append((i, j, int(wrong[i, j]), float(wrong[i, j] / errors), float(wrong[i, j] / truth[i])))
    return found


def _confusion(e: Evaluation) -> Markup | None:
    """The confusion matrix by rows; None for a single class."""
    if len(e.label_space.names) < 2:
        return None
    truth = e.matrix.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(truth > 0, e.matrix / truth, np.nan)
    return reports.heatmap(shares, e.label_space.names, rows="truth", columns="predicted")


def _common_errors(e: Evaluation) -> list[tuple[str, str, str, str]]:
    names = e.label_space.names
    return [
        (names[i], names[j], f"{100 * of_truth:.1f}", f"{100 * of_errors:.1f}")
        for i, j, _, of_errors, of_truth in confusions(e.matrix)
    ]


def _spread(e: Evaluation) -> list[tuple[str, Markup]]:
    """How the images differ, and how well confidence predicts accuracy: titles and charts."""
    cards = []
    values = e.per_image[~np.isnan(e.per_image)]
    if len(values) > 1:
        counts, edges = np.histogram(values, bins=10, range=(0, 1))
        labels = [f"{100 * edge:.0f}" for edge in edges[:-1]]
        chart = reports.bar_chart(labels, counts.tolist(), x_label="mean IoU of the image, %", y_label="images")
        cards.append(("Images by their own mean IoU", chart))
    if e.calibration is not None:
        bins = e.calibration.reliability()
        measured = Series("measured", (100 * bins.confidence).tolist(), (100 * bins.accuracy).tolist())
        ideal = Series("perfect", [0.0, 100.0], [0.0, 100.0])
        chart = reports.line_chart([measured, ideal], x_label="confidence, %", y_label="correct pixels, %", zero=True)
        cards.append((f"Calibration: error {percent(e.calibration.ece())} %", chart))
    return cards


# ---------------------------------------------------------------------------------------------------------------------
# Images


def _images(examples: Sequence[Example], split: LabeledImages) -> list[tuple[str, list[tuple[bytes, str]]]]:
    """Per example a caption and its figures, each the bytes of an image and a label."""
    return [row for example in examples if (row := _example(example, split)) is not None]


def _example(example: Example, split: LabeledImages) -> tuple[str, list[tuple[bytes, str]]] | None:
    try:
        image, mask = split.read_image(example.index), split.read_mask(example.index)
    except (SegwrightError, OSError):
        return None
    if mask is None:
        return None
    shrunk, truth, predicted = fit(image, mask, example.labels)
    space = split.label_space
    shown = (
        ("image", shrunk),
        ("truth", _colored(shrunk, truth, truth, space)),
        ("prediction", _colored(shrunk, predicted, truth, space)),
        ("errors", error_map(shrunk, predicted, truth)),
    )
    figures = [(reports.encode_thumbnail(pixels, IMAGE_SIDE), label) for label, pixels in shown]
    return f"{example.id} – mean IoU {percent(example.miou)} %", figures


def fit(image: UInt8Array, mask: UInt8Array, labels: UInt8Array) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
    """Image (h, w, 3), truth and prediction (h, w) at the displayed size, at most IMAGE_SIDE."""
    height, width = mask.shape
    factor = min(1.0, IMAGE_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if image.shape[2] != 3:
        image = np.repeat(image[..., :1], 3, axis=2)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    truth = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    predicted = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return small, truth, predicted


def _colored(image: UInt8Array, labels: UInt8Array, truth: UInt8Array, space: LabelSpace) -> UInt8Array:
    """Classes over the image; ignored pixels are darkened because they are not scored."""
    return _shade_ignored(blend(image, space.palette()[labels], 0.65), image, truth)


def error_map(image: UInt8Array, labels: UInt8Array, truth: UInt8Array) -> UInt8Array:
    """The image in pale gray, wrong pixels red, ignored ones dark."""
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    pale = np.repeat((gray * 0.45 + 135)[..., None], 3, axis=2)
    pale[labels != truth] = MISSED
    return _shade_ignored(np.clip(pale, 0, 255).astype(np.uint8), image, truth)


def _shade_ignored(shown: UInt8Array, image: UInt8Array, truth: UInt8Array) -> UInt8Array:
    dark = (image.astype(np.float32) * IGNORED_SHADE).astype(np.uint8)
    return np.where((truth == IGNORE_INDEX)[..., None], dark, shown)

"""report.html: the results of a training or an evaluation as one self-contained page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright import reports
from segwright.core.counted import counted
from segwright.core.errors import SegwrightError
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluate import Evaluation, LabeledImages
from segwright.evaluation.examples import Example
from segwright.evaluation.report_parts import (
    calibration_cards,
    calibration_sentence,
    class_chart,
    class_rows,
    corruption_section,
    figure_rows,
    label_error_section,
    slice_section,
    tool_rows,
    uncertainty_section,
)
from segwright.evaluation.terminal import notes
from segwright.metrics.confusion import iou_per_class
from segwright.metrics.conventions import CONVENTIONS
from segwright.reports import Markup, Number, Series, percent
from segwright.reports.viewer import AMOUNT, DIFFERENCE, IMAGE, LABELS, Layer, Viewer, ViewerImage, pack_images

TOP_CONFUSIONS = 8
TABLE_ROWS = 500  # images in the table; a browser takes seconds for tens of thousands
VIEWER_ID = "images"

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
    short_of_time: Sequence[str] = ()  # sentences on what the time before the training was not enough for
    model: Mapping[str, object] = field(default_factory=dict)  # name, encoder, parameters, …
    plan: Sequence[tuple[str, str, str]] = ()  # (what, value, reason)
    versions: Mapping[str, str] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)


def write_report(path: str | Path, evaluation: Evaluation, split: LabeledImages, facts: RunFacts | None = None) -> Path:
    """Write the page atomically and return its path.

    ``split`` must be the one that was evaluated: the images that are shown are read from it again. An image that can no
    longer be read is left out.
    """
    return reports.write_page(path, report_page(evaluation, split, facts or RunFacts()))


def report_page(evaluation: Evaluation, split: LabeledImages, facts: RunFacts) -> str:
    """The page as a string."""
    e = evaluation
    viewer, classes = _viewer(e, split), class_rows(e)
    numbers = {} if viewer is None else {image.name: number for number, image in enumerate(viewer.images, 1)}
    return reports.page(
        "evaluation.html.j2",
        title=facts.title,
        parts=("viewer",) if viewer is not None else (),
        leads=(
            ", ".join(f"{value}" for value in facts.model.values()),
            f"{counted(e.images, 'image')} of split {e.split}, {counted(e.label_space.classes, 'class')}",
        ),
        tiles=_headline(e),
        sentences=_in_words(e),
        warnings=[*facts.short_of_time, *notes(e)],
        curves=_curves(facts.history),
        training_remarks=_training_remarks(facts),
        figures=figure_rows(e),
        classes=classes,
        class_chart=class_chart(classes),
        calibration=(calibration_sentence(e), calibration_cards(e)),
        slices=slice_section(e),
        corruptions=corruption_section(e),
        label_errors=label_error_section(e, numbers),
        tool=tool_rows(e),
        uncertainty=uncertainty_section(e),
        confusion=_confusion(e),
        confusions=_common_errors(e),
        viewer=viewer,
        image_rows=_image_table(e, numbers),
        images_left_out=max(0, e.images - TABLE_ROWS),
        spread=_spread(e),
        facts=facts,
        made_with=[
            (title, list(items.items()))
            for title, items in (("Model", facts.model), ("Versions", facts.versions), ("Licenses", facts.licenses))
            if items
        ],
        conventions=[
            (name, CONVENTIONS[name].differs, value, interval_text(e.convention_intervals()[name]))
            for name, value in e.by_convention().items()
        ],
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
        shown = min(3, len(ranked) // 2)  # no class is both
        weak = ", ".join(f"{names[i]} ({percent(float(e.scores.iou[i]))})" for i in ranked[:shown])
        strong = ", ".join(f"{names[i]} ({percent(float(e.scores.iou[i]))})" for i in ranked[: -shown - 1 : -1])
        sentences.append(f"Strongest {'class' if shown == 1 else 'classes'}: {strong}. Weakest: {weak}.")
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
        ("Validation mean IoU", "mean IoU, %", (("val_miou", "validation mean IoU"),), False),
        (
            "Loss on unlabeled images",
            "loss",
            (("unlabeled_loss", "pseudo-labels (accepted pixels ÷ all unlabeled pixels)"),),
            True,
        ),
        ("Unlabeled pixels that count", "share, %", (("accepted", "accepted pseudo-labels"),), True),
        ("Learning rate", "learning rate", (("lr", "learning rate"),), True),
        ("Throughput", "images per second", (("images_per_second", "images per second"),), True),
        ("Time spent waiting for images", "share of the time, %", (("loader_share", "waiting"),), True),
    ):
        series = [s for key, name in keys if (s := _series(history, key, name)) is not None]
        if series:
            cards.append((title, reports.line_chart(series, x_label="optimizer step", y_label=label, zero=zero)))
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
    scale = 100.0 if key in ("val_miou", "loader_share", "accepted") else 1.0
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
    """How the images differ: titles and charts."""
    cards = []
    values = e.per_image[~np.isnan(e.per_image)]
    if len(values) > 1:
        counts, edges = np.histogram(values, bins=10, range=(0, 1))
        labels = [f"{100 * edge:.0f}" for edge in edges[:-1]]
        chart = reports.bar_chart(labels, counts.tolist(), x_label="mean IoU of the image, %", y_label="images")
        cards.append(("Images by their own mean IoU", chart))
    return cards


# ---------------------------------------------------------------------------------------------------------------------
# Images

VIEWS = (
    Layer("image", "Image", IMAGE),
    Layer("truth", "Truth", LABELS),
    Layer("prediction", "Prediction", LABELS),
    Layer("errors", "Errors", DIFFERENCE, ("truth", "prediction")),
    Layer("doubt", "Uncertainty", AMOUNT),
)


def _viewer(e: Evaluation, split: LabeledImages) -> Viewer | None:
    """The kept images, the worst first; None without any. One that can no longer be read is left out."""
    packed, notes = pack_images(len(e.examples), lambda number: _shown(e, e.examples[number], split), ("doubt",))
    if not packed:
        return None
    if len(packed) < e.images:
        notes.insert(0, f"{len(packed)} of {counted(e.images, 'image')}: the worst, the best, and some between them.")
    has_doubt = all("doubt" in image.maps for image in packed)
    return Viewer(
        id=VIEWER_ID,
        layers=[layer for layer in VIEWS if layer.kind != AMOUNT or has_doubt],
        classes=list(zip(e.label_space.names, e.label_space.colors, strict=True)),
        images=packed,
        view="prediction",
        against="truth",
        ignore="truth",
        score="IoU in this image, %",
        difference="wrong pixels",
        amount="uncertainty, 1 − confidence",
        notes=notes,
    )


def _shown(e: Evaluation, example: Example, split: LabeledImages) -> ViewerImage | None:
    try:
        image, mask = split.read_image(example.index), split.read_mask(example.index)
    except (SegwrightError, OSError):
        return None
    if mask is None:
        return None
    if image.shape[2] != 3:
        image = np.repeat(image[..., :1], 3, axis=2)
    maps = {"truth": mask, "prediction": example.labels}
    if (doubt := example.doubt) is not None:
        maps["doubt"] = doubt
    scores = iou_per_class(e.counts[example.position])
    weak = ", ".join(f"{e.label_space.names[i]} {percent(float(scores[i]))} %" for i in weakest(scores))
    return ViewerImage(
        name=example.id,
        caption=f"mean IoU {percent(example.miou)} %" + (f"; lowest: {weak}" if weak else ""),
        short=f"{percent(example.miou)} %",
        image=image,
        maps=maps,
        scores=scores.tolist(),
    )


def weakest(scores: npt.NDArray[np.float64], count: int = 3) -> list[int]:
    """The classes with the lowest scores, the lowest first, without those that are not defined."""
    defined = [i for i in range(len(scores)) if not math.isnan(scores[i])]
    return sorted(defined, key=lambda i: float(scores[i]))[:count]


def _image_table(e: Evaluation, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """The images, the worst first, at most TABLE_ROWS, with the number in the viewer of those that are shown."""
    scores = iou_per_class(e.counts)
    rows = []
    for position in np.argsort(e.per_image, kind="stable")[:TABLE_ROWS].tolist():
        hits, truth, _ = e.counts[position].sum(axis=1).tolist()
        weak = weakest(scores[position], 1)
        rows.append(
            {
                "name": e.ids[position],
                "number": numbers.get(e.ids[position]),
                "miou": float(e.per_image[position]),
                "accuracy": hits / truth if truth else math.nan,
                "weakest": e.label_space.names[weak[0]] if weak else "",
                "weakest_iou": float(scores[position][weak[0]]) if weak else math.nan,
            }
        )
    return rows

"""report.html: what a training or an evaluation came to, as one self-contained page to show to a colleague."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright import reports
from segwright.core.errors import SegwrightError
from segwright.core.progress import duration
from segwright.core.types import IGNORE_INDEX, LabelSpace, blend
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluate import Evaluation, Example, Labeled
from segwright.evaluation.terminal import notes
from segwright.imageio import UInt8Array
from segwright.metrics.confusion import CONVENTIONS
from segwright.reports import Markup, Number, Series

IMAGE_SIDE = 400  # pixels: sharp on a phone's screen and in a quarter of a desktop's width
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
    """What the page says of the run besides its figures; everything may be left out."""

    title: str = "Evaluation"
    command: str = ""  # as it was typed
    history: Sequence[Mapping[str, Any]] = ()  # lines of log.jsonl
    afterwards: str = ""  # a sentence on what was done to the model after the end of the history
    model: Mapping[str, object] = field(default_factory=dict)  # name, encoder, parameters, …
    plan: Sequence[tuple[str, str, str]] = ()  # (what, value, reason)
    versions: Mapping[str, str] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)


def write_report(path: str | Path, evaluation: Evaluation, split: Labeled, facts: RunFacts | None = None) -> Path:
    """Write the page, whole or not at all, and return where.

    ``split`` must be the one that was evaluated: the worst and best images are read from it again. An image that
    cannot be read any more costs its row, never the page.
    """
    return reports.write_page(path, report_page(evaluation, split, facts or RunFacts()))


def report_page(evaluation: Evaluation, split: Labeled, facts: RunFacts) -> str:
    """The page as a string."""
    e = evaluation
    lead = f"{e.images} images of split {e.split}, {e.label_space.classes} classes"
    model = ", ".join(f"{value}" for value in facts.model.values())
    return reports.page(
        facts.title,
        reports.heading(facts.title, *filter(None, (model, lead)), kicker="segwright report"),
        _headline(e),
        _in_words(e),
        _curves(facts.history, facts.afterwards),
        _classes(e),
        _confusion(e),
        _images("The worst images", e.worst, e, split, "The lowest mean IoU over the classes of the image."),
        _images("The best images", e.best, e, split, ""),
        _spread(e),
        _how(e, facts),
        footer=f"Made by segwright in {duration(e.seconds)}. Figures in per cent; convention: {e.convention}.",
    )


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a line cut short by a kill is left out, a file that is not there gives none."""
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


def _headline(e: Evaluation) -> Markup:
    interval = interval_text(e.miou_ci95)
    tiles = [
        Number(
            "mean IoU",
            _per_cent(e.miou),
            f"95 % interval {interval} over {e.independent}" if interval else "one image: no interval",
        ),
        Number("pixel accuracy", _per_cent(e.pixel_accuracy)),
        Number("mean accuracy", _per_cent(e.mean_accuracy), "mean recall"),
        Number("weighted IoU", _per_cent(e.fwiou), "by frequency"),
        Number("mean Dice", _per_cent(e.mean_dice)),
    ]
    if e.boundary is not None:
        tiles.append(Number("boundary IoU", _per_cent(e.boundary_iou)))
    if e.calibration is not None:
        tiles.append(Number("calibration error", _per_cent(e.calibration.ece()), "0 is perfect"))
    return reports.numbers(tiles)


def _in_words(e: Evaluation) -> Markup:
    """The two or three sentences a colleague would ask for, and what to know before trusting the figures."""
    defined = [i for i in range(e.label_space.classes) if not math.isnan(e.scores.iou[i])]
    ranked = sorted(defined, key=lambda i: float(e.scores.iou[i]))
    names = e.label_space.names
    sentences = []
    if len(ranked) > 1:
        weak = ", ".join(f"{names[i]} ({_per_cent(float(e.scores.iou[i]))})" for i in ranked[:3])
        strong = ", ".join(f"{names[i]} ({_per_cent(float(e.scores.iou[i]))})" for i in ranked[:-4:-1])
        sentences.append(f"Strongest classes: {strong}. Weakest: {weak}.")
    confused = confusions(e.matrix)
    if confused:
        truth, said, _, of_errors, of_truth = confused[0]
        sentences.append(
            f"The commonest confusion: {names[truth]} taken for {names[said]} ({100 * of_truth:.0f} % of the pixels "
            f"of {names[truth]}, {100 * of_errors:.0f} % of all wrong pixels)."
        )
    boxes = [reports.paragraph(note, kind="warn") for note in notes(e)]
    return (
        reports.section("In short", *(reports.paragraph(text) for text in sentences), *boxes)
        if sentences or boxes
        else (Markup(""))
    )


def _curves(history: Sequence[Mapping[str, Any]], afterwards: str) -> Markup:
    """Loss, score, learning rate and speed over the steps, as far as the log holds them."""
    cards = []
    # Runs of before the output's own loss was logged have the whole, with the auxiliary heads.
    own = all("main_loss" in entry for entry in history if "loss" in entry)
    training = ("main_loss", "training (augmented crops)") if own else ("loss", "training (crops, auxiliary heads)")
    for title, keys, zero in (
        ("Loss", (training, ("val_loss", "validation (whole images)")), True),
        ("Validation mean IoU, %", (("val_miou", "val_miou"),), False),
        ("Learning rate", (("lr", "lr"),), True),
        ("Images per second", (("images_per_second", "images_per_second"),), True),
        ("Time spent waiting for images, %", (("loader_share", "loader_share"),), True),
    ):
        series = [s for key, name in keys if (s := _series(history, key, name)) is not None]
        if series:
            cards.append(
                reports.card(reports.line_chart(series, x_label="step", y_label=title, zero=zero), title=title)
            )
    said = [reports.paragraph(afterwards)] if afterwards else []
    if any("val_loss" in entry for entry in history):
        said.append(reports.paragraph(OWN_LOSS if own else OTHER_LOSS))
    return reports.section("Training", *said, reports.grid(*cards, wide=True)) if cards else Markup("")


def _series(history: Sequence[Mapping[str, Any]], key: str, name: str) -> Series | None:
    points = [(entry.get("step"), entry[key]) for entry in history if key in entry]
    kept = [(float(x), float(y)) for x, y in points if isinstance(x, int | float) and isinstance(y, int | float)]
    if not kept:
        return None
    scale = 100.0 if key in ("val_miou", "loader_share") else 1.0
    return Series(name, [x for x, _ in kept], [scale * y for _, y in kept])


def _classes(e: Evaluation) -> Markup:
    total = max(1, int(e.scores.pixels.sum()))
    rows: list[Sequence[object]] = []
    for row, color in zip(e.per_class, e.label_space.colors, strict=True):
        rows.append(
            (
                reports.join((reports.swatch(color), row["name"])),
                reports.bar(row["iou"], color=color, label=_per_cent(row["iou"])),
                *(_per_cent(row[key]) for key in ("dice", "precision", "recall")),
                f"{100 * row['pixels'] / total:.2f}",
            )
        )
    headers = ("class", "IoU", "Dice", "precision", "recall", "share of pixels")
    note = "In per cent. A dash: neither in the masks nor predicted; left out of the means."
    return reports.section("Classes", reports.card(reports.table(headers, rows, numeric=(2, 3, 4, 5))), note=note)


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


def _confusion(e: Evaluation) -> Markup:
    names = e.label_space.names
    if len(names) < 2:
        return Markup("")
    truth = e.matrix.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(truth > 0, e.matrix / truth, np.nan)
    rows = [
        (names[i], names[j], f"{100 * of_truth:.1f}", f"{100 * of_errors:.1f}")
        for i, j, _, of_errors, of_truth in confusions(e.matrix)
    ]
    headers = ("truth", "taken for", "% of class", "% of errors")
    listing = reports.card(reports.table(headers, rows, numeric=(2, 3)), title="Commonest errors") if rows else ""
    return reports.section(
        "Confusion",
        reports.tag(
            "div",
            reports.card(reports.heatmap(shares, names, rows="truth", columns="predicted")),
            listing,
            class_="columns",
        ),
        note="Each row is a true class: where its pixels went, in per cent of the row. "
        "Beside it, the commonest errors: their share of the true class's pixels, and of all wrong pixels.",
    )


def _spread(e: Evaluation) -> Markup:
    """How the images differ, and whether confidences can be believed."""
    cards = []
    values = e.per_image[~np.isnan(e.per_image)]
    if len(values) > 1:
        counts, edges = np.histogram(values, bins=10, range=(0, 1))
        labels = [f"{100 * edge:.0f}" for edge in edges[:-1]]
        chart = reports.bar_chart(labels, counts.tolist(), x_label="mean IoU of the image, %", y_label="images")
        cards.append(reports.card(chart, title="Images by their own mean IoU"))
    if e.calibration is not None:
        bins = e.calibration.reliability()
        measured = Series("measured", (100 * bins.confidence).tolist(), (100 * bins.accuracy).tolist())
        ideal = Series("perfect", [0.0, 100.0], [0.0, 100.0])
        chart = reports.line_chart([measured, ideal], x_label="confidence, %", y_label="right, %", zero=True)
        cards.append(reports.card(chart, title=f"Right, % – calibration error {_per_cent(e.calibration.ece())}"))
    return reports.section("Spread", reports.grid(*cards, wide=True)) if cards else Markup("")


# ---------------------------------------------------------------------------------------------------------------------
# Images


def _images(title: str, examples: Sequence[Example], e: Evaluation, split: Labeled, note: str) -> Markup:
    rows = [row for example in examples if (row := _row(example, split)) is not None]
    if not rows:
        return Markup("")
    key = reports.legend([*zip(e.label_space.names, e.label_space.colors, strict=True), ("wrong", MISSED)])
    return reports.section(title, reports.card(key), *rows, note=note)


def _row(example: Example, split: Labeled) -> Markup | None:
    try:
        image, mask = split.read_image(example.index), split.read_mask(example.index)
    except (SegwrightError, OSError):
        return None
    if mask is None:
        return None
    shrunk, truth, said = fit(image, mask, example.labels)
    space = split.label_space
    caption = f"{example.id} – mean IoU {_per_cent(example.miou)}"
    shown = (
        ("image", shrunk),
        ("truth", _colored(shrunk, truth, truth, space)),
        ("prediction", _colored(shrunk, said, truth, space)),
        ("errors", error_map(shrunk, said, truth)),
    )
    figures = [reports.figure(reports.encode_thumbnail(pixels, IMAGE_SIDE), label) for label, pixels in shown]
    return reports.strip(caption, figures)


def fit(image: UInt8Array, mask: UInt8Array, labels: UInt8Array) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
    """Image (h, w, 3), truth and prediction (h, w) at the size in which they are shown, at most IMAGE_SIDE."""
    height, width = mask.shape
    factor = min(1.0, IMAGE_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if image.shape[2] != 3:
        image = np.repeat(image[..., :1], 3, axis=2)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    truth = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    said = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return small, truth, said


def _colored(image: UInt8Array, labels: UInt8Array, truth: UInt8Array, space: LabelSpace) -> UInt8Array:
    """Classes laid over the image; what the truth ignores is darkened, since nothing there counts."""
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


# ---------------------------------------------------------------------------------------------------------------------
# How it was made


def _how(e: Evaluation, facts: RunFacts) -> Markup:
    parts: list[object] = []
    if facts.command:
        parts.append(reports.code(facts.command))
    if facts.plan:
        rows = [
            (what, reports.tag("span", value, class_="wrap"), reports.tag("span", why, class_="wrap"))
            for what, value, why in facts.plan
        ]
        parts.append(reports.card(reports.table(("chosen", "value", "because"), rows), title="The plan"))
    cards = [
        reports.card(reports.definitions(items), title=title)
        for title, items in (
            ("Model", facts.model.items()),
            ("Versions", facts.versions.items()),
            ("Licenses", facts.licenses.items()),
        )
        if items
    ]
    if cards:
        parts.append(reports.grid(*cards))
    parts.append(reports.details("The same predictions by other code's conventions", _conventions(e)))
    return reports.section("How it was made", *parts)


def _conventions(e: Evaluation) -> Markup:
    rows: Iterable[Sequence[object]] = [
        (name, reports.tag("span", CONVENTIONS[name][0], class_="wrap"), _per_cent(value))
        for name, value in e.by_convention().items()
    ]
    return reports.card(reports.table(("convention", "rule", "mean IoU"), rows, numeric=(2,)))


def _per_cent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"

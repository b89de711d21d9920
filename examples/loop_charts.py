"""The charts of docs/loop.md as SVG files: those of :mod:`segwright.reports`, stacked, with their style inside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from segwright import reports
from segwright.core.atomic_io import write_text
from segwright.demo.dataset import LABEL_SPACE
from segwright.imageio import read_image, read_mask
from segwright.inference.predictor import Predictor
from segwright.labeling.promote import CLASS_DROP
from segwright.metrics.confusion import class_counts, count_pairs, labeled_miou
from segwright.reports import Markup, nice_ticks, static_text

if TYPE_CHECKING:
    from loop import Story

BLOCK = 10  # images whose masks are scored together for the story's chart

WIDTH, SHOWN = 420, 640  # units of a chart, as in segwright.reports; pixels at which a page shows it if there is room
TITLE, LEGEND, ROW = 26, 20, 22  # heights of a title, of a row of the legend, and of a row per class
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STYLE = """
.title { font-size: 14px; font-weight: 650; fill: var(--ink); }
.key-name, .strong { fill: var(--ink); font-size: 12px; }
.strong { font-weight: 650; }
.good-text { fill: var(--good); font-weight: 650; }
.bad-text { fill: var(--bad); font-weight: 650; }
.box { fill: var(--page); stroke: var(--edge); }
.gate { fill: var(--card); stroke: var(--edge); stroke-dasharray: 4 3; }
.arrow { fill: none; stroke: var(--edge); stroke-width: 1.5; }
"""
_SVG = re.compile(r'<svg viewBox="0 0 (\d+) (\d+)"[^>]*>(.*?)</svg>', re.DOTALL)
_KEY = re.compile(r"<li>(<svg.*?</svg>)<bdi>(.*?)</bdi></li>", re.DOTALL)


@dataclass(frozen=True)
class Panel:
    """A drawing of :data:`WIDTH` units across with a title; ``keys``: the samples of its legend and their names."""

    title: str
    body: Markup
    height: int
    keys: Sequence[tuple[Markup, str]] = ()

    @classmethod
    def of(cls, title: str, chart: Markup) -> Panel:
        """A chart of :mod:`segwright.reports`, whose legend is HTML below it."""
        found = _SVG.search(chart)
        if found is None:  # "no figures yet"
            return cls(title, text(0, 14, "no figures yet"), 20)
        keys = [(Markup(key), str(Markup(name).unescape())) for key, name in _KEY.findall(chart)]
        return cls(title, Markup(found[3]), int(found[2]), keys)


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "tick") -> Markup:
    """A line of text, escaped."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, words)


def save_chart(path: Path, label: str, panels: Sequence[Panel]) -> None:
    """Write panels below one another as one SVG; ``label`` is its description."""
    parts, y = [], 8
    for panel in panels:
        parts.append(text(2, y + 15, panel.title, kind="title"))
        y += TITLE
        parts.append(_at(0, y, panel.body))
        y += panel.height + 4
        for key, name in panel.keys:
            parts.append(_at(46, y + 2, Markup('<g transform="scale(0.9)">{}</g>').format(_sized(key))))
            parts.append(text(84, y + 12, name, kind="key-name"))
            y += LEGEND
        y += 10
    style = static_text("report.css") + STYLE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {WIDTH + 16} {y}" width="{SHOWN}" '
        f'height="{round(y * SHOWN / (WIDTH + 16))}" data-theme="light" role="img" aria-label="{Markup.escape(label)}" '
        f'style="font-family: {FONT}"><style>{style}</style>'
        f'<rect x="-8" width="{WIDTH + 16}" height="{y}" fill="var(--card)"/>'
    )
    write_text(path, f"{head}{''.join(parts)}</svg>\n")


def _at(x: float, y: float, body: Markup) -> Markup:
    return Markup('<g transform="translate({:.1f} {:.1f})">{}</g>').format(x, y, body)


def _sized(key: Markup) -> Markup:
    """The sample of a legend without a style sheet that gives it a size."""
    return Markup(str(key).replace("<svg ", '<svg width="30" height="12" ', 1))


# -- before and after, class by class ----------------------------------------------------------------------------------


def change_panel(title: str, scores: dict[str, Any]) -> Panel:
    """IoU before and after a refinement per class, with the interval of the change, of ``PairedScores.to_json``."""
    rows = [("all (mean IoU)", scores["miou"], scores["miou_difference"], scores["ci95"])]
    rows += [(one["name"], one["iou"], one["iou_difference"], one["ci95"]) for one in scores["per_class"]]
    left, right, top = 112.0, WIDTH - 52.0, 18

    def at(share: float) -> float:
        return left + min(max(share, 0.0), 1.0) * (right - left)

    bottom = top + ROW * len(rows)
    parts = [text(WIDTH, top - 6, "points", "end", "axis")]
    for tick in nice_ticks(0, 100, 6):
        parts.append(_line("rule", at(tick / 100), top, at(tick / 100), bottom))
        parts.append(text(at(tick / 100), bottom + 15, f"{tick:g}", "middle"))
    for number, (name, (before, after), change, interval) in enumerate(rows):
        y = top + ROW * (number + 0.5)
        parts.append(text(left - 8, y + 4, name, "end", "strong" if number == 0 else "key-name"))
        if None in (before, after, change, *interval):
            continue  # a class without a labeled pixel on one side
        parts.append(_whisker(at(before + interval[0]), at(before + interval[1]), y))
        parts += [_square(at(before), y), _disc(at(after), y)]
        parts.append(
            text(WIDTH, y + 4, f"{round(100 * change, 1) + 0.0:+.1f}", "end", "strong" if number == 0 else "key-name")
        )
    parts.append(text(right, bottom + 31, "IoU, %", "end", "axis"))
    return Panel(title, Markup("").join(parts), bottom + 36)


def change_keys() -> list[tuple[Markup, str]]:
    """The legend of :func:`change_panel`."""
    samples = (_square(15, 6), _disc(15, 6), _whisker(3, 27, 6))
    names = ("before", "after", "before plus the 95 % interval of the change")
    frame = Markup('<svg viewBox="0 0 30 12">{}</svg>')
    return [(frame.format(one), name) for one, name in zip(samples, names, strict=True)]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')


def _whisker(x1: float, x2: float, y: float) -> Markup:
    return Markup(
        f'<path class="whisker" d="M{x1:.1f} {y - 4:.1f}v8M{x1:.1f} {y:.1f}H{x2:.1f}M{x2:.1f} {y - 4:.1f}v8"/>'
    )


def _square(x: float, y: float) -> Markup:
    return Markup(f'<rect class="mark s1" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>')


def _disc(x: float, y: float) -> Markup:
    return Markup(f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="4.6"/>')


# -- from one version to the next --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A box of :func:`flow_panel`: a heading with lines, each with its class of text."""

    heading: str
    lines: Sequence[tuple[str, str]]
    gate: bool = False


def flow_panel(title: str, steps: Sequence[Step]) -> Panel:
    """Boxes below one another with an arrow from each to the next."""
    parts, y = [], 4.0
    for number, step in enumerate(steps):
        if number:
            parts.append(Markup(f'<path class="arrow" d="M{WIDTH / 2} {y}v15m-5 -6l5 6l5 -6"/>'))
            y += 17
        height = 26 + 17 * len(step.lines)
        kind = "gate" if step.gate else "box"
        parts.append(Markup(f'<rect class="{kind}" x="8" y="{y}" width="{WIDTH - 16}" height="{height}" rx="7"/>'))
        parts.append(text(20, y + 18, step.heading, kind="strong"))
        parts += [text(20, y + 36 + 17 * row, words, kind=kind) for row, (words, kind) in enumerate(step.lines)]
        y += height
    return Panel(title, Markup("").join(parts), round(y) + 2)


# -- the story's charts ------------------------------------------------------------------------------------------------


def draw_charts(story: Story, before: Predictor, after: Predictor, folder: Path) -> None:
    """Draw the charts of docs/loop.md."""
    story_chart(story, before, after, folder / "loop-story.svg")
    training_chart(story, folder / "loop-train.svg")
    evidence_chart(story, folder / "loop-evidence.svg")
    refinement_chart(story, folder / "loop-refine.svg")
    promotion_chart(story, folder / "loop-promote.svg")


def training_chart(story: Story, path: Path) -> None:
    """Loss and mean IoU over the epochs of the training by day."""
    lines = (story.out / "by-day" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    steps = [row for row in rows if "main_loss" in row]
    scored = [row for row in rows if "val_miou" in row]
    config = yaml.safe_load((story.out / "by-day" / "config.yaml").read_text(encoding="utf-8"))["training"]
    criterion = " + ".join(filter(None, (config["loss"], config["final_phase_loss"])))
    epochs = [row["epoch"] for row in scored]
    train = [float(np.mean([row["main_loss"] for row in steps if row["epoch"] == epoch - 1])) for epoch in epochs]
    loss = [
        reports.Series(f"training, {story.scale.train} day images, augmented", epochs, train, dots=False),
        reports.Series(f"validation, {story.scale.val} other day images", epochs, [r["val_loss"] for r in scored],
                       dots=False),
    ]  # fmt: skip
    miou = [reports.Series("mean IoU", epochs, [100 * row["val_miou"] for row in scored], dots=False)]
    panels = [
        Panel.of("Loss", reports.line_chart(loss, x_label="epoch", y_label=f"loss: {criterion}", zero=True)),
        Panel.of(
            f"Mean IoU on the {story.scale.val} validation images",
            reports.line_chart(miou, x_label="epoch", y_label="mean IoU, %", zero=True),
        ),
    ]
    save_chart(path, "Loss and validation mean IoU over the epochs of the training by day", panels)


def evidence_chart(story: Story, path: Path) -> None:
    """The stream detector's evidence over the images that came, with the alarm's level."""
    night = story.figures["night"]
    kept = night["series"]["drift"]
    values = np.log10(np.maximum(np.asarray(kept["value"], np.float64), 1.0)).tolist()
    images = [index + 1 for index in kept["index"]]
    level = float(np.log10(kept["threshold"]))
    lines = [
        reports.Series("evidence that the images have changed", images, values, dots=False),
        reports.Series("level of the alarm", images, [level] * len(images), dots=False),
    ]
    dusk = story.scale.day
    chart = reports.line_chart(
        lines, x_label="images in the order of arrival", y_label="evidence, power of ten", zero=True,
        events=[reports.Event(dusk + 0.5, "night comes")],
    )  # fmt: skip
    first = night["first_alarm"]
    title = "No alarm" if first is None else f"Alarm at image {first}, number {first - dusk} of the night"
    save_chart(path, f"Evidence of drift by image. {title}", [Panel.of(title, chart)])


def story_chart(story: Story, before: Predictor, after: Predictor, path: Path) -> None:
    """Mean IoU of the service's masks over the whole story: the truth, and the estimate without labels."""
    scale, figures = story.scale, story.figures
    parts = (("day", before, story.day, "test"), ("night", before, story.night, "seen"),
             ("later", after, story.night, "later"))  # fmt: skip
    x: list[float] = []
    y: list[float] = []
    for name, predictor, world, split in parts:
        start = {"day": 0, "night": scale.day, "later": scale.day + scale.night}[name]
        for first, miou in blocks(predictor, world, split):
            x.append(start + first + BLOCK / 2)
            y.append(100 * miou)
        x.append(start)
        y.append(float("nan"))  # a gap before the next part
    lines = [reports.Series(f"measured with the truth, {BLOCK} images per point", x, y)]
    lines += estimates(figures["night"]["series"].get("accuracy"), 0, "estimated without labels, with its interval")
    lines += estimates(
        figures["recovered"]["series"].get("accuracy"), scale.day + scale.night, "the same, by the new version"
    )
    promoted = scale.day + scale.night
    chart = reports.line_chart(
        lines, x_label="images in the order of arrival", y_label="mean IoU, %", zero=True,
        events=[reports.Event(scale.day, "night comes"), reports.Event(promoted, "new version")],
    )  # fmt: skip
    label = "Mean IoU of the service's masks by day, by night, and by night after the refinement"
    save_chart(path, label, [Panel.of("How good the service's masks are", chart)])


def blocks(predictor: Predictor, world: Path, split: str) -> list[tuple[int, float]]:
    """(index of the first image, mean IoU) of each :data:`BLOCK` images of a split."""
    images = sorted((world / "images" / split).iterdir())
    classes = len(LABEL_SPACE.names)
    pairs = [
        count_pairs(predictor(read_image(path)).labels, read_mask(world / "masks" / split / path.name), classes)
        for path in images
    ]
    starts = range(0, len(pairs) - BLOCK + 1, BLOCK)
    return [(first, labeled_miou(class_counts(pairs[first : first + BLOCK]))) for first in starts]


def estimates(kept: dict[str, Any] | None, offset: int, name: str) -> list[reports.Series]:
    """The monitor's estimate over its bins of images, as a curve with a band; empty if there is none."""
    if not kept:
        return []
    ends = np.asarray(kept["index"], np.float64) + 1
    middles = (ends + np.concatenate([[0], ends[:-1]])) / 2 + offset
    value, low, high = (
        [float("nan") if one is None else 100 * one for one in kept[key]] for key in ("value", "low", "high")
    )
    return [reports.Series(name, middles.tolist(), value, low, high)]


def refinement_chart(story: Story, path: Path) -> None:
    """IoU per class before and after, on new and on old images."""
    found = story.figures["refine"]
    panels = [
        change_panel(f"New images: {found['new']['images']} of the night, held out", found["new"]),
        change_panel(f"Old images: {found['old']['images']} of the day", found["old"]),
    ]
    panels[-1] = replace(panels[-1], keys=change_keys())
    save_chart(path, "IoU per class before and after the refinement, on new and on old images", panels)


def promotion_chart(story: Story, path: Path) -> None:
    """The two versions, what lies between them, and the conditions of the promotion."""
    figures, days = story.figures, story.scale.train
    train, labeled, done = figures["train"], figures["label"], figures["recovered"]
    names = [figures[step]["version"].partition("-")[2] for step in ("train", "promote")]
    steps = [
        Step(f"Version 1: {names[0]}", [(f"trained on {days} day images", "tick"), _scores(train)]),
        Step("Refinement", [
            (f"new: {labeled['images']} night images, {labeled['clicks']} clicks", "tick"),
            (f"old: the {days} day images again", "tick"),
        ]),
        *gates(story),
        Step(f"Version 2: {names[1]}", [
            _scores(done), (f"in service {done['seconds_to_reload']:.0f} s after the promotion", "tick"),
        ]),
    ]  # fmt: skip
    save_chart(path, "The first version, the conditions of the promotion, and the second version",
               [flow_panel("From version 1 to version 2", steps)])  # fmt: skip


def _scores(figures: dict[str, Any]) -> tuple[str, str]:
    day, night = 100 * figures["day"], 100 * figures["night"]
    return f"mean IoU on test scenes: {day:.1f} % by day, {night:.1f} % by night", "tick"


def gates(story: Story) -> list[Step]:
    """The two conditions of ``segwright promote``, and what the refinement's figures make of them."""
    found = story.figures["refine"]
    low, high = found["new"]["ci95"]
    better = low > 0 and found["new"]["clear"]
    gain = f"{100 * found['new']['miou_difference']:+.1f} points (95 %: {100 * low:+.1f} to {100 * high:+.1f})"
    falls = [
        (f"no: {one['name']} {100 * one['iou_difference']:+.1f} points on the {role} images", "bad-text")
        for role in ("new", "old") for one in found[role]["per_class"]
        if one["iou_difference"] is not None and 100 * one["iou_difference"] < -CLASS_DROP
    ]  # fmt: skip
    drop = "none" if story.scale.accepted_drop is None else f"{story.scale.accepted_drop:g}"
    accepted = [
        ("refused, then accepted by a person:", "tick"),
        (f"--max-class-drop {drop}", "tick"),
    ]
    return [
        Step("Better on the new images?",
             [(f"yes: {gain}", "good-text") if better else (f"no: {gain}", "bad-text")], gate=True),
        Step(f"No class worse by more than {CLASS_DROP:g} points of IoU?",
             [*falls, *accepted] if falls else [("yes", "good-text")], gate=True),
    ]  # fmt: skip

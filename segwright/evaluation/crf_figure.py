"""The figure of the DeepLab papers: image, network, and the labels after 1, 2 and 10 iterations of the CRF.

Under each panel is the share of correct labeled pixels, if the ground truth is known. With ``probability_of`` a
second line shows one class's probability in each panel, as figure 2 of 'Semantic Image Segmentation with Deep
Convolutional Nets and Fully Connected CRFs' (Chen et al. 2015) does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segwright.core.counted import counted
from segwright.core.errors import PostprocessError
from segwright.core.types import IGNORE_INDEX, Float32Array, LabelSpace
from segwright.imageio import UInt8Array, write_image
from segwright.postprocess.crf import DenseCRF

MARGIN, GAP, CAPTION = 14, 8, 22  # pixels: around the figure, between panels, for a line of text
INK, GRAY, FRAME, PAPER = (25, 25, 30), (110, 110, 118), (205, 205, 210), (255, 255, 255)
TEXT = 15  # pixels high, at panels 320 wide


@dataclass(frozen=True)
class FigureRow:
    """One image of the figure: uint8 H×W×C, probabilities K×H×W, and the ground truth H×W if there is one."""

    image: UInt8Array
    probabilities: Float32Array
    truth: UInt8Array | None = None


@dataclass(frozen=True)
class _Panel:
    pixels: UInt8Array  # (h, w, 3)
    caption: str = ""


def crf_figure(
    rows: Sequence[FigureRow],
    label_space: LabelSpace,
    out: str | Path,
    *,
    crf: DenseCRF | None = None,
    iterations: Sequence[int] = (1, 2, 10),
    probability_of: str | None = None,
    width: int = 320,
) -> Path:
    """Write the figure as an image file, a line for each of ``rows``, each panel ``width`` pixels wide.

    ``crf`` None: DeepLab v1's. ``probability_of`` names a class whose probability is shown in a line of its own.
    PostprocessError without rows or iterations, UsageError for an unknown class.
    """
    if not rows or not iterations or min(iterations) < 1 or not 40 <= width <= 4000:
        raise PostprocessError(
            "a figure needs images, iterations and panels",
            expected="at least one image, iterations of 1 or more, panels 40 to 4000 pixels wide",
            found=f"{counted(len(rows), 'image')}, iterations {list(iterations)}, {width} pixels",
        )
    crf = crf or DenseCRF.preset("deeplab-v1")
    shown = None if probability_of is None else label_space.index(probability_of)
    with_truth = any(row.truth is not None for row in rows)
    titles = ["image", "network", *(f"CRF, {n} iteration{'s' if n > 1 else ''}" for n in iterations)]
    lines: list[list[_Panel]] = []
    present: set[int] = set()
    for row in rows:
        steps = [row.probabilities, *(replace(crf, iterations=n)(row.image, row.probabilities) for n in iterations)]
        labels: list[UInt8Array] = [step.argmax(axis=0).astype(np.uint8) for step in steps]
        truth = row.truth if row.truth is not None else np.full(labels[0].shape, IGNORE_INDEX, np.uint8)
        for found in [*labels, truth]:
            present |= set(np.unique(found).tolist()) - {IGNORE_INDEX}
        panels = [_Panel(_fitted(_rgb(row.image), width))]
        panels += [_Panel(_colored(found, label_space, width), _right(found, row.truth)) for found in labels]
        lines.append([*panels, *([_Panel(_colored(truth, label_space, width))] if with_truth else [])])
        if shown is not None:
            maps = [_Panel(_heat(step[shown], width), f"probability of {probability_of}") for step in steps]
            blank = _Panel(np.full_like(panels[0].pixels, 255))
            lines.append([blank, *maps, *([blank] if with_truth else [])])
    figure = _drawn([*titles, *(["ground truth"] if with_truth else [])], lines, width)
    legend = _legend(label_space, sorted(present), figure.shape[1], width)
    return write_image(out, np.concatenate([figure, legend], axis=0), quality=95)


def _drawn(titles: Sequence[str], lines: Sequence[Sequence[_Panel]], width: int) -> UInt8Array:
    """The titles and, line by line, the panels with their captions."""
    scale = width / 320
    text, space = max(9, round(TEXT * scale)), max(12, round(CAPTION * scale))
    heights = [max(panel.pixels.shape[0] for panel in line) for line in lines]
    spaces = [space if any(panel.caption for panel in line) else 0 for line in lines]
    total = MARGIN + space + sum(heights) + sum(spaces) + GAP * len(lines)
    canvas = Image.new("RGB", (2 * MARGIN + len(titles) * (width + GAP) - GAP, total), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        _write(draw, title, (MARGIN + column * (width + GAP) + width / 2, MARGIN), text, INK, "ma", width)
    top = MARGIN + space
    for line, height, below in zip(lines, heights, spaces, strict=True):
        for column, panel in enumerate(line):
            left = MARGIN + column * (width + GAP)
            canvas.paste(Image.fromarray(panel.pixels), (left, top))
            if not (panel.pixels == 255).all() or panel.caption:  # white panels would not be visible on the paper
                edge = (left - 1, top - 1, left + panel.pixels.shape[1], top + panel.pixels.shape[0])
                draw.rectangle(edge, outline=FRAME)
            if panel.caption:
                _write(draw, panel.caption, (left + width / 2, top + height + 2), text - 2, GRAY, "ma", width)
        top += height + below + GAP
    return np.asarray(canvas, np.uint8)


def _legend(label_space: LabelSpace, present: Sequence[int], across: int, width: int) -> UInt8Array:
    """The legend of the classes in the figure, in as many lines as needed."""
    scale = width / 320
    text, space = max(9, round(TEXT * scale)), max(12, round(CAPTION * scale))
    font = ImageFont.load_default(text - 1)
    places: list[tuple[int, float, int]] = []
    left, line = float(MARGIN), 0
    for index in present:
        wanted = font.getlength(label_space.names[index]) + 2.2 * text
        if left + wanted > across - MARGIN and left > MARGIN:
            left, line = float(MARGIN), line + 1
        places.append((index, left, line))
        left += wanted + text
    canvas = Image.new("RGB", (across, (line + 1) * space + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, x, row in places:
        y = row * space
        draw.rounded_rectangle((x, y, x + 1.4 * text, y + text), 3, fill=label_space.colors[index], outline=GRAY)
        draw.text((x + 1.9 * text, y + text / 2), label_space.names[index], INK, font, anchor="lm")
    return np.asarray(canvas, np.uint8)


def _write(
    draw: Any, words: str, place: tuple[float, float], size: int, color: tuple[int, ...], anchor: str, room: int
) -> None:
    """Draw text, smaller if it does not fit its panel."""
    font = ImageFont.load_default(size)
    while font.getlength(words) > room and size > 6:
        size -= 1
        font = ImageFont.load_default(size)
    draw.text(place, words, color, font, anchor=anchor)


def _right(labels: UInt8Array, truth: UInt8Array | None) -> str:
    """The share of correct labeled pixels, as a caption."""
    if truth is None or not (truth != IGNORE_INDEX).any():
        return ""
    known = truth != IGNORE_INDEX
    return f"{100 * float((labels == truth)[known].mean()):.1f} % of the pixels correct"


def _colored(labels: UInt8Array, label_space: LabelSpace, width: int) -> UInt8Array:
    """Labels in their colors, with a soft dark line along the borders to separate similar colors."""
    height = max(1, round(labels.shape[0] * width / labels.shape[1]))
    # Twice the size and down again: colors stay pure inside a region, and its border is smooth.
    large = np.asarray(cv2.resize(labels, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST), np.uint8)
    colors = label_space.palette()[large].astype(np.float32)
    border = np.asarray(cv2.morphologyEx(large, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))) > 0
    colors[border] *= 0.6
    colors[large == IGNORE_INDEX] = 235  # unlabeled: nearly the color of the paper
    return _fitted(colors.astype(np.uint8), width)


def _heat(probability: Float32Array, width: int) -> UInt8Array:
    """A probability from white (0) over orange to dark red (1)."""
    table = np.array([[255, 255, 255], [254, 204, 130], [240, 101, 60], [153, 0, 24]], np.float32)
    place = np.linspace(0, 1, 256) * (len(table) - 1)
    low = np.minimum(place.astype(int), len(table) - 2)
    colors = table[low] + (table[low + 1] - table[low]) * (place - low)[:, None]
    return _fitted(colors[(np.clip(probability, 0, 1) * 255).astype(np.uint8)].astype(np.uint8), width)


def _rgb(image: UInt8Array) -> UInt8Array:
    return image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)


def _fitted(panel: UInt8Array, width: int) -> UInt8Array:
    height = max(1, round(panel.shape[0] * width / panel.shape[1]))
    method = cv2.INTER_AREA if panel.shape[1] > width else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(panel), (width, height), interpolation=method), np.uint8)

"""The images of docs/loop.md, drawn from the folder of a finished run of loop.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from loop_charts import draw_charts
from PIL import Image, ImageDraw, ImageFont

import segwright as sw
from segwright.core.types import UInt8Array, blend
from segwright.demo.dataset import LABEL_SPACE
from segwright.imageio import read_image, read_mask
from segwright.inference.predictor import Predictor
from segwright.labeling.questions import Question, Selection
from segwright.labeling.scores import opinion
from segwright.labeling.sheet import CHOSEN, RANDOM

if TYPE_CHECKING:
    from loop import Story

PALETTE = LABEL_SPACE.palette()
ACROSS, WIDE = 256, 480  # pixels of an image in a row of three, and of two
GAP, LETTERS = 6, 32  # pixels between images; letters are this part of the width, 12 pixels of 390


def draw_images(story: Story, folder: Path) -> None:
    """Draw the images of docs/loop.md."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = sorted(entry for entry in (story.slot / "versions").iterdir() if entry.is_dir())
    before, after = (sw.load(place, device="cpu") for place in (versions[0], versions[-1]))
    draw_charts(story, before, after, folder)
    save(folder / "loop-day.jpg", day_image(story, before))
    save(folder / "loop-night.jpg", night_image(story, before))
    save(folder / "loop-select.jpg", selection_image(story, before))
    save(folder / "loop-labels.jpg", labels_image(story))
    save(folder / "loop-recovered.jpg", recovered_image(story, before, after))


def day_image(story: Story, before: Predictor) -> UInt8Array:
    """Day scenes, predictions, truth."""
    paths = first_images(story.day / "images" / "test")
    images = [read_image(path) for path in paths]
    truth = [read_mask(story.day / "masks" / "test" / path.name) for path in paths]
    return rows_of([
        ("Day: images that no training has seen", images),
        ("Predicted", [colored(one, before(one).labels) for one in images]),
        ("Truth (black: no class)", [colored(one, mask) for one, mask in zip(images, truth, strict=True)]),
    ], legend=True)  # fmt: skip


def night_image(story: Story, before: Predictor) -> UInt8Array:
    """Night scenes, brightened ones, predictions of the day's model, truth."""
    paths = first_images(story.night / "images" / "test")
    images = [read_image(path) for path in paths]
    truth = [read_mask(story.night / "masks" / "test" / path.name) for path in paths]
    lit = [brighter(one) for one in images]
    return rows_of([
        ("Night: what the model gets", images),
        ("The same, brightened for the eye", lit),
        ("Predicted by the model of the day", [colored(one, before(one).labels) for one in images]),
        ("Truth (black: no class)", [colored(one, mask) for one, mask in zip(images, truth, strict=True)]),
    ], legend=True)  # fmt: skip


def selection_image(story: Story, before: Predictor) -> UInt8Array:
    """The :func:`examples` with their numbered questions, and below them where the model is in doubt."""
    asked, doubts = [], []
    for image, items in examples(story):
        asked.append(numbered(brighter(image), items))
        level = np.rint(255 * opinion([before], image).disagreement).astype(np.uint8)
        doubts.append(np.ascontiguousarray(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS)[..., ::-1]))
    return rows_of([
        ("Questions: an image chosen by value, one drawn at random", asked),
        ("Where the model is in doubt", doubts),
    ], across=WIDE, scale=True)  # fmt: skip


def examples(story: Story) -> list[tuple[UInt8Array, list[Question]]]:
    """Two of the selected images with their questions: the first that was chosen, and the first drawn at random."""
    selection = Selection.load(story.out / "selection.json")
    shown = sorted(selection.images, key=lambda one: one.random)
    shown = [shown[0], shown[-1] if shown[-1].random else shown[1]]
    folder = story.night / "images" / "seen"
    return [
        (read_image(folder / one.image), [item for item in selection.items if item.image == one.image]) for one in shown
    ]


def labels_image(story: Story) -> UInt8Array:
    """The labels that the clicks gave to the :func:`examples`, and the truth."""
    labeled, truth = [], []
    for image, items in examples(story):
        name = items[0].image
        gray = cv2.cvtColor(cv2.cvtColor(brighter(image), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        mask = read_mask(story.out / "labels" / "masks" / name)
        labeled.append(np.where((mask == 255)[..., None], gray, PALETTE[mask]))
        truth.append(colored(gray, read_mask(story.night / "masks" / "seen" / name)))
    share = 100 * story.figures["label"]["labeled_share"]
    return rows_of([
        (f"Labels by a click each: {share:.0f} % of the pixels", labeled),
        ("Truth, for comparison (black: no class)", truth),
    ], across=WIDE, legend=True)  # fmt: skip


def recovered_image(story: Story, before: Predictor, after: Predictor) -> UInt8Array:
    """Night scenes, brightened, with the predictions before and after, and the truth."""
    paths = first_images(story.night / "images" / "test")
    images = [read_image(path) for path in paths]
    truth = [read_mask(story.night / "masks" / "test" / path.name) for path in paths]
    return rows_of([
        ("Night, brightened: images that no training has seen", [brighter(one) for one in images]),
        ("Predicted before", [colored(one, before(one).labels) for one in images]),
        ("Predicted after", [colored(one, after(one).labels) for one in images]),
        ("Truth (black: no class)", [colored(one, mask) for one, mask in zip(images, truth, strict=True)]),
    ], legend=True)  # fmt: skip


def first_images(folder: Path, count: int = 3) -> list[Path]:
    """The first images of a folder by name."""
    return sorted(folder.iterdir())[:count]


def colored(image: UInt8Array, labels: UInt8Array) -> UInt8Array:
    """The classes' colors over an image."""
    return blend(image, PALETTE[labels], 0.65)


def brighter(image: UInt8Array) -> UInt8Array:
    """A night image as a person's eye makes it out."""
    return np.clip(255 * (image / 255.0) ** 0.55, 0, 255).astype(np.uint8)


def numbered(image: UInt8Array, asked: Sequence[Question]) -> UInt8Array:
    """The image, enlarged to :data:`WIDE` pixels across, its regions outlined and numbered in the order of asking."""
    factor = WIDE / image.shape[1]
    large = np.ascontiguousarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
    places = []
    for one in asked:
        mask = cv2.resize(one.mask().astype(np.uint8), large.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, contours, -1, (0, 0, 0), 4)
        cv2.drawContours(large, contours, -1, RANDOM if one.random else CHOSEN, 2)
        inner = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)
        row, column = np.unravel_index(int(inner.argmax()), inner.shape)
        places.append((int(column) - 1, int(row) - 1))
    shown = Image.fromarray(large)
    pen, font = ImageDraw.Draw(shown), ImageFont.load_default(WIDE // 18)
    for number, place in enumerate(places, 1):
        pen.text(place, str(number), fill="white", font=font, anchor="mm", stroke_width=3, stroke_fill="black")
    return np.asarray(shown, np.uint8)


def rows_of(
    rows: Sequence[tuple[str, Sequence[UInt8Array]]], *, across: int = ACROSS, legend: bool = False, scale: bool = False
) -> UInt8Array:
    """Rows of images of one size, each ``across`` pixels wide, with a line of text above each row.

    ``legend`` adds the classes' colors below; ``scale`` the colors of the doubt, 0 to 1.
    """
    height, width = rows[0][1][0].shape[:2]
    tall, count = round(height * across / width), len(rows[0][1])
    whole_width = count * (across + GAP) - GAP
    parts = []
    for words, images in rows:
        parts.append(strip(words, whole_width))
        row = np.full((tall + GAP, whole_width, 3), 255, np.uint8)
        for column, image in enumerate(images):
            large = cv2.resize(image, (across, tall), interpolation=cv2.INTER_CUBIC)
            row[:tall, column * (across + GAP) :][:, :across] = large
        parts.append(row)
    parts += [class_legend(whole_width)] if legend else []
    parts += [doubt_legend(whole_width)] if scale else []
    return np.concatenate(parts)


def strip(words: str, width: int) -> UInt8Array:
    """A line of text on white."""
    size = width // LETTERS
    canvas = Image.new("RGB", (width, size * 3 // 2), "white")
    write(ImageDraw.Draw(canvas), (2, size * 3 // 4), words, size)
    return np.asarray(canvas, np.uint8)


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], words: str, size: int) -> None:
    """Text that begins at ``place``, the middle of its height."""
    pen.text(place, words, fill=(22, 24, 29), font=ImageFont.load_default(size), anchor="lm")


def class_legend(width: int, columns: int = 5) -> UInt8Array:
    """The classes' colors with their names."""
    names, size = LABEL_SPACE.names, width // LETTERS
    tall = size * 3 // 2
    canvas = Image.new("RGB", (width, tall * -(-len(names) // columns)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, name in enumerate(names):
        x, y = number % columns * width // columns + 2, number // columns * tall + tall // 4
        pen.rectangle((x, y, x + size * 5 // 6, y + size * 5 // 6), fill=tuple(int(v) for v in PALETTE[number]))
        write(pen, (x + size * 5 // 4, y + tall // 4), name, size)
    return np.asarray(canvas, np.uint8)


def doubt_legend(width: int) -> UInt8Array:
    """The colors of the doubt from 0 to 1, and of the outlines."""
    size = width // LETTERS
    shown = Image.fromarray(strip("0", width))
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)[..., ::-1]
    bar = cv2.resize(np.ascontiguousarray(ramp), (width // 5, size), interpolation=cv2.INTER_LINEAR)
    shown.paste(Image.fromarray(bar), (size, size // 4))
    pen, middle = ImageDraw.Draw(shown), size * 3 // 4
    write(pen, (size * 3 // 2 + width // 5, middle), "1", size)
    for x, color, words in ((width // 3, CHOSEN, "chosen by value"), (width * 2 // 3, RANDOM, "drawn at random")):
        pen.rectangle((x, middle - size // 3, x + size, middle + size // 3), fill=color, outline="black")
        write(pen, (x + size * 3 // 2, middle), words, size)
    return np.asarray(shown, np.uint8)


def save(path: Path, image: UInt8Array) -> None:
    """As a JPEG."""
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])

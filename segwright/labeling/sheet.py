"""A page for people: the chosen images with the regions that would be asked about, before anyone is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segwright.core.counted import counted
from segwright.core.errors import SegwrightError
from segwright.core.types import UInt8Array
from segwright.imageio import write_image
from segwright.labeling.questions import Question, SelectedImage, Selection
from segwright.reports.html import Number, encode_thumbnail, page, write_page

SHOWN = 60  # images on a page
SIDE = 720  # pixels of an image on the page
CHOSEN, RANDOM = (255, 214, 0), (0, 214, 255)  # outlines

ReadPixels = Callable[[Path], UInt8Array]


def write_sheet(path: str | Path, selection: Selection, read: ReadPixels) -> Path:
    """Write the page as HTML, or one image of all of them for a ``.png`` path; ``read`` gives an image (H, W, C)."""
    path = Path(path)
    tiles, lost = _tiles(selection, read)
    if path.suffix.lower() == ".png":
        return write_image(path, _contact_sheet([tile["image"] for tile in tiles]))
    for tile in tiles:
        tile["jpeg"] = encode_thumbnail(tile.pop("image"), SIDE, quality=82)
    checks = sum(item.kind == "check" for item in selection.items)
    drawn = sum(image.random for image in selection.images)
    numbers = [
        Number("images", str(len(selection.images)), f"of {selection.considered}"),
        Number("questions", str(len(selection.items)), f"{selection.clicks} per image"),
        Number("is this right?", str(checks), "the others: which class?"),
        Number("drawn at random", str(drawn), "images, as the control"),
    ]
    document = page(
        "selection.html.j2", title="Selected images and regions", numbers=numbers, tiles=tiles,
        notes=[*selection.notes, *([f"{counted(lost, 'image')} could not be read again to be drawn"] if lost else [])],
        failed=[list(one) for one in selection.failed[:100]], left_out=len(selection.images) - len(tiles) - lost,
        models=list(selection.models),
    )  # fmt: skip
    return write_page(path, document)


def _tiles(selection: Selection, read: ReadPixels) -> tuple[list[dict[str, Any]], int]:
    by_image: dict[str, list[Question]] = {}
    for item in selection.items:
        by_image.setdefault(item.image, []).append(item)
    tiles, lost = [], 0
    for image in selection.images[:SHOWN]:
        asked = by_image.get(image.image, [])
        try:
            drawn = draw(read(selection.path(image)), asked, image)
        except SegwrightError:
            lost += 1
            continue
        tiles.append({"name": image.image, "image": drawn, "random": image.random, "questions": len(asked),
                      "score": f"{image.score:.3f}", "stands_for": len(image.stands_for),
                      "classes": _classes(asked, selection)})  # fmt: skip
    return tiles, lost


def _classes(asked: list[Question], selection: Selection) -> str:
    if selection.label_space is None:
        return ""
    names = selection.label_space.names
    counts: dict[str, int] = {}
    for item in asked:
        if item.predicted is not None:
            counts[names[item.predicted]] = counts.get(names[item.predicted], 0) + 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def draw(pixels: UInt8Array, asked: list[Question], image: SelectedImage) -> UInt8Array:
    """(h, w, 3): the image with the regions outlined and numbered in the order of the questions."""
    rgb = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    height, width = image.image_size
    factor = SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    canvas = np.ascontiguousarray(cv2.resize(np.ascontiguousarray(rgb), size, interpolation=kind), np.uint8)
    places = []
    for number, item in enumerate(asked, 1):
        left, top, right, bottom = (round(side * factor) for side in item.box)
        extent = (max(1, right - left), max(1, bottom - top))
        patch = cv2.resize(item.patch().astype(np.uint8), extent, interpolation=cv2.INTER_NEAREST)
        outline = cv2.findContours(patch, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(left, top))[0]
        cv2.drawContours(canvas, outline, -1, (0, 0, 0), 3)
        cv2.drawContours(canvas, outline, -1, RANDOM if item.random else CHOSEN, 1)
        inner = cv2.distanceTransform(np.pad(patch, 1), cv2.DIST_L2, 3)
        row, column = np.unravel_index(int(inner.argmax()), inner.shape)
        mark = "?" if item.kind == "class" else "ok?"
        places.append((left + int(column) - 1, top + int(row) - 1, f"{number}{mark}"))
    shown = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(shown), ImageFont.load_default(12)
    for x, y, text in places:
        pen.text((x, y), text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.asarray(shown, np.uint8)


def _contact_sheet(images: list[UInt8Array], columns: int = 3) -> UInt8Array:
    """The images side by side in rows, white between them; one white pixel if there is none."""
    if not images:
        return np.full((1, 1, 3), 255, np.uint8)
    height, width = (max(image.shape[axis] for image in images) + 6 for axis in (0, 1))
    columns = min(columns, len(images))
    sheet = np.full((-(-len(images) // columns) * height, columns * width, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet

"""``segwright select``: which images to label, and which regions of them to ask about.

Two passes. The first looks at every image and keeps some kilobytes of it (:mod:`segwright.labeling.pool`); the second
predicts the chosen images again and cuts them into units (:mod:`segwright.labeling.units`), of which the most valuable
become questions (:mod:`segwright.labeling.scores`). Memory does not grow with the pixels of the pool.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import LabelError, ModelError, SegwrightError, UsageError
from segwright.core.progress import progress
from segwright.core.types import IGNORE_INDEX, UInt8Array
from segwright.data.annotations.rle import encode_rows
from segwright.data.formats.label_folder import COUNTS_FILE, MASKS, holds_all, is_label_folder, read_counts
from segwright.data.strokes import JOURNAL, ImageStrokes, check_inside, labels_from_journal, read_journal
from segwright.imageio import read_mask
from segwright.inference.predictor import Predictor
from segwright.inference.uncertainty import check_measure, parse_measure
from segwright.labeling.pool import Choice, choose_images, list_images, read, refuse_sources, scan
from segwright.labeling.questions import Question, SelectedImage, Selection
from segwright.labeling.scores import (
    KINDS,
    Float64Array,
    Opinion,
    UnitScores,
    choose_units,
    opinion,
    plain_units,
    score_units,
)
from segwright.labeling.units import KINDS as UNITS
from segwright.labeling.units import Int32Array, make_units

CONFIDENT = 0.8  # mean probability from which the question is whether the prediction is right
ANSWERED = 0.5  # share of a unit's pixels that have a label already, from which it is not asked about
BASE_SIDE = 256  # pixels; unit sizes are given for images of this shorter side, and grow with it
QUESTIONS = ("auto", "check", "class")
DRAWS = ("best", "proportional")
WORK_PIXELS = 400_000  # of an image that units are made on
LITTLE_BETTER = (
    "regions that a model chose taught little more than random ones where it was measured, with 20 clicks per image of "
    "CamVid: 0.7 points of mIoU more (95 %: 0.5 less to 2.0 more) if it had been trained to the end, 0.4 less (1.2 "
    "less to 0.3 more) if only shortly; --random-share 1 draws all at random"
)
CONTROL = "the images marked as random are the control that shows whether choosing pays here"


@dataclass(frozen=True)
class SelectOptions:
    """How images and regions are chosen."""

    count: int = 100  # images
    clicks: int = 10  # questions per image
    units: str = "superpixels"
    unit_size: int = 22  # pixels on a side of a superpixel, for an image whose shorter side is 256
    unit_count: int = 80  # merged units per image
    disagreement: str = "auto"
    questions: str = "auto"
    random_share: float = 0.15
    draw: str = "proportional"  # regions are drawn in proportion to their score; best: those of the highest
    seed: int = 0
    size_power: float = 0.25  # 0: a region's size does not matter; 1: one answer for twice the pixels is worth twice

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("count", self.count, 1, 10_000_000), ("clicks", self.clicks, 0, 10_000),
            ("unit_size", self.unit_size, 4, 512), ("unit_count", self.unit_count, 2, 10_000),
            ("random_share", self.random_share, 0, 1), ("size_power", self.size_power, 0, 2),
            ("seed", self.seed, 0, 2**63 - 1),
        ):  # fmt: skip
            if not least <= value <= most:
                raise UsageError(f"{name} is out of range", expected=f"{least} to {most}", found=str(value))
        for name, text, known in (
            ("units", self.units, UNITS), ("disagreement", self.disagreement, KINDS),
            ("questions", self.questions, QUESTIONS), ("draw", self.draw, DRAWS),
        ):  # fmt: skip
            if text not in known:
                raise UsageError(f"unknown {name}", expected=", ".join(known), found=text)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return dict(vars(self))


def select(
    models: Sequence[Predictor],
    images: str | Path | Sequence[str | Path],
    options: SelectOptions,
    *,
    names: Sequence[str] = (),
    labels: str | Path | None = None,
    outputs: Sequence[str | Path] = (),
) -> Selection:
    """Choose images and regions of them. ``models``: none (a cold start), one, or several of one label space.
    ``names``: what the models are called. ``labels``: a folder of masks of what is labeled, 255: not yet. ``outputs``:
    files that will be written, none of which may be an image.

    UsageError or DataError if there is nothing to select from, ModelError if the models differ in their classes.
    """
    check_models(models, options)
    root, files, notes = list_images(images)
    refuse_sources(files, outputs)
    masks = None if labels is None else LabelFolder(labels, [_name(path, root) for path in files])
    pool = scan(files, root, models, options.disagreement, "looking at images")
    labeled = [] if masks is None else [
        place for place, one in enumerate(pool.images) if masks.has(_name(one.path, root))
    ]  # fmt: skip
    choice = choose_images(pool, options.count, random_share=options.random_share, seed=options.seed, labeled=labeled)
    if len(choice.places) < options.count:
        copies = sum(len(others) for others in choice.stands_for.values())
        notes.append(
            f"{counted(len(choice.places), 'image', 'is')} chosen, not {options.count}: there are "
            f"{len(pool.images)} that can be "
            f"used, {copies} of them near-duplicates of chosen ones"
        )
    weights = pool.weights() if models else None
    scores, chosen, items = pool.scores(), [], []
    with progress("asking about regions", len(choice.places)) as advance:
        for number, place in enumerate(choice.places):
            one, drawn = pool.images[place], place in choice.random
            name = _name(one.path, root)
            try:
                pixels = read(one.path, models)
                found = opinion(models, pixels, options.disagreement) if models else None
                known = None if masks is None else masks.read(name, one.size)
                rng = np.random.default_rng([options.seed, number])
                items += ask(name, pixels, found, weights, options, drawn=drawn, rng=rng, known=known)
                others = tuple(_name(pool.images[other].path, root) for other in choice.stands_for[place])
                chosen.append(SelectedImage(name, one.size, float(scores[place]), drawn, others))
            except SegwrightError as error:  # it changed since it was looked at
                pool.failed.append((str(one.path), str(error)))
            advance(1)
    asked = {item.image for item in items}
    silent = [one.image for one in chosen if one.image not in asked] if options.clicks else []
    if silent:
        notes.append(
            f"{counted(len(silent), 'chosen image', 'has')} no region to ask about, since all of them are labeled "
            f"already, such as {silent[0]}"
        )
    notes += _control_notes(options, choice, len(pool.images), bool(models))
    if masks is not None and masks.unclear:
        notes.append(
            f"{counted(len(masks.unclear), 'image', 'has')} no labels that are known: another image differs in its "
            f"suffix alone, and {masks.folder} has one mask for both, such as for {masks.unclear[0]}; name masks as "
            "their images with .png added"
        )
    if masks is not None and not masks.found:
        notes.append(f"no chosen image has a mask in {masks.folder}: all regions are asked about, labeled or not")
    return Selection(
        items=tuple(items), images=tuple(chosen), root=root,
        label_space=models[0].label_space if models else None,
        models=tuple(names), seed=options.seed, clicks=options.clicks, considered=len(files),
        failed=tuple(pool.failed), notes=tuple(dict.fromkeys([*notes, *(n for model in models for n in model.notes)])),
        settings=options.to_json(),
    )  # fmt: skip


def check_models(models: Sequence[Predictor], options: SelectOptions) -> None:
    """UsageError or ModelError for models that do not go together, or settings that need one."""
    if not models and options.questions == "check":
        raise UsageError(
            "a question whether the prediction is right needs a model", fix="give one, or --questions class"
        )
    if not models and options.units == "segments":
        raise UsageError("segments are of a prediction", found="no model", fix="--units merged or superpixels")
    if options.disagreement in ("dropout", "ensemble"):
        for model in models:
            check_measure(parse_measure(options.disagreement), model.runtime)
    for other in models[1:]:
        if other.label_space.names != models[0].label_space.names:
            raise ModelError(
                "the models have different classes",
                expected=", ".join(models[0].label_space.names)[:200],
                found=", ".join(other.label_space.names)[:200],
                fix="give models that were trained on the same classes",
            )
        if other.runtime.in_channels != models[0].runtime.in_channels or other.value_range != models[0].value_range:
            raise ModelError(
                "the models read images differently",
                expected=f"{models[0].runtime.in_channels} channels and one value range",
                found=f"{other.runtime.in_channels} channels",
                fix="give models that were trained on the same images",
            )


def ask(
    name: str,
    pixels: UInt8Array,
    found: Opinion | None,
    weights: Float64Array | None,
    options: SelectOptions,
    *,
    drawn: bool = False,
    rng: np.random.Generator,
    known: UInt8Array | None = None,
) -> list[Question]:
    """The questions about one image (H, W, C), the most valuable first.

    ``found``: what the models predict, and ``weights`` (K,) how rare the classes are; None without a model. ``drawn``:
    an image of the random share has units drawn at random, each as likely as another. ``known``: its label mask so far
    (H, W), 255: none; what has labels is not asked about.
    """
    units, scores = image_units(pixels, found, weights, options)
    free = np.ones(len(scores.pixels), bool)
    answered = np.zeros(len(scores.pixels), bool)
    if known is not None:
        labeled = np.bincount(units.ravel(), (known != IGNORE_INDEX).ravel(), minlength=len(free)) / scores.pixels
        answered = labeled >= ANSWERED
        free &= ~answered
    if drawn:
        order = rng.permutation(np.flatnonzero(free))[: options.clicks].tolist()
    else:
        luck = rng if options.draw == "proportional" and found is not None else None
        order = choose_units(scores, options.clicks, (pixels.shape[0], pixels.shape[1]), free, answered, luck)
    boxes = unit_boxes(units)
    asked = []
    for one in order:
        left, top, right, bottom = boxes[one]
        inside = units[top:bottom, left:right] == one
        sure = found is not None and scores.confidence[one] >= CONFIDENT
        check = found is not None and (options.questions == "check" or (options.questions == "auto" and sure))
        asked.append(
            Question(
                name, (pixels.shape[0], pixels.shape[1]), (left, top, right, bottom), tuple(encode_rows(inside)),
                "check" if check else "class", int(scores.predicted[one]) if found is not None else None,
                float(scores.score[one]), drawn,
            )
        )  # fmt: skip
    return asked


def image_units(
    pixels: UInt8Array, found: Opinion | None, weights: Float64Array | None, options: SelectOptions
) -> tuple[Int32Array, UnitScores]:
    """The units (H, W) of an image and their scores.

    Both are made on an image of at most :data:`WORK_PIXELS`; the units are then brought to the image's own size.
    """
    height, width = pixels.shape[:2]
    factor = min(1.0, (WORK_PIXELS / (height * width)) ** 0.5)
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    shown = _reduced(pixels, small)
    reduced = None if found is None else Opinion(
        np.stack([_reduced(plane, small) for plane in found.probabilities]), _reduced(found.disagreement, small)
    )  # fmt: skip
    size = max(4, round(options.unit_size * min(small) / BASE_SIDE))
    units = make_units(
        options.units, shown, size=size, count=options.unit_count,
        probabilities=None if reduced is None else reduced.probabilities,
    )  # fmt: skip
    if reduced is None or weights is None:
        scores = plain_units(units, shown)
    else:
        scores = score_units(units, reduced, weights, size_power=options.size_power)
    if small == (height, width):
        return units, scores
    large = np.asarray(cv2.resize(units, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.int32)
    sizes = np.bincount(large.ravel(), minlength=len(scores.pixels))
    scale = np.array([height / small[0], width / small[1]])
    return large, replace(scores, pixels=sizes, center=scores.center * scale)


def _reduced(plane: Any, size: tuple[int, int]) -> Any:
    """A plane or an image resized to (height, width) by averaging."""
    if plane.shape[:2] == size:
        return plane
    found = cv2.resize(np.ascontiguousarray(plane), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return found.reshape(*size, plane.shape[2]) if plane.ndim == 3 else found


def unit_boxes(units: Int32Array) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each unit; right and bottom are not part of it."""
    from scipy.ndimage import find_objects

    return [
        (columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in (found for found in find_objects(units + 1) if found is not None)
    ]


class LabelFolder:
    """The masks of what is labeled so far, of a label folder by ``labels.json``, or masks themselves.

    ``images``: the names of all images that are looked at. Masks without a ``labels.json`` are named as their image
    with ``.png`` added, or in place of its suffix if no other image differs in it alone; ``unclear`` has the others.
    """

    def __init__(self, folder: str | Path, images: Sequence[str] = ()) -> None:
        self.folder, self.found = Path(folder), 0
        self.unclear: list[str] = []
        if not self.folder.is_dir():
            raise UsageError(
                "no label folder here",
                expected="a folder of masks, 255: not labeled",
                where=folder,
                fix="check the path",
            )
        self._masks: dict[str, Path] | None = None
        self._strokes: dict[str, ImageStrokes] = {}
        self._generation, self._journal = 0, self.folder / JOURNAL
        stems = Counter(os.path.splitext(name)[0] for name in images)
        self._shared = {name for name in images if stems[os.path.splitext(name)[0]] > 1}
        if is_label_folder(self.folder) or (self.folder / COUNTS_FILE).is_file():
            self._read_index()
        if (self.folder / "masks").is_dir():
            self.folder = self.folder / "masks"

    def _read_index(self) -> None:
        """The masks that ``labels.json`` names, and the strokes of images whose mask is behind the journal."""
        journal, counts = read_journal(self._journal), read_counts(self.folder)
        self._generation, self._masks = journal.generation, {}
        for name, entry in counts.items():
            if "mask" in entry:
                self._masks[name] = self.folder / MASKS / check_inside(str(entry["mask"]))
        for name, strokes in journal.images.items():
            entry = counts.get(name, {})
            if not (
                name in self._masks and self._masks[name].is_file() and holds_all(entry, strokes.end, self._generation)
            ):
                self._strokes[name] = strokes

    def _path(self, name: str) -> Path | None:
        if self._masks is not None:
            return self._masks.get(name)
        whole, stem = self.folder / f"{name}.png", (self.folder / name).with_suffix(".png")
        if whole.is_file() or not stem.is_file():
            return whole
        if name in self._shared:
            if name not in self.unclear:
                self.unclear.append(name)
            return None
        return stem

    def has(self, name: str) -> bool:
        """Whether an image has a mask here; it is not read."""
        path = self._journal if name in self._strokes else self._path(name)
        return path is not None and path.is_file()

    def read(self, name: str, size: tuple[int, int]) -> UInt8Array | None:
        """The mask (H, W) of an image; None if it has none. LabelError if its size differs."""
        strokes = self._strokes.get(name)
        path = self._journal if strokes is not None else self._path(name)
        if path is None or not path.is_file():
            return None
        if strokes is not None:
            values = labels_from_journal(path, strokes, self._generation)
        else:
            values = np.asarray(read_mask(path), np.uint8)
        self.found += 1
        if values.shape[:2] != size:
            raise LabelError(
                "the labels of an image have another size",
                expected=f"{size[1]}×{size[0]}",
                found=f"{values.shape[1]}×{values.shape[0]}",
                where=path,
            )
        return np.asarray(values.reshape(size), np.uint8)


def _control_notes(options: SelectOptions, choice: Choice, total: int, with_model: bool) -> list[str]:
    """What is known of choosing by a model, and whether the selection has images to compare it with."""
    notes = [LITTLE_BETTER] if with_model and options.clicks and options.random_share < 1 else []
    if choice.random:
        return [*notes, CONTROL] if notes else notes
    most = min(options.count, total)
    if options.random_share > 0:
        notes.append(
            f"no image is drawn at random, so there is no control: {100 * options.random_share:g} % of "
            f"{counted(most, 'image')} is less than half an image; --random-share {1 / most:.2g} draws one"
        )
    return notes


def _name(path: Path, root: Path) -> str:
    """The path below the root, with slashes."""
    return Path(os.path.relpath(path, root)).as_posix()

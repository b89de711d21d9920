"""Which question comes next: those of a selection in its order, each for one person at a time.

Without a selection, the questions of an image are its least certain superpixels, made when the image is reached.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import SegwrightError
from segwright.core.types import UInt8Array
from segwright.labeling.page.images import LabelImages
from segwright.labeling.questions import Question, Selection
from segwright.labeling.store import LabelFolder

RESERVED_SECONDS = 90.0  # for which a question belongs to the person who got it
PER_IMAGE = 10  # questions of an image without a selection
CELLS = 220  # superpixels of an image for them


def question_id(question: Question) -> str:
    """The same for the same region of the same image, whoever made the question and when."""
    digest = zlib.crc32(" ".join(map(str, question.region)).encode())
    return f"{'-'.join(map(str, question.box))}-{digest:08x}"


@dataclass
class Asked:
    """A question and its image's number."""

    number: int
    id: str
    question: Question
    by: str = ""
    until: float = 0.0


@dataclass
class Queue:
    """The questions in order. ``selection`` None: made image by image."""

    images: LabelImages
    store: LabelFolder
    selection: Selection | None = None
    clock: Callable[[], float] = time.monotonic
    _made: dict[int, list[Asked]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._number = {name: number for number, name in enumerate(self.images.names)}
        self.unknown: list[str] = []
        self._listed: list[Asked] | None = None
        if self.selection is not None:
            self.use(self.selection)

    def use(self, selection: Selection) -> None:
        """Take the questions of a selection from now on; images that are not here are passed over and named."""
        rows = [(self._number.get(item.image), item) for item in selection.items]
        listed = [Asked(number, question_id(item), item) for number, item in rows if number is not None]
        with self._lock:
            self.selection = selection
            self.unknown = sorted({item.image for number, item in rows if number is None})
            self._listed = listed
            self._made = {}

    def drop(self) -> None:
        """Forget the questions that the former model made; those of a selection stay."""
        with self._lock:
            self._made = {}

    def next(self, by: str, count: int, have: Iterable[str] = (), busy: Iterable[int] = ()) -> list[Asked]:
        """The next questions for one person, reserved for a while.

        ``have``: questions that the person holds already; ``busy``: images that others work on, which come last.
        """
        held, taken = set(have), set(busy)
        found: list[Asked] = []
        later: list[Asked] = []
        for asked in self._open(by):
            if f"{asked.number}/{asked.id}" in held:
                self._reserve(asked, by)
            elif asked.number in taken:
                later.append(asked)
            else:
                found.append(asked)
            if len(found) >= count:
                break
        found += later[: count - len(found)]
        for asked in found:
            self._reserve(asked, by)
        return found

    def of_image(self, number: int, by: str) -> list[Asked]:
        """The open questions about one image."""
        rows = self._all_of(number)
        found = [asked for asked in self._still_open(rows) if self._free(asked, by)]
        for asked in found:
            self._reserve(asked, by)
        return found

    def left(self) -> int | None:
        """How many questions of a selection are open; None if they are made image by image."""
        with self._lock:
            return None if self._listed is None else sum(1 for _ in self._still_open(self._listed))

    def _free(self, asked: Asked, by: str) -> bool:
        return asked.by in ("", by) or asked.until < self.clock()

    def _reserve(self, asked: Asked, by: str) -> None:
        with self._lock:
            asked.by, asked.until = by, self.clock() + RESERVED_SECONDS

    def _open(self, by: str) -> Iterator[Asked]:
        if self._listed is not None:
            yield from (asked for asked in self._still_open(self._listed) if self._free(asked, by))
            return
        for number in range(len(self.images.names)):
            try:
                yield from (asked for asked in self._still_open(self._all_of(number)) if self._free(asked, by))
            except SegwrightError:
                continue  # opening the image shows why it cannot be read

    def _all_of(self, number: int) -> list[Asked]:
        if self._listed is not None:
            return [asked for asked in self._listed if asked.number == number]
        with self._lock:
            if number not in self._made:
                made = quick_questions(self.images, number)
                self._made[number] = [Asked(number, question_id(one), one) for one in made]
            return self._made[number]

    def _still_open(self, rows: Sequence[Asked]) -> Iterator[Asked]:
        """Without those that are answered or skipped, or whose region was painted for the most part."""
        answered: dict[int, Mapping[str, str]] = {}
        for asked in list(rows):
            name = self.images.names[asked.number]
            if asked.number not in answered:
                answered[asked.number] = self.store.answered(name)
            if asked.id in answered[asked.number] or self._is_painted(name, asked.question):
                continue
            yield asked

    def _is_painted(self, name: str, question: Question) -> bool:
        return self.store.labeled_share(name, question.inner, question.patch()) > 0.5


def quick_questions(images: LabelImages, number: int) -> list[Question]:
    """The least certain superpixels of an image, apart from each other; without a model, superpixels spread over it."""
    pixels = images.pixels(number)
    prediction = images.prediction(number)
    units = _cells(pixels)
    name = images.names[number]
    count = int(units.max()) + 1
    sizes = np.bincount(units.ravel(), minlength=count)
    if prediction is None:
        score = np.zeros(count)
    else:
        doubt = np.bincount(units.ravel(), weights=1.0 - prediction.confidence.ravel(), minlength=count)
        score = doubt / np.maximum(sizes, 1)
    tie = (np.arange(count) * 0.61803398875) % 1.0  # spread over the image where all are equal
    order = np.lexsort((tie, -np.round(score, 3)))
    places = _centers(units, count)
    apart = math.sqrt(units.size / CELLS) * 1.5
    chosen: list[int] = []
    for unit in order.tolist():
        if sizes[unit] and all(math.dist(places[unit], places[other]) >= apart for other in chosen):
            chosen.append(unit)
        if len(chosen) == PER_IMAGE:
            break
    return [
        _question(name, units, unit, prediction.labels if prediction else None, float(score[unit])) for unit in chosen
    ]


def _cells(pixels: UInt8Array) -> npt.NDArray[np.int32]:
    """Superpixels (H, W) of about one in CELLS of the image, made on a copy of at most half a megapixel."""
    from segwright.postprocess.superpixels import superpixels

    height, width = pixels.shape[:2]
    scale = max(1, math.ceil(math.sqrt(height * width / 500_000)))
    small = pixels if scale == 1 else cv2.resize(pixels, (max(1, width // scale), max(1, height // scale)))
    side = max(2, round(math.sqrt(small.shape[0] * small.shape[1] / CELLS)))
    units = superpixels(np.asarray(small, np.uint8), size=min(side, 1000))
    if scale > 1:
        units = cv2.resize(units, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(units, np.int32)


def _centers(units: npt.NDArray[np.int32], count: int) -> list[tuple[float, float]]:
    rows, columns = np.indices(units.shape, np.float32)
    sizes = np.maximum(np.bincount(units.ravel(), minlength=count), 1)
    y = np.bincount(units.ravel(), weights=rows.ravel(), minlength=count) / sizes
    x = np.bincount(units.ravel(), weights=columns.ravel(), minlength=count) / sizes
    return list(zip(y.tolist(), x.tolist(), strict=True))


def _question(name: str, units: npt.NDArray[np.int32], unit: int, labels: UInt8Array | None, score: float) -> Question:
    """The question about the largest connected part of a superpixel."""
    mask = (units == unit).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 2 else 1
    region = parts == largest
    if labels is None:
        return Question.of_mask(name, region, kind="class")
    predicted = int(np.bincount(labels[region]).argmax())
    return Question.of_mask(name, region, kind="check", predicted=predicted, score=score)

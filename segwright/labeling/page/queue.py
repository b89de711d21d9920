"""Which question comes next: those of a selection in its order, each for one person at a time.

Without a selection, the questions of an image are its own most valuable regions, made when the image is reached.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from segwright.core.errors import SegwrightError
from segwright.labeling.page.images import LabelImages
from segwright.labeling.questions import Question, Selection
from segwright.labeling.store import LabelFolder

RESERVED_SECONDS = 90.0  # for which a question belongs to the person who got it
PAINTED_SHARE = 0.5  # of a region that was painted: it is not asked about any more
PER_IMAGE = 10  # questions of an image without a selection


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
    checked: int = -1  # the image's revision when it was found to be
    painted: bool = False  # for the most part


@dataclass
class Queue:
    """The questions in order. ``selection`` None: made image by image."""

    images: LabelImages
    store: LabelFolder
    selection: Selection | None = None
    clock: Callable[[], float] = time.monotonic
    _made: dict[int, list[Asked]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _making: threading.Lock = field(default_factory=threading.Lock)

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

    def drop(self) -> None:
        """Forget the questions that the former model made; those of a selection stay."""
        with self._making:
            self._made = {}

    def next(self, by: str, count: int, have: Iterable[str] = (), busy: Iterable[int] = ()) -> list[Asked]:
        """The next questions for one person, reserved for a while.

        ``have``: questions that the person holds already; ``busy``: images that others work on, which come last.
        """
        held, taken = set(have), set(busy)
        found: list[Asked] = []
        later: list[Asked] = []
        for asked in self._open():
            if f"{asked.number}/{asked.id}" in held:
                self._take(asked, by)
            elif asked.number in taken:
                later.append(asked)
            elif self._take(asked, by):
                found.append(asked)
            if len(found) >= count:
                break
        for asked in later:
            if len(found) < count and self._take(asked, by):
                found.append(asked)
        return found

    def of_image(self, number: int, by: str) -> list[Asked]:
        """The open questions about one image."""
        return [asked for asked in self._still_open(self._all_of(number)) if self._take(asked, by)]

    def left(self) -> int | None:
        """How many questions of a selection are open; None if they are made image by image."""
        with self._lock:
            if self._listed is None:
                return None
            answered: dict[int, Mapping[str, str]] = {}
            for number in {asked.number for asked in self._listed}:
                answered[number] = self.store.answered(self.images.names[number])
            return sum(not asked.painted and asked.id not in answered[asked.number] for asked in self._listed)

    def _take(self, asked: Asked, by: str) -> bool:
        """Reserve a question unless another person has it: two requests at once never get the same one."""
        with self._lock:
            free = asked.by in ("", by) or asked.until < self.clock()
            if free:
                asked.by, asked.until = by, self.clock() + RESERVED_SECONDS
            return free

    def _open(self) -> Iterator[Asked]:
        if self._listed is not None:
            yield from self._still_open(self._listed)
            return
        for number in range(len(self.images.names)):
            try:
                yield from self._still_open(self._all_of(number))
            except SegwrightError:
                continue  # opening the image shows why it cannot be read

    def _all_of(self, number: int) -> list[Asked]:
        if self._listed is not None:
            return [asked for asked in self._listed if asked.number == number]
        with self._making:  # not the other lock: the network may take seconds
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
            if asked.id not in answered[asked.number] and not self._is_painted(name, asked):
                yield asked

    def _is_painted(self, name: str, asked: Asked) -> bool:
        revision = self.store.revision(name)
        if asked.checked != revision:
            question = asked.question
            asked.painted = self.store.labeled_share(name, question.inner, question.patch()) > PAINTED_SHARE
            asked.checked = revision
        return asked.painted


def quick_questions(images: LabelImages, number: int) -> list[Question]:
    """The most valuable regions of one image by itself, as ``segwright select`` cuts and scores them."""
    from segwright.labeling.select import SelectOptions, ask  # needs torch, which plain tools do not

    options = SelectOptions(clicks=PER_IMAGE, disagreement="margin", draw="best")
    name, size = images.names[number], images.size(number)
    pixels, found = images.opinion(number)
    weights = None if found is None else np.ones(len(found.probabilities))  # which classes are rare is not known here
    asked = ask(name, pixels, found, weights, options, rng=np.random.default_rng(number))
    return [one if one.image_size == size else _enlarged(one, size) for one in asked]


def _enlarged(question: Question, size: tuple[int, int]) -> Question:
    """A question about a reduced image as one about the image itself."""
    small = question.mask().astype(np.uint8)
    mask = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return Question.of_mask(
        question.image, np.asarray(mask, bool), kind=question.kind, predicted=question.predicted, score=question.score,
        random=question.random,
    )  # fmt: skip

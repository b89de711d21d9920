"""The journal of a label folder: one JSON object per line for everything that people painted, in order.

A stroke is a class for the pixels of a region: run lengths along the rows of its box, background first, the coding of
:mod:`segwright.labeling.questions`. The label mask of an image is what its strokes give one after the other, so the
last stroke holds; ``undo`` and ``redo`` name the stroke they are about. A line that a kill cut short is no stroke: it
was never acknowledged, and it is counted. A journal that was made shorter
(:mod:`segwright.labeling.journal_compaction`) begins with a mark, and per image with counts and ``kept`` strokes, which
stand for those before.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from segwright.core.errors import DataError, LabelError
from segwright.core.types import IGNORE_INDEX, UInt8Array
from segwright.data.annotations.rle import BoolMask, decode_rows

JOURNAL = "strokes.jsonl"
KEPT = "kept"  # the pixels that one person's strokes of one class left behind
PAINTED = ("answer", "brush", "polygon", "fill", "eraser", KEPT)  # kinds that hold pixels
REVERTED = ("undo", "redo")
KINDS = (*PAINTED, "skip", *REVERTED)
COMPACTED, COUNTED = "compacted", "counted"  # lines that are no strokes: the mark, and an image's counts
MAX_NAME = 80  # characters of an annotator's name or an id
MAX_CLICKS = 10_000  # of one polygon
MAX_SECONDS = 300.0  # for one stroke: a longer pause is no labeling
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not part of it


@dataclass(frozen=True)
class Stroke:
    """One line of the journal. LabelError if its parts do not fit each other."""

    id: str  # made by the page, so that a stroke that is sent twice is one
    image: str  # the path below the images' folder, with slashes
    by: str  # the annotator
    kind: str  # one of KINDS
    at: str = ""  # UTC, ISO 8601
    label: int = IGNORE_INDEX  # class index; 255: not labeled
    box: Box = (0, 0, 0, 0)
    runs: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)  # height, width of the image
    clicks: int = 0
    seconds: float = 0.0  # since the stroke before
    question: str | None = None  # which question it answers or skips
    of: str | None = None  # the stroke that is undone or redone

    def __post_init__(self) -> None:
        _check_text("the id of a stroke", self.id)
        _check_text("an annotator's name", self.by)
        check_inside(self.image)
        if self.kind not in KINDS:
            raise LabelError("unknown kind of stroke", expected=", ".join(KINDS), found=self.kind[:40])
        if self.kind in REVERTED:
            _check_text("the stroke that is undone", self.of or "")
        if not (math.isfinite(self.seconds) and self.seconds >= 0 and 0 <= self.clicks <= MAX_CLICKS):
            raise LabelError("a stroke's clicks or seconds are out of range", found=f"{self.clicks}, {self.seconds}")
        if self.kind in PAINTED:
            self._check_region()

    def _check_region(self) -> None:
        height, width = self.size
        left, top, right, bottom = self.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise LabelError(
                "a stroke's box lies outside its image", expected=f"left, top, right, bottom within {width}×{height}",
                found=str(self.box), where=self.image,
            )  # fmt: skip
        area = (right - left) * (bottom - top)
        if min(self.runs, default=-1) < 0 or sum(self.runs) != area:
            raise LabelError(
                "a stroke's run lengths do not fill its box", expected=f"lengths from 0 up that sum to {area}",
                found=f"{len(self.runs)} lengths that sum to {sum(self.runs)}", where=self.image,
            )  # fmt: skip
        if not 0 <= self.label <= IGNORE_INDEX or (self.kind == "eraser") != (self.label == IGNORE_INDEX):
            raise LabelError("a stroke needs a class, an eraser none", found=f"{self.kind}, class {self.label}")

    def patch(self) -> BoolMask:
        """The painted pixels as a mask of the box."""
        left, top, right, bottom = self.box
        return decode_rows(self.runs, bottom - top, right - left, self.image)

    @property
    def inner(self) -> tuple[slice, slice]:
        """The rows and columns of the box."""
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)

    def to_line(self) -> bytes:
        """The line of the journal, with its end."""
        tree: dict[str, Any] = {"id": self.id, "image": self.image, "by": self.by, "at": self.at, "kind": self.kind}
        if self.kind in PAINTED:
            tree |= {
                "class": self.label, "box": list(self.box), "runs": " ".join(map(str, self.runs)),
                "size": list(self.size),
            }  # fmt: skip
        if self.of is not None:
            tree["of"] = self.of
        if self.question is not None:
            tree["question"] = self.question
        tree |= {"clicks": self.clicks, "seconds": round(self.seconds, 2)}
        return json.dumps(tree, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Stroke:
        """LabelError for anything that is no stroke."""
        try:
            left, top, right, bottom = (_whole(side) for side in tree.get("box", (0, 0, 0, 0)))
            height, width = (_whole(side) for side in tree.get("size", (0, 0)))
            runs = tree.get("runs", "")
            return cls(
                id=str(tree["id"]), image=str(tree["image"]), by=str(tree["by"]), kind=str(tree["kind"]),
                at=str(tree.get("at", ""))[:40], label=_whole(tree.get("class", IGNORE_INDEX)),
                box=(left, top, right, bottom), size=(height, width),
                runs=tuple(int(run) for run in (runs.split() if isinstance(runs, str) else runs)),
                clicks=_whole(tree.get("clicks", 0)), seconds=min(float(tree.get("seconds", 0.0)), MAX_SECONDS),
                question=_text(tree.get("question")), of=_text(tree.get("of")),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise LabelError("not a stroke", found=text[:200]) from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"not a whole number: {value!r}"[:80])
    return value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:400]


def _check_text(what: str, text: str) -> None:
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise LabelError(
            f"{what} is not usable", expected=f"1 to {MAX_NAME} printable characters", found=repr(text)[:60]
        )


def check_inside(name: str) -> str:
    """The path of an image below its folder; LabelError for one that leaves it, as a file from elsewhere may hold."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name or "\0" in name:
        raise LabelError("an image's path leaves the folder of the images", found=name[:200])
    return name


def parse_line(line: bytes) -> Stroke | None:
    """The stroke of a line; None for a line that was cut short or damaged."""
    try:
        tree = json.loads(line)
        return Stroke.from_json(tree) if isinstance(tree, dict) else None
    except (ValueError, RecursionError, LabelError):
        return None


# ---------------------------------------------------------------------------------------------------------------------
# The journal as a whole


@dataclass
class ImageStrokes:
    """What the journal holds about one image."""

    spans: list[tuple[int, int]] = field(default_factory=list)  # offset and length of the lines with pixels
    size: tuple[int, int] = (0, 0)
    answers: int = 0
    skips: int = 0
    clicks: int = 0
    seconds: float = 0.0
    annotators: dict[str, int] = field(default_factory=dict)  # name → strokes
    questions: dict[str, str] = field(default_factory=dict)  # question → the stroke that answers or skips it
    undone: set[str] = field(default_factory=set)
    end: int = 0  # the journal's length after its last line
    painted: int = 0  # strokes with pixels
    conflicts: list[dict[str, Any]] = field(default_factory=list)  # of the strokes that are kept as one

    def count(self, stroke: Stroke, offset: int, length: int) -> None:
        """Add a stroke; it is at ``offset`` of the journal."""
        self.end = offset + length
        if stroke.kind in REVERTED:
            assert stroke.of is not None
            (self.undone.add if stroke.kind == "undo" else self.undone.discard)(stroke.of)
        else:
            self.answers += stroke.kind == "answer"
            self.skips += stroke.kind == "skip"
            if stroke.question is not None:
                self.questions[stroke.question] = stroke.id
        if stroke.kind in PAINTED:
            self.spans.append((offset, length))
            self.size = stroke.size
        if stroke.kind == KEPT:  # its counts are on the image's line of counts
            return
        self.painted += stroke.kind in PAINTED
        self.clicks += stroke.clicks
        self.seconds += stroke.seconds
        self.annotators[stroke.by] = self.annotators.get(stroke.by, 0) + 1

    def to_json(self) -> dict[str, Any]:
        """The counts as they stand in labels.json."""
        return {
            "answers": self.answers, "skips": self.skips, "clicks": self.clicks, "strokes": self.painted,
            "seconds": round(self.seconds, 1), "annotators": dict(self.annotators),
        }  # fmt: skip

    def to_line(self) -> dict[str, Any]:
        """The counts as they stand in a journal that was made shorter; answers that were undone are left out."""
        answered = {question: one for question, one in self.questions.items() if one not in self.undone}
        return {**self.to_json(), "seconds": round(self.seconds, 2), "size": list(self.size), "questions": answered}

    @classmethod
    def from_line(cls, tree: Mapping[str, Any]) -> ImageStrokes:
        """What :meth:`to_line` gave; KeyError, TypeError or ValueError for anything else."""
        height, width = (_whole(side) for side in tree["size"])
        return cls(
            size=(height, width), answers=_whole(tree["answers"]), skips=_whole(tree["skips"]),
            clicks=_whole(tree["clicks"]), seconds=float(tree["seconds"]), painted=_whole(tree["strokes"]),
            annotators={str(name): _whole(count) for name, count in tree["annotators"].items()},
            questions={str(question): str(one) for question, one in tree["questions"].items()},
            conflicts=[dict(one) for one in tree["conflicts"]],
        )  # fmt: skip


@dataclass
class Journal:
    """The index of a journal: what is where, without the pixels."""

    images: dict[str, ImageStrokes] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    torn: int = 0  # lines that are no strokes
    length: int = 0  # bytes
    ends_torn: bool = False  # the last line has no end, so that the next stroke would become a part of it
    generation: int = 0  # how often it was made shorter: places in it are those of this one alone
    kept: int = 0  # bytes of the lines that stand for former strokes
    former: set[str] = field(default_factory=set)  # ids of these; they can no longer be undone
    order: dict[str, None] = field(default_factory=dict)  # the ids of all strokes but the kept ones, in order
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)  # what can be undone: id → image, annotator

    def add(self, stroke: Stroke, offset: int, length: int) -> None:
        """Index a stroke; one that is there already is the same stroke, sent twice."""
        if stroke.id in self.ids:
            return
        self.ids.add(stroke.id)
        if stroke.kind != KEPT:
            self.order[stroke.id] = None
            if stroke.kind not in REVERTED:
                self.owners[stroke.id] = sys.intern(stroke.image), sys.intern(stroke.by)
        self.images.setdefault(stroke.image, ImageStrokes()).count(stroke, offset, length)

    def add_mark(self, tree: Mapping[str, Any], offset: int, length: int) -> None:
        """Index a line that stands for former strokes; KeyError, TypeError or ValueError if it is damaged."""
        if tree["kind"] == COMPACTED:
            self.generation, self.torn = _whole(tree["generation"]), _whole(tree["torn"])
            self.order = dict.fromkeys(str(one) for one in tree["ids"])
            self.former = set(self.order)
            self.ids |= self.former
        else:
            name = check_inside(str(tree["image"]))
            self.images[name] = ImageStrokes.from_line(tree)
            self.images[name].end = offset + length
        self.kept = offset + length


def read_journal(path: Path) -> Journal:
    """Index a journal; an absent one is empty. DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return index_lines(file)
    except FileNotFoundError:
        return Journal()
    except OSError as error:
        raise DataError("the journal cannot be read", found=error.strerror or str(error), where=path) from error


def index_lines(lines: Iterable[bytes]) -> Journal:
    """Index the lines of a journal; those that are no strokes are counted."""
    found, offset = Journal(), 0
    for line in lines:
        found.ends_torn = not line.endswith(b"\n")
        stroke = None if line == b"\n" else parse_line(line)
        if stroke is not None:
            found.add(stroke, offset, len(line))
            if stroke.kind == KEPT:
                found.kept = offset + len(line)
        elif line != b"\n" and not _add_mark(found, line, offset):
            found.torn += 1
        offset += len(line)
    found.length = offset
    return found


def _add_mark(found: Journal, line: bytes, offset: int) -> bool:
    """Whether a line is one of those that stand for former strokes."""
    if not line.startswith((b'{"kind":"' + COMPACTED.encode(), b'{"kind":"' + COUNTED.encode())):
        return False
    try:
        found.add_mark(json.loads(line), offset, len(line))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, LabelError):
        return False
    return True


def _generation(file: BinaryIO) -> int:
    """How often an open journal was made shorter."""
    first = Journal()
    _add_mark(first, file.readline(), 0)
    return first.generation


def read_strokes(path: Path, spans: Iterable[tuple[int, int]], generation: int | None = None) -> Iterator[Stroke]:
    """The strokes at these places of a journal, in order; DataError where they are not there any more.

    ``generation``: of the journal that the places are from; None where nobody else can have made it shorter.
    """
    with open(path, "rb") as file:
        if generation is not None and _generation(file) != generation:
            raise DataError("the journal of strokes was made shorter", where=path, fix="open the folder again")
        for offset, length in spans:
            file.seek(offset)
            stroke = parse_line(file.read(length))
            if stroke is None:
                raise DataError("the journal of strokes was changed", where=path, fix="open the folder again")
            yield stroke


def apply_strokes(mask: UInt8Array, strokes: Iterable[Stroke]) -> None:
    """Paint strokes into a label mask (H, W), in order; LabelError if one is about an image of another size."""
    for stroke in strokes:
        check_stroke_size(stroke, (mask.shape[0], mask.shape[1]))
        mask[stroke.inner][stroke.patch()] = stroke.label


def check_stroke_size(stroke: Stroke, size: tuple[int, int]) -> None:
    """LabelError if a stroke was painted on an image of another size, which a file that was replaced has."""
    if stroke.size != size:
        raise LabelError(
            "the strokes were painted on an image of another size", expected=f"{stroke.size[1]}×{stroke.size[0]}",
            found=f"{size[1]}×{size[0]}", where=stroke.image, fix="put the original image back",
        )  # fmt: skip


def folded(size: tuple[int, int], strokes: Sequence[Stroke]) -> UInt8Array:
    """The label mask (H, W) of an image: 255 where no stroke painted."""
    mask = np.full(size, IGNORE_INDEX, np.uint8)
    apply_strokes(mask, strokes)
    return mask


def labels_from_journal(path: Path, found: ImageStrokes, generation: int | None = None) -> UInt8Array:
    """The label mask (H, W) that the journal gives for one image; DataError if it was made shorter since."""
    strokes = [stroke for stroke in read_strokes(path, found.spans, generation) if stroke.id not in found.undone]
    return folded(found.size, strokes)


def encode_labels(labels: UInt8Array) -> bytes:
    """A label mask as runs for the page: little-endian uint32, the length times 256 plus the class."""
    flat = np.ascontiguousarray(labels).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], edges))
    lengths = np.diff(np.concatenate((starts, [flat.size]))).astype(np.int64)
    values = flat[starts].astype(np.uint32)
    most = (1 << 24) - 1
    if lengths.max(initial=0) > most:  # one class over more than 16 megapixels: several runs
        parts = -(-lengths // most)
        values = np.repeat(values, parts)
        last = np.cumsum(parts) - 1
        cut = np.full(int(parts.sum()), most, np.int64)
        cut[last] = lengths - (parts - 1) * most
        lengths = cut
    return np.asarray(lengths.astype(np.uint32) << 8 | values, "<u4").tobytes()


def file_length(path: Path) -> int:
    """The size of a file; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

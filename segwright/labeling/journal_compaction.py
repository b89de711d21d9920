"""A label folder's journal made shorter: its older strokes become what they left behind, the last ones stay.

Of each image the older strokes become one ``kept`` stroke per person and class, whose pixels are theirs, and a line of
counts: answers, clicks, seconds, people, answered questions, conflicts. So masks, who painted each pixel, every count
and every answered question stay what they were; single strokes before the cut can no longer be undone. The last
:data:`LAST` strokes stay as they are, and with them whatever they undo. The new journal is a whole file beside the old
one, flushed to the disk, that takes its place in one step: a kill leaves the one or the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX, UInt8Array
from segwright.data.annotations.rle import encode_rows
from segwright.data.strokes import (
    COMPACTED,
    COUNTED,
    KEPT,
    REVERTED,
    ImageStrokes,
    Journal,
    Stroke,
    check_stroke_size,
    index_lines,
    parse_line,
    read_strokes,
)

LAST = 500  # strokes that stay as they are: more than a page can undo
MOST_IDS = 20_000  # of strokes before, that a page may send again
MOST_CONFLICTS = 1000  # that are named per image; all are counted


@dataclass
class Painted:
    """One image's label mask in memory, and who painted each pixel last."""

    labels: UInt8Array  # (H, W)
    authors: npt.NDArray[np.uint16]  # (H, W), an index into names; 0: nobody
    names: list[str]

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Painted:
        """No pixel labeled."""
        return cls(np.full(size, IGNORE_INDEX, np.uint8), np.zeros(size, np.uint16), [""])

    def paint(self, stroke: Stroke) -> dict[str, int]:
        """Paint a stroke; returns name → pixels whose other class of that person it replaces."""
        check_stroke_size(stroke, (self.labels.shape[0], self.labels.shape[1]))
        if stroke.by not in self.names:
            self.names.append(stroke.by)
        author = self.names.index(stroke.by)
        patch, labels, authors = stroke.patch(), self.labels[stroke.inner], self.authors[stroke.inner]
        differ = patch & (labels != stroke.label) & (labels != IGNORE_INDEX) & (authors != author)
        replaced = np.bincount(authors[differ], minlength=len(self.names))
        labels[patch] = stroke.label
        authors[patch] = author if stroke.label != IGNORE_INDEX else 0
        return {self.names[one]: int(replaced[one]) for one in np.flatnonzero(replaced).tolist()}


def conflict_entries(stroke: Stroke, replaced: dict[str, int]) -> list[dict[str, Any]]:
    """Whose labels a stroke replaced, as the page and labels.json name it."""
    return [
        {"stroke": stroke.id, "by": stroke.by, "over": name, "pixels": pixels, "at": stroke.at}
        for name, pixels in replaced.items()
    ]


def find_cut(path: Path) -> tuple[int, int]:
    """(offset of the first line that stays as it is, strokes before it); (0, 0) where nothing can be made shorter."""
    rows: list[tuple[int, str, str | None]] = []  # offset, id, what is undone
    place: dict[str, int] = {}
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            stroke = parse_line(line)
            if stroke is not None and stroke.kind != KEPT:
                place.setdefault(stroke.id, len(rows))
                rows.append((offset, stroke.id, stroke.of if stroke.kind in REVERTED else None))
            offset += len(line)
    first = len(rows) - LAST
    row = len(rows) - 1
    while row >= max(0, first):  # what a stroke that stays undoes stays, too, and so on
        undone = rows[row][2]
        if undone is not None:
            first = min(first, place.get(undone, first))
        row -= 1
    return (rows[first][0], first) if first > 0 else (0, 0)


def shortened(path: Path, cut: int) -> Iterator[bytes]:
    """The lines that stand for everything before ``cut``: a mark, then per image its counts and its kept strokes."""
    with open(path, "rb") as file:
        before = index_lines(_until(file, cut))
    ids = [*before.order][-MOST_IDS:]
    yield _line({"kind": COMPACTED, "generation": before.generation + 1, "torn": before.torn, "ids": ids})
    for name, found in before.images.items():
        painted, conflicts = _painted(path, found)
        kept = list(_kept(name, painted, before.generation + 1)) if painted is not None else []
        yield _line({"kind": COUNTED, "image": name, **found.to_line(), "conflicts": conflicts[-MOST_CONFLICTS:]})
        yield from (stroke.to_line() for stroke in kept)


def _until(file: Any, cut: int) -> Iterator[bytes]:
    left = cut
    while left > 0:
        line = file.readline()
        if not line:
            return
        left -= len(line)
        yield line


def _line(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _painted(path: Path, found: ImageStrokes) -> tuple[Painted | None, list[dict[str, Any]]]:
    """What an image's strokes give, and the conflicts on the way."""
    conflicts = list(found.conflicts)
    if not found.spans:
        return None, conflicts
    painted = Painted.empty(found.size)
    for stroke in read_strokes(path, found.spans):
        if stroke.id not in found.undone:
            conflicts += conflict_entries(stroke, painted.paint(stroke))
    return painted, conflicts


def _kept(image: str, painted: Painted, generation: int) -> Iterator[Stroke]:
    """One stroke per person and class."""
    codes = painted.authors.astype(np.int64) * 256 + painted.labels
    height, width = painted.labels.shape
    for code in np.unique(codes[painted.labels != IGNORE_INDEX]).tolist():
        mask = codes == code
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        runs = encode_rows(mask[box[1] : box[3], box[0] : box[2]])
        yield Stroke(
            id=f"kept-{generation}-{code}-{_digest(image)}", image=image, by=painted.names[code // 256], kind=KEPT,
            label=code % 256, box=box, runs=tuple(runs), size=(height, width),
        )  # fmt: skip


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_long(journal: Journal, least: int) -> bool:
    """Whether the strokes since the last time take ``least`` bytes, and more than what was kept then."""
    return journal.length - journal.kept > max(least, journal.kept)

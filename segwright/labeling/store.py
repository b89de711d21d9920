"""The label folder: every stroke on the disk before it is acknowledged, label masks made from them.

One process writes a folder at a time (a lock file), for any number of people. A stroke is appended to the journal and
flushed to the disk; only then :meth:`LabelFolder.append` returns. Masks are written behind, each as a whole file, by
:meth:`LabelFolder.compact`; whatever a kill leaves undone is done at the next start. The last stroke on a pixel holds,
and a stroke that replaces another person's class is a conflict, which is counted and named.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import atomic_file, clear_leftovers, lock_folder, typed_output, write_bytes, write_json
from segwright.core.errors import DataError, LabelError, OutputError, SegwrightError, UsageError, output_error
from segwright.core.types import IGNORE_INDEX, LabelSpace, UInt8Array
from segwright.data.annotations.rle import encode_rows
from segwright.data.formats.label_folder import (
    COUNTS_FILE,
    FOLDER_FILE,
    MASKS,
    VERSIONS,
    FolderInfo,
    holds_all,
    is_label_folder,
    mask_names,
    read_counts,
    read_info,
)
from segwright.data.strokes import (
    JOURNAL,
    KEPT,
    PAINTED,
    REVERTED,
    ImageStrokes,
    Journal,
    Stroke,
    check_stroke_size,
    file_length,
    read_journal,
    read_strokes,
)
from segwright.imageio import encode_png
from segwright.labeling.journal_compaction import (
    MOST_CONFLICTS,
    Painted,
    conflict_entries,
    find_cut,
    is_long,
    shortened,
)

CACHED_PIXELS = 64_000_000  # of label masks in memory; three bytes per pixel
LONG_AT_END, LONG = 4 << 20, 64 << 20  # bytes of strokes that are made shorter when a session ends, and within one


@dataclass(frozen=True)
class Ack:
    """The answer to a stroke that is on the disk."""

    revision: int  # of the image: how many strokes it has, undone ones included
    conflict: dict[str, int] = field(default_factory=dict)  # person → pixels
    patch: tuple[tuple[int, int, int, int], UInt8Array] | None = None  # of an undo: the box and its labels
    repeated: bool = False


class LabelFolder:
    """The writer of one label folder. Safe to call from several threads; UsageError if another process has it open."""

    def __init__(self, folder: Path, info: FolderInfo) -> None:
        self.folder, self.info = folder, info
        self.journal_path = folder / JOURNAL
        self._held = contextlib.ExitStack()
        self._held.enter_context(lock_folder(folder))
        self._lock = threading.RLock()
        self._compacting = threading.Lock()
        self._painted: OrderedDict[str, Painted] = OrderedDict()
        self._conflicts: dict[str, list[dict[str, Any]]] = {}
        self._file: Any = None
        try:
            for place in (folder, *(path for path in folder.glob(f"{MASKS}/**") if path.is_dir())):
                clear_leftovers(place)
            self.journal: Journal = read_journal(self.journal_path)
            self._file = self._opened()
            self.counts = read_counts(folder)
            given = {name: str(entry["mask"]) for name, entry in self.counts.items() if "mask" in entry}
            self.masks = mask_names(sorted(self.journal.images), given)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, folder: str | Path, images: str | Path, label_space: LabelSpace, model: str | None = None) -> Self:
        """Open or create the label folder of these images.

        UsageError if the folder holds something else, other images or other classes: labels of two lists of classes
        in one folder would be wrong in silence. Further classes after the folder's own are added to them.
        """
        folder, images = Path(folder), Path(os.path.abspath(images))
        if is_label_folder(folder):
            info = read_info(folder)
            _check_same(folder, info, images, label_space)
            info = replace(info, label_space=label_space)  # a later model may have further classes after the old ones
        else:
            if folder.is_dir() and any(path.name not in (".lock", JOURNAL) for path in folder.iterdir()):
                raise UsageError(
                    "the folder holds something else", expected="an empty folder or a label folder",
                    found=f"no {FOLDER_FILE}", where=folder, fix="name another one with --out",
                )  # fmt: skip
            info = FolderInfo(images, label_space, model=model, key=secrets.token_hex(8))
        store = cls(folder, info)
        try:
            info.write(folder)
        except BaseException:
            store.close()
            raise
        return store

    def _opened(self) -> Any:
        """The journal, to append to. A line that was cut short is ended, and stays, as what it is."""
        with typed_output(self.journal_path):
            file = open(self.journal_path, "ab", buffering=0)  # noqa: SIM115
            try:
                if self.journal.ends_torn:
                    file.write(b"\n")
                    os.fsync(file.fileno())
                    self.journal.ends_torn = False
                self.journal.length = file_length(self.journal_path)
            except BaseException:
                file.close()
                raise
        return file

    # -----------------------------------------------------------------------------------------------------------------
    # Strokes

    def append(self, stroke: Stroke) -> Ack:
        """Put a stroke on the disk, then into memory. OutputError if it cannot be written: it is then not counted.

        LabelError if it does not fit the classes, the image's other strokes or the stroke that it undoes. The same
        stroke sent twice is acknowledged twice and written once.
        """
        with self._lock:
            if stroke.id in self.journal.ids:
                return Ack(self.revision(stroke.image), repeated=True, patch=self._reverted_patch(stroke))
            self._check(stroke)
            stroke = replace(stroke, at=stroke.at or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            known = stroke.image in self.journal.images
            painted = self._paint_of(stroke)
            line = stroke.to_line()
            offset = self._write(line)
            self.journal.add(stroke, offset, len(line))
            if not known:
                self.masks = mask_names([stroke.image], self.masks)
            if stroke.kind in REVERTED:
                self._painted.pop(stroke.image, None)
                self._conflicts.pop(stroke.image, None)
                return Ack(self.revision(stroke.image), patch=self._reverted_patch(stroke))
            conflict = painted.paint(stroke) if painted is not None else {}
            self._note_conflict(stroke, conflict)
            return Ack(self.revision(stroke.image), conflict)

    def _check(self, stroke: Stroke) -> None:
        found = self.journal.images.get(stroke.image)
        if stroke.kind == KEPT:
            raise LabelError("nobody paints strokes of this kind", found=KEPT, where=stroke.image)
        if stroke.kind in PAINTED:
            if stroke.label != IGNORE_INDEX and stroke.label >= self.info.label_space.classes:
                raise LabelError(
                    "no such class", expected=f"0 to {self.info.label_space.classes - 1}", found=str(stroke.label)
                )
            if found is not None and found.spans:
                check_stroke_size(stroke, found.size)
        if stroke.kind in REVERTED:
            self._check_reverted(stroke)

    def _check_reverted(self, stroke: Stroke) -> None:
        if stroke.of in self.journal.former:
            raise LabelError(
                "the stroke is too old to be undone", found="the journal was made shorter since", where=stroke.image,
                fix="paint over it, or erase it",
            )  # fmt: skip
        image, by = self.journal.owners.get(str(stroke.of), ("", ""))
        if image != stroke.image:
            raise LabelError("no such stroke to undo", found=str(stroke.of), where=stroke.image)
        if by != stroke.by:
            raise LabelError(
                "the stroke is another person's", expected=f"a stroke of {stroke.by}", found=f"one of {by}",
                where=stroke.image, fix="paint over it, or erase it: that is recorded as a conflict",
            )  # fmt: skip

    def _paint_of(self, stroke: Stroke) -> Painted | None:
        """The mask that a stroke is painted into, made before the stroke is in the journal."""
        if stroke.kind not in PAINTED:
            return None
        found = self.journal.images.get(stroke.image)
        return self._memory(stroke.image, stroke.size if found is None or not found.spans else found.size)

    def _write(self, line: bytes) -> int:
        """Append a line and flush it to the disk; returns where it begins. Nothing of it stays if that fails."""
        offset = self.journal.length
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # shortening needs no space
                os.ftruncate(self._file.fileno(), offset)
                os.fsync(self._file.fileno())
            if file_length(self.journal_path) != offset:  # then the rest is a line that counts as torn
                self._file.close()
                self.journal = read_journal(self.journal_path)
                with contextlib.suppress(OSError, SegwrightError):
                    self._file = self._opened()
            raise output_error(error, self.journal_path) from error
        self.journal.length = offset + len(line)
        return offset

    def _note_conflict(self, stroke: Stroke, conflict: dict[str, int]) -> None:
        self._conflicts.setdefault(stroke.image, []).extend(conflict_entries(stroke, conflict))

    def _reverted_patch(self, stroke: Stroke) -> tuple[tuple[int, int, int, int], UInt8Array] | None:
        """The box of an undone stroke and the labels in it now."""
        if stroke.kind not in REVERTED:
            return None
        found = self.journal.images[stroke.image]
        for one in read_strokes(self.journal_path, found.spans):
            if one.id == stroke.of:
                return one.box, self._memory(stroke.image, found.size).labels[one.inner].copy()
        return None  # a skip has no pixels

    # -----------------------------------------------------------------------------------------------------------------
    # Reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep ``journal`` and ``counts`` as they are for a moment."""
        with self._lock:
            yield

    def revision(self, image: str) -> int:
        """How many strokes the journal has about an image, undone ones included."""
        found = self.journal.images.get(image)
        return 0 if found is None else sum(found.annotators.values())

    def labels(self, image: str, size: tuple[int, int]) -> UInt8Array:
        """A copy of the label mask (H, W) of an image; LabelError if its strokes are about another size."""
        with self._lock:
            found = self.journal.images.get(image)
            if found is None or not found.spans:
                return np.full(size, IGNORE_INDEX, np.uint8)
            painted = self._memory(image, found.size)
            if painted.labels.shape != size:
                check_stroke_size(next(iter(read_strokes(self.journal_path, found.spans[:1]))), size)
            return painted.labels.copy()

    def labeled_share(self, image: str, inner: tuple[slice, slice], patch: npt.NDArray[np.bool_]) -> float:
        """The share of a region's pixels that are labeled; 0 if the image has no labels."""
        with self._lock:
            found = self.journal.images.get(image)
            if found is None or not found.spans:
                return 0.0
            part = self._memory(image, found.size).labels[inner]
            return float((part[patch] != IGNORE_INDEX).mean()) if part.shape == patch.shape else 0.0

    def strokes(self, image: str) -> list[Stroke]:
        """The strokes of an image that are not undone, in order."""
        with self._lock:
            found = self.journal.images.get(image)
            if found is None:
                return []
            every = list(read_strokes(self.journal_path, found.spans))
            return [stroke for stroke in every if stroke.id not in found.undone]

    def answered(self, image: str) -> dict[str, str]:
        """Question → the stroke that answers or skips it, without what was undone."""
        with self._lock:
            found = self.journal.images.get(image)
            pairs = {} if found is None else found.questions
            return {question: one for question, one in pairs.items() if found is None or one not in found.undone}

    def conflicts(self, image: str) -> list[dict[str, Any]]:
        """Who replaced whose class on how many pixels."""
        with self._lock:
            found = self.journal.images.get(image)
            if found is None or len(found.annotators) < 2:
                return []
            if image not in self._conflicts:
                self._painted.pop(image, None)
                self._memory(image, found.size)
            return list(self._conflicts.get(image, ()))

    def _memory(self, image: str, size: tuple[int, int]) -> Painted:
        """The image's mask in memory, made from the journal if it is not there."""
        if image in self._painted:
            self._painted.move_to_end(image)
            return self._painted[image]
        painted = Painted.empty(size)
        before = self.journal.images.get(image)
        self._conflicts[image] = [] if before is None else list(before.conflicts)
        for stroke in self.strokes(image):
            self._note_conflict(stroke, painted.paint(stroke))
        self._painted[image] = painted
        while len(self._painted) > 1 and sum(one.labels.size for one in self._painted.values()) > CACHED_PIXELS:
            self._painted.popitem(last=False)
        return painted

    # -----------------------------------------------------------------------------------------------------------------
    # Masks and counts

    def behind(self) -> list[str]:
        """The images whose mask files do not hold all strokes."""
        with self._lock:
            return [
                name
                for name, found in self.journal.images.items()
                if not holds_all(self.counts.get(name, {}), found.end, self.journal.generation)
            ]

    def compact(self, images: Iterable[str] | None = None) -> int:
        """Write the masks that are behind, then labels.json; returns how many masks. OutputError if it cannot be.

        Strokes are taken in the meantime.
        """
        with self._compacting:
            names = self.behind() if images is None else list(images)
            written = 0
            for name in names:
                with self._lock:
                    found = self.journal.images[name]
                    end = found.end
                    labels = self._memory(name, found.size).labels.copy() if found.spans else None
                    entry: dict[str, Any] = {
                        **found.to_json(), "bytes": end, "generation": self.journal.generation,
                    }  # fmt: skip
                    entry["conflicts"] = self.conflicts(name)[-MOST_CONFLICTS:]
                if labels is not None:
                    entry["pixels"] = int((labels != IGNORE_INDEX).sum())
                    entry["size"] = list(labels.shape)
                    entry["mask"] = self.masks[name]
                    palette = self.info.label_space.palette()
                    write_bytes(self.folder / MASKS / self.masks[name], encode_png(labels, palette))
                    written += 1
                else:
                    entry["pixels"] = 0
                with self._lock:
                    self.counts[name] = entry
            if names:
                write_json(self.folder / COUNTS_FILE, self.summary())
            return written

    def shorten(self, least: int = LONG) -> bool:
        """Make the journal shorter where the strokes since the last time take ``least`` bytes; whether it was.

        Masks, counts and answered questions stay what they are (:mod:`segwright.labeling.journal_compaction`). Strokes
        are taken in the meantime. A kill leaves the former journal or the new one. OutputError if it cannot be written:
        the former one stays.
        """
        if not is_long(self.journal, least):
            return False
        with self._compacting:
            cut, count = find_cut(self.journal_path)
            if not count:
                return False
            if self.info.version < VERSIONS[-1]:  # first, so that nobody who cannot read the new journal opens it
                self.info = replace(self.info, version=VERSIONS[-1])
                self.info.write(self.folder)
            with contextlib.ExitStack() as held:
                with atomic_file(self.journal_path) as beside, open(beside, "wb") as file:
                    file.writelines(shortened(self.journal_path, cut))
                    file.flush()
                    os.fsync(file.fileno())
                    held.enter_context(self._lock)  # from here on strokes wait, until they go to the new file
                    held.callback(self._reopen)
                    current = set(self.journal.images) - set(self.behind())
                    self._file.close()
                    with open(self.journal_path, "rb") as former:
                        former.seek(cut)
                        shutil.copyfileobj(former, file)
                self.journal = read_journal(self.journal_path)
                for name in current:
                    place = {"bytes": self.journal.images[name].end, "generation": self.journal.generation}
                    self.counts[name] = {**self.counts.get(name, {}), **place}
            write_json(self.folder / COUNTS_FILE, self.summary())
        return True

    def _reopen(self) -> None:
        if self._file.closed:
            self._file = self._opened()

    def summary(self) -> dict[str, Any]:
        """The content of labels.json: counts in all and per image."""
        with self._lock:
            every = self.journal.images
            annotators: dict[str, int] = {}
            for found in every.values():
                for name, count in found.annotators.items():
                    annotators[name] = annotators.get(name, 0) + count
            return {
                "clicks": sum(found.clicks for found in every.values()),
                "answers": sum(found.answers for found in every.values()),
                "skips": sum(found.skips for found in every.values()),
                "strokes": sum(found.painted for found in every.values()),
                "seconds": round(sum(found.seconds for found in every.values()), 1),
                "annotators": annotators,
                "conflicts": sum(len(entry.get("conflicts", ())) for entry in self.counts.values()),
                "torn": self.journal.torn,
                "images": dict(self.counts),
            }

    def counts_of(self, image: str) -> ImageStrokes:
        """The counts of one image."""
        with self._lock:
            return self.journal.images.get(image, ImageStrokes())

    def close(self) -> None:
        """Write what is behind and give the folder up. A full disk leaves masks behind the journal, which is whole."""
        try:
            if self._file is not None and not self._file.closed:
                with contextlib.suppress(OutputError, DataError):
                    self.compact()
                    self.shorten(LONG_AT_END)
                self._file.close()
        finally:
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_same(folder: Path, info: FolderInfo, images: Path, space: LabelSpace) -> None:
    if info.images.resolve() != images.resolve():
        raise UsageError(
            "the label folder is about other images", expected=str(info.images), found=str(images), where=folder,
            fix="name another folder with --out",
        )  # fmt: skip
    if space.names[: len(info.label_space.names)] != info.label_space.names:
        raise UsageError(
            "the label folder has other classes", expected=", ".join(info.label_space.names)[:200],
            found=", ".join(space.names)[:200], where=folder,
            fix="name another folder with --out, or give a model or --classes whose first classes are the folder's",
        )  # fmt: skip


def stroke_of_mask(mask: npt.NDArray[np.bool_], **rest: Any) -> Stroke:
    """A stroke over the True pixels of a mask (H, W); LabelError if there is none. For programs and tests."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise LabelError("a stroke has no pixels")
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    runs: Sequence[int] = encode_rows(mask[box[1] : box[3], box[0] : box[2]])
    return Stroke(box=box, runs=tuple(runs), size=(int(mask.shape[0]), int(mask.shape[1])), **rest)

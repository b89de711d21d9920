"""Writing a journal: rows are queued, and a thread appends them to a file of lines, which becomes Parquet when full.

What is promised: :meth:`JournalWriter.add` never blocks and never raises. A row survives a kill of the process once the
thread has appended it, usually within milliseconds, and a power failure after at most some two seconds. While the
folder cannot be written (a full disk, a read-only or removed folder) rows wait in the queue; rows beyond its bound are
lost and counted, one line is logged, and writing starts again by itself. Several writers may share a folder.

The folder's size is bounded: its oldest files are removed. Images are only kept if that was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import check_output, write_bytes
from segwright.core.errors import DataError, SegwrightError, UsageError
from segwright.core.types import LabelSpace, UInt8Array
from segwright.core.version import __version__
from segwright.imageio import encode_jpeg
from segwright.monitoring.journal_files import (
    IMAGES,
    LINES,
    PARQUET,
    Header,
    Row,
    encode_row,
    header_line,
    parse_lines,
    require_pyarrow,
    write_parquet,
)
from segwright.monitoring.observation import Observation

try:
    import fcntl
except ImportError:  # no POSIX: a file of another writer counts as abandoned after a day
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("segwright.journal")

MAX_BYTES = 1_000_000_000
LEAST_BYTES = 1_000_000
ROTATE_ROWS = 5_000
ROTATE_SECONDS = 3_600.0
ROTATE_BYTES = 32_000_000
RETENTION = 30 * 86_400.0  # seconds that a kept image stays
QUEUE = 1_000  # rows
QUEUED_IMAGES = 4
IMAGE_SHARE = 0.5  # of the folder's bytes that kept images may take
SYNC_SECONDS = 1.0
RETRY_SECONDS = 1.0
PRUNE_SECONDS = 60.0
CLOSE_SECONDS = 10.0
IMAGE_SUFFIXES = (".jpg",)


@dataclass
class _Queued:
    row: Row
    header: Header
    image: UInt8Array | None


class JournalWriter:
    """Writes the rows of one service or prediction into ``folder``.

    ``max_bytes``: of the whole folder. ``rotate_rows``, ``rotate_seconds``: when a file of lines becomes Parquet.
    ``keep_images``: the share, 0…1, of images that are kept as JPEG, chosen by a hash of their ids; ``retention``:
    seconds that they are kept. ``settings``: how images are predicted. ``on_written``, ``on_lost``: called with numbers
    of rows, from the thread or from the caller of :meth:`add`.

    Errors, at once: OutputError if the folder cannot be written, UsageError for values out of range, MissingExtraError
    without pyarrow. Later, nothing raises.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        label_space: LabelSpace,
        model: str = "",
        max_bytes: int = MAX_BYTES,
        rotate_rows: int = ROTATE_ROWS,
        rotate_seconds: float = ROTATE_SECONDS,
        keep_images: float = 0.0,
        retention: float = RETENTION,
        queue: int = QUEUE,
        settings: Mapping[str, Any] | None = None,
        on_written: Callable[[int], None] = lambda count: None,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        if not 0 <= keep_images <= 1:
            raise UsageError("a share of images is 0 % to 100 %", expected="such as 1%", found=f"{keep_images:g}")
        if max_bytes < LEAST_BYTES:
            raise UsageError("too small for a journal", expected=f"{LEAST_BYTES} bytes or more", found=str(max_bytes))
        if rotate_rows < 1 or rotate_seconds <= 0 or retention <= 0 or queue < 1:
            raise UsageError("a journal's rows, seconds and queue are above zero")
        require_pyarrow()
        self.folder = Path(folder)
        check_output(self.folder / ".lock")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_bytes, self.rotate_rows, self.rotate_seconds = max_bytes, rotate_rows, rotate_seconds
        self.keep_images, self.retention, self.bound = keep_images, retention, queue
        self.written = self.lost = self.removed_files = self.kept_images = 0
        self.trouble = self.last_trouble = ""  # why nothing can be written now, and why it could not
        self._writer = secrets.token_hex(6)
        self._header = self.header(label_space, model, settings)
        self._on_written, self._on_lost = on_written, on_lost
        self._sequence = 0
        self._files = 0
        self._queue: deque[_Queued] = deque()
        self._images = 0  # in the queue
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._file: _LineFile | None = None
        self._pruned = float("-inf")
        self._kept_bytes = 0  # of images since then

    @property
    def name(self) -> str:
        """The name of this writer, other for every one."""
        return self._writer

    def header(self, label_space: LabelSpace, model: str, settings: Mapping[str, Any] | None = None) -> Header:
        """What rows of another model have in common, for :meth:`add`."""
        return Header(self._writer, label_space, model, __version__, dict(settings or {}))

    def add(self, observation: Observation, image: UInt8Array | None = None, *, header: Header | None = None) -> bool:
        """Queue a row; False if it is lost. ``image`` (H, W, C) is kept if it is one of the share. ``header``: of a
        row of another model than the writer was made for."""
        keep = image is not None and self.keep_images > 0 and chosen(observation.id, self.keep_images)
        with self._changed:
            if self._closing or len(self._queue) >= self.bound:
                self._lose(1)
                return False
            self._start()
            keep = keep and self._images < QUEUED_IMAGES
            self._images += keep
            row = Row(self._sequence, observation)
            self._sequence += 1
            self._queue.append(_Queued(row, header or self._header, image if keep else None))
            self._changed.notify_all()
        return True

    def start(self) -> None:
        """Start the thread before the first row, so that images go in time where no row comes either."""
        with self._changed:
            if not self._closing:
                self._start()

    def _start(self) -> None:
        if self._thread is None:  # not in __init__: a server may fork between the two
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Write what is queued and end; what cannot be written within ``timeout`` seconds is lost and counted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        with self._changed:
            self._lose(len(self._queue))
            self._queue.clear()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lose(self, count: int) -> None:
        if count:
            self.lost += count
            self._on_lost(count)

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            batch = self._take()
            count = len(batch)
            try:
                self._work(batch)
                if count and self.trouble:
                    logger.warning("the journal is written again; %d rows were lost: %s", self.lost, self.folder)
                    self.trouble, self._pruned = "", float("-inf")
            except Exception as error:  # whatever it is, the service goes on
                self._fail(batch, error)
                if not self._closing:
                    time.sleep(RETRY_SECONDS)
            with self._changed:
                if self._closing and (not self._queue or self.trouble):
                    break
        self._finish()

    def _take(self) -> list[_Queued]:
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(SYNC_SECONDS)
            batch = list(self._queue)
            self._queue.clear()
            self._images = 0
        return batch

    def _fail(self, batch: list[_Queued], error: Exception) -> None:
        """Put back what was not written; the oldest rows beyond the bound are lost."""
        if not self.trouble:
            self.trouble = self.last_trouble = str(error).replace("\n", " ")[:300] or type(error).__name__
            logger.error("the journal cannot be written, rows wait or are lost: %s", self.trouble)
        if self._file is not None:
            self._file.abandon()
            self._file = None
        with self._changed:
            back = [replace(queued, image=None) for queued in batch]
            too_many = max(0, len(back) + len(self._queue) - self.bound)
            self._lose(min(too_many, len(back)))
            self._queue.extendleft(reversed(back[too_many:]))

    def _work(self, batch: list[_Queued]) -> None:
        """Append rows; those that are written are taken off ``batch``, so that a failure loses none twice."""
        if self._file is not None and (not self._file.present() or self._file.aged(self.rotate_seconds)):
            self._rotate()
        while batch:
            header = batch[0].header
            if self._file is not None and self._file.full(header, self.rotate_rows, self._rotate_bytes()):
                self._rotate()
            if self._file is None:
                self._files += 1
                self._file = _LineFile(self.folder, header, self._files)
            count = next((k for k, queued in enumerate(batch) if queued.header is not header), len(batch))
            same = batch[: min(count, self.rotate_rows - self._file.rows)]
            rows = [self._keep(queued) for queued in same]
            self._file.append(rows)
            del batch[: len(same)]
            self.written += len(same)
            self._on_written(len(same))
        if self._file is not None:
            self._file.sync(SYNC_SECONDS)
        if time.monotonic() - self._pruned > PRUNE_SECONDS or self._kept_bytes > self.max_bytes // 16:
            self._prune()

    def _rotate_bytes(self) -> int:
        return min(ROTATE_BYTES, self.max_bytes // 8)

    def _keep(self, queued: _Queued) -> Row:
        """Write the image of a row, if it is to be kept; a failure leaves only the image out."""
        if queued.image is None or queued.image.shape[2] not in (1, 3):
            return queued.row
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{self._writer}-{queued.row.sequence}.jpg"
        image = queued.image if queued.image.shape[2] == 3 else queued.image.repeat(3, axis=2)
        try:
            data = encode_jpeg(image)
            write_bytes(self.folder / IMAGES / name, data, sync=False)
        except (SegwrightError, OSError, ValueError):
            return queued.row
        self.kept_images += 1
        self._kept_bytes += len(data)
        observation = queued.row.observation
        return Row(queued.row.sequence, replace(observation, tags={**observation.tags, "image": f"{IMAGES}/{name}"}))

    def _rotate(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.finish()
            self._prune()

    def _prune(self) -> None:
        self._pruned, self._kept_bytes = time.monotonic(), 0
        adopt_abandoned(self.folder)
        room = 2 * self._rotate_bytes()  # for the lines that follow, and for their Parquet file beside them
        self.removed_files += prune(self.folder, self.max_bytes - room, self.retention)

    def _finish(self) -> None:
        try:
            self._rotate()
        except (SegwrightError, OSError, ValueError) as error:
            logger.error("the journal's last file stays a file of lines: %s", str(error).replace("\n", " ")[:300])


class _LineFile:
    """The file of lines that a writer appends to, locked while it does."""

    def __init__(self, folder: Path, header: Header, number: int) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / f"current-{header.writer}-{number}.jsonl"
        self.header = header
        self.rows = 0
        self.began = self.synced = time.monotonic()
        self.handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
        self.size = 0
        try:
            _lock(self.handle)
            self._write(header_line(header))
        except BaseException:
            self.abandon()
            self.path.unlink(missing_ok=True)
            raise

    def append(self, rows: list[Row]) -> None:
        """Append all rows, or none."""
        self._write(b"".join(map(encode_row, rows)))
        self.rows += len(rows)

    def _write(self, data: bytes) -> None:
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                done += os.write(self.handle, view[done:])
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, self.size)
                os.lseek(self.handle, self.size, os.SEEK_SET)
            raise
        self.size += len(data)

    def present(self) -> bool:
        """Whether the file is still where it was written."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.handle))
        except OSError:
            return False

    def aged(self, seconds: float) -> bool:
        return self.rows > 0 and time.monotonic() - self.began > seconds

    def full(self, header: Header, rows: int, size: int) -> bool:
        """Whether rows of ``header`` need another file."""
        return self.header is not header or self.rows >= rows or self.size >= size

    def sync(self, seconds: float) -> None:
        """Flush to the disk, at most once in ``seconds``."""
        if time.monotonic() - self.synced >= seconds:
            os.fsync(self.handle)
            self.synced = time.monotonic()

    def finish(self) -> None:
        """Rewrite as Parquet; if that fails, the lines stay, for another writer to rewrite."""
        try:
            if self.present():
                _to_parquet(self.path, self.handle)
        finally:
            self.abandon()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.handle)


def _lock(handle: int) -> bool:
    """Lock an open file for this process; False if another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _to_parquet(path: Path, handle: int) -> None:
    """Rewrite a locked file of lines as Parquet and remove it."""
    with open(os.dup(handle), "rb") as file:
        file.seek(0)
        found = parse_lines(file, path)
    if found.rows:
        number = path.stem.rpartition("-")[2]
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime(min(row.observation.time for row in found.rows)))
        target = path.with_name(f"journal-{began}-{found.header.writer}-{number}.parquet")
        write_parquet(target, found.header, found.rows)
    if found.damaged or found.cut:
        logger.warning("%s: %d damaged lines left out", path, found.damaged + found.cut)
    path.unlink(missing_ok=True)


def adopt_abandoned(folder: Path) -> int:
    """Rewrite as Parquet the files of lines of writers that were killed; returns how many."""
    count = 0
    for path in sorted(folder.iterdir()):
        if not LINES.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except OSError:
            continue
        try:
            alone = _lock(handle) and os.path.samestat(os.stat(path), os.fstat(handle))
            if fcntl is None:
                alone = time.time() - path.stat().st_mtime > 86_400
            if alone:
                _to_parquet(path, handle)
                count += 1
        except (DataError, OSError) as error:
            logger.warning("%s stays as it is: %s", path, str(error).replace("\n", " ")[:200])
        finally:
            os.close(handle)
    return count


def prune(folder: Path, max_bytes: int, retention: float) -> int:
    """Remove the oldest files until the folder is within its size, and images older than ``retention`` seconds;
    returns the number of journal files that were removed."""
    removed = 0
    images = folder / IMAGES
    if images.is_dir() and not images.is_symlink():
        kept = _sized(images, lambda name: name.endswith(IMAGE_SUFFIXES))
        total = sum(size for _, size, _ in kept)
        for path, size, modified in kept:
            if time.time() - modified > retention or total > IMAGE_SHARE * max_bytes:
                path.unlink(missing_ok=True)
                total -= size
    else:
        total = 0
    files = _sized(folder, lambda name: bool(PARQUET.fullmatch(name)))
    lines = _sized(folder, lambda name: bool(LINES.fullmatch(name)))
    total += sum(size for _, size, _ in (*files, *lines))
    for path, size, _ in files:
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
        removed += 1
    if removed:
        logger.info("the journal is at its largest size: %d of its oldest files were removed", removed)
    return removed


def _sized(folder: Path, ours: Callable[[str], bool]) -> list[tuple[Path, int, float]]:
    """Our files in a folder with size and time, the oldest first by name."""
    found = []
    for entry in os.scandir(folder):
        if ours(entry.name) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                state = entry.stat(follow_symlinks=False)
                found.append((Path(entry.path), state.st_size, state.st_mtime))
    return sorted(found)


def chosen(name: str, share: float) -> bool:
    """Whether the image of an id is one of a share, 0…1: by a hash, so that the same ids are chosen everywhere."""
    drawn = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:8], "big")
    return drawn < share * 2**64

"""Work on files in child processes: a file that kills a decoder kills a child, and the run goes on.

A child is a fresh interpreter (``python -m segwright.images.isolated``), not a fork: nothing of the parent's threads,
locks or memory is in it, and a caller's script needs no ``if __name__ == "__main__"``. Parent and child speak in
length-prefixed pickles over pipes, parent → child and back; the child's stderr goes to a file of its own, so that what
the decoders' C code prints comes back with the result instead of landing on somebody's terminal.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from segwright.errors import ImageReadError
from segwright.images.headers import DEFAULT_LIMITS, Limits, UInt8Array
from segwright.workers import processors

TIMEOUT = 120.0  # seconds for one file; the slowest honest ones take ten
WATCH = 0.2  # seconds between two looks at who is late
SAID = 4000  # characters of a child's stderr that are kept for one file

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: its result, or how it ended instead."""

    item: Item
    result: Result | None = None
    died: str | None = None  # "killed by signal 11", "no answer within 120 s"
    error: Exception | None = None  # what the function raised
    said: str = ""  # what libraries printed meanwhile


class Children(Generic[Item, Result]):
    """``count`` child processes that apply ``function`` to items; a context manager.

    ``function`` is made in every child by ``make(*arguments)``; both ``make`` (importable, by name) and the arguments
    travel as pickles. A child that dies or hangs is replaced, and its item reported.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Item], Result]],
        *arguments: Any,
        count: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.setup = pickle.dumps((make, arguments))
        self.count = count or processors()
        self.timeout = timeout
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="isolated")

    def __enter__(self) -> Children[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for child in self._idle:
            child.stop()
        self._idle.clear()

    def one(self, item: Item) -> Outcome[Item, Result]:
        """Apply the function to one item, in whichever child is free."""
        child = None
        with self._lock:
            while child is None and self._idle:
                child = self._idle.pop()
                if child.process.poll() is not None:  # died while idle, as of the system's want of memory
                    child.stop()
                    child = None
        if child is None:
            child = _Child(self.setup)
        outcome: Outcome[Item, Result] = child.ask(item, self.timeout)
        if outcome.died is None:
            with self._lock:
                self._idle.append(child)
        else:
            child.stop()
        return outcome

    def map(self, items: Iterable[Item]) -> Iterator[Outcome[Item, Result]]:
        """Outcomes as they come, in no fixed order; a few items are in flight at a time, whatever their number."""
        waiting: set[Future[Outcome[Item, Result]]] = set()
        for item in items:
            waiting.add(self._pool.submit(self.one, item))
            if len(waiting) >= 2 * self.count:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def read_image_isolated(path: str | Path, limits: Limits = DEFAULT_LIMITS, timeout: float = TIMEOUT) -> UInt8Array:
    """:func:`segwright.images.read_image` in a child process; ImageReadError also where the decoder dies or hangs.

    Starting the child costs some half a second: for files that are suspect, not for a loader.
    """
    with Children(_image_reader, limits, count=1, timeout=timeout) as children:
        outcome: Outcome[str, UInt8Array] = children.one(os.fspath(path))
    if outcome.error is not None:
        raise outcome.error
    if outcome.result is None:
        raise killed(path, str(outcome.died))
    return outcome.result


def killed(path: str | Path, how: str) -> ImageReadError:
    """The error for a file that a decoder did not survive."""
    return ImageReadError(
        "the file ends the process that decodes it",
        expected="a picture",
        found=how,
        where=path,
        fix="copy it again from its source, or leave it out; do not open it with other tools",
        reason="killed",
    )


def _image_reader(limits: Limits) -> Callable[[str], UInt8Array]:
    from segwright.images.decode import read_image

    return lambda path: read_image(path, limits)


class _Child:
    """One process, asked one item at a time."""

    def __init__(self, setup: bytes) -> None:
        self.stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segwright.images.isolated"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=environment,
        )
        self.started = self.late = self.stopped = False
        self.deadline = math.inf
        self.setup = setup
        _watch(self)

    def ask(self, item: Any, timeout: float) -> Outcome[Any, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        # One watch for all items: a thread that is started for each costs as much as decoding a small picture.
        self.deadline = time.monotonic() + (timeout if self.started else timeout + 60)
        try:
            if not self.started:
                _send(self.process.stdin, self.setup)
                self.started = True
            _send(self.process.stdin, pickle.dumps(item))
            answer = _receive(self.process.stdout)
        except (OSError, EOFError):
            answer = None
        finally:
            self.deadline = math.inf
        said = self._said()
        if answer is None:
            code = self.process.wait()
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            died = f"no answer within {timeout:.0f} s" if self.late else how
            return Outcome(item, died=died, said=said)
        good, value = pickle.loads(answer)
        return Outcome(item, result=value, said=said) if good else Outcome(item, error=value, said=said)

    def _said(self) -> str:
        self.stderr.seek(0)
        text = self.stderr.read(SAID).decode(errors="replace").strip()
        self.stderr.seek(0)
        self.stderr.truncate()
        return text

    def stop(self) -> None:
        self.stopped = True
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stderr.close()


_watched: set[_Child] = set()
_watching = threading.Lock()


def _watch(child: _Child) -> None:
    """Have the child killed when its deadline passes; one thread does that for all, as long as there are any."""
    with _watching:
        _watched.add(child)
        if len(_watched) == 1:
            threading.Thread(target=_kill_late, name="isolated-watch", daemon=True).start()


def _kill_late() -> None:
    while True:
        with _watching:
            for child in _watched:
                if time.monotonic() > child.deadline:
                    child.late = True
                    child.process.kill()
            _watched.difference_update([child for child in _watched if child.stopped])
            if not _watched:
                return
        time.sleep(WATCH)


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    size = int.from_bytes(head, "little")
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """A child's life: the set-up, then item after item until the pipe closes."""
    # Decoders may print to stdout; the answers keep a descriptor of their own, and the rest goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    import cv2

    cv2.setNumThreads(1)
    try:
        make, arguments = pickle.loads(_receive(questions))
        function = make(*arguments)
        while True:
            item = pickle.loads(_receive(questions))
            try:
                answer = (True, function(item))
            except Exception as error:
                answer = (False, error)
            _send(answers, _pickled(answer))
    except EOFError:
        return


def _pickled(answer: tuple[bool, Any]) -> bytes:
    try:
        return pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # an exception that does not travel is sent as its text
        return pickle.dumps((False, RuntimeError(f"{answer[1]!r} ({error})")))


if __name__ == "__main__":
    # Under this name the module is __main__; what is pickled names segwright.images.isolated, imported here afresh.
    serve()

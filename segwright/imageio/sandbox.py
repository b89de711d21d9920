"""Work on files in worker processes: a file that crashes, hangs or bloats a decoder costs a worker, not the run.

A worker is a fresh interpreter, not a fork: nothing of the parent's threads, locks or memory is in it, and a caller's
script needs no ``if __name__ == "__main__"``. It is isolated from the place where the parent was started (``-I``: no
current folder, no PYTHON* variables), loads this very package by its path, and its memory is limited.
Requests go to it as pickles, over a pipe of its own; answers come back without pickle (:mod:`.messages`,
:mod:`.sandbox_worker`). The output of libraries goes to a file and comes back with the answer, not to a terminal.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, cast

from segwright.core.errors import ImageReadError, SegwrightError
from segwright.imageio import messages
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.sandbox_worker import STDERR_KEPT
from segwright.kernels.threads import processors

TIMEOUT = DEFAULT_LIMITS.max_seconds
START = 120.0  # seconds for a worker to start and load its libraries; not part of any item's time
WATCH = 0.2  # seconds between two looks at who is late
MOMENT = 1.0  # seconds in which a shared worker may finish what nobody waits for any more
IDLE = 20.0  # seconds after which a worker of the shared pool that has nothing to do ends

Item = TypeVar("Item")
Result = TypeVar("Result")

# Loads the package by its path, whatever the module search path holds; the parent's other entries come last, so that
# nothing in them can stand in for the standard library or an installed package.
_BOOT = """
import importlib.util, json, sys
given = json.loads(sys.argv[1])
sys.path += [entry for entry in given["path"] if entry not in sys.path]
spec = importlib.util.spec_from_file_location("segwright", given["init"], submodule_search_locations=[given["package"]])
package = sys.modules["segwright"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from segwright.imageio.sandbox_worker import serve
serve(given["requests"], given["answers"])
"""


class DecoderStartError(SegwrightError):
    """The process that decodes files cannot start: the machine's or the installation's fault, not a file's."""


@dataclass(frozen=True)
class TaskResult(Generic[Item, Result]):
    """The result of one item, or how it failed."""

    item: Item
    result: Result | None = None
    crash: str | None = None  # "killed by signal 11", "no answer within 120 s"
    error: Exception | None = None  # what the function raised
    stderr: str = ""  # what libraries printed while it ran
    interrupted: bool = False  # with ``crash``: ended from outside (SIGKILL, SIGTERM, closing), not by the item

    def get(self) -> Result:
        """The result; raises what the function raised, and ImageReadError (reason "killed") if the worker crashed."""
        if self.error is not None:
            raise self.error
        if self.crash is not None:
            named = self.item[-1] if isinstance(self.item, tuple) and self.item else self.item
            raise decoder_crashed_error(named if isinstance(named, str | Path) else "the file", self.crash)
        return cast(Result, self.result)


@dataclass(frozen=True)
class _Setup:
    """A function and its limits, as the workers get them."""

    key: int
    message: bytes  # pickled (make, arguments)
    memory: int
    allowed: dict[str, type]
    max_answer: int


_keys = itertools.count(1)


class WorkerPool(Generic[Item, Result]):
    """``count`` worker processes that apply ``function`` to items; a context manager, safe to use from any thread.

    ``function`` is made in every worker by ``make(*arguments)``; both ``make`` (importable, by name) and the arguments
    travel as pickles. Results are plain values, arrays, and the dataclasses that ``result`` reaches by its annotations.
    A worker that crashes or hangs is replaced, and its item reported. ``timeout`` is per item, from the moment at which
    a running worker gets it. ``shared``: use the processes that are shared within this process; they end when idle.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Item], Result]],
        *arguments: Any,
        count: int | None = None,
        timeout: float | None = None,
        result: Any = None,
        limits: Limits = DEFAULT_LIMITS,
        shared: bool = False,
        max_answer: int = messages.MAX_ANSWER,
    ) -> None:
        self.count = count or processors()
        self.timeout = limits.max_seconds if timeout is None else timeout
        message = pickle.dumps((make, arguments), pickle.HIGHEST_PROTOCOL)
        self._setup = _Setup(next(_keys), message, limits.memory, messages.dataclasses_in(result), max_answer)
        self._processes = _shared() if shared else _ProcessPool(math.inf)
        self._own = not shared
        self._busy: set[_WorkerProcess] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="isolated")

    def __enter__(self) -> WorkerPool[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop: items that wait are dropped, busy workers are killed; shared ones get a moment to finish."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + (0.0 if self._own else MOMENT)
        while self._busy and time.monotonic() < until:
            time.sleep(0.005)
        with self._lock:
            for worker in self._busy:
                worker.kill()
        self._pool.shutdown(cancel_futures=True)
        if self._own:
            self._processes.close()

    def one(self, item: Item) -> TaskResult[Item, Result]:
        """Apply the function to one item, in the first free worker."""
        return self._several([item])[0]

    def map(self, items: Iterable[Item], *, batch: int = 1) -> Iterator[TaskResult[Item, Result]]:
        """Yield results as they come, in no fixed order; only a few items are in flight at a time.

        ``batch`` items travel in one message, which pays off below a millisecond per item; a worker that
        crashes still costs only the item it was working on.
        """
        waiting: set[Future[list[TaskResult[Item, Result]]]] = set()
        for some in _batches(items, batch):
            waiting.add(self._pool.submit(self._several, some))
            if len(waiting) >= 2 * self.count:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()

    def in_order(self, items: Iterable[Item], *, batch: int = 1) -> Iterator[TaskResult[Item, Result]]:
        """:meth:`map` in the order of the items; only a few are started ahead of the caller."""
        waiting: deque[Future[list[TaskResult[Item, Result]]]] = deque()
        try:
            for some in _batches(items, batch):
                waiting.append(self._pool.submit(self._several, some))
                if len(waiting) > self.count:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _several(self, items: list[Item]) -> list[TaskResult[Item, Result]]:
        outcomes: list[TaskResult[Item, Result]] = []
        lost = 0  # workers in a row that ended without an answer, and not because of the item
        while len(outcomes) < len(items):
            rest = items[len(outcomes) :]
            worker = self._processes.take()
            with self._lock:
                closed = self._closed
                if not closed:
                    self._busy.add(worker)
            if closed:
                self._processes.give_back(worker)
                return outcomes + [TaskResult(item, crash="the pool was closed", interrupted=True) for item in rest]
            try:
                found = worker.ask(self._setup, rest, self.timeout)
            finally:
                with self._lock:
                    self._busy.discard(worker)
                self._processes.give_back(worker)
            if found and found[-1].interrupted and lost == 0:  # ended by somebody else: the item gets a second worker
                found.pop()
            lost = 0 if found else lost + 1
            outcomes += found
            if lost >= 3:
                raise DecoderStartError(
                    "the processes that decode files are ended from outside",
                    found=worker.how or "no message",
                    fix="see whether the system kills processes for want of memory",
                )
        return outcomes


def map_isolated(
    function: Callable[[Item], Result], items: Iterable[Item], *, batch: int = 8, result: Any = None
) -> Generator[TaskResult[Item, Result], None, None]:
    """Apply ``function`` to the items in the shared worker processes; results in the order of the items.

    ``function`` is importable by name, or a ``functools.partial`` of one that is. For surveys: files that
    were never decoded before are not decoded in this process. The first use starts the processes: half a second.
    """
    with WorkerPool[Item, Result](_same, function, result=result, shared=True) as pool:
        yield from pool.in_order(items, batch=batch)


def _same(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    return function


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some


class _ProcessPool:
    """WorkerPool that wait for work; those that wait longer than ``idle`` seconds end."""

    def __init__(self, idle: float) -> None:
        self.idle = idle
        self._waiting: list[_WorkerProcess] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> _WorkerProcess:
        """A running worker: an idle one, or a new one."""
        while True:
            with self._lock:
                worker = self._waiting.pop() if self._waiting else None
            if worker is None:
                return _WorkerProcess()
            with _watching:
                worker.ends_idle = math.inf
            if worker.process.poll() is None and not worker.reaped:
                return worker
            worker.stop()  # may have been OOM-killed while idle

    def give_back(self, worker: _WorkerProcess) -> None:
        if worker.how is None:
            with self._lock:
                if not self._closed:
                    worker.ends_idle = time.monotonic() + self.idle
                    self._waiting.append(worker)
                    return
        worker.stop()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            workers, self._waiting = self._waiting, []
        for worker in workers:
            worker.stop()


_pool: _ProcessPool | None = None
_pool_lock = threading.Lock()


def _shared() -> _ProcessPool:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = _ProcessPool(IDLE)
            atexit.register(_pool.close)
        return _pool


def _reset_after_fork() -> None:
    """Reset the pool after a fork: the parent's workers belong to the parent."""
    global _pool, _pool_lock, _watching
    _pool, _pool_lock, _watching = None, threading.Lock(), threading.Lock()
    _watched.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def decoder_crashed_error(path: str | Path, how: str) -> ImageReadError:
    """The error for a file that crashed its decoder."""
    return ImageReadError(
        "the file ends the process that decodes it",
        expected="an image",
        found=how,
        where=path,
        fix="copy it again from its source, or leave it out; do not open it with other tools",
        reason="killed",
    )


def _current_folder() -> str:
    """The working directory; the root if it was removed meanwhile, under which relative paths name nothing."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.path.abspath(os.sep)


def search_path() -> list[str]:
    """The parent's module search path without the current folder, whose files are data, not code."""
    here = os.path.realpath(_current_folder())
    return [entry for entry in sys.path if entry and os.path.realpath(entry) != here]


class _WorkerProcess:
    """One worker process, used by one thread at a time."""

    def __init__(self) -> None:
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self.deadline = self.ends_idle = math.inf
        self.late = self.stopped = self.reaped = False
        self.how: str | None = None  # how it ended
        self.outside = False  # it was killed from outside, not for missing its deadline
        self._begun = False
        self._known: set[int] = set()
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        given: dict[str, Any] = {
            "path": search_path(),
            "init": os.path.join(package, "__init__.py"),
            "package": package,
        }
        flags = ["-I", *(["-B"] if sys.dont_write_bytecode else []), *(["-X", "utf8"] if sys.flags.utf8_mode else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if os.name == "posix":
            theirs_in, ours_out = os.pipe()
            ours_in, theirs_out = os.pipe()
            given |= {"requests": theirs_in, "answers": theirs_out}
            options: dict[str, Any] = {
                "stdin": subprocess.DEVNULL, "stdout": self.output, "pass_fds": (theirs_in, theirs_out),
            }  # fmt: skip
        else:  # no descriptors but the standard ones are handed down; the worker moves them out of the libraries' way
            given |= {"requests": 0, "answers": 1}
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, *flags, "-c", _BOOT, json.dumps(given)]
        try:
            self.process = subprocess.Popen(command, stderr=self.output, env=environment, cwd=_neutral(), **options)
        except OSError as error:
            raise DecoderStartError(
                "a process to decode files in cannot be started",
                found=error.strerror or str(error),
                fix="see how many processes and how much memory this user may have",
            ) from error
        if os.name == "posix":
            os.close(theirs_in)
            os.close(theirs_out)
            self.requests: IO[bytes] = os.fdopen(ours_out, "wb")
            self.answers: IO[bytes] = os.fdopen(ours_in, "rb")
        else:
            assert self.process.stdin is not None and self.process.stdout is not None
            self.requests, self.answers = self.process.stdin, self.process.stdout
        _watch(self)

    def ask(self, setup: _Setup, items: list[Any], timeout: float) -> list[TaskResult[Any, Any]]:
        """Results of the first items: of all, or up to the one at which the worker ended."""
        try:
            error = self._prepare(setup)
        except (OSError, EOFError, messages.MalformedAnswerError):
            self._ended(START)
            if self._begun or self.outside:
                return []
            raise DecoderStartError(
                "the process that decodes files does not start",
                found=f"{self.how}: {self._read_stderr()[-500:]}",
                fix="see whether memory is short, and whether segwright is installed whole",
            ) from None
        if error is not None:
            raise error
        outcomes: list[TaskResult[Any, Any]] = []
        try:
            _post(self.requests, (_current_folder(), setup.key, items))
        except OSError:
            self._ended(timeout)
            return []
        for item in items:
            # One watch thread for all items: starting one per item costs as much as decoding a small image.
            self.deadline = time.monotonic() + timeout
            try:
                good, value, stderr = messages.receive(self.answers, setup.allowed, setup.max_answer)
            except (OSError, EOFError, messages.MalformedAnswerError, TypeError, ValueError) as error:
                self._ended(timeout, None if isinstance(error, EOFError | OSError) else error)
                stderr = self._read_stderr()
                outcomes.append(TaskResult(item, crash=self.how, stderr=stderr, interrupted=self.outside))
                break
            finally:
                self.deadline = math.inf
            outcomes.append(
                TaskResult(item, result=value, stderr=stderr) if good else TaskResult(item, error=value, stderr=stderr)
            )
        return outcomes

    def _prepare(self, setup: _Setup) -> Exception | None:
        """Wait until the worker runs and has the function; its clock is the start's, not an item's."""
        if setup.key in self._known:
            return None
        self.deadline = time.monotonic() + START
        try:
            _post(self.requests, (_current_folder(), setup.key, (setup.message, setup.memory)))
            good, value, _ = messages.receive(self.answers, {}, 0)
        finally:
            self.deadline = math.inf
        self._begun = True
        if not good:
            return value if isinstance(value, Exception) else RuntimeError(str(value))
        self._known.add(setup.key)
        return None

    def _ended(self, timeout: float, garbled: Exception | None = None) -> None:
        """Note how the process ended; one that sent what is no answer is ended here."""
        if garbled is not None:
            self.process.kill()
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:  # its pipe is closed, and yet it runs
            self.process.kill()
            code = self.process.wait()
        if garbled is not None:
            self.how = f"an answer that cannot be read ({garbled})"
        elif self.late:
            self.how = f"no answer within {timeout:g} s"
        else:
            self.how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self.outside = code in (-9, -15, -1, -2)

    def _read_stderr(self) -> str:
        self.output.seek(0)
        return self.output.read(STDERR_KEPT).decode(errors="replace").strip()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()

    def stop(self) -> None:
        self.stopped = True
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()


def _neutral() -> str:
    """A working directory that holds no user data, for a process to start in."""
    return os.path.abspath(os.sep)


_watched: set[_WorkerProcess] = set()
_watching = threading.Lock()


def _watch(worker: _WorkerProcess) -> None:
    """Kill the worker when its deadline passes; one thread watches all of them."""
    with _watching:
        _watched.add(worker)
        if len(_watched) == 1:
            threading.Thread(target=_kill_late, name="isolated-watch", daemon=True).start()


def _kill_late() -> None:
    while True:
        with _watching:
            now = time.monotonic()
            for worker in _watched:
                if now > worker.deadline:
                    worker.late = True
                    worker.kill()
                elif now > worker.ends_idle:
                    worker.reaped = True  # whoever would take it next takes another
                    worker.kill()
            _watched.difference_update([c for c in _watched if c.stopped or c.process.poll() is not None])
            if not _watched:
                return
        time.sleep(WATCH)


def _post(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()

"""Reading ahead and writing behind: threads that fetch and store windows while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

DEPTH = 2  # items that wait at either end: enough to hide the slower side, and little memory


def read_ahead(items: Iterable[T], read: Callable[[T], R], depth: int = DEPTH) -> Generator[tuple[T, R], None, None]:
    """Each item with what ``read`` gives of it, in order. A thread is up to ``depth`` items ahead; its exceptions are
    raised here, at their item."""
    with ThreadPoolExecutor(1, "segwright-read") as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(read, item)))
                if len(waiting) > depth:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Runs calls in order in a thread, of which at most ``depth`` wait. The block ends when all are done; the first
    exception of one is raised by the next call or at the end, and what follows it is not run."""

    def __init__(self, depth: int = DEPTH) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "segwright-write")
        self._waiting: deque[Future[Any]] = deque()
        self._broken = False

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run ``function`` after the calls before it."""
        while len(self._waiting) > self._depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._run, function, arguments))

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if not self._broken:
            try:
                function(*arguments)
            except BaseException:
                self._broken = True
                raise

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:  # otherwise the exception that ended the block is the one to be raised
            for future in self._waiting:
                future.result()

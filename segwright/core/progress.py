"""What people see in a terminal: progress with an estimate, and plain lines where there is no terminal.

Everything here writes to stderr, so that stdout stays free for a command's result.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

PLAIN_INTERVAL = 10.0  # seconds between two plain lines when piped
QUIET_SECONDS = 2.0  # shorter work shows nothing
JOINERS = "\u200c\u200d"  # not printable by Python's tables, but letters of Persian, Hindi and of emoji need them

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process speaks and writes results: of those that a launcher started, the first alone does."""
    return os.environ.get("RANK", "0") == "0"


def visible(text: object, *, lines: bool = False) -> str:
    """``str(text)`` as a terminal or a page may show it, whatever a file or a class is called.

    Control characters (and with them escape sequences), marks that turn the direction of text and stray bytes of a
    file name become escapes such as ``\\x1b``. ``lines`` keeps line breaks and tabs.
    """
    kept = JOINERS + "\n\t" if lines else JOINERS
    return "".join(
        letter
        if letter.isprintable() or letter in kept
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in str(text)
    )


def literal(text: object, style: str = "") -> Text:
    """A name from the data for a line or a table: neither markup nor control characters in it have a meaning."""
    return Text(visible(text), style=style)


class PlainConsole(Console):
    """A console in which strings are data: no markup, no emoji codes, nothing highlighted, control characters visible.

    What is to have a style is a :class:`rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, lines=True), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of ``renderable``; the last look at any text, however it came."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(visible(segment.text, lines=True), segment.style)
            yield segment


def stderr_console() -> Console:
    return PlainConsole(stderr=True)


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, from the second second on; yields ``advance(n)``. Plain lines when not a terminal."""
    if not is_first():
        yield lambda count: None
        return
    reporter = _Terminal(title, total) if sys.stderr.isatty() else _Plain(title, total)
    try:
        yield reporter.advance
    finally:
        reporter.close()


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """``items``, with :func:`progress` over them."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(title, total) as advance:
        for item in items:
            yield item
            advance(1)


def wrapped(line: str, width: int) -> str:
    """``line`` broken between words to ``width`` columns; what goes on hangs under its text, or under the second column
    of "name  value". Long words, such as paths, stay whole, to be copied."""
    if len(line) <= width or len(line.split()) <= 2:
        return line
    column = re.match(r"\s*(\S+(?: \S+){0,2} {2,})?", line)
    hang = len(column[0]) if column else 0
    if hang > width // 2 or hang == 0:
        hang = min(len(line) - len(line.lstrip()) + 2, width // 2)
    parts = textwrap.wrap(
        line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False, tabsize=4
    )
    return "\n".join(parts)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds % 60 else f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class _Terminal:
    def __init__(self, title: str, total: int | None) -> None:
        self.started = time.monotonic()
        self.title, self.total, self.done = title, total, 0
        self.bar: Progress | None = None

    def advance(self, count: int) -> None:
        self.done += count
        if self.bar is None:
            if time.monotonic() - self.started < QUIET_SECONDS:
                return
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self.bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=stderr_console())
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total)
        self.bar.update(self.task, completed=self.done)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class _Plain:
    def __init__(self, title: str, total: int | None) -> None:
        self.started = self.last = time.monotonic()
        self.title, self.total, self.done = title, total, 0
        self.begun = 0

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if not self.begun:  # starting up (processes, caches) is no measure of what follows
            self.started, self.begun = now, self.done
        if now - self.last >= PLAIN_INTERVAL:
            self.last = now
            print(visible(self.line(now)), file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        if not self.total:
            return f"{self.title}: {self.done}"
        if self.done <= self.begun:
            return f"{self.title}: {self.done}/{self.total}"
        left = (now - self.started) / (self.done - self.begun) * (self.total - self.done)
        return f"{self.title}: {self.done}/{self.total}, {duration(left)} left"

    def close(self) -> None:
        return

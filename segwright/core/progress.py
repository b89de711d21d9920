"""Terminal output: progress bars with an estimate, plain lines without a terminal, safe display of names.

Everything is written to stderr; stdout is for the result of a command.
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

PLAIN_INTERVAL = 10.0  # seconds between two plain lines without a terminal
QUIET_SECONDS = 2.0  # shorter work shows no bar
JOINERS = "\u200c\u200d"  # not printable by Python's tables, but letters of Persian, Hindi and of emoji need them

T = TypeVar("T")


def is_main_process() -> bool:
    """True in the main process (rank 0), which alone logs and writes results."""
    return os.environ.get("RANK", "0") == "0"


def visible(text: object, *, lines: bool = False) -> str:
    """``str(text)`` made safe for a terminal or a page.

    Control characters, marks that change the direction of text, and undecodable bytes of file names become escapes
    such as ``\\x1b``. ``lines`` keeps line breaks and tabs.
    """
    kept = JOINERS + "\n\t" if lines else JOINERS
    return "".join(
        letter
        if letter.isprintable() or letter in kept
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in str(text)
    )


def literal(text: object, style: str = "") -> Text:
    """A name from the data as rich text: markup and control characters in it have no effect."""
    return Text(visible(text), style=style)


class PlainConsole(Console):
    """A console that prints strings literally: no markup, emoji codes or highlighting, control characters visible.

    Styled output is a :class:`rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, lines=True), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of ``renderable``, with control characters made visible in any text."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(visible(segment.text, lines=True), segment.style)
            yield segment


def stderr_console() -> Console:
    return PlainConsole(stderr=True)


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show progress with the time left if the work takes more than two seconds; yields ``advance(n)``.

    Without a terminal, a plain line every ten seconds.
    """
    if not is_main_process():
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


def wrap_line(line: str, width: int) -> str:
    """Break ``line`` between words to ``width`` columns with a hanging indent, under its text or the second column of
    "name  value". Long words, such as paths, are not broken, so that they can be copied."""
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
        if not self.begun:  # the time to start (processes, caches) is not part of the estimate
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

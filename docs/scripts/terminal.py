"""Record a command in a terminal of its own, and draw the recording as an animated SVG without a script in it.

``python docs/scripts/terminal.py --out docs/images/demo.svg -- segwright demo --no-open``. ``--keep FILE`` stores the
recording as JSON, ``--from FILE`` draws a stored one. Pauses are shortened; nothing else is changed.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import fcntl
import html
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

Event = tuple[float, str]  # seconds since the start, what was written
Style = tuple[str, str, bool]  # foreground, background, bold
Line = tuple[tuple[str, Style], ...]

PLAIN: Style = ("#d8dee9", "", False)
GROUND = "#11151c"
BASIC = ["#3b4252", "#e06c75", "#8fbf7f", "#e5c07b", "#6ea8fe", "#c678dd", "#56b6c2", "#d8dee9"]
BRIGHT = ["#6b7489", "#ff8f98", "#aede9c", "#ffd98a", "#9cc4ff", "#e0a0f0", "#7fd8e2", "#ffffff"]
CELL, HEIGHT, SIZE = 8.43, 19, 14  # one character's width, one line's height, the font's size
LONGEST_PAUSE, SHORTEST, HOLD = 0.035, 0.2, 8.0  # seconds
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]*)?$|\x1b\][^\x07\x1b]*$")
_ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")


def record(command: Sequence[str], columns: int, rows: int) -> list[Event]:
    """Run a command in a pseudo-terminal with 24-bit colors. RuntimeError if it fails."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", COLUMNS=str(columns), LINES=str(rows))
        os.execvp(command[0], list(command))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    events: list[Event] = []
    started, decoder = time.monotonic(), codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        select.select([terminal], [], [], 1)
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        events.append((round(time.monotonic() - started, 3), decoder.decode(data)))
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("the command failed:\n" + "".join(text for _, text in events)[-2000:])
    return events


@dataclass
class Screen:
    """As much of a terminal as progress bars and tables need; lines are kept when they scroll out."""

    columns: int
    lines: list[list[tuple[str, Style]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: Style = PLAIN
    held: str = ""

    def write(self, text: str) -> None:
        text = self.held + text
        cut = _UNFINISHED.search(text)  # a sequence that the next read will end
        self.held = text[cut.start() :] if cut else ""
        text = text[: cut.start()] if cut else text
        at = 0
        for match in _ESCAPE.finditer(text):
            self._characters(text[at : match.start()])
            at = match.end()
            if match[2]:
                self._control(match[1], match[2])
        self._characters(text[at:])

    def _characters(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._to(self.row + 1)
            elif character == "\r":
                self.column = 0
            elif character == "\b":
                self.column = max(0, self.column - 1)
            elif character >= " ":
                if self.column >= self.columns:
                    self._to(self.row + 1)
                    self.column = 0
                line = self.lines[self.row]
                line.extend([(" ", PLAIN)] * (self.column + 1 - len(line)))
                line[self.column] = (character, self.style)
                self.column += 1

    def _to(self, row: int) -> None:
        self.row = max(0, row)
        while len(self.lines) <= self.row:
            self.lines.append([])

    def _control(self, given: str, kind: str) -> None:
        numbers = [int(one) if one.isdigit() else 0 for one in given.split(";")]
        count = max(1, numbers[0])
        if kind == "A":
            self._to(self.row - count)
        elif kind == "B":
            self._to(self.row + count)
        elif kind == "C":
            self.column += count
        elif kind == "D":
            self.column = max(0, self.column - count)
        elif kind == "G":
            self.column = count - 1
        elif kind == "K":
            line = self.lines[self.row]
            self.lines[self.row] = [] if numbers[0] == 2 else line[: self.column]
        elif kind == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        elif kind == "m":
            self._rendition(numbers)

    def _rendition(self, numbers: list[int]) -> None:
        fore, back, bold = self.style
        rest = list(numbers)
        while rest:
            code = rest.pop(0)
            if code == 0:
                fore, back, bold = PLAIN
            elif code in (1, 22):
                bold = code == 1
            elif code == 2:
                fore = BRIGHT[0]
            elif code in (38, 48):
                color = _color(rest)
                fore, back = (color, back) if code == 38 else (fore, color)
            elif code in (39, 49):
                fore, back = (PLAIN[0], back) if code == 39 else (fore, "")
            elif 30 <= code <= 37 or 90 <= code <= 97:
                fore = BASIC[code - 30] if code < 90 else BRIGHT[code - 90]
            elif 40 <= code <= 47:
                back = BASIC[code - 40]
        self.style = (fore, back, bold)


def _color(rest: list[int]) -> str:
    """The color after 38 or 48, which is taken from the list."""
    if rest and rest.pop(0) == 2:
        red, green, blue = (rest.pop(0) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    number = rest.pop(0) if rest else 7
    if number < 16:
        return (BASIC + BRIGHT)[number]
    if number >= 232:
        return "#" + f"{8 + 10 * (number - 232):02x}" * 3
    number -= 16
    return "#" + "".join(
        f"{0 if not part else 55 + 40 * part:02x}" for part in (number // 36, number // 6 % 6, number % 6)
    )


@dataclass
class Shown:
    """One state of one line, and when it was to be seen."""

    row: int
    line: Line
    since: float
    until: float | None = None


def replay(events: Sequence[Event], columns: int, rows: int) -> tuple[list[Shown], list[tuple[float, int]], float]:
    """Every state of every line, when the window scrolled to which first row, and the length in seconds."""
    screen, now, before, drawn = Screen(columns), 0.0, 0.0, -SHORTEST
    current: dict[int, Shown] = {}
    states: list[Shown] = []
    scrolls: list[tuple[float, int]] = [(0.0, 0)]
    for number, (at, text) in enumerate(events):
        now += min(LONGEST_PAUSE, at - before)
        before = at
        screen.write(text)
        if (now - drawn < SHORTEST or screen.held) and number + 1 < len(events):
            continue
        drawn = now
        for row in range(max(len(screen.lines), 1 + max(current, default=0))):
            line = tuple(screen.lines[row]) if row < len(screen.lines) else ()
            old = current.get(row)
            if old is not None and old.line == line:
                continue
            if old is not None:
                old.until = now
            current[row] = Shown(row, line, now)
            states.append(current[row])
        top = max(0, len(screen.lines) - rows)
        if top != scrolls[-1][1]:
            scrolls.append((now, top))
    return [one for one in states if "".join(c for c, _ in one.line).strip()], scrolls, now + HOLD


def _spans(line: Line, y: float) -> str:
    """One line as text, runs of one style each, at their columns."""
    parts, start = [], 0
    while start < len(line):
        stop = start
        while stop < len(line) and line[stop][1] == line[start][1]:
            stop += 1
        text = "".join(character for character, _ in line[start:stop])
        fore, back, bold = line[start][1]
        x = 12 + start * CELL
        if back:
            parts.append(
                f'<rect x="{x:.1f}" y="{y - 14:.0f}" width="{len(text) * CELL:.1f}" height="{HEIGHT}" fill="{back}"/>'
            )
        if text.strip():
            kept = text.rstrip()
            lead = len(kept) - len(kept.lstrip())
            kept = kept.lstrip()
            weight = ' font-weight="bold"' if bold else ""
            fill = "" if fore == PLAIN[0] else f' style="fill:{fore}"'
            parts.append(
                f'<text x="{x + lead * CELL:.1f}" y="{y:.0f}" textLength="{len(kept) * CELL:.1f}"{fill}{weight}>'
                f"{html.escape(kept)}</text>"
            )
        start = stop
    return "".join(parts)


def _is_image(line: Line) -> bool:
    return len(line) > 8 and {character for character, _ in line} <= {"▀", " "} and any(c == "▀" for c, _ in line)


def _image(lines: Sequence[Line], y: float) -> str:
    """Lines of half blocks, two pixels per character, as one small PNG."""
    pixels = np.zeros((2 * len(lines), max(map(len, lines)), 3), np.uint8)
    for row, line in enumerate(lines):
        for column, (_, (fore, back, _)) in enumerate(line):
            for half, color in enumerate((fore, back or GROUND)):
                pixels[2 * row + half, column] = [int(color[at : at + 2], 16) for at in (5, 3, 1)]
    done, data = cv2.imencode(".png", pixels)
    assert done
    text = base64.b64encode(data.tobytes()).decode()
    return (
        f'<image x="12" y="{y - 14:.0f}" width="{pixels.shape[1] * CELL:.1f}" height="{len(lines) * HEIGHT}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,{text}"/>'
    )


def draw(events: Sequence[Event], columns: int, rows: int, title: str) -> str:
    """The SVG: without animation (reduced motion) it shows the end."""
    states, scrolls, length = replay(events, columns, rows)
    width, height = 24 + columns * CELL, 52 + rows * HEIGHT
    style = [
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "fill:#d8dee9;white-space:pre}",
        "@media (prefers-reduced-motion:reduce){*{animation:none!important}}",
    ]
    body: list[str] = []
    pending: list[Shown] = []

    def flush() -> None:
        if pending:
            image = _image([one.line for one in pending], y(pending[0].row))
            body.append(f'<g class="{timed(pending[-1].since, None)}">{image}</g>')
            pending.clear()

    def y(row: int) -> float:
        return 14 + row * HEIGHT

    def timed(since: float, until: float | None) -> str:
        """A class whose animation shows an element in that time."""
        name = f"s{len(style)}"
        frames = f"0%{{visibility:hidden}}{100 * since / length:.2f}%{{visibility:visible}}"
        if until is not None:
            frames += f"{100 * until / length:.2f}%,100%{{visibility:hidden}}"
        still = "hidden" if until is not None else "visible"
        animation = f"animation:{name} {length:.1f}s step-end infinite"
        style.append(f"@keyframes {name}{{{frames}}}.{name}{{visibility:{still};{animation}}}")
        return name

    for one in states:
        if _is_image(one.line) and one.until is None:
            if pending and one.row != pending[-1].row + 1:
                flush()
            pending.append(one)
            continue
        flush()
        if one.until is None or one.until - one.since >= SHORTEST / 2:
            body.append(f'<g class="{timed(one.since, one.until)}">{_spans(one.line, y(one.row))}</g>')
    flush()
    steps = "".join(f"{100 * at / length:.2f}%{{transform:translateY({-top * HEIGHT}px)}}" for at, top in scrolls)
    last = f"transform:translateY({-scrolls[-1][1] * HEIGHT}px)"
    style.append(f"@keyframes scroll{{{steps}}}.scroll{{{last};animation:scroll {length:.1f}s step-end infinite}}")
    colors = ("#ff5f57", "#febc2e", "#28c840")
    dots = "".join(f'<circle cx="{18 + 18 * n}" cy="17" r="5.5" fill="{c}"/>' for n, c in enumerate(colors))
    box = f'viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}"'
    inner = f'<svg y="36" width="{width:.0f}" height="{rows * HEIGHT + 6}"><g class="scroll">{"".join(body)}</g></svg>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{html.escape(title)}">'
        f'<style>{"".join(style)}</style><rect width="100%" height="100%" rx="8" fill="{GROUND}"/>{dots}{inner}</svg>\n'
    )


def still(events: Sequence[Event], columns: int, title: str) -> str:
    """An SVG of the screen at the end, as high as what was written."""
    screen = Screen(columns)
    for _, text in events:
        screen.write(text)
    lines = [tuple(line) for line in screen.lines]
    while lines and not "".join(character for character, _ in lines[-1]).strip():
        lines.pop()
    body = "".join(_spans(line, 14 + row * HEIGHT) for row, line in enumerate(lines))
    width, height = 24 + columns * CELL, 16 + len(lines) * HEIGHT
    font = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" role="img" aria-label="{html.escape(title)}"><style>text{{font:14px {font};'
        f'fill:{PLAIN[0]};white-space:pre}}</style><rect width="100%" height="100%" rx="8" fill="{GROUND}"/>'
        f'<svg y="8">{body}</svg></svg>\n'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=88)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--title", default="A recording of segwright demo in a terminal")
    parser.add_argument("--keep", type=Path, help="also store the recording, as JSON")
    parser.add_argument("--from", dest="stored", type=Path, help="draw a stored recording")
    parser.add_argument("command", nargs="*", help="after --")
    given = parser.parse_args(arguments)
    if given.stored:
        events = [(at, text) for at, text in json.loads(given.stored.read_text(encoding="utf-8"))]
    else:
        events = [
            (0.0, f"\x1b[1;32m$\x1b[0m {' '.join(given.command)}\r\n"),
            *record(given.command, given.columns, given.rows),
        ]
    if given.keep:
        given.keep.write_text(json.dumps(events), encoding="utf-8")
    given.out.write_text(draw(events, given.columns, given.rows, given.title), encoding="utf-8")
    print(f"{given.out}: {given.out.stat().st_size / 1024:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Lines for people: broken between words, what goes on hanging under what it belongs to."""

from __future__ import annotations

import io

import pytest
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segwright.core.progress import PlainConsole, literal, visible, wrap_line

PLAN = "  optimizer       muon  (convolution kernels by their momentum made orthogonal: most learnt in few steps)"


def test_a_plan_hangs_under_its_values() -> None:
    first, second = wrap_line(PLAN, 80).split("\n")
    assert (
        len(first) <= 80
        and len(second) - len(second.lstrip()) == PLAN.index("muon")
        and second.strip().endswith("few steps)")
    )
    assert (first + " " + second.strip()) == PLAN, "nothing is lost"


def test_a_sentence_hangs_under_itself() -> None:
    text = "warning: pole is never predicted after 4 epochs: try --loss ce+dice, or a longer training"
    assert wrap_line(text, 60) == (
        "warning: pole is never predicted after 4 epochs: try --loss\n  ce+dice, or a longer training"
    )


@pytest.mark.parametrize("text", ["short", "", "model: /a/" + "b" * 100, "/a/" + "b" * 100])
def test_short_lines_and_paths_stay_whole(text: str) -> None:
    assert wrap_line(text, 80) == text


HOSTILE = "[/b] [red]x :car: \x1b]0;owned\x07\x1b[2J \u202e \udcff"
SHOWN = "[/b] [red]x :car: \\x1b]0;owned\\x07\\x1b[2J \\u202e \\udcff"


def test_visible_keeps_what_can_be_read() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("a\n\tb") == "a\\n\\tb" and visible("a\n\tb\r", lines=True) == "a\n\tb\\r"
    assert visible("Straße 道路 می\u200cشود") == "Straße 道路 می\u200cشود"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_takes_no_orders_from_text(terminal: bool) -> None:
    """However a string arrives: printed, in a table, padded, as a Text that was made without care."""
    buffer = io.StringIO()
    screen = PlainConsole(file=buffer, width=200, force_terminal=terminal)
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    for thing in (HOSTILE, table, Padding(HOSTILE, (0, 2)), literal(HOSTILE, "bold"), Text(HOSTILE)):
        buffer.truncate(0)
        buffer.seek(0)
        screen.print(thing)
        written = buffer.getvalue()
        for order in ("\x1b]0;", "\x1b[2J", "\x07", "\u202e", "\udcff", "🚗"):
            assert order not in written, (thing, order)
        assert "[/b] [red]x :car:" in written
    buffer.truncate(0)
    screen.print(Text("error", style="bold red"))
    assert ("\x1b[1;31m" in buffer.getvalue()) == terminal, "a style of ours is one still"

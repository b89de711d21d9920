"""The text of ``--help``: usage, what the command does, examples, arguments, options by heading; 80 columns or more."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from segwright.cli import parameters
from segwright.cli.tasks import EXAMPLES, PAGES, TASKS, by_task
from segwright.core.progress import PlainConsole

WIDEST = 100  # columns: longer lines are hard to read
COLUMN = 28  # where the texts of options begin
KEPT = "\0"  # a space that no line is broken at


def command_words(context: Any) -> str:
    """``datasets download`` of the context of that command; empty for ``segwright`` itself."""
    return " ".join(str(context.command_path).split()[1:])


def usage_line(command: Any, context: Any) -> str:
    """``segwright predict MODEL SOURCE... [OPTIONS]``."""
    words = [str(context.command_path)]
    if hasattr(command, "commands"):
        words.append("COMMAND")
    for one in command.params:
        if parameters.is_argument(one):
            name = parameters.metavar(one)
            words.append(name if one.required or name.startswith("[") else f"[{name}]")
        elif one.required:
            words.append(f"{one.opts[0]} {parameters.metavar(one)}")
    return " ".join([*words, "[OPTIONS]"])


def help_lines(command: Any, context: Any) -> list[Text]:
    """The help of one command, or of a group of them, as lines."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    name = command_words(context)
    lines = [*_wrapped(usage_line(command, context), width, bold="Usage: "), Text()]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [*_wrapped(" ".join(paragraph.split()), width), Text()]
    lines += _section("Examples", [Text(f"  {one}") for one in EXAMPLES.get(name, ())])
    if hasattr(command, "commands"):
        lines += _commands(command, width)
    shown = parameters.visible_parameters(command, context)
    rows = [(parameters.metavar(one), _described(one)) for one in shown if parameters.is_argument(one)]
    lines += _section("Arguments", _rows(rows, width))
    panels: dict[str, list[tuple[str, str]]] = {parameters.PANEL: []}  # first
    for one in shown:
        if not parameters.is_argument(one):
            panels.setdefault(parameters.panel(one), []).append((_option(one), _described(one)))
    for title, rows in panels.items():
        lines += _section(title, _rows(rows, width))
    if name in PAGES:
        lines += [Text(f"More: {PAGES[name]}" + ("" if name else "; COMMAND --help has the options of a command"))]
    return lines


def render(lines: Iterable[Text]) -> str:
    """With bold headings on a terminal, plain otherwise."""
    console = PlainConsole(file=sys.stdout, width=WIDEST * 10)
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    return captured.get().rstrip("\n") + "\n"


def _commands(group: Any, width: int) -> list[Text]:
    found = {name: one for name, one in group.commands.items() if not one.hidden}
    lines = []
    tasks = by_task(list(found)) if "demo" in found else {"Commands": list(found)}
    for task, names in tasks.items():
        rows = [(name, summary(found[name])) for name in names]
        lines += _section(task, _rows(rows, width, column=16))
    return lines


def summary(command: Any) -> str:
    """What the command does, in a line: of the list by task, else the first sentence of its help."""
    for members in TASKS.values():
        if command.name in members:
            return members[command.name]
    return " ".join((command.help or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def _option(one: Any) -> str:
    """``--out FOLDER``, ``--overlay/--no-overlay``, ``-h, --help``."""
    names = ", ".join(sorted(one.opts, key=len)) if "--help" in one.opts else ", ".join(one.opts)
    if one.secondary_opts:
        names = "/".join([names, *one.secondary_opts])
    return f"{names} {parameters.metavar(one)}".rstrip()


def _described(one: Any) -> str:
    """The help, with what is not in its words: required, may be repeated, range, default."""
    text = (one.help or "").strip()
    remarks = []
    if one.required and not parameters.is_argument(one):
        remarks.append("required")
    if not parameters.is_argument(one) and parameters.is_repeatable(one) and "repeat" not in text:
        remarks.append("may be repeated")
    low, high = parameters.bounds(one)
    if low is not None and high is not None:
        remarks.append(f"{low:g} to {high:g}")
    elif low is not None and low > 1:
        remarks.append(f"at least {low:g}")
    default = parameters.default(one)
    if parameters.is_flag(one):
        if one.secondary_opts and default is not None:
            remarks.append(f"default: {'on' if default else 'off'}")
    elif default not in (None, "") and not isinstance(default, list):
        remarks.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
    joined = "; ".join(remarks).replace(" ", KEPT)
    return f"{text} [{joined}]".strip() if remarks else text


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(f"{title}:", style="bold"), *lines, Text()] if lines else []


def _rows(rows: list[tuple[str, str]], width: int, column: int = COLUMN) -> list[Text]:
    """Names, and their texts beside them, or below where a name is long."""
    lines = []
    if rows:
        column = max(10, min(column, max(len(name) for name, _ in rows) + 4))
    for name, text in rows:
        parts = textwrap.wrap(text, max(20, width - column), break_long_words=False, break_on_hyphens=False) or [""]
        parts = [part.replace(KEPT, " ") for part in parts]
        if len(name) > column - 4:
            lines.append(Text(f"  {name}", "bold"))
        else:
            first = Text.assemble((f"  {name}".ljust(column), "bold"), parts.pop(0))
            first.rstrip()
            lines.append(first)
        lines += [Text(" " * column + part) for part in parts]
    return lines


def _wrapped(text: str, width: int, bold: str = "") -> list[Text]:
    parts = textwrap.wrap(bold + text, width, subsequent_indent=" " * len(bold), break_on_hyphens=False)
    lines = [Text(part) for part in parts]
    if bold and lines:
        lines[0].stylize("bold", 0, len(bold))
    return lines

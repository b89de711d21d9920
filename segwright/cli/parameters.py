"""What an option or argument is, read from the parser's own objects: for the help, for programs and for completion."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

Parameter = Any  # typer 0.29 has its own copy of click's classes, older ones have click's

CHOICES = re.compile(r"[a-z0-9][a-z0-9_-]*(\|[a-z0-9][a-z0-9_-]*)+")
TYPES = {"integer": "N", "float": "X", "path": "PATH", "text": "TEXT", "boolean": ""}  # and the name of their value
PANEL = "Options"
GENERAL = ("--help", "--version", "--install-completion", "--show-completion")


def one_of(*names: str, choices: str, help: str, **more: Any) -> Any:
    """An option with the values ``choices`` (``a|b|c``): shown, offered by tab completion, listed for programs."""
    return typer.Option(*names, metavar=choices, help=help, autocompletion=completing(choices.split("|")), **more)


def completing(values: list[str] | Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """A completion of typer: those of ``values`` that begin as typed."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in (values() if callable(values) else values) if value.startswith(incomplete)]

    return complete


def is_argument(parameter: Parameter) -> bool:
    return bool(parameter.param_type_name == "argument")


def is_flag(parameter: Parameter) -> bool:
    return bool(getattr(parameter, "is_flag", False))


def is_repeatable(parameter: Parameter) -> bool:
    return bool(getattr(parameter, "multiple", False) or parameter.nargs == -1)


def kind(parameter: Parameter) -> str:
    """flag, integer, float, path or text."""
    if is_flag(parameter):
        return "flag"
    if hasattr(parameter, "type_descriptor"):
        name = str(parameter.type_descriptor.annotation).lower()
    else:
        name = str(getattr(parameter.type, "name", "text")).lower()
    for word, ours in (("int", "integer"), ("float", "float"), ("path", "path"), ("file", "path"), ("dir", "path")):
        if word in name:
            return ours
    return "text"


def metavar(parameter: Parameter) -> str:
    """The name of the value, as in ``--out FOLDER``; empty for a flag."""
    if is_flag(parameter):
        return ""
    if is_argument(parameter):
        return str(parameter.metavar or parameter.name.upper())
    return str(parameter.metavar or TYPES[kind(parameter)])


def choices(parameter: Parameter) -> list[str] | None:
    """The values of a closed list, which its metavar names: ``npz|npy``; None if others are possible."""
    found = metavar(parameter)
    return found.split("|") if CHOICES.fullmatch(found) and not is_argument(parameter) else None


def default(parameter: Parameter) -> Any:
    """As JSON has it; None if there is none, or if it is made at run time."""
    value = parameter.default
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    return list(value) if isinstance(value, list | tuple) and value else None


def bounds(parameter: Parameter) -> tuple[float | None, float | None]:
    """The least and the greatest value, both included; None: without bound."""
    place = parameter if hasattr(parameter, "type_descriptor") else parameter.type
    return getattr(place, "min", None), getattr(place, "max", None)


def panel(parameter: Parameter) -> str:
    """The heading that the option stands under."""
    return str(getattr(parameter, "rich_help_panel", None) or PANEL)


def visible_parameters(command: Any, context: Any) -> list[Parameter]:
    """What is shown of a command; ``--help`` and its like come last."""
    shown = [one for one in command.get_params(context) if not getattr(one, "hidden", False)]
    return sorted(shown, key=lambda one: bool(set(one.opts) & set(GENERAL)))

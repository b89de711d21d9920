"""``--help-json``: all commands, options, types, choices and defaults for programs. Keys are only ever added within one
``schema``."""

from __future__ import annotations

from typing import Any

from segwright.cli import parameters
from segwright.cli.help_text import command_words, summary, usage_line
from segwright.cli.tasks import EXAMPLES, OTHER, PAGES, TASKS
from segwright.core.version import __version__

SCHEMA = 1
EXIT_CODES = {
    "0": "done",
    "1": "the command ran, and what it looked at is not in order: a failed check, an alarm, images that failed",
    "2": "wrong usage or input; nothing was overwritten",
    "130": "stopped by Ctrl-C (SIGINT)",
    "143": "stopped by SIGTERM",
}


def help_tree(command: Any, context: Any) -> dict[str, Any]:
    """The command of ``context``, and all below it."""
    head = {"schema": SCHEMA, "version": __version__, "exit_codes": EXIT_CODES}
    return head | _command(command, context)


def _command(command: Any, context: Any) -> dict[str, Any]:
    name = command_words(context)
    first = name.split(" ")[0]
    shown = parameters.visible_parameters(command, context)
    below = [one for one in getattr(command, "commands", {}).values() if not one.hidden]
    return {
        "name": str(context.command_path),
        "task": next((task for task, names in TASKS.items() if first in names), OTHER) if name else None,
        "summary": summary(command),
        "help": (command.help or "").strip(),
        "usage": usage_line(command, context),
        "examples": list(EXAMPLES.get(name, ())),
        "documentation": PAGES.get(name),
        "arguments": [_parameter(one) for one in shown if parameters.is_argument(one)],
        "options": [_parameter(one) for one in shown if not parameters.is_argument(one)],
        "commands": [
            _command(one, type(context)(one, info_name=one.name, parent=context, resilient_parsing=True))
            for one in below
        ],
    }


def _parameter(one: Any) -> dict[str, Any]:
    argument = parameters.is_argument(one)
    low, high = parameters.bounds(one)
    return {
        "name": parameters.metavar(one) if argument else max(one.opts, key=len),
        "names": [] if argument else list(one.opts),
        "off": [] if argument else list(one.secondary_opts),
        "type": parameters.kind(one),
        "value": parameters.metavar(one) or None,
        "choices": parameters.choices(one),
        "minimum": low,
        "maximum": high,
        "required": bool(one.required),
        "repeatable": parameters.is_repeatable(one),
        "default": parameters.default(one),
        "heading": parameters.panel(one),
        "help": (one.help or "").strip(),
    }

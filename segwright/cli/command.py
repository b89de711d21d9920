"""The classes of the commands: their help, their usage errors, and the nearest name where one is misspelled."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from segwright.cli.common import report_error
from segwright.cli.help_json import help_tree
from segwright.cli.help_text import help_lines, render, usage_line
from segwright.cli.options import expanded
from segwright.core.errors import UsageError
from segwright.core.names import nearest_names

HELP_JSON = "--help-json"
F = TypeVar("F", bound=Callable[..., Any])
# typer 0.29 has its own copy of click's classes; before, they are click's
ParserError: Any = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException")
ParserUsageError: Any = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "UsageError")


class Command(TyperCommand):
    """One command, such as train."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(render(help_lines(self, ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _answer_help_json(self, ctx, args)
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """``segwright`` itself, or a command that has others below it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(render(help_lines(self, ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"] and "help" not in self.commands:  # segwright help train
            args[:] = [*args[1:], "--help"]
        _answer_help_json(self, ctx, args if not self.commands.keys() & args[:1] else [])
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            error = ParserUsageError(f"{ctx.command_path} has no command {args[0]}", ctx)
            error.nearest = nearest(args[0], self.commands)
            raise error
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """As of typer, which would end silently on Ctrl-C, and with 1 if the reader of a pipe has gone."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            if ctx.parent is not None:
                raise
            print("stopped", file=sys.stderr)
            raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None
        except BrokenPipeError:  # `segwright … | head`: the reader has what it wanted
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """As of typer; usage errors have the form of all others."""
        run = functools.partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except ParserError as error:
            report_error(usage_error(error))
            sys.exit(2)
        except typer.Abort:
            print("stopped", file=sys.stderr)
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what was finished is reported, temporary files are removed."""


def stop_on_sigterm() -> None:
    """Raise :class:`Terminated` at a SIGTERM; a second one ends the process at once.

    Trainings and servers have handlers of their own while they run. Processes of a job are left as they are: one that
    is blocked in a collective operation runs no handler.
    """
    if "WORLD_SIZE" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    process = os.getpid()

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:  # a fork, such as a worker of a loader
            os.kill(os.getpid(), number)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


class App(typer.Typer):
    """A group of commands of these classes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": Group} | options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """As of typer, with :class:`Command`, and an option per field of an option group."""
        add = super().command(name, **{"cls": Command} | options)

        def register(function: F) -> F:
            add(expanded(function))
            return function

        return register


def usage_error(error: Any) -> UsageError:
    """The error of the parser with what was expected and the nearest name."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "BadOptionUsage" and "requires an argument" in error.message:
        words = " ".join(sys.argv[1:2]) if context is None else " ".join(context.command_path.split()[1:])
        return UsageError(f"{error.option_name} needs a value", fix=f"segwright {words} --help")
    if context is None:
        return UsageError(str(error.format_message()).rstrip("."))
    command, path = context.command, context.command_path
    fix = f"{path} --help"
    if hasattr(error, "nearest"):
        near = [f"{path} {name}" for name in error.nearest]
        return UsageError(error.message, fix=" or ".join(near) if near else f"{fix} lists the commands")
    kind = type(error).__name__
    if kind == "NoSuchOption":
        names = [name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)]
        near = nearest(error.option_name, names)
        message = f"{path} has no option {error.option_name}"
        return UsageError(message, fix=" or ".join(near) if near else f"{fix} lists the options")
    if kind == "MissingParameter":
        one = error.param
        missing = one.opts[0] if one.param_type_name == "option" else one.metavar or one.name.upper()
        return UsageError(f"{path} needs {missing}", expected=usage_line(command, context), fix=fix)
    message = str(error.format_message())
    if kind == "BadParameter" and error.param is not None:
        one = error.param
        name = one.opts[0] if one.param_type_name == "option" else one.metavar or one.name.upper()
        why = error.message.rstrip(".").split(", unable")[0].replace("Input should", "should")
        message = f"{name} {why}" if why.startswith("should") else f"{name}: {why}"
    return UsageError(message.rstrip("."), fix=fix)


def nearest(word: str, names: Any) -> list[str]:
    """At most two of ``names`` that ``word`` may be a misspelling of, or the beginning of.

    >>> nearest("trian", ["train", "tune"]), nearest("--post", ["--postprocess", "--port"])
    (['train'], ['--postprocess', '--port'])
    """
    begins = [name for name in names if len(word.lstrip("-")) > 2 and name.lower().startswith(word.lower())]
    return list(dict.fromkeys([*begins, *nearest_names(word, names, 2)]))[:2]


def _answer_help_json(command: Any, context: Any, arguments: list[str]) -> None:
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if HELP_JSON in words and not context.resilient_parsing:
        typer.echo(json.dumps(help_tree(command, context), indent=1, ensure_ascii=False))
        raise typer.Exit()

"""What the commands share: printing for people and for programs."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from segwright.core.atomic_io import is_stream, json_text, write_json
from segwright.core.errors import FormatError, SegwrightError, UsageError
from segwright.core.missing_paths import beside_missing
from segwright.core.progress import PlainConsole, visible

ERRORS = "SEGWRIGHT_ERRORS"  # the form of errors, as --errors
STDOUT_PATH = Path("-")
STDOUT = ("-", "/dev/stdout")  # as --json FILE
_programs: TextIO | None = None  # stdout, while it is for --json alone


def console(piped: int = 120) -> Console:
    """For results: stdout, as wide as the terminal, or ``piped`` columns when piped: enough for tables of figures."""
    if sys.stdout.isatty():
        return PlainConsole()
    file = cast(IO[str], _Trimmed(sys.stdout))
    return PlainConsole(file=file, width=None if "COLUMNS" in os.environ else piped)


class _Trimmed:
    """A stream whose lines lose the spaces at their ends, which fill the columns of tables."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(r" +(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def set_error_form(form: str) -> None:
    """``--errors``: text, or json for a line of JSON on stderr per error. Also for the processes that are started."""
    if form not in ("text", "json"):
        raise UsageError("errors are shown as text or json", expected="text, json", found=form, fix="--errors text")
    os.environ[ERRORS] = form


def show_at_once(line: str) -> None:
    """A line of a command that goes on running: a program that waits for the URL reads a pipe."""
    screen = console()
    screen.print(line, markup=False, soft_wrap=True)
    screen.file.flush()


def report_error(error: SegwrightError) -> None:
    """The error's text on stderr, without a traceback; with what is there where a path is missing."""
    instead = _instead(error.where)
    if os.environ.get(ERRORS) == "json":
        fields = {name: getattr(error, name) for name in ("message", "expected", "found", "where", "fix")}
        line = json.dumps({"error": {"type": type(error).__name__, **fields, "there": instead}})
        print(line, file=sys.stderr, flush=True)
        return
    screen = PlainConsole(stderr=True, soft_wrap=True)
    screen.print(Text("error:", style="bold red"), end=" ")
    text = str(error)
    if error.where:  # a line break in a file's name begins no line of ours
        text = text.replace(error.where, visible(error.where))
    screen.print(text)
    if instead:
        screen.print(f"  there: {instead}")


def _instead(where: str | None) -> str | None:
    """What lies where a path of the command line is missing."""
    typed = {part for word in sys.argv[1:] for part in (word, word.partition("=")[2])}
    return beside_missing(where) if where is not None and where in typed else None


def refuse_missing(path: Path) -> None:
    """Raise FormatError for a path of a dataset that does not exist."""
    if "://" not in str(path) and not os.path.lexists(path):
        raise FormatError("no such file or folder", where=path, fix="check the path")


def json_to_stdout(context: Any, path: Path | None) -> Path | None:
    """Of ``--json -`` (or ``/dev/stdout``): stdout is for the JSON alone, what is for people goes to stderr."""
    global _programs
    if path is None or str(path) not in STDOUT:
        return path

    def give_back(earlier: TextIO | None = _programs, stdout: TextIO = sys.stdout) -> None:
        global _programs
        _programs, sys.stdout = earlier, stdout

    context.call_on_close(give_back)
    _programs, sys.stdout = sys.stdout, sys.stderr
    return STDOUT_PATH


def check_json(path: Path | None, sources: Sequence[str] = ()) -> None:
    """Raise UsageError before any work if ``--json FILE`` cannot be written, or is one of ``sources``."""
    if path is None or path == STDOUT_PATH or is_stream(path):
        return
    fix = "another file with --json"
    try:
        if any(Path(source).exists() and path.exists() and path.samefile(source) for source in sources):
            raise UsageError("the result would replace a source", where=path, fix=fix)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is there")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-"):
            pass
    except OSError as error:
        raise UsageError(
            "the result cannot be written", found=error.strerror or str(error), where=path, fix=fix
        ) from error


def write_result(path: Path | None, result: Any) -> None:
    """``--json FILE``; ``-`` is stdout."""
    if path == STDOUT_PATH and _programs is not None:
        _programs.buffer.write(json_text(result).encode("utf-8", "backslashreplace"))
        _programs.flush()
    elif path is not None:
        write_json(path, result)


def stop_code(stopped_by: str | None, otherwise: int = 1) -> int:
    """The exit code of a run that a signal ended; ``otherwise``: of one that ended by something else."""
    return {"SIGINT": 130, "SIGTERM": 143}.get(stopped_by or "", otherwise)


def command_line() -> str:
    """The command as it was typed, for config, report and bundle."""
    return shlex.join(["segwright", *sys.argv[1:]])

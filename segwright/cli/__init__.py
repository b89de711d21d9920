"""The command line: one command a command. It parses, calls :mod:`segwright.api` and prints; torch is loaded late."""

from __future__ import annotations

import os
import sys

import typer

from segwright.cli import data, models, postprocess, serving, training, tuning
from segwright.cli.common import report_error
from segwright.core.errors import SegwrightError, output_error

app = typer.Typer(
    name="segwright",
    help="From a folder of images and masks to a segmenter in service, and back again.\n\n"
    "New here? Try: segwright demo. Your own images: segwright train FOLDER",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
for module in (training, tuning, data, models, postprocess, serving):
    module.register(app)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    """Options of the command as a whole."""
    if version:
        from segwright.core.version import __version__

        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """The ``segwright`` command: exit codes 0 done, 1 the work says no, 2 wrong usage or input."""
    # The current folder holds data: no process that this one or a library of it starts takes modules from there.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        app()
    except SegwrightError as error:
        report_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `segwright … | head`: the reader has what it wanted
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        report_error(output_error(error))
        sys.exit(2)

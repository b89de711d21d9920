"""The command line: parse, call :mod:`segwright.api`, print. torch is imported late."""

from __future__ import annotations

import os
import sys

import typer

from segwright.cli import (
    data,
    label_errors,
    label_page,
    models,
    monitoring,
    postprocess,
    reference,
    refinement,
    runtimes,
    select,
    serving,
    training,
    tuning,
)
from segwright.cli.common import report_error
from segwright.cli.renamed import with_new_names
from segwright.core.errors import SegwrightError, needs_whole_package, output_error
from segwright.core.installation import check_installation

app = typer.Typer(
    name="segwright",
    help="Turn a folder of images and masks into a deployed segmentation model, and keep it good.\n\n"
    "New here? Try: segwright demo. Your own images: segwright train FOLDER",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (
    training,
    tuning,
    data,
    models,
    label_errors,
    postprocess,
    serving,
    label_page,
    monitoring,
    reference,
    refinement,
    runtimes,
    select,
):
    module.register(app)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    """Options of the command as a whole."""
    if version:
        from segwright.core.version import __version__

        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """The ``segwright`` command: exit codes 0 done, 1 check failed, 2 wrong usage or input."""
    # The current folder holds data: no process that this one or a library of it starts takes modules from there.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    sys.argv[1:] = with_new_names(sys.argv[1:])
    try:
        check_installation()
        app()
    except SegwrightError as error:
        report_error(error)
        sys.exit(2)
    except ModuleNotFoundError as error:
        known = needs_whole_package(error)
        if known is None:
            raise
        report_error(known)
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

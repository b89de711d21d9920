"""The command line: parse, call :mod:`segwright.api`, print. torch is imported late."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from segwright.cli import (
    data,
    evaluation,
    label_errors,
    label_page,
    models,
    monitoring,
    postprocess,
    prediction,
    reference,
    refinement,
    runtimes,
    select,
    serving,
    training,
    tuning,
)
from segwright.cli.command import HELP_JSON, App, Terminated, stop_on_sigterm
from segwright.cli.common import console, report_error, set_error_form
from segwright.cli.parameters import one_of
from segwright.cli.renamed import with_new_names
from segwright.cli.start import greet
from segwright.core.errors import SegwrightError, needs_whole_package, output_error
from segwright.core.installation import check_installation, foreign_torchvision

app = App(
    name="segwright",
    help="Turn a folder of images and masks into a deployed segmentation model, and keep it good.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    training,
    tuning,
    data,
    models,
    evaluation,
    prediction,
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


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
    help_json: Annotated[
        bool, typer.Option(HELP_JSON, help="Describe all commands and options as JSON, for programs.")
    ] = False,
    errors: Annotated[
        str | None,
        one_of("--errors", choices="text|json", help="Form of errors on stderr: for people, or a line of JSON."),
    ] = None,
) -> None:
    """Options of the command as a whole."""
    if version:
        from segwright.core.version import __version__

        typer.echo(__version__)
        raise typer.Exit()
    if errors is not None:
        set_error_form(errors)
    if context.invoked_subcommand is None:
        greet(console())


def main() -> None:
    """The ``segwright`` command: exit codes 0 done, 1 check failed, 2 wrong usage or input."""
    # The current folder holds data: no process that this one or a library of it starts takes modules from there.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    sys.argv[1:] = with_new_names(sys.argv[1:])
    try:
        check_installation()
        stop_on_sigterm()
        app()
    except SegwrightError as error:
        report_error(error)
        sys.exit(2)
    except (ModuleNotFoundError, RuntimeError) as error:
        known = needs_whole_package(error) if isinstance(error, ModuleNotFoundError) else foreign_torchvision(error)
        if known is None:
            raise
        report_error(known)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except BrokenPipeError:
        # `segwright … | head`: the reader has what it wanted
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        report_error(output_error(error))
        sys.exit(2)

"""Options that several commands have: single ones, and groups that stand under one heading in the help.

A group is a dataclass. A command that has a parameter of its type gets each field as an option, and the group with the
values; see :func:`expanded`.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import typer

from segwright.cli.common import json_to_stdout
from segwright.cli.parameters import completing, one_of
from segwright.core.errors import UsageError


def data_formats() -> list[str]:
    """The names of ``segwright datasets``."""
    from segwright.data.formats import FORMATS

    return list(FORMATS)


Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder or file of the dataset; its format is detected.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a bundle or an exported file.")]
Network = Annotated[str, typer.Option("--model", metavar="NAME", help="A network of `segwright models`, or auto.")]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=json_to_stdout, help="Write the result for programs; -: to stdout."
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Of the dataset: train, val, test, all or its own name.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")]
EightBit = Annotated[
    str | None,
    one_of(
        "--eight-bit",
        choices="scaled|raw",
        help="How 8-bit images are read by a model of deeper ones: brought to 0…255 already, or in the same units.",
    ),
]
TrustExternal = Annotated[
    bool,
    typer.Option(
        "--trust-external", help="Build a saved model of another package (smp:…), with arguments out of the file."
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="usual, torch, onnxruntime, openvino; auto: the fastest that segwright benchmark has proven here, else "
        "the usual one.",
        autocompletion=completing(["auto", "usual", "torch", "onnxruntime", "openvino"]),
    ),
]
Postprocess = Annotated[
    str | None,
    typer.Option(
        "--postprocess", metavar="PIPELINE", help="Post-processing in place of the saved one; none: no post-processing."
    ),
]
Tta = Annotated[str | None, typer.Option("--tta", metavar="VIEWS", help="Test-time views, such as flip,0.75,1,1.25.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unusable files out, and list them.")]
MatchClasses = Annotated[
    str,
    one_of(
        "--match-classes",
        choices="names|index",
        help="Bring the model's classes to the data's by their names, or by index.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A config.yaml to begin with.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting; may be repeated.")
]


class OptionGroup:
    """Base of the groups; ``panel`` is the heading in the help."""

    panel: ClassVar[str] = "Options"

    def given(self) -> dict[str, Any]:
        """The values by name, as the functions of :mod:`segwright.api` take them."""
        return {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]

    def settings(self, section: str) -> dict[str, Any]:
        """The values that were given, as settings of a training: ``section.name``."""
        return {f"{section}.{name}": value for name, value in self.given().items() if value is not None}


@dataclass(frozen=True)
class Reading(OptionGroup):
    """How the files of a dataset are found."""

    panel: ClassVar[str] = "Reading the data"
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Data format, as in `segwright datasets`; detected if left out.",
            autocompletion=completing(data_formats),
        ),
    ] = None
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="GLOB", help="Which files are images; with --masks, pairs anything."),
    ] = None
    masks: Annotated[
        str | None, typer.Option("--masks", metavar="GLOB", help="Which files are their masks: 'truth/*_gt.png'.")
    ] = None


@dataclass(frozen=True)
class SparseLabels(OptionGroup):
    """How points, lines and boxes become masks."""

    panel: ClassVar[str] = "Points, lines and boxes as labels"
    unlabeled_pixels: Annotated[
        str | None,
        one_of(
            "--unlabeled-pixels",
            choices="ignore|background|by-image",
            help="What no point, line, box or outline covers; ignored where all labels are points and lines.",
        ),
    ] = None
    boxes: Annotated[
        str | None, one_of("--boxes", choices="fill|core", help="Boxes as labels: in full, or the inner fifth of each.")
    ] = None
    point_radius: Annotated[
        float | None, typer.Option("--point-radius", metavar="PX", help="Pixels around a labeled point; 2.")
    ] = None
    line_width: Annotated[
        float | None, typer.Option("--line-width", metavar="PX", help="Pixels across a labeled line; 3.")
    ] = None

    def rule(self) -> dict[str, Any]:
        """As ``labels=`` takes it: what was given."""
        return {name: value for name, value in self.given().items() if value is not None}


@dataclass(frozen=True)
class Loading(OptionGroup):
    """How a saved model is loaded."""

    panel: ClassVar[str] = "Running the model"
    device: Device = "auto"
    eight_bit: EightBit = None
    trust_external: TrustExternal = False


@dataclass(frozen=True)
class Running(OptionGroup):
    """How a saved model is loaded and run on images."""

    panel: ClassVar[str] = "Running the model"
    device: Device = "auto"
    runtime: Runtime = "auto"
    postprocess: Postprocess = None
    tta: Tta = None
    eight_bit: EightBit = None
    trust_external: TrustExternal = False


@dataclass(frozen=True)
class Journal(OptionGroup):
    """The journal that a model in use writes."""

    panel: ClassVar[str] = "Journal, for segwright monitor"
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="DIR", help="Also a row per image: shares, confidence, statistics."),
    ] = None
    keep_images: Annotated[
        str, typer.Option("--keep-images", metavar="SHARE", help="Of the images, for the journal to keep, such as 1%.")
    ] = "0%"
    retention: Annotated[
        str,
        typer.Option("--retention", metavar="TIME", help="How long images are kept: 30d, 12h, 2w."),
    ] = "30d"
    journal_max_size: Annotated[
        str, typer.Option("--journal-max-size", metavar="SIZE", help="Of the journal's folder; its oldest files go.")
    ] = "1GB"

    def given(self) -> dict[str, Any]:
        """As of every group; UsageError for options of a journal without one."""
        if self.journal is None:
            usual = Journal()
            refuse_alone(
                "--journal",
                {
                    "--keep-images": self.keep_images != usual.keep_images,
                    "--retention": self.retention != usual.retention,
                    "--journal-max-size": self.journal_max_size != usual.journal_max_size,
                },
            )
        return super().given()


def refuse_alone(needed: str, given: Mapping[str, bool]) -> None:
    """UsageError for options that would do nothing, because ``needed`` is not given."""
    if alone := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"options of {needed} without it", found=", ".join(alone), fix=f"add {needed}")


def expanded(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a parameter per option in place of each option group, for typer to read."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[OptionGroup]] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        group = parameter.annotation
        if isinstance(group, type) and issubclass(group, OptionGroup):
            groups[parameter.name] = group
            parameters += _options(group)
        else:
            name, default, annotation = parameter.name, parameter.default, parameter.annotation
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )
    if not groups:
        return function

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        made = {
            name: group(**{one.name: given.pop(one.name) for one in fields(group)})  # type: ignore[arg-type]
            for name, group in groups.items()
        }
        return function(**given, **made)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options(group: type[OptionGroup]) -> list[inspect.Parameter]:
    """The fields of a group as parameters, under its heading."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):  # type: ignore[arg-type]
        kind, option = get_args(hints[field.name])
        option = copy.copy(option)
        option.rich_help_panel = group.panel
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        found.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
            )
        )
    return found

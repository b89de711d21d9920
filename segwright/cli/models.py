"""Commands about models: models, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segwright.cli.common import check_json, command_line, console, write_result
from segwright.cli.options import Json, TrustExternal
from segwright.cli.parameters import one_of
from segwright.core.errors import UsageError
from segwright.core.progress import literal, wrap_line

if TYPE_CHECKING:
    from segwright.api import ExportResult


def models(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure FLOPs, memory in training and latency on this machine.")
    ] = False,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Image size for --measure.")] = "352x480",
    licenses: Annotated[
        bool, typer.Option("--licenses", help="Show whose pretrained weights are taken, and under which license.")
    ] = False,
    json: Json = None,
) -> None:
    """List the networks: parameters, stride, paper, license of the weights, when to use which."""
    if licenses:
        _show_licenses(json)
        return
    from segwright import api

    rows = api.list_models(names or (), measure=measure, size=size)
    from segwright.cli.tables import print_models

    print_models([row.to_json() for row in rows], console(), size if measure else None)
    write_result(json, [row.to_json() for row in rows])


def _show_licenses(json: Path | None) -> None:
    from segwright.models.licenses import licenses_of_encoders, licenses_of_networks, licenses_table

    typer.echo(licenses_table())
    rows = {"networks": licenses_of_networks(), "encoders": licenses_of_encoders()}
    write_result(json, {kind: [row._asdict() for row in found] for kind, found in rows.items()})


def export(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="A run folder or bundle; several become one, their mean.")
    ],
    to: Annotated[
        str, one_of("--to", choices="onnx|openvino|torch|triton|bundle", help="The format; torch is a .pt2 program.")
    ] = "onnx",
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help="The exported file or folder.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DATA", help="Real images for the check.")] = None,
    precision: Annotated[
        str,
        one_of("--precision", choices="fp32|int8", help="int8 is refused if it loses too much or is not faster here."),
    ] = "fp32",
    logits: Annotated[bool, typer.Option("--logits", help="Also output per-class logits.")] = False,
    trust_external: TrustExternal = False,
    json: Json = None,
) -> None:
    """Export a model, or several as one ensemble, verified against the original on real images at several sizes."""
    from segwright import api

    check_json(json)
    result = api.export(
        models, to=to, out=out, data=data, precision=precision, with_logits=logits, command=command_line(),
        trust_external=trust_external,
    )  # fmt: skip
    _show_export(result, len(models))
    write_result(json, result.to_json())


def _show_export(result: ExportResult, models: int) -> None:
    parity = result.parity
    kind = result.format if models == 1 else f"{result.format} of {models} models"
    lines = [
        f"{result.path}  ({kind}, {result.precision}, {result.latency_ms:.0f} ms per image)",
        f"checked on {parity.source}: largest logit difference {parity.max_abs_logit:.2g}, "
        f"{parity.argmax_agreement:.3%} of the labels equal, mIoU difference {parity.miou_delta:+.4f}",
        f"sizes: {', '.join(parity.sizes)}",
    ]
    if result.remark:
        lines.append(f"{result.precision}: {result.remark}")
    if result.not_included:
        names = " and ".join(name.replace("-", " ") for name in result.not_included)
        them = "it" if len(result.not_included) == 1 else "them"
        lines.append(f"note: the file is without the model's {names}; monitoring takes {them} from the model itself")
    if result.dropped:
        names = ", ".join(name.replace("-", " ") for name in result.dropped)
        lines.append(
            f"note: of the members {names} is dropped, which holds for their own outputs alone; segwright reference "
            "and evaluate --fit-error-model make them for an ensemble that is a bundle"
        )
    screen = console()
    for line in lines:
        screen.print(literal(wrap_line(line, screen.width) if screen.is_terminal else line), soft_wrap=True)


def import_weights(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help=".pth, .ckpt, .safetensors, or a folder of one.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the saved model goes.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Of `segwright models`, or smp:NAME.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="A,B,C|FILE", help="In the order of the outputs, unless the file has them."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="mmsegmentation's config, instead of --model and --encoder."),
    ] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", metavar="NAME", help="The network's encoder.")] = None,
    in_channels: Annotated[int, typer.Option("--in-channels", min=1, help="Channels of its images.")] = 3,
    normalization: Annotated[
        str | None,
        typer.Option(
            "--normalization",
            metavar="imagenet|none|half|raw|MEAN/STD",
            help="Of pixels in 0 to 1, as in training; none: 0…1 as it is, half: -1…1, raw: 0…255.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="The entry of the file, where it holds several.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="What the wanted names begin with.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Arguments of the network; may be repeated.")
    ] = None,
    json: Json = None,
) -> None:
    """Make a saved model of weights that were trained elsewhere: to evaluate, export and serve."""
    from segwright import api

    check_json(json)
    found = api.import_weights(
        weights, out, model=model, classes=classes, config=config, encoder=encoder, in_channels=in_channels,
        normalization=normalization, key=key, prefix=prefix, arguments=_arguments(settings or []),
        command=command_line(),
    )  # fmt: skip
    screen = console()
    screen.print(
        literal(f"{found.path}: {found.tensors} tensors in {found.layout}'s layout, every one of the network"),
        soft_wrap=True,
    )
    for note in found.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)
    write_result(json, found.to_json())


def _arguments(settings: list[str]) -> dict[str, Any]:
    """``--set KEY=VALUE`` of a network, the values as YAML."""
    import yaml

    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError("an argument is KEY=VALUE", found=text)
        try:
            found[name.removeprefix("model.arguments.")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError("the value of an argument cannot be read", found=text) from error
    return found


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(models)
    app.command()(export)
    app.command("import")(import_weights)

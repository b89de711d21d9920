"""The command that watches a model in use: monitor."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.console import Console

from segwright.cli.common import check_json, console, report_error, write_result
from segwright.cli.options import Json, OptionGroup
from segwright.cli.parameters import one_of
from segwright.core.counted import counted
from segwright.core.errors import OutputError, SegwrightError, UsageError
from segwright.core.progress import literal

if TYPE_CHECKING:
    from segwright.monitoring.result import MonitorResult

SHOWN = 8  # movements and alarms on the screen


@dataclass(frozen=True)
class Detection(OptionGroup):
    """How changes are found."""

    panel: ClassVar[str] = "Detection"
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="Version of the model; the reference's if left out.")
    ] = None
    rate: Annotated[float, typer.Option("--rate", metavar="R", help="False alarms per image.")] = 1e-3
    block: Annotated[
        int | None, typer.Option("--block", metavar="N", help="Images that count as one; from their correlation.")
    ] = None
    window: Annotated[int, typer.Option("--window", metavar="N", help="Images per test of single statistics.")] = 100
    correction: Annotated[
        str, one_of("--correction", choices="holm|bh", help="Of many tests; bh: Benjamini and Hochberg.")
    ] = "holm"


def monitor(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="Folder of predict --journal or serve --journal.")],
    detection: Detection,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="MODEL", help="Run folder or bundle that the journal is compared with."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="Between looks with --watch.")] = 60.0,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page.")] = None,
    json: Json = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Send alarms as JSON; needs --allow-host.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="HOST", help="A host that --webhook may be at.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option("--prometheus", metavar="FILE|PORT", help="Gauges in a file, or with --watch on a local port."),
    ] = None,
) -> None:
    """Has the world changed, and how good is the model now? Compares a journal with the model's reference.

    Exit code 1 if there is an alarm.
    """
    from segwright import api
    from segwright.monitoring.webhook import check_webhook

    check_json(json)
    hosts = tuple(allow_host or ())
    if webhook is not None:
        check_webhook(webhook, hosts)
    if every <= 0 or not math.isfinite(every):
        raise UsageError("no time between looks", expected="seconds above 0", found=f"{every}")
    reporter = _Reporter(watch, json, *_gauges(prometheus, watch), webhook, hosts)
    with suppress(KeyboardInterrupt) if watch else nullcontext():
        while True:
            try:
                found = api.monitor(journal, reference, html=html, **detection.given())
            except SegwrightError as error:
                if not watch or isinstance(error, UsageError):
                    raise
                report_error(error)  # perhaps a file is being replaced: it is read again at the next look
            else:
                reporter.report(found)
            if not watch:
                break
            time.sleep(every)
    if reporter.alarmed:
        raise typer.Exit(1)


@dataclass
class _Reporter:
    """Where each look is shown, written and sent."""

    watch: bool
    json: Path | None
    gauges: Any
    gauges_file: Path | None
    webhook: str | None
    hosts: tuple[str, ...]
    alarmed: bool = False
    sent: str = ""  # the alarm that was shown and sent last

    def report(self, found: MonitorResult) -> None:
        """Show one look; an alarm is sent once."""
        self.alarmed = self.alarmed or found.alarm
        write_result(self.json, found.to_json())
        if self.gauges is not None:
            self.gauges.update(found)
            if self.gauges_file is not None:
                self.gauges.write(self.gauges_file)
        newest = found.alarms[-1].id + found.alarms[-1].detector if found.alarms else ""
        if not self.watch or newest != self.sent or not found.alarm:
            _show(console(), found, brief=self.watch)
        if self.webhook is None or not found.alarm or newest == self.sent or self._send(found):
            self.sent = newest

    def _send(self, found: MonitorResult) -> bool:
        """False if it failed: it is sent again at the next look."""
        from segwright.monitoring.webhook import post_message

        assert self.webhook is not None
        try:
            post_message(self.webhook, found, self.hosts)
        except OutputError as error:
            if not self.watch:
                raise
            report_error(error)
            return False
        return True


def _gauges(target: str | None, watch: bool) -> tuple[Any, Path | None]:
    if target is None:
        return None, None
    from segwright.monitoring.gauges import MonitorGauges

    gauges = MonitorGauges()
    if not target.isdigit():
        return gauges, Path(target)
    if not watch:
        raise UsageError("a port needs --watch: without it the command ends at once", fix="--watch, or a file")
    gauges.serve(int(target))
    return gauges, None


def _show(screen: Console, found: MonitorResult, *, brief: bool) -> None:
    span = "" if math.isnan(found.first) else f", {_moment(found.first)} to {_moment(found.last)}"
    screen.print(literal(f"{counted(found.images, 'image')} of {found.model or 'no model'}{span}"), soft_wrap=True)
    if found.counted:
        screen.print(literal(found.counted), soft_wrap=True)
    estimate = found.estimate
    if estimate is not None:
        was = "" if math.isnan(estimate.reference) else f"; {estimate.reference:.3f} on the held-out images"
        screen.print(
            literal(f"estimated mIoU {estimate.miou:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, "
                    f"{estimate.level:.0%} interval, {estimate.method}){was}"), soft_wrap=True,
        )  # fmt: skip
    if not found.alarms:
        screen.print(literal("no alarm"))
    for alarm in found.alarms[-SHOWN:]:
        place = f"image {alarm.index + 1} ({alarm.id}, {_moment(alarm.time)})"
        screen.print(literal(f"ALARM at {place}, {alarm.detector}: {alarm.text}"), soft_wrap=True)
    if brief:
        return
    moved = [movement for movement in found.movements if movement.moved]
    for movement in moved[:SHOWN]:
        screen.print(literal(f"moved: {movement.text} (p {movement.adjusted:.2g})"), soft_wrap=True)
    if found.alarms:
        for one in found.unlike[:3]:
            screen.print(literal(f"unlike: {one.id}, {one.distance:.1f} times as far as usual: {one.text}"),
                         soft_wrap=True)  # fmt: skip
    for reason, count in found.skipped.items():
        screen.print(literal(f"not counted: {counted(count, 'row')}, {reason}"), soft_wrap=True)
    for version in found.versions:
        if not version.examined:
            screen.print(literal(f"not examined: {counted(version.images, 'image')} of another version, "
            f"{version.model}"),
                         soft_wrap=True)  # fmt: skip
    for note in found.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "no time"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(monitor)

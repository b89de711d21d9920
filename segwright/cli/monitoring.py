"""The command that watches a model in use: monitor."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.console import Console

from segwright.cli.common import check_json, console, report_error, write_result
from segwright.cli.options import Json, OptionGroup
from segwright.cli.parameters import one_of
from segwright.core.counted import counted
from segwright.core.errors import SegwrightError, UsageError
from segwright.core.progress import literal
from segwright.monitoring.episodes import Announced

if TYPE_CHECKING:
    from segwright.monitoring.result import AccuracyEstimate, MonitorResult

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
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME|1d|N", help="Look at images since a date, of the last day, or the last N."
        ),
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

    Exit code 1 if an alarm is going on, or with --since was raised in that part, even if it has ended. 0 otherwise,
    also if there are too few images to tell yet: that is in the text and as "state" in --json.
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
                # A full disk or a file that is being replaced costs one look: the next one tries again.
                reporter.report(api.monitor(journal, reference, since=since, html=html, **detection.given()))
            except SegwrightError as error:
                if not watch or isinstance(error, UsageError):
                    raise
                report_error(error)
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
    announced: Announced = field(default_factory=Announced)
    shown: tuple[str, ...] = ()  # keys of the alarms on the screen, if the last look had an alarm

    def report(self, found: MonitorResult) -> None:
        """Show, send and write one look: an episode is sent once. With --watch an output that fails costs only itself;
        the error of the first is raised at the end."""
        self.alarmed = self.alarmed or found.alarm
        keys = tuple(f"{alarm.key} {alarm.over}" for alarm in found.alarms) if found.alarm else ()
        if not self.watch or not found.alarm or keys != self.shown:
            _show(console(), found, brief=self.watch)
        self.shown = keys
        errors: list[SegwrightError] = []
        for step in (self._send, self._write_json, self._write_gauges):
            try:
                step(found)
            except SegwrightError as error:
                if not self.watch:
                    raise
                errors.append(error)
        for other in errors[1:]:
            report_error(other)
        if errors:
            raise errors[0]

    def _write_json(self, found: MonitorResult) -> None:
        write_result(self.json, found.to_json())

    def _write_gauges(self, found: MonitorResult) -> None:
        if self.gauges is not None:
            self.gauges.update(found)
            if self.gauges_file is not None:
                self.gauges.write(self.gauges_file)

    def _send(self, found: MonitorResult) -> None:
        """What could not be sent is sent at the next look."""
        from segwright.monitoring.webhook import post_message

        new = self.announced.new(found)
        if self.webhook is not None and new:
            post_message(self.webhook, found, self.hosts, alarms=new)
        self.announced.done(found)


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
    if found.recent is not None and estimate is not None and found.recent.images < estimate.images:
        screen.print(literal(f"of the last {counted(found.recent.images, 'image')}: {_interval(found.recent)}"))
    if found.since_alarm is not None:
        during = f"since the alarm began, {counted(found.since_alarm.images, 'image')}: {_interval(found.since_alarm)}"
        screen.print(literal(during))
    if not found.alarm:
        screen.print(literal(found.verdict), soft_wrap=True)
    for alarm in found.alarms[-SHOWN:]:
        place = f"image {alarm.index + 1} ({alarm.id}, {_moment(alarm.time)})"
        ended = f" (ended at image {alarm.last + 1}, {_moment(alarm.ended)})" if alarm.over else ""
        name = "ALARM" if found.counts(alarm) else "past alarm"
        screen.print(literal(f"{name} at {place}, {alarm.detector}{ended}: {alarm.text}"), soft_wrap=True)
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
        rows = counted(count, "row") if count else "rows of unknown number"
        screen.print(literal(f"not counted: {rows}, {reason}"), soft_wrap=True)
    for version in found.versions:
        if not version.examined:
            screen.print(literal(f"not examined: {counted(version.images, 'image')} of another version, "
            f"{version.model}"),
                         soft_wrap=True)  # fmt: skip
    for note in found.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)


def _interval(estimate: AccuracyEstimate) -> str:
    return f"{estimate.miou:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "no time"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(monitor)

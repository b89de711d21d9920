"""``monitor --html`` and ``/monitor``: a look at a journal as a page: alarms, what moved, series over time, images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from segwright import reports
from segwright.core.counted import counted
from segwright.core.errors import SegwrightError
from segwright.imageio import read_image
from segwright.monitoring.result import Alarm, MonitorResult, Movement, Series
from segwright.reports import Event, Markup, Number, percent

CLASSES = 12  # class shares that are drawn; the table of movements has all
THUMBNAIL = 320  # pixels of the longer side
GROUPS = (  # of series, in the order of the page
    ("classes", "Shares of the classes", "Of the pixels of an image. Those that moved most come first."),
    ("confidence", "Confidence", ""),
    ("image", "The images themselves", ""),
)
# Of a time axis, by its span in seconds
FORMATS = ((600, "%H:%M:%S"), (36 * 3600, "%H:%M"), (90 * 86400, "%d %b"), (math.inf, "%b %Y"))
METHODS = {"soft": "soft IoU", "atc": "ATC", "doc": "confidence change"}  # of ``others``, for readers


def write_monitor_page(path: str | Path, result: MonitorResult, *, command: str = "") -> Path:
    """Write the page atomically and return its path."""
    return reports.write_page(path, monitor_page(result, command=command))


def monitor_page(result: MonitorResult, *, command: str = "") -> str:
    """The page as one HTML document, with the kept images inside."""
    r = result
    drift = [item for item in r.series if item.group == "drift"]
    return reports.page(
        "monitor.html.j2",
        title=f"Monitor: {Path(r.journal).name or r.journal}",
        leads=(
            f"model {r.model}; {counted(r.images, 'image')} against {r.reference_images} of the reference",
            "" if math.isnan(r.first) else f"{moment(r.first)} to {moment(r.last)}",
        ),
        tiles=_tiles(r),
        verdict=_verdict(r),
        alarms=[_alarm(alarm) for alarm in r.alarms],
        notes=r.notes,
        drift=[(item.name, _chart(item, r.alarms)) for item in drift],
        estimate=_estimate(r),
        movements=[_movement(item) for item in r.movements],
        groups=[
            (title, note, [(item.name, _chart(item, r.alarms)) for item in _of(r, group)])
            for group, title, note in GROUPS
            if any(item.group == group for item in r.series)
        ],
        unlike=[_unlike(r, number) for number in range(len(r.unlike))],
        versions=[
            (v.model, str(v.images), moment(v.first), moment(v.last), "yes" if v.examined else "no")
            for v in r.versions
        ],
        skipped=[(reason, str(rows) if rows else "unknown") for reason, rows in r.skipped.items()],
        command=command,
        made=moment(datetime.now(UTC).timestamp()),
    )  # fmt: skip


def no_result_page(name: str, error: SegwrightError) -> str:
    """The page if a journal cannot be examined, or not yet."""
    lines = [error.message]
    lines += [f"{what}: {text}" for what, text in (("found", error.found), ("fix", error.fix)) if text]
    return reports.page(
        "no_monitor.html.j2", title=f"Monitor: {name}", lines=lines, made=moment(datetime.now(UTC).timestamp())
    )


def moment(seconds: float) -> str:
    """A time as people write it, UTC; a dash for NaN or one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "–"


def _tiles(r: MonitorResult) -> list[Number]:
    ended = sum(alarm.over for alarm in r.alarms)
    alarms = f"{counted(len(r.alarms), 'alarm')}" + (f", {ended} ended" if ended else "") if r.alarms else ""
    state = {"too few": "too few to tell", "empty": "no images"}.get(r.state, "alarm" if r.alarm else "no alarm")
    found = [
        Number("state", state, alarms),
        Number("images", str(r.images), r.counted),
    ]
    if r.estimate is not None:
        e = r.estimate
        note = f"{100 * e.level:.0f} % interval {percent(e.low)}–{percent(e.high)}"
        shown = [("estimated mean IoU", e, note)]
        for name, one in ((f"of the last {counted(r.recent.images, 'image')}" if r.recent else "", r.recent),
                          ("since the alarm began", r.since_alarm)):  # fmt: skip
            if one is not None and one.images != e.images:
                shown.append((name, one, f"estimated; {percent(one.low)}–{percent(one.high)}"))
        found += [Number(name, f"{percent(one.miou)} %", text) for name, one, text in shown]
        if not math.isnan(e.reference):
            found.append(Number("mean IoU, held-out", f"{percent(e.reference)} %", "measured at training"))
    if not math.isnan(r.embedding_p):
        found.append(Number("embeddings", f"p {_p(r.embedding_p)}", "small: unlike the reference"))
    found.append(Number("false alarms", f"≤ {r.rate:.2g}", "per image, as set"))
    return found


def _verdict(r: MonitorResult) -> tuple[str, str]:
    """The kind of the paragraph and its sentence."""
    return {"alarm": "bad", "no alarm": "good"}.get(r.state, "warn"), r.verdict


def _alarm(alarm: Alarm) -> dict[str, Any]:
    value = _p(alarm.evidence) if alarm.detector != "stream" else f"{alarm.evidence:.3g}"
    return {
        "text": alarm.text,
        "time": moment(alarm.time),
        "image": alarm.id,
        "row": str(alarm.index + 1),
        "detector": alarm.detector,
        "evidence": f"{value} ({'above' if alarm.detector == 'stream' else 'below'} {alarm.threshold:.3g})",
        "since": str(alarm.since + 1),
        "ended": f"about image number {alarm.last + 1}, {moment(alarm.ended)}" if alarm.over else "goes on",
        "over": alarm.over,
        "moved": [item.text for item in alarm.moved],
    }


def _movement(item: Movement) -> dict[str, Any]:
    return {
        "name": item.name,
        "group": item.group,
        "reference": _figure(item.reference),
        "found": _figure(item.found),
        "p": _p(item.adjusted),
        "value": "" if math.isnan(item.adjusted) else f"{item.adjusted:.6g}",
        "moved": "yes" if item.moved else "no",
        "text": item.text,
    }


def _figure(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.3g}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _of(r: MonitorResult, group: str) -> list[Series]:
    """The series of a group, those that moved most first."""
    order = {item.name: number for number, item in enumerate(r.movements)}
    found = [item for item in r.series if item.group == group]
    found.sort(key=lambda item: order.get(item.name, len(order)))
    return found[:CLASSES] if group == "classes" else found


def _chart(item: Series, alarms: Sequence[Alarm]) -> Markup:
    """A series over the images, its ticks named by their times, with the reference or the threshold, and the alarms."""
    x = [float(index) for index in item.index]
    lines = [reports.Series(item.name, x, item.value, item.lows, item.highs)]
    if math.isfinite(item.reference):
        band = math.isfinite(item.low) and math.isfinite(item.high)
        low, high = ([item.low] * len(x), [item.high] * len(x)) if band else ((), ())
        name = "reference, with 5–95 % of its images" if band else "reference"
        lines.append(reports.Series(name, x, [item.reference] * len(x), low, high, dots=False))
    if math.isfinite(item.threshold):
        lines.append(reports.Series("threshold", x, [item.threshold] * len(x), dots=False))
    events = [Event(float(alarm.index), "alarm") for alarm in alarms[:6]]
    return reports.line_chart(
        lines, x_label="time of arrival (UTC), a step per image", y_label=item.unit or item.name,
        zero=item.group == "drift", events=events, x_names=_times(item),
    )  # fmt: skip


def _times(item: Series) -> Callable[[float], str]:
    """From a row's number to the time of the bin that has it."""
    finite = [time for time in item.time if math.isfinite(time)]
    span = max(finite) - min(finite) if finite else 0.0
    pattern = next(pattern for limit, pattern in FORMATS if span < limit or limit == math.inf)

    def name(row: float) -> str:
        place = min(int(np.searchsorted(item.index, row)), len(item.index) - 1)
        try:
            return datetime.fromtimestamp(item.time[place], UTC).strftime(pattern)
        except (ValueError, OverflowError, OSError):
            return f"{row:g}"

    return name


def _estimate(r: MonitorResult) -> dict[str, Any] | None:
    """The estimate of the accuracy beside what was measured on held-out images, and what other methods give."""
    e = r.estimate
    if e is None:
        return None
    rows = [("all images", e.miou, e.low, e.high)]
    for title, one in (("last images", r.recent), ("since the alarm", r.since_alarm)):
        if one is not None and one.images != e.images:
            rows.append((title, one.miou, one.low, one.high))
    rows += [("measured, held-out", e.reference, math.nan, math.nan)]
    rows += [(METHODS.get(name, name), value, math.nan, math.nan) for name, value in e.others.items()]
    names, values, lows, highs = zip(*rows, strict=True)
    chart = reports.interval_chart(
        names, [100 * v for v in values], [100 * v for v in lows], [100 * v for v in highs], x_label="mean IoU, %"
    )
    over_time = next((item for item in r.series if item.group == "accuracy" and len(item.index) > 1), None)
    return {
        "chart": chart,
        "over_time": None if over_time is None else _chart(over_time, r.alarms),
        "sentence": f"Estimated over {counted(e.images, 'image')}: mean IoU {percent(e.miou)} %, "
        f"{100 * e.level:.0f} % interval {percent(e.low)} to {percent(e.high)} % ({e.method}).",
        "notes": e.notes,
    }


def _unlike(r: MonitorResult, number: int) -> dict[str, Any]:
    item = r.unlike[number]
    return {
        "id": item.id,
        "time": moment(item.time),
        "distance": f"{item.distance:.1f} times the usual distance",
        "text": item.text,
        "data": None if item.image is None else _thumbnail(item.image),
    }


def _thumbnail(path: str) -> bytes | None:
    """The kept image, small; None if it is gone or cannot be read."""
    try:
        image = read_image(path)
    except (SegwrightError, OSError):
        return None
    return reports.encode_thumbnail(image, THUMBNAIL)

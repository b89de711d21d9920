"""Charts as SVG, drawn for a column of about 400 px so that their text stays legible on a phone; and the heat map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from segwright.core.progress import visible
from segwright.reports.html import encode_thumbnail, render

CHART_WIDTH, CHART_HEIGHT = 420, 246
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 12, 26, 34
MAX_TABLE_CLASSES = 25  # a matrix of more classes is drawn as an image
ROW_HEIGHT = 20  # of a row of an interval chart
MAX_NAME = 20  # letters of a name beside a row; the whole name is in its title
MAX_POINTS = 300  # a curve of more is averaged in buckets: the eye sees no more, and the file stays small


@dataclass(frozen=True)
class Series:
    """One curve or one cloud of points; NaN breaks a curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()  # with ``high``: a band around the curve, such as an interval
    high: Sequence[float] = ()
    labels: Sequence[str] = ()  # of the points of a cloud
    dots: bool = True  # whether the points of a short curve are marked


@dataclass(frozen=True)
class Event:
    """A vertical line in a chart, such as an alarm."""

    x: float
    name: str


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    zero: bool = False,
    events: Sequence[Event] = (),
    x_names: Callable[[float], str] | None = None,
) -> Markup:
    """Curves over one pair of axes; ``zero`` makes the vertical axis start at 0. A single point is drawn as a dot.

    ``events`` are marked by vertical lines; ``x_names`` writes the ticks of the horizontal axis, such as dates.
    """
    return _chart([_thin(item) for item in series], x_label, y_label, zero, True, events, x_names)


def scatter_chart(series: Sequence[Series], *, x_label: str = "", y_label: str = "", zero: bool = False) -> Markup:
    """Points over one pair of axes."""
    return _chart(list(series), x_label, y_label, zero, False)


def interval_chart(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    x_label: str = "",
    signed: bool = False,
) -> Markup:
    """One row per name: a point with its interval; NaN leaves out the interval, or the point. ``signed`` marks zero."""
    finite = [v for v in (*values, *lows, *highs) if math.isfinite(v)]
    if not finite:
        return Markup('<p class="note">no figures yet</p>')
    ticks = nice_ticks(min(0.0, *finite), max(0.0, *finite))
    left, right = 132.0, CHART_WIDTH - 46.0
    height = MARGIN_TOP + ROW_HEIGHT * len(names) + MARGIN_BOTTOM

    def at(value: float) -> float:
        return left + (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1) * (right - left)

    bottom = height - MARGIN_BOTTOM
    parts: list[Markup] = []
    for tick in ticks:
        kind = "zero" if signed and tick == 0 else "rule"
        line = f'<line class="{kind}" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{MARGIN_TOP}" y2="{bottom}"/>'
        parts += [Markup(line), _svg_text(at(tick), bottom + 15, _tick_text(tick), "middle")]
    for row, (name, value, low, high) in enumerate(zip(names, values, lows, highs, strict=True)):
        y = MARGIN_TOP + ROW_HEIGHT * (row + 0.5)
        parts.append(_svg_text(left - 8, y + 4, _shorten(name), "end"))
        if math.isfinite(low) and math.isfinite(high):
            a, b = at(low), at(high)
            path = f"M{a:.1f} {y - 4:.1f}v8M{a:.1f} {y:.1f}H{b:.1f}M{b:.1f} {y - 4:.1f}v8"
            parts.append(Markup(f'<path class="whisker" d="{path}"/>'))
        if math.isfinite(value):
            shown = f"{value:+.1f}" if signed else f"{value:.1f}"
            title = f"{name}: {shown}" + (f" ({low:.1f} to {high:.1f})" if math.isfinite(low) else "")
            parts.append(_mark(at(value), y, title, 0, 3.6))
            parts.append(_svg_text(CHART_WIDTH, y + 4, shown, "end"))
    parts.append(_svg_text(right, height - 3, x_label, "end", "axis"))
    return _svg(parts, f"{x_label} with intervals", height)


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def bar_chart(labels: Sequence[str], values: Sequence[float], *, x_label: str = "", y_label: str = "") -> Markup:
    """Vertical bars from 0, one per label; for histograms."""
    top = max([v for v in values if math.isfinite(v)], default=0.0) or 1.0
    ticks = nice_ticks(0, top)
    frame = _Frame(0, max(1, len(values)), 0, max(ticks[-1], top))
    parts = [_grid(frame, [], ticks, x_label, y_label)]
    every = max(1, math.ceil(len(labels) / 8))
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        left, right = frame.x(index + 0.08), frame.x(index + 0.92)
        if math.isfinite(value):
            upper = frame.y(max(value, 0))
            parts.append(
                Markup(
                    f'<rect class="s0" x="{left:.1f}" y="{upper:.1f}" width="{right - left:.1f}" '
                    f'height="{frame.y(0) - upper:.1f}" rx="2"><title>{_text(label)}: {value:.4g}</title></rect>'
                )
            )
        if index % every == 0:
            parts.append(_svg_text((left + right) / 2, frame.y(0) + 14, label, "middle"))
    return _svg(parts, f"{y_label} by {x_label}")


def heatmap(values: npt.NDArray[np.float64], names: Sequence[str], *, rows: str, columns: str) -> Markup:
    """A K×K matrix of shares in 0…1 (NaN: no such row) with its numbers in per cent; an image if there are more than 25
    classes."""
    if len(names) > MAX_TABLE_CLASSES:
        return _heat_image(values, rows, columns)
    matrix = [
        (name, [_heat_cell(value, column) for column, value in zip(names, row, strict=True)])
        for name, row in zip(names, values.tolist(), strict=True)
    ]
    return render("heatmap.html.j2", rows=rows, columns=columns, names=names, matrix=matrix)


def _heat_cell(value: float, column: str) -> dict[str, object]:
    share = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0)
    # The power lifts the small shares, which are the interesting ones, above the background. ``level``: 0…20.
    return {
        "column": column,
        "level": math.ceil(20 * share**0.7 - 1e-9),
        "hot": share > 0.5,
        "shown": f"{share * 100:.0f}" if share >= 0.005 else "",
        "exact": f"{share * 100:.2f} %",
    }


def _heat_image(values: npt.NDArray[np.float64], rows: str, columns: str) -> Markup:
    """Tens of thousands of table cells would take a browser seconds; as an image they cost a few kilobytes."""
    share = np.clip(np.nan_to_num(values), 0, 1)[..., None] ** 0.7
    light, dark = np.array([236.0, 236.0, 232.0]), np.array([42.0, 120.0, 214.0])
    cells = (light + (dark - light) * share + 0.5).astype(np.uint8)
    scale = max(2, 700 // len(values))
    pixels = np.repeat(np.repeat(cells, scale, axis=0), scale, axis=1)
    caption = f"{rows} from top to bottom, {columns} from left to right, in the order of the classes"
    return render("heat_image.html.j2", data=encode_thumbnail(pixels, len(pixels), flat=True), caption=caption)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``: steps of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    if high <= low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, low + spread
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.left) / ((self.right - self.left) or 1)
        return MARGIN_LEFT + share * (CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return CHART_HEIGHT - MARGIN_BOTTOM - share * (CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM)


def _chart(
    series: list[Series],
    x_label: str,
    y_label: str,
    zero: bool,
    lines: bool,
    events: Sequence[Event] = (),
    x_names: Callable[[float], str] | None = None,
) -> Markup:
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return Markup('<p class="note">no figures yet</p>')
    ys = [y for _, y in points] + [y for s in series for y in (*s.low, *s.high) if math.isfinite(y)]
    y_ticks = nice_ticks(min(0.0, *ys) if zero else min(ys), max(ys))
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x_ticks = [tick for tick in nice_ticks(x_low, x_high) if x_low <= tick <= x_high]
    frame = _Frame(x_low, x_high if x_high > x_low else x_low + 1, y_ticks[0], y_ticks[-1])
    parts = [_grid(frame, x_ticks, y_ticks, x_label, y_label, x_names or _tick_text)]
    parts += [_band(frame, item, index % 5) for index, item in enumerate(series) if len(item.low)]
    parts += [_event(frame, event) for event in events if x_low <= event.x <= x_high]
    for index, item in enumerate(series):
        parts.append(_curve(frame, item, index % 5) if lines else _cloud(frame, item, index % 5))
    drawn = _svg(parts, f"{y_label} by {x_label}")
    if len(series) == 1:
        return drawn
    keys = (f"<li>{_key(i % 5, lines)}<bdi>{_text(s.name)}</bdi></li>" for i, s in enumerate(series))
    return drawn + Markup(f'<ul class="legend">{"".join(keys)}</ul>')


def _curve(frame: _Frame, item: Series, color: int) -> Markup:
    path, pen_down, alone = [], False, []
    for x, y in zip(item.x, item.y, strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen_down = True
        alone.append((x, y))
    drawn = f'<path class="line s{color}" d="{"".join(path)}"><title>{_text(item.name)}</title></path>'
    dots = [] if not item.dots else alone if len(alone) <= 30 else alone[-1:]
    return _join((Markup(drawn), *(_dot(frame, x, y, item.name, color, 2.6) for x, y in dots)))


def _band(frame: _Frame, item: Series, color: int) -> Markup:
    kept = [
        (x, low, high)
        for x, low, high in zip(item.x, item.low, item.high, strict=True)
        if math.isfinite(x) and math.isfinite(low) and math.isfinite(high)
    ]
    if len(kept) < 2:
        return Markup("")
    edge = [(x, high) for x, _, high in kept] + [(x, low) for x, low, _ in reversed(kept)]
    path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in edge)
    return Markup(f'<path class="area s{color}" d="M{path}Z"><title>{_text(item.name)}: interval</title></path>')


def _event(frame: _Frame, event: Event) -> Markup:
    x, top, bottom = frame.x(event.x), MARGIN_TOP, CHART_HEIGHT - MARGIN_BOTTOM
    line = f'<line class="alarm" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
    late = x > CHART_WIDTH * 0.7
    name = _svg_text(x + (-4 if late else 4), top + 9, event.name, "end" if late else "start", "alarm-name")
    return Markup(line) + name


def _cloud(frame: _Frame, item: Series, color: int) -> Markup:
    parts = []
    for index, (x, y) in enumerate(zip(item.x, item.y, strict=True)):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        label = item.labels[index] if index < len(item.labels) else ""
        parts.append(_dot(frame, x, y, label or item.name, color, 3.2))
        if label:
            late = frame.x(x) > CHART_WIDTH * 0.6
            at = frame.x(x) + (-7 if late else 7)
            parts.append(_svg_text(at, frame.y(y) + 4, _shorten(label), "end" if late else "start"))
    return _join(parts)


def _dot(frame: _Frame, x: float, y: float, name: str, color: int, radius: float) -> Markup:
    return _mark(frame.x(x), frame.y(y), f"{name}: {x:g}, {y:.4g}", color, radius)


def _mark(x: float, y: float, title: str, color: int, radius: float) -> Markup:
    """A point: disc, square, triangle, diamond or a triangle that stands on its tip."""
    about = f"<title>{_text(title)}</title>"
    if color == 0:
        return Markup(f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{about}</circle>')
    r = radius * 1.15
    path = (
        f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z",
        f"M{x:.1f} {y - r:.1f}l{r:.1f} {2 * r:.1f}h{-2 * r:.1f}z",
        f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {1.3 * r:.1f}l{-1.3 * r:.1f} {1.3 * r:.1f}"
        f"l{-1.3 * r:.1f} {-1.3 * r:.1f}z",
        f"M{x:.1f} {y + r:.1f}l{r:.1f} {-2 * r:.1f}h{-2 * r:.1f}z",
    )[color - 1]
    return Markup(f'<path class="mark s{color}" d="{path}">{about}</path>')


def _key(color: int, lines: bool) -> Markup:
    """The sample of a series in a legend: its dashes, or the shape of its points."""
    drawn = Markup(f'<path class="line s{color}" d="M0 6H30"/>') if lines else _mark(15, 6, "", color, 4)
    return Markup(f'<svg class="key" viewBox="0 0 30 12" aria-hidden="true">{drawn}</svg>')


def _grid(
    frame: _Frame,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
    x_names: Callable[[float], str] | None = None,
) -> Markup:
    right = CHART_WIDTH - MARGIN_RIGHT
    parts: list[Markup] = []
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(Markup(f'<line class="rule" x1="{MARGIN_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'))
        parts.append(_svg_text(MARGIN_LEFT - 6, y + 4, _tick_text(tick), "end"))
    for tick in x_ticks:
        parts.append(
            _svg_text(frame.x(tick), CHART_HEIGHT - MARGIN_BOTTOM + 15, (x_names or _tick_text)(tick), "middle")
        )
    parts.append(_svg_text(right, CHART_HEIGHT - 3, x_label, "end", "axis"))
    parts.append(_svg_text(2, 12, y_label, "start", "axis"))  # above the axis: turned text is hard to read
    return _join(parts)


def _tick_text(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:.6g}"


def _svg_text(x: float, y: float, content: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(content)}</text>')


def _text(content: object) -> Markup:
    """A name from the data, escaped, its control characters made visible."""
    return escape(visible(content, lines=True))


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _svg(parts: Sequence[Markup], label: str, height: int = CHART_HEIGHT) -> Markup:
    head = f'<svg viewBox="0 0 {CHART_WIDTH} {height}" role="img" aria-label="{_text(label)}">'
    return Markup(f"{head}{_join(parts)}</svg>")


def _thin(item: Series) -> Series:
    """At most MAX_POINTS points: the mean of each bucket; the last point stays."""
    count = len(item.x)
    if count <= MAX_POINTS:
        return item
    parts = np.array_split(np.arange(count), MAX_POINTS)

    def means(values: Sequence[float]) -> list[float]:
        whole = np.asarray(values, np.float64)
        kept = [whole[part][np.isfinite(whole[part])] for part in parts] if whole.size else []
        return [float(some.mean()) if some.size else math.nan for some in kept]

    return replace(item, x=means(item.x), y=means(item.y), low=means(item.low), high=means(item.high))

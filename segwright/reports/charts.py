"""Charts as SVG, drawn for a column of about 400 px so that their text stays legible on a phone; and the heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from segwright.core.progress import visible
from segwright.reports.html import encode_thumbnail, render

CHART_WIDTH, CHART_HEIGHT = 420, 246
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 12, 26, 34
MAX_TABLE_CLASSES = 25  # a matrix of more classes is drawn as an image
MAX_POINTS = 300  # a curve of more is averaged in buckets: the eye sees no more, and the file stays small


@dataclass(frozen=True)
class Series:
    """One curve or one cloud of points; NaN breaks a curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(series: Sequence[Series], *, x_label: str = "", y_label: str = "", zero: bool = False) -> Markup:
    """Curves over one pair of axes; ``zero`` makes the vertical axis start at 0. A single point is drawn as a dot."""
    return _chart([_thin(item) for item in series], x_label, y_label, zero, lines=True)


def scatter_chart(series: Sequence[Series], *, x_label: str = "", y_label: str = "", zero: bool = False) -> Markup:
    """Points over one pair of axes."""
    return _chart(list(series), x_label, y_label, zero, lines=False)


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


def _chart(series: list[Series], x_label: str, y_label: str, zero: bool, *, lines: bool) -> Markup:
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return Markup('<p class="note">no figures yet</p>')
    ys = [y for _, y in points]
    y_ticks = nice_ticks(min(0.0, *ys) if zero else min(ys), max(ys))
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x_ticks = [tick for tick in nice_ticks(x_low, x_high) if x_low <= tick <= x_high]
    frame = _Frame(x_low, x_high if x_high > x_low else x_low + 1, y_ticks[0], y_ticks[-1])
    parts = [_grid(frame, x_ticks, y_ticks, x_label, y_label)]
    for index, item in enumerate(series):
        parts.append(_curve(frame, item, index % 5) if lines else _cloud(frame, item, index % 5))
    drawn = _svg(parts, f"{y_label} by {x_label}")
    if len(series) == 1:
        return drawn
    keys = (f'<li><span class="key s{i % 5}"></span>{_text(s.name)}</li>' for i, s in enumerate(series))
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
    dots = alone if len(alone) <= 30 else alone[-1:]
    return _join((Markup(drawn), *(_dot(frame, x, y, item.name, color, 2.6) for x, y in dots)))


def _cloud(frame: _Frame, item: Series, color: int) -> Markup:
    pairs = zip(item.x, item.y, strict=True)
    return _join(_dot(frame, x, y, item.name, color, 3.2) for x, y in pairs if math.isfinite(x) and math.isfinite(y))


def _dot(frame: _Frame, x: float, y: float, name: str, color: int, radius: float) -> Markup:
    title = f"<title>{_text(name)}: {x:g}, {y:.4g}</title>"
    return Markup(
        f'<circle class="dot s{color}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius}">{title}</circle>'
    )


def _grid(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> Markup:
    right = CHART_WIDTH - MARGIN_RIGHT
    parts: list[Markup] = []
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(Markup(f'<line class="rule" x1="{MARGIN_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'))
        parts.append(_svg_text(MARGIN_LEFT - 6, y + 4, _tick_text(tick), "end"))
    for tick in x_ticks:
        parts.append(_svg_text(frame.x(tick), CHART_HEIGHT - MARGIN_BOTTOM + 15, _tick_text(tick), "middle"))
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


def _svg(parts: Sequence[Markup], label: str) -> Markup:
    head = f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{_text(label)}">'
    return Markup(f"{head}{_join(parts)}</svg>")


def _thin(item: Series) -> Series:
    """At most MAX_POINTS points: the mean of each bucket; the last point stays."""
    count = len(item.x)
    if count <= MAX_POINTS:
        return item
    x, y = np.asarray(item.x, np.float64), np.asarray(item.y, np.float64)
    xs, ys = [], []
    for part in np.array_split(np.arange(count), MAX_POINTS):
        kept = part[np.isfinite(y[part])]
        xs.append(float(x[part].mean()))
        ys.append(float(y[kept].mean()) if kept.size else math.nan)
    return Series(item.name, xs, ys)

"""Building blocks of self-contained HTML pages: one file, no script, nothing fetched, light and dark, down to a phone.

Plain strings are escaped wherever they are put in; only :class:`Markup`, which these functions return, goes in as it
is. Charts are SVG drawn for a column of some 400 px, so that their text stays legible on a phone: a page lays them side
by side where there is room.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from segwright.files import write_text

Colour = tuple[int, int, int]
CHART_WIDTH, CHART_HEIGHT = 420, 230
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 12, 10, 34
MAX_TABLE_CLASSES = 25  # a matrix of more classes is drawn as a picture
MAX_POINTS = 300  # a curve of more is averaged in buckets: the eye sees no more, and the file stays small


class Markup(str):
    """HTML that is safe as it stands."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Anything as HTML: escaped, unless it is Markup already."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    return Markup(between.join(text(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """``tag("p", "a < b", class_="note")``; attributes that are None are left out, a trailing underscore is cut off."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(content)}</{name}>")


# ---------------------------------------------------------------------------------------------------------------------
# The page


def page(title: str, *body: object, footer: object = "") -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Nothing may be fetched or run, whatever a class or file name tries: the policy is the second lock.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(text(part) for part in body)
        + f"\n</main>\n<footer>{text(footer)}</footer>\n</body>\n</html>\n"
    )


def write_page(path: str | Path, document: str) -> Path:
    """Write a document whole or not at all; returns the path."""
    # Odd bytes in a file's name arrive as lone surrogates, which no UTF-8 file can hold.
    return write_text(path, document.encode("utf-8", "replace").decode("utf-8"))


def heading(title: str, *lines: object, kicker: str = "") -> Markup:
    """The head of a page: a small line above, the title, lines below."""
    above = tag("p", kicker, class_="kicker") if kicker else ""
    return tag("header", above, tag("h1", title), *(tag("p", line, class_="lead") for line in lines))


def section(title: str, *content: object, note: object = "") -> Markup:
    """A titled part; ``note`` says under the title how to read it."""
    return tag("section", tag("h2", title), tag("p", note, class_="note") if note else "", *content)


def card(*content: object, title: str = "") -> Markup:
    return tag("div", tag("h3", title) if title else "", *content, class_="card")


def grid(*cards: object, wide: bool = False) -> Markup:
    """Cards side by side where there is room: three across a desktop, or two where they are ``wide``."""
    return tag("div", *cards, class_="grid wide" if wide else "grid")


def paragraph(*content: object, kind: str | None = None) -> Markup:
    """``kind`` note is quieter; good, warn and bad are boxes with a coloured edge."""
    return tag("p", *content, class_=kind)


def code(content: str) -> Markup:
    """A command or a listing, to be copied."""
    return tag("pre", tag("code", content))


def details(summary: str, *content: object) -> Markup:
    """A part that opens at a click."""
    return tag("details", tag("summary", summary), *content)


@dataclass(frozen=True)
class Number:
    """One headline number."""

    label: str
    value: str
    note: str = ""


def numbers(values: Sequence[Number]) -> Markup:
    """Headline numbers; the first stands out."""
    tiles = [
        tag(
            "div",
            tag("div", item.label, class_="label"),
            tag("div", item.value, class_="value"),
            tag("div", item.note, class_="small") if item.note else "",
            class_="tile hero" if index == 0 else "tile",
        )
        for index, item in enumerate(values)
    ]
    return tag("div", *tiles, class_="tiles")


def definitions(items: Iterable[tuple[object, object]]) -> Markup:
    """Name and value pairs."""
    pairs = (join((tag("dt", name), tag("dd", value))) for name, value in items)
    return tag("dl", *pairs)


def table(headers: Sequence[object], rows: Iterable[Sequence[object]], *, numeric: Sequence[int] = ()) -> Markup:
    """A table that scrolls sideways by itself on a narrow screen; ``numeric``: the columns set to the right."""

    def cells(kind: str, row: Sequence[object]) -> Markup:
        return join(tag(kind, cell, class_="num" if i in numeric else None) for i, cell in enumerate(row))

    head = tag("thead", tag("tr", cells("th", headers)))
    body = tag("tbody", *(tag("tr", cells("td", row)) for row in rows))
    return tag("div", tag("table", head, body), class_="scroll")


def swatch(colour: Colour) -> Markup:
    return Markup('<span class="swatch" style="background:rgb({:d},{:d},{:d})"></span>'.format(*colour))


def legend(entries: Iterable[tuple[str, Colour]]) -> Markup:
    """Names with their colours."""
    return tag("ul", *(tag("li", swatch(colour), name) for name, colour in entries), class_="legend")


def bar(value: float | None, *, colour: Colour | None = None, label: str = "") -> Markup:
    """A bar of ``value`` in 0…1 for a table's cell, the label beside it; no bar where the value is None or NaN."""
    share = 0.0 if value is None or math.isnan(value) else min(max(value, 0.0), 1.0)
    paint = "" if colour is None else ";background:rgb({:d},{:d},{:d})".format(*colour)
    track = Markup(f'<span class="track"><span class="fill" style="width:{share * 100:.1f}%{paint}"></span></span>')
    return tag("span", track, tag("span", label, class_="barlabel"), class_="bar")


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def encode_thumbnail(image: npt.NDArray[np.uint8], side: int = 360, *, flat: bool = False, quality: int = 80) -> bytes:
    """JPEG bytes of an H×W×C or H×W picture, at most ``side`` wide; ``flat`` (masks, few colours): PNG, sharp edges."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(width, height))
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if flat else cv2.INTER_AREA))
    if image.ndim == 3 and image.shape[2] != 3:
        image = np.ascontiguousarray(image[..., 0])
    picture, buffer = Image.fromarray(np.ascontiguousarray(image, np.uint8)), io.BytesIO()
    if flat:
        picture.quantize(256).save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def picture(data: bytes, alt: str) -> Markup:
    """Encoded JPEG, PNG or WebP bytes as an image that lies in the page itself."""
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Markup(f'<img src="{source}" alt="{html.escape(alt, quote=True)}" loading="lazy">')


def figure(data: bytes, caption: object, alt: str = "") -> Markup:
    return tag("figure", picture(data, alt or str(caption)), tag("figcaption", caption))


def strip(title: object, figures: Sequence[Markup]) -> Markup:
    """Pictures that belong together, side by side (two by two on a phone), under a common title."""
    return tag("div", tag("h3", title), tag("div", *figures, class_="strip"), class_="card")


# ---------------------------------------------------------------------------------------------------------------------
# Charts


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
    """Upright bars from 0, one a label; for histograms and reliability diagrams."""
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
                    f'height="{frame.y(0) - upper:.1f}" rx="2"><title>{text(label)}: {value:.4g}</title></rect>'
                )
            )
        if index % every == 0:
            parts.append(_svg_text((left + right) / 2, frame.y(0) + 14, label, "middle"))
    return _svg(parts, f"{y_label} by {x_label}")


def heatmap(values: npt.NDArray[np.float64], names: Sequence[str], *, rows: str, columns: str) -> Markup:
    """A K×K matrix of shares in 0…1 (NaN: no such row), with its numbers in per cent; a picture beyond 25 classes."""
    if len(names) > MAX_TABLE_CLASSES:
        return _heat_picture(values, rows, columns)
    head = tag(
        "tr",
        tag("th", f"{rows} ↓  {columns} →", class_="corner"),
        *(tag("th", tag("span", name), class_="turn", title=name) for name in names),
    )
    body = []
    for name, row in zip(names, values.tolist(), strict=True):
        cells = []
        for column, value in zip(names, row, strict=True):
            share = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0)
            shown = f"{share * 100:.0f}" if share >= 0.005 else ""
            kind = "heat hot" if share > 0.5 else "heat"
            title = f"{name} → {column}: {share * 100:.2f} %"
            # the power lifts the small shares, which are what one looks for, above the background
            cells.append(tag("td", shown, class_=kind, style=f"--v:{share**0.7 * 100:.0f}%", title=title))
        body.append(tag("tr", tag("th", name, class_="side"), *cells))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), class_="heatmap"), class_="scroll")


def _heat_picture(values: npt.NDArray[np.float64], rows: str, columns: str) -> Markup:
    """Tens of thousands of table cells would take a browser seconds; as a picture they cost a few kilobytes."""
    share = np.clip(np.nan_to_num(values), 0, 1)[..., None] ** 0.7
    light, dark = np.array([236.0, 236.0, 232.0]), np.array([42.0, 120.0, 214.0])
    cells = (light + (dark - light) * share + 0.5).astype(np.uint8)
    scale = max(2, 700 // len(values))
    pixels = np.repeat(np.repeat(cells, scale, axis=0), scale, axis=1)
    caption = f"{rows} from top to bottom, {columns} from left to right, in the order of the classes"
    return figure(encode_thumbnail(pixels, len(pixels), flat=True), caption, "confusion matrix")


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
        return paragraph("no figures yet", kind="note")
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
    keys = (tag("li", Markup(f'<span class="key s{i % 5}"></span>'), s.name) for i, s in enumerate(series))
    return join((drawn, tag("ul", *keys, class_="legend")))


def _curve(frame: _Frame, item: Series, colour: int) -> Markup:
    path, pen_down, alone = [], False, []
    for x, y in zip(item.x, item.y, strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen_down = True
        alone.append((x, y))
    drawn = f'<path class="line s{colour}" d="{"".join(path)}"><title>{text(item.name)}</title></path>'
    dots = alone if len(alone) <= 30 else alone[-1:]
    return join((Markup(drawn), *(_dot(frame, x, y, item.name, colour, 2.6) for x, y in dots)))


def _cloud(frame: _Frame, item: Series, colour: int) -> Markup:
    pairs = zip(item.x, item.y, strict=True)
    return join(_dot(frame, x, y, item.name, colour, 3.2) for x, y in pairs if math.isfinite(x) and math.isfinite(y))


def _dot(frame: _Frame, x: float, y: float, name: str, colour: int, radius: float) -> Markup:
    title = f"<title>{text(name)}: {x:g}, {y:.4g}</title>"
    return Markup(
        f'<circle class="dot s{colour}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius}">{title}</circle>'
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
    # The vertical axis's name stands in the card's title or in its own row above the chart: turned text is not read.
    return join(parts)


def _tick_text(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:.6g}"


def _svg_text(x: float, y: float, content: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(content)}</text>')


def _svg(parts: Sequence[Markup], label: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}">'
        + join(parts)
        + "</svg>"
    )


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


STYLE = """
:root{--page:#f6f6f4;--card:#fff;--ink:#16181d;--soft:#5b606b;--rule:#e3e3df;--accent:#2a78d6;--good:#16794a;
--warn:#9a6200;
--bad:#c0342f;--s0:#2a78d6;--s1:#d9622b;--s2:#1a9a6c;--s3:#7a52c7;--s4:#b58400;--track:#ecece8}
@media(prefers-color-scheme:dark){:root{--page:#121316;--card:#1b1d21;--ink:#ecedef;--soft:#a2a7b1;--rule:#303339;
--accent:#5b9df0;--good:#4cc38a;--warn:#e0aa3e;--bad:#f0736c;--s0:#5b9df0;--s1:#f0894f;--s2:#3dc091;--s3:#a98af0;
--s4:#dcb03c;
--track:#2b2e34}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 8px}
footer{max-width:1180px;margin:0 auto;padding:12px 20px 32px;color:var(--soft);font-size:13px}
header{margin-bottom:20px}
h1{font-size:28px;line-height:1.2;margin:2px 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 4px}
h3{font-size:14px;margin:0 0 10px;font-weight:600;overflow-wrap:anywhere}
p{margin:0 0 10px}
.kicker{color:var(--accent);font-weight:600;font-size:13px;margin:0}
.lead,.note,.small{color:var(--soft)}
.lead{margin:0 0 2px;overflow-wrap:anywhere}
.note{max-width:78ch;margin:0 0 14px}
.small{font-size:12.5px}
.good,.warn,.bad{border-left:4px solid var(--good);padding:8px 12px;background:var(--card);border-radius:0 8px 8px 0}
.warn{border-color:var(--warn)}.bad{border-color:var(--bad)}
section{margin:34px 0}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px}
.card{padding:16px;min-width:0}
.card+.card{margin-top:14px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:14px}
.grid .card+.card{margin-top:0}
.grid.wide{grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr))}
.card+.grid,.grid+.card{margin-top:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(124px,1fr));gap:12px}
.tile{padding:14px 16px}
.tile .label{color:var(--soft);font-size:13px}
.tile .value{font-size:24px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.tile.hero{grid-column:span 2;border-left:5px solid var(--accent)}
.tile.hero .value{font-size:38px}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:600;text-align:left;color:var(--soft);font-size:12.5px}
th,td{padding:6px 10px;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:middle}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
.num{text-align:right;font-variant-numeric:tabular-nums}
.wrap{white-space:normal;min-width:16ch;display:inline-block;overflow-wrap:anywhere}
.swatch{display:inline-block;width:13px;height:13px;border-radius:3px;margin-right:8px;vertical-align:-1px;
box-shadow:inset 0 0 0 1px rgba(128,128,128,.45)}
.legend{list-style:none;margin:6px 0 0;padding:0;display:flex;flex-wrap:wrap;gap:5px 16px;font-size:13px;
color:var(--soft)}
.key{display:inline-block;width:16px;height:3px;border-radius:2px;margin-right:7px;vertical-align:3px}
.bar{display:flex;align-items:center;gap:10px;min-width:150px}
.track{flex:1;height:12px;background:var(--track);border-radius:4px;overflow:hidden;min-width:80px}
.fill{display:block;height:100%;background:var(--accent);border-radius:0 4px 4px 0;
box-shadow:inset 0 0 0 1px rgba(128,128,128,.35)}
.barlabel{font-variant-numeric:tabular-nums;min-width:3.2em;text-align:right}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11px;fill:var(--soft);font-family:inherit;font-variant-numeric:tabular-nums}
.rule{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
path.s0{stroke:var(--s0)}path.s1{stroke:var(--s1)}path.s2{stroke:var(--s2)}path.s3{stroke:var(--s3)}
path.s4{stroke:var(--s4)}
.dot{stroke:var(--card);stroke-width:1}
circle.s0,rect.s0{fill:var(--s0)}circle.s1{fill:var(--s1)}circle.s2{fill:var(--s2)}circle.s3{fill:var(--s3)}
circle.s4{fill:var(--s4)}
.key.s0{background:var(--s0)}.key.s1{background:var(--s1)}.key.s2{background:var(--s2)}.key.s3{background:var(--s3)}
.key.s4{background:var(--s4)}
.heatmap{width:auto;font-size:12px;border-collapse:separate;border-spacing:2px}
.heatmap th,.heatmap td{border:0;padding:0}
.heatmap td.heat{width:38px;min-width:30px;height:28px;text-align:center;border-radius:4px;
font-variant-numeric:tabular-nums;
background:color-mix(in srgb,var(--accent) var(--v),var(--track))}
.heatmap td.hot{color:#fff;font-weight:600}
.heatmap .side{padding-right:8px;text-align:right;position:sticky;left:0;background:var(--card);z-index:1}
.heatmap .corner{padding-right:8px;font-weight:400;font-size:11.5px;position:sticky;left:0;background:var(--card);
z-index:1;
vertical-align:bottom;text-align:right}
.heatmap .turn{height:92px;vertical-align:bottom;text-align:left}
.heatmap .turn span{display:block;width:30px;margin:0 auto;writing-mode:vertical-rl;transform:rotate(180deg);
max-height:110px;
overflow:hidden;text-overflow:ellipsis}
.columns{display:grid;grid-template-columns:minmax(0,max-content) minmax(280px,1fr);gap:14px;align-items:start}
.columns .card+.card{margin-top:0}
.strip{display:grid;grid-template-columns:repeat(4,1fr);gap:10px}
figure{margin:0;min-width:0}
figure img{display:block;width:100%;height:auto;border-radius:6px;background:var(--track)}
figcaption{font-size:12.5px;color:var(--soft);margin-top:4px}
pre{margin:0 0 12px;padding:12px 14px;background:var(--card);border:1px solid var(--rule);border-radius:10px;
overflow-x:auto;
font-size:13px}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:minmax(90px,max-content) 1fr;gap:4px 18px;margin:0;font-size:14px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
details{margin:10px 0}summary{cursor:pointer;color:var(--accent)}
@media(max-width:980px){.columns{grid-template-columns:minmax(0,1fr)}}
@media(max-width:640px){main{padding:18px 14px 4px}footer{padding:10px 14px 26px}h1{font-size:23px}
section{margin:26px 0}
.strip{grid-template-columns:1fr 1fr}.tiles{grid-template-columns:1fr 1fr}.card{padding:12px}.tile{padding:11px 12px}
.tile .value{font-size:21px}.tile.hero .value{font-size:34px}th,td{padding:6px 7px}.bar{min-width:118px;gap:7px}
.track{min-width:44px}.barlabel{min-width:2.6em}.scroll table{font-size:13px}.wrap{min-width:9ch}
.heatmap .corner{white-space:normal;max-width:80px}.heatmap .side{padding-right:5px}.heatmap td.heat{min-width:27px;
width:27px;height:25px;font-size:11px}
dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:8px}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""

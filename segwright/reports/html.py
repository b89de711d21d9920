"""HTML as strings that are escaped where they are put in, and what a page is laid out with."""

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

from segwright.core.atomic_io import write_text
from segwright.core.progress import visible
from segwright.reports.style import STYLE

Color = tuple[int, int, int]


class Markup(str):
    """HTML that is safe as it stands."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Anything as HTML: escaped and with control characters made visible, unless it is Markup already."""
    return value if isinstance(value, Markup) else Markup(html.escape(visible(value, lines=True)))


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


# Nothing may be fetched or run, whatever a class or file name tries: the policy is the second lock.
STILL = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, *body: object, footer: object = "", style: str = "", script: str = "", policy: str = STILL) -> str:
    """A whole HTML document. ``style`` is added to the common style sheet; ``script`` needs a ``policy`` that lets it
    run. Both are put in as they are."""
    running = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(text(part) for part in body)
        + f"\n</main>\n<footer>{text(footer)}</footer>\n{running}</body>\n</html>\n"
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
    """``kind`` note is quieter; good, warn and bad are boxes with a colored edge."""
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


def swatch(color: Color) -> Markup:
    return Markup('<span class="swatch" style="background:rgb({:d},{:d},{:d})"></span>'.format(*color))


def legend(entries: Iterable[tuple[str, Color]]) -> Markup:
    """Names with their colors."""
    return tag("ul", *(tag("li", swatch(color), name) for name, color in entries), class_="legend")


def bar(value: float | None, *, color: Color | None = None, label: str = "") -> Markup:
    """A bar of ``value`` in 0…1 for a table's cell, the label beside it; no bar where the value is None or NaN."""
    share = 0.0 if value is None or math.isnan(value) else min(max(value, 0.0), 1.0)
    paint = "" if color is None else ";background:rgb({:d},{:d},{:d})".format(*color)
    track = Markup(f'<span class="track"><span class="fill" style="width:{share * 100:.1f}%{paint}"></span></span>')
    return tag("span", track, tag("span", label, class_="barlabel"), class_="bar")


# ---------------------------------------------------------------------------------------------------------------------
# Images


def encode_thumbnail(image: npt.NDArray[np.uint8], side: int = 360, *, flat: bool = False, quality: int = 80) -> bytes:
    """JPEG bytes of an H×W×C or H×W image, at most ``side`` wide; ``flat`` (masks, few colors): PNG, sharp edges."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(width, height))
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if flat else cv2.INTER_AREA))
    if image.ndim == 3 and image.shape[2] != 3:
        image = np.ascontiguousarray(image[..., 0])
    thumbnail, buffer = Image.fromarray(np.ascontiguousarray(image, np.uint8)), io.BytesIO()
    if flat:
        thumbnail.quantize(256).save(buffer, "PNG", optimize=True)
    else:
        thumbnail.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def image(data: bytes, alt: str) -> Markup:
    """Encoded JPEG, PNG or WebP bytes as an image that lies in the page itself."""
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Markup(f'<img src="{source}" alt="{html.escape(alt, quote=True)}" loading="lazy">')


def figure(data: bytes, caption: object, alt: str = "") -> Markup:
    return tag("figure", image(data, alt or str(caption)), tag("figcaption", caption))


def strip(title: object, figures: Sequence[Markup]) -> Markup:
    """Images that belong together, side by side (two by two on a phone), under a common title."""
    return tag("div", tag("h3", title), tag("div", *figures, class_="strip"), class_="card")

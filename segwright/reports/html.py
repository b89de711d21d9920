"""Pages from templates: Jinja2 with autoescaping, one self-contained file each, a strict Content-Security-Policy.

A page is a template in ``templates/`` that extends ``base.html.j2`` and is laid out with the macros of
``parts.html.j2``; the style sheet is ``static/report.css``, the script ``static/page.js``. Nothing is fetched, and only
these run. Another package with pages of its own (:mod:`segwright.serving.page`) has its own two folders and names
itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from segwright.core.atomic_io import write_text
from segwright.core.progress import duration, visible

Color = tuple[int, int, int]

HERE = "segwright.reports"


@dataclass(frozen=True)
class Number:
    """One headline number."""

    label: str
    value: str
    note: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# Templates


@functools.cache
def environment(package: str = HERE) -> jinja2.Environment:
    """The templates of ``package`` and, behind them, those of this one. Every value is escaped, and its control
    characters made visible, unless it is :class:`markupsafe.Markup`; an undefined name is an error."""
    found = jinja2.Environment(
        autoescape=True,
        auto_reload=False,
        finalize=_finalize,
        loader=jinja2.ChoiceLoader([jinja2.FunctionLoader(_reader(name)) for name in dict.fromkeys((package, HERE))]),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters |= {"bar_width": bar_width, "data_uri": data_uri, "duration": duration, "percent": percent}
    return found


def _reader(package: str) -> Any:
    folder = files(package) / "templates"

    def read(name: str) -> str | None:
        template = folder / name
        return template.read_text(encoding="utf-8") if template.is_file() else None

    return read


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else visible(value, lines=True)


@functools.cache
def static_text(name: str, package: str = HERE) -> str:
    """The text of a file in the package's ``static/``."""
    return (files(package) / "static" / name).read_text(encoding="utf-8")


def render(template: str, package: str = HERE, **context: object) -> Markup:
    """A template as HTML that is safe to put into a page."""
    return Markup(environment(package).get_template(template).render(context))


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def page(template: str, *, title: str, parts: Sequence[str] = (), **context: object) -> str:
    """A report as a whole HTML document; only its own style sheet, script and the images inside it are allowed.

    ``parts``: further files of ``static/`` without suffix, such as "viewer", each a style sheet and a script.
    """
    style, script = _inlined(parts)
    policy = page_policy(parts)
    context |= {"title": title, "style": Markup(style), "script": Markup(script), "policy": Markup(policy)}
    return environment().get_template(template).render(context)


def page_policy(parts: Sequence[str] = ()) -> str:
    """The Content-Security-Policy of a :func:`page`, for its head or a header."""
    style, script = _inlined(parts)
    return (
        f"default-src 'none'; img-src data:; style-src {content_hash(style)}; script-src {content_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _inlined(parts: Sequence[str]) -> tuple[str, str]:
    """The style sheet and the script of a page."""
    style = "".join(static_text(f"{name}.css") for name in ("report", *parts))
    return style, "".join(static_text(f"{name}.js") for name in ("page", *parts))


def content_hash(content: str) -> str:
    """The source expression of a Content-Security-Policy that allows an inline script or style of this content."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def write_page(path: str | Path, document: str) -> Path:
    """Write a document atomically and return its path."""
    return write_text(path, str(document))


# ---------------------------------------------------------------------------------------------------------------------
# Filters


def percent(value: float | None, digits: int = 1) -> str:
    """A share in 0…1 as per cent without the sign; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def bar_width(value: float | None) -> str:
    """The width of a bar for a value in 0…1, clipped; 0 for None and NaN."""
    share = 0.0 if value is None or math.isnan(value) else min(max(value, 0.0), 1.0)
    return f"{share * 100:.1f}%"


def data_uri(data: bytes) -> str:
    """Encoded JPEG, PNG or WebP bytes as the address of an image that is part of the page."""
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


# ---------------------------------------------------------------------------------------------------------------------
# Images


def encode_thumbnail(image: npt.NDArray[np.uint8], side: int = 360, *, flat: bool = False, quality: int = 80) -> bytes:
    """JPEG bytes of a uint8 H×W×C or H×W image, at most ``side`` pixels wide or high, never enlarged.

    ``flat`` (masks, few colors): PNG with sharp edges.
    """
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

"""The page at ``/`` and its files; nothing inline runs, nothing is fetched from anywhere else.

The document holds nothing of the model: the script reads ``/models``, with an API key if there is one.
"""

from __future__ import annotations

import functools
from importlib.resources import files

from segwright.reports import render, static_text
from segwright.serving.limits import ServiceLimits

PACKAGE = "segwright.serving"
SCRIPT, STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
SCRIPTS = ("main", "api", "colors", "files", "items", "panel", "png", "stage")
SHARED = {"theme.js": "page.js", "colors.js": "colors.js"}  # name here → file of the reports
STATIC = {"service.css": STYLE, "theme.js": SCRIPT, **{f"{name}.js": SCRIPT for name in SCRIPTS}}


def content_policy() -> str:
    """The Content-Security-Policy: our own files, images that the user chose, requests to this service."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )


def service_page(limits: ServiceLimits, *, keeps_images: bool = False) -> tuple[bytes, str]:
    """The document, UTF-8, and the Content-Security-Policy to send with it.

    ``keeps_images``: whether the service keeps some of the images that it gets, which the page states.
    """
    document = render(
        "service.html.j2", PACKAGE, limits=limits, keeps_images=keeps_images,
        megabytes=f"{limits.max_megabytes:g}", megapixels=f"{limits.max_megapixels:g}",
    )  # fmt: skip
    return document.encode("utf-8"), content_policy()


@functools.cache
def static_file(name: str) -> bytes:
    """One of the files of :data:`STATIC`. The style sheet begins with that of the reports."""
    if name in SHARED:
        return static_text(SHARED[name]).encode("utf-8")
    text = (files(PACKAGE) / "static" / name).read_text(encoding="utf-8")
    return (static_text("report.css") + text if name == "service.css" else text).encode("utf-8")

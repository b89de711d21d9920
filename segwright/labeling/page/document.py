"""The document of the label page and its files; nothing inline runs, nothing else is fetched."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from segwright.reports import render, static_text

PACKAGE = "segwright.labeling.page"
SCRIPT, STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
SCRIPTS = (
    "main", "strokes", "looks", "questions", "image", "view", "masks", "tools", "keys", "panel", "colors", "outbox",
    "server",
)  # fmt: skip
STATIC = {"label.css": STYLE, **{f"{name}.js": SCRIPT for name in SCRIPTS}}


def policy() -> str:
    """The Content-Security-Policy: our own files, images of this server, requests to this server."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def label_page(described: Mapping[str, Any]) -> bytes:
    """The document, UTF-8."""
    return render("label.html.j2", PACKAGE, **described, keys=KEYS).encode("utf-8")


@functools.cache
def static_file(name: str) -> bytes:
    """One of the files of :data:`STATIC`. The style sheet begins with that of the reports, colors.js is theirs."""
    if name == "colors.js":
        return static_text(name).encode("utf-8")
    text = (files(PACKAGE) / "static" / name).read_text(encoding="utf-8")
    return (static_text("report.css") + text if name == "label.css" else text).encode("utf-8")


KEYS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Answer the outlined region", (
        ("Enter", "right: the class is the predicted one"),
        ("1 … 9, 0", "it is class 1 … 9, 10"),
        ("Shift + 1 … 9", "it is class 11 … 19"),
        ("/", "type the name of a class"),
        ("N", "skip"),
    )),
    ("Paint", (
        ("B", "brush"), ("P", "polygon"), ("F", "fill: superpixel, with Shift the predicted segment"),
        ("E", "eraser"), ("V", "answer again"), ("[ and ]", "smaller and larger brush"),
        ("Z, Y", "undo, redo (Ctrl works too)"),
    )),
    ("Without a mouse", (
        ("Arrows", "move the cross hair, with Shift ten times as far"),
        ("Space", "brush and eraser: pen down or up; fill: fill here; polygon: add a corner"),
        ("Enter", "polygon: close it"), ("Backspace", "polygon: take the last corner back"),
    )),
    ("See", (
        ("+ and -", "zoom in and out"), ("R", "the whole image"), ("G", "go to the outlined region"),
        ("Alt + arrows", "move the image"), ("M", "what is shown: labels and model, labels, model, image"),
        ("O", "weaker or stronger colors"), ("H", "hatching that differs by class"),
    )),
    ("Go", (
        ("Page Down, Page Up", "next and previous image"), ("L", "list of images"), ("T", "train now"),
        ("?", "this help"), ("Escape", "close, or give up the polygon"),
    )),
)  # fmt: skip

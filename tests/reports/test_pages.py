"""HTML pages: escaped, self-contained, well-formed, and legible where the figures are odd."""

from __future__ import annotations

import io
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from segwright import reports
from segwright.reports import Series
from segwright.reports.html import bar_width

VOID = {"meta", "img", "br", "line", "link"}
NASTY = "<script>alert('x')</script>\"&'><img src=http://evil/x>"


class Tree(HTMLParser):
    """Fails on tags that do not nest; collects names and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing of its own"


def parse(document: str) -> Tree:
    tree = Tree()
    tree.feed(document)
    tree.close()
    assert not tree.open
    return tree


EVERY_PART = """
{% extends "base.html.j2" %}
{% import "parts.html.j2" as parts %}
{% block body %}
{{ parts.heading(text, [text, text], kicker=text) }}
{{ parts.numbers(tiles) }}
{% call parts.section(text, text) %}
{% call parts.table([text], numeric=[0]) %}<tr><td>{{ parts.bar(0.5, text) }}</td></tr>{% endcall %}
{{ parts.plain_table([text], [[text], [1]], numeric=[0]) }}
{{ parts.definitions([(text, text)]) }}
{{ parts.code(text) }}{{ parts.command(text) }}
{% call parts.details(text) %}{{ text }}{% endcall %}
{{ parts.legend([(text, (1, 2, 3))]) }}
{% call parts.card(text) %}{{ parts.strip([(image, text)]) }}{{ parts.figure(image, text, text) }}{% endcall %}
{% endcall %}
{% for chart in charts %}{{ chart }}{% endfor %}
{{ parts.paragraph(text, text) }}
{% endblock %}
{% block footer %}{{ text }}{% endblock %}
"""


def everything(content: str) -> str:
    """A page with ``content`` at every place that takes a string."""
    charts = [
        reports.line_chart([Series(content, [0, 1, 2], [1, math.nan, 3])], x_label=content),
        reports.scatter_chart([Series(content, [0, 1], [1, 2])] * 2, y_label=content),
        reports.bar_chart([content] * 3, [1, math.nan, 2], x_label=content, y_label=content),
        reports.heatmap(np.full((2, 2), 0.5), [content, content + "2"], rows=content, columns=content),
        reports.heatmap(np.eye(30), [content] * 30, rows=content, columns=content),
    ]
    return (
        reports.environment()
        .from_string(EVERY_PART)
        .render(
            title=content,
            style=reports.Markup(reports.static_text("report.css")),
            script=reports.Markup(""),
            policy=reports.Markup("default-src 'none'"),
            text=content,
            tiles=[reports.Number(content, content, content)] * 3,
            image=reports.encode_thumbnail(np.zeros((20, 30, 3), np.uint8)),
            charts=charts,
        )
    )


def test_everything_is_escaped() -> None:
    tree = parse(everything(NASTY))
    assert sum(tag == "script" for tag, _ in tree.tags) == 1, "that of the page"
    sources = [attributes["src"] for tag, attributes in tree.tags if tag == "img"]
    assert sources and all(source and source.startswith("data:image/") for source in sources)
    assert not any(name.startswith("on") for _, attributes in tree.tags for name in attributes)
    assert r"\x1b[31m" in everything("\x1b[31m"), "control characters are made visible"


def test_nothing_is_fetched() -> None:
    document = everything("plain")
    parse(document)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", document)
    scripts = "".join(path.read_text() for path in (files("segwright.reports") / "static").iterdir())
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp|\bimport\b|innerHTML|eval\(|on\w+=", scripts)
    assert "default-src 'none'" in document
    assert "prefers-color-scheme: dark" in document and "width=device-width" in document


def test_the_policy_allows_the_style_sheet_and_the_script_by_their_hashes_and_no_style_attributes() -> None:
    """A style attribute would need 'unsafe-inline', and with it any style that a class name could smuggle in."""
    page = reports.page("lr_range.html.j2", title="t", lead="", tiles=[], chart="", advice=[], command="")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert style is not None and policy is not None and script is not None
    assert policy[1] == (
        f"default-src 'none'; img-src data:; style-src {reports.content_hash(style[1])}; "
        f"script-src {reports.content_hash(script[1])}; base-uri 'none'; form-action 'none'"
    )
    assert not any("style" in attributes for _, attributes in parse(everything("plain")).tags)


def test_every_template_compiles_and_is_part_of_the_package() -> None:
    from segwright.serving.page import PACKAGE

    for package in ("segwright.reports", PACKAGE):
        names = [path.name for path in (files(package) / "templates").iterdir() if path.name.endswith(".j2")]
        assert names
        for name in names:
            reports.environment(package).get_template(name)
        with pytest.raises(jinja2.UndefinedError):  # a name that a page does not pass is an error, not an empty place
            reports.environment(package).from_string("{{ nothing }}").render()


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.001, 0.0021), (-5, 5), (0, 99999), (3, 3), (0, 0), (1e-9, 2e-9), (math.nan, 1)]
)
def test_ticks_are_round_and_cover(low: float, high: float) -> None:
    ticks = reports.nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12 and ticks == sorted(ticks)
    if math.isfinite(low):
        assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12


def test_charts_of_odd_figures() -> None:
    nothing = reports.line_chart([Series("a", [0, 1], [math.nan, math.inf])])
    assert "no figures" in nothing and "nan" not in nothing
    for chart in (
        reports.line_chart([Series("one point", [3], [7])]),
        reports.line_chart([Series("flat", [0, 1, 2], [5, 5, 5])]),
        reports.line_chart([Series("gap", [0, 1, 2, 3], [1, math.nan, 2, 3])], zero=True),
        reports.bar_chart([], []),
        reports.bar_chart(["a"], [0]),
    ):
        parse(chart)
        assert "nan" not in chart and "inf" not in chart
    assert reports.line_chart([Series("gap", [0, 1, 2, 3], [1, math.nan, 2, 3])]).count("M") == 2


def test_long_curves_stay_small() -> None:
    x = np.arange(100_000.0)
    chart = reports.line_chart([Series("loss", x.tolist(), (1 / (1 + x)).tolist())])
    assert len(chart) < 12_000


def test_bars_hold_their_range() -> None:
    assert [bar_width(value) for value in (1.7, 0.25, -1, None, math.nan)] == [
        "100.0%",
        "25.0%",
        "0.0%",
        "0.0%",
        "0.0%",
    ]
    assert [reports.percent(value) for value in (0.1234, None, math.nan)] == ["12.3", "–", "–"]


def test_charts_name_their_axes() -> None:
    chart = reports.line_chart([Series("a", [0, 1], [1, 2])], x_label="step", y_label="loss")
    assert chart.startswith("<svg") and "&lt;" not in chart
    names = re.findall(r'<text class="axis"[^>]*>([^<]*)<', chart)
    assert names == ["step", "loss"]


def test_thumbnails() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (300, 500, 3)).astype(np.uint8)
    small = Image.open(io.BytesIO(reports.encode_thumbnail(photo, 200)))
    assert small.format == "JPEG" and small.size == (200, 120)
    mask = np.repeat(np.repeat(np.array([[[255, 0, 0], [0, 99, 7]]], np.uint8), 40, 0), 50, 1)
    flat = Image.open(io.BytesIO(reports.encode_thumbnail(mask, 360, flat=True))).convert("RGB")
    assert flat.size == (100, 40) and np.array_equal(np.asarray(flat), mask)  # never enlarged, colors kept
    for shape in ((9, 1), (1, 4000, 3), (8, 8, 1), (8, 8, 4)):
        assert reports.encode_thumbnail(np.zeros(shape, np.uint8), 100)


def test_write_page_takes_names_that_are_no_unicode(tmp_path: Path) -> None:
    page = reports.page("lr_range.html.j2", title="bad \udcff name", lead="", tiles=[], chart="", advice=[], command="")
    path = reports.write_page(tmp_path / "sub" / "page.html", page)
    assert r"bad \udcff name" in path.read_text(encoding="utf-8")

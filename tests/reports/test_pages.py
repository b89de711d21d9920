"""HTML pages: escaped, self-contained, well-formed, and legible where the figures are odd."""

from __future__ import annotations

import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segwright import reports
from segwright.reports import Series

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


def everything(content: str) -> str:
    """A page with ``content`` at every place that takes a string."""
    image = np.zeros((20, 30, 3), np.uint8)
    return reports.page(
        content,
        reports.heading(content, content, kicker=content),
        reports.numbers([reports.Number(content, content, content)] * 3),
        reports.section(
            content,
            reports.table([content], [[content], [reports.bar(0.5, label=content)]], numeric=[0]),
            reports.definitions([(content, content)]),
            reports.code(content),
            reports.details(content, content),
            reports.legend([(content, (1, 2, 3))]),
            reports.strip(content, [reports.figure(reports.encode_thumbnail(image), content, content)]),
            note=content,
        ),
        reports.grid(
            reports.card(
                reports.line_chart([Series(content, [0, 1, 2], [1, math.nan, 3])], x_label=content), title=content
            ),
            reports.card(reports.scatter_chart([Series(content, [0, 1], [1, 2])] * 2, y_label=content)),
            reports.card(reports.bar_chart([content] * 3, [1, math.nan, 2], x_label=content)),
        ),
        reports.heatmap(np.full((2, 2), 0.5), [content, content + "2"], rows=content, columns=content),
        reports.paragraph(content, kind=content),
        footer=content,
    )


def test_everything_is_escaped() -> None:
    tree = parse(everything(NASTY))
    assert not any(tag == "script" for tag, _ in tree.tags)
    sources = [attributes["src"] for tag, attributes in tree.tags if tag == "img"]
    assert sources and all(source and source.startswith("data:image/") for source in sources)
    assert not any(name.startswith("on") for _, attributes in tree.tags for name in attributes)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    document = everything("plain")
    parse(document)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", document)
    assert "default-src 'none'" in document
    assert "prefers-color-scheme:dark" in document and "width=device-width" in document


def test_markup_goes_in_as_it_is_and_strings_do_not() -> None:
    assert reports.tag("p", "a < b", reports.tag("b", "c & d"), class_="x", title=None) == (
        '<p class="x">a &lt; b<b>c &amp; d</b></p>'
    )


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
    assert (
        "width:100.0%" in reports.bar(1.7)
        and "width:0.0%" in reports.bar(None)
        and "width:0.0%" in reports.bar(math.nan)
    )


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
    path = reports.write_page(tmp_path / "sub" / "page.html", reports.page("bad \udcff name"))
    assert r"bad \udcff name" in path.read_text(encoding="utf-8")

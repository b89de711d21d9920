"""Building blocks of self-contained HTML pages: one file, no script, nothing fetched, light and dark, down to a phone.

Plain strings are escaped wherever they are put in; only :class:`Markup`, which these functions return, goes in as it
is (:mod:`.markup`). Charts (:mod:`.charts`) are drawn for a narrow column: a page lays them side by side where there is
room. The look of all is one style sheet (:mod:`.style`).
"""

from __future__ import annotations

from segwright.reports.charts import Series, bar_chart, heatmap, line_chart, nice_ticks, scatter_chart
from segwright.reports.html import (
    Color,
    Markup,
    Number,
    bar,
    card,
    code,
    definitions,
    details,
    encode_thumbnail,
    figure,
    grid,
    heading,
    image,
    join,
    legend,
    numbers,
    page,
    paragraph,
    section,
    strip,
    swatch,
    table,
    tag,
    text,
    write_page,
)
from segwright.reports.style import STYLE

__all__ = [
    "STYLE",
    "Color",
    "Markup",
    "Number",
    "Series",
    "bar",
    "bar_chart",
    "card",
    "code",
    "definitions",
    "details",
    "encode_thumbnail",
    "figure",
    "grid",
    "heading",
    "heatmap",
    "image",
    "join",
    "legend",
    "line_chart",
    "nice_ticks",
    "numbers",
    "page",
    "paragraph",
    "scatter_chart",
    "section",
    "strip",
    "swatch",
    "table",
    "tag",
    "text",
    "write_page",
]

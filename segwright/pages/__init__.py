"""Building blocks of self-contained HTML pages: one file, no script, nothing fetched, light and dark, down to a phone.

Plain strings are escaped wherever they are put in; only :class:`Markup`, which these functions return, goes in as it
is (:mod:`.markup`). Charts (:mod:`.charts`) are drawn for a narrow column: a page lays them side by side where there is
room. The look of all is one style sheet (:mod:`.style`).
"""

from __future__ import annotations

from segwright.pages.charts import Series, bar_chart, heatmap, line_chart, nice_ticks, scatter_chart
from segwright.pages.markup import (
    Colour,
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
    join,
    legend,
    numbers,
    page,
    paragraph,
    picture,
    section,
    strip,
    swatch,
    table,
    tag,
    text,
    write_page,
)
from segwright.pages.style import STYLE

__all__ = [
    "STYLE",
    "Colour",
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
    "join",
    "legend",
    "line_chart",
    "nice_ticks",
    "numbers",
    "page",
    "paragraph",
    "picture",
    "scatter_chart",
    "section",
    "strip",
    "swatch",
    "table",
    "tag",
    "text",
    "write_page",
]

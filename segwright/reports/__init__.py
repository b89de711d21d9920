"""HTML reports: one self-contained file each, nothing fetched, light and dark, from a phone to a desktop and to paper.

:func:`page` renders a template of ``templates/`` (Jinja2, autoescaped; :mod:`.html`). Charts are SVG (:mod:`.charts`),
drawn for a narrow column: a page lays them side by side if there is room.
"""

from __future__ import annotations

from markupsafe import Markup

from segwright.reports.charts import (
    Event,
    Series,
    bar_chart,
    heatmap,
    interval_chart,
    line_chart,
    nice_ticks,
    scatter_chart,
)
from segwright.reports.html import (
    Color,
    Number,
    content_hash,
    encode_thumbnail,
    environment,
    page,
    page_policy,
    percent,
    render,
    static_text,
    write_page,
)

__all__ = [
    "Color",
    "Event",
    "Markup",
    "Number",
    "Series",
    "bar_chart",
    "content_hash",
    "encode_thumbnail",
    "environment",
    "heatmap",
    "interval_chart",
    "line_chart",
    "nice_ticks",
    "page",
    "page_policy",
    "percent",
    "render",
    "scatter_chart",
    "static_text",
    "write_page",
]

"""The page at ``/``: choose an image, see the prediction. One document that requests nothing but predictions."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from segwright.reports import Markup, content_hash, render, static_text
from segwright.serving.limits import ServiceLimits

PACKAGE = "segwright.serving"


def service_page(model: Mapping[str, Any], limits: ServiceLimits) -> tuple[bytes, str]:
    """The document, UTF-8, and the Content-Security-Policy to send with it. ``model``: the content of ``/model``."""
    policy = content_policy()
    document = render(
        "service.html.j2",
        PACKAGE,
        title=f"{model['name']} · segwright",
        policy=Markup(policy),
        style=Markup(_style()),
        script=Markup(_script()),
        model=model,
        limits={"megabytes": f"{limits.max_megabytes:g}", "megapixels": f"{limits.max_megapixels:g}"},
        facts={"max_bytes": limits.max_bytes},
    )
    return document.encode("utf-8"), f"{policy}; frame-ancestors 'none'"


@functools.cache
def content_policy() -> str:
    """Allow our script and style sheet by hash, images of the page itself, and requests to this service."""
    script, style = content_hash(_script()), content_hash(_style())
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def _style() -> str:
    return static_text("report.css") + static_text("service.css", PACKAGE)


def _script() -> str:
    return static_text("page.js") + static_text("service.js", PACKAGE)

"""Read by schemathesis (SCHEMATHESIS_HOOKS): bodies that are images, and what OpenAPI cannot express of the query."""

from __future__ import annotations

from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies

from segwright.imageio import encode_jpeg, encode_png
from segwright.serving.responses import FORMATS

PIXELS = [np.random.default_rng(number).integers(0, 256, (8 + 3 * number, 20, 3), np.uint8) for number in range(3)]
IMAGES = [*map(encode_png, PIXELS), *map(encode_jpeg, PIXELS)]

for kind in ("image/png", "image/jpeg", "image/tiff", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, strategies.sampled_from(IMAGES))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Switches are for as=json, and simplify is for polygons: what is right by itself is made right together."""
    query = case.query
    if not isinstance(query, dict):
        return
    if query.get("as", "labels") in FORMATS and any(_is(query, name) for name in ("mask", "quality", "polygons")):
        query["as"] = "json"
    if "simplify" in query and query.get("as", "labels") in FORMATS and query.get("as") != "geojson":
        query["as"], query["polygons"] = "json", "true"


def _is(query: dict[str, Any], name: str) -> bool:
    return str(query.get(name, "false")).lower() == "true"

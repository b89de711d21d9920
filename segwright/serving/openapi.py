"""The OpenAPI 3.1 description of the service, at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from segwright.core.version import __version__
from segwright.inference.output_options import MOST_SIMPLIFIED
from segwright.serving.limits import ServiceLimits
from segwright.serving.middleware import OPEN_PATHS
from segwright.serving.responses import FORMATS, GEOJSON, JPEG, JSON, PNG

BINARY = {"schema": {"type": "string", "format": "binary"}}
CLASS = {"index": 0, "name": "road", "color": [128, 64, 128]}
PREDICTION: dict[str, Any] = {
    "height": 360,
    "width": 480,
    "classes": [{**CLASS, "pixels": 51840, "share": 0.3}],
    "mean_confidence": 0.93,
    "model": "street",
    "id": "1f3c90ab72e4d581",
    "post": None,
    "tta": None,
    "milliseconds": 41.5,
    "mean_uncertainty": 0.08,
    "quality": {
        "estimated_miou": {"iou": 0.71, "low": 0.66, "high": 0.76},
        "per_class": {"road": {"iou": 0.95, "low": 0.92, "high": 0.97}},
        "level": 0.9,
        "interval_over": "images",
        "summary": "estimated mIoU 71 %, between 66 % and 76 % for 90 % of such images",
        "mean_entropy": 0.08,
        "extrapolates": False,
        "distance": 0.4,
        "regions": [
            {"class": "road", "box": [12, 40, 9, 5], "area": 31, "probability_wrong": 0.93, "expected_iou": 0.02}
        ],
        "regions_in_all": 48,
        "doubtful_regions": 3,
        "notes": ["…"],
    },
    "mask": "iVBORw0KGgo…",
    "uncertainty": "iVBORw0KGgo…",
    "polygons": {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"class": "road", "index": 0, "pixels": 12},
                "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]]},
            }
        ],
    },
}
ON_REQUEST = ("mean_uncertainty", "quality", "mask", "uncertainty", "polygons")  # of PREDICTION
MODEL: dict[str, Any] = {
    "name": "street",
    "id": "1f3c90ab72e4d581",
    "post": None,
    "tta": None,
    "architecture": "unet",
    "classes": [CLASS],
    "channels": 3,
    "value_range": None,
    "device": "cpu",
    "metrics": {"miou": 0.69},
    "licenses": {},
    "reference": True,
    "quality": True,
    "loaded": "2026-01-31T12:00:00Z",
    "model_version": "0002-1f3c90ab72e4d581",
    "model_versions": ["0001-90ab4c1f22d07e35", "0002-1f3c90ab72e4d581"],
    "default": True,
    "limits": {"max_megabytes": 32.0, "max_megapixels": 32.0},
    "version": __version__,
}
MODELS = {"models": [MODEL]}
# What a status means, and an example of its body: error, expected, found, fix.
STATUSES: dict[int, tuple[str, tuple[str, str | None, str | None, str | None]]] = {
    400: (
        "The image cannot be read or does not fit the network, or the query or the Host header is wrong.",
        ("the request body is empty", "an image's bytes", "0 bytes", "send the file's bytes as the body"),
    ),
    401: (
        "The service needs an API key, and the request has none, or an unknown one.",
        ("the service needs an API key", "Authorization: Bearer KEY, or X-API-Key: KEY", "no key", None),
    ),
    403: (
        "The request comes from the page of another site, or the API key does not allow it.",
        ("the API key is not for this model", "street", "fields", "use another key, or another model"),
    ),
    404: (
        "There is no such model, version or page.",
        ("no such model", "street, fields", "sky", None),
    ),
    408: (
        "The body did not arrive in time.",
        ("the request body did not arrive in time", "the whole body within 30 s", "4096 bytes", "send a smaller image"),
    ),
    409: (
        "The model was not reloaded.",
        ("the model was not reloaded, the previous one stays in use", None, "street", "see the service's log"),
    ),
    413: (
        "The body, the image, the time that the network needs for it, or the number of polygons is above the limit.",
        ("the request body is too large", "at most 32000000 bytes", "40000000 bytes", "send a smaller file"),
    ),
    415: (
        "The content type, content encoding or image compression is not supported.",
        ("the request body is not an image", "image/png, image/jpeg, …", "text/html", "send the file's bytes"),
    ),
    429: (
        "The limit of the API key is reached.",
        ("the limit of the API key is reached", "at most 60 requests per minute", "the next one in 1 s", None),
    ),
    500: (
        "The prediction failed.",
        ("internal error of the service", None, None, "see the service's log"),
    ),
    503: (
        "Too many requests, or the service is stopping.",
        ("the service is overloaded", "at most 32 requests at a time", "32 requests in progress", "try again in 3 s"),
    ),
    507: (
        "The version does not fit into the memory for models, beside the current ones.",
        ("the version does not fit into the memory for models", "at most 500 MB of models", "600 MB", None),
    ),
}  # fmt: skip
ERROR_REF = {"$ref": "#/components/schemas/Error"}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
}
CHALLENGE = {"WWW-Authenticate": {"description": "The scheme.", "required": True, "schema": {"type": "string"}}}
HEADERS: dict[int, Any] = {401: CHALLENGE, 429: RETRY_AFTER, 503: RETRY_AFTER}
NAME = {
    "name": "name", "in": "path", "required": True, "description": "The name of a served model.",
    "schema": {"type": "string", "minLength": 1}, "example": "street",
}  # fmt: skip
NUMBER = {
    "name": "version", "in": "path", "required": True,
    "description": "A version of the slot, in full or by its number.",
    "schema": {"type": "string", "minLength": 1}, "example": "0001-90ab4c1f22d07e35",
}  # fmt: skip
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key as the password, with any user name."},
}


def describe_api(limits: ServiceLimits, *, with_keys: bool = False) -> dict[str, Any]:
    """The document as a tree for JSON, with an example per response. ``with_keys``: the service needs API keys."""
    paths: dict[str, dict[str, Any]] = {
        "/": {"get": _get("page", "A page to try the model in a browser", _html())},
        "/health": {"get": _get("health", "Whether the process is up", _json({"status": "up"}))},
        "/healthz": {"get": _get("healthz", "As /health", _json({"status": "up"}))},
        "/ready": {"get": _ready()},
        "/openapi.json": {"get": _get("openapi", "This document", _json(None))},
        "/predict": {"post": _predict(limits, "predict", "by the first model")},
        "/model": {"get": _get("model", "Describe the first model", _json(MODEL, "Model"))},
        "/models": {"get": _get("models", "Describe all models, the first one first", _json(MODELS, "Models"))},
        "/models/{name}": {"get": _get("describe", "Describe a model", _json(MODEL, "Model"), (404,), (NAME,))},
        "/models/{name}/predict": {"post": _predict(limits, "predictBy", "by a model", (NAME,))},
        "/models/{name}/versions/{version}/predict": {
            "post": _predict(limits, "predictByVersion", "by a version of a slot", (NAME, NUMBER))
        },
        "/models/{name}/reload": {
            "post": _get("reload", "Load a model again", _json(MODEL, "Model"), (403, 404, 409), (NAME,))
        },
        "/metrics": {"get": _get("metrics", "Prometheus metrics", _text("text/plain"))},
        "/monitor": {"get": _get("monitor", "The journal: drift, accuracy without labels", _html(), (404,))},
    }
    if with_keys:
        for path, methods in paths.items():
            for method, operation in methods.items():
                if path not in OPEN_PATHS:
                    _add_keys(operation, method == "post")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "segwright",
            "version": __version__,
            "description": "Semantic segmentation of one image per request.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _schemas(), **({"securitySchemes": KEYS} if with_keys else {})},
    }


def _add_keys(operation: dict[str, Any], limited: bool) -> None:
    """Add what a service with API keys requires and responds; ``limited``: requests count towards the key's limit."""
    operation["security"] = [{name: []} for name in KEYS]
    statuses = (401, 403, 429) if limited else (401, 403)
    operation["responses"] |= _errors(*statuses)


def _schemas() -> dict[str, Any]:
    prediction, model = _schema(PREDICTION), _schema(MODEL)
    prediction["required"] = [key for key in PREDICTION if key not in ON_REQUEST]
    model["required"] = list(MODEL)
    for key in ("metrics", "licenses"):  # as the model's file has them
        model["properties"][key] = {"type": "object"}
    for key in ("architecture", "model_version"):
        model["properties"][key] = {"type": ["string", "null"]}
    texts = {key: {"type": ["string", "null"]} for key in ("expected", "found", "fix")}
    return {
        "Error": {
            "type": "object",
            "required": ["error", "expected", "found", "fix"],
            "properties": {"error": {"type": "string"}, **texts},
        },
        "Prediction": prediction,
        "Polygons": _schema(PREDICTION["polygons"]),
        "Model": model,
        "Models": {
            "type": "object",
            "required": ["models"],
            "properties": {"models": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}},
        },
    }


def _predict(limits: ServiceLimits, operation: str, by: str, parameters: tuple[Any, ...] = ()) -> dict[str, Any]:
    bounds = f"at most {limits.max_megabytes:g} MB and {limits.max_megapixels:g} megapixels"
    statuses = (
        400,
        403,
        408,
        413,
        415,
        500,
        503,
        *((404,) if parameters else ()),
        *((507,) if NUMBER in parameters else ()),
    )
    return {
        "summary": f"Segment an image {by}",
        "operationId": operation,
        "parameters": [*parameters, *_QUERY],
        "requestBody": {
            "required": True,
            "description": f"The bytes of one image file, {bounds}.",
            "content": dict.fromkeys((PNG, JPEG, "image/tiff", "image/webp", "application/octet-stream"), BINARY),
        },
        "responses": {
            "200": {
                "description": "The prediction.",
                "headers": {
                    "Server-Timing": {"description": "decode, predict", "schema": {"type": "string"}},
                    "X-Model-Id": {"description": "The id of the weights.", "schema": {"type": "string"}},
                },
                "content": {
                    PNG: BINARY,
                    JPEG: BINARY,
                    JSON: {"schema": {"$ref": "#/components/schemas/Prediction"}, "example": PREDICTION},
                    GEOJSON: {
                        "schema": {"$ref": "#/components/schemas/Polygons"}, "example": PREDICTION["polygons"],
                    },
                },
            },
            **_errors(*statuses),
        },
    }  # fmt: skip


def _switch(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "boolean", "default": False}
    return {"name": name, "in": "query", "description": description, "schema": schema, "example": True}


_QUERY = (
    {
        "name": "as",
        "in": "query",
        "description": "labels: PNG of class indices. overlay: JPEG. confidence: gray PNG, 255 is 1.0. uncertainty: "
        "gray PNG, the entropy. json: the share of every class. geojson: polygons in pixels, without gaps.",
        "schema": {"type": "string", "enum": list(FORMATS), "default": "labels"},
        "example": "json",
    },
    _switch("mask", "With as=json: add the labels as a PNG in base64."),
    _switch(
        "quality",
        "With as=json: estimate mIoU and IoU per class with intervals, and list doubtful regions, if the model has an "
        "error model; with mask=true also the uncertainty as a PNG in base64.",
    ),
    _switch("polygons", "With as=json: add the polygons of as=geojson."),
    {
        "name": "simplify",
        "in": "query",
        "description": "With polygons: the pixels by which an edge may move; neighbors keep a common edge.",
        "schema": {"type": "number", "minimum": 0, "maximum": MOST_SIMPLIFIED, "default": 0},
        "example": 1.5,
    },
)


def _ready() -> dict[str, Any]:
    operation = _get("ready", "Whether an image would be predicted now", _json({"status": "ready"}))
    operation["responses"]["503"] = {
        "description": "Not ready.",
        **_json({"status": "stopping"}),
        "headers": RETRY_AFTER,
    }
    return operation


def _get(
    operation: str,
    summary: str,
    content: dict[str, Any],
    statuses: tuple[int, ...] = (),
    parameters: tuple[Any, ...] = (),
) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": operation,
        **({"parameters": list(parameters)} if parameters else {}),
        "responses": {"200": {"description": summary + ".", **content}, **_errors(400, *statuses)},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    found = {}
    for status in sorted(statuses):
        meaning, example = STATUSES[status]
        values = dict(zip(("error", "expected", "found", "fix"), example, strict=True))
        found[str(status)] = {
            "description": meaning,
            "content": {JSON: {"schema": ERROR_REF, "example": values}},
            **({"headers": HEADERS[status]} if status in HEADERS else {}),
        }
    return found


def _json(example: Any, schema: str | None = None) -> dict[str, Any]:
    described = {"type": "object"} if schema is None else {"$ref": f"#/components/schemas/{schema}"}
    return {"content": {JSON: {"schema": described, **({} if example is None else {"example": example})}}}


def _text(kind: str) -> dict[str, Any]:
    return {"content": {kind: {"schema": {"type": "string"}}}}


def _html() -> dict[str, Any]:
    return _text("text/html")


def _schema(example: Any) -> dict[str, Any]:
    """The JSON schema of values like ``example``; None stands for a value that may be absent."""
    if isinstance(example, dict):
        properties = {key: _schema(value) for key, value in example.items()}
        return {"type": "object", "properties": properties}
    if isinstance(example, list):
        return {"type": "array", "items": _schema(example[0])}
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {} if example is None else {"type": names[type(example)]}

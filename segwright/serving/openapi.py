"""The OpenAPI 3.1 description of the service, at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from segwright.core.version import __version__
from segwright.serving.limits import ServiceLimits
from segwright.serving.responses import FORMATS, JPEG, JSON, PNG

BINARY = {"schema": {"type": "string", "format": "binary"}}
CLASS = {"index": 0, "name": "road", "color": [128, 64, 128]}
PREDICTION = {
    "height": 360,
    "width": 480,
    "classes": [{**CLASS, "pixels": 51840, "share": 0.3}],
    "mean_confidence": 0.93,
    "model": "street",
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
}
MODEL = {
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
    "loaded": "2026-01-31T12:00:00Z",
    "limits": {"max_megabytes": 32.0, "max_megapixels": 32.0},
    "version": __version__,
}
ERROR = {
    "error": "the request body is not an image",
    "expected": "image/png, image/jpeg, image/tiff, … or application/octet-stream",
    "found": "text/html",
    "fix": "send the file's bytes as the body",
}
STATUSES = {
    400: "The image cannot be read, does not fit the network, or the query or host is wrong.",
    403: "The request comes from the page of another site.",
    408: "The body did not arrive in time.",
    413: "The body, the image, or the time that the network needs for it is larger than the limit.",
    415: "The content type, content encoding or image compression is not supported.",
    500: "The prediction failed; the reason is in the service's log.",
    503: "Too many requests, or the service is stopping; Retry-After: seconds until the next try.",
}


def describe_api(limits: ServiceLimits) -> dict[str, Any]:
    """The document as a tree for JSON, with an example per response."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "segwright",
            "version": __version__,
            "description": "Semantic segmentation of one image per request.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/predict": {"post": _predict(limits)},
            "/model": {"get": _get("model", "Describe the model", MODEL)},
            "/health": {"get": _get("health", "Whether the process is up", {"status": "up"})},
            "/ready": {
                "get": _get(
                    "ready",
                    "Whether an image would be predicted now",
                    {"status": "ready"},
                    {"503": {"description": "Not ready.", **_json({"status": "stopping"}), "headers": _RETRY_AFTER}},
                )
            },
            "/metrics": {
                "get": {
                    "summary": "Prometheus metrics",
                    "operationId": "metrics",
                    "responses": {
                        "200": {
                            "description": "The text exposition format.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    },
                }
            },
            "/monitor": {
                "get": {
                    "summary": "A look at the journal of the service: drift, accuracy without labels, unusual images",
                    "operationId": "monitor",
                    "responses": {
                        "200": {"description": "HTML.", "content": {"text/html": {"schema": {"type": "string"}}}},
                        "404": {
                            "description": "The service writes no journal.",
                            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
                        },
                    },
                }
            },
            "/openapi.json": {"get": _get("openapi", "This document", None)},
            "/": {
                "get": {
                    "summary": "A page to try the model in a browser",
                    "operationId": "page",
                    "responses": {
                        "200": {"description": "HTML.", "content": {"text/html": {"schema": {"type": "string"}}}}
                    },
                }
            },
        },
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "expected", "found", "fix"],
                    "properties": {
                        "error": {"type": "string"},
                        **{key: {"type": ["string", "null"]} for key in ("expected", "found", "fix")},
                    },
                },
                "Prediction": _schema(PREDICTION),
                "Model": _schema(MODEL),
            }
        },
    }


_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def _predict(limits: ServiceLimits) -> dict[str, Any]:
    bounds = f"at most {limits.max_megabytes:g} MB and {limits.max_megapixels:g} megapixels"
    errors = {
        str(status): {
            "description": text,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}, "example": ERROR}},
            **({"headers": _RETRY_AFTER} if status == 503 else {}),
        }
        for status, text in STATUSES.items()
    }
    return {
        "summary": "Segment an image",
        "operationId": "predict",
        "parameters": [
            {
                "name": "as",
                "in": "query",
                "description": "labels: PNG of class indices. overlay: JPEG. confidence: gray PNG, 255 is 1.0. "
                "uncertainty: gray PNG, the entropy. json: the share of every class.",
                "schema": {"type": "string", "enum": list(FORMATS), "default": "labels"},
            },
            {
                "name": "mask",
                "in": "query",
                "description": "With as=json: add the labels as a PNG in base64.",
                "schema": {"type": "boolean", "default": False},
            },
            {
                "name": "quality",
                "in": "query",
                "description": "With as=json: estimate mIoU and IoU per class with intervals, and list doubtful "
                "regions, if the model has an error model; with mask=true also the uncertainty as a PNG in base64.",
                "schema": {"type": "boolean", "default": False},
            },
        ],
        "requestBody": {
            "required": True,
            "description": f"The bytes of one image file, {bounds}.",
            "content": dict.fromkeys((PNG, JPEG, "image/tiff", "image/webp", "application/octet-stream"), BINARY),
        },
        "responses": {
            "200": {
                "description": "The prediction.",
                "headers": {"Server-Timing": {"description": "decode, predict", "schema": {"type": "string"}}},
                "content": {
                    PNG: BINARY,
                    JPEG: BINARY,
                    JSON: {"schema": {"$ref": "#/components/schemas/Prediction"}, "example": PREDICTION},
                },
            },
            **errors,
        },
    }


def _get(operation: str, summary: str, example: Any, more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": operation,
        "responses": {"200": {"description": "JSON.", **_json(example)}, **(more or {})},
    }


def _json(example: Any) -> dict[str, Any]:
    if example is MODEL:
        return {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Model"}, "example": example}}}
    return {"content": {JSON: {"schema": {"type": "object"}, **({} if example is None else {"example": example})}}}


def _schema(example: Any) -> dict[str, Any]:
    """The JSON schema of values like ``example``; None stands for a value that may be absent."""
    if isinstance(example, dict):
        properties = {key: _schema(value) for key, value in example.items()}
        return {"type": "object", "properties": properties}
    if isinstance(example, list):
        return {"type": "array", "items": _schema(example[0])}
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {} if example is None else {"type": names[type(example)]}

"""Predictions as HTTP responses, in the formats that ``segwright predict`` writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.responses import Response

from segwright.core.atomic_io import without_nan
from segwright.imageio import encode_jpeg, encode_png
from segwright.inference.prediction import Prediction
from segwright.inference.quality import NO_ERROR_MODEL

FORMATS = ("labels", "overlay", "confidence", "uncertainty", "json")
PNG, JPEG, JSON = "image/png", "image/jpeg", "application/json"


def encode_prediction(
    prediction: Prediction,
    response_format: str,
    metadata: Mapping[str, Any],
    *,
    mask: bool = False,
    quality: bool = False,
) -> Response:
    """A prediction in one of FORMATS.

    labels: palette PNG of class indices. overlay: JPEG, colors over the image. confidence: gray PNG, 255 is 1.0.
    uncertainty: the same of the entropy. json: :func:`summarize` with ``metadata``; ``mask`` adds the labels' PNG in
    base64, ``quality`` the estimate of the error model and, with ``mask``, the uncertainty's PNG.
    """
    if response_format == "labels":
        return Response(encode_labels(prediction), media_type=PNG)
    if response_format == "overlay":
        return Response(encode_jpeg(prediction.overlay()), media_type=JPEG)
    if response_format == "confidence":
        return Response(encode_png(prediction.confidence_image()), media_type=PNG)
    if response_format == "uncertainty":
        return Response(encode_png(prediction.uncertainty_image()), media_type=PNG)
    encoded: dict[str, Any] = {}
    if mask:
        encoded["mask"] = base64.b64encode(encode_labels(prediction)).decode("ascii")
    if quality:
        found = prediction.quality
        encoded["quality"] = found.to_json() if found is not None else {"note": NO_ERROR_MODEL}
        if prediction.uncertainty is not None:
            encoded["mean_uncertainty"] = float(prediction.uncertainty.mean(dtype=np.float64))
            if mask:
                plane = encode_png(prediction.uncertainty_image())
                encoded["uncertainty"] = base64.b64encode(plane).decode("ascii")
    return json_response({**summarize(prediction), **metadata, **encoded})


def encode_labels(prediction: Prediction) -> bytes:
    """The bytes that :meth:`Prediction.save` writes."""
    return encode_png(prediction.labels, prediction.label_space.palette())


def summarize(prediction: Prediction) -> dict[str, Any]:
    """Height and width, the classes with their pixels and share in 0…1, mean confidence in 0…1."""
    height, width = prediction.labels.shape
    space = prediction.label_space
    shares = prediction.shares()
    classes = [
        {
            "index": index,
            "name": name,
            "color": list(space.colors[index]),
            "pixels": round(shares[name] * prediction.labels.size),
            "share": shares[name],
        }
        for index, name in enumerate(space.names)
    ]
    mean = float(prediction.confidence.mean(dtype=np.float64))
    return {"height": height, "width": width, "classes": classes, "mean_confidence": mean}


def json_response(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in UTF-8; NaN becomes null."""
    text = json.dumps(without_nan(data), ensure_ascii=False) + "\n"
    return Response(text.encode("utf-8", "replace"), status, headers, JSON)

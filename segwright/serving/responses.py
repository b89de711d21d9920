"""Predictions as HTTP responses, in the formats that ``segwright predict`` writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from starlette.responses import Response

from segwright.core.atomic_io import without_nan
from segwright.imageio import UInt8Array, encode_jpeg, encode_png
from segwright.inference.prediction import Prediction
from segwright.inference.quality import NO_ERROR_MODEL
from segwright.inference.vectorize import geojson
from segwright.serving.limits import RequestRejected

FORMATS = ("labels", "overlay", "confidence", "uncertainty", "json", "geojson")
PNG, JPEG, JSON, GEOJSON = "image/png", "image/jpeg", "application/json", "application/geo+json"
MAX_REGIONS = 10_000  # of polygons: tracing them takes some seconds


@dataclass(frozen=True)
class PredictParams:
    """The query of ``/predict``."""

    format: str = "labels"  # one of FORMATS
    mask: bool = False
    quality: bool = False
    polygons: bool = False
    simplify: float = 0.0  # pixels by which an edge of a polygon may move

    @property
    def in_detail(self) -> bool:
        """Whether the uncertainty and the estimated quality are needed."""
        return self.quality or self.format == "uncertainty"

    @property
    def has_polygons(self) -> bool:
        return self.polygons or self.format == "geojson"


def encode_prediction(prediction: Prediction, params: PredictParams, metadata: Mapping[str, Any]) -> Response:
    """A prediction in one of FORMATS.

    labels: palette PNG of class indices. overlay: JPEG, colors over the image. confidence: gray PNG, 255 is 1.0.
    uncertainty: the same of the entropy. geojson: :func:`polygons_of`. json: :func:`summarize` with ``metadata``;
    ``mask`` adds the labels' PNG in base64, ``quality`` the estimate of the error model and, with ``mask``, the
    uncertainty's PNG, ``polygons`` the GeoJSON. RequestRejected with 413 if there are too many regions for polygons.
    """
    if params.format == "labels":
        return Response(encode_labels(prediction), media_type=PNG)
    if params.format == "overlay":
        return Response(encode_jpeg(prediction.overlay()), media_type=JPEG)
    if params.format == "confidence":
        return Response(encode_png(prediction.confidence_image()), media_type=PNG)
    if params.format == "uncertainty":
        return Response(encode_png(prediction.uncertainty_image()), media_type=PNG)
    if params.format == "geojson":
        return json_response(polygons_of(prediction, params.simplify), media_type=GEOJSON)
    encoded: dict[str, Any] = {}
    if params.mask:
        encoded["mask"] = base64.b64encode(encode_labels(prediction)).decode("ascii")
    if params.polygons:
        encoded["polygons"] = polygons_of(prediction, params.simplify)
    if params.quality:
        found = prediction.quality
        encoded["quality"] = found.to_json() if found is not None else {"note": NO_ERROR_MODEL}
        if prediction.uncertainty is not None:
            encoded["mean_uncertainty"] = float(prediction.uncertainty.mean(dtype=np.float64))
            if params.mask:
                plane = encode_png(prediction.uncertainty_image())
                encoded["uncertainty"] = base64.b64encode(plane).decode("ascii")
    return json_response({**summarize(prediction), **metadata, **encoded})


def polygons_of(prediction: Prediction, simplify: float = 0.0) -> Any:
    """A GeoJSON FeatureCollection in pixels, y pointing down, one feature per region; neighbors share their edges.

    RequestRejected with 413 beyond MAX_REGIONS regions.
    """
    count = count_regions(prediction.labels, prediction.label_space.classes)
    if count > MAX_REGIONS:
        raise RequestRejected(
            413, "the prediction has too many regions for polygons", expected=f"at most {MAX_REGIONS} regions",
            found=str(count), fix="as=labels, a smaller image, or a service with --postprocess 'min-area(50)'",
        )  # fmt: skip
    return geojson(prediction.labels, prediction.label_space, tolerance=simplify)


def count_regions(labels: UInt8Array, classes: int) -> int:
    """The number of connected regions of a mask (H, W), as polygons have them."""
    present = (index for index in np.unique(labels).tolist() if index < classes)
    return sum(cv2.connectedComponents((labels == index).view(np.uint8), connectivity=4)[0] - 1 for index in present)


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


def json_response(
    data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = JSON
) -> Response:
    """JSON in UTF-8; NaN becomes null."""
    text = json.dumps(without_nan(data), ensure_ascii=False) + "\n"
    return Response(text.encode("utf-8", "replace"), status, headers, media_type)

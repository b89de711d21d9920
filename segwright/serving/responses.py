"""A prediction as the bytes of an answer, in the forms that ``segwright predict`` writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.core.atomic_io import without_nan
from segwright.imageio import encode_jpeg, encode_png
from segwright.inference.prediction import Prediction

FORMS = ("labels", "overlay", "confidence", "json")
PNG, JPEG, JSON = "image/png", "image/jpeg", "application/json"


@dataclass(frozen=True)
class Answer:
    """A body, its type, and further headers."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200


def encode_answer(prediction: Prediction, form: str, facts: Mapping[str, Any], *, mask: bool = False) -> Answer:
    """``form`` is one of FORMS. ``facts`` go into the JSON as they are; ``mask`` adds the labels' PNG to it, in base64.

    labels: palette PNG of class indices. overlay: JPEG, colors over the image. confidence: gray PNG, 255 is certain.
    """
    if form == "labels":
        return Answer(encode_labels(prediction), PNG)
    if form == "overlay":
        return Answer(encode_jpeg(prediction.overlay()), JPEG)
    if form == "confidence":
        return Answer(encode_png(prediction.confidence_image()), PNG)
    return json_answer({**described(prediction), **facts, **({"mask": _base64(prediction)} if mask else {})})


def encode_labels(prediction: Prediction) -> bytes:
    """The bytes that :meth:`Prediction.save` writes."""
    return encode_png(prediction.labels, prediction.label_space.palette())


def described(prediction: Prediction) -> dict[str, Any]:
    """Size, classes with their pixels and share in 0…1, mean confidence in 0…1."""
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


def json_answer(data: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """NaN becomes null."""
    text = json.dumps(without_nan(data), ensure_ascii=False) + "\n"
    return Answer(text.encode("utf-8", "replace"), JSON, headers, status)


def _base64(prediction: Prediction) -> str:
    return base64.b64encode(encode_labels(prediction)).decode("ascii")

"""The outputs per image that a prediction can write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.core.types import IGNORE_INDEX, LabelSpace

MASK_FORMATS = ("palette", "index", "values", "npy")
PROBABILITY_FORMATS = ("npz", "npy")
UNCERTAINTY_FORMATS = ("png", "npy")
MOST_SIMPLIFIED = 1000
POLYGON_FORMATS = ("geojson", "coco", "labelme")


@dataclass(frozen=True)
class OutputOptions:
    """The outputs per image. UsageError for an unknown format."""

    mask_format: str = "palette"  # one of MASK_FORMATS; "values": the values of the dataset's own mask files
    overlay: bool = True
    confidence: bool = False
    probabilities: str | None = None  # one of PROBABILITY_FORMATS: float16 K×H×W
    polygons: tuple[str, ...] = ()  # of POLYGON_FORMATS
    areas: Path | None = None  # a CSV file: pixels, share and area per image and class
    video: bool = False  # one overlay video per video, instead of files per frame
    uncertainty: str | None = None  # a measure of segwright.inference.uncertainty, written as a gray PNG
    uncertainty_format: str = "png"  # one of UNCERTAINTY_FORMATS; npy: float32 H×W
    quality: bool = False  # the estimate of the model's error model, in the result
    simplify: float = 0.0  # pixels by which an edge of a polygon may move; 0: along the pixels' edges

    def __post_init__(self) -> None:
        for name, found, known in (
            ("mask format", (self.mask_format,), MASK_FORMATS),
            ("format of probabilities", (self.probabilities,) if self.probabilities else (), PROBABILITY_FORMATS),
            ("polygon format", self.polygons, POLYGON_FORMATS),
            ("format of uncertainty", (self.uncertainty_format,), UNCERTAINTY_FORMATS),
        ):
            for one in found:
                if one not in known:
                    raise UsageError(f"unknown {name}", expected=", ".join(known), found=str(one))
        if not 0 <= self.simplify <= MOST_SIMPLIFIED:
            raise UsageError(
                "polygons cannot be simplified by that",
                expected=f"0 to {MOST_SIMPLIFIED} pixels",
                found=str(self.simplify),
            )


def file_values(space: LabelSpace, note: Callable[[str], None]) -> npt.NDArray[Any]:
    """256 entries: class index → value in the dataset's own mask files; also for the ignore value."""
    sources: dict[int, list[int]] = {}
    for value, index in space.lookup_items():
        sources.setdefault(index, []).append(value)
    missing = [name for index, name in enumerate(space.names) if index not in sources]
    if missing:
        raise UsageError(
            "no value of the mask files maps to these classes",
            found=", ".join(missing[:8]),
            fix="--mask-format index writes class indices",
        )
    several = [f"{space.names[index]} as {min(found)}" for index, found in sources.items()
               if index != IGNORE_INDEX and len(found) > 1]  # fmt: skip
    if several:
        note(f"several values of the dataset's masks map to one class; the lowest is written: {', '.join(several[:6])}")
    wide = max(min(found) for found in sources.values()) > 255
    table = np.full(256, IGNORE_INDEX, np.uint16 if wide else np.uint8)
    for index, found in sources.items():
        table[index] = min(found)
    return table

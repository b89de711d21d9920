"""Small pictures and masks that the format tests lay out on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from segwright.images import write_image, write_mask

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def picture(path: Path, *, size: tuple[int, int] = (12, 16), seed: int = 0) -> Path:
    """Noise, PNG or JPEG by the path's ending."""
    rng = np.random.default_rng(seed)
    return write_image(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))


def mask(path: Path, values: list[int], *, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """The values in vertical stripes, saved as an 8-bit PNG; returns them."""
    columns = np.array(values)[np.arange(size[1]) * len(values) // size[1]]
    labels = np.repeat(columns[None], size[0], axis=0).astype(np.uint8)
    write_mask(path, labels)
    return labels


def coloured(path: Path, colours: list[tuple[int, int, int]], *, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """The colours in vertical stripes as an RGB PNG; returns the stripes' numbers."""
    stripes = np.arange(size[1]) * len(colours) // size[1]
    rows = np.repeat(stripes[None], size[0], axis=0)
    write_image(path, np.array(colours, np.uint8)[rows])
    return rows


def write(path: Path, data: Any) -> Path:
    """Text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path

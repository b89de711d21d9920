"""Small images and masks that the format tests lay out on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.data.annotations.polygons import fill_box
from segwright.imageio import write_image, write_mask

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def make_image(path: Path, *, size: tuple[int, int] = (12, 16), seed: int = 0) -> Path:
    """Noise, PNG or JPEG by the path's ending."""
    rng = np.random.default_rng(seed)
    return write_image(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))


def mask(path: Path, values: list[int], *, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """The values in vertical stripes, saved as an 8-bit PNG; returns them."""
    columns = np.array(values)[np.arange(size[1]) * len(values) // size[1]]
    labels = np.repeat(columns[None], size[0], axis=0).astype(np.uint8)
    write_mask(path, labels)
    return labels


def colored(path: Path, colors: list[tuple[int, int, int]], *, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """The colors in vertical stripes as an RGB PNG; returns the stripes' numbers."""
    stripes = np.arange(size[1]) * len(colors) // size[1]
    rows = np.repeat(stripes[None], size[0], axis=0)
    write_image(path, np.array(colors, np.uint8)[rows])
    return rows


def write(path: Path, data: Any) -> Path:
    """Text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def encode_label_studio(mask: npt.NDArray[Any]) -> list[int]:
    """An H×W mask to Label Studio's brush, as runs of repeated bytes."""
    rgba = np.repeat(np.asarray(mask, np.uint8).ravel() * 255, 4)
    edges = np.flatnonzero(rgba[1:] != rgba[:-1]) + 1
    bounds = np.concatenate(([0], edges, [rgba.size]))
    sizes = (3, 4, 8, 16)  # as the reference writes them
    pieces = [f"{rgba.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        while start < end:
            length = min(end - start, 1 << 16)
            which = next(k for k, size in enumerate(sizes) if length - 1 < 1 << size)
            pieces.append(f"1{which:02b}{length - 1:0{sizes[which]}b}{int(rgba[start]):08b}")
            start += length
    text = "".join(pieces)
    bits = np.frombuffer(text.encode("ascii"), np.uint8) - 48
    return [int(byte) for byte in np.packbits(bits)]


def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """A polygon's pixels as a mask of the whole image."""
    whole = np.zeros((height, width), bool)
    top, left, box = fill_box(points, height, width)
    whole[top : top + box.shape[0], left : left + box.shape[1]] = box
    return whole

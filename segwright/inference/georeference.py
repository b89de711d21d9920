"""Georeferences of images, copied to their masks: GeoTIFF tags and world files.

The tags contain the whole coordinate system, even a user-defined one, so it need not be interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX
from segwright.data.formats.georeference import Georeference, georeference
from segwright.data.formats.geotiff import nodata_of
from segwright.imageio import UInt8Array
from segwright.inference.cog import ReadRows, rows_of, write_cog

TIFF = (".tif", ".tiff")
# Pixel scale, tie points, transformation, GeoKey directory with its numbers and texts, RPC coefficients
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
ORIENTATION = 274
LINEAR_UNITS, METRE, PROJECTED = 3076, 9001, 3072  # GeoKeys
WORLD_BYTES = 65_536  # no world file or .prj is larger


@dataclass(frozen=True)
class Placement:
    """The georeference of an image."""

    tags: tuple[tuple[int, int, int, Any, bool], ...] = ()  # as tifffile writes them
    reference: Georeference | None = None
    unit: str = ""  # of areas; empty if the area of a pixel is unknown
    sidecars: tuple[tuple[str, bytes], ...] = ()  # ending → content: a world file and its .prj
    note: str = ""  # why the georeference is lost, if it is

    @property
    def pixel_area(self) -> float | None:
        """The area of a pixel in ``unit``; None if it is unknown."""
        ground = self.reference
        return None if ground is None or not self.unit else abs(ground.a * ground.e - ground.b * ground.d)


def placement(path: Path) -> Placement | None:
    """The georeference of an image file; None if it has none."""
    if path.suffix.lower() in TIFF:
        found = _geotiff(path)
        if found is not None:
            return found
    sidecars = _sidecars(path)
    return Placement(sidecars=sidecars) if sidecars else None


def no_data(path: Path, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Whether all bands of a TIFF's pixels (H, W, C) have its no-data value; None if the file has none."""
    value = nodata_of(path)
    return None if value is None else is_no_data(pixels, value)


def is_no_data(pixels: npt.NDArray[Any], value: float) -> npt.NDArray[np.bool_]:
    """Whether all bands of pixels (H, W, C) have the no-data ``value``."""
    return np.asarray(np.isnan(pixels).all(axis=2) if np.isnan(value) else (pixels == value).all(axis=2))


def write_geotiff(
    path: Path,
    values: npt.NDArray[Any] | ReadRows,
    place: Placement | None,
    *,
    shape: tuple[int, int] | None = None,
    dtype: npt.DTypeLike = np.uint8,
    colors: UInt8Array | None = None,
    ignore: int | None = IGNORE_INDEX,
) -> None:
    """A cloud-optimized TIFF of values (H, W) at ``place``; ``colors`` 256×3 makes a palette, ``ignore`` is no data.

    ``values``: an array, or a function that reads rows of ``dtype``, of a raster of ``shape``.
    """
    read = rows_of(values) if isinstance(values, np.ndarray) else values
    size = values.shape if isinstance(values, np.ndarray) else shape
    kind = values.dtype if isinstance(values, np.ndarray) else np.dtype(dtype)
    assert size is not None
    tags = [tag[:4] for tag in place.tags] if place is not None else []
    nodata = str(ignore) if ignore is not None else None
    write_cog(path, read, (size[0], size[1]), kind, tags=tags, colors=colors, nodata=nodata)


def _geotiff(path: Path) -> Placement | None:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            found = {code: page.tags[code] for code in GEO_TAGS if code in page.tags}
            if not found:
                return None
            turned = page.tags.get(ORIENTATION)
            tags = tuple((code, int(tag.dtype), int(tag.count), tag.value, True) for code, tag in found.items())
            keys = found[34735].value if 34735 in found else ()
    except Exception:  # any error of tifffile; the pixels were read, so the mask is written without a georeference
        return Placement(note="its georeference cannot be read")
    if turned is not None and turned.value != 1:
        return Placement(note="it is turned by its orientation tag: the mask has no georeference")
    entries = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4) if keys[i + 1] == 0}
    unit = ""
    if PROJECTED in entries:
        unit = "m²" if entries.get(LINEAR_UNITS) == METRE else "square units of the coordinate system"
    return Placement(tags, georeference(path), unit)


def _sidecars(path: Path) -> tuple[tuple[str, bytes], ...]:
    """The world file beside an image and its .prj, as (ending for the mask's PNG, content)."""
    ending = path.suffix.lstrip(".")
    short = (ending[:1] + ending[-1:] + "w").lower()
    for name in (short, f"{ending.lower()}w", "wld"):
        for candidate in (path.with_suffix(f".{name}"), path.with_suffix(f".{name.upper()}")):
            world = _small(candidate)
            if world is None or len(world.split()) < 6:
                continue
            found = [("pgw", world)]
            for prj in (path.with_suffix(".prj"), path.with_suffix(".PRJ")):
                text = _small(prj)
                if text is not None:
                    found.append(("prj", text))
                    break
            return tuple(found)
    return ()


def _small(path: Path) -> bytes | None:
    try:
        if not path.is_file() or path.stat().st_size > WORLD_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None

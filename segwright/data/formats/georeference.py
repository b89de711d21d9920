"""The georeference of a GeoTIFF from its tags (GeoTIFF 1.1, OGC 19-008), and the comparison of two."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.core.errors import LabelError

SCALE, TIEPOINT, MATRIX, KEYS = 33550, 33922, 34264, 34735
PROJECTED, GEOGRAPHIC = 3072, 2048  # GeoKeys that hold an EPSG code
USER_DEFINED = 32767
TOLERANCE = 0.1  # pixels by which two rasters of one size may lie apart


@dataclass(frozen=True)
class Georeference:
    """x = a·column + b·row + c, y = d·column + e·row + f at a pixel's upper left corner, and the coordinate system."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float
    epsg: int | None

    @property
    def system(self) -> str:
        return f"EPSG:{self.epsg}" if self.epsg is not None else "a coordinate system without an EPSG code"

    @property
    def pixel(self) -> str:
        return f"{abs(self.a) or abs(self.b):g}×{abs(self.e) or abs(self.d):g}"

    def at(self, column: float, row: float) -> tuple[float, float]:
        return self.a * column + self.b * row + self.c, self.d * column + self.e * row + self.f


def georeference(path: Path) -> Georeference | None:
    """The georeference of a TIFF's first page; None if it has none or cannot be read (pixels report that)."""
    return _read(path)[0]


def _read(path: Path) -> tuple[Georeference | None, int, int]:
    """(georeference, height, width)"""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            values = {tag.code: tag.value for tag in page.tags if tag.code in (SCALE, TIEPOINT, MATRIX, KEYS)}
            return _placed(values), int(page.imagelength), int(page.imagewidth)
    except Exception:  # whatever tifffile trips over in a broken file
        return None, 0, 0


def _placed(values: dict[int, Any]) -> Georeference | None:
    keys = values.get(KEYS, ())
    entries = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4) if keys[i + 1] == 0}
    code = entries.get(PROJECTED, entries.get(GEOGRAPHIC))
    epsg = None if code in (None, 0, USER_DEFINED) else int(code)
    if MATRIX in values:
        m = [float(v) for v in values[MATRIX]]
        return Georeference(m[0], m[1], m[3], m[4], m[5], m[7], epsg)
    if SCALE in values and len(values.get(TIEPOINT, ())) >= 6:
        across, down = (float(v) for v in values[SCALE][:2])
        column, row, _, x, y, _ = (float(v) for v in values[TIEPOINT][:6])
        return Georeference(across, 0.0, x - column * across, 0.0, -down, y + row * down, epsg)
    return None


def georeference_mismatch(image: Path, mask: Path) -> LabelError | None:
    """The error for a pair whose georeferences differ; None if they agree, or one has none."""
    (here, height, width), (there, mask_height, mask_width) = _read(image), _read(mask)
    if here is None or there is None or not height or not mask_height:
        return None
    found = None
    if here.epsg is not None and there.epsg is not None and here.epsg != there.epsg:
        found = f"the image in {here.system}, the mask in {there.system}"
    else:
        # by all four corners: shift, pixel size and rotation at once
        corners = [((0, 0), (0, 0)), ((width, 0), (mask_width, 0)), ((0, height), (0, mask_height)),
                   ((width, height), (mask_width, mask_height))]  # fmt: skip
        size = max(abs(here.a), abs(here.b), abs(here.d), abs(here.e)) or 1.0
        offsets = []
        for ours, theirs in corners:
            (x, y), (u, v) = here.at(*ours), there.at(*theirs)
            offsets.append((abs(u - x) + abs(v - y)) / size)
        if max(offsets) > TOLERANCE:
            x, y = here.at(0, 0)
            u, v = there.at(0, 0)
            found = (
                f"{max(offsets):.4g} pixels apart: the image's upper left corner at {x:.10g}, {y:.10g} with "
                f"pixels of {here.pixel}, the mask's at {u:.10g}, {v:.10g} with pixels of {there.pixel}"
            )
    if found is None:
        return None
    new = mask.with_name(f"{mask.stem}-warped{mask.suffix}")
    paths = " ".join(shlex.quote(str(path)) for path in (mask, new))
    return LabelError(
        "image and mask are at different places on the ground",
        expected="the same coordinate system, place and pixel size",
        found=found,
        where=mask,
        fix=f"rio warp {paths} --like {shlex.quote(str(image))} --resampling nearest  (rio: segwright[geo])",
    )

"""The header of an image file, and what every reader needs: limits, errors, EXIF orientation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import ImageReadError, ReadReason, TooLargeError
from segwright.imageio.limits import Limits

UInt8Array = npt.NDArray[np.uint8]

EXTENSIONS = frozenset({
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".pbm", ".gif",
})  # fmt: skip
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
ENDINGS = {
    "PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"), "BMP": (".bmp",), "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pnm", ".pbm"), "GIF": (".gif",),
}  # fmt: skip


@dataclass(frozen=True)
class ImageInfo:
    """The content of an image header."""

    format: str  # PNG, JPEG, BMP, WEBP, TIFF, PPM or GIF, by the content
    width: int
    height: int
    mode: str  # Pillow's names: P, L, LA, RGB, RGBA, I;16, CMYK, 1, F, …; RGB;16 and the like for deep PNGs
    orientation: int = 1  # EXIF, 1…8
    bits: int = 8  # per channel
    alpha: bool = False  # a channel of transparency, which an image is read without
    pages: int = 1  # of a TIFF, without its smaller copies

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as the pixels come out of :func:`read_image`, EXIF orientation applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def check_limits(info: ImageInfo, path: str | Path, limits: Limits) -> None:
    """Raise ImageReadError if the header exceeds the limits."""
    if info.width * info.height > limits.max_pixels or max(info.width, info.height) > limits.max_side:
        raise too_large(path, limits, f"{info.width}×{info.height}")


def too_large(where: str | Path, limits: Limits, found: str) -> TooLargeError:
    return TooLargeError(
        "the header gives more pixels than the limit",
        expected=f"at most {limits.max_pixels} pixels and {limits.max_side} a side",
        found=found,
        where=where,
        fix="if the file is genuine, cut it into tiles (in Python, read_image(path, Limits(max_pixels=…)) reads more)",
    )


def unreadable(where: str | Path, found: str, reason: ReadReason = "corrupt") -> ImageReadError:
    """The error for a file that is no whole image."""
    return ImageReadError(
        "not a readable image",
        expected="a whole PNG, JPEG, BMP, WebP, TIFF, PPM or GIF",
        found=found,
        where=where,
        fix="copy it again from its source, or leave it out",
        reason=reason,
    )


def apply_exif_orientation(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """EXIF orientations 1…8 undone by flips and transposes; contiguous."""
    if orientation == 1 and image.flags.c_contiguous:
        return image
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)

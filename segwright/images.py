"""Safe decoding and encoding of picture files: limits first, then pixels. The only module that opens an image file.

A header is read with Pillow, restricted to the formats below, and checked against :class:`Limits` before any pixel is
decoded. JPEG pixels come from OpenCV (libjpeg-turbo, fastest), PNG and the rest from Pillow, TIFF from tifffile.
Pictures are turned upright by their EXIF orientation, as every viewer and annotation tool shows them; masks likewise.
"""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from segwright.errors import ImageReadError

UInt8Array = npt.NDArray[np.uint8]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")


@dataclass(frozen=True)
class Limits:
    """What a file may ask for before its pixels are decoded."""

    max_pixels: int = 250_000_000
    max_side: int = 65_500
    max_bytes: int = 2_000_000_000


DEFAULT_LIMITS = Limits()
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked from the header, with our own error


@dataclass(frozen=True)
class ImageInfo:
    """What a header says."""

    format: str
    width: int
    height: int
    mode: str  # Pillow's: P, L, RGB, RGBA, I;16, CMYK, …
    orientation: int = 1  # EXIF, 1…8

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as the pixels come out of :func:`read_image`, EXIF orientation applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> ImageInfo:
    """The size and kind of a picture without its pixels; ImageReadError where the file is none or breaks a limit."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ImageReadError(
            "cannot open the file", found=str(error.strerror), where=path, fix="check the path"
        ) from error
    if size == 0:
        raise ImageReadError("the file is empty", found="0 bytes", where=path, fix="copy it again from its source")
    if size > limits.max_bytes:
        raise ImageReadError(
            "the file is larger than the limit",
            expected=f"at most {limits.max_bytes} bytes",
            found=str(size),
            where=path,
        )
    with _open(path) as picture:
        orientation = _orientation(picture)
        info = ImageInfo(str(picture.format), picture.width, picture.height, picture.mode, orientation)
    check_limits(info, path, limits)
    return info


def check_limits(info: ImageInfo, path: Path, limits: Limits) -> None:
    """ImageReadError where the header asks for more than the limits allow."""
    if info.width * info.height > limits.max_pixels or max(info.width, info.height) > limits.max_side:
        raise ImageReadError(
            "the header asks for more pixels than the limit",
            expected=f"at most {limits.max_pixels} pixels and {limits.max_side} a side",
            found=f"{info.width}×{info.height}",
            where=path,
            fix="if the file is genuine, cut it into tiles or raise the limit",
        )


def read_image(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> UInt8Array:
    """The picture as uint8 H×W×C, RGB order where C is 3; alpha is dropped, palettes and CMYK become RGB."""
    path = Path(path)
    info = read_header(path, limits)
    if info.format == "JPEG" and info.mode in ("RGB", "L"):
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise _unreadable(path, "OpenCV cannot decode it")
        return _upright(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), info.orientation)
    with _open(path) as picture:
        try:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
                values = np.asarray(upright).astype(np.float64)
                low, high = float(values.min()), float(values.max())
                image = np.clip((values - low) * (255.0 / max(high - low, 1e-9)), 0, 255).astype(np.uint8)
                return np.repeat(image[..., None], 3, axis=2)
            return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path, str(error)) from error


def read_mask(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> npt.NDArray[np.uint16] | UInt8Array:
    """The values in a mask file: H×W indices (uint8 or uint16; a palette PNG keeps its indices), or H×W×3 colours."""
    path = Path(path)
    read_header(path, limits)
    with _open(path) as picture:
        try:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in ("1",):
                upright = upright.convert("L")
            if upright.mode in ("RGBA", "CMYK", "YCbCr"):
                upright = upright.convert("RGB")
            if upright.mode == "LA":
                upright = upright.convert("L")
            values = np.asarray(upright)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path, str(error)) from error
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.min() < 0 or values.max() > 65535:
        raise ImageReadError("mask values must fit 16 bits", found=f"{values.min()} to {values.max()}", where=path)
    return np.ascontiguousarray(values.astype(np.uint16))


def encode_png(image: UInt8Array, palette: UInt8Array | None = None) -> bytes:
    """PNG bytes of an H×W×C picture or, with a 256×3 ``palette``, of H×W indices."""
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def write_image(path: str | Path, image: UInt8Array, *, quality: int = 92) -> Path:
    """Write a uint8 H×W×C picture in the format of the path's ending, whole or not at all; returns the path."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        return write_bytes(path, encode_png(image))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else None, quality=quality)
    return write_bytes(path, buffer.getvalue())


def write_mask(path: str | Path, labels: UInt8Array, palette: UInt8Array | None = None) -> Path:
    """Write H×W class indices as a PNG (palette PNG when a 256×3 ``palette`` is given), whole or not at all."""
    return write_bytes(Path(path), encode_png(labels, palette))


def write_bytes(path: Path, data: bytes) -> Path:
    """Write beside, then rename: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=PILLOW_FORMATS)
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(path, str(error)) from error


def _orientation(picture: Image.Image) -> int:
    value = picture.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: UInt8Array, orientation: int) -> UInt8Array:
    """EXIF orientations 1…8 as flips and transposes."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _unreadable(path: Path, found: str) -> ImageReadError:
    return ImageReadError(
        "not a readable picture",
        expected="a whole PNG, JPEG, BMP, WebP, TIFF, PPM or GIF",
        found=found,
        where=path,
        fix="copy it again from its source, or leave it out with --skip-bad",
    )

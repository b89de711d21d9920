"""Pixels to files, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from segwright.core import atomic_io
from segwright.imageio.image_info import UInt8Array


def encode_png(image: UInt8Array, palette: UInt8Array | None = None) -> bytes:
    """PNG bytes of an H×W×C image or, with a 256×3 ``palette``, of H×W indices."""
    encoded = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if palette is not None:
        encoded.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    encoded.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_jpeg(image: UInt8Array, quality: int = 92) -> bytes:
    """JPEG bytes of a uint8 H×W×3 image; ``quality`` in 1…100."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_image(path: str | Path, image: UInt8Array, *, quality: int = 92) -> Path:
    """Write a uint8 H×W×C image in the format of the path's ending, whole or not at all; returns the path."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        return write_bytes(path, encode_png(image))
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return write_bytes(path, encode_jpeg(image, quality))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, None, quality=quality)
    return write_bytes(path, buffer.getvalue())


def write_mask(path: str | Path, labels: UInt8Array, palette: UInt8Array | None = None) -> Path:
    """Write H×W class indices as a PNG (palette PNG when a 256×3 ``palette`` is given), whole or not at all."""
    return write_bytes(Path(path), encode_png(labels, palette))


def write_bytes(path: Path, data: bytes) -> Path:
    """Write beside, then rename; OutputError where that fails. Not synced: images are many, and made again."""
    return atomic_io.write_bytes(path, data, sync=False)

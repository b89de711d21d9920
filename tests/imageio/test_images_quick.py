"""The short way through common PNGs and JPEGs: it must never say other than the careful one."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from segwright.core.errors import ImageReadError
from segwright.imageio import DEFAULT_LIMITS, Limits, decode_image, decode_mask, png


def _sources() -> list[bytes]:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    smooth = np.asarray(np.linspace(0, 255, 37 * 53 * 3).reshape(37, 53, 3), np.uint8)
    found = []
    for pixels in (noise, smooth):
        for mode in ("RGB", "L", "P", "RGBA"):
            image = Image.fromarray(pixels).convert(mode)
            found.append(saved(image, "PNG"))
            if mode in ("RGB", "L"):
                exif = Image.Exif()
                exif[0x0112] = 6
                for options in (
                    {},
                    {"progressive": True},
                    {"subsampling": 2, "exif": exif},
                    {"restart_marker_rows": 1},
                ):
                    found.append(saved(image, "JPEG", **options))
    return found


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _outcome(decode: Callable[[bytes], np.ndarray], data: bytes) -> object:
    try:
        pixels = decode(data)
    except ImageReadError as error:
        return str(error)
    return (pixels.shape, pixels.dtype, pixels.tobytes())


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_the_short_way_says_what_the_careful_one_says(
    decode: Callable[[bytes], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole files, cut ones, changed ones: the same pixels or the same error."""
    rng = np.random.default_rng(8)
    files = []
    for source in _sources():
        files.append(source)
        files += [source[: rng.integers(1, len(source))] for _ in range(4)]
        files += [source + b"x", source[:-2]]
        for _ in range(24):
            changed = bytearray(source)
            place = rng.integers(0, min(len(source), 700 if rng.random() < 0.7 else len(source)))
            changed[place] = rng.integers(0, 256)
            files.append(bytes(changed))
    quick = [_outcome(decode, data) for data in files]
    short = sum(png.fast_header(data, DEFAULT_LIMITS) is not None for data in files)
    assert short > 0.1 * len(files), "PNGs go the short way"
    monkeypatch.setattr(png, "fast_header", lambda *_: None)
    careful = [_outcome(decode, data) for data in files]
    assert quick == careful


def test_limits_hold_on_the_short_way() -> None:
    for kind in ("PNG", "JPEG"):
        data = saved(Image.new("RGB", (64, 32), (9, 80, 200)), kind)
        for limits in (Limits(max_pixels=64 * 32 - 1), Limits(max_side=63)):
            with pytest.raises(ImageReadError, match="more pixels than the limit"):
                decode_image(data, "x", limits)

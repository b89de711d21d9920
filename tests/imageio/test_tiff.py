"""TIFF: what a file says is not what comes out of it. Bombs, loops, pages, planes, alpha."""

from __future__ import annotations

import io
import lzma
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from segwright.core.errors import ImageReadError, SegwrightError, TooLargeError
from segwright.imageio import (
    Limits,
    decode_image,
    decode_mask,
    page_count,
    parse_header,
    read_header,
    read_image,
    read_mask,
    read_raster,
    read_window,
)
from segwright.imageio.raster import decode_raster

RNG = np.random.default_rng(11)


def tiff(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def by_hand(tags: list[tuple[int, int, int, int]], strip: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory; tags as (tag, type, count, value), and the strip behind it."""
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + strip


def one_strip(strip: bytes, compression: int, side: int = 64, bits: int = 16, rows: int | None = None) -> bytes:
    tags = [
        (256, 3, 1, side), (257, 3, 1, side), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4), (277, 3, 1, 1), (278, 4, 1, side if rows is None else rows),
        (279, 4, 1, len(strip)),
    ]  # fmt: skip
    return by_hand(tags, strip)


def deflated(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def xz(size: int) -> bytes:
    packer = lzma.LZMACompressor(preset=0)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


BOMBS = {
    "deflate": one_strip(deflated(512 << 20), 8),
    "old deflate": one_strip(deflated(512 << 20), 32946),
    "lzma": one_strip(xz(512 << 20), 34925),
    "deflate, 8 bit": one_strip(deflated(512 << 20), 8, bits=8),
    "rows": one_strip(deflated(1 << 20), 8, rows=2**32 - 1),
}
MEASURED = """
import resource, sys
from segwright.imageio import read_image, read_mask, read_raster, read_header, read_window
from segwright.core.errors import ImageReadError
import tifffile, numpy
def look(read):
    try:
        read(sys.argv[1])
    except ImageReadError as error:
        print(error.reason)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (read_image, read_mask, read_raster, read_header, lambda path: read_window(path, 0, 0, 8, 8)):
    look(read)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_strip_that_unpacks_to_gigabytes_costs_no_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    path.write_bytes(BOMBS[name])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    *reasons, grown = done.stdout.split()
    assert int(grown) < 64, f"{grown} MB"
    if name != "rows" and "8 bit" not in name:  # libtiff stops at the strip's size by itself
        assert reasons.count("too_large") >= 3


@pytest.mark.parametrize("compression", [8, 34925])
def test_a_strip_that_is_cut_is_not_filled_with_zeros(compression: int) -> None:
    whole = RNG.integers(0, 60000, (64, 64), dtype=np.uint16).tobytes()
    packed = zlib.compress(whole) if compression == 8 else lzma.compress(whole)
    good = one_strip(packed, compression)
    assert decode_raster(good, "x")[..., 0].tobytes() == whole
    for left in (0.3, 0.7, 0.95):
        with pytest.raises(ImageReadError) as caught:
            decode_raster(one_strip(packed[: int(len(packed) * left)], compression), "x")
        assert caught.value.reason == "truncated"
    with pytest.raises(ImageReadError):
        decode_raster(
            one_strip(zlib.compress(whole[:4000]) if compression == 8 else lzma.compress(b"x"), compression), "x"
        )


def chain(count: int, back: int | None) -> bytes:
    """``count`` directories of one small image each; the last leads to directory ``back``, or ends."""
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (278, 3, 1, 4), (279, 4, 1, 16)]
    tags.sort()
    size = 2 + 12 * len(tags) + 4
    parts = [b"II*\0" + struct.pack("<I", 8 + 16) + bytes(16)]
    for i in range(count):
        after = 24 + size * (i + 1) if i + 1 < count else 0 if back is None else 24 + size * back
        parts.append(struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags))
        parts.append(struct.pack("<I", after))
    return b"".join(parts)


@pytest.mark.parametrize("back", [0, 1, 2])
def test_directories_that_form_a_loop_are_an_error_at_once(back: int, tmp_path: Path) -> None:
    (tmp_path / "loop.tif").write_bytes(chain(3, back))
    for read in (read_header, read_image, read_mask, read_raster, page_count):
        began = time.monotonic()
        with pytest.raises(ImageReadError, match="loop"):
            read(tmp_path / "loop.tif")
        assert time.monotonic() - began < 2


def test_an_endless_chain_of_directories_is_an_error_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(TooLargeError, match="more pages"):
        parse_header(chain(40_000, None), "x")
    empty = b"II*\0" + struct.pack("<I", 8) + b"".join(struct.pack("<HI", 0, 8 + 6 * (i + 1)) for i in range(200_000))
    with pytest.raises(ImageReadError):
        parse_header(empty, "x")
    with pytest.raises(TooLargeError):
        parse_header(chain(5, None), "x", Limits(max_pages=4))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("tag", "value"), [(256, 0), (257, 0), (277, 0), (277, 60000), (258, 0), (258, 200), (322, 65535), (278, 0)]
)
def test_sizes_that_cannot_be_are_typed_errors(tag: int, value: int) -> None:
    tags = {256: 64, 257: 64, 258: 16, 259: 8, 262: 1, 273: 200, 277: 1, 278: 64, 279: 50}
    tags |= {322: value, 323: 65535} if tag == 322 else {tag: value}
    data = by_hand([(key, 4, 1, one) for key, one in sorted(tags.items())], bytes(300))
    for decode in (parse_header, decode_image, decode_mask, decode_raster):
        with pytest.raises(ImageReadError):
            decode(data, "x")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [2, 3, 5])
def test_bands_in_planes_come_out_in_their_order(
    bands: int, kind: str, compression: str | None, tmp_path: Path
) -> None:
    pixels = RNG.integers(0, 200, (40, 56, bands)).astype(kind)
    planes = tiff(pixels.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack", compression=compression)
    together = tiff(pixels, planarconfig="contig", photometric="minisblack", compression=compression)
    tiled = tiff(pixels, photometric="minisblack", compression=compression, tile=(16, 32), planarconfig="contig")
    for data in (planes, together, tiled):
        assert np.array_equal(decode_raster(data, "x"), pixels)
        (tmp_path / "x.tif").write_bytes(data)
        assert np.array_equal(read_window(tmp_path / "x.tif", 3, 5, 20, 30), pixels[3:23, 5:35])


def stack(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    images = [Image.fromarray(one) for one in pixels]
    images[0].save(buffer, "TIFF", save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("shape", [(5, 20, 30), (5, 20, 30, 3)])
def test_pages_are_counted_and_read_one_by_one(compression: str | None, shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, shape, dtype=np.uint8)
    (tmp_path / "x.tif").write_bytes(stack(pixels, compression=compression))
    assert page_count(tmp_path / "x.tif") == 5
    for read in (read_image, read_mask):
        with pytest.raises(ImageReadError, match="several pages") as caught:
            read(tmp_path / "x.tif")
        assert caught.value.reason == "pages"
        with pytest.raises(ImageReadError, match="no such page"):
            read(tmp_path / "x.tif", page=5)
    for i in range(5):
        image, mask = read_image(tmp_path / "x.tif", page=i), read_mask(tmp_path / "x.tif", page=i)
        assert np.array_equal(image, pixels[i] if len(shape) == 4 else np.repeat(pixels[i][..., None], 3, 2))
        assert np.array_equal(mask, pixels[i])
        if compression in (None, "tiff_adobe_deflate"):
            assert np.array_equal(read_raster(tmp_path / "x.tif", page=i), pixels[i].reshape(20, 30, -1))


def test_deep_pages_are_read_one_by_one(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 60000, (4, 20, 30), dtype=np.uint16)
    for name, options in (("plain", {}), ("deflate", {"compression": "zlib"})):
        path = tmp_path / f"{name}.tif"
        path.write_bytes(tiff(pixels, photometric="minisblack", metadata=None, **options))
        assert page_count(path) == 4
        assert np.array_equal(read_mask(path, page=2), pixels[2])
        assert np.array_equal(read_raster(path, page=3)[..., 0], pixels[3])
        assert np.array_equal(read_raster(path), pixels.transpose(1, 2, 0)), "a stack of one band counts as bands"


def test_smaller_copies_are_no_pages() -> None:
    pixels = RNG.integers(0, 255, (64, 96, 3), dtype=np.uint8)
    for flag in (1, 0):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(pixels, photometric="rgb", metadata=None)
            writer.write(pixels[::2, ::2], photometric="rgb", metadata=None, subfiletype=flag)
        data = buffer.getvalue()
        assert parse_header(data, "x").pages == 1
        assert np.array_equal(decode_image(data, "x"), pixels)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused_by_name(kind: str) -> None:
    frames = [Image.fromarray(RNG.integers(0, 255, (20, 30), dtype=np.uint8)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    for decode in (decode_image, decode_mask):
        with pytest.raises(ImageReadError) as caught:
            decode(buffer.getvalue(), "x")
        assert caught.value.reason == "animated"


def png(pixels: npt.NDArray[Any]) -> bytes:
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[2] if pixels.ndim == 3 else 1)
    return bytes(cv2.imencode(".png", pixels if order is None else pixels[..., order])[1])


def encoded(pixels: npt.NDArray[Any], kind: str) -> bytes:
    if kind == "PNG":
        return png(pixels)
    extra = {"extrasamples": ["unassalpha"]} if pixels.shape[2] in (2, 4) else {}
    return tiff(pixels, photometric="rgb" if pixels.shape[2] > 2 else "minisblack", planarconfig="contig", **extra)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_that_says_more_than_the_colors_is_not_dropped(kind: str, bits: int) -> None:
    scale = 257 if bits == 16 else 1
    labels = RNG.integers(0, 2, (20, 30, 1))
    dtype = f"uint{bits}"
    black = np.concatenate([np.zeros((20, 30, 3), int), labels * 255 * scale], 2).astype(dtype)
    photo = np.concatenate([RNG.integers(0, 255, (20, 30, 3)) * scale, labels * 255 * scale], 2).astype(dtype)
    for pixels in (black, photo):
        data = encoded(pixels, kind)
        assert parse_header(data, "x").alpha
        with pytest.raises(ImageReadError, match="alpha") as caught:
            decode_mask(data, "x")
        assert caught.value.reason == "bands"
        assert np.array_equal(decode_mask(data, "x", channel="alpha"), pixels[..., 3])
    colors = RNG.integers(0, 255, (5, 3))
    index = RNG.integers(0, 5, (20, 30))
    rgb = colors[index] * scale
    for alpha in (np.full((20, 30, 1), 255), np.where(index == 0, 0, 255)[..., None], np.zeros((20, 30, 1))):
        data = encoded(np.concatenate([rgb, alpha * scale], 2).astype(dtype), kind)
        assert np.array_equal(decode_mask(data, "x"), colors[index]), "alpha that follows from the colors loses nothing"


def test_gray_with_alpha() -> None:
    gray = RNG.integers(0, 4, (20, 30), dtype=np.uint8)
    for kind in ("PNG", "WEBP", "TIFF"):
        for alpha, good in (
            (np.full((20, 30), 255, np.uint8), True),
            (RNG.integers(0, 255, (20, 30), np.uint8), False),
        ):
            buffer = io.BytesIO()
            image = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
            image.save(buffer, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
            if good:
                found = decode_mask(buffer.getvalue(), "x")
                assert np.array_equal(found if found.ndim == 2 else found[..., 0], gray)
            else:
                with pytest.raises(ImageReadError, match="alpha"):
                    decode_mask(buffer.getvalue(), "x")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_three_deep_channels_are_not_cut_to_eight_bits(kind: str) -> None:
    classes, instances = RNG.integers(0, 20, (20, 30)), RNG.integers(0, 500, (20, 30))
    data = encoded(np.stack([classes, instances, 0 * classes], 2).astype(np.uint16), kind)
    assert parse_header(data, "x").bits == 16
    with pytest.raises(ImageReadError, match="16 bits"):
        decode_mask(data, "x")
    assert np.array_equal(decode_mask(data, "x", channel=0), classes)
    assert np.array_equal(decode_mask(data, "x", channel=1), instances)
    with pytest.raises(ImageReadError, match="no such channel"):
        decode_mask(data, "x", channel=3)
    with pytest.raises(ImageReadError, match="no such channel"):
        decode_mask(data, "x", channel="alpha")
    gray = np.repeat(instances[..., None], 3, 2).astype(np.uint16)
    assert np.array_equal(decode_mask(encoded(gray, kind), "x"), instances)
    colors = RNG.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(decode_mask(encoded(colors.astype(np.uint16) * 257, kind), "x"), colors)


def test_masks_of_many_bands_are_refused_and_a_band_can_be_read() -> None:
    pixels = RNG.integers(0, 9, (20, 30, 6), dtype=np.uint8)
    data = tiff(pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageReadError, match="more bands"):
        decode_mask(data, "x")
    assert np.array_equal(decode_mask(data, "x", channel=4), pixels[..., 4])
    with pytest.raises(ImageReadError):
        decode_image(data, "x")


def test_other_peoples_parsers_raise_nothing_but_ours() -> None:
    """Damage in every place of small files of every format; whatever is raised is typed and names the file."""
    scene = RNG.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [tiff(scene), tiff(scene, compression="zlib"), tiff(scene.astype(np.uint16), compression="zlib")]
    files += [tiff(np.dstack([scene, scene]), photometric="minisblack", planarconfig="contig")]
    for kind, options in (
        ("WEBP", {"exif": exif.tobytes()}), ("GIF", {}), ("BMP", {}), ("PPM", {}), ("PNG", {"exif": exif.tobytes()}),
        ("JPEG", {"exif": exif.tobytes()}), ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        Image.fromarray(scene).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    for data in files:
        for place in range(4, min(len(data), 260), 2):
            for value in (0, 255, 90):
                changed = data[:place] + bytes([value]) + data[place + 1 :]
                for decode in (decode_image, decode_mask, decode_raster):
                    try:
                        decode(changed, "the-file")
                    except ImageReadError as error:
                        assert "the-file" in str(error)
                    except SegwrightError:
                        continue

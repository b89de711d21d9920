"""Reading images: right pixels for whole files, a typed error that names the file for everything else."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segwright.core.errors import ImageReadError, TooLargeError
from segwright.imageio import (
    Limits,
    decode,
    decode_image,
    decode_mask,
    encode_png,
    parse_header,
    read_header,
    read_image,
    read_mask,
    read_raster,
    write_image,
    write_mask,
)
from segwright.imageio.sandbox import WorkerPool, map_isolated

RNG = np.random.default_rng(0)
RGB = RNG.integers(1, 255, (60, 80, 3), dtype=np.uint8)
SMOOTH = cv2.resize(RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, *, color: int = 2, bits: int = 8, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rows(image: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in image)


def saved(image: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image, mode).save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = rows(RGB)
JPEG = saved(RGB, "JPEG", quality=90)
SCAN = JPEG.index(b"\xff\xda")
PROGRESSIVE = saved(RGB, "JPEG", quality=90, progressive=True)
RESTART = cv2.imencode(".jpg", SMOOTH, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()


def bomb() -> bytes:
    """The header of a 65500×65500 JPEG on a file of a few hundred bytes."""
    place = JPEG.index(b"\xff\xc0") + 5
    data = JPEG[:place] + struct.pack(">HH", 65500, 65500) + JPEG[place + 4 :]
    return data[: SCAN + 20] + b"\xff\xd9"


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "jpeg cut": (JPEG[: len(JPEG) // 2], "cut off"),
    "jpeg half the entropy data": (JPEG[: len(JPEG) // 2].rstrip(b"\xff") + b"\xff\xd9", "missing image data"),
    "jpeg without entropy data": (JPEG[: SCAN + 14] + b"\xff\xd9", "missing image data"),
    "jpeg header only": (JPEG[:30], "JPEG"),
    "progressive cut": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "cut off"),
    "progressive without later scans": (PROGRESSIVE[: len(PROGRESSIVE) // 2].rstrip(b"\xff") + b"\xff\xd9", "missing"),
    "jpeg bomb": (bomb(), "pixels"),
    "png cut": (png(80, 60, zlib.compress(WHOLE))[:-2000], "cut off"),
    "png without end": (png(80, 60, zlib.compress(WHOLE))[:-12], "cut off"),
    "png half the data, closed": (png(80, 60, zlib.compress(WHOLE[: len(WHOLE) // 2])), "too little image data: 50 %"),
    "png one byte short": (png(80, 60, zlib.compress(WHOLE[:-1])), "too little image data: 99 %"),
    "png open stream": (png(80, 60, zlib.compress(WHOLE)[:4000]), "too little image data"),
    "png without data": (png(80, 60, b""), "too little image data"),
    "png wrong checksum": (png(80, 60, zlib.compress(WHOLE)[:-4] + b"abcd"), "damaged"),
    "png 100k×100k": (png(100_000, 100_000, zlib.compress(b"\0" * 1000)), "pixels"),
    "png large and hollow": (png(12_000, 12_000, zlib.compress(b"\0" * 1000)), "too little image data"),
    "png zero wide": (png(0, 60, zlib.compress(WHOLE)), "0×60"),
    "palette without a palette": (png(80, 60, zlib.compress(rows(RGB[..., 0])), color=3), "palette"),
    "fits": (b"SIMPLE  =                    T" + b" " * 2850, "FITS"),
    "photoshop": (b"8BPS\0\1" + bytes(200), "Photoshop"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "zeros": (bytes(4000), "zeros"),
    "tiff cut": (b"II*\0\x08\0\0\0", "TIFF"),
    "bmp cut": (saved(RGB, "BMP")[:2000], "BMP"),
    "webp cut": (saved(RGB, "WEBP")[:500], "WEBP"),
    "gif cut": (saved(RGB[..., 0], "GIF")[:200], "GIF"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", [read_image, read_mask, read_raster], ids=["image", "mask", "raster"])
def test_broken_files_raise_a_typed_error_that_names_them(
    name: str, read: Callable[[Path], object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, says = BROKEN[name]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(ImageReadError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    capfd.readouterr()  # libpng's own words


def test_every_cut_of_a_png_and_a_jpeg_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    whole_png = png(80, 60, zlib.compress(WHOLE))
    for data in (whole_png, JPEG, PROGRESSIVE):
        for end in range(8, len(data) - 2, 397):
            with pytest.raises(ImageReadError):
                decode_image(data[:end], "cut")
    capfd.readouterr()


def test_missing_entropy_data_is_noticed_wherever_it_begins(capfd: pytest.CaptureFixture[str]) -> None:
    body = JPEG[SCAN + 14 : -2]
    missed = []
    for end in range(0, len(body) - 800, 401):  # of the last 16×16 pixels the luma may be whole
        data = JPEG[: SCAN + 14] + body[:end].rstrip(b"\xff") + b"\xff\xd9"
        try:
            decode_image(data, "short")
            missed.append(end)
        except ImageReadError:
            pass
    assert missed == []
    capfd.readouterr()


def jpegs() -> dict[str, bytes]:
    """Whole files that look as if something were missing: flat corners, borders, kinds that are seldom met."""
    white, black = SMOOTH.copy(), SMOOTH.copy()
    white[30:, 40:] = 255
    black[-9:], black[:, -17:] = 0, 0
    found = {}
    for name, pixels in (("white corner", white), ("black border", black), ("all white", np.full_like(SMOOTH, 255))):
        for kind, options in (
            ("baseline", {}), ("progressive", {"progressive": True}), ("4:4:4", {"subsampling": 0}),
            ("4:2:2", {"subsampling": 1}), ("optimized", {"optimize": True}), ("restarts", {"restart_marker_rows": 1}),
            ("rgb", {"keep_rgb": True}),
        ):  # fmt: skip
            found[f"{name}, {kind}"] = saved(pixels, "JPEG", quality=90, **options)
        found[f"{name}, gray"] = saved(pixels[..., 0], "JPEG", quality=90)
    return found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", jpegs())
def test_whole_jpegs_are_read_as_ever_and_nothing_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = jpegs()[name]
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    assert np.array_equal(decode_image(data, name), cv2.imdecode(np.frombuffer(data, np.uint8), flags))
    assert np.array_equal(decode_image(data + b"trailing bytes", name), decode_image(data, name))
    if "gray" in name:
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(decode_mask(data, name), gray)
    place = data.index(b"\xff\xdb")  # bytes before the tables, a revision that nobody knows: no damage to the image
    assert np.array_equal(decode_image(data[:place] + b"abcd" + data[place:], name), decode_image(data, name))
    odd = data.replace(b"JFIF\0\1", b"JFIF\0\7")
    assert np.array_equal(decode_image(odd, name), decode_image(data, name))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", jpegs())
def test_a_cut_jpeg_whose_end_marker_was_put_back_is_found(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = jpegs()[name]
    begin = data.index(b"\xff\xda") + 14
    for left in (0.1, 0.34, 0.67, 0.9):
        cut = data[: begin + int((len(data) - begin) * left)].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(ImageReadError) as caught:
            decode_image(cut, name)
        assert caught.value.reason == "truncated", left
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_that_lost_its_last_bytes_is_found() -> None:
    for pixels in (RGB, np.full_like(RGB, 255)):
        data = saved(pixels, "JPEG", quality=90)
        for lost in (4, 40) if pixels is RGB else (2, 4):
            with pytest.raises(ImageReadError) as caught:
                decode_image(data[: -2 - lost].rstrip(b"\xff") + b"\xff\xd9", "x")
            assert caught.value.reason == "truncated", lost
    scans = [i for i in range(len(PROGRESSIVE) - 1) if PROGRESSIVE[i : i + 2] == b"\xff\xda"]
    for scan in scans[1:]:
        with pytest.raises(ImageReadError, match="announced and never sent"):
            decode_image(PROGRESSIVE[:scan] + b"\xff\xd9", "whole scans are missing")


def test_cmyk_jpegs_are_checked_too(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).convert("CMYK").save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    assert decode_image(data, "x").shape == (60, 80, 3)
    with pytest.raises(ImageReadError, match="missing image data"):
        decode_image(data[:-400] + b"\xff\xd9", "x")
    assert capfd.readouterr() == ("", "")


def test_data_missing_between_restart_markers_is_found() -> None:
    start = RESTART.index(b"\xff\xda") + 14
    first = RESTART.index(b"\xff\xd0", start)
    second = RESTART.index(b"\xff\xd1", first)
    assert decode_image(RESTART, "whole").shape == (60, 80, 3)
    with pytest.raises(ImageReadError):
        decode_image(RESTART[: first + 4] + RESTART[second:], "gap")


def test_a_damaged_jpeg_header_is_a_typed_error() -> None:
    """Lengths that lie, scan headers that are cut: what other people's parsers raise is not let through."""
    for data in (JPEG, PROGRESSIVE, RESTART):
        for place in range(2, min(len(data), 700)):
            for value in (0, 2, 250, 255):
                changed = data[:place] + bytes([value]) + data[place + 1 :]
                try:
                    decode_image(changed, "x")
                except ImageReadError:
                    continue


def test_lossless_formats_keep_every_pixel(tmp_path: Path) -> None:
    for kind in ("PNG", "BMP", "PPM", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert np.array_equal(decode_image(saved(RGB, kind, **options), kind), RGB), kind
    interlaced = png(80, 60, zlib.compress(WHOLE))
    assert np.array_equal(decode_image(interlaced, "png"), RGB)
    gif = decode_image(saved(RGB[..., 0], "GIF"), "a GIF named .png")
    assert np.array_equal(gif, np.repeat(RGB[..., :1], 3, axis=2))


def test_jpeg_pixels_agree_with_pillow() -> None:
    data = saved(SMOOTH, "JPEG", quality=92)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode_image(data, "jpeg").astype(int) - expected).max() <= 3
    gray = saved(SMOOTH[..., 0], "JPEG", quality=92)
    ours = decode_image(gray, "gray")
    assert (ours[..., 0] == ours[..., 1]).all()
    assert decode_mask(gray, "gray").ndim == 2


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels → upright, in numpy's own turns: 5 and 7 are mirrors along the two diagonals."""
    return {
        1: image, 2: np.fliplr(image), 3: np.rot90(image, 2), 4: np.flipud(image), 5: image.swapaxes(0, 1),
        6: np.rot90(image, -1), 7: np.rot90(image.swapaxes(0, 1), 2), 8: np.rot90(image, 1),
    }[orientation]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientations(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{kind.lower()}"
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(SMOOTH).save(path, kind, exif=exif, **options)
    expected = turn(SMOOTH, orientation)
    image = read_image(path)
    assert image.shape == expected.shape
    assert read_header(path).size == expected.shape[:2]
    assert np.abs(image.astype(int) - expected).mean() < 4
    assert read_mask(path).shape[:2] == expected.shape[:2]


def test_kinds_of_color_become_rgb() -> None:
    alpha = np.dstack([RGB, RNG.integers(0, 255, (60, 80), dtype=np.uint8)])
    assert np.array_equal(decode_image(saved(alpha, "PNG"), "rgba"), RGB)
    assert np.array_equal(decode_image(saved(alpha, "WEBP", lossless=True, exact=True), "rgba"), RGB)
    gray_alpha = np.dstack([RGB[..., 0], RGB[..., 1]])
    assert np.array_equal(decode_image(saved(gray_alpha, "PNG", "LA"), "la")[..., 2], RGB[..., 0])
    cmyk = io.BytesIO()
    Image.fromarray(SMOOTH).convert("CMYK").save(cmyk, "JPEG", quality=95)
    assert np.abs(decode_image(cmyk.getvalue(), "cmyk").astype(int) - SMOOTH).mean() < 4
    palette = io.BytesIO()
    Image.fromarray(SMOOTH).quantize(64).save(palette, "PNG")
    expected = np.asarray(Image.open(io.BytesIO(palette.getvalue())).convert("RGB"))
    assert np.array_equal(decode_image(palette.getvalue(), "palette"), expected)


def test_more_than_8_bits_are_stretched_and_kept_by_read_raster(tmp_path: Path) -> None:
    deep = (np.arange(60 * 80).reshape(60, 80) * 10 + 500).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    image = read_image(tmp_path / "deep.png")
    assert (image.min(), image.max()) == (0, 255)
    assert np.array_equal(read_raster(tmp_path / "deep.png")[..., 0], deep)
    color = np.dstack([deep, deep + 1, deep + 2])
    cv2.imwrite(str(tmp_path / "color.png"), color[..., ::-1])
    assert np.array_equal(read_raster(tmp_path / "color.png"), color)
    many = {
        "u16": np.dstack([deep] * 5), "f32": np.dstack([deep] * 7).astype(np.float32),
        "i16": np.dstack([deep] * 2).astype(np.int16),
    }  # fmt: skip
    for name, values in many.items():
        for planar in ("contig", "separate"):
            path = tmp_path / f"{name}-{planar}.tif"
            stored = values if planar == "contig" else values.transpose(2, 0, 1)
            tifffile.imwrite(path, stored, planarconfig=planar, photometric="minisblack")
            found = read_raster(path)
            assert found.dtype == values.dtype
            assert np.array_equal(found, values)
            assert read_header(path).size == (60, 80)
    with pytest.raises(ImageReadError, match="bands"):
        read_image(tmp_path / "u16-contig.tif")


@pytest.mark.parametrize("planar", ["contig", "separate", None])
def test_a_cut_tiff_is_noticed(planar: str | None, tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    values = RNG.integers(0, 60000, (60, 80, 5), dtype=np.uint16)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)  # None: five pages
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageReadError, match="TIFF"):
        read_raster(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_keep_their_indices(bits: int) -> None:
    labels = RNG.integers(0, 2**bits, (37, 53), dtype=np.uint8)
    image = Image.fromarray(labels, "P")
    image.putpalette(RNG.integers(0, 255, 768, dtype=np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=bits)
    assert parse_header(buffer.getvalue(), "mask").bits == bits
    assert np.array_equal(decode_mask(buffer.getvalue(), "mask"), labels)


def test_masks_of_other_kinds() -> None:
    labels = RNG.integers(0, 12, (37, 53), dtype=np.uint8)
    assert np.array_equal(decode_mask(saved(labels, "PNG"), "gray"), labels)
    assert np.array_equal(decode_mask(saved(labels, "TIFF"), "tiff"), labels)
    assert np.array_equal(decode_mask(saved(labels, "BMP"), "bmp"), labels)
    deep = labels.astype(np.uint16) * 1000
    found = decode_mask(cv2.imencode(".png", deep)[1].tobytes(), "deep")
    assert found.dtype == np.uint16
    assert np.array_equal(found, deep)
    assert np.array_equal(decode_mask(saved(RGB, "PNG"), "colors"), RGB)
    alpha = np.dstack([RGB, np.full((60, 80), 255, np.uint8)])
    assert np.array_equal(decode_mask(saved(alpha, "PNG"), "colors with alpha"), RGB)
    assert np.array_equal(decode_mask(saved(np.dstack([labels, labels]), "PNG", "LA"), "gray with alpha"), labels)
    binary = labels > 5
    assert set(np.unique(decode_mask(saved(binary, "PNG"), "bits"))) == {0, 255}


@pytest.mark.parametrize(
    "name", ["straße 日本 ñ.png", "x" * 200 + ".png", " lead.png", "a\nb.png", "-rf.png", "a%20b#?.png"]
)
def test_odd_names(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / name, RGB)
    assert np.array_equal(read_image(tmp_path / name), RGB)
    assert np.array_equal(read_image(os.fspath(tmp_path / name)), RGB)


def test_a_folder_or_nothing_in_place_of_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.png", Path("a\0b.png")):
        with pytest.raises(ImageReadError, match="cannot open"):
            read_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_header, read_mask):
        with pytest.raises(ImageReadError, match="cannot open"):
            read(tmp_path / "pipe.png")


def test_limits_hold_before_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RGB)
    with pytest.raises(ImageReadError, match="80×60"):
        read_image(tmp_path / "a.png", Limits(max_pixels=4000))
    with pytest.raises(ImageReadError, match="80×60"):
        read_header(tmp_path / "a.png", Limits(max_side=70))
    with pytest.raises(ImageReadError, match="larger than the limit"):
        read_image(tmp_path / "a.png", Limits(max_bytes=100))


def test_writing_round_trips(tmp_path: Path) -> None:
    labels = RNG.integers(0, 20, (31, 17), dtype=np.uint8)
    palette = RNG.integers(0, 255, (256, 3), dtype=np.uint8)
    assert np.array_equal(read_mask(write_mask(tmp_path / "m.png", labels, palette)), labels)
    assert np.array_equal(read_image(tmp_path / "m.png"), palette[labels])
    assert np.array_equal(decode_image(encode_png(RGB), "png"), RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]  # nothing left beside


def killer(_: object) -> Callable[[str], str]:
    def work(item: str) -> str:
        if item == "die":
            os.kill(os.getpid(), 11)
        if item == "raise":
            raise ImageReadError("no image", where=item)
        if item == "hang":
            import time

            time.sleep(60)
        if item == "talk":
            os.write(2, b"Corrupt JPEG data")
            os.write(1, b"on stdout, where the answers go")
        return item.upper()

    return work


def test_a_file_that_kills_its_decoder_does_not_kill_the_run() -> None:
    with WorkerPool[str, str](killer, None, count=2, timeout=20) as pool:
        outcomes = {one.item: one for one in pool.map(["a", "die", "b", "raise", "talk", "c", "die", "d"])}
    assert [outcomes[item].result for item in "abcd"] == ["A", "B", "C", "D"]
    assert outcomes["die"].crash == "killed by signal 11"
    assert isinstance(outcomes["raise"].error, ImageReadError)
    assert outcomes["talk"].result == "TALK"
    assert "Corrupt JPEG data" in outcomes["talk"].stderr


@pytest.mark.slow
def test_a_file_that_hangs_its_decoder_is_given_up() -> None:
    with WorkerPool[str, str](killer, None, count=1, timeout=1) as pool:
        pool.one("a")
        assert "no answer" in str(pool.one("hang").crash)
        assert pool.one("b").result == "B"


def test_reading_in_a_child(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RGB)
    (tmp_path / "b.png").write_bytes(png(80, 60, zlib.compress(WHOLE[:100])))
    first, second = map_isolated(read_image, [tmp_path / "a.png", tmp_path / "b.png"])
    assert np.array_equal(first.get(), RGB)
    with pytest.raises(ImageReadError, match="too little image data"):
        second.get()


def test_the_reason_of_an_error_is_for_programs_and_travels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RGB)
    whole = (tmp_path / "a.png").read_bytes()
    cases = {
        "none.png": (None, "cannot_open"),
        "empty.png": (b"", "empty"),
        "cut.png": (whole[:-100], "truncated"),
        "cut.jpg": (saved(RGB, "JPEG")[:300], "truncated"),
        "zeros.png": (bytes(2000), "truncated"),
        "fits.png": (b"SIMPLE  =" + bytes(2000), "unknown_format"),
        "changed.png": (whole[:70] + bytes(3) + whole[73:], "corrupt"),
    }
    for name, (data, reason) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageReadError) as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == reason, name
        assert pickle.loads(pickle.dumps(caught.value)).reason == reason
    with pytest.raises(TooLargeError) as large:
        read_image(tmp_path / "a.png", Limits(max_pixels=10))
    assert pickle.loads(pickle.dumps(large.value)).reason == "too_large"


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_deep_images_are_stretched_in_pieces_to_the_same_bytes(
    kind: type, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(bands)
    raster = (rng.random((37, 23, bands)) * 60_000 - (0 if kind is np.uint16 else 900)).astype(kind)
    if np.issubdtype(kind, np.floating):
        raster[3, 4], raster[5, 6], raster[7, 8] = np.nan, np.inf, -np.inf
    used = raster[..., : {1: 1, 2: 1, 3: 3, 4: 3}[bands]].astype(np.float32)
    finite = np.isfinite(used)
    low, high = float(used[finite].min()), float(used[finite].max())
    wanted = np.clip((np.where(finite, used, low) - low) * (255.0 / (high - low)), 0, 255).astype(np.uint8)
    wanted = np.broadcast_to(wanted, (37, 23, 3))
    for piece in (1, 100, 1 << 20):
        monkeypatch.setattr(decode, "PIECE", piece)
        assert np.array_equal(decode.stretched(raster, "x"), wanted)
    nothing = np.full((4, 5, bands), np.nan, np.float32)
    assert not decode.stretched(nothing, "x").any()


def test_stretching_takes_no_copies_of_the_whole() -> None:
    raster = np.random.default_rng(0).integers(0, 4000, (3000, 2000, 3)).astype(np.uint16)
    tracemalloc.start()
    try:
        decode.stretched(raster, "x")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < raster.size + 24 * decode.PIECE, "the answer, and some pieces"

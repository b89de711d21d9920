"""GeoTIFF: compressions that rasterio reads, big rasters in tiles, and where image and mask lie on the ground."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segwright.core.errors import ImageReadError, MissingExtraError
from segwright.data.check.runner import check_dataset
from segwright.data.convert import convert
from segwright.data.dataset import open_dataset
from segwright.data.formats import geotiff
from segwright.data.formats.georeference import georeference
from segwright.imageio import read_raster, read_window, tiff_info

SIZE = (300, 400)
RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 5000, (4, *SIZE)).astype(np.uint16)  # bands first, as rasterio has them


def write(path: Path, bands: np.ndarray, *, origin: tuple[float, float] = (500000, 5000000), pixel: float = 0.5,
          epsg: int | None = 32633, **options: Any) -> Path:  # fmt: skip
    """A GeoTIFF by rasterio."""
    rasterio = pytest.importorskip("rasterio")
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if epsg is None else {
        "crs": f"EPSG:{epsg}", "transform": rasterio.transform.from_origin(*origin, pixel, pixel)}  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", height=bands.shape[1], width=bands.shape[2], count=bands.shape[0],
                       dtype=bands.dtype, **place, **options) as file:  # fmt: skip
        file.write(bands)
    return path


@pytest.mark.parametrize("compress", ["lzw", "zstd", "deflate", "packbits", None])
@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 128, "blockysize": 128}, {"tiled": False}])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_windows_agree_with_the_whole(tmp_path: Path, compress: str | None, layout: Any, interleave: str) -> None:
    """LZW and Zstandard go to rasterio, the rest to tifffile; strips and tiles, bands interleaved or not."""
    more = {} if compress is None else {"compress": compress}
    path = write(tmp_path / "x.tif", SCENE, interleave=interleave, **layout, **more)
    expected = np.moveaxis(SCENE, 0, 2)
    assert np.array_equal(read_raster(path), expected)
    found = tiff_info(path)
    assert found is not None and (found.height, found.width, found.bands, found.dtype) == (*SIZE, 4, "uint16")
    for top, left, height, width in ((0, 0, 300, 400), (127, 255, 2, 2), (299, 399, 1, 1), (10, 100, 200, 260)):
        window = read_window(path, top, left, height, width)
        assert np.array_equal(window, expected[top : top + height, left : left + width])
    with pytest.raises(ImageReadError, match="no window that reaches beyond"):
        read_window(path, 200, 0, 101, 10)


def test_without_rasterio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.tif", SCENE, compress="lzw")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    for read in (lambda: read_raster(path), lambda: read_window(path, 0, 0, 8, 8)):
        with pytest.raises(MissingExtraError, match=r"segwright\[geo\]"):
            read()


def test_damaged_rasters(tmp_path: Path) -> None:
    for compress in ("lzw", "deflate"):
        path = write(tmp_path / f"{compress}.tif", SCENE, compress=compress, tiled=False)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageReadError, match=compress):
            read_raster(path)
        with pytest.raises(ImageReadError, match=compress):
            read_window(path, 200, 0, 100, 400)


def tree(folder: Path, **mask: Any) -> Path:
    """Two pairs of rasters; ``mask`` changes how the first mask lies on the ground."""
    labels = np.zeros((1, *SIZE), np.uint8)
    labels[:, 100:] = 1
    for number, name in enumerate("ab"):
        write(folder / f"images/{name}.tif", np.roll(SCENE, 50 * number, axis=1), compress="lzw")
        write(folder / f"masks/{name}.tif", labels, **(mask if name == "a" else {}))
    return folder


def different(folder: Path) -> list[Any]:
    result = check_dataset(open_dataset(folder), workers=0)
    return [problem for problem in result.problems if problem.kind == "different ground"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"origin": (500010, 5000000)}, "20 pixels apart"),
        ({"pixel": 0.6}, "60 pixels apart|pixels of 0.6"),
        ({"epsg": 32632}, "EPSG:32633, the mask in EPSG:32632"),
    ],
)
def test_pairs_on_different_ground(tmp_path: Path, change: Any, said: str) -> None:
    (problem,) = different(tree(tmp_path, **change))
    assert problem.severity == "error" and problem.files == (str(tmp_path / "masks/a.tif"),)
    assert any(part in problem.message for part in said.split("|")) and "rio warp" in problem.fix
    assert problem.fix.endswith("(rio: segwright[geo])")


def test_the_fix_puts_the_mask_on_the_image(tmp_path: Path) -> None:
    (problem,) = different(tree(tmp_path / "a b", origin=(500010, 5000000)))
    words = shlex.split(problem.fix.partition("  (")[0])
    command = [sys.executable, "-c", "from rasterio.rio.main import main_group; main_group()", *words[1:]]
    subprocess.run(command, check=True, capture_output=True)
    old, new = Path(words[2]), Path(words[3])
    assert georeference(new) == georeference(tmp_path / "a b/images/a.tif")
    new.replace(old)
    assert not different(tmp_path / "a b")


def test_pairs_on_the_same_ground(tmp_path: Path) -> None:
    assert not different(tree(tmp_path / "same"))
    assert not different(tree(tmp_path / "within", origin=(500000.02, 5000000))), "a fraction of a pixel"
    assert not different(tree(tmp_path / "unsaid", epsg=None)), "a mask that does not say where it lies"
    notes = open_dataset(tmp_path / "same").notes
    assert any("EPSG:32633, a pixel is 0.5×0.5" in note for note in notes)


def big(folder: Path, side: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:side, :side]
    scene = np.stack([rows * 7 + columns, rows ^ columns]).astype(np.uint16)
    labels = ((rows // 40 + columns // 60) % 3).astype(np.uint8)
    labels[:3] = 0
    for name, array in (("images", np.moveaxis(scene, 0, 2)), ("masks", labels)):
        (folder / name).mkdir(parents=True)
        tifffile.imwrite(folder / name / "x.tif", array, tile=(256, 256), compression="zlib", photometric="minisblack",
                         **({"planarconfig": "contig"} if array.ndim == 3 else {}), **options)  # fmt: skip
    return scene, labels


def test_big_rasters_are_cut_into_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geotiff, "WHOLE", 400 * 400)
    monkeypatch.setattr(geotiff, "SMALL", 0)
    monkeypatch.setattr(geotiff.tiles, "__defaults__", (256,))
    monkeypatch.setattr(geotiff, "LOOKED_AT", 150)
    scene, labels = big(tmp_path / "in", 600)
    data = open_dataset(tmp_path / "in")
    assert len(data) == 9 and len(data.label_space) == 3 and "are cut into 9 tiles" in " ".join(data.notes)
    assert data.all.ids[5] == "x_y000200_x000400"
    whole = np.zeros((600, 600), np.uint8)
    for place, record in enumerate(data.records):
        t = record.payload
        whole[t.top : t.top + t.height, t.left : t.left + t.width] = data.all.read_mask(place)
        raster = data.reader.read_bands(record)
        assert np.array_equal(raster, np.moveaxis(scene[:, t.top : t.top + t.height, t.left : t.left + t.width], 0, 2))
        assert data.all.read_image(place).shape == (200, 200, 2)
    assert np.array_equal(whole, labels), "they cover the raster once"
    assert sum(len(split) for split in data.splits.values()) == 9 and set(data.splits) == {"train", "val"}
    assert not [p for p in check_dataset(data, workers=0).problems if p.severity == "error"]
    again = open_dataset(convert(data, "folder", tmp_path / "out"))
    assert [s.mask.tolist() for s in again] == [data.all.read_mask(i).tolist() for i in range(9)]
    assert np.array_equal(
        read_raster(tmp_path / f"out/images/{data.all.ids[8]}.tif"), data.reader.read_bands(data.records[8])
    )


def test_memory_does_not_grow_with_the_raster(tmp_path: Path) -> None:
    """A raster of 38 million pixels and two bands takes 600 MB to read and stretch as a whole."""
    for name, bands, dtype in (("images", 2, np.uint16), ("masks", 1, np.uint8)):
        (tmp_path / name).mkdir()
        blank = np.zeros((256, 256, bands) if bands > 1 else (256, 256), dtype)
        blank[:128] = 1

        def blocks(blank: np.ndarray = blank) -> Any:
            for _ in range(24 * 24):
                yield blank

        shape = (6144, 6144, bands) if bands > 1 else (6144, 6144)
        tifffile.imwrite(tmp_path / name / "x.tif", blocks(), shape=shape, dtype=dtype, tile=(256, 256),
                         compression="zlib", photometric="minisblack",
                         **({"planarconfig": "contig"} if bands > 1 else {}))  # fmt: skip
    (tmp_path / "images/x.tif").open("ab").write(bytes(geotiff.SMALL))
    tracemalloc.start()
    data = open_dataset(tmp_path)
    sample = data.all[len(data) - 1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 9 and sample.image.shape == (2048, 2048, 2) and sample.mask.any()
    assert peak < 160_000_000, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize(("listed", "said"), [("", True), ("id,name\n0,a\n1,b\n99,void\n", False)])
def test_no_data_of_the_masks_that_is_read_as_a_class_is_a_finding(tmp_path: Path, listed: str, said: bool) -> None:
    for n in range(3):
        labels = np.zeros((1, 20, 30), np.uint8)
        labels[0, 5:, 10:], labels[0, :3] = 1, 99
        write(tmp_path / f"images/{n}.tif", RNG.integers(0, 255, (3, 20, 30)).astype(np.uint8))
        write(tmp_path / f"masks/{n}.tif", labels, nodata=99)
    if listed:
        (tmp_path / "classes.csv").write_text(listed)
    found = [problem for problem in open_dataset(tmp_path).problems if "no-data" in problem.message]
    assert bool(found) is said and all("'99,void'" in (problem.fix or "") for problem in found)

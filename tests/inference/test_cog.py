"""Masks of georeferenced rasters are cloud-optimized GeoTIFFs: what other readers take, and what validators check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segwright.inference import cog
from segwright.inference.cog import rows_of, write_cog

GEO = [
    (33550, 12, 3, (0.5, 0.5, 0.0)), (33922, 12, 6, (0, 0, 0, 500000.0, 4100000.0, 0)),
    (34735, 3, 20, (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633, 3076, 0, 1, 9001)),
]  # fmt: skip


def labels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (height, width)).astype(np.uint8)


def problems(path: Path) -> list[str]:
    """What rio-cogeo's and GDAL's validator reject: the rules of validate_cloud_optimized_geotiff.py."""
    wrong = []
    with tifffile.TiffFile(path) as file:
        first = 16 if file.is_bigtiff else 8
        pages = [page.aspage() for page in file.pages]
        main, smaller = pages[0], pages[1:]
        if max(main.shape) > 512 and (not main.is_tiled or not smaller):
            wrong.append("larger than 512 without tiles or overviews")
        if main.offset != first:
            wrong.append("the main directory is not first")
        places = [page.offset for page in pages]
        if places != sorted(places):
            wrong.append("directories out of order")
        sizes = [page.shape[0] * page.shape[1] for page in pages]
        if sizes != sorted(sizes, reverse=True) or any(page.tags[254].value != 1 for page in smaller):
            wrong.append("overviews out of order")
        data = [min(page.dataoffsets) for page in pages]
        if data != sorted(data, reverse=True) or min(data) < max(places):
            wrong.append("the smallest data is not first")
        if any(not page.is_tiled for page in smaller):
            wrong.append("an overview without tiles")
    return wrong


@pytest.mark.parametrize("size", [(1, 1), (300, 512), (700, 1300), (513, 40)])
@pytest.mark.parametrize("big", [False, True])
def test_every_level_is_every_second_pixel_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], big: bool
) -> None:
    if big:
        monkeypatch.setattr(cog, "CLASSIC_BYTES", 10)
    values, path = labels(*size), tmp_path / "a.tif"
    write_cog(path, rows_of(values), size, np.uint8, nodata="255")
    assert problems(path) == []
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff == big
        for number, page in enumerate(file.pages):
            step = 2**number
            assert (page.asarray() == values[::step, ::step]).all()
        assert max(file.pages[-1].shape) <= 512


def test_rasterio_reads_place_palette_nodata_and_overviews(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values, path = labels(1100, 1500), tmp_path / "a.tif"
    colors = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    write_cog(path, rows_of(values), values.shape, np.uint8, tags=GEO, colors=colors, nodata="255")
    with rasterio.open(path) as file:
        assert (file.read(1) == values).all() and file.crs.to_epsg() == 32633 and file.nodata == 255
        assert file.overviews(1) == [2, 4] and file.block_shapes == [(512, 512)]
        assert file.colormap(1)[3][:3] == tuple(colors[3])
        assert (file.read(1, out_shape=(550, 750)) == values[::2, ::2]).all()
        assert file.transform.c == 500000.0 and file.transform.a == 0.5
    values16 = values.astype(np.uint16) * 300
    write_cog(path, rows_of(values16), values16.shape, np.uint16)
    with rasterio.open(path) as file:
        assert (file.read(1) == values16).all() and file.nodata is None


def test_rio_cogeo_finds_it_valid(tmp_path: Path) -> None:
    validate: Any = pytest.importorskip("rio_cogeo.cogeo").cog_validate
    write_cog(tmp_path / "a.tif", rows_of(labels(1100, 1500)), (1100, 1500), np.uint8, tags=GEO, nodata="255")
    valid, errors, warnings = validate(str(tmp_path / "a.tif"), strict=True)
    assert valid and not errors and not warnings

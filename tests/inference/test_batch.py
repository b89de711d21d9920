"""Predictions of many files: sources stay, names stay apart, one bad file ends nothing, what is written is right."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from brightest import SPACE, Brightest, scene, truth
from PIL import Image

from segwright import api
from segwright.core.errors import DataError, SegwrightError, UsageError
from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array, read_mask, write_image
from segwright.inference.bundle import Bundle
from segwright.inference.output_options import OutputOptions
from segwright.inference.outputs import MANIFEST, OutputFolder, OutputFolderError
from segwright.inference.predictor import Predictor
from segwright.inference.sources import open_source, open_sources, output_names


def predictor(**preprocessing: Any) -> Predictor:
    return Predictor(Brightest(), SPACE, bundle=Bundle("none", SPACE, preprocessing=preprocessing))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_masks_beside_their_images_replace_none_of_them_and_are_no_sources_of_the_next_run(tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "b.png", "c.jpg", "sub/a.png")):
        write_image(tmp_path / name, scene(i))
    before = contents(tmp_path)
    first = api.predict(predictor(), tmp_path, out=tmp_path)
    assert first.images == 4 and not first.failed
    assert any("NAME.mask" in note for note in first.notes), "the rule is told"
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before, "not a byte of a source changed"
    assert (read_mask(tmp_path / "a.mask.png") == truth(scene(0))).all()
    again = api.predict(predictor(), tmp_path, out=tmp_path)
    assert again.images == 4 and set(contents(tmp_path)) == set(after)
    assert any("earlier predictions" in note for note in again.notes)


def test_an_error_of_the_network_names_the_file(tmp_path: Path) -> None:
    class Diverged(Brightest):
        def logits(self, images: UInt8Array) -> Float32Array:
            return super().logits(images) * np.float32(np.nan)

    for i, name in enumerate(("a.png", "b.png")):
        write_image(tmp_path / "in" / name, scene(i))
    broken = Predictor(Diverged(), SPACE, bundle=Bundle("none", SPACE))
    found = api.predict(broken, tmp_path / "in", out=tmp_path / "out")
    beginnings = [f"{tmp_path / 'in' / name}: the network's output is not finite" for name in ("a.png", "b.png")]
    assert [one.error.splitlines()[0] for one in found.failed] == beginnings


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_source_under_another_name_is_a_source(tmp_path: Path, link: Any) -> None:
    write_image(tmp_path / "in" / "a.png", scene(0))
    (tmp_path / "out").mkdir()
    link(tmp_path / "in" / "a.png", tmp_path / "out" / "a.png")
    before = (tmp_path / "in" / "a.png").read_bytes()
    found = api.predict(predictor(), tmp_path / "in" / "a.png", out=tmp_path / "out")
    assert found.results[0].mask.name == "a.mask.png"
    assert (tmp_path / "in" / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes() == before


def test_files_of_others_are_refused_before_any_work_and_own_ones_replaced(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", scene(0))
    write_image(tmp_path / "in" / "b.png", scene(1))
    out = tmp_path / "out"
    (out).mkdir()
    (out / "b.overlay.jpg").write_bytes(b"a photograph")
    with pytest.raises(UsageError, match=r"b\.overlay\.jpg"):
        api.predict(predictor(), tmp_path / "in", out=out)
    assert {f.name for f in out.iterdir()} == {"b.overlay.jpg"}, "nothing was written"
    api.predict(predictor(), tmp_path / "in", out=out, overwrite=True)
    api.predict(predictor(), tmp_path / "in", out=out)
    write_image(out / "a.png", scene(5))  # corrected by hand: no longer ours
    with pytest.raises(UsageError, match=r"a\.png"):
        api.predict(predictor(), tmp_path / "in", out=out)


def test_overwrite_spares_sources(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path, [tmp_path / "a.png"], overwrite=True)
    write_image(tmp_path / "a.png", scene(0))
    folder = OutputFolder(tmp_path, [tmp_path / "a.png"], overwrite=True)
    with pytest.raises(UsageError, match="replace a source"):
        folder.write_bytes(tmp_path / "a.png", b"x")


def test_names_stay_apart_whatever_the_case_the_ending_or_the_tag(tmp_path: Path) -> None:
    names = ["a/x.png", "b/x.png", "x.png", "x.jpg", "x.tif", "x_png.png", "v1.2.png", "v1.3.png", "UP.PNG", "up.png",
             "mit leer und ü.png", "y.png", "y.overlay.png", "y.mask.jpg", "y.confidence.bmp"]  # fmt: skip
    files = [tmp_path / name for name in names]
    found = output_names(files, tmp_path)
    tags = ("", ".overlay", ".confidence", ".mask", ".probabilities")
    outputs = [f"{name}{tag}".casefold() for name in found.values() for tag in tags]
    assert len(outputs) == len(set(outputs)) == len(names) * len(tags)
    assert found[tmp_path / "v1.2.png"] == "v1.2" and found[tmp_path / "a/x.png"] == "a/x"


def test_naming_is_linear(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.{ending}" for i in range(10_000) for ending in ("png", "jpg")]
    began = time.process_time()
    assert len(set(output_names(files, tmp_path).values())) == len(files)
    assert time.process_time() - began < 5, "20,000 names; by pairs it would be hours"


def test_several_sources_and_globs(tmp_path: Path) -> None:
    for i, name in enumerate(("in/a.png", "in/b.png", "more/a.png", "one.png")):
        write_image(tmp_path / name, scene(i))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    found = open_sources([tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"])
    assert sorted(found.names.values()) == ["a", "b"], "as a glob that the shell expanded"
    found = open_sources([str(tmp_path / "in/*"), tmp_path / "more", tmp_path / "one.png", tmp_path / "one.png"])
    assert sorted(found.names.values()) == ["in/a", "in/b", "more/a", "one"]
    assert any("notes.txt" in note for note in found.notes)
    with pytest.raises(DataError, match=r"nothing\.png"):
        open_sources([tmp_path / "one.png", tmp_path / "nothing.png"])
    with pytest.raises(UsageError):
        open_sources([])
    write_image(tmp_path / "odd[1].png", scene(0))
    assert open_source(tmp_path / "odd[1].png").kind == "image", "a file is never read as a pattern"


def test_training_runs_in_a_folder_are_no_images(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", scene(0))
    for name in ("config.yaml", "log.jsonl"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("")
    write_image(tmp_path / "run" / "validation" / "v.png", scene(1))
    found = open_source(tmp_path)
    assert list(found.names.values()) == ["a"] and any("run" in note for note in found.notes)


class Failing(Brightest):
    """A network that cannot stand dark images."""

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        if images.max() < 10:
            raise IndexError("too dark")
        return super().labels(images)


def test_whatever_is_wrong_with_one_file_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", scene(0))
    write_image(tmp_path / "in" / "dark.png", scene(1) * 0)
    (tmp_path / "in" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "in" / "empty.tif").write_bytes(b"")
    write_image(tmp_path / "in" / "z.png", scene(2))
    found = api.predict(Predictor(Failing(), SPACE), tmp_path / "in", out=tmp_path / "out")
    assert found.images == 2 and len(found.failed) == 3
    dark = next(item for item in found.failed if "dark" in item.file.name)
    assert "IndexError: too dark" in dark.error and dark.kind == "ImageReadError"
    with pytest.raises(SegwrightError, match="too dark"):
        api.predict(Predictor(Failing(), SPACE), tmp_path / "in" / "dark.png", out=tmp_path / "out")


def test_a_full_disk_ends_the_run_with_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        write_image(tmp_path / "in" / f"{i}.png", scene(i))
    write = OutputFolder.write

    def full(self: OutputFolder, path: Path, save: Any) -> Path:
        if path.name.startswith("2"):
            error = OutputFolderError("the output cannot be written", found="No space left on device")
            error.lasting = True
            raise error
        return write(self, path, save)

    monkeypatch.setattr(OutputFolder, "write", full)
    found = api.predict(predictor(), tmp_path / "in", out=tmp_path / "out")
    assert found.images == 2 and "No space left" in found.stopped and "1 further" in found.stopped


def test_an_output_folder_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", scene(0))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputFolderError) as caught:
            api.predict(predictor(), tmp_path / "a.png", out=out)
        assert "--out" in str(caught.value)


def test_every_mask_format_says_the_same(tmp_path: Path) -> None:
    image = scene(3)
    write_image(tmp_path / "a.png", image)
    space = LabelSpace(SPACE.names, mapping={7: 0, 24: 1, 25: 1, 33: 2, 0: 255})
    model = Predictor(Brightest(), space)
    for kind in ("palette", "index", "values", "npy"):
        found = api.predict(model, tmp_path / "a.png", out=tmp_path / kind, mask_format=kind)
        path = found.results[0].mask
        if kind == "npy":
            assert (np.load(path) == truth(image)).all()
        elif kind == "values":
            assert (read_mask(path) == np.array([7, 24, 33])[truth(image)]).all()
            assert any("thing as 24" in note for note in found.notes)
        else:
            assert (read_mask(path) == truth(image)).all()
        if kind == "index":
            assert (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == truth(image)).all(), "plain gray"
        assert any("OpenCV" in note for note in found.notes) == (kind == "palette")
    with pytest.raises(UsageError, match="palette, index"):
        OutputOptions(mask_format="jpeg")


def test_own_values_of_color_masks_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", scene(3))
    model = Predictor(Brightest(), SPACE, bundle=Bundle("leannet", SPACE, {}, preprocessing={"masks": "colors"}))
    with pytest.raises(UsageError, match="contain colors, not values"):
        api.predict(model, tmp_path / "a.png", out=tmp_path / "o", mask_format="values")
    assert api.predict(model, tmp_path / "a.png", out=tmp_path / "o", mask_format="index").images == 1


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_probabilities_are_written_and_fit_the_mask(tmp_path: Path, kind: str) -> None:
    write_image(tmp_path / "a.png", scene(3))
    item = api.predict(predictor(), tmp_path / "a.png", out=tmp_path / "o", probabilities=kind).results[0]
    saved = np.load(item.probabilities)
    values = saved if kind == "npy" else saved["probabilities"]
    assert values.dtype == np.float16 and (values.argmax(axis=0) == read_mask(item.mask)).all()


def test_areas_count_pixels_and_ground(tmp_path: Path) -> None:
    placed_tiff(tmp_path / "a.tif", scene(3))
    write_image(tmp_path / "b.png", scene(4))
    api.predict(predictor(), [tmp_path / "a.tif", tmp_path / "b.png"], out=tmp_path / "o", areas=tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert len(rows) == 6 and sum(int(row["pixels"]) for row in rows) == 2 * 40 * 56
    a, b = ([row for row in rows if row["file"].endswith(name)] for name in ("a.tif", "b.png"))
    assert all(float(row["area"]) == int(row["pixels"]) * 0.25 and row["area_unit"] == "m²" for row in a)
    assert all(row["area"] == "" for row in b)


GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0, 0, 0, 500000.0, 4100000.0, 0), True),
    (34735, "H", 20, (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633, 3076, 0, 1, 9001), True),
]


def placed_tiff(path: Path, image: Any, nodata: str | None = None, **how: Any) -> None:
    tags = [*GEO, *([(42113, "s", len(nodata) + 1, nodata, True)] if nodata is not None else [])]
    photometric = "rgb" if image.shape[2] == 3 else "minisblack"
    tifffile.imwrite(path, image, photometric=photometric, extratags=tags, **how)


@pytest.mark.parametrize("kind", ["palette", "index", "values"])
def test_a_geotiffs_mask_lies_where_the_image_lies(tmp_path: Path, kind: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = scene(3)
    image[:8, :8] = 0
    placed_tiff(tmp_path / "a.tif", image, nodata="0")
    found = api.predict(predictor(), tmp_path / "a.tif", out=tmp_path / "o", mask_format=kind, polygons=["geojson"])
    with rasterio.open(tmp_path / "a.tif") as before, rasterio.open(found.results[0].mask) as after:
        assert after.crs == before.crs and after.transform == before.transform and after.nodata == 255
        assert after.crs.to_epsg() == 32633
        mask = after.read(1)
    assert (mask[:8, :8] == 255).all(), "no data stays no data"
    assert (mask[8:] == truth(image)[8:]).all()
    tree = json.loads(found.results[0].geojson.read_text())
    x, y = np.array([p for f in tree["features"] for ring in f["geometry"]["coordinates"] for p in ring]).T
    assert 500000 <= x.min() < x.max() <= 500028 and 4099980 <= y.min() < y.max() <= 4100000
    assert (read_mask(found.results[0].mask) == mask).all(), "our own reader agrees"


def test_a_world_file_goes_with_the_mask(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", scene(3))
    (tmp_path / "a.jgw").write_text("0.5\n0\n0\n-0.5\n500000.25\n4099999.75\n")
    (tmp_path / "a.prj").write_text('PROJCS["x"]')
    item = api.predict(predictor(), tmp_path / "a.jpg", out=tmp_path / "o").results[0]
    assert (tmp_path / "o" / "a.pgw").read_text() == (tmp_path / "a.jgw").read_text()
    assert (tmp_path / "o" / "a.prj").exists() and "world file" in item.placed


@pytest.mark.parametrize("nodata", [None, "0"])
def test_a_raster_beyond_the_limits_is_read_and_written_by_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodata: str | None
) -> None:
    """The limits are lowered instead of the raster made large; the answer is that of the whole image."""
    image = np.kron(scene(3), np.ones((12, 12, 1), np.uint8))  # 480×672
    image[:20, :30] = 0
    placed_tiff(tmp_path / "a.tif", image, nodata, tile=(64, 64))
    model = predictor()
    model.window = 128
    whole = api.predict(model, tmp_path / "a.tif", out=tmp_path / "whole", confidence=True)
    limits = type(api_limits())(max_pixels=100_000)
    monkeypatch.setattr("segwright.inference.rasters.DEFAULT_LIMITS", limits)
    parts = api.predict(
        model, tmp_path / "a.tif", out=tmp_path / "parts", confidence=True, probabilities="npy", polygons=["geojson"]
    )
    one, two = whole.results[0], parts.results[0]
    assert two.mask.suffix == ".tif" and any("not written: .probabilities.npy" in note for note in parts.notes)
    assert (tifffile.imread(one.mask) == tifffile.imread(two.mask)).all()
    assert (np.asarray(Image.open(one.confidence)) == tifffile.imread(two.confidence)).all()
    assert one.shares == pytest.approx(two.shares)
    assert two.mean_confidence == pytest.approx(one.mean_confidence, rel=1e-5)
    expected, drawn = (np.asarray(Image.open(item.overlay), int) for item in (one, two))
    assert drawn.shape == expected.shape and np.abs(drawn - expected).mean() < 1, "this small, it shows every pixel"
    features = json.loads(two.geojson.read_text())["features"]
    total = sum(feature["properties"]["pixels"] for feature in features)
    assert total == (tifffile.imread(two.mask) != 255).sum()
    written = {"a.tif", "a.confidence.tif", "a.overlay.jpg", "a.geojson", MANIFEST}
    assert {f.name for f in (tmp_path / "parts").iterdir()} == written


def api_limits() -> Any:
    from segwright.imageio import DEFAULT_LIMITS

    return DEFAULT_LIMITS


def film(path: Path, frames: int = 4) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 40 + 40 * i, np.uint8))
    writer.release()
    return path


def test_a_video_comes_back_as_a_video(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi")
    item = api.predict(predictor(), path, out=tmp_path / "o", video=True).results[0]
    capture = cv2.VideoCapture(str(item.video))
    assert item["frames"] == 4 == int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(8)
    assert capture.read()[1].shape == (48, 64, 3)


@pytest.mark.parametrize("video", [False, True])
def test_a_frame_that_fails_is_listed_and_the_video_goes_on(tmp_path: Path, video: bool) -> None:
    class Second(Brightest):
        seen = 0

        def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
            Second.seen += 1
            if Second.seen == 2:
                raise ValueError("no")
            return super().labels(images)

    path = film(tmp_path / "film.avi")
    found = api.predict(Predictor(Second(), SPACE), path, out=tmp_path / "o", video=video)
    assert [item.frame for item in found.failed] == [1]
    assert found.images == (1 if video else 3)


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_a_fourth_band_that_the_file_calls_alpha_is_a_band_for_a_model_of_four(tmp_path: Path, ending: str) -> None:
    """GDAL writes four bands of 8 bits as RGB and alpha; the network was trained on all four."""

    class Four(Brightest):
        in_channels = 4

        def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
            assert images.shape[3] == 4
            labels = np.ascontiguousarray(images[..., 3] // 100)
            return labels, np.ones(labels.shape, np.float32)

    image = np.concatenate([scene(3), scene(4)[..., :1]], axis=2)
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unassalpha"])
    else:
        Image.fromarray(image).save(path)
    assert (Predictor(Four(), SPACE)(path).labels == image[..., 3] // 100).all()
    found = api.predict(Predictor(Four(), SPACE), path, out=tmp_path / "o")
    assert found.images == 1 and not found.failed
    if ending == "tif":
        tifffile.imwrite(path, np.stack([image, image]), photometric="rgb", extrasamples=["unassalpha"])
        assert api.predict(Predictor(Four(), SPACE), path, out=tmp_path / "pages").images == 2


def test_deep_images_of_a_model_with_a_range(tmp_path: Path) -> None:
    """16 bit by the range; 8 bit refused with both readings, or read as told; in memory alike."""
    deep = scene(3).astype(np.uint16) * 8 + 1700
    model = predictor(value_range={"low": [1700.0], "high": [1700 + 8 * 255.0]}, channels=3)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    assert (model(tmp_path / "a.tif").labels == truth(scene(3))).all()
    assert (model(deep).image == scene(3)).all(), "an array in memory goes through the range"
    write_image(tmp_path / "b.png", scene(3))
    with pytest.raises(SegwrightError) as caught:
        model(tmp_path / "b.png")
    assert "scaled" in str(caught.value) and "raw" in str(caught.value) and "1700" in str(caught.value)
    model.eight_bit = "scaled"
    assert (model(tmp_path / "b.png").image == scene(3)).all()
    with pytest.raises(SegwrightError, match="value range"):
        predictor()(deep)


def test_eight_bits_are_read_where_their_meaning_is_certain(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png", scene(3))
    floating = predictor(value_range={"low": [0.0], "high": [1.0]}, channels=3)
    assert (floating(tmp_path / "b.png").image == scene(3)).all()
    narrow = predictor(value_range={"low": [0.0], "high": [200.0]}, channels=3)  # 16-bit files of 8-bit values
    shown = narrow(tmp_path / "b.png").image
    assert shown is not None and shown.max() == 255 and narrow.notes


@pytest.mark.parametrize("window", [32, 1536])
@pytest.mark.parametrize("post", [None, "min-area(30)>fill-holes(20)", "crf(w1=4,sa=12,sb=8,iterations=2)>min-area(9)"])
@pytest.mark.parametrize("tta", [None, "flip"])
def test_asking_for_probabilities_changes_no_label(window: int, post: str | None, tta: str | None) -> None:
    rng = np.random.default_rng(0)
    image = np.clip(scene(3) + rng.normal(0, 60, (40, 56, 3)), 0, 255).astype(np.uint8)
    model = Predictor(Brightest(), SPACE, post=post, tta=tta)
    model.window = window
    plain, full = model.predict(image), model.predict(image, probabilities=True)
    assert (plain.labels == full.labels).all()
    assert full.probabilities is not None and full.probabilities.shape == (3, 40, 56)
    best = full.probabilities.max(axis=0)
    own = np.take_along_axis(full.probabilities, full.labels[None].astype(int), axis=0)[0]
    assert (own == best).all(), "the label is the most probable class"
    done: list[int] = []
    model.predict(image, probabilities=True, advance=done.append)
    assert sum(done) == (model.window_count(image) if window == 32 else 0)


def test_a_lack_of_memory_makes_windows_smaller() -> None:
    class Small(Brightest):
        def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
            if images[0, ..., 0].size > 200 * 200:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory: you tried to allocate 9 bytes")
            return super().labels(images)

    image = np.kron(scene(3), np.ones((10, 10, 1), np.uint8))
    model = Predictor(Small(), SPACE)
    assert (model.predict(image).labels == truth(image)).all()
    assert 128 <= model.window < 200 and any("out of memory" in note for note in model.notes)
    assert all((p.labels == truth(image)).all() for p in Predictor(Small(), SPACE).predict_batch([image, image]))

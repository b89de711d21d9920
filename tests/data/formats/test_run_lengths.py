"""Run lengths in a CSV: a competition's header tells how it counts pixels, any other is refused with both readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset

TRUTH = np.zeros((12, 16), bool)
TRUTH[2:5, 3:11] = True
TRUTH[7, 1:4] = True


def encode(pixels: np.ndarray, columns: bool) -> str:
    """Pairs of start (from 1) and length."""
    flat = np.concatenate([[0], (pixels.T if columns else pixels).ravel().astype(int), [0]])
    edges = np.flatnonzero(np.diff(flat)) + 1
    return " ".join(f"{start} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True))


def of(data: Any, name: str) -> np.ndarray:
    number = next(i for i, r in enumerate(data.records) if r.image_path and r.image_path.stem == name)
    found = data.all.read_mask(number)
    assert found is not None
    return np.asarray(found)


@pytest.mark.parametrize(
    ("header", "row", "image", "columns", "told"),
    [
        ("ImageId,EncodedPixels", "x0.jpg,{}", "train_v2/x0.jpg", True, "Airbus"),
        ("id,rle_mask", "x0,{}", "train/images/x0.png", True, "TGS"),
        ("img,rle_mask", "x0.jpg,{}", "train/x0.jpg", False, "Carvana"),
        ("img,pixels", "x0,{}", "train/x0.tif", True, "Ultrasound"),
        ("id,encoding", "x0,{}", "train/x0.png", True, "HuBMAP"),
        ("id,organ,data_source,img_height,img_width,rle", "x0,kidney,HPA,12,16,{}", "train_images/x0.png",
         True, "HuBMAP"),
        ("id,annotation,width,height,cell_type", "x0,{},16,12,cort", "train/x0.png", False, "Sartorius"),
        ("id,rle", "kidney_1_x0,{}", "train/kidney_1/images/x0.png", False, "SenNet"),
        ("name,rle_rows", "x0.png,{}", "x0.png", False, "column's name"),
        ("name,rle_columns", "x0.png,{}", "x0.png", True, "column's name"),
    ],
)  # fmt: skip
def test_the_header_tells_the_order_of_pixels(
    tmp_path: Path, header: str, row: str, image: str, columns: bool, told: str
) -> None:
    path = tmp_path / image
    if path.suffix == ".tif":
        path.parent.mkdir(parents=True, exist_ok=True)
        import tifffile

        tifffile.imwrite(path, np.zeros((12, 16), np.uint8))
    else:
        make_image(path)
    write(tmp_path / "train.csv", f"{header}\n{row.format(encode(TRUTH, columns))}\n")
    data = open_dataset(tmp_path)
    assert data.format == "run_lengths" and any(told in note for note in data.notes)
    assert np.array_equal(of(data, "x0") > 0, TRUTH)


def test_uw_madison_has_a_row_per_class_and_slice_ids(tmp_path: Path) -> None:
    for case in (1, 2):
        make_image(tmp_path / f"train/case{case}/case{case}_day0/scans/slice_0001_16_12_1.50_1.50.png", seed=case)
    rows = [
        f"case1_day0_slice_0001,{name},{runs}"
        for name, runs in (("stomach", encode(TRUTH, False)), ("small_bowel", "1 3"), ("large_bowel", ""))
    ]
    rows += [f"case2_day0_slice_0001,{name}," for name in ("stomach", "small_bowel", "large_bowel")]
    write(tmp_path / "train.csv", "id,class,segmentation\n" + "\n".join(rows) + "\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "large_bowel", "small_bowel", "stomach")
    first, second = (data.all.read_mask(i) for i in range(2))
    assert first is not None and np.array_equal(first == 3, TRUTH) and first[0, :4].tolist() == [2, 2, 2, 0]
    assert second is not None and not second.any()


@pytest.mark.parametrize("joined", [False, True])
def test_severstal_in_both_of_its_forms(tmp_path: Path, joined: bool) -> None:
    for name in ("a1", "b2"):
        make_image(tmp_path / f"train_images/{name}.jpg")
    make_image(tmp_path / "imageio/test_images/c3.jpg")
    cells = [("a1.jpg", 1, encode(TRUTH, True)), ("a1.jpg", 4, "1 2"), ("b2.jpg", 3, "5 1")]
    if joined:
        rows = ["ImageId_ClassId,EncodedPixels"]
        full = {(n, c): r for n, c, r in cells}
        rows += [f"{n}_{c},{full.get((n, c), '')}" for n in ("a1.jpg", "b2.jpg") for c in (1, 2, 3, 4)]
    else:
        rows = ["ImageId,ClassId,EncodedPixels", *[f"{n},{c},{r}" for n, c, r in cells]]
    write(tmp_path / "train.csv", "\n".join(rows) + "\n")
    write(tmp_path / "sample_submission.csv", "ImageId,EncodedPixels,ClassId\nc3.jpg,1 409600,1\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "class 1", "class 2", "class 3", "class 4")
    assert np.array_equal(of(data, "a1") == 1, TRUTH) and of(data, "a1")[:2, 0].tolist() == [4, 4]
    assert [r.id for r in data.records] == ["a1", "b2"] and any("1 image is in no row" in n for n in data.notes)


def test_clouds_are_named_and_rows_of_one_image_are_one_mask(tmp_path: Path) -> None:
    make_image(tmp_path / "train_images/0011165.jpg")
    rows = ["0011165.jpg_Fish,1 2", "0011165.jpg_Sugar,", "0011165.jpg_Flower,13 1", "0011165.jpg_Gravel,"]
    write(tmp_path / "train.csv", "Image_Label,EncodedPixels\n" + "\n".join(rows) + "\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "Fish", "Flower", "Gravel", "Sugar")
    found = data.all.read_mask(0)
    assert found is not None and found[:2, 0].tolist() == [1, 1] and found[0, 1] == 2
    several = "ImageId,EncodedPixels\n" + "".join(f"0011165.jpg,{start} 1\n" for start in (1, 3, 5))
    write(tmp_path / "train.csv", several)
    found = open_dataset(tmp_path).all.read_mask(0)
    assert found is not None and found[:6, 0].tolist() == [1, 0, 1, 0, 1, 0]


def test_siim_counts_from_the_end_of_the_run_before(tmp_path: Path) -> None:
    flat = TRUTH.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    starts, ends = edges[::2], edges[1::2]
    gaps = np.concatenate([[starts[0]], starts[1:] - ends[:-1]])
    runs = " ".join(f"{gap} {length}" for gap, length in zip(gaps, ends - starts, strict=True))
    for name in ("1.2.276.0.1", "1.2.276.0.2"):
        make_image(tmp_path / f"images/{name}.png")
    write(tmp_path / "train-rle.csv", f"ImageId, EncodedPixels\n1.2.276.0.1, {runs}\n1.2.276.0.2, -1\n")
    data = open_dataset(tmp_path)
    assert np.array_equal(of(data, "1.2.276.0.1") > 0, TRUTH) and not of(data, "1.2.276.0.2").any()


def test_an_unknown_header_is_refused_with_both_readings(tmp_path: Path) -> None:
    make_image(tmp_path / "images/x0.png")
    write(tmp_path / "labels.csv", "filename,rle\nx0.png,1 3\n")
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    for word in ("down the columns", "along the rows", "rle_columns", "rle_rows"):
        assert word in str(caught.value)


def test_a_run_outside_the_image_and_a_broken_row_are_errors(tmp_path: Path) -> None:
    make_image(tmp_path / "train/x0.png")
    write(tmp_path / "train.csv", "ImageId,EncodedPixels\nx0.png,190 5\n")
    with pytest.raises(LabelError, match="a run is outside"):
        open_dataset(tmp_path).all.read_mask(0)
    rows = "x0.png,1 2\n" * 30
    write(tmp_path / "train.csv", f"ImageId,EncodedPixels\n{rows}x0.png,1 2 3\n")
    with pytest.raises(LabelError, match="line 32"):
        open_dataset(tmp_path)


def test_images_of_one_name_are_refused_and_missing_ones_named(tmp_path: Path) -> None:
    make_image(tmp_path / "a/x0.png")
    write(tmp_path / "train.csv", "ImageId,EncodedPixels\nx0.png,1 5\nx1.png,1 5\n")
    assert [(p.kind, p.severity) for p in open_dataset(tmp_path).problems] == [("image missing", "error")]
    make_image(tmp_path / "b/x0.png")
    with pytest.raises(FormatError, match="several images have the name"):
        open_dataset(tmp_path)


def test_where_the_masks_lie_there_too_they_are_read(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"train/images/x{i}.png", seed=i)
        mask(tmp_path / f"train/masks/x{i}.png", [0, 255])
    write(tmp_path / "train.csv", "id,rle_mask\nx0,1 5\nx1,\nx2,\n")
    assert open_dataset(tmp_path).format == "folder"


def test_the_objects_of_a_table_are_counted(tmp_path: Path) -> None:
    make_image(tmp_path / "x0.png")
    write(tmp_path / "train.csv", "ImageId,EncodedPixels\nx0.png,1 5\nx0.png,20 2\n")
    data = open_dataset(tmp_path)
    found = data.reader.object_counts(data.records[0])
    assert found is not None and (found[1].listed, found[1].drawn) == (2, 2)

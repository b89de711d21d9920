"""Tables, shards and lists: Hugging Face Parquet, WebDataset, CSV; and Oxford pets."""

from __future__ import annotations

import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from trees import colored, make_image, mask, write

from segwright.api import choose_split
from segwright.core.errors import DataError, FormatError, ImageReadError, LabelError, MissingExtraError
from segwright.data.dataset import open_dataset
from segwright.imageio import encode_png


def stripes(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), 4)[None].repeat(12, 0)


def parquet(path: Path, rows: list[dict[str, object]], mask_column: str = "label") -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", cell), (mask_column, cell), ("note", pa.string())])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)


def row(seed: int, values: tuple[int, ...], path: str | None = None, column: str = "label") -> dict[str, object]:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 4 * len(values), 3), dtype=np.uint8)
    return {"image": {"bytes": encode_png(pixels), "path": path},
            column: {"bytes": encode_png(stripes(*values)), "path": None}, "note": "x"}  # fmt: skip


def test_parquet(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train-00000-of-00002.parquet", [row(i, (0, 1, 2), f"a{i}.png") for i in range(3)])
    parquet(tmp_path / "data/train-00001-of-00002.parquet", [row(9, (2, 1, 0), "b.png")])
    parquet(tmp_path / "data/validation-00000-of-00001.parquet", [row(5, (0, 255, 2))])
    write(tmp_path / "id2label.json", {"0": "wall", "1": "floor", "2": "sky"})
    data = open_dataset(tmp_path)
    assert data.format == "hf" and data.label_space.names == ("wall", "floor", "sky")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 4, "val": 1}
    assert data.train.ids == ("a0", "a1", "a2", "b")
    assert np.array_equal(data.train[3].mask, stripes(2, 1, 0)) and np.array_equal(data.val[0].mask, stripes(0, 255, 2))
    again = pickle.loads(pickle.dumps(data.train))
    assert np.array_equal(again[1].image, data.train[1].image), "goes to a worker process"
    order = [again.read_mask(i) for i in (3, 0, 2, 1)]
    assert np.array_equal(order[0], stripes(2, 1, 0)), "in any order, across files and row groups"


def test_parquet_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train.parquet"
    parquet(file, [row(0, (0, 1)), {"image": {"bytes": b"junk", "path": "bad.png"}, "label": None, "note": ""}])
    data = open_dataset(file)
    assert data.all[0].mask is not None
    with pytest.raises(ImageReadError, match=r"train\.parquet, bad"):
        data.all[1]
    parquet(file, [row(0, (0, 1), column="depth")], mask_column="depth")
    with pytest.raises(FormatError, match="no column of masks"):
        open_dataset(file)
    file.write_bytes(b"PAR1junk")
    with pytest.raises(FormatError, match=r"train\.parquet"):
        open_dataset(file)
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"segwright\[hf\]"):
        open_dataset(file)


def test_a_cell_that_points_outside(tmp_path: Path) -> None:
    secret = make_image(tmp_path / "secret.png")
    cell = {"image": {"bytes": None, "path": f"../{secret.name}"}, "label": row(0, (0, 1))["label"], "note": ""}
    parquet(tmp_path / "set/train.parquet", [cell])
    with pytest.raises(DataError, match="not beside the table"):
        open_dataset(tmp_path / "set").all[0]


def shard(path: Path, files: dict[str, bytes], mode: str = "w:") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset(tmp_path: Path) -> None:
    make_image(tmp_path / "p.jpg")
    jpeg = (tmp_path / "p.jpg").read_bytes()
    png = encode_png(stripes(0, 1, 2, 1))
    (tmp_path / "p.jpg").unlink()
    shard(tmp_path / "train-000000.tar", {"a/001.jpg": jpeg, "a/001.png": png, "a/001.json": b"{}",
                                          "b/001.jpg": jpeg, "b/001.seg.png": png})  # fmt: skip
    shard(tmp_path / "val-000000.tar", {"x.jpg": jpeg, "x.mask.png": encode_png(stripes(2, 2, 2, 2)), "lone.jpg": jpeg})
    write(tmp_path / "classes.txt", "p\nq\nr\n")
    data = open_dataset(tmp_path)
    assert data.format == "webdataset" and data.label_space.names == ("p", "q", "r")
    assert len(set(data.all.ids)) == 4 and {n: len(s) for n, s in data.splits.items()} == {"train": 2, "val": 2}
    assert np.array_equal(pickle.loads(pickle.dumps(data.train))[1].mask, stripes(0, 1, 2, 1))
    assert [p.kind for p in data.problems] == ["image without mask"] and data.problems[0].files == ("lone",)
    assert len(open_dataset(tmp_path / "val-000000.tar")) == 2, "a shard by itself"


def test_webdataset_what_is_wrong(tmp_path: Path) -> None:
    png = encode_png(stripes(0, 1))
    shard(tmp_path / "z.tar", {"a.image.png": png, "a.mask.png": png}, "w:gz")
    with pytest.raises(FormatError, match="not a plain tar"):
        open_dataset(tmp_path)
    shard(tmp_path / "z.tar", {"a.jpg": b"x", "b.txt": b"y"})
    with pytest.raises(FormatError, match="no pairs"):
        open_dataset(tmp_path)
    shard(tmp_path / "z.tar", {"a.jpg": b"x", "a.mask.png": png})
    with pytest.raises(ImageReadError, match=r"z\.tar, a\.jpg"):
        open_dataset(tmp_path).all[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "image,mask,split\nin/{0}.png,out/{0}_m.png,train\nin/{1}.png,out/{1}_m.png,valid\n"),
        (
            "pairs.tsv",
            "split\tfilename\tlabel_path\ntrain\tin/{0}.png\tout/{0}_m.png\nval\tin/{1}.png\tout/{1}_m.png\n",
        ),
        ("data.csv", "/old/machine/in/{0}.png;/old/machine/out/{0}_m.png;train\nin/{1}.png;out/{1}_m.png;val\n"),
    ],
)
def test_lists_of_pairs(tmp_path: Path, name: str, text: str) -> None:
    for i in range(2):
        make_image(tmp_path / f"in/k{i}.png", seed=i)
        mask(tmp_path / f"out/k{i}_m.png", [0, 1])
    path = write(tmp_path / name, text.format("k0", "k1"))
    for root in (tmp_path, path):
        data = open_dataset(root)
        assert data.format == "pairs" and {n: s.ids for n, s in data.splits.items()} == {
            "train": ("k0",),
            "val": ("k1",),
        }
        assert data.train[0].mask is not None and data.problems == []


def test_two_text_lists_and_missing_files(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"in/k {i}.png", seed=i)
        mask(tmp_path / f"out/k {i}.png", [0, 1])
    write(tmp_path / "train.txt", "in/k 0.png\tout/k 0.png\nin/k 1.png\tout/k 1.png\nin/gone.png\tout/gone.png\n")
    write(tmp_path / "val.txt", "in/k 2.png\tout/k 2.png\n")
    data = open_dataset(tmp_path)
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 2, "val": 1}
    assert data.problems[0].kind == "listed but missing" and "in/gone.png" in data.problems[0].files


def test_a_csv_of_something_else_is_no_list(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", [0, 1])
    write(tmp_path / "results.csv", "image,score\na.png,0.5\n")
    assert open_dataset(tmp_path).format == "folder"


def test_oxford_pets(tmp_path: Path) -> None:
    names = ["Abyssinian_1", "Bengal_2", "boxer_10", "pug_3", "pug_4", "pug_5"]
    for i, name in enumerate(names):
        make_image(tmp_path / f"images/{name}.jpg", seed=i)
        mask(tmp_path / f"annotations/trimaps/{name}.png", [2, 3, 1])
    write(tmp_path / "annotations/trimaps/._pug_3.png", "mac")
    write(tmp_path / "annotations/trainval.txt", "".join(f"{name} 1 1 1\n" for name in names[:5]))
    write(tmp_path / "annotations/test.txt", "pug_5 1 1 1\n")
    data = open_dataset(tmp_path)
    assert data.format == "oxford_pets" and data.test.ids == ("pug_5",)
    row0 = data.all.read_mask(0)[0].tolist()
    assert list(dict.fromkeys(row0)) == [0, 255, 1] and len(data.train) + len(data.val) == 5


def test_color_masks_in_a_table(tmp_path: Path) -> None:
    colored(tmp_path / "m.png", [(0, 0, 0), (200, 0, 0)], size=(12, 8))
    cell = row(0, (0, 1))
    cell["label"] = {"bytes": (tmp_path / "m.png").read_bytes(), "path": None}
    parquet(tmp_path / "set/train.parquet", [cell])
    assert np.array_equal(open_dataset(tmp_path / "set").all.read_mask(0), stripes(0, 1))


def png(array: np.ndarray) -> bytes:
    return bytes(encode_png(array))


def bands(i: int) -> np.ndarray:
    return np.repeat(np.arange(16, dtype=np.uint8)[None] // 6, 12, axis=0) % (2 + i % 2)


def table(path: Path, columns: dict[str, list[object]], group: int = 3) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)


def shots(count: int) -> list[object]:
    rng = np.random.default_rng(0)
    return [
        {"bytes": png(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)), "path": f"p{i}.png"} for i in range(count)
    ]


def test_parquet_columns_by_what_they_hold(tmp_path: Path) -> None:
    masks: list[object] = [{"bytes": png(bands(i)), "path": None} for i in range(5)]
    table(tmp_path / "a/train.parquet", {"image": shots(5), "label": [3, 7, 7, 1, 0], "segmentation_mask": masks})
    data = open_dataset(tmp_path / "a")
    assert all(np.array_equal(data.all.read_values(i), bands(i)) for i in range(5))
    table(
        tmp_path / "b/train.parquet", {"tile": [cell["bytes"] for cell in shots(5)], "road_mask": masks, "n": [1] * 5}
    )  # type: ignore[index]
    assert np.array_equal(open_dataset(tmp_path / "b").all.read_values(1), bands(1)), "a name of its own, plain bytes"
    for name, column in (
        ("label", [3, 7, 7, -1, -1]),
        ("annotations", [[{"category_id": 1}]] * 5),
        ("mask", ["a"] * 5),
    ):
        table(tmp_path / name / "train.parquet", {"image": shots(5), name: column})  # type: ignore[dict-item]
        with pytest.raises(FormatError, match=name) as error:
            open_dataset(tmp_path / name)
        assert "no column of masks" in str(error.value)
    table(tmp_path / "two/train.parquet", {"image": shots(5), "rater_a": masks, "rater_b": masks})
    with pytest.raises(FormatError, match="rater_a, rater_b"):
        open_dataset(tmp_path / "two")


def test_rows_and_samples_without_masks_are_unlabeled(tmp_path: Path) -> None:
    masks: list[object] = [{"bytes": png(bands(i)), "path": None} if i % 3 else None for i in range(12)]
    table(tmp_path / "set/train.parquet", {"image": shots(12), "mask": masks})
    table(tmp_path / "set/test.parquet", {"image": shots(2), "mask": [None, {"bytes": None, "path": None}]})
    table(tmp_path / "set/validation.parquet", {"image": shots(2), "mask": masks[1:3]})
    data = open_dataset(tmp_path / "set")
    assert [bool(r.labeled) for r in data.given["train"]] == [bool(i % 3) for i in range(12)]
    assert sum(bool(r.labeled) for r in data.train.records) == 8 and choose_split(data, None).name == "val", (
        "test has no mask"
    )
    assert [p.message for p in data.problems if p.kind == "image without mask"] == ["4 rows have no mask"]
    shard = tmp_path / "shards/a.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as archive:
        for i in range(12):
            for ending, data_bytes in (("jpg", shots(1)[0]["bytes"]), ("mask.png", png(bands(i)))):  # type: ignore[index]
                if ending == "jpg" or i % 3:
                    info = tarfile.TarInfo(f"s{i}.{ending}")
                    info.size = len(data_bytes)
                    archive.addfile(info, io.BytesIO(data_bytes))
    data = open_dataset(shard)
    assert sum(bool(r.labeled) for r in data.records) == 8
    assert len(data.splits["unlabeled"]) == 4 and all(s.mask is not None for s in data.train)


def test_parquet_from_many_threads(tmp_path: Path) -> None:
    import copy

    masks: list[object] = [{"bytes": png(bands(i)), "path": None} for i in range(30)]
    table(tmp_path / "train.parquet", {"image": shots(30), "mask": masks}, group=2)
    data = open_dataset(tmp_path)
    reader = data.reader
    assert copy.copy(reader)._lock is not reader._lock and pickle.loads(pickle.dumps(reader))._lock is not None  # type: ignore[attr-defined]
    order = np.random.default_rng(0).integers(0, 30, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(data.all.read_values, order))
    assert all(np.array_equal(values, bands(i)) for values, i in zip(found, order, strict=True))


def test_a_value_stored_once_is_not_every_rows_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary makes a small file of many equal long names and images."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    from segwright.data.formats import parquet as reader

    count = 5000
    once = pa.array([0] * count, pa.int32())
    name = pa.DictionaryArray.from_arrays(once, pa.array(["p" * 400_000]))

    def column(values: tuple[int, ...]) -> object:
        cell = pa.DictionaryArray.from_arrays(once, pa.array([encode_png(stripes(*values))], pa.binary()))
        return pa.StructArray.from_arrays([cell, name], ["bytes", "path"])

    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": column((0, 1)), "label": column((0, 1))}), file, store_schema=False)
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(reader, "ALWAYS_BYTES", 100 << 20)
    before = pa.total_allocated_bytes()
    with pytest.raises(LabelError, match="row group of the table is larger"):  # two gigabytes of names
        open_dataset(file)
    assert pa.total_allocated_bytes() - before < 60 << 20, "and nothing of them is kept"
    small = tmp_path / "small/train.parquet"
    parquet(small, [row(i, (0, 1), "n" * 3000) for i in range(3)])
    assert open_dataset(small).all.ids == tuple(f"train-{i:06d}" for i in range(3)), "a name that no file can have"
    monkeypatch.setattr(reader, "GROUP_BYTES", 100)
    with pytest.raises(LabelError, match="row_group_size"):
        open_dataset(small)

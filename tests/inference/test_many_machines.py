"""A run on several machines without the machines: its workers run here, one after the other.

The tests with Ray itself, several processes and a server of the S3 protocol are in test_on_ray.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brightest import scene

from segwright import api
from segwright.api import many_machines
from segwright.core.errors import DataError, MissingExtraError, OutputError, SegwrightError, UsageError
from segwright.core.types import LabelSpace
from segwright.imageio import write_image
from segwright.inference import ray_cluster
from segwright.inference.batch import RunOptions, new_result
from segwright.inference.block_worker import BlockWorker, PackedModel, WorkerSetup
from segwright.inference.blocks import DONE, SUMMARY, Job, check_once, in_blocks, jobs_of
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.destination import Destination, open_destination
from segwright.inference.output_options import OutputOptions
from segwright.inference.predictor import load
from segwright.inference.ray_data import ClusterRun, RayOptions
from segwright.inference.sources import open_source
from segwright.models.catalog import create_model

SPACE = LabelSpace(("ground", "thing", "other"))
ARGUMENTS = {"device": "cpu", "runtime_name": "usual"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, width=4)
    return save_bundle(tmp_path_factory.mktemp("model") / "model", network, Bundle("segnet_basic", SPACE, {"width": 4}))


def images(folder: Path, count: int = 7) -> Path:
    for i in range(count):
        write_image(folder / f"{i:02d}.png", scene(i))
    return folder


class Here(ClusterRun):
    """The workers in this process; ``killed``: after this many blocks the run ends, without the last one's record."""

    killed: int | None = None
    blocks: int = 0

    def _predict(self, jobs: Any) -> None:
        setup = WorkerSetup(
            PackedModel.of(self.model), self.arguments, self.options, self.destination, self.ray.parquet, None, 1,
            {"made": "here"},
        )  # fmt: skip
        worker = BlockWorker(setup)
        worker.predictor = worker._load()
        for block in in_blocks(jobs, self.ray.block or 3, self.settings):
            self.blocks += 1
            record = worker.work(block)
            if self.blocks == self.killed:
                self.destination.remove(block.record)
                raise KeyboardInterrupt
            self.records[block.id] = record
            self.advance(len(block.jobs))


def run(model: Path, source: str | Path, out: str | Path, killed: int | None = None, **options: Any) -> Any:
    outputs = OutputOptions(**{key: options.pop(key) for key in list(options) if key in OutputOptions.__annotations__})
    chosen = RunOptions(options.pop("overwrite", False), options.pop("resume", False))
    store = open_destination(out)
    result = new_result(Path(store.shown))
    one = Here(
        model, load(model, device="cpu"), open_source(str(source)), store, outputs, chosen, RayOptions(**options),
        ARGUMENTS, "a model", result,
    )  # fmt: skip
    one.killed = killed
    try:
        one.work()
    except KeyboardInterrupt:
        if killed is None:
            raise
    result["blocks"] = one.blocks
    return result


def contents(store: Destination) -> dict[str, bytes | None]:
    return {name: store.read(name) for name in store.files() if not name.startswith(("_segwright", "."))}


EVERYTHING: dict[str, Any] = {"confidence": True, "probabilities": "npz", "polygons": ("geojson", "labelme")}


@pytest.mark.parametrize("out", ["out", "memory://plain/out"])
def test_the_files_are_those_of_the_plain_command(model: Path, tmp_path: Path, out: str) -> None:
    source = images(tmp_path / "in")
    (source / "bad.png").write_bytes(b"no image")
    write_image(source / "deeper" / "00.png", scene(9))
    where = out if "://" in out else str(tmp_path / out)
    found = run(model, source, where, areas=tmp_path / "areas.csv", **EVERYTHING)
    plain = api.predict(
        model, source, out=tmp_path / "plain", device="cpu", areas=tmp_path / "plain.csv", confidence=True,
        probabilities="npz", polygons=["geojson", "labelme"], runtime="usual",
    )  # fmt: skip
    assert contents(open_destination(where)) == contents(open_destination(tmp_path / "plain"))
    assert (tmp_path / "areas.csv").read_text() == (tmp_path / "plain.csv").read_text()
    assert found["images"] == plain.images == 8 and [one["file"] for one in found["failed"]] == [
        str(source / "bad.png")
    ]
    assert [one["file"] for one in found["results"]] == [str(one.file) for one in plain.results]
    assert [one["shares"] for one in found["results"]] == [one.shares for one in plain.results]
    assert found["failed"][0]["error"] == plain.failed[0].error
    assert json.loads(open_destination(where).read(SUMMARY) or b"")["complete"] is True


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("killed", [1, 3])
def test_a_run_that_was_killed_continues(model: Path, tmp_path: Path, killed: int, parquet: bool) -> None:
    source, out = images(tmp_path / "in"), tmp_path / "out"
    run(model, source, out, killed, parquet=parquet)
    assert not (out / SUMMARY).exists()
    found = run(model, source, out, resume=True, parquet=parquet, block=2)  # of another size
    assert found["blocks"] == (4 if killed == 1 else 1) and found.get("resumed", 0) == (0 if killed == 1 else 6)
    assert found["images"] == 7 and not found["failed"]
    assert names_in(out, parquet) == [f"{i:02d}" for i in range(7)]
    run(model, source, tmp_path / "whole")
    whole = contents(open_destination(tmp_path / "whole"))
    assert not parquet or masks_in(out) == {name[:-4]: whole[name] for name in whole if name.endswith(".png")}
    assert parquet or contents(open_destination(out)) == whole
    again = run(model, source, out, resume=True, parquet=parquet)
    assert again["blocks"] == 0 and again["resumed"] == 7 and again["images"] == 7


def names_in(out: Path, parquet: bool) -> list[str]:
    return sorted(masks_in(out)) if parquet else sorted(path.stem for path in out.glob("*.png"))


def masks_in(out: Path) -> dict[str, bytes]:
    import pyarrow.parquet as pq

    rows = pq.read_table(out).to_pylist()
    assert len({row["name"] for row in rows}) == len(rows), "a row twice"
    return {row["name"]: row["mask"] for row in rows}


@pytest.mark.parametrize("parquet", [False, True])
def test_what_is_new_changed_gone_or_lost_is_predicted_again(model: Path, tmp_path: Path, parquet: bool) -> None:
    source, out = images(tmp_path / "in"), tmp_path / "out"
    (source / "bad.png").write_bytes(b"no image")
    assert len(run(model, source, out, parquet=parquet)["failed"]) == 1
    write_image(source / "02.png", scene(22))  # block 1
    write_image(source / "bad.png", scene(30))
    write_image(source / "new.png", scene(31))
    (source / "06.png").unlink()  # block 3
    found = run(model, source, out, resume=True, parquet=parquet)
    assert found["images"] == 8 and not found["failed"] and found["resumed"] == 3  # block 2
    expected = run(model, source, tmp_path / "whole", parquet=parquet)
    assert expected["images"] == 8
    if parquet:
        assert masks_in(out) == masks_in(tmp_path / "whole")
    else:
        left = contents(open_destination(out))
        assert contents(open_destination(tmp_path / "whole")).items() <= left.items()
    lost = next(out.glob("part-*.parquet" if parquet else "03.png"))
    lost.unlink()
    again = run(model, source, out, resume=True, parquet=parquet)
    assert again["images"] == 8 and again["resumed"] < 8 and lost.exists()


def test_another_model_or_other_options_are_not_mixed_in(model: Path, tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    run(model, source, out)
    with pytest.raises(UsageError, match="other options") as caught:
        run(model, source, out, resume=True, confidence=True)
    assert "confidence" in str(caught.value)
    with pytest.raises(UsageError, match="other options"):
        run(model, source, out, resume=True, parquet=True)


def test_no_file_of_somebody_else_is_replaced(model: Path, tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    write_image(out / "00.png", scene(5))
    before = (out / "00.png").read_bytes()
    with pytest.raises(UsageError, match="other files"):
        run(model, source, out)
    assert (out / "00.png").read_bytes() == before
    run(model, source, out, overwrite=True)
    run(model, source, out)  # its own files it may replace
    (out / "01.png").write_bytes(b"corrected by hand, perhaps")
    for resume in (False, True):
        with pytest.raises(UsageError, match="other files"):
            run(model, source, out, resume=resume)
    parts = tmp_path / "parts"
    run(model, source, parts, parquet=True)
    with pytest.raises(UsageError, match="--resume"):
        run(model, source, parts, parquet=True)
    assert run(model, source, parts, parquet=True, overwrite=True)["images"] == 2 == len(masks_in(parts))


@pytest.mark.parametrize("parquet", [False, True])
def test_parquet_files_of_somebody_else_stay(model: Path, tmp_path: Path, parquet: bool) -> None:
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    out.mkdir()
    foreign = out / "part-00000-c000.snappy.parquet"
    foreign.write_bytes(b"of Spark")
    if parquet:
        with pytest.raises(UsageError, match="other files"):
            run(model, source, out, parquet=True)
    run(model, source, out, parquet=parquet, overwrite=parquet)
    run(model, source, out, parquet=False)  # files beside Parquet files of an earlier run
    assert foreign.read_bytes() == b"of Spark"
    assert len(list(out.glob("part-*.parquet"))) == (2 if parquet else 1)


def test_outputs_do_not_lie_among_the_sources(model: Path, tmp_path: Path) -> None:
    source = images(tmp_path / "in", 2)
    for place, out in ((source, source), (source, source / "masks"), (source / "00.png", source)):
        with pytest.raises(UsageError, match="among the sources"):
            run(model, place, out)
    assert sorted(path.name for path in source.iterdir()) == ["00.png", "01.png"]


def test_parquet_rows_hold_everything(model: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    source, out = images(tmp_path / "in", 4), tmp_path / "out"
    found = run(model, source, out, parquet=True, **EVERYTHING)
    run(model, source, tmp_path / "files", **EVERYTHING)
    rows = {row["name"]: row for row in pq.read_table(out).to_pylist()}
    for name, row in rows.items():
        files = {
            "mask": ".png", "overlay": ".overlay.jpg", "confidence": ".confidence.png", "geojson": ".geojson",
            "probabilities": ".probabilities.npz", "labelme": ".json",
        }  # fmt: skip
        for key, ending in files.items():
            written = (tmp_path / "files" / f"{name}{ending}").read_bytes()
            assert row[key] == written or key == "probabilities"  # a .npz has the time in it
        assert row["path"] == str(source / f"{name}.png") and (row["height"], row["width"]) == (40, 56)
        assert sum(dict(row["shares"]).values()) == pytest.approx(1) and row["mean_confidence"] > 0
    part = pq.ParquetFile(next(out.glob("part-*.parquet")))
    assert part.schema_arrow.metadata[b"made"] == b"here"
    assert all(Path(item["parquet"]).is_file() for item in found["results"])


def test_a_lost_or_double_image_is_found(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}", f"{i}", f"{i}", None) for i in range(2)]
    record = {"jobs": [jobs[0].key], "failed": [], "files": {}, "items": []}
    store = open_destination(tmp_path)
    with pytest.raises(DataError, match="not complete"):
        check_once({"a": record}, jobs, store, False)
    with pytest.raises(DataError, match="1 twice: 0"):
        check_once({"a": record, "b": {**record, "jobs": [job.key for job in jobs]}}, jobs, store, False)
    (tmp_path / "part-00000-of-spark.parquet").write_bytes(b"")  # somebody else's
    check_once({"b": {**record, "jobs": [job.key for job in jobs]}}, jobs, store, True)
    (tmp_path / f"part-{'0' * 20}-000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="unexpected"):
        check_once({"b": {**record, "jobs": [job.key for job in jobs]}}, jobs, store, True)


def test_a_block_that_is_done_again_writes_over_itself(model: Path, tmp_path: Path) -> None:
    source, out = images(tmp_path / "in"), tmp_path / "out"
    run(model, source, out, 2, parquet=True)
    assert len(list(out.glob("part-*"))) == 2 and len(list((out / DONE).iterdir())) == 1  # one without a record
    before = {path.name: path.read_bytes() for path in out.glob("part-*")}
    run(model, source, out, resume=True, parquet=True)
    after = {path.name: path.read_bytes() for path in out.glob("part-*")}
    assert before.items() <= after.items() and len(after) == 3


def test_a_worker_answers_with_its_errors(model: Path, tmp_path: Path) -> None:
    import pickle

    block = in_blocks(jobs_of(open_source(images(tmp_path / "in", 1))), 1, {})[0]
    store = open_destination(tmp_path / "out")
    batch = {"block": np.array([pickle.dumps(block)], dtype=object)}

    def answer(setup: WorkerSetup) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(BlockWorker(setup)(batch)["answer"][0])
        return found

    packed = PackedModel.of(model)
    other = WorkerSetup(packed, ARGUMENTS, OutputOptions(), store, version="0.0")
    assert "different versions" in answer(other)["fatal"]
    damaged = PackedModel(packed.entry, {**packed.files, "model/model.json": b"{}"})
    assert "not what was saved" in answer(WorkerSetup(damaged, ARGUMENTS, OutputOptions(), store))["fatal"]
    (tmp_path / "out").write_text("a file")
    assert "stopped" in answer(WorkerSetup(packed, ARGUMENTS, OutputOptions(), store))


def test_an_export_is_packed_with_its_weights(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data", "model.json", "modelling.png"):
        (tmp_path / name).write_text(name)
    packed = PackedModel.of(tmp_path / "model.onnx")
    assert set(packed.files) == {"model.onnx", "model.onnx.data"}
    assert packed.unpack(tmp_path / "there").read_text() == "model.onnx"
    (tmp_path / "net.xml").write_text("")
    (tmp_path / "net.bin").write_text("")
    assert set(PackedModel.of(tmp_path / "net.xml").files) == {"net.xml", "net.bin"}


def test_what_one_machine_reads_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by one machine"):
        jobs_of(open_source("0"))
    with pytest.raises(UsageError, match="COCO"):
        run(model, images(tmp_path / "in", 1), tmp_path / "out", polygons=("coco",))
    for wrong in ({"workers": 0}, {"threads": 0}, {"block": -1}):
        with pytest.raises(UsageError, match="no number"):
            RayOptions(**wrong)  # type: ignore[arg-type]


def test_a_store_that_does_not_answer_or_hold_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied:
        protocol = "s3"
        error: Exception = PermissionError("Access Denied")

        def pipe_file(self, path: str, data: bytes) -> None:
            raise self.error

    store = Destination("s3://bucket/out", "bucket/out", Denied())
    with pytest.raises(OutputError, match="no permission"):
        store.put("a", b"")
    Denied.error = FileNotFoundError("The specified bucket does not exist")
    with pytest.raises(OutputError, match="does not exist"):
        store.put("a", b"")
    monkeypatch.setattr("segwright.inference.destination.FIRST_WAIT", 0.0)
    Denied.error = ConnectionError("https://user:secret@host/a?token=secret is away")
    with pytest.raises(OutputError) as caught:
        store.put("a", b"")
    assert "secret" not in str(caught.value) and "host" in str(caught.value)
    with pytest.raises(SegwrightError, match=r"another package|no such kind"):
        open_destination("nothing-of-this-name://bucket/a")


def test_without_ray_the_extra_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"segwright\[ray\]"):
        api.predict_on_ray(model, images(tmp_path / "in", 1), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_at_a_url_stays_in_its_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names in a store are anybody's: steps upwards lead nowhere."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = fsspec.filesystem("memory")
    store.pipe_file("/hostile/model/model.json", b"{}")
    store.pipe_file("/hostile/model/../../../planted.txt", b"planted")
    with many_machines._local("memory://hostile/model") as place:
        inside = {path.relative_to(place).as_posix() for path in place.rglob("*")}
        assert inside == {"model.json", "planted.txt"}
        assert [path.name for path in tmp_path.rglob("planted.txt")] == ["planted.txt"]
        assert all(place in path.parents for path in tmp_path.rglob("planted.txt"))
    assert not list(tmp_path.iterdir())


def test_a_second_cluster_of_a_process_has_the_token_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray reads the token once per process and leaves RAY_AUTH_MODE in the environment."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    tokens = []
    for _ in range(2):
        with ray_cluster._own_token():
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
            os.environ["RAY_AUTH_MODE"] = "token"  # as ray.init does
    assert tokens[0] == tokens[1] and len(tokens[0]) == 64
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_cluster._own_token():
        assert "RAY_AUTH_TOKEN" not in os.environ, "the user's own setting"
    assert os.environ["RAY_AUTH_MODE"] == "disabled"

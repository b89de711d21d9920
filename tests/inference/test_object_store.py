"""Sources and outputs in an object store: a real server of the S3 protocol on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brightest import SPACE, Brightest, scene, truth
from test_predict_resume import Counting

from segwright import api
from segwright.core.errors import DataError, UsageError
from segwright.imageio import encode_png, read_mask
from segwright.inference import destination
from segwright.inference.destination import put_whole
from segwright.inference.predictor import Predictor
from segwright.inference.remote_outputs import DONE

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def store(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    for i in range(5):
        system.pipe_file(f"bucket/in/{i // 3}/{i}.png", encode_png(scene(i)))
    system.pipe_file("bucket/in/notes.txt", b"x")
    yield system
    system.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def run(network: Brightest, source: Any, out: Any, **options: Any) -> Any:
    return api.predict(Predictor(network, SPACE), source, out=out, overlay=False, mask_format="index", **options)


def masks(store: Any) -> dict[str, bytes]:
    store.invalidate_cache()
    found = [place for place in store.find("bucket/out") if f"/{DONE}/" not in place]
    return {place.removeprefix("bucket/out/"): store.cat_file(place) for place in found}


def test_a_folder_a_glob_and_a_file_are_sources(store: Any, tmp_path: Path) -> None:
    found = run(Brightest(), "s3://bucket/in", tmp_path / "a")
    assert found.images == 5 and not found.failed
    assert all((read_mask(tmp_path / f"a/{i // 3}/{i}.png") == truth(scene(i))).all() for i in range(5))
    assert run(Brightest(), "s3://bucket/in/1/*.png", tmp_path / "b").images == 2
    assert run(Brightest(), "s3://bucket/in/0/2.png", tmp_path / "c").images == 1
    with pytest.raises(DataError, match="cannot be read"):
        run(Brightest(), "s3://nothing-here/x.png", tmp_path / "d")
    again = Counting()
    assert run(again, "s3://bucket/in", tmp_path / "a", resume=True).resumed == 5 and again.runs == 0
    store.pipe_file("bucket/in/0/2.png", encode_png(scene(9)))
    store.invalidate_cache()
    assert run(again, "s3://bucket/in", tmp_path / "a", resume=True).resumed == 4 and again.runs == 1


def test_outputs_in_the_store_are_those_of_a_local_folder(store: Any, tmp_path: Path) -> None:
    more: dict[str, Any] = {"polygons": ["geojson", "coco"], "confidence": True}
    found = run(Brightest(), "s3://bucket/in", "s3://bucket/out", **more)
    run(Brightest(), "s3://bucket/in", tmp_path / "local", **more)
    local = {
        path.relative_to(tmp_path / "local").as_posix(): path.read_bytes()
        for path in (tmp_path / "local").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert masks(store) == local and found.images == 5
    assert len(run(Brightest(), "s3://bucket/in/0/*.png", "s3://bucket/out").results) == 3, "its own may be replaced"


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_was_stopped_writes_nothing_twice(store: Any, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(stop), "s3://bucket/in", "s3://bucket/out")
    before = {place: facts["LastModified"] for place, facts in store.find("bucket/out", detail=True).items()}
    network = Counting()
    found = run(network, "s3://bucket/in", "s3://bucket/out", resume=True)
    assert found.images == 5 and network.runs == 5 - (stop - 1)
    assert len(masks(store)) == 5
    after = {place: facts["LastModified"] for place, facts in store.find("bucket/out", detail=True).items()}
    kept = [place for place in before if not place.endswith(".writable")]
    assert len(kept) == 2 * (stop - 1) and all(after[place] == before[place] for place in kept)
    with pytest.raises(UsageError, match="other options"):
        run(network, "s3://bucket/in", "s3://bucket/out", resume=True, confidence=True)


def test_files_of_others_sources_and_missing_buckets_are_safe(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store.pipe_file("bucket/out/0/1.png", b"mine")
    with pytest.raises(UsageError, match="contains other files"):
        run(Brightest(), "s3://bucket/in", "s3://bucket/out")
    assert store.cat_file("bucket/out/0/1.png") == b"mine"
    found = run(Brightest(), "s3://bucket/in", "s3://bucket/in")
    store.invalidate_cache()
    assert found.images == 5 and store.cat_file("bucket/in/0/1.png") == encode_png(scene(1))
    assert store.exists("bucket/in/0/1.mask.png")
    with pytest.raises(UsageError, match="bucket or folder does not exist"):
        run(Brightest(), "s3://bucket/in", "s3://misspelled/out")
    assert not store.exists("misspelled")
    assert not list(tmp_path.iterdir()), "no temporary folder stays"


def test_a_store_that_refuses_for_a_moment_is_asked_again(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def sometimes(system: Any, path: str, content: Any) -> None:
        calls.append(path)
        if len(calls) % 3:
            raise ConnectionError("try again")
        put_whole(system, path, content)

    monkeypatch.setattr(destination, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(destination, "put_whole", sometimes)
    found = run(Brightest(), "s3://bucket/in", "s3://bucket/out")
    assert found.images == 5 and len(masks(store)) == 5
    assert len(calls) == 3 * (1 + 5 + 5), "the probe, an entry and a mask per image"
    monkeypatch.setattr(destination, "TRIES", 2)
    with pytest.raises(UsageError, match="try again"):
        run(Brightest(), "s3://bucket/in", "s3://bucket/more")


def test_a_url_of_this_machine_is_a_folder(store: Any, tmp_path: Path) -> None:
    found = run(Brightest(), "s3://bucket/in", f"file://{tmp_path}/out")
    assert found.images == 5 and (read_mask(tmp_path / "out/0/0.png") == truth(scene(0))).all()
    again = Counting()
    assert run(again, "s3://bucket/in", f"file://{tmp_path}/out", resume=True).resumed == 5 and again.runs == 0

"""Ray itself: a cluster of several processes on this machine, and a server of the S3 protocol (moto).

Slow: ``pip install -e '.[ray]' s3fs 'moto[server]'`` and ``pytest -m slow tests/inference/test_on_ray.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from brightest import scene
from small_ray import SmallCluster, small_cluster

from segwright import api
from segwright.core.errors import DataError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.imageio import write_image
from segwright.inference import ray_data
from segwright.inference.blocks import DONE, SUMMARY, Job, jobs_of
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.destination import Destination, open_destination
from segwright.models.catalog import create_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed"),  # imported with its settings
]
KEY, SECRET = "key-of-the-test", "secret-of-the-test"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server of the S3 protocol; its address."""
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", address), ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"),
        ):  # fmt: skip
            patch.setenv(name, value)
        yield address
    server.stop()


@pytest.fixture(scope="module")
def ray_cluster(s3: str) -> Iterator[SmallCluster]:
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with small_cluster(2, PYTHONPATH=places) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.variables.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, width=4)
    space = LabelSpace(("ground", "thing", "other"))
    return save_bundle(tmp_path_factory.mktemp("model") / "model", network, Bundle("segnet_basic", space, {"width": 4}))


def images(folder: Path, count: int = 7) -> Path:
    for i in range(count):
        write_image(folder / f"{i:02d}.png", scene(i))
    return folder


def contents(out: str | Path | Destination) -> dict[str, bytes | None]:
    store = out if isinstance(out, Destination) else open_destination(out)
    return {name: store.read(name) for name in store.files() if not name.startswith(("_segwright", "."))}


def predict(cluster: SmallCluster, model: str | Path, source: Any, out: Any, **options: Any) -> Any:
    return api.predict_on_ray(model, source, out=out, address=cluster.address, device="cpu", **options)


def rows_of(parts: dict[str, bytes | None]) -> list[dict[str, Any]]:
    import io

    import pyarrow.parquet as pq

    return [row for data in parts.values() for row in pq.read_table(io.BytesIO(data or b"")).to_pylist()]


def test_from_s3_to_s3_as_files_and_as_parquet(
    ray_cluster: SmallCluster, s3: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import s3fs

    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    source = images(tmp_path / "in", 9)
    (source / "bad.png").write_bytes(b"no image")
    system.put(str(source), "bucket/", recursive=True)
    system.put(str(model), "bucket/", recursive=True)
    plain = api.predict(model, source, out=tmp_path / "plain", device="cpu", runtime="usual", areas=tmp_path / "p.csv")
    found = predict(
        ray_cluster, "s3://bucket/model", "s3://bucket/in", "s3://bucket/out", areas=tmp_path / "areas.csv", block=2
    )
    assert contents("s3://bucket/out") == contents(tmp_path / "plain")
    assert found.images == plain.images == 9
    assert [str(one.file) for one in found.failed] in (["s3://bucket/in/bad.png"], ["s3:/bucket/in/bad.png"])
    assert (tmp_path / "areas.csv").read_text().replace("s3://bucket/in", str(source)) == (
        tmp_path / "p.csv"
    ).read_text()
    again = predict(
        ray_cluster, model, "s3://bucket/in", "s3://bucket/out", areas=tmp_path / "areas.csv", block=2, resume=True
    )
    assert again.resumed == 9 and again.images == 9
    predict(ray_cluster, model, "s3://bucket/in", "s3://bucket/rows", parquet=True, block=3)
    rows = {row["name"]: row["mask"] for row in rows_of(contents("s3://bucket/rows"))}
    assert rows == {name[:-4]: data for name, data in contents(tmp_path / "plain").items() if name.endswith(".png")}
    with pytest.raises(OutputError, match="does not exist"):
        predict(ray_cluster, model, "s3://bucket/in", "s3://no-such-bucket/out")
    with pytest.raises(DataError):
        predict(ray_cluster, model, "s3://no-such-bucket/in", "s3://bucket/out2")
    texts = [path.read_bytes() for path in ray_cluster.folder.rglob("*") if path.is_file()]
    texts += [store.read(name) or b"" for store in [open_destination("s3://bucket")] for name in store.files()]
    screen = capfd.readouterr()
    assert not any(SECRET.encode() in text for text in [*texts, screen.out.encode(), screen.err.encode()])


@contextmanager
def killing(cluster: SmallCluster, out: Path, after: int) -> Iterator[list[int]]:
    """Kill a worker when ``after`` blocks are recorded; yields the ids of what was killed, and blocks then."""
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set() and not killed:
            if (out / DONE).is_dir() and len(list((out / DONE).glob("*.json"))) >= after:
                for one in cluster.workers()[:1]:
                    one.kill()
                    killed.extend([one.pid, len(list((out / DONE).glob("*.json")))])
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("parquet", [False, True])
def test_a_killed_worker_loses_nothing(ray_cluster: SmallCluster, model: Path, tmp_path: Path, parquet: bool) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(40):
        write_image(source / f"{i:02d}.png", scene(i, 320, 320))
    with killing(ray_cluster, out, 2) as killed:
        found = predict(ray_cluster, model, source, out, workers=2, block=2, parquet=parquet, overlay=False)
    assert killed and killed[1] < 20, "killed in the middle"
    assert found.images == 40 and not found.failed
    summary = json.loads((out / SUMMARY).read_text())
    assert summary["complete"] and summary["sources"] == summary["images"] == 40
    api.predict(model, source, out=tmp_path / "plain", device="cpu", runtime="usual", overlay=False)
    expected = contents(tmp_path / "plain")
    if parquet:
        rows = rows_of(contents(out))
        assert sorted(row["name"] for row in rows) == [f"{i:02d}" for i in range(40)]
        assert {f"{row['name']}.png": row["mask"] for row in rows} == expected
    else:
        assert contents(out) == expected
    assert not [path.name for path in out.rglob("*") if "writing" in path.name]


@dataclass(frozen=True)
class Poison:
    """A file whose process dies."""

    name: str
    label: str
    stamp: Any = None

    def local(self) -> Any:
        os.kill(os.getpid(), 9)


def test_a_file_that_kills_its_process_is_listed(
    ray_cluster: SmallCluster, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(source: Any) -> list[Job]:
        jobs = jobs_of(source)
        return [replace(job, origin=Poison(job.name, job.label)) if job.name == "03" else job for job in jobs]

    monkeypatch.setattr(ray_data, "jobs_of", poisoned)
    source = images(tmp_path / "in")
    found = predict(ray_cluster, model, source, tmp_path / "out", workers=2, block=3)
    assert found.images == 6 and [one.file for one in found.failed] == [source / "03.png"]
    assert "died" in found.failed[0].error
    monkeypatch.undo()
    assert predict(ray_cluster, model, source, tmp_path / "out", resume=True).images == 7


def test_workers_take_no_modules_from_the_current_folder(
    ray_cluster: SmallCluster, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, trap = images(tmp_path / "in", 2), tmp_path / "trapped"
    for name in ("scipy", "tifffile", "simplejpeg", "yaml", "segwright"):
        (source / f"{name}.py").write_text(f"open({str(trap)!r}, 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(source)
    monkeypatch.setattr(sys, "argv", [str(source / "segwright.py")])
    assert predict(ray_cluster, model, source, tmp_path / "out").images == 2
    assert not trap.exists()


def test_errors_are_typed_and_in_time(ray_cluster: SmallCluster, s3: str, model: Path, tmp_path: Path) -> None:
    source = images(tmp_path / "in", 2)
    for address, text in (
        ("127.0.0.1:1", "does not answer"), ("ray://127.0.0.1:10001", "no machine of the cluster"),
        ("nonsense", "no address"),
    ):  # fmt: skip
        start = time.monotonic()
        with pytest.raises(UsageError, match=text):
            api.predict_on_ray(model, source, out=tmp_path / "out", address=address)
        assert time.monotonic() - start < 120
    with pytest.raises(UsageError, match="too few"):
        predict(ray_cluster, model, source, tmp_path / "out", workers=50)


def test_a_cluster_that_the_command_starts(model: Path, tmp_path: Path) -> None:
    source = images(tmp_path / "in", 4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [
        sys.executable, "-P", "-m", "segwright", "predict", str(model), str(source), "--out", str(tmp_path / "out"),
        "--ray", "--workers", "2", "--block", "1", "--device", "cpu", "--json", str(tmp_path / "found.json"),
    ]  # fmt: skip
    subprocess.run(command, env=environment, check=True, timeout=900)
    api.predict(model, source, out=tmp_path / "plain", device="cpu", runtime="usual")
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
    assert json.loads((tmp_path / "found.json").read_text())["images"] == 4


def test_two_clusters_one_after_the_other_in_one_process(model: Path, tmp_path: Path) -> None:
    source = images(tmp_path / "in", 3)
    code = f"""
import segwright as sw
for number in range(2):
    out = {str(tmp_path)!r} + f"/out{{number}}"
    found = sw.predict_on_ray({str(model)!r}, {str(source)!r}, out=out, address="local", workers=1, device="cpu")
    print("images", found.images)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.count("images 3") == 2, done.stderr[-2000:]

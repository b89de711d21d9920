"""A run that was killed continues: nothing is predicted twice, nothing is missing, no other run is mixed in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from brightest import SPACE, Brightest, scene, truth

from segwright import api
from segwright.core.errors import SegwrightError, UsageError
from segwright.core.types import Float32Array
from segwright.imageio import Limits, UInt8Array, read_mask, write_image
from segwright.inference.ledger import LEDGER
from segwright.inference.predictor import Predictor
from segwright.inference.raster_files import PREFIX


class Counting(Brightest):
    """Counts its runs; raises ``error`` at one of them."""

    def __init__(self, stop: int = -1, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.runs, self.stop, self.error = 0, stop, error

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        self.runs += 1
        if self.runs == self.stop:
            raise self.error
        return super().labels(images)


def run(network: Brightest, source: Path, out: Path, **options: Any) -> Any:
    return api.predict(Predictor(network, SPACE), source, out=out, overlay=False, mask_format="index", **options)


def folder(path: Path, count: int = 6) -> Path:
    for i in range(count):
        write_image(path / f"{i}.png", scene(i))
    return path


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_folder_continues_where_it_was_stopped(tmp_path: Path, stop: int) -> None:
    source, out, table = folder(tmp_path / "in"), tmp_path / "out", tmp_path / "areas.csv"
    more: dict[str, Any] = {"areas": table, "polygons": ["coco"]}
    with pytest.raises(KeyboardInterrupt):
        run(Counting(stop), source, out, **more)
    network = Counting()
    found = run(network, source, out, resume=True, **more)
    assert network.runs == 6 - (stop - 1) and found.images == 6 and (found.resumed or 0) == stop - 1
    assert [item.file.name for item in found.results] == [f"{i}.png" for i in range(6)]
    assert all((read_mask(out / f"{i}.png") == truth(scene(i))).all() for i in range(6))
    whole = run(Counting(), source, tmp_path / "whole", areas=tmp_path / "whole.csv", polygons=["coco"])
    assert table.read_text() == (tmp_path / "whole.csv").read_text()
    assert found.coco.read_text() == whole.coco.read_text()
    assert not [f.name for f in out.iterdir() if "writing" in f.name or PREFIX in f.name]


def test_what_is_new_changed_or_gone_is_predicted(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in"), tmp_path / "out"
    run(Counting(), source, out)
    write_image(source / "7.png", scene(7))
    write_image(source / "2.png", scene(22))
    (out / "3.png").unlink()
    (source / "bad.png").write_bytes(b"x")
    network = Counting()
    found = run(network, source, out, resume=True)
    assert network.runs == 3 and found.images == 7 and len(found.failed) == 1
    assert (read_mask(out / "2.png") == truth(scene(22))).all()
    with open(out / LEDGER, "a") as file:
        file.write('{"done": "cut o')
    write_image(source / "bad.png", scene(9))
    network = Counting()
    assert run(network, source, out, resume=True).images == 8 and network.runs == 1


def test_a_mask_that_was_corrected_by_hand_stays(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in"), tmp_path / "out"
    run(Counting(), source, out)
    write_image(out / "2.png", scene(9))
    before = (out / "2.png").read_bytes()
    found = run(Counting(), source, out, resume=True)
    assert found.resumed == 6 and (out / "2.png").read_bytes() == before


def test_another_model_or_other_options_are_refused(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in", 2), tmp_path / "out"
    run(Counting(), source, out)
    before = {f: f.read_bytes() for f in out.iterdir()}
    with pytest.raises(UsageError, match="confidence: False"):
        run(Counting(), source, out, resume=True, confidence=True)
    assert {f: f.read_bytes() for f in out.iterdir()} == before


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.inference.rasters.DEFAULT_LIMITS", Limits(max_pixels=100_000))


def raster(path: Path) -> UInt8Array:
    image = np.kron(scene(3), np.ones((12, 12, 1), np.uint8))  # 480×672
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64))
    return image


def in_windows(network: Brightest, path: Path, out: Path, **options: Any) -> Any:
    model = Predictor(network, SPACE)
    model.window = 128
    return api.predict(model, path, out=out, overlay=False, mask_format="index", confidence=True, **options)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("stop", [2, 30])
def test_a_raster_continues_at_the_next_window(tmp_path: Path, stop: int) -> None:
    image = raster(tmp_path / "a.tif")
    complete = Counting()
    whole = in_windows(complete, tmp_path / "a.tif", tmp_path / "whole").results[0]
    with pytest.raises(KeyboardInterrupt):
        in_windows(Counting(stop), tmp_path / "a.tif", tmp_path / "out")
    network = Counting()
    item = in_windows(network, tmp_path / "a.tif", tmp_path / "out", resume=True).results[0]
    assert network.runs == complete.runs - (stop - 1)
    assert (tifffile.imread(item.mask) == truth(image)).all()
    assert item.mask.read_bytes() == whole.mask.read_bytes() and item.mean_confidence == whole.mean_confidence
    assert not list((tmp_path / "out").glob(f"{PREFIX}*")), "temporary files are gone"


@pytest.mark.usefixtures("small_limits")
def test_a_raster_that_fails_leaves_nothing(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif")
    with pytest.raises(SegwrightError, match="IndexError"):
        in_windows(Counting(5, IndexError), tmp_path / "a.tif", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import segwright.inference.rasters as rasters
from segwright.imageio import Limits
rasters.DEFAULT_LIMITS = Limits(max_pixels=100_000)
from test_predict_resume import Counting, in_windows, run
class Killed(Counting):
    def labels(self, images):
        if self.runs + 1 == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().labels(images)
where = Path(sys.argv[2])
if sys.argv[3] == "raster":
    in_windows(Killed(7), where / "a.tif", where / "out")
run(Killed(3), where / "in", where / "folder")
"""


@pytest.mark.usefixtures("small_limits")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("kind", ["raster", "folder"])
def test_after_sigkill(tmp_path: Path, kind: str) -> None:
    image = raster(tmp_path / "a.tif")
    folder(tmp_path / "in")
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path), kind]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("PYTHONSAFEPATH", None)
    killed = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    network = Counting()
    if kind == "raster":
        item = in_windows(network, tmp_path / "a.tif", tmp_path / "out", resume=True).results[0]
        assert (tifffile.imread(item.mask) == truth(image)).all() and network.runs > 6
        assert not [f.name for f in (tmp_path / "out").iterdir() if "part" in f.name or "writing" in f.name]
    else:
        found = run(network, tmp_path / "in", tmp_path / "folder", resume=True)
        assert network.runs == 4 and found.images == 6 and found.resumed == 2

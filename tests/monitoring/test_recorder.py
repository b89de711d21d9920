"""``predict --journal``: a row per image and frame, whatever else happens."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import segwright as sw
from segwright.cli import app
from segwright.core.errors import OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import write_image
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import load
from segwright.models.catalog import create_model
from segwright.monitoring.observation import observe
from segwright.monitoring.recorder import JournalOptions, Recorder, parse_share, parse_size

SPACE = LabelSpace(("ground", "thing", "other"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    arguments: dict[str, Any] = {"width": 4, "in_channels": 3}
    network = create_model("segnet_basic", classes=3, weights=None, **arguments).eval()
    return save_bundle(tmp_path_factory.mktemp("model") / "model", network, Bundle("segnet_basic", SPACE, arguments))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number in range(3):
        write_image(folder / f"scene {number}.png", draw_street(f"{number}", (64, 96))[0])
    return folder


def test_every_predicted_image_has_a_row(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    app_result = tmp_path / "result.json"
    command = ["predict", str(model), str(images), "--out", str(tmp_path / "out"), "--json", str(app_result)]
    code = app([*command, "--journal", str(tmp_path / "journal")], standalone_mode=False)
    assert code == 1, "one file is broken"
    tree = json.loads(app_result.read_text())["journal"]
    assert (tree["rows"], tree["lost"]) == (3, 0)
    journal = sw.read_journal(tmp_path / "journal")
    assert [row.id for row in journal.rows] == ["scene 0", "scene 1", "scene 2"]
    predictor = load(model, device="cpu")
    predictor.observed = True
    for row in journal.rows:
        prediction = predictor.predict(predictor.read(images / f"{row.id}.png"))
        expected = observe(prediction, id=row.id, model=row.model)
        assert row.shares == pytest.approx(expected.shares) and row.statistics == pytest.approx(expected.statistics)
        assert row.embedding == pytest.approx(expected.embedding, abs=1e-6)
    assert not (tmp_path / "journal" / "images").exists()


def test_a_loaded_predictor_is_left_as_it_was(model: Path, images: Path, tmp_path: Path) -> None:
    predictor = load(model, device="cpu")
    done = sw.predict(predictor, images, out=tmp_path / "out", journal=tmp_path / "journal", keep_images="100%")
    assert done.journal is not None and done.journal["rows"] == 3 and not predictor.observed
    assert len(list((tmp_path / "journal" / "images").iterdir())) >= 1
    plain = sw.predict(predictor, images, out=tmp_path / "plain")
    assert plain.journal is None


def test_frames_of_a_video_have_rows(model: Path, tmp_path: Path) -> None:
    video = tmp_path / "drive.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for number in range(4):
        writer.write(np.ascontiguousarray(draw_street(f"{number}", (64, 96))[0]))
    writer.release()
    sw.predict(model, video, out=tmp_path / "a", journal=tmp_path / "journal")
    sw.predict(model, video, out=tmp_path / "b", journal=tmp_path / "journal", video=True)
    ids = [row.id for row in sw.read_journal(tmp_path / "journal").rows]
    assert ids == [f"drive-{number:06d}" for number in range(4)] * 2


def test_a_large_raster_that_is_read_in_windows_has_a_row(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    from segwright.imageio import tiff_info
    from segwright.inference import batch

    path = tmp_path / "raster.tif"
    tifffile.imwrite(path, draw_street("large", (320, 480))[0], photometric="rgb")
    monkeypatch.setattr(batch, "beyond_limits", lambda found: tiff_info(found))
    done = sw.predict(model, path, out=tmp_path / "out", journal=tmp_path / "journal")
    (row,) = sw.read_journal(tmp_path / "journal").rows
    assert (row.height, row.width) == (320, 480) and row.id == "raster"
    shares = done.results[0].shares
    assert shares is not None
    assert row.shares == pytest.approx([shares.get(name, 0) for name in SPACE.names], abs=0.02)


def test_wrong_folders_are_refused_before_anything_is_predicted(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        sw.predict(model, images, out=tmp_path / "out", journal=tmp_path / "file")
    with pytest.raises(UsageError, match="holds images"):
        sw.predict(model, images, out=tmp_path / "out", journal=images)
    for wrong in ({"keep_images": "200%"}, {"keep_images": "some"}, {"journal_max_size": "10 apples"},
                  {"journal_max_size": 5}):  # fmt: skip
        with pytest.raises(UsageError):
            sw.predict(model, images, out=tmp_path / "out", journal=tmp_path / "journal", **wrong)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))


def test_a_row_that_fails_costs_no_prediction(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from segwright.monitoring import recorder

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(recorder, "observe_output", fail)
    with caplog.at_level(logging.ERROR, "segwright.journal"):
        done = sw.predict(model, images, out=tmp_path / "out", journal=tmp_path / "journal")
    assert done.images == 3 and not done.failed
    assert done.journal is not None and done.journal["lost"] == 3 and [n for n in done.notes if "rows are lost" in n]
    assert len(caplog.records) == 1


def test_shares_and_sizes_are_read_as_people_write_them() -> None:
    assert [parse_share(text) for text in ("1%", "0.01", 0.01, "100 %", 0)] == [0.01, 0.01, 0.01, 1.0, 0.0]
    assert [parse_size(text) for text in ("500MB", "2 GiB", 1000, "1.5gb")] == [500e6, 2**31, 1000, 1.5e9]
    for wrong in ("-1%", "1000", "a", "", "nan", "inf%"):
        with pytest.raises(UsageError):
            parse_share(wrong)
    for wrong in ("-5", "5 XB", "", "1e9", "9" * 50):
        with pytest.raises(UsageError):
            parse_size(wrong)


def test_another_model_begins_another_header(model: Path, tmp_path: Path) -> None:
    first, second = load(model, device="cpu"), load(model, device="cpu", tta="flip")
    recorder = Recorder(JournalOptions(tmp_path), first, "one")
    one, image = recorder.current, draw_street("x", (64, 96))[0]
    one.record(first.predict(image), "a")
    two = recorder.attach(second, "two")
    two.record(second.predict(image), "b")
    one.record(first.predict(image), "c")  # a request that began before
    recorder.close()
    journal = sw.read_journal(tmp_path)
    assert [row.id for row in journal.rows] == ["a", "b", "c"]
    assert {found["tta"] for found in journal.settings} == {None, "flip"}

"""``predict --journal``: a row per image and frame, whatever else happens."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from spans import record_spans

import segwright as sw
from segwright.cli import app
from segwright.core.errors import DataError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import write_image
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import load
from segwright.models.catalog import create_model
from segwright.monitoring.observation import observe
from segwright.monitoring.recorder import JournalOptions, Recorder, parse_age, parse_share, parse_size
from segwright.monitoring.since import Since, parse_since

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


def test_every_file_of_a_prediction_and_a_look_are_spans(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    kept = record_spans(monkeypatch)
    command = ["predict", str(model), str(images), "--out", str(tmp_path / "out"), "--journal", str(tmp_path / "j")]
    app(command, standalone_mode=False)
    found = kept.get_finished_spans()
    assert [one.name for one in found] == ["segwright.predict"] * 4
    assert [one.status.is_ok for one in found] == [False, True, True, True], "in the order of the names"
    assert all(dict(one.attributes or {}) == {"kind": "image"} for one in found), "no path and no text"
    kept.clear()
    with pytest.raises(DataError, match="reference"):  # of three rows
        sw.monitor(tmp_path / "j")
    assert [one.name for one in kept.get_finished_spans()] == ["segwright.monitor"]


def test_a_span_of_the_command_is_exported_before_it_ends(model: Path, images: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "segwright", "predict", str(model), str(images / "scene 0.png")]
    done = subprocess.run(
        [*arguments, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "console"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count('"name": "segwright.predict"') == 1, done.stderr


def old_image(journal: Path, hours: float, name: str = "") -> Path:
    """An image that a journal kept so long ago."""
    path = journal / "images" / (name or f"20200101T000000-{hours:g}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))
    return path


def test_kept_images_go_after_the_retention_of_the_command(model: Path, images: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    command = ["predict", str(model), str(images), "--journal", str(journal), "--keep-images", "100%"]
    old, young = old_image(journal, 13), old_image(journal, 11)
    app([*command, "--out", str(tmp_path / "a"), "--retention", "12h"], standalone_mode=False)
    assert not old.exists() and young.exists() and len(list((journal / "images").iterdir())) >= 2
    old, young = old_image(journal, 24 * 31), old_image(journal, 24 * 29)
    app([*command, "--out", str(tmp_path / "b")], standalone_mode=False)
    assert not old.exists() and young.exists(), "30 days if nothing is said"
    sw.predict(model, images, out=tmp_path / "c", journal=journal, retention=7)
    assert not young.exists(), "a number is one of days"


def test_times_have_the_same_units_everywhere() -> None:
    for text, seconds in (
        ("90s", 90.0),
        ("90min", 5_400.0),
        ("12h", 43_200.0),
        ("30 d", 2_592_000.0),
        ("2W", 1_209_600.0),
    ):
        assert parse_age(text) == seconds and parse_since(text) == Since(seconds=seconds)
    assert parse_since("5m") == Since(seconds=300.0), "of a look at a journal, m is minutes"
    with pytest.raises(UsageError, match="no time that images are kept"):
        parse_age("5m")  # images would go after minutes where months were meant
    assert parse_age("7") == 7 * 86_400 and parse_since("7") == Since(images=7)
    assert parse_since("20261399") == Since(images=20_261_399)
    with pytest.raises(UsageError, match="a date or a number of images") as caught:
        parse_since("20261129")
    assert "2026-11-29" in str(caught.value)


def test_the_size_holds_whatever_the_retention(model: Path, images: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    kept = [old_image(journal, hours, f"20260101T{40 - hours:06d}.jpg") for hours in range(40)]
    for path in kept:
        path.write_bytes(b"x" * 40_000)
    sw.predict(
        model, images, out=tmp_path / "out", journal=journal, keep_images=1.0, retention="1000w", journal_max_size="1MB"
    )
    left = sorted((journal / "images").iterdir())
    assert 0 < sum(path.stat().st_size for path in left) <= 500_000
    assert kept[0] in left and kept[-1] not in left, "the oldest go"


def test_ages() -> None:
    assert [parse_age(age) for age in ("30d", "12h", "90min", "2 w", "1.5", 7)] == [
        30 * 86400, 12 * 3600, 90 * 60, 14 * 86400, 1.5 * 86400, 7 * 86400,
    ]  # fmt: skip
    for wrong in ("", "d", "0", "-1d", "30y", "1e3", "nan", float("inf"), 0):
        with pytest.raises(UsageError, match="time that images are kept"):
            parse_age(wrong)


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
                  {"journal_max_size": 5}, {"retention": "0d"}, {"retention": "soon"}):  # fmt: skip
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

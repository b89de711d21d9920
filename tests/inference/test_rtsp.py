"""A camera over RTSP, from a server on this machine: frames, a line that breaks, one that stays dead, silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from brightest import SPACE, Brightest
from rtsp_server import Camera

from segwright import api
from segwright.core.errors import DataError
from segwright.imageio import read_mask
from segwright.inference import videos
from segwright.inference.predictor import Predictor

pytestmark = pytest.mark.skipif(
    "FFMPEG:                      YES" not in cv2.getBuildInformation(), reason="OpenCV without FFmpeg"
)


def frame(number: int) -> np.ndarray:
    """The class of the left half is 0, 1 or 2."""
    image = np.full((64, 96, 3), (40, 40, 200), np.uint8)
    image[:, :48] = np.eye(3)[number % 3] * 180 + 40
    return image


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Camera]]:
    monkeypatch.setattr(videos, "TIMEOUT_MS", 4000)
    started: list[Camera] = []
    yield started
    for one in started:
        one.stop()


def test_frames_are_predicted_and_no_password_is_shown(tmp_path: Path, cameras: list[Camera]) -> None:
    cameras.append(Camera(frame))
    found = api.predict(
        Predictor(Brightest(), SPACE), cameras[0].url, out=tmp_path, overlay=False, mask_format="index", frames=4
    )
    assert found.images == 4 and not found.failed
    for item in found.results:
        mask = read_mask(item.mask)
        assert mask.shape == (64, 96) and (mask[:, 56:] == 2).all() and len(np.unique(mask[:, :40])) == 1
    assert "secret" not in str(found.to_json())


def test_a_line_that_breaks_is_opened_again(tmp_path: Path, cameras: list[Camera]) -> None:
    cameras.append(Camera(frame, breaks=3))
    found = api.predict(Predictor(Brightest(), SPACE), cameras[0].url, out=tmp_path, overlay=False, frames=8)
    assert found.images == 8 and cameras[0].connections == 2
    assert any("opened again 1 times" in note for note in found.notes)


def test_a_line_that_stays_dead_ends_the_run_with_its_reason(
    tmp_path: Path, cameras: list[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "RECONNECT_SECONDS", 1.0)
    one = Camera(frame, breaks=3)
    cameras.append(one)

    def last(number: int) -> np.ndarray:
        if number == 2:
            one.stop()
            one._stop = False  # the frame is still sent
        return frame(number)

    one.frame = last
    found = api.predict(Predictor(Brightest(), SPACE), one.url, out=tmp_path, overlay=False)
    assert found.images >= 1 and found.stopped is not None and "did not come back within 1 seconds" in found.stopped


def test_a_camera_that_sends_nothing_is_an_error_in_time(
    tmp_path: Path, cameras: list[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "TIMEOUT_MS", 1000)
    cameras.append(Camera(frame, silent=True))
    with pytest.raises(DataError, match="the stream gives no frames"):
        api.predict(Predictor(Brightest(), SPACE), cameras[0].url, out=tmp_path)
    with pytest.raises(DataError, match="cannot be opened"):
        api.predict(Predictor(Brightest(), SPACE), "rtsp://127.0.0.1:9/live", out=tmp_path)

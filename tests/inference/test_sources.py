"""What a prediction runs over."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segwright.core.errors import DataError, UsageError
from segwright.imageio import write_image
from segwright.inference.sources import open_source, read_frames

IMAGE = np.zeros((8, 9, 3), np.uint8)


def test_image_folder_and_glob(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "deeper/c.png", ".hidden/d.png", "a.png"):
        write_image(tmp_path / name, IMAGE)
    (tmp_path / "notes.txt").write_text("no image")
    folder = open_source(tmp_path)
    names = [folder.name(path) for path in folder.files]
    assert names == ["a_jpg", "a_png", "b", "deeper/c"], "twins keep their ending, so that no result is overwritten"
    assert open_source(tmp_path / "b.png").kind == "image"
    assert len(open_source(str(tmp_path / "*.png"))) == 2


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for shade in (0, 120, 240):
        writer.write(np.full((48, 64, 3), (shade, 0, 0), np.uint8))  # blue first
    writer.release()
    source = open_source(path)
    frames = list(read_frames(source.files[0]))
    assert source.kind == "video" and len(frames) == 3
    assert frames[2][..., 2].mean() > 200 and frames[2][..., 0].mean() < 40, "RGB order"


def test_nothing_is_fetched_and_nothing_found_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not fetched"):
        open_source("https://example.org/x.png")
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "x.png")
    with pytest.raises(DataError, match="no images"):
        open_source(tmp_path)

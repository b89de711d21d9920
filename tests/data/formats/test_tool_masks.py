"""Masks that mean something only with a file beside them: Omniverse Replicator's colors, MATLAB's order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_image

from segwright.core.errors import LabelError
from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset

COLORS = ((0, 0, 0, 0), (140, 25, 255, 255), (140, 255, 25, 255))


def replicator(root: Path, *, own: bool, folders: bool) -> None:
    """Five frames; ``own``: the colors of the two classes are exchanged in every other one."""
    for i in range(5):
        make_image(root / ("rgb" if folders else "") / f"rgb_{i:04d}.png", size=(40, 50), seed=i)
        labels = np.zeros((40, 50), np.uint8)
        labels[8 + i : 30, 5:20], labels[5:20, 25:40] = 1, 2
        order = (0, 2, 1) if own and i % 2 else (0, 1, 2)
        folder = root / ("semantic_segmentation" if folders else "")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.array([COLORS[n] for n in order], np.uint8)[labels]
        Image.fromarray(pixels).save(folder / f"semantic_segmentation_{i:04d}.png")
        names = {str(COLORS[order[n]]): {"class": name} for n, name in enumerate(("BACKGROUND", "cat", "dog"))}
        (folder / f"semantic_segmentation_labels_{i:04d}.json").write_text(json.dumps(names))


@pytest.mark.parametrize("folders", [True, False])
def test_colors_of_each_frame_on_its_own_are_refused(tmp_path: Path, folders: bool) -> None:
    replicator(tmp_path, own=True, folders=folders)
    globs = {"images": "rgb/rgb_*", "masks": "semantic_segmentation/semantic_segmentation_*"} if folders else {
        "images": "rgb_*.png", "masks": "semantic_segmentation_*.png"}  # fmt: skip
    with pytest.raises(LabelError, match=r"colors of its own"):
        open_dataset(tmp_path, **globs)


def test_colors_that_all_frames_share_are_read(tmp_path: Path) -> None:
    replicator(tmp_path, own=False, folders=True)
    assert (
        len(
            open_dataset(
                tmp_path, images="rgb/rgb_*", masks="semantic_segmentation/semantic_segmentation_*"
            ).label_space.names
        )
        == 3
    )


def test_masks_that_matlab_numbers_are_a_warning(tmp_path: Path) -> None:
    """Label_1.png is the first image of gTruth.mat, whatever the numbers in the images' names."""
    for i in range(1, 6):
        make_image(tmp_path / f"photos/street_{i}.jpg", size=(40, 50), seed=i)
        labels = np.zeros((40, 50), np.uint8)
        labels[8 + i : 30, 5:20] = 1
        (tmp_path / "PixelLabelData").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"PixelLabelData/Label_{6 - i}.png")
    found = [p for p in check_path(tmp_path, workers=0).warnings if p.kind == "masks guessed"]
    assert len(found) == 1 and "gTruth.mat" in found[0].message

"""Pairs by --images GLOB --masks GLOB, in Python, on the command line and in a config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import make_image, mask
from typer.testing import CliRunner

from segwright.cli import app
from segwright.core.errors import FormatError, UsageError
from segwright.data.dataset import Dataset, open_dataset
from segwright.training.config import TrainConfig


def pairs(data: Dataset) -> dict[str, str | None]:
    return {
        str(r.image_path.relative_to(data.root)): r.mask_path and str(r.mask_path.relative_to(data.root))
        for r in data.records
        if r.image_path is not None
    }


@pytest.mark.parametrize(
    ("image", "label", "images", "masks"),
    [
        ("foo/{n}.jpg", "bar/{n}.png", "foo/*", "bar/*"),
        ("foo/{n}.jpg", "bar/{n}_gt.png", "foo/*.jpg", "bar/*_gt.png"),
        ("foo/{n}.jpg", "bar/{n}_gt.png", "foo/*", "bar/*"),
        ("{n}_a.png", "{n}_b.png", "*_a.png", "*_b.png"),
        ("all/{n}.png", "all/{n}-truth.png", "all/*.png", "all/*-truth.png"),
        ("s{n}/photo.jpg", "s{n}/labels.png", "*/photo.jpg", "*/labels.png"),
        ("deep/er/{n}.jpg", "truth/{n}.png", "**/*.jpg", "**/*.png"),
        ("a/{n}_manual.jpg", "b/manual_{n}.png", "a/*", "b/*"),
        ("day [1]/{n}.jpg", "truth/x{n}y.png", "day [1]/*.jpg", "truth/x*y.png"),
        ("photos/{n}.jpg", "[a]/[b]/{n}_gt.png", "photos/*.jpg", "[a]/[b]/*_gt.png"),
    ],
)
def test_globs_pair_anything(tmp_path: Path, image: str, label: str, images: str, masks: str) -> None:
    for i in range(5):
        make_image(tmp_path / image.format(n=f"{i:02d}"), seed=i)
        mask(tmp_path / label.format(n=f"{i:02d}"), [0, i % 3, 1])
    data = open_dataset(tmp_path, images=images, masks=masks)
    assert pairs(data) == {image.format(n=f"{i:02d}"): label.format(n=f"{i:02d}") for i in range(5)}
    assert data.format == "folder" and data.problems == [] and len(set(data.all.ids)) == 5
    same = open_dataset(tmp_path, images=str(tmp_path / images), masks=str(tmp_path / masks))
    assert pairs(same) == pairs(data), "absolute globs"


def test_globs_choose_one_of_two_raters_and_keep_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            make_image(tmp_path / f"{split}/images/{i}.jpg", seed=i)
            mask(tmp_path / f"{split}/rater1/{i}.png", [0, 1])
            mask(tmp_path / f"{split}/rater2/{i}.png", [0, 2])
    data = open_dataset(tmp_path, images="*/images/*", masks="*/rater2/*")
    assert pairs(data) == {f"{s}/images/{i}.jpg": f"{s}/rater2/{i}.png" for s in ("train", "val") for i in range(3)}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "val": 3}


def test_globs_that_do_not_pair(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"a/{i}.png", [0, 1])
        mask(tmp_path / f"b/{i}.png", [0, 1])
    with pytest.raises(FormatError, match=r"one to one(.|\n)*a/0\.png, b/0\.png"):
        open_dataset(tmp_path, images="images/*.jpg", masks="[ab]/*.png")
    with pytest.raises(FormatError, match="--masks matches no file"):
        open_dataset(tmp_path, images="images/*", masks="nothing/*")
    with pytest.raises(UsageError, match="go together"):
        open_dataset(tmp_path, images="images/*")
    with pytest.raises(UsageError, match="no --format"):
        open_dataset(tmp_path, "coco", images="images/*", masks="a/*")
    make_image(tmp_path / "images/lone.jpg")
    data = open_dataset(tmp_path, images="images/*", masks="a/*")
    assert [p.name for p in data.unpaired_images] == ["lone.jpg"]


def test_the_command_line_and_the_config(tmp_path: Path) -> None:
    for i in range(6):
        make_image(tmp_path / f"set/p/{i}.jpg", seed=i, size=(32, 32))
        mask(tmp_path / f"set/q/{i}.png", [0, 1], size=(32, 32))
        mask(tmp_path / f"set/r/{i}.png", [1, 0], size=(32, 32))
    globs = ["--images", "p/*", "--masks", "q/*"]
    found = CliRunner().invoke(app, ["check", str(tmp_path / "set"), *globs])
    assert "6" in found.output and "cannot be opened" not in found.output
    out = tmp_path / "new"
    found = CliRunner().invoke(app, ["convert", str(tmp_path / "set"), *globs, "--to", "folder", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert np.array_equal(
        open_dataset(out).all.read_mask(0), open_dataset(tmp_path / "set", images="p/*", masks="q/*").all.read_mask(0)
    )
    for command in ("train", "evaluate", "compare", "tune", "lr-range", "tune-post", "plot-crf"):
        assert "--masks" in CliRunner().invoke(app, [command, "--help"]).output, command
    config = TrainConfig().with_values({"data.images": "p/*", "data.masks": "q/*"})
    assert config.data.images == "p/*" and "masks: q/*" in config.to_yaml()

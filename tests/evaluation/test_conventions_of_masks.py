"""``sw.evaluate`` of a folder of masks, with conventions: what works without a model, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segwright as sw
from segwright.cli import main
from segwright.core.errors import LabelError, UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five images of three classes with void, and another tool's masks."""
    rng = np.random.default_rng(0)
    for folder in ("data/images", "data/masks", "answers"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(5):
        mask = np.repeat(np.repeat(rng.integers(0, 3, (4, 5)), 8, 0), 8, 1).astype(np.uint8)
        answer = np.where(rng.random(mask.shape) < 0.1 * i, (mask + 1) % 3, mask).astype(np.uint8)
        mask[:2] = 255
        Image.fromarray(rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)).save(tmp_path / f"data/images/x{i}.png")
        Image.fromarray(mask).save(tmp_path / f"data/masks/x{i}.png")
        Image.fromarray(answer).save(tmp_path / f"answers/x{i}.png")
    return tmp_path


def run(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["segwright", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


@pytest.mark.parametrize("name", ["torchvision", "mmseg", "smp", "torchmetrics", "cityscapes", "voc", "ultralytics"])
def test_each_convention(tree: Path, name: str) -> None:
    found = sw.evaluate(tree / "answers", tree / "data", split="all", convention=name)
    assert found.convention == name and found.images == 5
    headline = found.convention_result.figures[0]
    assert not headline.why_not and headline.ci95[0] <= headline.value <= headline.ci95[1]
    value = found.to_json()["conventions"][name]
    assert value == pytest.approx(headline.value)
    if name == "torchmetrics":
        assert "255" in found.convention_result.figures[1].why_not
    assert set(found.not_computed) == {"ece", "brier", "nll", "classwise_ece"} and "calibration" not in found.to_json()
    assert found.figures["bf_score"] > 0 and found.temperature is None


def test_the_command(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(tree / "answers"), str(tree / "data"), "--split", "all", "--convention", "voc"]
    assert run([*arguments, "--json", str(tree / "e.json")]) == 0
    shown = capsys.readouterr().out
    assert "VOCevalseg" in shown and "Average accuracy: " in shown and "differs from pooled" in shown
    assert "no calibration figures" in shown and "BF score" in shown
    saved = json.loads((tree / "e.json").read_text())
    assert saved["convention_result"]["name"] == "voc" and saved["intervals"]["bf_score"]
    assert saved["convention_result"]["figures"][0]["printed"] in shown
    assert run([*arguments[:-1], "torchvision", "--report", str(tree / "e.html")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "average row correct" in line]
    assert line.count("'") == 6, "one of each class"
    assert "average row correct" in (tree / "e.html").read_text(encoding="utf-8")
    assert run([*arguments[:-1], "coco"]) != 0
    assert "unknown metric convention" in capsys.readouterr().err


def test_another_tool_s_void_stops_the_voc_devkit(tree: Path) -> None:
    answer = np.array(Image.open(tree / "answers/x2.png"))
    answer[:2] = 255
    Image.fromarray(answer).save(tree / "answers/x2.png")
    found = sw.evaluate(tree / "answers", tree / "data", split="all", convention="voc")
    assert found.stray == 1 and "1 prediction has" in found.convention_result.figures[0].why_not
    assert found.to_json()["convention_result"]["figures"][0]["value"] is None
    assert (
        not sw.evaluate(tree / "answers", tree / "data", split="all", convention="mmseg")
        .convention_result.figures[0]
        .why_not
    )


def test_another_tool_s_void_stops_the_voc_devkit_on_an_image_of_ignored_pixels_alone_too(tree: Path) -> None:
    size = np.array(Image.open(tree / "answers/x2.png")).shape
    for folder in ("answers", "data/masks"):
        Image.fromarray(np.full(size, 255, np.uint8)).save(tree / folder / "x2.png")
    found = sw.evaluate(tree / "answers", tree / "data", split="all", convention="voc")
    assert found.all_ignored == ["x2"] and found.stray == 1
    figure = found.convention_result.figures[0]
    assert "1 prediction has" in figure.why_not and np.isnan(figure.value)


def test_what_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match="unknown metric convention"):
        sw.evaluate(tree / "nowhere", tree / "nothing", convention="coco")  # before any file is read
    with pytest.raises(UsageError, match="no probabilities"):
        sw.evaluate(tree / "answers", tree / "data", probabilities=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tree / "answers/x1.png")
    with pytest.raises(LabelError, match="differ in size"):
        sw.evaluate(tree / "answers", tree / "data", split="all", convention="mmseg")
    Image.fromarray(np.full((32, 40), 9, np.uint8)).save(tree / "answers/x1.png")
    with pytest.raises(LabelError, match="no class"):
        sw.evaluate(tree / "answers", tree / "data", split="all")

"""report.html: whole, escaped, self-contained, and made from whatever there is."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segwright.core.errors import ImageReadError
from segwright.core.types import LabelSpace
from segwright.evaluation.evaluate import MappedPrediction, score
from segwright.evaluation.report import RunFacts, confusions, error_map, fit, read_history, report_page, write_report

NASTY = "<script>alert(1)</script>"


class Scenes:
    """Images with stripes of classes."""

    def __init__(self, count: int = 6, classes: int = 3, size: tuple[int, int] = (60, 90), channels: int = 3) -> None:
        self.name, self.count, self.size, self.channels = "val", count, size, channels
        self.label_space = LabelSpace(tuple(f"{NASTY} {i}" for i in range(classes)))
        self.ids = [f"{NASTY}_{i}" for i in range(count)]

    def __len__(self) -> int:
        return self.count

    def read_image(self, index: int) -> Any:
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (*self.size, self.channels)).astype(np.uint8)

    def read_mask(self, index: int) -> Any:
        mask = np.indices(self.size)[1] * self.label_space.classes // self.size[1]
        mask = np.roll(mask, index * 5, axis=1).astype(np.uint8)
        mask[:4] = 255
        return mask

    def answers(self, indices: Any, _images: Any) -> list[MappedPrediction]:
        found = []
        for i in indices:
            labels = np.where(self.read_mask(i) == 255, 0, self.read_mask(i)).astype(np.uint8)
            labels[:, : 4 * i] = 0
            found.append(MappedPrediction(labels, np.full(labels.shape, 0.9, np.float32)))
        return found


class Tags(HTMLParser):
    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def history() -> list[dict[str, Any]]:
    steps = [
        {"step": i, "epoch": i // 10, "loss": 2 / (i + 1), "lr": 1e-3, "images_per_second": 9.0} for i in range(50)
    ]
    return [*steps, {"step": 49, "val_miou": 0.4}, {"step": 50, "val_miou": None}, {"event": "end"}]


def test_a_whole_report(tmp_path: Path) -> None:
    split = Scenes()
    facts = RunFacts(
        title=NASTY, command=f"segwright train data --out '{NASTY}'", history=history(), model={NASTY: NASTY},
        plan=[(NASTY, NASTY, NASTY)], versions={"torch": "2.11"}, licenses={"weights": "Apache-2.0"},
    )  # fmt: skip
    path = write_report(tmp_path / "report.html", score(split, split.answers), split, facts)
    document = path.read_text(encoding="utf-8")
    assert not re.search(r"<script|https?://", document)
    tags = Tags(document).found
    assert len([t for t, _ in tags if t == "img"]) == 6 * 4  # six images, each once, four views
    assert all(a["src"].startswith("data:image/") for t, a in tags if t == "img")  # type: ignore[union-attr]
    for part in ("mean IoU", "95 % interval", "Training", "Classes", "Confusion", "The worst images",
                 "segwright train", "torch", "Apache-2.0", "calibration error", "The plan", "conventions"):  # fmt: skip
        assert part in document, part
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", document))
    assert path.stat().st_size < 1_500_000


def test_the_least_there_can_be() -> None:
    split = Scenes(count=1, classes=1)
    document = report_page(score(split, split.answers, boundary=False), split, RunFacts())
    assert "no interval" in document and "Training" not in document and "Confusion" not in document


@pytest.mark.parametrize("classes", [2, 30, 200])
def test_any_number_of_classes(classes: int) -> None:
    split = Scenes(count=2, classes=classes, size=(40, 400))
    document = report_page(score(split, split.answers), split, RunFacts())
    assert len(document) < 1_000_000
    Tags(document)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels: int) -> None:
    split = Scenes(count=2, channels=channels)
    assert report_page(score(split, split.answers), split, RunFacts()).count("<img") == 8


def test_an_image_that_went_away_costs_its_row_only() -> None:
    split = Scenes(count=3)
    found = score(split, split.answers)

    class Gone(Scenes):
        def read_image(self, index: int) -> Any:
            if index == 1:
                raise ImageReadError("gone")
            return super().read_image(index)

    assert report_page(found, Gone(count=3), RunFacts()).count("<img") == 8


def test_large_images_are_thinned_out() -> None:
    split = Scenes(count=1, size=(900, 2600))
    found = score(split, split.answers)
    assert max(found.worst[0].labels.shape) <= 1024
    image, truth, said = fit(split.read_image(0), split.read_mask(0), found.worst[0].labels)
    assert image.shape == (138, 400, 3) and truth.shape == said.shape == (138, 400)
    assert (truth[10:] == said[10:]).mean() > 0.98


def test_error_map_shows_errors_and_darkens_the_ignored() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    truth, said = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    truth[0], said[2] = 255, 1
    shown = error_map(image, said, truth)
    assert (shown[0] == 35).all() and (shown[2] == (230, 40, 40)).all() and (shown[1] == 180).all()


def test_commonest_confusions() -> None:
    matrix = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 0]])
    assert confusions(matrix) == [(1, 0, 30, 0.6, 0.3), (1, 2, 10, 0.2, 0.1), (0, 1, 10, 0.2, 0.1)]
    assert confusions(np.eye(3, dtype=np.int64)) == []


def test_history_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n[1]\n" + '{"step": 2, "lo')
    assert read_history(path) == [{"step": 1, "loss": 2.0}]
    assert read_history(tmp_path / "none") == []


def test_the_two_losses_are_named_for_what_they_are() -> None:
    steps = [{"step": n, "loss": 2.0 / n, "main_loss": 1.5 / n} for n in (1, 2, 3)]
    validated = [{"step": 3, "val_loss": 0.6, "val_miou": 0.5}]
    split = Scenes(count=2)
    found = score(split, split.answers, boundary=False)
    page = report_page(found, split, RunFacts(history=[*steps, *validated]))
    assert "training (augmented crops)" in page and "validation (whole images)" in page
    assert "one criterion of the network" in page and "auxiliary heads are left out" in page
    before = [{key: value for key, value in line.items() if key != "main_loss"} for line in steps]
    for history in ([*before, *validated], [*before, *steps, *validated]):  # of an earlier version, also resumed
        page = report_page(found, split, RunFacts(history=history))
        assert "training (crops, auxiliary heads)" in page and "differ in more than the images" in page

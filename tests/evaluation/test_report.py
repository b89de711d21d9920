"""report.html: whole, escaped, self-contained, and made from whatever there is."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import made_pages
import numpy as np
import pytest
from PIL import Image
from trees import SHARED

from segwright.core.errors import ImageReadError
from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.demo.street_scene import CLASSES, draw_street
from segwright.evaluation.evaluate import MappedPrediction, score
from segwright.evaluation.examples import Examples
from segwright.evaluation.report import RunFacts, confusions, read_history, report_page, write_report
from segwright.metrics.confusion import iou_per_class
from segwright.reports.viewer import SIDES, ViewerImage, pack, pack_images

CAMVID = SHARED / "camvid"
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
    assert not re.search(r"<script>alert|https?://", document)
    tags = Tags(document).found
    assert len([t for t, _ in tags if t == "img"]) == 6  # six images, each once; the browser draws the maps
    assert all(a["src"].startswith("data:image/") for t, a in tags if t == "img")  # type: ignore[union-attr]
    for part in ("mean IoU", "95 % interval", "Training", "Classes", "Confusion", "Images", "Every image",
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


@pytest.mark.parametrize(("classes", "each"), [(2, 1), (3, 1), (4, 2), (7, 3)])
def test_no_class_is_both_strongest_and_weakest(classes: int, each: int) -> None:
    split = Scenes(count=2, classes=classes)
    split.label_space = LabelSpace(tuple(f"c{i}" for i in range(classes)))
    text = report_page(score(split, split.answers, boundary=False), split, RunFacts())
    found = re.search(r"Strongest (class|classes): (.*)\. Weakest: (.*?)\.\s*<", text)
    assert found is not None and (found[1] == "class") == (each == 1)
    strong, weak = (re.findall(r"c\d", part) for part in found.group(2, 3))
    assert len(strong) == len(weak) == each and not set(strong) & set(weak)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels: int) -> None:
    split = Scenes(count=2, channels=channels)
    assert report_page(score(split, split.answers), split, RunFacts()).count("<img") == 2


def test_an_image_that_went_away_costs_its_row_only() -> None:
    split = Scenes(count=3)
    found = score(split, split.answers)

    class Gone(Scenes):
        def read_image(self, index: int) -> Any:
            if index == 1:
                raise ImageReadError("gone")
            return super().read_image(index)

    assert report_page(found, Gone(count=3), RunFacts()).count("<img") == 2


def viewer_data(document: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="images-data">(.*?)</script>', document, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def unpacked(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    values = np.frombuffer(zlib.decompress(base64.b64decode(entry["data"])), np.uint8)
    return values.reshape(entry["h"], entry["w"])


def test_the_viewer_gets_truth_prediction_and_uncertainty_of_every_image() -> None:
    split = Scenes(count=3)
    found = score(split, split.answers)
    data = viewer_data(report_page(found, split, RunFacts()))
    assert [layer["key"] for layer in data["layers"]] == ["image", "truth", "prediction", "errors", "doubt"]
    order = np.argsort(found.per_image, kind="stable").tolist()
    for entry, index in zip(data["images"], order, strict=True):
        assert entry["name"] == split.ids[index]
        assert (unpacked(entry["maps"]["truth"]) == split.read_mask(index)).all()
        assert (unpacked(entry["maps"]["prediction"]) == split.answers([index], None)[0].labels).all()
        assert abs(float(unpacked(entry["maps"]["doubt"]).mean()) / 255 - 0.1) < 0.03  # in steps
        iou = iou_per_class(found.counts[index])
        assert entry["scores"] == [None if math.isnan(v) else round(100 * v, 1) for v in iou.tolist()]


def test_without_confidence_there_is_no_uncertainty() -> None:
    split = Scenes(count=2)
    bare = [MappedPrediction(p.labels) for p in split.answers(range(2), None)]
    found = score(split, lambda indices, _: [bare[i] for i in indices])
    data = viewer_data(report_page(found, split, RunFacts()))
    assert [layer["key"] for layer in data["layers"]] == ["image", "truth", "prediction", "errors"]


def test_large_images_are_thinned_out() -> None:
    split = Scenes(count=1, size=(900, 2600))
    found = score(split, split.answers)
    assert max(found.examples[0].labels.shape) <= 960
    entry = viewer_data(report_page(found, split, RunFacts()))["images"][0]
    assert (entry["w"], entry["h"]) == (960, 332)
    truth, said = unpacked(entry["maps"]["truth"]), unpacked(entry["maps"]["prediction"])
    assert truth.shape == said.shape == (332, 960)
    assert (truth[4:] == said[4:]).mean() > 0.98


def noisy(index: int, side: int = 300) -> ViewerImage:
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    return ViewerImage(f"n{index}", "", "", pixels, {"truth": pixels[..., 0] % 11}, [0.5, math.nan])


def test_the_page_stays_under_its_limit_and_tells_how() -> None:
    whole, notes = pack_images(4, noisy, limit=100_000_000)
    assert len(whole) == 4 and notes == [] and whole[0].width == 300  # never enlarged
    smaller, notes = pack_images(4, noisy, limit=300_000)
    assert len(smaller) == 4 and sum(item.size for item in smaller) <= 300_000
    assert smaller[0].width in SIDES and str(smaller[0].width) in notes[0]
    fewer, notes = pack_images(6, noisy, limit=60_000)
    assert 1 <= len(fewer) < 6 and f"{len(fewer)} of 6" in notes[-1]
    # the sampled images are small, others are not: the limit holds all the same
    uneven, _ = pack_images(40, lambda i: noisy(i, 300 if i in (5, 6, 7, 9) else 40), limit=900_000)
    assert sum(item.size for item in uneven) <= 900_000


@functools.cache
def drawn_street(number: int) -> tuple[Any, Any]:
    return draw_street(str(number), (360, 480))


def street(index: int) -> tuple[Any, Any]:
    """One of ten, moved to the side: drawing takes a moment."""
    image, mask = drawn_street(index % 10)
    return np.roll(image, 37 * index, axis=1), np.roll(mask, 37 * index, axis=1)


class RealSize:
    """A hundred images of 360×480 with their masks: CamVid's val if it is here, else drawn streets with grain."""

    def __init__(self, count: int = 100) -> None:
        self.name, self.count = "val", count
        self.split = open_dataset(CAMVID).splits["val"] if CAMVID.is_dir() else None
        self.label_space = LabelSpace(CLASSES) if self.split is None else self.split.label_space
        self.ids = [f"street_{i}" for i in range(count)] if self.split is None else list(self.split.ids[:count])

    def __len__(self) -> int:
        return self.count

    def read_image(self, index: int) -> Any:
        if self.split is not None:
            return self.split.read_image(index)
        drawn = street(index)[0]
        return np.clip(drawn + np.random.default_rng(index).normal(0, 9, drawn.shape), 0, 255).astype(np.uint8)

    def read_mask(self, index: int) -> Any:
        return street(index)[1] if self.split is None else self.split.read_mask(index)

    def answers(self, indices: Any, _images: Any) -> list[MappedPrediction]:
        """As of a network: wrong along the borders and in blots, less sure there."""
        found = []
        for index in indices:
            rng, truth = np.random.default_rng(index), self.read_mask(index)
            truth = np.where(truth == 255, 0, truth)
            shift = [cv2.GaussianBlur(rng.normal(0, 60, truth.shape), (0, 0), 6).round().astype(int) for _ in "yx"]
            y, x = np.indices(truth.shape)
            labels = truth[np.clip(y + shift[0], 0, len(truth) - 1), np.clip(x + shift[1], 0, truth.shape[1] - 1)]
            doubt = cv2.GaussianBlur((labels != truth).astype(np.float32), (0, 0), 3) + 0.02 * rng.random(truth.shape)
            found.append(MappedPrediction(labels.astype(np.uint8), np.clip(1 - doubt, 0, 1).astype(np.float32)))
        return found


def test_a_page_of_a_hundred_real_images_is_at_most_15_mb(tmp_path: Path) -> None:
    split = RealSize()
    found = score(split, split.answers, examples=100, boundary=False)
    assert 0.5 < found.pixel_accuracy < 0.99, "errors to be shown"
    path = write_report(tmp_path / "report.html", found, split, RunFacts(title="100 images", history=history()))
    tags = Tags(path.read_text(encoding="utf-8")).found
    assert len([tag for tag, _ in tags if tag == "img"]) == 100
    assert 1_000_000 < path.stat().st_size <= 15_000_000


def test_a_packed_image_is_the_image() -> None:
    shades = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    item = pack(ViewerImage("n", "c", "s", shades, {"m": shades[..., 0]}), 960)
    assert (unpacked(item.maps["m"]) == shades[..., 0]).all()
    shown = np.asarray(Image.open(io.BytesIO(item.data)).convert("L"), np.float64)
    assert np.abs(shown - shades[..., 0]).mean() < 4


def kept(scores: list[float], count: int) -> list[float]:
    keeper = Examples(count)
    for index, value in enumerate(scores):
        keeper.add(index, str(index), value, np.zeros((4, 4), np.uint8), None)
    return [e.miou for e in keeper.chosen()]


def test_the_worst_the_best_and_some_between_them_are_kept() -> None:
    scores = np.random.default_rng(0).permutation(1000) / 1000
    found = kept(scores.tolist(), 24)
    assert len(found) == 24 and found == sorted(found)
    assert found[:12] == [i / 1000 for i in range(12)] and found[-6:] == [i / 1000 for i in range(994, 1000)]
    assert len({int(v * 4) for v in found[12:18]}) >= 2, "not all from one end"
    assert kept([0.3, 0.1, 0.2], 24) == [0.1, 0.2, 0.3]
    assert kept([0.5] * 50, 10) == [0.5] * 10
    assert kept([0.1, 0.2], 0) == [] and kept([0.3, 0.1, 0.2], 1) == [0.1]


def test_commonest_confusions() -> None:
    matrix = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 0]])
    assert confusions(matrix) == [(1, 0, 30, 0.6, 0.3), (1, 2, 10, 0.2, 0.1), (0, 1, 10, 0.2, 0.1)]
    assert confusions(np.eye(3, dtype=np.int64)) == []


def test_history_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n[1]\n" + '{"step": 2, "lo')
    assert read_history(path) == [{"step": 1, "loss": 2.0}]
    assert read_history(tmp_path / "none") == []


def test_slices_label_errors_figures_and_the_tool_are_on_the_page() -> None:
    page = made_pages.evaluation()
    for part in ("Slices", "Clearly weaker than the rest", "to the rest, points", "-10.0", "-20.0 to -1.0",
                 "Scores under corruptions", "mean of the corruptions", "-30.0 to -10.0",
                 "Risk by coverage", "91.00", "1.10", "Likely label errors", "10 × 20 at 3, 4", "not shown",
                 "Figures", "calibration error",
                 "What torchvision", "temperature of 1.40", "Reliability", "Pixels by confidence"):  # fmt: skip
        assert part in page, part
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*|application/json.*", "", page))
    listed = page[page.index("Likely label errors") :]
    assert 'href="#images-' in listed[: listed.index("not shown")], "an image that is shown is linked"


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

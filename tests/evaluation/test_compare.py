"""A comparison: sentences, classes, speed and size, disagreements as images, and what is refused."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

import segwright as sw
from segwright.core.errors import LabelError, ModelError, UsageError
from segwright.core.types import LabelSpace
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation import evaluate as evaluating
from segwright.evaluation.compare import Comparison, compare, comparison_page, render_comparison, short_names, verdict
from segwright.evaluation.disagreements import (
    BOTH_WRONG,
    IGNORED,
    ONLY_FIRST,
    ONLY_SECOND,
    SketchCollector,
    disagreement,
    write_disagreements,
)
from segwright.evaluation.evaluate import evaluate
from segwright.evaluation.model_costs import ModelCost, dominated, time_models
from segwright.evaluation.sequences import BootstrapUnits
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.prediction import Prediction
from segwright.metrics.bootstrap import PairedDifference
from segwright.metrics.class_differences import class_differences
from segwright.models.catalog import create_model

SPACE = LabelSpace(("road", "tree", "sky"))
SIZE = (40, 60)


class Images:
    def __init__(self, masks: Sequence[Any]) -> None:
        self.name, self.label_space, self.masks = "val", SPACE, list(masks)
        self.ids = [f"s{i}x" for i in range(len(masks))]

    def __len__(self) -> int:
        return len(self.masks)

    def read_image(self, index: int) -> Any:
        image = np.full((*SIZE, 3), 80, np.uint8)
        image[..., 0] = index
        return image

    def read_mask(self, index: int) -> Any:
        return self.masks[index]


class Wrong:
    """Wrong in a share of the pixels of one class."""

    label_space = SPACE

    def __init__(self, masks: Sequence[Any], share: float, of: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels = []
        for mask in masks:
            labels = np.where(mask == 255, 0, mask).astype(np.uint8)
            lost = (mask == of) & (rng.random(mask.shape) < share)
            labels[lost] = (of + 1) % 3
            self.labels.append(labels)

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        labels = self.labels[int(image[0, 0, 0])]
        return Prediction(labels, np.ones(labels.shape, np.float32), SPACE, image)


def truth(count: int = 16) -> list[Any]:
    rng = np.random.default_rng(0)
    return [np.repeat(np.repeat(rng.integers(0, 3, (4, 6)), 10, 0), 10, 1).astype(np.uint8) for _ in range(count)]


def compared(count: int = 16, **more: Any) -> Comparison:
    masks = truth(count)
    data = Images(masks)
    one, two = Wrong(masks, 0.4, 1), Wrong(masks, 0.1, 1, seed=1)
    return compare({"old": evaluate(one, data), "new": evaluate(two, data)}, **more)


class Calls:
    """Takes ``count`` pixels of road for ``other``, in each image."""

    label_space = SPACE

    def __init__(self, masks: Sequence[Any], count: int, other: int) -> None:
        self.masks, self.count, self.other = masks, count, other

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        labels = self.masks[int(image[0, 0, 0])].copy()
        labels[tuple(np.argwhere(labels == 0)[: self.count].T)] = self.other
        return Prediction(labels, np.ones(labels.shape, np.float32), SPACE, image)


def test_a_class_that_no_image_holds_decides_nothing() -> None:
    """Half road, half tree, no sky. The first model takes 60 of 1200 pixels of road for tree:
    (1140/1200 + 1200/1260) / 2. The second takes 12 for sky, which costs road 12 pixels and not a third of the mean:
    (1188/1200 + 1) / 2."""
    mask = np.zeros(SIZE, np.uint8)
    mask[20:] = 1
    masks = [mask] * 8
    found = compare({
        "old": evaluate(Calls(masks, 60, 1), Images(masks)), "new": evaluate(Calls(masks, 12, 2), Images(masks))
    }, costs={"old": ModelCost(9.0, 2.0, 1e6, "cpu"), "new": ModelCost(9.0, 2.0, 1e6, "cpu")})  # fmt: skip
    d = found.differences["new"]
    expected = (1188 / 1200 + 1) / 2 - (1140 / 1200 + 1200 / 1260) / 2
    assert d.difference == pytest.approx(expected) and d.clear and d.low > 0
    assert "new is better than old" in found.sentences()[0] and found.dominated == {"old": ["new"], "new": []}
    note = "sky is predicted, but no pixel of these images is labeled as it: differences are over the other classes"
    screen = io.StringIO()
    render_comparison(found, Console(file=screen, width=200))
    assert found.to_json()["absent_classes"] == ["sky"] and note in screen.getvalue()
    assert note in comparison_page(found) and np.isnan(found.class_differences["new"][2].difference)
    assert compared().absent == []


# ---------------------------------------------------------------------------------------------------------------------
# Sentences and classes


def test_the_sentence_has_both_models_the_difference_its_interval_and_the_units() -> None:
    units = BootstrapUnits("blocks", tuple(f"b{i % 21}" for i in range(42)), ("a",) * 42)
    d = PairedDifference(0.021, 0.012, 0.03, 1.0, 21)
    assert verdict(d, "A", units, name="B") == (
        "B is better than A by 2.1 points of mIoU (95 %: 1.2 to 3.0, over 21 blocks of neighboring frames)."
    )
    worse = PairedDifference(-0.021, -0.03, -0.012, 0.0, 21)
    assert verdict(worse, "A", units, name="B").startswith("B is worse than A by 2.1 points of mIoU (95 %: 1.2 to 3.0")
    open_ = PairedDifference(0.004, -0.01, 0.02, 0.6, 21)
    assert verdict(open_, "A", units, name="B") == (
        "B is 0.4 points of mIoU above A: no significant difference on these images "
        "(95 %: -1.0 to 2.0, over 21 blocks of neighboring frames)."
    )
    assert "too few blocks" in verdict(PairedDifference(0.02, 0.01, 0.03, 1.0, 3), "A", units, name="B")
    nan = float("nan")
    assert "no interval" in verdict(PairedDifference(-0.02, nan, nan, nan, 1), "A", units, name="B")
    assert "same mIoU" in verdict(PairedDifference(0.0, 0.0, 0.0, 0.5, 21), "A", units, name="B")


def test_the_class_that_changed_is_marked_and_others_are_not() -> None:
    found = compared()
    road, tree, sky = found.class_differences["new"]
    assert tree.clear and tree.difference > 0.2 and tree.low < tree.difference < tree.high
    assert not road.clear and abs(road.difference) < 1e-9
    assert sky.difference > 0  # tree was taken for sky
    rows = json.loads(json.dumps(found.to_json(), allow_nan=False))["differences"][0]["per_class"]
    assert [row["name"] for row in rows] == ["road", "tree", "sky"] and rows[1]["clear"] is True


def test_chance_marks_no_class() -> None:
    rng = np.random.default_rng(0)
    marked = 0
    for _ in range(40):
        whole = rng.integers(800, 1200, (30, 1, 6))
        hits = [(whole * rng.uniform(0.6, 0.8, whole.shape)).astype(int) for _ in range(2)]
        a, b = (np.concatenate([hit, whole, hit], axis=1) for hit in hits)
        marked += any(one.clear for one in class_differences(a, b, groups=range(30)))
    assert marked <= 6  # Holm: 5 % of the tables, not of the classes


def test_a_class_of_few_units_has_no_mark_and_one_image_no_interval() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(500, 900, (20, 3, 2))
    a[:, 0] = 100
    a[3:, :, 1] = 0
    b = a.copy()
    b[:, 0] += 300 * (a[:, 1] > 0)
    first, second = class_differences(a, b, groups=range(20))
    assert first.clear and not second.clear and math.isnan(second.p_holm)
    one = class_differences(a[:1], b[:1], groups=[0])[0]
    assert math.isnan(one.low) and not one.clear


# ---------------------------------------------------------------------------------------------------------------------
# Speed and size


def test_times_are_interleaved_and_the_shortest_counts() -> None:
    now, order = [0.0], []

    def model(name: str, times: list[float]) -> Any:
        turns = iter(times)

        def predict(_: Any) -> None:
            order.append(name)
            now[0] += next(turns)

        return predict

    image = np.zeros((4, 4, 3), np.uint8)
    models = {"a": model("a", [9, 0.2, 0.1, 0.3]), "b": model("b", [9, 0.5, 0.4, 0.6])}
    found = time_models(models, [image], clock=lambda: now[0])
    assert order == ["a", "b"] * 4
    assert {name: time.best for name, time in found.items()} == {"a": pytest.approx(100), "b": pytest.approx(400)}
    assert {name: time.slowest for name, time in found.items()} == {"a": pytest.approx(300), "b": pytest.approx(600)}
    assert math.isnan(time_models({"a": print}, [])["a"].best)


def test_the_slowest_round_is_a_mean_over_its_images() -> None:
    now, times = [0.0], iter([9, 9, 0.1, 0.5, 0.2, 0.2])  # a warm-up and two rounds of two images

    def predict(_: Any) -> None:
        now[0] += next(times)

    found = time_models({"a": predict}, [np.zeros((4, 4, 3), np.uint8)] * 2, rounds=2, clock=lambda: now[0])["a"]
    assert (found.best, found.slowest) == (pytest.approx(150), pytest.approx(300))
    cost = ModelCost(found.best, 3.0, 1e6, "CPU", found.slowest)
    assert cost.spread == "150–300" and cost.to_json()["milliseconds_range"] == pytest.approx([150, 300])
    assert ModelCost(41.2, 3.0, 1e6, "CPU", 41.4).spread == ModelCost(41.2, 3.0, 1e6, "CPU").spread == "41"


def test_dominated_models_are_named_with_their_rivals() -> None:
    nan = float("nan")
    costs = {
        "small": ModelCost(10, 5, 1e6, "cpu"),
        "large": ModelCost(40, 50, 1e7, "cpu"),
        "slow": ModelCost(60, 60, 1e7, "cpu"),
        "noise": ModelCost(10.2, 5, nan, "cpu"),
        "unknown": ModelCost(nan, nan, nan, "cpu"),
    }
    quality = {"small": 0.6, "large": 0.7, "slow": 0.65, "noise": 0.6, "unknown": 0.1}
    found = dominated(quality, costs)
    assert found == {"small": [], "large": [], "slow": ["large"], "noise": [], "unknown": []}
    assert dominated({**quality, "noise": 0.5}, costs)["noise"] == ["small"]
    assert dominated({**quality, "noise": 0.5}, costs, lambda one, other: False)["noise"] == [], "within chance"


def test_speed_dominates_only_beyond_the_differences_between_rounds() -> None:
    """The same model twice on a loaded machine: 31–38 and 36–43 ms."""
    costs = {"one": ModelCost(31.0, 9.0, 2e6, "cpu", 38.0), "again": ModelCost(36.0, 9.0, 2e6, "cpu", 43.0)}
    assert dominated({"one": 0.5, "again": 0.5}, costs) == {"one": [], "again": []}
    costs["again"] = ModelCost(39.0, 9.0, 2e6, "cpu", 43.0)
    assert dominated({"one": 0.5, "again": 0.5}, costs) == {"one": [], "again": ["one"]}


def test_no_difference_on_one_image_is_in_words() -> None:
    alone = PairedDifference(0.0, float("nan"), float("nan"), float("nan"))
    assert verdict(alone, "a", name="b") == "b and a have the same mIoU on one image, which gives no interval."


def test_models_are_shown_by_the_ends_of_their_paths() -> None:
    assert short_names(["/a/runs/one/model", "/a/runs/two/model"]) == {
        "/a/runs/one/model": "one", "/a/runs/two/model": "two",
    }  # fmt: skip
    assert list(short_names(["/a/one", "/b/one"]).values()) == ["a/one", "b/one"]
    assert list(short_names(["old", "new"]).values()) == ["old", "new"]
    assert short_names(["run", "run/model"]) == {"run": "run", "run/model": "run/model"}
    names = ["/a/very/long/folder/old", "/a/very/long/folder/new"]
    evaluations = dict(zip(names, compared().evaluations.values(), strict=True))
    screen = io.StringIO()
    render_comparison(compare(evaluations), Console(file=screen, width=80))
    assert "new is better than old by" in screen.getvalue() and "folder" not in screen.getvalue()
    nine = dict(zip(["baseline1", "scratch20"], compared().evaluations.values(), strict=True))
    render_comparison(compare(nine), wide := Console(file=io.StringIO(), width=80))
    assert isinstance(wide.file, io.StringIO)
    row = next(line for line in wide.file.getvalue().splitlines() if line.startswith("scratch20 "))
    assert " to +" in row and len(row.split()) == 10, "the interval of the difference is in one line"


# ---------------------------------------------------------------------------------------------------------------------
# Disagreements


def test_the_images_that_differ_most_come_first_with_who_is_right() -> None:
    masks = truth(6)
    masks[2][:5] = 255
    data = Images(masks)
    one, two = Wrong(masks, 0, 1), Wrong(masks, 0, 1)
    two.labels[2] = two.labels[2].copy()
    two.labels[2][10:20] = (two.labels[2][10:20] + 1) % 3  # only the first is right
    one.labels[2] = one.labels[2].copy()
    one.labels[2][20:25] = (one.labels[2][20:25] + 1) % 3  # only the second
    one.labels[2][25:28] = (one.labels[2][25:28] + 1) % 3  # both wrong
    two.labels[2][25:28] = (two.labels[2][25:28] + 2) % 3
    two.labels[4] = two.labels[4].copy()
    two.labels[4][:1] = (two.labels[4][:1] + 1) % 3
    sketches = [SketchCollector(), SketchCollector()]
    for model, sketch in zip((one, two), sketches, strict=True):
        evaluate(model, data, collectors=[sketch])
    ranked = sketches[0].difference(sketches[1])
    assert [index for share, index in ranked if share > 0] == [2, 4]
    found = disagreement(2, "s2x", data, [("a", lambda i: one.labels[i]), ("b", lambda i: two.labels[i])])
    assert found is not None
    total = 35
    assert found.only_first == pytest.approx(10 / total) and found.only_second == pytest.approx(5 / total)
    assert found.both_wrong == pytest.approx(3 / total) and found.differ == pytest.approx(18 / total)
    who = dict(found.panels)["who is right"]
    for row, color in ((2, IGNORED), (15, ONLY_FIRST), (22, ONLY_SECOND), (26, BOTH_WRONG)):
        assert tuple(who[row, 30]) == color


def test_an_image_that_cannot_be_read_again_is_left_out(tmp_path: Path) -> None:
    masks = truth(2)
    data = Images(masks)
    data.masks[1] = None
    models = [("a", lambda i: masks[i]), ("b", lambda i: masks[i])]
    assert disagreement(1, "x", data, models) is None
    found = disagreement(0, "../x", data, models)
    assert found is not None
    written = write_disagreements(tmp_path / "out", [found])
    assert written[0].parent == tmp_path / "out" and cv2.imread(str(written[0])).shape[1] > 5 * SIZE[1]


def test_terminal_and_page_show_it_all() -> None:
    masks = truth(2)
    pair = [("old", lambda i: masks[i]), ("new", lambda i: (masks[i] + 1) % 3)]
    apart = disagreement(0, "s0x", Images(masks), pair)
    assert apart is not None
    costs = {"old": ModelCost(40, 50, 1e7, "cpu, 2 threads"), "new": ModelCost(10, float("nan"), float("nan"), "cpu")}
    found = compared(costs=costs, disagreements=[apart])
    screen = io.StringIO()
    render_comparison(found, Console(file=screen, width=100))
    text = screen.getvalue()
    for words in (
        "new is better than old by",
        "old is dominated: new is",
        "cpu, 2 threads",
        "100 % of the pixels differ",
    ):
        assert words in text
    assert "… and" not in text
    screen = io.StringIO()
    render_comparison(compared(disagreements=[apart] * 7), Console(file=screen, width=100))
    assert "… and 2 images more" in screen.getvalue()
    page = comparison_page(found, command="segwright compare")
    for words in ("Where the models differ most", "ms per image", "only old right 100 %", "data:image/webp",
                  "Differences of the classes", "IoU minus that of old, points"):  # fmt: skip
        assert words in page
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tree["costs"][0]["dominated_by"] == ["new"] and tree["disagreements"][0]["id"] == "s0x"
    assert not {"panels", "image", "maps"} & set(tree["disagreements"][0])


# ---------------------------------------------------------------------------------------------------------------------
# From files


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compare")
    write_street_scenes(place / "streets", train=6, val=3, test=3, size=(64, 96))
    for name, seed in (("one", 1), ("two", 2)):
        sw.train(
            place / "streets", model="leannet", epochs=1, out=place / name, size=(32, 48), batch=4, device="cpu",
            workers=1, seed=seed,
        )  # fmt: skip
    return place


def test_models_from_files(runs: Path) -> None:
    found = sw.compare([runs / "one", runs / "two"], runs / "streets", device="cpu", disagreements=2)
    assert all(cost.milliseconds > 0 and cost.megabytes > 0 and cost.parameters > 0 for cost in found.costs.values())
    assert len(found.disagreements) <= 2 and all(one.first == str(runs / "one") for one in found.disagreements)
    plain = sw.compare([runs / "one", runs / "two"], runs / "streets", device="cpu", speed=False, disagreements=0)
    assert not plain.costs and not plain.disagreements and len(plain.sentences()) == 1
    one_image = sw.open_dataset(runs / "streets").test[:1]
    single = sw.compare([runs / "one", runs / "two"], one_image, device="cpu", speed=False)
    assert "no interval" in single.sentences()[0]


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="two models"):
        sw.compare([runs / "one"], runs / "streets")
    with pytest.raises(UsageError, match="twice"):
        sw.compare([runs / "one", runs / "one" / "model"], runs / "streets")
    with pytest.raises(UsageError, match="not negative"):
        sw.compare([runs / "one", runs / "two"], runs / "streets", disagreements=-1)
    other = write_street_scenes(tmp_path / "other", train=1, val=1, test=1, size=(64, 96))
    names = (other / "classes.txt").read_text()
    (other / "classes.txt").write_text(names.replace("sky", "heaven"))
    with pytest.raises(LabelError, match="classes are not the data's"):
        sw.compare([runs / "one", runs / "two"], other)
    network = create_model("leannet", classes=2, weights=None)
    save_bundle(tmp_path / "two-classes", network.eval(), Bundle("leannet", LabelSpace(("a", "b")), {}))
    monkeypatch.setattr(evaluating, "score", lambda *_, **__: pytest.fail("scored before all models were checked"))
    with pytest.raises(LabelError, match="classes are not the data's") as refused:
        sw.compare([runs / "one", tmp_path / "two-classes"], runs / "streets", device="cpu")
    assert str(refused.value.where) == str(tmp_path / "two-classes")


def test_a_model_whose_output_is_not_finite_is_named(runs: Path, tmp_path: Path) -> None:
    space = sw.open_dataset(runs / "streets").label_space
    network = create_model("leannet", classes=space.classes, weights=None).eval()
    for value in network.parameters():
        value.data.fill_(float("nan"))
    save_bundle(tmp_path / "broken", network, Bundle("leannet", space, {}))
    with pytest.raises(ModelError, match="output is not finite") as refused:
        sw.compare([runs / "one", tmp_path / "broken"], runs / "streets", device="cpu", speed=False)
    assert str(refused.value.where) == str(tmp_path / "broken")


def test_better_is_said_of_these_models_and_not_of_their_recipes() -> None:
    found = compared()
    assert found.differences["new"].clear
    note = "the intervals are over images, not over trainings: they hold for these models, and the same recipe"
    tree = found.to_json()
    assert tree["notes"][-1].startswith(note)
    output = io.StringIO()
    render_comparison(found, Console(file=output, width=200))
    assert f"note: {note}" in output.getvalue() and note in comparison_page(found)
    masks = truth()
    same = compare({name: evaluate(Wrong(masks, 0.4, 1), Images(masks)) for name in ("old", "new")})
    assert not any("trainings" in line for line in same.notes), "nothing is claimed"

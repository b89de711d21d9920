"""Likely label errors: planted ones rank first, outlines do not count, and what cannot be searched is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.evaluation import label_errors
from segwright.evaluation.evaluate import evaluate
from segwright.evaluation.label_errors import SCORINGS, LabelErrorCollector, write_label_errors
from segwright.inference.prediction import Prediction

SPACE = LabelSpace(("road", "tree", "sky", "car"))
SIZE = (120, 160)


def scene(rng: np.random.Generator) -> Any:
    """Sky over road, with a tree and a car."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:60] = 2
    x = int(rng.integers(10, 70))
    mask[30:70, x : x + 20] = 1
    mask[70:95, x + 40 : x + 75] = 3
    return mask


class Images:
    def __init__(self, masks: Sequence[Any]) -> None:
        self.name, self.label_space, self.masks = "val", SPACE, list(masks)
        self.ids = [f"shot_{i}" for i in range(len(masks))]

    def __len__(self) -> int:
        return len(self.masks)

    def read_image(self, index: int) -> Any:
        image = np.full((*SIZE, 3), 90, np.uint8)
        image[..., 0] = index
        return image

    def read_mask(self, index: int) -> Any:
        return self.masks[index]


class Predictor:
    """Right at 0.8, but for systematic confusions given as (class, taken for, probability)."""

    def __init__(self, truth: Sequence[Any], confused: Sequence[tuple[int, int, float]] = ()) -> None:
        self.label_space, self.truth, self.confused = SPACE, truth, confused

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        truth = self.truth[int(image[0, 0, 0])]
        p = np.full((4, *truth.shape), 0.2 / 3, np.float32)
        np.put_along_axis(p, truth[None].astype(np.int64), 0.8, 0)
        for true, taken, sure in self.confused:
            here = truth == true
            p[:, here] = (1 - sure) / 3
            p[taken, here] = sure
        labels = p.argmax(0).astype(np.uint8)
        return Prediction(labels, p.max(0), SPACE, image, p if probabilities else None)


def search(given: Sequence[Any], predictor: Predictor, **options: Any) -> label_errors.LabelErrors:
    collector = LabelErrorCollector(SPACE)
    evaluate(predictor, Images(given), collectors=[collector], boundary=False)
    return collector.result(**options)


def planted() -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    truth = [scene(rng) for _ in range(12)]
    given = [mask.copy() for mask in truth]
    given[3][given[3] == 3] = 1  # a car given as tree
    given[7][given[7] == 1] = 2  # a tree that was forgotten: given as sky (and road) behind it
    return truth, given


def test_planted_errors_come_first_with_what_they_should_be() -> None:
    truth, given = planted()
    found = search(given, Predictor(truth))
    first = [(r.id, SPACE.names[r.given], SPACE.names[r.suggested]) for r in found.regions]
    assert sorted(first) == [("shot_3", "tree", "car"), ("shot_7", "sky", "tree")]
    car = next(r for r in found.regions if r.id == "shot_3")
    ys, xs = np.nonzero(truth[3] == 3)
    assert car.box == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
    # the disk that opens the region rounds its corners
    assert 0.98 * len(ys) <= car.pixels <= len(ys) and car.mask().sum() == car.pixels
    assert car.given_probability == pytest.approx(0.2 / 3) and car.suggested_probability == pytest.approx(0.8)
    assert [name for name, score in found.images[:2] if score > 0] == [r.id for r in found.regions]
    assert len(found.images) == 12 and found.images[-1][1] == 0
    assert found.thresholds[0] == pytest.approx(0.8, abs=0.02)
    assert found.joint[1, 3] == (truth[3] == 3).sum()


def test_what_the_model_always_confuses_ranks_below_a_rare_disagreement() -> None:
    """The margin alone has it the other way round: the model's own error is the more confident one."""
    truth, given = planted()
    given[3] = truth[3]
    predictor = Predictor(truth, confused=[(3, 0, 0.95)])  # every car is taken for road, confidently
    ranked = search(given, predictor)
    assert (ranked.regions[0].id, ranked.regions[0].suggested) == ("shot_7", 1)
    by_margin = search(given, predictor, scoring="margin")
    assert by_margin.regions[0].suggested == 0


def test_what_recurs_in_many_images_ranks_below_what_occurs_once() -> None:
    """Both pairs are as rare by their pixels; one is spread over six images, the other is one region and a doubt."""
    truth = np.zeros(SIZE, np.uint8)
    truth[60:] = 1
    collector = LabelErrorCollector(SPACE)
    for index in range(8):
        p = np.full((4, *SIZE), 0.2 / 3, np.float32)
        np.put_along_axis(p, truth[None].astype(np.int64), 0.8, 0)
        side, taken, sure = (16, 2, 0.8) if index < 6 else (16, 3, 0.8) if index == 6 else (40, 3, 0.5)
        block = np.s_[:, 8 : 8 + side, 30 : 30 + side]
        p[block] = (1 - sure) / 10
        p[taken][block[1:]], p[0][block[1:]] = sure, (1 - sure) * 0.8
        collector.add(index, f"shot_{index}", None, truth, truth, None, p)
    found = collector.result()
    assert next(r.id for r in found.regions) == "shot_6"
    assert {r.id for r in found.regions[1:7]} == {f"shot_{index}" for index in range(6)}
    margins = {r.id: r.margin for r in found.regions}
    assert margins["shot_6"] == pytest.approx(margins["shot_0"]), "the margin does not tell them apart"


def test_outlines_that_differ_are_no_errors_and_small_regions_neither() -> None:
    truth, _ = planted()
    given = [cv2.dilate(mask, np.ones((3, 3), np.uint8)) for mask in truth]
    given[0][5:8, 5:8] = 3
    assert not search(given, Predictor(truth)).regions
    collector = LabelErrorCollector(SPACE, tolerance=0)
    evaluate(Predictor(truth), Images(given), collectors=[collector], boundary=False)
    assert collector.result().regions  # without a tolerance they would be


def test_one_error_that_is_found_in_pieces_is_listed_once() -> None:
    truth, given = planted()
    for mask in truth[3:4]:  # the model takes half of the car for road
        ys, xs = np.nonzero(mask == 3)
        mask[ys[xs > xs.mean()], xs[xs > xs.mean()]] = 2
    found = search(given, Predictor(truth))
    assert [r.id for r in found.regions].count("shot_3") == 1
    assert len(found.regions) == found.found == 2


def test_ignored_pixels_are_never_suspect() -> None:
    truth, given = planted()
    for mask in given:
        mask[mask != truth[0]] = 255
    assert not search(given, Predictor(truth)).regions or all(
        not (given[r.index][r.box[1] : r.box[1] + r.box[3], r.box[0] : r.box[0] + r.box[2]][r.mask()] == 255).any()
        for r in search(given, Predictor(truth)).regions
    )


@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_scoring_ranks_and_limits(scoring: str) -> None:
    truth, given = planted()
    found = search(given, Predictor(truth), scoring=scoring, limit=1)
    assert len(found.regions) == 1 and found.found == 2 and found.scoring == scoring
    json.dumps(found.to_json(), allow_nan=False)


def test_the_number_of_kept_regions_is_bounded_and_the_loss_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors, "KEPT", 4)
    truth, _ = planted()
    given = [np.where(mask == 3, 1, mask).astype(np.uint8) for mask in truth]
    found = search(given, Predictor(truth))
    assert 0 < len(found.regions) <= 4 and any("not kept" in note for note in found.notes)


def test_one_image_gives_an_answer() -> None:
    truth, given = planted()
    found = search(given[3:4], Predictor(truth[3:4]))
    assert [(r.given, r.suggested) for r in found.regions] == [(1, 3)]
    clean = search(truth[:1], Predictor(truth[:1]))
    assert clean.regions == [] and clean.images == [("shot_0", 0.0)]


def test_refused_are_masks_unknown_scorings_and_empty_lists() -> None:
    collector = LabelErrorCollector(SPACE)
    mask = np.zeros(SIZE, np.uint8)
    with pytest.raises(UsageError, match="probabilities"):
        collector.add(0, "a", None, mask, mask, None)
    with pytest.raises(UsageError, match="scoring"):
        collector.result(scoring="best")
    with pytest.raises(UsageError, match="at least one"):
        collector.result(limit=0)
    with pytest.raises(UsageError, match="tolerance"):
        LabelErrorCollector(SPACE, least_share=0)


def test_training_images_are_named() -> None:
    truth, given = planted()
    collector = LabelErrorCollector(SPACE)
    evaluate(Predictor(truth), Images(given), collectors=[collector], boundary=False)
    found = collector.result(trained_on={"shot_3": True})
    assert next(r for r in found.regions if r.id == "shot_3").in_training is True
    assert any("trained on 1 of the 12" in note for note in found.notes)
    assert any("not known" in note for note in collector.result().notes)
    assert collector.result(trained_on=dict.fromkeys(collector.ids, False)).notes == []


def test_list_and_images_are_written(tmp_path: Path) -> None:
    truth, given = planted()
    data = Images(given)
    data.ids[3] = "../night 3/shot"
    collector = LabelErrorCollector(SPACE)
    evaluate(Predictor(truth), data, collectors=[collector], boundary=False)
    write_label_errors(tmp_path / "out", collector.result(), data)
    tree = json.loads((tmp_path / "out" / "label_errors.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "label_errors.csv").open()))
    assert [row["given"] for row in rows] == [row["given"] for row in tree["regions"]]
    assert {row["id"] for row in rows} == {"../night 3/shot", "shot_7"}
    for row in rows:
        file = tmp_path / "out" / row["image_file"]
        assert file.resolve().parent == (tmp_path / "out" / "images").resolve()
        drawn = cv2.imread(str(file))
        assert drawn is not None and drawn.shape[1] > drawn.shape[0]


def test_an_image_that_cannot_be_read_again_is_noted(tmp_path: Path) -> None:
    truth, given = planted()
    data = Images(given)
    collector = LabelErrorCollector(SPACE)
    evaluate(Predictor(truth), data, collectors=[collector], boundary=False)
    data.masks[3] = None
    found = collector.result()
    write_label_errors(tmp_path, found, data)
    assert any("could not be read again" in note for note in found.notes)
    assert len(list((tmp_path / "images").iterdir())) == 1

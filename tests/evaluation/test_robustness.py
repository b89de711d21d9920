"""Scores under corruptions: which images are scored, pairing, intervals, the table, JSON, the page, wrong input."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from segwright.augment.corruptions import CORRUPTIONS, corrupt
from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.evaluation.evaluate import Evaluation, evaluate
from segwright.evaluation.report import RunFacts, report_page
from segwright.evaluation.robustness import CorruptedImages, CorruptionScores, evaluate_corrupted, parse_corruptions
from segwright.evaluation.terminal import render_evaluation
from segwright.inference.prediction import Prediction
from segwright.metrics.bootstrap import paired_difference, resampled_sums
from segwright.metrics.confusion import class_counts, count_pairs, iou_per_class, nanmean

SPACE = LabelSpace(("dark", "bright"))


class Squares:
    """Bright squares on dark ground; some images have no mask, one has only ignored pixels."""

    def __init__(self, count: int = 12, without: tuple[int, ...] = (2,), ignored: tuple[int, ...] = (5,)) -> None:
        self.name, self.label_space, self.without, self.ignored = "val", SPACE, without, ignored
        self.ids = [f"photo {chr(97 + i)}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def read_mask(self, index: int) -> Any:
        if index in self.without:
            return None
        mask = np.zeros((48, 64), np.uint8)
        mask[10 + index : 30 + index, 8 + 2 * index : 30 + 2 * index] = 1
        return np.full_like(mask, 255) if index in self.ignored else mask

    def read_image(self, index: int) -> Any:
        mask = np.zeros((48, 64), np.uint8)
        mask[10 + index : 30 + index, 8 + 2 * index : 30 + 2 * index] = 1
        rng = np.random.default_rng(index)
        return (40 + 150 * mask[..., None] + rng.integers(0, 12, (48, 64, 3))).astype(np.uint8)


class Threshold:
    """Right on clean images: what is brighter than 128 is bright."""

    label_space = SPACE

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        self.seen.append(image)
        labels = (image.mean(axis=2) > 115).astype(np.uint8)
        return Prediction(labels, np.full(labels.shape, 0.9, np.float32), SPACE, image, None)


def scored(corruptions: str | list[str], data: Squares | None = None) -> tuple[Evaluation, CorruptionScores, Threshold]:
    data, predictor = data or Squares(), Threshold()
    found = evaluate(predictor, data)
    predictor.seen.clear()
    part = evaluate_corrupted(predictor, data, found, parse_corruptions(corruptions))
    found.parts["corruptions"] = part
    return found, part, predictor


def test_every_scored_image_is_predicted_as_corrupt_makes_it() -> None:
    found, part, predictor = scored(["brightness:5", "gaussian_noise:4"])
    data = Squares()
    kept = [i for i in range(12) if i not in (2, 5)]
    assert [str(one) for one in part.scores] == ["brightness:5", "gaussian_noise:4"]
    wanted = [corrupt(data.read_image(i), name, s, seed=i)
              for name, s in (("brightness", 5), ("gaussian_noise", 4)) for i in kept]  # fmt: skip
    assert len(predictor.seen) == len(wanted)
    assert all(np.array_equal(a, b) for a, b in zip(predictor.seen, wanted, strict=True))
    one, model = part.scores[1], Threshold()
    counts = np.stack([
        class_counts(count_pairs(model.predict(image).labels, data.read_mask(i), 2))
        for i, image in zip(kept, wanted[len(kept) :], strict=True)
    ])  # fmt: skip
    np.testing.assert_array_equal(one.scored.counts, counts)
    assert one.miou == pytest.approx(nanmean(iou_per_class(counts.sum(axis=0))))
    paired = paired_difference(found.counts, counts, groups=found.independent.groups)
    assert (one.change.low, one.change.high) == (paired.low, paired.high)
    assert one.change.difference < 0 < found.miou and one.change.clear


def test_the_clean_row_is_that_of_the_evaluation_and_the_mean_is_the_mean() -> None:
    found, part, _ = scored(["brightness:5", "contrast:5", "fog"])
    tree = part.to_json()
    assert tree["clean"]["miou"] == found.miou and tree["clean"]["ece"] == found.figures["ece"]
    assert tree["clean"]["miou_ci95"] == pytest.approx(list(found.interval("miou")))
    values = [one["miou"] for one in tree["corruptions"]]
    assert tree["mean"]["miou"] == pytest.approx(np.mean(values))
    assert tree["mean"]["change"] == pytest.approx(np.mean(values) - found.miou)
    assert tree["mean"]["kept"] == pytest.approx(np.mean(values) / found.miou)
    low, high = tree["mean"]["miou_ci95"]
    assert low <= tree["mean"]["miou"] <= high
    kept = []
    for drawn in resampled_sums({"image": np.eye(10)}, groups=found.independent.groups):
        for weights in drawn["image"]:
            pooled = [
                nanmean(iou_per_class((weights[:, None, None] * counts).sum(axis=0)))
                for counts in (found.counts, *(one.scored.counts for one in part.scores))
            ]
            kept.append(np.mean(pooled[1:]) / pooled[0])
    low, high = tree["mean"]["kept_ci95"]
    assert (low, high) == pytest.approx(tuple(np.quantile(kept, [0.025, 0.975]))) and low < high
    assert f"% (95 %: {100 * low:.0f} to {100 * high:.0f} %) of the" in part.sentence()
    assert tree["interval_over"] == "images" and tree["interval_count"] == 10
    assert {one["name"] for one in tree["corruptions"][0]["per_class"]} == set(SPACE.names)
    assert json.loads(json.dumps(found.to_json()))["corruptions"] == json.loads(json.dumps(tree))


def test_sequences_stay_whole_and_one_image_has_no_interval() -> None:
    data, predictor = Squares(12, (), ()), Threshold()
    found = evaluate(predictor, data, groups=[i // 3 for i in range(12)])
    part = evaluate_corrupted(predictor, data, found, [("gaussian_noise", 5)])
    assert part.units.over == "sequences" and part.units.count == 4
    assert not part.scores[0].change.clear, "four sequences are too few for a verdict"
    alone = scored("fog", Squares(1, (), ()))[1].to_json()
    assert alone["corruptions"][0]["change_ci95"] == [None, None] and alone["mean"]["miou_ci95"] == [None, None]


def test_the_pattern_of_an_image_does_not_depend_on_which_are_scored() -> None:
    data = Squares()
    whole, part = CorruptedImages(data, range(12), "snow", 3), CorruptedImages(data, [7, 9], "snow", 3)
    np.testing.assert_array_equal(whole.read_image(9), part.read_image(1))
    assert part.ids == [data.ids[7], data.ids[9]] and part.read_mask(0) is not None
    assert not np.array_equal(part.read_image(0) // 8, part.read_image(1) // 8)


def test_names_and_strengths() -> None:
    assert parse_corruptions("fog") == [("fog", 3)]
    assert parse_corruptions(["fog:5", "snow", "fog:3", "fog"]) == [("fog", 5), ("snow", 3), ("fog", 3)]
    assert parse_corruptions("all") == [(name, 3) for name in CORRUPTIONS] and len(CORRUPTIONS) == 15
    assert parse_corruptions(["all:5", "fog:5", "fog:1"])[-1] == ("fog", 1)
    assert len(parse_corruptions(["all:5", "fog:5"])) == 15
    for wrong in ("mist", "fog:6", "fog:", "all:0", "all:", "", ":3", [], ["fog", "FOG"]):
        with pytest.raises(UsageError) as caught:
            parse_corruptions(wrong)
        assert "fog" in str(caught.value.expected) or "all:1" in str(caught.value.expected)


def test_the_table_fits_80_columns_and_the_page_has_chart_and_rows() -> None:
    found, _, _ = scored("all:5")
    text = io.StringIO()
    render_evaluation(found, Console(file=text, width=80))
    table = text.getvalue()
    for name in CORRUPTIONS:
        assert re.search(rf"^{name}:5 +[0-9.]+ +[0-9.]+–[0-9.]+ ", table, re.MULTILINE), name
    assert re.search(r"^clean +100\.0", table, re.MULTILINE) and "mean, corrupted" in table
    assert "Mean over 15 corruptions:" in table and "Lowest:" in table
    rows = [line for line in table.splitlines() if re.match(r"[a-z_]+:5|clean|mean, c|images ", line)]
    assert len(rows) == 18 and all(" to " in row for row in rows[2:]) and max(map(len, rows)) <= 80
    page = report_page(found, Squares(), RunFacts())
    section = page[page.index("<h2>Corruptions</h2>") :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 1 + 1 + 15 + 1 and "mean of the corruptions" in section
    assert section.count('class="whisker"') == 16, "the interval of the clean score and of each corruption"
    assert not re.search(r"\bnan\b|built-in", section) and section.count("<td>yes</td>") == 15

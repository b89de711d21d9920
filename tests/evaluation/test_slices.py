"""Slices: what each counts, the columns of a CSV file, what is named as weak, and files that are refused."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from segwright.core.errors import DataError
from segwright.core.types import LabelSpace
from segwright.evaluation.class_pairs import frequent_pairs
from segwright.evaluation.evaluate import Evaluation, evaluate
from segwright.evaluation.parts import EvaluationParts
from segwright.evaluation.sequences import find_units
from segwright.evaluation.slice_columns import match_columns, read_table, thirds
from segwright.evaluation.slices import (
    SliceCollector,
    Slices,
    band_counts,
    component_sizes,
    light,
    size_counts,
    slices_table,
)
from segwright.evaluation.terminal import render_evaluation
from segwright.inference.prediction import Prediction
from segwright.metrics.contrasts import contrast

SPACE = LabelSpace(("road", "car"))


class Images:
    def __init__(self, masks: Sequence[Any], gray: Sequence[int], ids: Sequence[str] = ()) -> None:
        self.name, self.label_space, self.masks, self.gray = "val", SPACE, list(masks), gray
        self.ids = list(ids) or [f"day {i % 2}/shot_{i}{chr(97 + i)}" for i in range(len(masks))]

    def __len__(self) -> int:
        return len(self.masks)

    def read_image(self, index: int) -> Any:
        return np.full((*self.masks[index].shape, 3), self.gray[index], np.uint8)

    def read_mask(self, index: int) -> Any:
        return self.masks[index]


class DarkIsHard:
    """Misses more of the car the darker the image is; gray below 100 is dark."""

    label_space = SPACE

    def __init__(self, masks: dict[int, Any]) -> None:
        self.masks = masks

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        gray = int(image[0, 0, 0])
        labels = self.masks[gray].copy()
        ys, xs = np.nonzero(labels == 1)
        lost = (0.7 if gray < 100 else 0.1) + 0.002 * (gray % 10)
        labels[ys[: int(lost * len(ys))], xs[: int(lost * len(ys))]] = 0
        p = np.stack([labels == 0, labels == 1]).astype(np.float32) if probabilities else None
        return Prediction(labels, np.ones(labels.shape, np.float32), SPACE, image, p)


def scenes(count: int = 24) -> Images:
    rng = np.random.default_rng(0)
    masks, gray = [], []
    for i in range(count):
        mask = np.zeros((60, 80), np.uint8)
        x, y = rng.integers(5, 40, 2)
        mask[y : y + 14, x : x + 22] = 1
        masks.append(mask)
        gray.append(60 + i if i < count // 3 else 140 + i)
    return Images(masks, gray)


def run(data: Images, slices: str | Path = "auto") -> Evaluation:
    parts = EvaluationParts(slices)
    predictor = DarkIsHard(dict(zip(data.gray, data.masks, strict=True)))
    found = evaluate(predictor, data, collectors=parts.collectors(data))
    parts.finish(found, data)
    return found


def slices_of(found: Evaluation) -> Slices:
    slices = found.parts["slices"]
    assert isinstance(slices, Slices)
    return slices


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------------------------
# What is counted


def test_object_sizes_and_boundary_bands_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.integers(0, 3, (6, 8)), 10, 0), 10, 1).astype(np.uint8)
    labels = np.repeat(np.repeat(rng.integers(0, 3, (12, 16)), 5, 0), 5, 1).astype(np.uint8)
    truth[:7, :9] = 255
    valid = truth != 255
    whole = np.stack(
        [np.bincount(x, minlength=3) for x in (truth[valid & (truth == labels)], truth[valid], labels[valid])]
    )
    for parts in (size_counts(truth, labels, 3), band_counts(truth, labels, 3)):
        np.testing.assert_array_equal(parts.sum(axis=0), whole)


def test_an_object_counts_at_its_own_size_and_a_false_one_at_that_of_the_prediction() -> None:
    truth, labels = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    truth[:5, :5] = 1  # 25 of 10,000: small; missed
    truth[50:90, 50:90] = 1  # large; found
    labels[50:90, 50:90] = 1
    labels[20:30, 20:30] = 1  # medium: 100; false
    hit, true, predicted = (size_counts(truth, labels, 2)[:, row, 1].tolist() for row in range(3))
    assert (hit, true, predicted) == ([0, 0, 1600], [25, 0, 1600], [0, 100, 1600])
    assert set(np.unique(component_sizes(truth, 2))) == {25, 1600, 8375}


def test_bands_follow_the_distance_and_borders_with_ignored_pixels_are_none() -> None:
    truth = np.zeros((300, 400), np.uint8)  # diagonal 500: bands end at 2.5 and 10 pixels
    truth[:, 200:] = 1
    truth[:150] = 255
    at, near, inside = band_counts(truth, truth, 2)[:, 1].sum(axis=1).tolist()
    assert at == 150 * 2 * 3 and near == 150 * 2 * 7 and inside == 150 * (400 - 20)
    flat = np.zeros((30, 40), np.uint8)
    assert band_counts(flat, flat, 2)[:, 1].sum(axis=1).tolist() == [0, 0, 1200]


def test_light_is_gray_value_and_sharpness() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
    assert light(np.full((8, 8, 3), 77, np.uint8)) == (77.0, 0.0)
    assert light(noise)[1] > 1000 and light(noise[..., :1])[1] > 1000


def test_thirds_of_values_that_repeat_are_fewer() -> None:
    assert [s.sum() for s in thirds(np.arange(9.0)).values()] == [3, 3, 3]
    assert len(thirds(np.zeros(9))) == 1 and thirds(np.full(3, np.nan)) == {}
    with_gap = np.array([1.0, np.nan, 2.0, 3.0])
    assert not any(inside[1] for inside in thirds(with_gap).values())


# ---------------------------------------------------------------------------------------------------------------------
# What is shown


def test_the_weak_slice_is_named_and_one_that_is_not_clear_is_not() -> None:
    slices = slices_of(run(scenes()))
    dark = next(s for s in slices.slices if s.name.startswith("dark"))
    assert dark.clear and dark.found.difference < -0.1 and dark.images == 8
    assert "brightness" in slices.sentence() and "dark" in slices.sentence()
    even = scenes()
    even.gray = [140 + i for i in range(24)]  # none is dark
    even_slices = slices_of(run(even))
    assert not any(s.clear for s in even_slices.slices if s.by.startswith("brightness"))
    assert "brightness" not in even_slices.sentence()


def test_json_is_a_list_and_the_table_fits_80_columns() -> None:
    found = run(scenes())
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    first = tree["slices"][0]
    assert {"by", "name", "images", "miou", "miou_ci95", "difference", "difference_ci95", "p_holm", "clear"} <= set(
        first
    )
    text = io.StringIO()
    Console(file=text, width=80).print(slices_table(slices_of(found).slices))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and any("…" not in line and "dark" in line for line in lines)
    text = io.StringIO()
    render_evaluation(found, Console(file=text, width=80))
    assert "Clearly weaker than the rest" in text.getvalue()


def test_one_image_and_few_images_have_no_verdict() -> None:
    data = scenes()
    one = Images(data.masks[:1], data.gray[:1])
    assert "enough images" in slices_of(run(one)).sentence()
    few = Images(data.masks[6:10], data.gray[6:10])
    assert not any(s.clear for s in slices_of(run(few)).slices)


# ---------------------------------------------------------------------------------------------------------------------
# Classes that occur together

STREET = LabelSpace(("road", "car", "person"))


def street(*shown: str) -> Any:
    """(10, 10): road with 20 pixels of each class ``shown``."""
    mask = np.zeros((10, 10), np.uint8)
    for name in shown:
        kind = STREET.names.index(name)
        mask[2 * kind : 2 * kind + 2] = kind
    return mask


def collected(scored: Sequence[tuple[Any, Any]], space: LabelSpace = STREET) -> Slices:
    """The slices of (truth, prediction)."""
    collector = SliceCollector(space)
    for number, (truth, labels) in enumerate(scored):
        image = np.full((*truth.shape, 3), 100, np.uint8)
        collector.add(number, f"shot {number}", image, truth, labels, None)
    return collector.result(find_units(collector.ids, groups=[f"drive {number % 6}" for number in range(len(scored))]))


def street_scenes() -> list[tuple[Any, Any]]:
    """6 images of car and person in which half of the car is missed, 6 of a car, found, 6 of road alone, in which cars
    are predicted."""
    half_missed = street("car", "person")
    half_missed[2] = 0
    return (
        [(street("car", "person"), half_missed)] * 6
        + [(street("car"), street("car"))] * 6
        + [(street(), street("car"))] * 6
    )


def test_pairs_of_classes_by_hand() -> None:
    slices = collected(street_scenes())
    by = {one.name: one for one in slices.slices if one.classes}
    # road is everywhere: it divides no images of another class, others divide its images; "road and car" would be "car"
    assert list(by) == ["car and person", "road with car", "road with person", "car with person"]
    together = by["car and person"]
    # with: road 60 of 70 predicted, car 10 of 20, person whole; without: road 80 + 80 of 100 true, car 20 of 40
    assert (together.by, together.images, together.classes) == ("classes together", 6, ("car", "person"))
    assert together.found.miou == pytest.approx((6 / 7 + 1 / 2 + 1) / 3)
    assert together.found.rest == pytest.approx((160 / 180 + 1 / 2) / 2) and together.found.classes == 2
    assert together.found.difference == pytest.approx((6 / 7 + 1 / 2) / 2 - (160 / 180 + 1 / 2) / 2)
    one = by["car with person"]
    # of the images that show a car: the cars that are predicted on the road alone are in neither side
    assert (one.by, one.images, one.classes) == ("IoU of a class with another", 6, ("car", "person"))
    assert (one.found.miou, one.found.rest, one.found.difference) == (0.5, 1.0, -0.5)
    assert (one.found.units, one.found.rest_units, one.found.classes) == (6, 6, 1) and one.pixels == 120
    assert one.clear and (one.found.low, one.found.high, one.found.difference_high) == (0.5, 0.5, -0.5)
    assert by["road with car"].found.rest == pytest.approx(80 / 100)
    assert "car with person (50.0 % IoU, 50.0 points below images without person" in slices.sentence()


def test_pairs_of_classes_are_in_json_and_text() -> None:
    slices = collected(street_scenes())
    tree = {one["name"]: one for one in json.loads(json.dumps(slices.to_json(), allow_nan=False))}
    assert tree["car with person"]["classes"] == ["car", "person"] and tree["car with person"]["figure"] == "iou"
    assert tree["car with person"]["miou_ci95"] == [0.5, 0.5] and tree["car with person"]["rest_miou"] == 1
    assert tree["car and person"]["figure"] == "miou" and tree["car"]["classes"] == []
    text = io.StringIO()
    Console(file=text, width=80).print(slices_table(slices.slices))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and any("car with person" in line and "* -50.0" in line for line in lines)


def test_pairs_are_the_most_frequent_and_few() -> None:
    rng = np.random.default_rng(0)
    space = LabelSpace(tuple(f"class {i}" for i in range(9)))
    scored = []
    for _ in range(60):
        mask = np.zeros((9, 9), np.uint8)
        for kind in range(1, 9):
            if rng.random() < 0.1 + 0.09 * kind:
                mask[kind] = kind
        scored.append((mask, mask))
    slices = collected(scored, space)
    shown = np.array([[(mask == kind).any() for kind in range(9)] for mask, _ in scored])
    every = {
        (space.names[a], space.names[b]): int((shown[:, a] & shown[:, b]).sum()) for a in range(9) for b in range(a)
    }
    enough = {pair: n for pair, n in every.items() if 5 <= n <= 55}
    found = [one for one in slices.slices if one.by == "classes together"]
    # class 0 is everywhere: with another class it is that class alone
    assert found and not any("class 0" in one.classes for one in found)
    most = sorted(enough.values(), reverse=True)[:10]
    images = [one.images for one in found]
    assert images == sorted(images, reverse=True) and not Counter(images) - Counter(most)
    assert len([one for one in slices.slices if one.by == "IoU of a class with another"]) <= 20
    of = sum(2 <= n <= 58 for n in every.values())
    assert slices.notes == [f"slices by two classes: the 10 most frequent of {of} pairs"]


def test_pairs_with_units_enough_come_before_more_frequent_ones() -> None:
    present = np.ones((12, 3), bool)
    present[11, 1] = present[10, 1] = False  # 0 and 1 together in 10 images, apart in 2
    present[:6, 2] = False
    pairs, in_all = frequent_pairs(present, list(range(12)), least=2)
    assert pairs == [(0, 2), (0, 1), (1, 2)] and in_all == 3
    assert frequent_pairs(present, [n // 3 for n in range(12)], least=2, most=1) == ([(0, 1)], 3)
    assert frequent_pairs(np.ones((4, 3), bool), list(range(4)), least=2) == ([], 0)


# ---------------------------------------------------------------------------------------------------------------------
# Columns of a CSV file


def test_numbers_become_thirds_and_texts_values(tmp_path: Path) -> None:
    data = scenes()
    rows = [f"{name}.png,{i * 1.5},{'rain' if i < 8 else 'sun'},{i % 2}" for i, name in enumerate(data.ids)]
    file = write(tmp_path / "a.csv", "\n".join(["id,hour,weather,camera", *rows]))
    slices = slices_of(run(data, file))
    by = {s.by: [t.name for t in slices.slices if t.by == s.by] for s in slices.slices if s.column}
    assert by == {
        "hour": ["up to 10.5", "over 10.5 to 22.5", "over 22.5"],
        "weather": ["rain", "sun"],
        "camera": ["0", "1"],
    }
    rain = next(s for s in slices.slices if s.name == "rain")
    assert rain.clear and rain.found.difference < 0 and "weather, rain" in slices.sentence()


@pytest.mark.parametrize(
    "text",
    [
        "file;value\nday 0/shot_0.PNG;1,5\nday 1/shot_1.png;2,5\n",
        "\ufeffName\tvalue\n\nC:\\data\\day 0\\shot_0.jpg\t1.5\n./day 1/shot_1\t2.5\n",
        "value,image id\n1.5,shot_0\n2.5,shot_1\n",
    ],
)
def test_rows_find_their_images(tmp_path: Path, text: str) -> None:
    table = read_table(write(tmp_path / "a.csv", text))
    found = match_columns(table, ["day 0/shot_0", "day 1/shot_1", "day 0/shot_2"])
    assert found.unmatched_rows == [] and found.images_without_row == ["day 0/shot_2"]


def test_an_id_with_a_dot_is_itself_first() -> None:
    table = read_table_of("id,x\na.1,1\na.2,2\nb.png,3\n")
    found = match_columns(table, ["a.1", "a.2", "b.png"])
    assert found.unmatched_rows == [] and found.images_without_row == []


def read_table_of(text: str) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_table(write(Path(folder) / "a.csv", text))


def test_what_does_not_match_is_counted_and_named() -> None:
    table = read_table_of("id,x\na,p\nb,p\nc,q\nother,q\nd,\n")
    found = match_columns(table, ["a", "b", "c", "d", "e"])
    assert found.unmatched_rows == ["other"] and found.images_without_row == ["e"]
    assert any("1 row of the CSV file matches no image" in n and "other" in n for n in found.notes)
    assert any("no value for 1 image," in n for n in found.notes)
    assert {k: v.tolist() for k, v in found.columns[0].slices.items()} == {
        "p": [True, True, False, False, False],
        "q": [False, False, True, False, False],
    }


def test_columns_without_slices_are_noted() -> None:
    table = read_table_of("id,same,url,empty,x\n" + "".join(f"a{i},k,u{i},,{i % 2}\n" for i in range(8)))
    found = match_columns(table, [f"a{i}" for i in range(8)])
    assert [c.name for c in found.columns] == ["x"]
    assert all(any(f"column {name}:" in note for note in found.notes) for name in ("same", "url", "empty"))


def test_many_values_are_cut_to_the_commonest_and_the_rest_counted() -> None:
    table = read_table_of("id,x\n" + "".join(f"a{i},v{i // 2}\n" for i in range(60)))
    found = match_columns(table, [f"a{i}" for i in range(60)])
    assert len(found.columns[0].slices) == 20
    assert any("20 commonest of 30 values" in n and "20 images have another" in n for n in found.notes)


def test_decimal_commas_are_noted() -> None:
    table = read_table_of("id;x\n" + "".join(f"a{i};{i},5\n" for i in range(9)))
    found = match_columns(table, [f"a{i}" for i in range(9)])
    assert next(iter(found.columns[0].slices)) == "up to 2.5" and any("decimal" in n for n in found.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        ("id,x\n", "no rows"),
        ("weather,x\nrain,1\n", "no column of image ids"),
        ("file,path,x\na,b,1\n", "two columns could be"),
        ("id,x,x\na,1,2\n", "different names"),
        ("id,x,\na,1,2\n", "different names"),
        ("id,x\na,1,2\n", "another number of fields"),
        ("id\na\n", "no column to slice by"),
        ('id,x\na,"1\n', "cannot be read"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(write(tmp_path / "a.csv", text))


def test_ambiguous_rows_and_files_that_fit_nothing_are_refused_before_the_pass(tmp_path: Path) -> None:
    ids = ["day/a", "night/a", "day/b"]
    with pytest.raises(DataError, match="fits several images"):
        match_columns(read_table_of("id,x\na,1\n"), ids)
    with pytest.raises(DataError, match="two rows for the image"):
        match_columns(read_table_of("id,x\nday/b,1\nb,2\n"), ids)
    with pytest.raises(DataError, match="no row of the CSV file matches"):
        match_columns(read_table_of("id,x\nq,1\n"), ids)
    with pytest.raises(DataError, match="matches an image"):
        run(scenes(), write(tmp_path / "a.csv", "id,x\nq,1\n"))
    with pytest.raises(DataError, match="cannot be opened"):
        EvaluationParts(tmp_path / "none.csv")


def test_images_without_a_value_are_not_the_rest(tmp_path: Path) -> None:
    """The rest of "sun" are the images of "rain", not those of which nothing is known, as bad as the rain may be."""
    data = scenes()  # of which the first half is hard
    rows = "".join(f"{name},{('rain', '', 'sun')[i // 8]}\n" for i, name in enumerate(data.ids))
    given = slices_of(run(data, write(tmp_path / "a.csv", "id,sky\n" + rows)))
    sun, rain = (next(s.found for s in given.slices if s.name == name) for name in ("sun", "rain"))
    assert sun.rest == rain.miou and rain.rest == sun.miou
    assert (sun.units, sun.rest_units) == (8, 8)


def test_what_one_unit_holds_has_no_interval() -> None:
    """Two neighbors of one block: every draw that holds them is the same, which is no certainty."""
    rng = np.random.default_rng(0)
    truth = rng.integers(100, 200, (20, 1, 2))
    counts = np.concatenate([truth - rng.integers(0, 50, truth.shape), truth, truth], axis=1)
    part, rest = counts.copy(), counts.copy()
    part[2:], rest[:2] = 0, 0
    found = contrast(part, rest, groups=[i // 2 for i in range(20)])
    assert found.units == 1 and math.isnan(found.low) and math.isnan(found.difference_high) and found.few
    assert not math.isnan(found.miou) and not math.isnan(found.difference)
    wide = contrast(part, rest, groups=range(20))
    assert wide.units == 2 and wide.low < wide.miou < wide.high


def test_images_that_were_not_scored_are_in_no_slice(tmp_path: Path) -> None:
    data = scenes()
    data.masks[0] = np.full((60, 80), 255, np.uint8)
    rows = "".join(f"{name},{'a' if i < 12 else 'b'}\n" for i, name in enumerate(data.ids))
    found = run(data, write(tmp_path / "a.csv", "id,x\n" + rows))
    slices = slices_of(found)
    assert next(s.images for s in slices.slices if s.name == "a") == 11
    assert any("matches no image" in note and data.ids[0] in note for note in found.notes)
    assert isinstance(SliceCollector(SPACE).columns, type(None))

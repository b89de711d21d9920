"""The pass over a split: figures, label spaces, masks of other tools, and what a stranger's data brings."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segwright.core.errors import DataError, ImageReadError, LabelError, UsageError
from segwright.core.types import LabelSpace
from segwright.evaluation.compare import compare, comparison_page, render_comparison, verdict
from segwright.evaluation.evaluate import Evaluation, evaluate, match_label_spaces, summary
from segwright.evaluation.masks import evaluate_masks, find_masks
from segwright.evaluation.terminal import render_evaluation, text_bar
from segwright.imageio.image_info import unreadable
from segwright.inference.prediction import Prediction
from segwright.metrics.boundary import BoundaryIoU
from segwright.metrics.confusion import ConfusionMatrix

NAMES = ("road", "tree", "sky")


class Images:
    """A split in memory."""

    def __init__(self, masks: Sequence[Any], names: Sequence[str] = NAMES, mapping: Any = None) -> None:
        self.name = "val"
        self.label_space = LabelSpace(tuple(names), mapping=mapping or {})
        self.masks = list(masks)
        self.ids = [f"shot_{i}" for i in range(len(masks))]

    def __len__(self) -> int:
        return len(self.masks)

    def read_image(self, index: int) -> Any:
        image = np.zeros((*self.masks[index].shape, 3), np.uint8)
        image[..., 0] = index  # how the predictor below knows what it looks at
        return image

    def read_mask(self, index: int) -> Any:
        if isinstance(self.masks[index], Exception):
            raise self.masks[index]
        return self.masks[index]


class Knows:
    """A predictor that answers from a list."""

    def __init__(self, labels: Sequence[Any], names: Sequence[str] = NAMES, confidence: float = 0.75) -> None:
        self.label_space = LabelSpace(tuple(names))
        self.labels, self.confidence, self.calls = labels, confidence, 0

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        self.calls += 1
        labels = self.labels[int(image[0, 0, 0])]
        sure = np.full(labels.shape, self.confidence, np.float32)
        p = None
        if probabilities:
            k = self.label_space.classes
            p = np.full((k, *labels.shape), (1 - self.confidence) / (k - 1), np.float32)
            np.put_along_axis(p, labels[None].astype(np.int64), self.confidence, 0)
        return Prediction(labels, sure, self.label_space, image, p)


class KnowsMany(Knows):
    def predict_batch(self, images: Sequence[Any]) -> list[Prediction]:
        return [self.predict(image) for image in images]


def masks(count: int = 6, classes: int = 3, seed: int = 0, error: float = 0.2) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(seed)
    truth, said = [], []
    for i in range(count):
        mask = np.repeat(np.repeat(rng.integers(0, classes, (4, 5)), 8, 0), 6, 1).astype(np.uint8)
        answer = np.where(rng.random(mask.shape) < error * (i + 1) / count, (mask + 1) % classes, mask).astype(np.uint8)
        mask[:2] = 255
        truth.append(mask)
        said.append(answer)
    return truth, said


def test_every_figure_is_the_pooled_one() -> None:
    truth, said = masks()
    found = evaluate(Knows(said), Images(truth))
    matrix, boundary = ConfusionMatrix(3), BoundaryIoU(3)
    for t, s in zip(truth, said, strict=True):
        matrix.update(s, t)
        boundary.update(s, t)
    expected = matrix.scores()
    assert found.images == 6 and np.array_equal(found.matrix, matrix.matrix)
    assert (found.miou, found.pixel_accuracy, found.mean_accuracy) == (
        expected.miou, expected.pixel_accuracy, expected.mean_accuracy,
    )  # fmt: skip
    assert found.boundary_iou == boundary.mean()
    assert found.miou_ci95[0] < found.miou < found.miou_ci95[1]
    assert summary(found)["fwiou"] == expected.fwiou
    one = ConfusionMatrix(3)
    one.update(said[2], truth[2])
    assert found.per_image[2] == one.scores().miou
    assert found.calibration is not None
    assert found.calibration.ece() == pytest.approx(abs(found.pixel_accuracy - 0.75))


def test_json_keys_and_types() -> None:
    truth, said = masks()
    for t, s in zip(truth, said, strict=True):  # sky occurs nowhere
        t[t == 2], s[s == 2] = 1, 1
    tree = json.loads(json.dumps(evaluate(Knows(said), Images(truth)).to_json(), allow_nan=False))
    assert list(tree)[:12] == [
        "images", "miou", "miou_ci95", "pixel_accuracy", "mean_accuracy", "fwiou", "mean_dice", "boundary_iou",
        "convention", "per_class", "per_image", "confusion",
    ]  # fmt: skip
    assert [row["name"] for row in tree["per_class"]] == list(NAMES)
    assert list(tree["per_class"][0])[:6] == ["name", "iou", "dice", "precision", "recall", "pixels"]
    assert {"boundary_iou", "bf_score", "iou_ci95", "recall_ci95", "bf_score_ci95"} <= set(tree["per_class"][0])
    assert tree["per_class"][2]["iou"] is None and tree["per_class"][2]["pixels"] == 0
    assert list(tree["per_image"][0]) == ["id", "miou"] and tree["per_image"][3]["id"] == "shot_3"
    assert tree["conventions"]["pooled"] == tree["miou"] and tree["conventions"]["torchvision"] is None


def test_batches_give_the_same() -> None:
    truth, said = masks(7)
    one = evaluate(Knows(said), Images(truth))
    many = evaluate(KnowsMany(said), Images(truth), batch_size=3)
    assert np.array_equal(one.matrix, many.matrix) and one.ids == many.ids


def test_brier_on_request() -> None:
    truth, said = masks()
    assert np.isnan(evaluate(Knows(said), Images(truth)).calibration.brier())  # type: ignore[union-attr]
    asked = evaluate(Knows(said), Images(truth), probabilities=True)
    right, wrong = 0.25**2 + 2 * 0.125**2, 0.75**2 + 0.875**2 + 0.125**2
    accuracy = asked.pixel_accuracy
    assert asked.calibration is not None
    assert asked.calibration.brier() == pytest.approx(accuracy * right + (1 - accuracy) * wrong)


def test_examples_are_kept_the_worst_first() -> None:
    truth, said = masks(12)
    found = evaluate(Knows(said), Images(truth), examples=8)
    order = np.argsort(found.per_image, kind="stable").tolist()
    shown = [e.index for e in found.examples]
    assert len(shown) == 8 and shown[:4] == order[:4] and set(shown[-2:]) == set(order[-2:])
    assert all(np.array_equal(e.labels, said[e.index]) and e.id == found.ids[e.position] for e in found.examples)
    assert len(evaluate(Knows(said), Images(truth[:3])).examples) == 3  # each image once


# ---------------------------------------------------------------------------------------------------------------------
# Label spaces


def test_classes_are_matched_by_name() -> None:
    truth, said = masks()
    plain = evaluate(Knows(said), Images(truth))
    turned = [np.array([2, 0, 1], np.uint8)[s] for s in said]  # the model's order: tree, sky, road
    model = Knows(turned, names=("Tree", "S-ky", "road "))
    found = evaluate(model, Images(truth), probabilities=True)
    assert np.array_equal(found.matrix, plain.matrix) and "order" in found.notes[0]
    assert found.calibration is not None
    assert (
        found.calibration.brier()
        == evaluate(  # type: ignore[union-attr]
            Knows(said), Images(truth), probabilities=True
        ).calibration.brier()
    )


def test_numbered_classes_match_by_index() -> None:
    numbered = LabelSpace(("class 0", "class 1", "class 2"))
    table, note = match_label_spaces(numbered, LabelSpace(NAMES))
    assert table is None and "class 1 = tree" in note
    assert match_label_spaces(LabelSpace(("a", "b", "c")), LabelSpace(NAMES), by_index=True)[0] is None


@pytest.mark.parametrize("names", [("road", "tree"), ("road", "tree", "water"), (*NAMES, "car"), ("x",)])
def test_label_spaces_that_do_not_fit(names: tuple[str, ...]) -> None:
    truth, said = masks()
    with pytest.raises(LabelError, match=r"only in the (model|data)"):
        evaluate(Knows(said, names=names), Images(truth))
    with pytest.raises(UsageError):
        evaluate(Knows(said), Images(truth), match="luck")


# ---------------------------------------------------------------------------------------------------------------------
# What a stranger's data brings


def test_empty_split_and_no_masks() -> None:
    with pytest.raises(DataError, match="empty"):
        evaluate(Knows([]), Images([]))

    class Unlabeled(Images):
        def read_mask(self, index: int) -> Any:
            return None

    truth, said = masks(3)
    predictor = Knows(said)
    with pytest.raises(DataError, match="3 images without a mask"):
        evaluate(predictor, Unlabeled(truth))
    assert predictor.calls == 0  # nothing is predicted that cannot be scored


def test_some_without_mask_some_all_ignored() -> None:
    truth, said = masks(4)
    truth[1] = np.full_like(truth[1], 255)

    class Partly(Images):
        def read_mask(self, index: int) -> Any:
            return None if index == 2 else super().read_mask(index)

    found = evaluate(Knows(said), Partly(truth))
    assert found.ids == ["shot_0", "shot_3"] and found.without_mask == ["shot_2"] and found.all_ignored == ["shot_1"]
    with pytest.raises(DataError, match="nothing but"):
        evaluate(Knows(said), Images([truth[1]]))


@pytest.mark.parametrize(("skip_bad", "ending"), [(None, "leave the pair out"), (False, "out with --skip-bad")])
def test_the_option_that_leaves_a_pair_out_is_named_where_there_is_one(skip_bad: bool | None, ending: str) -> None:
    truth, said = masks(2)
    bad: list[Any] = [truth[0], LabelError("image and mask differ in size", fix="make it again, or leave the pair out")]
    with pytest.raises(LabelError) as caught:
        evaluate(Knows(said), Images(bad), skip_bad=skip_bad)
    assert str(caught.value.fix).endswith(ending)


def test_unreadable_files_stop_or_are_left_out() -> None:
    truth, said = masks(4)
    bad: list[Any] = list(truth)
    bad[2] = unreadable("shot_2.png", "nothing")
    with pytest.raises(ImageReadError, match="shot_2") as caught:
        evaluate(Knows(said), Images(bad))
    assert str(caught.value.fix).endswith("or leave it out"), "who cannot choose is not told to"
    with pytest.raises(ImageReadError, match="shot_2") as caught:
        evaluate(Knows(said), Images(bad), skip_bad=False)
    assert str(caught.value.fix).endswith("or leave it out with --skip-bad")
    found = evaluate(Knows(said), Images(bad), skip_bad=True)
    assert found.images == 3 and list(found.skipped) == ["shot_2"]
    bad[2] = RuntimeError("a bug of ours")
    with pytest.raises(RuntimeError):  # never taken for bad data
        evaluate(Knows(said), Images(bad), skip_bad=True)


def test_one_image_and_one_class() -> None:
    truth, said = masks(1)
    found = evaluate(Knows(said), Images(truth))
    assert found.images == 1 and np.isnan(found.miou_ci95).all() and found.to_json()["miou_ci95"] == [None, None]
    only = evaluate(Knows([np.zeros((5, 5), np.uint8)], names=("all",)), Images([np.zeros((5, 5), np.uint8)], ("all",)))
    assert only.miou == 1 and only.matrix.tolist() == [[25]]


def test_errors_name_the_image() -> None:
    truth, said = masks(2)
    said[1] = np.full_like(said[1], 7)
    with pytest.raises(LabelError, match="shot_1"):
        evaluate(Knows(said), Images(truth))
    said[1] = said[1][:4]
    with pytest.raises(LabelError, match="shot_1"):
        evaluate(Knows(said), Images(truth))


# ---------------------------------------------------------------------------------------------------------------------
# Masks in a folder


def write(folder: Path, answers: Sequence[Any], name: str = "shot_{}.png", palette: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, labels in enumerate(answers):
        image = Image.fromarray(labels)
        if palette:
            image.putpalette(LabelSpace(NAMES).palette().tobytes())
        path = folder / name.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.mark.parametrize("name", ["shot_{}.png", "shot_{}_pred.png", "deep/shot_{}_mask.png", "shot_{}.bmp"])
@pytest.mark.parametrize("palette", [False, True])
def test_folder_of_masks(tmp_path: Path, name: str, palette: bool) -> None:
    truth, said = masks()
    split = Images(truth)
    found = evaluate_masks(write(tmp_path, said, name, palette), split)
    expected = evaluate(Knows(said), split)
    assert np.array_equal(found.matrix, expected.matrix) and found.ids == expected.ids
    assert found.calibration is None and found.boundary_iou == expected.boundary_iou
    assert [e.index for e in found.examples] == [e.index for e in expected.examples]


def test_missing_masks(tmp_path: Path) -> None:
    truth, said = masks()
    folder = write(tmp_path, said)
    (folder / "shot_3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6.*\n.*shot_3"):
        evaluate_masks(folder, Images(truth))
    found = evaluate_masks(folder, Images(truth), skip_missing=True)
    assert found.images == 5 and "shot_3" not in found.ids and "1 image " in found.notes[0]
    assert {e.index for e in found.examples} == {0, 1, 2, 4, 5}
    for path in (tmp_path / "no such", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with pytest.raises(DataError):
            evaluate_masks(path, Images(truth))
    with pytest.raises(DataError, match="6 of 6"):
        evaluate_masks(write(tmp_path / "other", said, "x{}.png"), Images(truth), skip_missing=True)


def test_two_masks_for_one_image(tmp_path: Path) -> None:
    truth, said = masks(1)
    write(tmp_path / "a", said)
    write(tmp_path / "b", said)
    with pytest.raises(DataError, match="two masks"):
        evaluate_masks(tmp_path, Images(truth))
    split = Images(truth)
    split.ids = ["a/shot_0"]
    assert find_masks(tmp_path, split) == {0: tmp_path / "a" / "shot_0.png"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m[:10], "differ in size"),
        (lambda m: np.where(m == 1, 9, m).astype(np.uint8), "no class"),
        (lambda m: np.where(m == 1, 255, m).astype(np.uint8), "no class"),
        (lambda m: np.repeat(m[..., None], 3, 2), "colors"),
        (lambda m: m.astype(np.uint16) * 300, "not a class"),
    ],
)
def test_masks_that_do_not_fit_name_the_file(tmp_path: Path, spoil: Any, message: str) -> None:
    truth, said = masks(3)
    said[1] = spoil(said[1])
    with pytest.raises(LabelError, match=message) as raised:
        evaluate_masks(write(tmp_path, said), Images(truth))
    assert "shot_1.png" in str(raised.value)


def test_raw_values_go_through_the_label_map(tmp_path: Path) -> None:
    truth, said = masks()
    raw = np.array([7, 21, 23], np.uint8)
    split = Images(truth, mapping={7: 0, 21: 1, 23: 2, 0: 255})
    folder = write(tmp_path / "raw", [raw[s] for s in said])
    found = evaluate_masks(folder, split, raw_values=True)
    assert np.array_equal(found.matrix, evaluate(Knows(said), split).matrix)
    with pytest.raises(LabelError):
        evaluate_masks(folder, split)
    with pytest.raises(LabelError, match="label map"):
        evaluate_masks(write(tmp_path / "odd", [raw[s] + 1 for s in said]), split, raw_values=True)


def test_unreadable_mask_is_named(tmp_path: Path) -> None:
    truth, said = masks(2)
    folder = write(tmp_path, said)
    (folder / "shot_1.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(ImageReadError, match="shot_1"):
        evaluate_masks(folder, Images(truth))


# ---------------------------------------------------------------------------------------------------------------------
# Comparison and terminal


def pair() -> dict[str, Evaluation]:
    truth, said = masks(20, error=0.3)
    _, better = masks(20, error=0.1)
    return {"old": evaluate(Knows(said), Images(truth)), "new [x]": evaluate(Knows(better), Images(truth))}


def test_comparison() -> None:
    found = compare(pair())
    d = found.differences["new [x]"]
    assert d.clear and d.difference == pytest.approx(found.evaluations["new [x]"].miou - found.evaluations["old"].miou)
    assert verdict(d, "old", name="new").startswith("new is better than old by")
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tree["baseline"] == "old" and tree["differences"][0]["clear"] is True
    output = io.StringIO()
    render_comparison(found, Console(file=output, width=140))
    assert "better than old" in output.getvalue() and "new [x]" in output.getvalue()
    assert "new [x]" in comparison_page(found, command="segwright compare a b")


def test_comparisons_that_are_none() -> None:
    both = pair()
    with pytest.raises(UsageError, match="two models"):
        compare({"old": both["old"]})
    truth, said = masks(5)
    with pytest.raises(UsageError, match="same images"):
        compare({"old": both["old"], "other": evaluate(Knows(said), Images(truth))})


def test_terminal_and_pipe(tmp_path: Path) -> None:
    truth, said = masks()
    for t, s in zip(truth, said, strict=True):
        t[t == 2], s[s == 2] = 1, 1
    found = evaluate(Knows(said), Images(truth, names=("road", "[bold]tree", "sky")), match="index")
    with (tmp_path / "out.txt").open("w") as file:
        render_evaluation(found, Console(file=file, width=100))
    plain = (tmp_path / "out.txt").read_text()
    assert "[bold]tree" in plain and "\x1b" not in plain and "█" not in plain and "│" not in plain
    assert f"mIoU {100 * found.miou:.1f} (95 %" in plain and "left out of the means: sky" in plain
    with (tmp_path / "tty.txt").open("w") as file:
        render_evaluation(found, Console(file=file, width=100, force_terminal=True, color_system="truecolor"))
    assert "█" in (tmp_path / "tty.txt").read_text()
    assert [len(text_bar(v, 10)) for v in (0.0, 0.05, 0.5, 1.0, 2.0)] == [0, 1, 5, 10, 10]


def test_a_score_of_everything_says_so(tmp_path: Path) -> None:
    """Where there is no held-out part to choose, the figures hold what was trained on: said everywhere."""
    from segwright.api import choose_split
    from segwright.data.dataset import open_dataset
    from segwright.demo.dataset import write_street_scenes

    few = open_dataset(write_street_scenes(tmp_path / "few", train=3, val=0, test=0, size=(64, 96)))
    held = open_dataset(write_street_scenes(tmp_path / "held", train=3, val=2, test=0, size=(64, 96)))
    everything = choose_split(few, None)
    assert "all 3 images are scored" in everything.note
    assert everything.name == "all" and not few.all.note, "the dataset's own split stays as it is"
    assert not choose_split(held, None).note and not choose_split(held, "train").note
    assert not choose_split(few, "all").note, "as asked for"

    made = open_dataset(write_street_scenes(tmp_path / "made", train=10, val=0, test=0, size=(64, 96)))
    chosen = choose_split(made, None)
    assert "made of" in chosen.note and "of the 10 images" in chosen.note and "--split all" in chosen.note
    assert not choose_split(made, chosen.name).note and not made.splits[chosen.name].note

    class Answer:
        label_space = few.label_space

        def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
            labels = np.zeros(image.shape[:2], np.uint8)
            return Prediction(labels, np.ones(labels.shape, np.float32), few.label_space, image)

    found = evaluate(Answer(), everything)
    assert everything.note in found.to_json()["notes"]
    screen = io.StringIO()
    render_evaluation(found, Console(file=screen, width=80))
    assert f"note: {everything.note}" in screen.getvalue()
    render_comparison(compare({"a": found, "b": found}), Console(file=screen, width=80))
    assert screen.getvalue().count(everything.note) == 2


class Collected:
    """What a collector gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def add(self, index: int, id: str, image: Any, truth: Any, labels: Any, confidence: Any) -> None:
        self.rows.append((index, id, image, truth, labels, confidence))

    def to_json(self) -> Any:
        return [row[1] for row in self.rows]


def test_collectors_get_every_scored_image_once_in_the_order_of_the_ids() -> None:
    truth, said = masks(5)
    truth[1] = None  # without a mask
    truth[2] = np.full_like(truth[0], 255)  # nothing but ignored pixels
    collected = Collected()
    data = Images(truth)
    data.read_image = lambda index: np.full((*said[0].shape, 3), index, np.uint8)  # type: ignore[method-assign]
    found = evaluate(Knows(said), data, collectors=[collected], batch_size=2)
    assert [row[1] for row in collected.rows] == found.ids == ["shot_0", "shot_3", "shot_4"]
    for index, _, image, mask, labels, confidence in collected.rows:
        assert image[0, 0, 0] == index and mask is truth[index]
        assert (labels == said[index]).all() and confidence.shape == labels.shape
    found.parts["collected"] = collected
    assert json.loads(json.dumps(found.to_json()))["collected"] == found.ids


def test_a_collector_of_masks_from_files_gets_the_images_too(tmp_path: Path) -> None:
    truth, said = masks(2)
    for i, labels in enumerate(said):
        Image.fromarray(labels).save(tmp_path / f"shot_{i}.png")
    collected = Collected()
    evaluate_masks(tmp_path, Images(truth), collectors=[collected])
    assert [row[2].shape for row in collected.rows] == [(*truth[0].shape, 3)] * 2
    assert [row[5] for row in collected.rows] == [None, None]

"""What the intervals draw: images, sequences of video, or blocks of the one sequence that there is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.evaluation.compare import compare, comparison_page, render_comparison
from segwright.evaluation.evaluate import Evaluation, evaluate
from segwright.evaluation.report import RunFacts, report_page
from segwright.evaluation.sequences import find_sequences, find_units, units_of
from segwright.evaluation.terminal import render_evaluation
from segwright.inference.prediction import Prediction
from segwright.search.cross_validation import CrossValidation, Fold
from segwright.search.tune import conclusion

SPACE = LabelSpace(("road", "sky"))


class Frames:
    """A split in memory: images of one look per sequence, or of any look."""

    name, label_space = "val", SPACE

    def __init__(self, ids: list[str], thumbnails: list[int]) -> None:
        self.ids, self.thumbnails = ids, thumbnails

    def __len__(self) -> int:
        return len(self.ids)

    def read_image(self, index: int) -> Any:
        scene = np.random.default_rng(self.thumbnails[index]).integers(0, 256, (4, 4, 3), np.uint8)
        image = cv2.resize(scene, (32, 32), interpolation=cv2.INTER_CUBIC)
        image[0, 0] = index
        return image

    def read_mask(self, index: int) -> Any:
        return (np.arange(32 * 32).reshape(32, 32) // 512).astype(np.uint8)


class Errs:
    """A predictor that is wrong on a share of each image's pixels."""

    label_space = SPACE

    def __init__(self, shares: list[float]) -> None:
        self.shares = shares

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        index = int(image[0, 0, 0])
        labels = (np.arange(32 * 32).reshape(32, 32) // 512).astype(np.uint8)
        wrong = np.random.default_rng(index).random((32, 32)) < self.shares[index]
        return Prediction(np.where(wrong, 1 - labels, labels).astype(np.uint8), np.ones((32, 32), np.float32), SPACE)


def video(sequences: int, frames: int = 10, step: int = 30) -> Frames:
    ids = [f"seq{s:02d}_{step * f:05d}" for s in range(sequences) for f in range(frames)]
    return Frames(ids, [s for s in range(sequences) for _ in range(frames)])


def by_sequence(split: Frames, errors: list[float]) -> Evaluation:
    return evaluate(Errs([errors[look] for look in split.thumbnails]), split, boundary=False)


def text(evaluation: Evaluation) -> str:
    output = io.StringIO()
    render_evaluation(evaluation, Console(file=output, width=200))
    return output.getvalue()


ERRORS = [0.05, 0.1, 0.2, 0.3, 0.15, 0.25, 0.4, 0.02, 0.33]


def test_sequences_are_drawn_whole_and_said() -> None:
    found = by_sequence(video(9), ERRORS)
    alone = evaluate(Errs([ERRORS[look] for look in video(9).thumbnails]), video(9), groups=range(90), boundary=False)
    assert found.miou_ci95[1] - found.miou_ci95[0] > 2 * (alone.miou_ci95[1] - alone.miou_ci95[0])
    tree = json.loads(json.dumps(found.to_json()))
    assert (tree["interval_over"], tree["interval_count"], tree["interval_note"]) == ("sequences", 9, "")
    assert alone.to_json()["interval_over"] == "images" and alone.to_json()["interval_count"] == 90
    assert "over 9 sequences" in text(found) and "over 90 images" in text(alone)
    assert "over 9 sequences" in report_page(found, video(9), RunFacts(title="t"))


def test_few_sequences_give_a_rough_interval_and_one_gives_blocks() -> None:
    found = by_sequence(video(3), ERRORS)
    assert found.independent.over == "sequences" and "only 3 sequences" in text(found)
    one = video(1, frames=27)
    found = evaluate(Errs([0.01 * i for i in range(27)]), one, groups=["drive"] * 27, boundary=False)
    assert (found.independent.over, found.independent.count) == ("blocks", 9)
    assert "one sequence (drive)" in text(found) and "9 blocks of neighboring frames" in text(found)
    alone = evaluate(Errs([0.01 * i for i in range(27)]), one, groups=range(27), boundary=False)
    assert found.miou_ci95[1] - found.miou_ci95[0] > alone.miou_ci95[1] - alone.miou_ci95[0]


def test_few_images_give_a_rough_interval() -> None:
    """Percentiles of draws from two images hold the truth half of the time, not 95 times of 100."""
    told = "only 7 images: the interval is rough, and too narrow"
    assert units_of(list("abcdefg"), list("abcdefg")).note == told
    assert [units_of(list(ids), list(ids)).note for ids in ("a", "abcdefgh")] == ["", ""], "one has no interval"
    found = evaluate(Errs([0.1 * i for i in range(7)]), video(1, frames=7), groups=range(7), boundary=False)
    assert found.to_json()["interval_note"] == told and f"note: {told}" in text(found)


def test_one_sequence_by_its_look() -> None:
    thumbnails = np.random.default_rng(0).normal(size=(1, 256)) + np.cumsum(
        np.random.default_rng(1).normal(size=(40, 256)), axis=0
    )
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    ids = [f"drive_{i:04d}" for i in range(40)]
    assert find_units(ids, thumbnails.astype(np.float32)).over == "blocks"
    assert find_units(ids, thumbnails[np.random.default_rng(2).permutation(40)].astype(np.float32)).over == "images"


def test_names_that_show_no_sequence() -> None:
    assert find_sequences(["0001", "0002", "0003", "0004"]) == ["0001", "0002", "0003", "0004"]
    assert find_units([f"img_{i:03d}" for i in range(9)]).over == "images"
    assert find_units([f"photo_{i:03d}" for i in range(9)]).over == "images"  # one prefix is any camera's
    voc = [f"2007_{n:06d}" for n in (32, 33, 39, 61, 63, 68)] + [f"2008_{n:06d}" for n in (2, 7, 9, 16, 19, 26)]
    assert find_units(voc).over == "images"  # a year, not a video: the numbers jump
    cats = Frames([f"{kind}_{i:03d}" for kind in ("cat", "dog", "cow") for i in range(30)], list(range(90)))
    assert by_sequence(cats, [0.1] * 90).independent.over == "images"  # the images contradict the names


def test_folders_of_numbered_frames_are_sequences() -> None:
    ids = [f"drive {s}/{f:06d}" for s in range(4) for f in range(5)]
    found = find_units(ids)
    assert (found.over, found.count) == ("sequences", 4)
    assert find_units([*ids, "cover", "poster"]).count == 6  # what is of no sequence stands alone


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="sequence of every image"):
        evaluate(Errs([0.1] * 10), video(1), groups=["a"])


def test_better_needs_the_interval_over_sequences() -> None:
    split = video(9)
    # Much better on two sequences, a little worse on the others: clear over frames, and not over sequences.
    change = [-0.2 if s in (3, 6) else 0.02 for s in range(9)]
    old = by_sequence(split, ERRORS)
    found = compare({"old": old, "new": by_sequence(split, [e + c for e, c in zip(ERRORS, change, strict=True)])})
    d = found.differences["new"]
    assert d.difference > 0 and not d.clear
    output = io.StringIO()
    render_comparison(found, Console(file=output, width=200))
    assert "no significant difference on these images" in output.getvalue() and "over 9 sequences" in output.getvalue()
    assert "better than" not in comparison_page(found)
    assert found.to_json()["differences"][0]["interval_over"] == "sequences"
    said = conclusion(3, d, 2.5 / 60, found.independent)
    assert "did not clearly beat" in said and "once more for 2 s with" in said and ".;" not in said
    alone = [evaluate(Errs([e[look] for look in split.thumbnails]), split, groups=range(90), boundary=False)
             for e in (ERRORS, [e + c for e, c in zip(ERRORS, change, strict=True)])]  # fmt: skip
    assert compare({"old": alone[0], "new": alone[1]}).differences["new"].clear


def test_two_or_three_sequences_are_too_few_for_better() -> None:
    split = video(3)
    found = compare({"old": by_sequence(split, [0.3] * 3), "new": by_sequence(split, [0.1] * 3)})
    d = found.differences["new"]
    assert d.low > 0 and not d.clear and d.drawn == 3
    output = io.StringIO()
    render_comparison(found, Console(file=output, width=200))
    assert "too few sequences" in output.getvalue() and "better than" not in output.getvalue()


def test_cross_validation_pools_a_sequence_over_its_folds(tmp_path: Path) -> None:
    found = by_sequence(video(9), ERRORS)
    ids, sequences = found.ids, found.independent.sequences
    folds = tuple(
        Fold(n, tmp_path, found.miou, found.miou_ci95, found.counts[n::2], tuple(ids[n::2]), tuple(sequences[n::2]))
        for n in range(2)
    )
    whole = CrossValidation(tmp_path, SPACE.names, folds, 2)
    tree = whole.summary()
    assert (tree["interval_over"], tree["interval_count"]) == ("sequences", 9)
    assert tree["folds"][0]["interval_over"] == "sequences" and "over 9 sequences" in whole.sentence()
    assert np.allclose(tree["pooled_miou_ci95"], found.miou_ci95, atol=0.03)
    old = Fold(0, tmp_path, found.miou, found.miou_ci95, found.counts)  # of a folder that holds no ids
    assert old.to_json()["interval_over"] == "images"


def test_drawn_from_needs_two_of_a_kind() -> None:
    assert units_of(["a", "b"], ["x", "y"]).over == "images"
    assert str(units_of(["a"], ["a"])) == "1 image"


def test_one_video_among_photos_is_a_sequence_among_others() -> None:
    photos, frames = [f"{chr(97 + i % 26)}{i}x" for i in range(97)], [f"v/{i:04d}" for i in range(3)]
    found = units_of([*photos, *frames], [*photos, "v", "v", "v"])
    assert (found.over, found.count, found.note) == ("sequences", 98, ""), "three frames are one unit"
    ids, drives = [f"f{i:03d}" for i in range(51)], ["a"] * 50 + ["b"]
    given = find_units(ids, groups=drives)
    assert (given.over, given.count) == ("sequences", 2) and given.groups == tuple(drives)
    assert given.note == "only 2 sequences: the interval is rough"
    assert find_units(ids, groups=["a"] * 51).over == "blocks"
    most = units_of([*photos[:9], *ids], [*photos[:9], *["drive/"] * 51])
    assert most.over == "sequences" and most.note.startswith("51 of 60 images are from one sequence (drive)")
    fold = Fold(0, Path(), 0.5, (0.4, 0.6), np.ones((51, 3, 2), np.int64), tuple(ids), tuple(drives))
    assert (fold.to_json()["interval_over"], fold.to_json()["interval_count"]) == ("sequences", 2)


def test_two_given_sequences_are_too_few_for_better() -> None:
    split = video(2, frames=10)
    groups = ["a"] * 19 + ["b"]
    old, new = (evaluate(Errs([e] * 20), split, groups=groups, boundary=False) for e in (0.3, 0.1))
    found = compare({"old": old, "new": new})
    assert found.differences["new"].drawn == 2 and not found.differences["new"].clear
    assert "too few sequences" in found.sentences()[0] and "only 2 sequences" in text(new)

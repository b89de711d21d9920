"""Questions and selections: regions survive, damaged files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segwright.core.errors import DataError, LabelError
from segwright.core.types import LabelSpace
from segwright.labeling.questions import Question, SelectedImage, Selection


def a_mask() -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((6, 8), bool)
    mask[2:5, 3:6] = True
    mask[3, 4] = False
    return mask


def a_selection(root: Path) -> Selection:
    question = Question.of_mask("a/b.png", a_mask(), kind="check", predicted=1, score=0.25, random=True)
    return Selection(
        items=(question,), images=(SelectedImage("a/b.png", (6, 8), 0.5, True, ("a/c.png",)),), root=root,
        label_space=LabelSpace(("road", "car")), models=("runs/one", "runs/two"), seed=3, clicks=20, considered=9,
        failed=(("bad.png", "cut"),), notes=("a note",), settings={"units": "superpixels"},
    )  # fmt: skip


def test_a_region_is_run_lengths_of_its_box() -> None:
    question = Question.of_mask("x.png", a_mask())
    assert question.box == (3, 2, 6, 5)
    assert question.region == (0, 4, 1, 4)
    assert question.pixels == 8
    np.testing.assert_array_equal(question.mask(), a_mask())
    np.testing.assert_array_equal(question.mask()[question.inner], question.patch())


def test_random_regions_survive() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 12), rng.integers(1, 12))) < 0.4
        if mask.any():
            question = Question.from_json(json.loads(json.dumps(Question.of_mask("x", mask).to_json())))
            np.testing.assert_array_equal(question.mask(), mask)


def test_a_selection_survives_its_file(tmp_path: Path) -> None:
    selection = a_selection(tmp_path)
    path = selection.save(tmp_path / "selection.json")
    assert Selection.load(path) == selection
    assert Selection.load(path, root="/elsewhere").path(selection.items[0]) == Path("/elsewhere/a/b.png")
    assert selection.of_image("a/b.png") == selection.items and selection.of_image("other") == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "coco"}, "not a selection"),
        ({"version": 99}, "another version"),
        ({"questions": [{}]}, "damaged"),
        ({"questions": 3}, "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    path = tmp_path / "selection.json"
    path.write_text(json.dumps(a_selection(tmp_path).to_json() | change))
    with pytest.raises(DataError, match=text):
        Selection.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"region": "0 4"}, {"region": "0 -4 13"}, {"region": "a"}, {"box": [3, 2, 9, 5]}, {"box": [3, 2, 3, 5]},
        {"kind": "why"}, {"predicted": 2}, {"predicted": None}, {"image": "../../etc/x.png"}, {"image": "/x.png"},
        {"image_size": [0, 0]},
    ],
)  # fmt: skip
def test_damaged_questions_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    tree = a_selection(tmp_path).to_json()
    tree["questions"][0] |= change
    path = tmp_path / "selection.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match="damaged"):
        Selection.load(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null"])
def test_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "selection.json"
    path.write_text(text)
    with pytest.raises(DataError):
        Selection.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        Selection.load(tmp_path / "missing.json")


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(LabelError, match="no pixels"):
        Question.of_mask("x", np.zeros((3, 3), bool))

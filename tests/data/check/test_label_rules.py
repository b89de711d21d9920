"""What the check says of labels: objects that cover nothing, one class for everything, stray values, contradictions."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segwright.core.errors import DataError, OutputError, UsageError
from segwright.data.check.report_html import write_check_page
from segwright.data.check.report_text import render_check
from segwright.data.check.runner import CheckResult, check_dataset, check_path
from segwright.data.dataset import open_dataset
from segwright.data.records import Problem, Reader, Record
from segwright.search import cross_validation
from segwright.training import run as training
from segwright.training.callbacks.log import Display
from segwright.training.config import TrainConfig
from segwright.training.resume import StoredRun

SIZE = (60, 80)


def image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    return np.asarray(coarse)


def tree(root: Path, masks: Mapping[str, np.ndarray], names: str | None = None) -> Path:
    """images/ and masks/, an image of its own for each."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, (name, mask) in enumerate(masks.items()):
        for path, array in ((root / "images" / f"{name}.png", image(index)), (root / "masks" / f"{name}.png", mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    if names is not None:
        (root / "classes.txt").write_text(names)
    return root


def labels(values: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> np.ndarray:
    mask = np.full(SIZE, values[0], np.uint8)
    for index, value in enumerate(values[1:]):
        mask[5 + seed : 40 + seed, 5 + 25 * index : 25 + 25 * index] = value
    return mask


def check(root: Path) -> CheckResult:
    return check_path(root, workers=0)


def kinds(result: CheckResult, severity: str | None = None) -> set[str]:
    return {p.kind for p in result.problems if severity in (None, p.severity)}


def found(result: CheckResult, kind: str) -> Problem:
    [one] = [problem for problem in result.problems if problem.kind == kind]
    return one


# -- one class, nothing but ignored ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "names", "kind"),
    [
        (0, None, "one class only"),
        (1, None, "one class only"),
        (7, None, "one class only"),
        (255, None, "one class only"),
        (0, "ground\ncar\n", "one class only"),
        (1, "ground\ncar\n", "one class only"),
        (255, "ground\ncar\nsky\n", "everything ignored"),
        (9, "0 ground\n1 car\n9 void\n", "everything ignored"),
    ],
)
def test_one_value_in_all_masks_is_an_error(tmp_path: Path, value: int, names: str | None, kind: str) -> None:
    root = tree(tmp_path, {f"p{i}": np.full(SIZE, value, np.uint8) for i in range(8)}, names)
    result = check(root)
    assert result.exit_code == 1 and kinds(result, "error") & {kind, "cannot be opened"}
    data = open_dataset(root)
    for skip_bad in (False, True):  # no file left out would mend it
        with pytest.raises(DataError, match=kind):
            training.run_training(
                data, TrainConfig().with_values({"out": str(tmp_path / "run"), "data.skip_bad": skip_bad})
            )
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_one_class_in_train_is_an_error_though_val_has_more(tmp_path: Path) -> None:
    masks = {f"train/p{i}": labels((0,)) for i in range(6)} | {f"val/v{i}": labels(seed=i) for i in range(3)}
    result = check(tree(tmp_path, masks, "a\nb\nc\n"))
    assert "train" in found(result, "one class only").message and result.exit_code == 1


def test_a_validation_part_of_ignored_pixels_is_a_warning(tmp_path: Path) -> None:
    masks = {f"train/p{i}": labels(seed=i) for i in range(6)} | {f"val/v{i}": labels((255,)) for i in range(3)}
    result = check(tree(tmp_path, masks, "a\nb\nc\n"))
    assert found(result, "everything ignored").severity == "warning" and result.exit_code == 0
    assert "val" in found(result, "everything ignored").message


# -- stray values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holders", [{3: 1}, {3: 12}, {2: 3, 5: 2}, {4: 80}])
def test_a_value_that_hardly_any_mask_holds_is_a_stray(tmp_path: Path, holders: dict[int, int]) -> None:
    masks = {f"p{i:02d}": labels(seed=i) for i in range(13)}
    for index, pixels in holders.items():
        masks[f"p{index:02d}"].ravel()[100 : 100 + pixels] = 77
    result = check(tree(tmp_path, masks))
    stray = found(result, "stray value")
    assert stray.severity == "warning" and stray.fix
    assert "77" in stray.message and f"in {len(holders)} of 13 masks" in stray.message
    assert [Path(file).stem for file in stray.files] == [f"p{min(holders):02d}"]


def test_a_stray_color_is_one_too(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142), (1, 64, 128)], np.uint8)
    masks = {f"p{i}": colors[labels(seed=i)] for i in range(8)}
    masks["p4"][0, 0] = colors[3]
    assert "#014080" in found(check(tree(tmp_path, masks)), "stray value").message


def test_classes_that_are_rare_but_real_are_none(tmp_path: Path) -> None:
    masks = {f"p{i}": labels((0, 1, 2, 3) if i in (2, 5) else (0, 1, 2), seed=i) for i in range(8)}
    assert "stray value" not in kinds(check(tree(tmp_path, masks)))


def test_a_named_class_of_a_few_pixels(tmp_path: Path) -> None:
    masks = {f"p{i}": labels(seed=i) for i in range(8)}
    masks["p1"][0, :3] = 3
    result = check(tree(tmp_path, masks, "ground\nroad\ncar\npole\n"))
    assert kinds(result) == {"hardly any pixels"}
    assert "pole in 1 of 8 masks (3 pixels, p1.png)" in found(result, "hardly any pixels").message


@pytest.mark.parametrize("share", [0.02, 0.15])
def test_what_a_guess_ignores_is_said_once_and_with_its_share(tmp_path: Path, share: float) -> None:
    masks = {f"p{i}": labels(seed=i) for i in range(8)}
    for mask in masks.values():
        mask[: round(SIZE[0] * share)] = 255
    result = check(tree(tmp_path, masks))
    ignored = found(result, "ignored by a guess")
    assert "255" in ignored.message and "%" in ignored.message and ignored.fix
    named = tree(tmp_path / "named", masks, "0 a\n1 b\n2 c\n255 void\n")
    assert "ignored by a guess" not in kinds(check(named))


# -- contradictions -------------------------------------------------------------------------------------------------


def test_copies_with_other_masks_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"p{i}": labels(seed=i) for i in range(8)}, "a\nb\nc\n")
    for i in range(4):
        (root / "images" / f"p{i + 4}.png").write_bytes((root / "images" / f"p{i}.png").read_bytes())
    result = check(root)
    contradiction = found(result, "contradicting masks")
    assert contradiction.severity == "warning" and "8 images" in contradiction.message and len(contradiction.files) == 8
    for i in range(4):
        (root / "masks" / f"p{i + 4}.png").write_bytes((root / "masks" / f"p{i}.png").read_bytes())
    assert kinds(check(root)) == {"duplicates"}, "copies with one mask contradict nothing"


def test_an_image_under_two_masks_is_an_error(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"p{i}": labels(seed=i) for i in range(6)}, "a\nb\nc\n")
    data = open_dataset(root)
    records = list(data.records)
    data.records = (*records, Record("again", records[0].image_path, records[1].mask_path))
    result = check_dataset(data, workers=0)
    contradiction = found(result, "contradicting masks")
    assert contradiction.severity == "error" and "p0" in contradiction.message and "again" in contradiction.message


# -- objects --------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    listed: int
    drawn: int


class Counting(Reader):
    """A reader that knows single objects."""

    def __init__(self, inner: Any, counts: Mapping[str, Mapping[int, tuple[int, int]]]) -> None:
        self.inner, self.label_space, self.counts = inner, inner.label_space, counts

    def image(self, record: Any) -> Any:
        return self.inner.image(record)

    def values(self, record: Any) -> Any:
        return self.inner.values(record)

    def mask(self, record: Any) -> Any:
        return self.inner.mask(record)

    def object_counts(self, record: Any) -> Any:
        return {label: Count(*pair) for label, pair in self.counts.get(record.id, {}).items()}


def counted(tmp_path: Path, counts: Mapping[str, Mapping[int, tuple[int, int]]]) -> CheckResult:
    root = tree(tmp_path / "set", {f"p{i}": labels(seed=i) for i in range(6)}, "ground\nroad\ncar\npole\n")
    data = open_dataset(root)
    data.reader = Counting(data.reader, counts)
    return check_dataset(data, workers=1)


def test_objects_are_compared_with_those_that_cover_pixels(tmp_path: Path) -> None:
    result = counted(tmp_path, {"p0": {1: (2, 2), 2: (3, 1), 3: (4, 0)}, "p3": {1: (1, 1), 2: (1, 1), 3: (1, 0)}})
    error = found(result, "objects without pixels")
    assert error.severity == "error" and "pole (5 of 5)" in error.message and result.exit_code == 1
    assert [Path(file).stem for file in error.files] == ["p0", "p3"]
    lost = found(result, "objects lost")
    assert lost.severity == "warning" and "car (2 of 4)" in lost.message and "road" not in lost.message
    assert [Path(file).stem for file in lost.files] == ["p0"]
    assert "class without pixels" not in kinds(result), "said once"
    classes = json.loads(json.dumps(result.to_json()))["classes"]
    assert [(c["objects"], c["objects_with_pixels"]) for c in classes] == [(0, 0), (3, 3), (4, 2), (5, 0)]
    assert result.dataset is not None
    assert CheckResult.from_json(result.to_json(), result.dataset).objects == result.objects
    buffer = io.StringIO()
    render_check(result, Console(file=buffer, width=120))
    assert "2 of 4" in buffer.getvalue() and "0 of 5" in buffer.getvalue()
    page = write_check_page(result, tmp_path / "check.html").read_text()
    assert "2 of 4" in page and "0 of 5" in page


def test_objects_that_are_all_drawn_are_counted_and_no_finding(tmp_path: Path) -> None:
    result = counted(tmp_path, {f"p{i}": {1: (2, 2), 2: (1, 1)} for i in range(6)})
    assert kinds(result) == {"class without pixels"} and result.objects == {1: (12, 12), 2: (6, 6)}


def test_problems_of_opening_are_kept(tmp_path: Path) -> None:
    """Those of pairing, too, where they are of other files than the check counts itself."""
    root = tree(tmp_path, {f"p{i}": labels(seed=i) for i in range(6)}, "a\nb\nc\n")
    data = open_dataset(root)
    data.problems += [
        Problem("warning", "objects lost", "7 objects of no class", ("x.json",)),
        Problem("warning", "mask without image", "3 images of the list are missing", ("gone/0.jpg",)),
        Problem("warning", "image without mask", "2 rows have no mask"),
    ]
    result = check_dataset(data, workers=0)
    assert [p.message for p in result.problems] == [p.message for p in data.problems]


# -- shown in training ----------------------------------------------------------------------------------------------


def said_by_training(root: Path, monkeypatch: pytest.MonkeyPatch, resume: bool = False) -> str:
    """What a training prints before its plan is made."""

    class Enough(Exception):
        pass

    def stop(*_: object) -> None:
        raise Enough

    stored = StoredRun(root.parent / "run", {})
    monkeypatch.setattr(training, "plan_run", stop)
    monkeypatch.setattr(training, "find_stored_run", lambda context, *, resume: stored if resume else None)
    stream = io.StringIO()
    config = TrainConfig().with_values({"out": str(root.parent / "run")})
    with pytest.raises(Enough):
        training.run_training(open_dataset(root), config, display=Display(stream=stream), resume=resume)
    return stream.getvalue()


@pytest.mark.parametrize("resume", [False, True])
def test_training_shows_the_warnings_of_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    masks = {f"train/p{i}": labels(seed=i) for i in range(9)} | {f"val/v{i}": labels((1, 2)) for i in range(9)}
    root = tree(tmp_path / "set", masks, "ground\nroad\ncar\nunicorn\n")
    near = np.clip(image(0).astype(int) + 2, 0, 255).astype(np.uint8)
    Image.fromarray(near).save(root / "images" / "val" / "v0.png")
    warnings = check(root).warnings
    assert {p.kind for p in warnings} >= {"class without pixels", "label shift", "near-duplicates between splits"}
    text = said_by_training(root, monkeypatch, resume)
    for problem in warnings:
        assert f"warning: {problem.kind}: {problem.message}" in text and f"fix: {problem.fix}" in text


def test_training_says_nothing_where_there_is_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "set", {f"p{i}": labels(seed=i) for i in range(8)}, "a\nb\nc\n")
    assert "warning" not in said_by_training(root, monkeypatch)


def test_folds_and_searches_show_them_once_and_refuse_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[int] = []

    def run(*_: object, checked: CheckResult | None = None, **__: object) -> Any:
        assert checked is not None
        started.append(1)
        return SimpleNamespace(evaluation=None, stopped_by="SIGTERM")

    monkeypatch.setattr(cross_validation, "run_training", run)
    config = TrainConfig().with_values({"out": str(tmp_path / "run")})
    root = tree(tmp_path / "set", {f"p{i}": labels(seed=i) for i in range(8)}, "a\nb\nc\nunicorn\n")
    cross_validation.cross_validate(open_dataset(root), config, 2)
    printed = capsys.readouterr().err
    assert printed.count("warning: class without pixels: 1 class never occurs: unicorn") == 1 and started == [1]
    root = tree(tmp_path / "flat", {f"p{i}": labels((1,)) for i in range(8)}, "a\nb\nc\n")
    for skip_bad in (False, True):
        values = {"out": str(tmp_path / f"run-{skip_bad}"), "data.skip_bad": skip_bad}
        with pytest.raises(DataError, match="one class only"):
            cross_validation.cross_validate(open_dataset(root), config.with_values(values), 2)
    assert started == [1]


def test_the_page_replaces_no_file_of_the_data_set(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {f"p{i}": labels(seed=i) for i in range(3)}, "a\nb\nc\n")
    result = check(root)
    before = (root / "classes.txt").read_bytes()
    with pytest.raises(UsageError, match="overwrite"):
        write_check_page(result, root / "classes.txt")
    assert (root / "classes.txt").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_check_page(result, tmp_path / "file" / "check.html")

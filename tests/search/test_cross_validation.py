"""Cross-validation: every image scored once, the spread, and folds that are not trained twice.

Trainings are replaced by made-up counts and untrained networks; tests/cli/test_tuning.py trains real folds.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation.sequences import find_units
from segwright.imageio import read_image, write_image
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import load
from segwright.metrics.confusion import iou_per_class
from segwright.models.catalog import create_model
from segwright.search import cross_validation
from segwright.search.cross_validation import cross_validate
from segwright.training.config import TrainConfig
from segwright.training.run import training_splits

SCORES = (0.5, 0.7, 0.6)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=9, val=3, test=2, size=(64, 96)))


class Runs:
    """Stands for run_training."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.val_ids: list[str] = []
        self.sides: list[tuple[set[str], set[str]]] = []
        self.stop_at: int | None = None
        self.no_score: set[int] = set()
        self.part = 1.0  # of the images that is scored

    def __call__(self, data: Dataset, config: TrainConfig, **given: Any) -> Any:
        fold = config.data.fold
        assert fold is not None and config.out is not None and config.out.endswith(f"fold-{fold}")
        self.seen.append(fold)
        if self.stop_at == fold:
            return SimpleNamespace(evaluation=None, stopped_by="SIGTERM")
        if fold in self.no_score:
            return SimpleNamespace(evaluation=None, stopped_by=None, no_score="scoring ran out of memory")
        train, val = training_splits(data, config)
        assert val is not None
        self.val_ids += val.ids
        self.sides.append((set(train.ids), set(val.ids)))
        hit = round(100 * SCORES[fold])
        counts = np.zeros((round(self.part * len(val)), 3, data.label_space.classes), np.int64)
        counts[:, :, 0] = hit, 100, hit  # one class occurs, the others do not
        score = SCORES[fold]
        torch.manual_seed(fold)
        network = create_model("segnet_basic", classes=data.label_space.classes, weights=None, width=4)
        save_bundle(Path(config.out) / "model", network, Bundle("segnet_basic", data.label_space, {"width": 4}))
        ids = [f"{config.data.fold}-{place}x" for place in range(len(counts))]
        interval = (score - 0.1, score + 0.1)
        drawn = find_units(ids)
        evaluation = SimpleNamespace(miou=score, miou_ci95=interval, counts=counts, ids=ids, independent=drawn)
        return SimpleNamespace(evaluation=evaluation, stopped_by=None, val_images=len(val))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(cross_validation, "run_training", found)
    return found


def test_mean_spread_and_pooled_score(scenes: Dataset, tmp_path: Path, runs: Runs) -> None:
    config = TrainConfig().with_values({"out": str(tmp_path / "cv")})
    found = cross_validate(scenes, config, 3)
    assert sorted(runs.val_ids) == sorted([*scenes.train.ids, *scenes.val.ids]), "each once, the test split never"
    assert found.mean == pytest.approx(0.6) and found.spread == pytest.approx(0.1)
    summary = json.loads((tmp_path / "cv" / "folds.json").read_text())
    pooled = iou_per_class(np.concatenate([fold.counts for fold in found.folds]).sum(axis=0))[0]
    assert summary["pooled_miou"] == pytest.approx(pooled) and summary["finished"] is True
    first, absent = list(summary["per_class_iou"].values())[:2]
    assert first == {"mean": pytest.approx(0.6), "spread": pytest.approx(0.1)} and absent["mean"] is None
    assert "0.600 ± 0.100" in found.sentence()
    page = (tmp_path / "cv" / "report.html").read_text()
    assert "0.600 ± 0.100" in page and "viewBox=" not in page and 'href="fold-' not in page
    with pytest.raises(UsageError, match="holds runs already"):
        cross_validate(scenes, config, 3)
    (tmp_path / "run" / "model").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds a run already"):
            cross_validate(scenes, config.with_values({"out": str(tmp_path / "run")}), 3, resume=resume)


def test_the_folds_become_one_model(scenes: Dataset, tmp_path: Path, runs: Runs) -> None:
    config = TrainConfig().with_values({"out": str(tmp_path / "cv")})
    runs.stop_at = 2
    assert cross_validate(scenes, config, 3).summary()["model"] is None, "not before all are trained"
    runs.stop_at = None
    found = cross_validate(scenes, config, 3, resume=True)
    assert json.loads((tmp_path / "cv" / "folds.json").read_text())["model"] == str(found.model)
    image = scenes.train.read_image(0)
    alone = [load(fold.folder)(image, probabilities=True).probabilities for fold in found.folds]
    one = load(tmp_path / "cv")  # the folder itself is a model
    np.testing.assert_allclose(one(image, probabilities=True).probabilities, np.mean(alone, axis=0), atol=2e-6)
    assert one.bundle is not None and one.bundle.metrics["cross_validation"]["val_miou_spread"] == pytest.approx(0.1)
    assert (tmp_path / "latest").resolve() == (tmp_path / "cv").resolve()


def test_what_belongs_together_is_on_one_side(tmp_path: Path, runs: Runs) -> None:
    """Sequences by name, and a recoded copy of an image under a name that tells nothing."""
    root = write_street_scenes(tmp_path / "data", train=12, val=0, test=0, size=(64, 96))
    images, masks = root / "images" / "train", root / "masks" / "train"
    for number, path in enumerate(sorted(images.glob("*.png"))):
        twin = f"copy{chr(97 + number)}x{chr(122 - number)}"
        image = np.clip(read_image(path).astype(int) + 3, 0, 255).astype(np.uint8)
        write_image(images / f"{twin}.png", image)
        (masks / f"{twin}.png").write_bytes((masks / path.name).read_bytes())
        original = f"scene{chr(97 + number)}x{chr(122 - number)}"
        for folder in (images, masks):
            (folder / path.name).rename(folder / f"{original}.png")
    data = open_dataset(root)
    cross_validate(data, TrainConfig().with_values({"out": str(tmp_path / "cv")}), 3)
    assert len(runs.sides) == 3
    for train, val in runs.sides:
        assert len(val) >= 4 and {name[-3:] for name in train}.isdisjoint({name[-3:] for name in val})


def test_stopped_folds_go_on_and_finished_ones_stay(scenes: Dataset, tmp_path: Path, runs: Runs) -> None:
    config = TrainConfig().with_values({"out": str(tmp_path / "cv")})
    runs.stop_at = 1
    stopped = cross_validate(scenes, config, 3)
    assert stopped.stopped_by == "SIGTERM" and "1 of 3 folds" in stopped.sentence()
    runs.stop_at = None
    found = cross_validate(scenes, config, 3, resume=True)
    assert runs.seen == [0, 1, 1, 2] and found.mean == pytest.approx(0.6)
    with pytest.raises(UsageError, match="another number of folds"):
        cross_validate(scenes, config, 4, resume=True)


@pytest.mark.parametrize("name", ["fold-0", "fold-1"])
def test_folders_of_the_user_stay(scenes: Dataset, tmp_path: Path, runs: Runs, name: str) -> None:
    """A folder of such a name that no run made is refused before the first fold is trained."""
    mine = tmp_path / "out" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    config = TrainConfig().with_values({"out": str(tmp_path / "out")})
    with pytest.raises(UsageError, match="of no run") as caught:
        cross_validate(scenes, config, folds=3, resume=True)
    assert caught.value.found == "mine.txt" and mine.read_text() == "mine" and not runs.seen
    mine.unlink()
    (mine.parent / ".lock").touch()  # of a run that was killed at its beginning
    (mine.parent / "plan.json").write_text("{}")
    cross_validate(scenes, config, folds=3, resume=True)
    assert runs.seen == [0, 1, 2] and not (mine.parent / "plan.json").exists()


def test_a_fold_without_a_score_ends_only_itself(scenes: Dataset, tmp_path: Path, runs: Runs) -> None:
    config = TrainConfig().with_values({"out": str(tmp_path / "cv")})
    runs.no_score = {1}
    found = cross_validate(scenes, config, 3)
    assert runs.seen == [0, 1, 2] and [fold.number for fold in found.folds] == [0, 2]
    assert (
        found.stopped_by == "no score" and found.sentence() == "2 of 3 folds have a score; --resume scores the others"
    )
    assert (tmp_path / "cv" / "report.html").exists()
    runs.no_score = set()
    assert cross_validate(scenes, config, 3, resume=True).stopped_by is None and runs.seen == [0, 1, 2, 1]
    runs.no_score = {0, 1, 2}
    runs.seen.clear()
    again = config.with_values({"out": str(tmp_path / "none")})
    assert cross_validate(scenes, again, 3).stopped_by == "no score" and runs.seen == [0], "nothing gives a score"


def test_a_pool_of_part_of_the_images_is_not_called_every_image(scenes: Dataset, tmp_path: Path, runs: Runs) -> None:
    runs.part = 0.5
    found = cross_validate(scenes, TrainConfig().with_values({"out": str(tmp_path / "cv")}), 3)
    total = len(scenes.train) + len(scenes.val)
    scored = sum(len(fold.counts) for fold in found.folds)
    assert f"pooled over {scored} of {total} images" in found.sentence() and "every image" not in found.sentence()
    tree = json.loads((tmp_path / "cv" / "folds.json").read_text())
    assert tree["images"] == total and tree["scored_images"] == scored
    kept = cross_validate(scenes, TrainConfig().with_values({"out": str(tmp_path / "cv")}), 3, resume=True)
    assert kept.sentence() == found.sentence()

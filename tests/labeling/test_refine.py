"""Refinement: classes that differ, partial masks, what is held out, replay, the verdict, resuming, lineage."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from slot_models import TINY
from typer.testing import CliRunner

import segwright as sw
from segwright.cli import app
from segwright.core.errors import DataError, DepthError, LabelError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.dataset import Split, open_dataset
from segwright.data.loading.loader import epoch_order
from segwright.evaluation.evaluation import Evaluation
from segwright.imageio import write_image
from segwright.inference.bundle import Bundle, read_bundle, save_bundle
from segwright.inference.lineage import bundle_id
from segwright.inference.predictor import find_bundle
from segwright.labeling import refine as refining
from segwright.labeling.class_matching import extended_space, match_classes, parse_renamed
from segwright.labeling.mixed_data import NEW, OLD, mixed, part_of, role_of, share_of_replay
from segwright.labeling.paired_scores import PairedScores, pair
from segwright.models.catalog import create_model

COLORS = {"road": (90, 90, 90), "car": (200, 40, 40), "sky": (90, 160, 240), "tree": (30, 120, 40)}
SETTINGS = {
    "training.size": (32, 48), "training.batch": 4, "training.workers": 1, "training.cache": False,
    "training.logit_adjustment": False, "training.trackers": (), "augment.strength": "none",
    "training.precision": "fp32",
}  # fmt: skip


def scenes(
    folder: Path, names: Sequence[str] = ("road", "car", "sky"), *, light: float = 1.0, seed: int = 0,
    train: int = 8, val: int = 4, ignored: float = 0.0, sequences: int = 0,
) -> Path:  # fmt: skip
    """Images (32, 48) of colored blocks, one per class and place; ``ignored``: the share of the mask that is 255."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            drawn = np.random.default_rng(index % sequences) if sequences else rng  # frames of a sequence are alike
            mask = np.repeat(np.repeat(drawn.integers(0, len(names), (4, 6), np.uint8), 8, 0), 8, 1)
            image = np.array([COLORS[name] for name in names], np.float32)[mask] * light
            image += rng.normal(0, 8, image.shape)
            mask[rng.random(mask.shape) < ignored] = 255
            name = f"s{index % sequences}_{index:03d}" if sequences else f"{split}_{index}"
            place = "" if val == 0 else f"{split}/"
            write_image(folder / f"images/{place}{name}.png", np.clip(image, 0, 255).astype(np.uint8))
            write_image(folder / f"masks/{place}{name}.png", mask)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``day`` (3 classes), ``night`` and a model ``run`` of a few steps on day."""
    place = tmp_path_factory.mktemp("refine")
    scenes(place / "day")
    scenes(place / "night", light=0.3, seed=1)
    network = create_model("leannet", classes=3, weights=None, **TINY)
    space = LabelSpace(("road", "car", "sky"))
    save_bundle(place / "start", network, Bundle("leannet", space, {**TINY, "in_channels": 3}, {"channels": 3}))
    sw.train(
        place / "day", init_from=place / "start", epochs=20, out=place / "run", device="cpu", lr=0.02,
        settings={key: value for key, value in SETTINGS.items() if key != "training.cache"},
    )  # fmt: skip
    return place


def refined(base: Path, out: Path, new: Path | str = "night", old: str | None = "day", **more: Any) -> sw.Refinement:
    settings = {**SETTINGS, **more.pop("settings", {})}
    return sw.refine(
        more.pop("model", base / "run"), base / new, old=None if old is None else base / old, out=out, device="cpu",
        settings=settings, **{"epochs": 2, **more},
    )  # fmt: skip


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_candidate_with_figures_page_and_lineage(base: Path, tmp_path: Path) -> None:
    found = refined(base, tmp_path / "out", epochs=15, settings={"training.lr": 0.01})
    assert found.new is not None and found.old is not None
    assert found.new.images == found.old.images == 4 and found.new.after > found.new.before
    bundle = read_bundle(found.model)
    figures = bundle.training["refinement"]
    assert figures["parent_id"] == bundle_id(base / "run" / "model") == found.parent_id
    assert figures["id"] == bundle_id(found.model) == found.id
    assert PairedScores.from_json(figures["new"]).after == found.new.after
    assert bundle.label_space.names == ("road", "car", "sky")
    text = (found.folder / "refinement.html").read_text()
    assert "Old images" in text and "car" in text and "On the new images" in text
    assert json.loads((found.folder / "refinement.json").read_text())["id"] == found.id
    assert {"config.yaml", "report.html", "log.jsonl", "last"} <= {entry.name for entry in found.folder.iterdir()}
    lineage = sw.read_lineage(found.model)
    assert lineage.model.made_by == "refine" and lineage.model.parents == (found.parent_id,)
    assert [used.role for used in lineage.model.data] == ["new", "old"]
    assert all(used.fingerprint for used in lineage.model.data)
    parent = lineage.ancestors[found.parent_id]
    assert parent.made_by == "train" and parent.parents == (bundle_id(base / "start"),)
    sw.export(found.model, to="bundle", out=tmp_path / "exported", data=base / "day")
    assert sw.read_lineage(tmp_path / "exported").model.parents == (found.parent_id,)


def test_new_and_old_images_count_alike_in_which_weights_are_kept(base: Path, tmp_path: Path) -> None:
    """Sparse labels of few new images would be nothing beside all pixels of the old ones."""
    scenes(tmp_path / "strokes", light=0.3, seed=2, ignored=0.95)
    found = refined(base, tmp_path / "out", tmp_path / "strokes", epochs=6, settings={"training.lr": 0.01})
    assert found.new is not None and found.old is not None and found.run.progress is not None
    assert found.run.progress.best_miou == pytest.approx((found.new.after + found.old.after) / 2, abs=1e-6)


def test_what_is_not_better_is_not_recommended(base: Path, tmp_path: Path) -> None:
    arguments = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    found = CliRunner().invoke(app, [
        "refine", str(base / "run"), str(base / "night"), "--epochs", "1", "--out", str(tmp_path / "out"), "--device",
        "cpu", *arguments,
    ])  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "not ready for service" in found.output and "what it has forgotten is not known" in found.output


def test_without_old_data_the_verdict_names_the_gap(base: Path, tmp_path: Path) -> None:
    found = refined(base, tmp_path / "out", old=None, epochs=1)
    assert found.old is None and not found.better
    assert "there are no old validation images" in found.verdict() and any("forgotten" in note for note in found.notes)


def test_files_that_cannot_be_read_are_left_out_on_request(base: Path, tmp_path: Path) -> None:
    """Of training and validation; both models are compared on the rest."""
    shutil.copytree(base / "night", tmp_path / "new")
    for name in ("train/train_0", "val/val_0"):
        (tmp_path / "new/images" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="val_0") as caught:
        refined(base, tmp_path / "out", tmp_path / "new")
    assert "--skip-bad" in str(caught.value.fix) and not (tmp_path / "out").exists()
    arguments = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    done = CliRunner().invoke(app, [
        "refine", str(base / "run"), str(tmp_path / "new"), "--with", str(base / "day"), "--epochs", "1", "--out",
        str(tmp_path / "out"), "--device", "cpu", "--skip-bad", *arguments,
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out/refinement.json").read_text())
    assert figures["new"]["images"] == 3 and figures["old"]["images"] == 4
    split = open_dataset(tmp_path / "new").splits["val"]
    assert len(refining.affordable(sw.load(base / "run"), split, 60.0)) == 4, "it is timed on an image that can be read"
    with pytest.raises(DataError) as caught:
        refining.scored(sw.load(base / "run"), split, title="promote")
    assert "--skip-bad" not in str(caught.value.fix), "promote has no such option"


def test_the_command(base: Path, tmp_path: Path) -> None:
    arguments = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    found = CliRunner().invoke(app, [
        "refine", str(base / "run"), str(base / "night"), "--with", str(base / "day"), "--epochs", "1", "--out",
        str(tmp_path / "out"), "--device", "cpu", "--json", str(tmp_path / "r.json"), *arguments,
    ])  # fmt: skip
    assert found.exit_code == 0, found.output
    tree = json.loads((tmp_path / "r.json").read_text())
    assert tree["new"]["images"] == 4 and tree["verdict"] in found.output.replace("\n", " ")
    assert ("into service: segwright promote" in found.output) == tree["better"]
    shown = CliRunner().invoke(app, ["lineage", str(tmp_path / "out"), "--json", str(tmp_path / "l.json")])
    assert tree["parent_id"] in shown.output and json.loads((tmp_path / "l.json").read_text())["clicks"] == 0


def test_a_stopped_refinement_resumes_to_the_same_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = refined(base, tmp_path / "whole", epochs=2)
    from segwright.training.trainer import Trainer

    take = Trainer.train_step

    def stopping(self: Trainer, *arguments: Any) -> None:
        take(self, *arguments)
        if self.progress.step == 3 and self.stop is not None:
            self.stop.handle(2, None)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", stopping)
        stopped = refined(base, tmp_path / "parts", epochs=2)
    assert not stopped.id and "--resume" in stopped.verdict()
    shutil.copytree(tmp_path / "parts", tmp_path / "again")
    parts = refined(base, tmp_path / "parts", epochs=2, resume=True)
    assert parts.id == whole.id and parts.new is not None and parts.new == whole.new
    assert refined(base, tmp_path / "again", epochs=None, resume=True).id == whole.id, "it has its epochs already"


# -- classes -----------------------------------------------------------------------------------------------------------


def test_new_classes_are_appended(base: Path, tmp_path: Path) -> None:
    scenes(tmp_path / "more", ("sky", "road", "car", "tree"), seed=3)
    found = refined(base, tmp_path / "out", tmp_path / "more", epochs=1)
    assert read_bundle(found.model).label_space.names == ("road", "car", "sky", "tree")
    assert found.old is not None and [one.name for one in found.old.classes] == ["road", "car", "sky"]
    assert found.new is not None and found.new.classes[-1].name == "tree" and found.new.classes[-1].before == 0


MODEL = LabelSpace(("road", "car", "sky"))


def test_other_names_are_refused_with_both_readings() -> None:
    data = LabelSpace(("road", "vehicle", "sky"))
    with pytest.raises(LabelError, match="lacks classes") as refused:
        extended_space(MODEL, data, {}, append=False, what="the new data")
    assert "--rename 'vehicle=car'" in (refused.value.fix or "") and "--append-classes" in (refused.value.fix or "")
    assert extended_space(MODEL, data, {}, append=True, what="x").names == ("road", "car", "sky", "vehicle")
    assert extended_space(MODEL, data, {"vehicle": "car"}, append=False, what="x") == MODEL
    match = match_classes(MODEL, data, {"vehicle": "car"}, what="the new data")
    assert match.table[:3].tolist() == [0, 1, 2] and match.table[255] == 255


def test_order_case_and_missing_classes() -> None:
    match = match_classes(MODEL, LabelSpace(("Sky", "Road")), {}, what="the new data")
    assert match.table[:2].tolist() == [2, 0]
    assert match.notes == ("the new data does not label car",)


def test_classes_by_number_only_if_there_are_as_many() -> None:
    match = match_classes(MODEL, LabelSpace(("class 0", "class 1", "class 2")), {}, what="the new data")
    assert match.table[:3].tolist() == [0, 1, 2] and "by their order" in match.notes[0]
    with pytest.raises(LabelError):
        extended_space(MODEL, LabelSpace(("class 0", "class 1")), {}, append=False, what="the new data")


def test_old_data_with_other_classes_is_refused(base: Path, tmp_path: Path) -> None:
    scenes(tmp_path / "more", ("sky", "road", "car", "tree"), seed=3)
    with pytest.raises(LabelError, match="the old data has classes that the model lacks"):
        sw.refine(base / "run", base / "night", old=tmp_path / "more", out=tmp_path / "out", epochs=1, device="cpu")


def test_renames_are_checked(base: Path) -> None:
    with pytest.raises(UsageError, match="no dataset has the class"):
        sw.refine(base / "run", base / "night", rename={"lorry": "car"}, epochs=1)
    with pytest.raises(UsageError, match="the model lacks the class"):
        sw.refine(base / "run", base / "night", rename=["car=lorry"], epochs=1)
    with pytest.raises(UsageError, match="OLD=NEW"):
        parse_renamed(["car"])
    with pytest.raises(LabelError, match="become one"):
        match_classes(MODEL, LabelSpace(("car", "lorry")), {"lorry": "car"}, what="x")


# -- data --------------------------------------------------------------------------------------------------------------


def parts(*paths: Path) -> list[Any]:
    roles = (NEW, OLD)
    datasets = [open_dataset(path) for path in paths]
    return [
        part_of(role, data, match_classes(MODEL, data.label_space, {}, what=role))
        for role, data in zip(roles, datasets, strict=False)
    ]


def test_images_without_a_labeled_pixel_are_left_out(tmp_path: Path) -> None:
    scenes(tmp_path / "new", ignored=0.9, train=6, val=0)
    for index in (1, 4):
        write_image(tmp_path / f"new/masks/train_{index}.png", np.full((32, 48), 255, np.uint8))
    part = parts(tmp_path / "new")[0]
    assert len(part.train) + len(part.val or ()) == 4 and any("2 images without a labeled" in n for n in part.notes)
    for index in range(6):
        write_image(tmp_path / f"new/masks/train_{index}.png", np.full((32, 48), 255, np.uint8))
    with pytest.raises(DataError, match="no image is labeled"):
        parts(tmp_path / "new")


def test_held_out_parts_are_whole_sequences(tmp_path: Path) -> None:
    scenes(tmp_path / "new", train=20, val=0, sequences=5)
    part = parts(tmp_path / "new")[0]
    assert part.val is not None and any("held out" in note for note in part.notes)
    assert not {i.split("_")[0] for i in part.val.ids} & {i.split("_")[0] for i in part.train.ids}


def test_of_few_images_enough_are_held_out_for_a_verdict(tmp_path: Path) -> None:
    scenes(tmp_path / "new", train=14, val=0)
    part = parts(tmp_path / "new")[0]
    assert part.val is not None and 5 <= len(part.val) <= 6 and len(part.train) + len(part.val) == 14


def test_as_many_are_held_out_of_a_folder_named_train(tmp_path: Path) -> None:
    scenes(tmp_path / "new", train=14, val=1)
    shutil.rmtree(tmp_path / "new/images/val")
    shutil.rmtree(tmp_path / "new/masks/val")
    part = parts(tmp_path / "new")[0]
    assert part.val is not None and 5 <= len(part.val) <= 6 and len(part.train) + len(part.val) == 14


def test_new_labels_of_one_class_alone_are_named(tmp_path: Path) -> None:
    scenes(tmp_path / "new")
    assert not any("everywhere" in note for note in parts(tmp_path / "new")[0].notes)
    for place in (tmp_path / "new/masks/val").iterdir():
        mask = cv2.imread(str(place), cv2.IMREAD_UNCHANGED)
        write_image(place, np.where(mask == 1, 1, 255).astype(np.uint8))
    assert any("predicts car everywhere scores 100 %" in note for note in parts(tmp_path / "new")[0].notes)


def test_too_few_images_give_no_validation(tmp_path: Path) -> None:
    scenes(tmp_path / "new", train=3, val=0)
    part = parts(tmp_path / "new")[0]
    assert part.val is None and any("too few" in note for note in part.notes)


def test_the_share_of_replay(tmp_path: Path) -> None:
    scenes(tmp_path / "new", train=4, val=2, seed=1)
    scenes(tmp_path / "old", train=12, val=2)
    data = mixed(parts(tmp_path / "new", tmp_path / "old"), MODEL, None, 3)
    weights = share_of_replay(0.25, data.train)
    assert weights is not None and len(data.train) == 16
    drawn = np.concatenate([epoch_order(16, seed=0, epoch=e, weights=weights) for e in range(50)])
    old = np.mean([role_of(data.train.ids[i]) == OLD for i in drawn])
    assert abs(old - 0.25) < 0.03
    assert share_of_replay(0.25, Split("train", data.train.records[:4], data.reader)) is None
    with pytest.raises(UsageError, match="between 0 and 1"):
        refining.RefineOptions(replay=1.0)


def test_masks_are_read_in_the_models_classes(tmp_path: Path) -> None:
    scenes(tmp_path / "new", ("sky", "road"), train=2, val=2)
    data = mixed(parts(tmp_path / "new"), MODEL, None, 3)
    own = open_dataset(tmp_path / "new").train
    expected = np.array([2, 0], np.uint8)[own.read_mask(0)]
    assert (data.train.read_mask(0) == expected).all()
    assert (data.reader.values(data.train.records[0]) == expected).all()
    assert data.train[0].id.startswith("new/")


def test_deeper_images_are_refused(tmp_path: Path) -> None:
    scenes(tmp_path / "new", train=3, val=2)
    for path in (tmp_path / "new/images").rglob("*.png"):
        assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 4000, (32, 48, 3)).astype(np.uint16))
    with pytest.raises(DepthError, match="not as deep"):
        mixed(parts(tmp_path / "new"), MODEL, None, 3)


# -- scores ------------------------------------------------------------------------------------------------------------


def evaluation(counts: Any, ids: Sequence[str]) -> Evaluation:
    return Evaluation(MODEL, "val", np.zeros((3, 3), np.int64), list(ids), np.asarray(counts, np.int64))


def test_scores_count_what_the_images_hold() -> None:
    """One pixel predicted as a class that no image holds must not cost a third of the mean IoU, though the class is in
    the data's list. By hand: road 90/91, car 9/10 before; road 90/90, car 9/10 after."""
    before = [[[90, 9, 0], [90, 10, 0], [91, 9, 0]]] * 6
    after = [[[90, 9, 0], [90, 10, 0], [90, 9, 1]]] * 6
    ids = [f"image {i}" for i in range(6)]
    found = pair("old", evaluation(before, ids), evaluation(after, ids))
    assert found.before == pytest.approx((90 / 91 + 0.9) / 2) and found.after == pytest.approx(0.95)
    assert found.difference.difference == pytest.approx((1 - 90 / 91) / 2) and found.difference.clear
    assert [one.name for one in found.classes] == ["road", "car"] and found.images == 6
    assert found.absent == ("sky",) and "sky is predicted, but no pixel" in found.lines()[-1]
    again = PairedScores.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json() and again.fallen(0.0) == []


def test_a_list_that_is_longer_than_the_labels(base: Path, tmp_path: Path) -> None:
    """The list of a label folder is always the model's; sky is in no mask, and both models predict some."""
    scenes(tmp_path / "clicks", ("road", "car"), light=0.3, seed=7)
    for path in (tmp_path / "clicks/images").rglob("*.png"):  # something like sky where nobody labeled it so
        image = cv2.imread(str(path))
        image[:8, :8] = COLORS["sky"][::-1]
        assert cv2.imwrite(str(path), image)
    (tmp_path / "clicks/classes.txt").write_text("road\ncar\nsky\n")
    found = refined(base, tmp_path / "out", tmp_path / "clicks", epochs=1).new
    assert found is not None and [one.name for one in found.classes] == ["road", "car"] and found.absent == ("sky",)
    assert found.after == pytest.approx(np.mean([one.after for one in found.classes]))
    assert found.before == pytest.approx(np.mean([one.before for one in found.classes]))
    assert "sky is predicted, but no pixel" in (tmp_path / "out/refinement.html").read_text()


def test_scores_pair_images_by_their_ids() -> None:
    rows = np.zeros((4, 3, 3), np.int64)
    rows[:, :, 0] = [[1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4]]
    ids = ["a", "b", "c", "d"]
    found = pair("new", evaluation(rows, ids), evaluation(rows[[3, 1]], ["d", "b"]))
    assert found.images == 2 and found.difference.difference == 0 and math.isclose(found.before, 1.0)
    with pytest.raises(UsageError, match="not scored on the same images"):
        pair("new", evaluation(rows, ids), evaluation(rows[:1], ["z"]))


def test_minutes_bound_the_scoring_of_the_model_before(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, split = sw.load(base / "run", device="cpu"), open_dataset(base / "day").train
    clock = iter(range(10))
    monkeypatch.setattr(refining, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))  # a second per look
    monkeypatch.setattr(refining, "FEWEST_SCORED", 2)
    assert len(refining.affordable(predictor, split, 4 / refining.BEFORE_FRACTION)) == 4
    assert len(refining.affordable(predictor, split, 1)) == 2
    assert refining.affordable(predictor, split, 1e6) is split


def test_what_the_model_was_trained_on_is_named(base: Path, tmp_path: Path) -> None:
    scenes(tmp_path / "seen", train=4, val=2, seed=5)
    for index, path in enumerate(sorted((base / "day/images/train").iterdir())[:2]):
        (tmp_path / f"seen/images/val/val_{index}.png").write_bytes(path.read_bytes())
    part = part_of(NEW, open_dataset(tmp_path / "seen"), match_classes(MODEL, MODEL, {}, what=NEW))
    assert refining._seen_notes(base / "run", [part]) == [
        "new: the model before was trained on 2 of 2 validation images, which favors it there"
    ]


def test_a_run_folder_of_the_candidate_is_a_model(base: Path, tmp_path: Path) -> None:
    found = refined(base, tmp_path / "out", epochs=1)
    assert find_bundle(found.folder) == found.model
    assert sw.evaluate(found.folder, base / "night", split="val", device="cpu").images == 4

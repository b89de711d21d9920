"""The reference of a model: made of held-out images, kept in the bundle, handed on, and read within bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segwright as sw
from segwright.cli import app
from segwright.core.errors import BundleError, DataError, LabelError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import decode_image
from segwright.inference.attachments import Attachment
from segwright.inference.bundle import Bundle, read_attachment, save_bundle
from segwright.inference.predictor import Predictor, load
from segwright.models.catalog import create_model
from segwright.monitoring.observation import model_id, observe
from segwright.monitoring.reference import make_reference, parse_reference, read_reference

ARGUMENTS: dict[str, Any] = {
    "widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1], "in_channels": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("street"), train=2, val=5, test=3, size=(64, 96)))


def bundle(folder: Path, space: LabelSpace) -> Path:
    torch.manual_seed(5)
    network = create_model("leannet", classes=len(space), weights=None, **ARGUMENTS)
    return save_bundle(folder, network.eval(), Bundle("leannet", space, ARGUMENTS))


def test_it_holds_the_records_and_the_truth_of_held_out_images(scenes: Dataset, tmp_path: Path) -> None:
    predictor = load(bundle(tmp_path / "model", scenes.label_space), device="cpu")
    assert scenes.val is not None
    found = parse_reference(make_reference(predictor, scenes.val))
    assert [row.id for row in found.rows] == list(scenes.val.ids) and not predictor.observed
    assert found.model == model_id(predictor) and found.split == "val" and not found.thumbnails
    predictor.observed = True
    for index, row in enumerate(found.rows):
        prediction = predictor.predict(scenes.val.read_image(index))
        expected = observe(prediction, id=row.id, model=found.model, time=row.time)
        assert row.shares == pytest.approx(expected.shares) and row.embedding == pytest.approx(expected.embedding)
        assert row.confidence_histogram == pytest.approx(expected.confidence_histogram, abs=1e-3)
        mask = scenes.val.read_mask(index)
        assert mask is not None
        for label in range(len(scenes.label_space)):
            hits, truth, predicted = found.counts[index][:, label]
            seen = prediction.labels[mask != 255]
            assert truth == (mask == label).sum() and predicted == (seen == label).sum()
            assert hits == ((prediction.labels == label) & (mask == label)).sum()
    assert found.labeled.all() and len(found.scenes) == 5
    assert 0 <= found.to_json()["miou"] <= 1


def test_it_is_bounded_and_thumbnails_only_come_when_asked(scenes: Dataset, tmp_path: Path) -> None:
    predictor = load(bundle(tmp_path / "model", scenes.label_space), device="cpu")
    assert scenes.val is not None
    found = parse_reference(make_reference(predictor, scenes.val, max_images=3, thumbnails=True))
    assert len(found) == 3 == len(found.thumbnails)
    assert max(decode_image(found.thumbnails[0]).shape[:2]) <= 64


def test_images_without_masks_make_a_reference_too(scenes: Dataset, tmp_path: Path) -> None:
    predictor = load(bundle(tmp_path / "model", scenes.label_space), device="cpu")

    class Unlabeled:
        name, label_space, ids = "new", scenes.label_space, ["a", "b", "c"]

        def __len__(self) -> int:
            return 3

        def read_image(self, index: int) -> np.ndarray:
            if index == 1:
                raise DataError("cannot be read")
            return np.full((40, 50, 3), 40 * index, np.uint8)

        def read_mask(self, index: int) -> None:
            return None

    found = make_reference(predictor, Unlabeled())  # type: ignore[arg-type]
    parsed = parse_reference(found)
    assert [row.id for row in parsed.rows] == ["a", "c"] and not parsed.labeled.any()
    assert found.description["left_out"] == 1 and parsed.to_json()["miou"] is None
    Unlabeled.ids, Unlabeled.__len__ = ["a"], lambda self: 1  # type: ignore[assignment, method-assign]
    with pytest.raises(DataError, match="two images or more"):
        make_reference(predictor, Unlabeled())  # type: ignore[arg-type]


def test_masks_are_brought_to_the_models_order_of_classes(scenes: Dataset, tmp_path: Path) -> None:
    names = scenes.label_space.names
    turned = LabelSpace(tuple(reversed(names)))
    assert scenes.val is not None
    predictor = load(bundle(tmp_path / "model", turned), device="cpu")
    found = parse_reference(make_reference(predictor, scenes.val))
    mask = scenes.val.read_mask(0)
    assert mask is not None
    for index, name in enumerate(names):
        assert found.counts[0, 1, turned.index(name)] == (mask == index).sum()
    other = Predictor(predictor.runtime, LabelSpace(tuple(f"kind of thing {k}x" for k in range(len(names)))))
    with pytest.raises(LabelError):
        make_reference(other, scenes.val)


def test_the_command_puts_it_into_the_model(
    scenes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle(tmp_path / "run" / "model", scenes.label_space)
    assert read_reference(tmp_path / "run") is None and "reference" not in load(folder, device="cpu").attachments
    app(
        ["reference", str(tmp_path / "run"), str(scenes.root), "--json", str(tmp_path / "r.json")],
        standalone_mode=False,
    )
    assert "5 images of val" in capsys.readouterr().out and (tmp_path / "r.json").is_file()
    found = sw.read_reference(tmp_path / "run")
    assert found is not None and len(found) == 5
    assert found.model == model_id(load(folder, device="cpu")), "the weights that are saved"
    assert load(folder, device="cpu").attachments == ("reference",)
    again = sw.make_reference(tmp_path / "run", scenes, split="test", device="cpu")
    assert len(again) == 3 == len(sw.read_reference(tmp_path / "run") or ())


def test_wrong_requests_are_typed(scenes: Dataset, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "model", scenes.label_space)
    with pytest.raises(UsageError, match="carries no reference"):
        sw.make_reference(tmp_path / "model.onnx", scenes)
    with pytest.raises(DataError, match="no split"):
        sw.make_reference(folder, scenes, split="nothing", device="cpu")
    with pytest.raises(UsageError):
        sw.make_reference(folder, scenes, max_images=1, device="cpu")
    with pytest.raises(BundleError):
        sw.read_reference(tmp_path / "nothing")
    alone = open_dataset(write_street_scenes(tmp_path / "alone", train=3, val=0, test=0, size=(64, 96)))
    with pytest.raises(DataError, match="no held-out images"):
        sw.make_reference(folder, alone, device="cpu")
    assert len(sw.make_reference(folder, alone, split="all", device="cpu")) == 3


def test_a_damaged_reference_is_a_typed_error(scenes: Dataset, tmp_path: Path) -> None:
    predictor = load(bundle(tmp_path / "model", scenes.label_space), device="cpu")
    assert scenes.val is not None
    whole = make_reference(predictor, scenes.val, thumbnails=True)
    parse_reference(whole)
    for key, value in {
        "counts": np.zeros((5, 3, 2), np.int64), "labeled": np.zeros(4, np.uint8), "row.shares": np.zeros((5, 1)),
        "row.time": np.zeros(2), "row.components": np.zeros((5, 99), np.int32),
        "thumbnail.ends": np.array([5, 4, 3, 2, 1]),
    }.items():  # fmt: skip
        with pytest.raises(BundleError, match="damaged"):
            parse_reference(replace(whole, arrays={**whole.arrays, key: value}))
    for key in ("counts", "row.entropy"):
        with pytest.raises(BundleError, match="damaged"):
            parse_reference(replace(whole, arrays={k: v for k, v in whole.arrays.items() if k != key}))
    for key, value in {"label_space": 3, "ids": None, "scenes": ["a"], "version": "x", "model": None}.items():
        with pytest.raises(BundleError):
            parse_reference(replace(whole, description={**whole.description, key: value}))
    with pytest.raises(BundleError, match="newer version"):
        parse_reference(replace(whole, description={**whole.description, "version": 99}))
    with pytest.raises(BundleError):
        parse_reference(Attachment())


def test_exports_hand_it_on_or_state_that_they_do_not(
    scenes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle(tmp_path / "model", scenes.label_space)
    sw.make_reference(folder, scenes, device="cpu")
    before = read_attachment(folder, "reference")
    result = sw.export(folder, to="bundle", out=tmp_path / "copy")
    after = read_attachment(tmp_path / "copy", "reference")
    assert before is not None and after is not None and result.not_included == ()
    assert np.array_equal(before.arrays["counts"], after.arrays["counts"])
    onnx = tmp_path / "model.onnx"
    app(["export", str(folder), "--out", str(onnx)], standalone_mode=False)
    assert "without the model's reference" in capsys.readouterr().out
    exported, original = load(onnx, device="cpu"), load(folder, device="cpu")
    assert model_id(exported) == model_id(original), "a journal of the export fits the model's reference"
    done = sw.predict(onnx, next(iter(scenes.root.rglob("*.png"))), out=tmp_path / "out", journal=tmp_path / "journal")
    assert [note for note in done.notes if "no embedding" in note] and [n for n in done.notes if "no logits" in n]
    (row,) = sw.read_journal(tmp_path / "journal").rows
    assert row.embedding.size == 0 and np.isnan(row.entropy) and row.model == model_id(original)

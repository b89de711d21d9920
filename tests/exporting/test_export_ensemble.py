"""Several saved models become one bundle that every command takes like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segwright as sw
from segwright import api
from segwright.cli import app
from segwright.core.atomic_io import verify_checksums, write_checksums
from segwright.core.errors import BundleError, ModelError, SegwrightError, UsageError
from segwright.core.types import LabelSpace
from segwright.demo.dataset import write_street_scenes
from segwright.inference.attachments import Attachment, attachment_names
from segwright.inference.bundle import Bundle, load_bundle, read_bundle, save_bundle
from segwright.inference.ensemble import join_models, save_ensemble
from segwright.models.catalog import create_model

NETWORKS: tuple[tuple[str, dict[str, Any]], ...] = (  # small, and padding to different sizes
    ("segnet_basic", {"width": 4, "in_channels": 3}),
    ("unet", {"encoder": "test_resnet", "encoder_depth": 2, "decoder_channels": [8, 8], "in_channels": 3}),
    ("segnet_basic", {"width": 4, "in_channels": 3}),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street_scenes(tmp_path_factory.mktemp("street"), train=2, val=6, test=0, size=(64, 96))


@pytest.fixture(scope="module")
def labels(scenes: Path) -> LabelSpace:
    return sw.open_dataset(scenes).label_space


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, scenes: Path, labels: LabelSpace) -> list[Path]:
    """Three run folders of random networks, of two architectures."""
    root = tmp_path_factory.mktemp("runs")
    made = []
    for number, (name, arguments) in enumerate(NETWORKS):
        torch.manual_seed(number)
        network = create_model(name, classes=labels.classes, weights=None, **arguments)
        description = Bundle(
            name, labels, arguments, metrics={"val_miou": 0.1 * number}, training={"data": str(scenes)},
            licenses={"weights": ("trained from random weights", "timm/x (license: MIT)")[number == 1]},
        )  # fmt: skip
        made.append(save_bundle(root / f"fold-{number}" / "model", network, description).parent)
    return made


@pytest.fixture(scope="module")
def joined(runs: list[Path], scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sw.ensemble(runs, tmp_path_factory.mktemp("joined") / "one", data=scenes)


def test_what_members_carry_is_named_where_the_ensemble_lacks_it(
    runs: list[Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, description = load_bundle(runs[0] / "model")
    carried = Attachment({"a": np.ones(2, np.float32)}, {"b": 1})
    with_it = save_bundle(tmp_path / "with" / "model", network, description, {"reference": carried, "notes": carried})
    found = sw.export([with_it, runs[1]], to="bundle", out=tmp_path / "both", data=scenes)
    assert found.dropped == ("notes", "reference") and found.to_json()["dropped"] == ["notes", "reference"]
    assert not attachment_names(found.path)
    command = ["export", str(with_it), str(runs[1]), "--to", "bundle", "--out", str(tmp_path / "again")]
    app([*command, "--data", str(scenes)], standalone_mode=False)
    assert "of the members notes, reference is dropped" in " ".join(capsys.readouterr().out.split())
    alone = sw.export(runs[:2], to="bundle", out=tmp_path / "alone", data=scenes)
    assert alone.dropped == () and "dropped" not in alone.to_json()


def test_the_bundle_is_the_mean_and_describes_its_members(runs: list[Path], joined: Path, scenes: Path) -> None:
    image = sw.open_dataset(scenes).val.read_image(0)
    alone = [sw.load(run)(image, probabilities=True).probabilities for run in runs]
    found = sw.load(joined)(image, probabilities=True).probabilities
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=2e-6)
    assert sorted(p.name for p in joined.iterdir()) == ["SHA256SUMS", "model.json", "model.safetensors"]
    assert not verify_checksums(joined)
    tree = json.loads((joined / "model.json").read_text())
    assert tree["architecture"] == "ensemble" and tree["metrics"]["parity"]["argmax_agreement"] == 1.0
    assert [m["architecture"] for m in tree["arguments"]["members"]] == ["segnet_basic", "unet", "segnet_basic"]
    origins = tree["training"]["members"]
    assert [m["name"] for m in origins] == ["fold-0", "fold-1", "fold-2"]
    assert [m["metrics"]["val_miou"] for m in origins] == pytest.approx([0, 0.1, 0.2])
    assert tree["training"]["data"] == str(scenes) and "MIT" in tree["licenses"]["weights"]


def test_every_command_takes_it(joined: Path, scenes: Path, tmp_path: Path) -> None:
    image = next(iter((scenes / "images" / "val").glob("*.png")))
    scored = sw.evaluate(joined, scenes, split="val")
    assert scored.images == 6 and 0 <= scored.miou <= 1
    assert api.predict(joined, image, out=tmp_path / "masks").images == 1
    assert sw.load(joined, tta="flip").predict(np.zeros((20, 30, 3), np.uint8)).labels.shape == (20, 30)
    again, bundle = load_bundle(joined)
    save_bundle(tmp_path / "copy", again, replace(bundle, postprocess="min-area(32)"))
    assert sw.load(tmp_path / "copy").pipeline is not None


@pytest.mark.slow
def test_post_processing_is_tuned_on_it(joined: Path, scenes: Path) -> None:
    assert api.tune_postprocessing(joined, scenes, minutes=0.05, keep=False).trials


def test_export_to_onnx_agrees(joined: Path, scenes: Path, tmp_path: Path) -> None:
    result = sw.export(joined, "onnx", tmp_path / "one.onnx", data=scenes)
    assert result.parity.argmax_agreement > 0.999 and result.parity.max_abs_logit < 1e-2
    image = sw.open_dataset(scenes).val.read_image(1)[:50, :71]
    np.testing.assert_array_equal(sw.load(result.path)(image).labels, sw.load(joined)(image).labels)


def test_the_command_line_takes_several_models(
    runs: list[Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = tmp_path / "pair", tmp_path / "pair.json"
    arguments = ["export", *runs[:2], "--to", "bundle", "--out", out, "--data", scenes, "--json", result]
    app([str(argument) for argument in arguments], standalone_mode=False)
    assert "bundle of 2 models" in capsys.readouterr().out
    tree = json.loads(result.read_text())
    assert tree["format"] == "bundle" and tree["parity"]["max_abs_logit"] < 1e-4
    assert len(read_bundle(out).arguments["members"]) == 2


def test_an_ensemble_among_the_models_is_taken_apart(runs: list[Path], tmp_path: Path) -> None:
    pair = save_ensemble(runs[:2], tmp_path / "pair")
    network, bundle = join_models([pair, runs[2]])
    image = torch.randint(0, 256, (1, 32, 40, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = join_models(runs)[0](image).logits
        assert torch.allclose(network(image).logits, expected, atol=1e-6), "every network counts alike"
    save_bundle(tmp_path / "three", network, bundle)
    assert len(read_bundle(tmp_path / "three").arguments["members"]) == 3


def test_a_single_model_becomes_a_bundle_of_its_own(runs: list[Path], scenes: Path, tmp_path: Path) -> None:
    result = sw.export(runs[0], "bundle", tmp_path / "alone", data=scenes)
    assert result.parity.max_abs_logit < 1e-6 and read_bundle(tmp_path / "alone").architecture == "segnet_basic"


def different(run: Path, out: Path, **changes: Any) -> Path:
    network, bundle = load_bundle(run / "model")
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    return save_bundle(out / "model", network, replace(bundle, **changes)).parent


def test_models_that_differ_are_refused(runs: list[Path], labels: LabelSpace, tmp_path: Path) -> None:
    renamed = different(runs[0], tmp_path / "renamed", label_space=LabelSpace(tuple(reversed(labels.names))))
    with pytest.raises(ModelError, match="same classes in the same order") as caught:
        sw.ensemble([*runs, renamed], tmp_path / "x")
    error = caught.value
    assert labels.names[0] in str(error.expected) and error.found and error.fix and str(renamed) in str(error.where)
    deep = different(runs[0], tmp_path / "deep", preprocessing={"channels": 3, "value_range": {"low": 0, "high": 9}})
    with pytest.raises(ModelError, match="value range differ"):
        sw.ensemble([runs[1], deep], tmp_path / "x")
    with pytest.raises(UsageError, match="twice"):
        sw.ensemble([runs[0], runs[0] / "model"], tmp_path / "x")
    with pytest.raises(UsageError, match="two models or more"):
        sw.ensemble(runs[:1], tmp_path / "x")
    with pytest.raises(BundleError, match="no saved model"):
        sw.ensemble([runs[0], tmp_path], tmp_path / "x")
    (tmp_path / "some.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="run folder that it was exported from"):
        sw.ensemble([runs[0], tmp_path / "some.onnx"], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_else_is_written_over(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"dear")
    for place in (tmp_path / "photos", tmp_path / "photos" / "a.jpg", runs[0] / "model", runs[0]):
        with pytest.raises(UsageError, match="is not an earlier export"):
            sw.ensemble(runs, place)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"dear" and read_bundle(runs[0] / "model")


@pytest.mark.parametrize(
    "members",
    [
        "leannet",
        [{"architecture": "../x"}],
        [{"architecture": "leannet", "arguments": {"weights": "/etc/passwd"}}],
        [{"architecture": "ensemble", "arguments": {"members": []}}],
    ],
    ids=str,
)
def test_a_description_that_lies_is_a_typed_error(joined: Path, tmp_path: Path, members: object) -> None:
    network, bundle = load_bundle(joined)
    folder = save_bundle(tmp_path / "lie", network, bundle)
    tree = json.loads((folder / "model.json").read_text())
    tree["arguments"]["members"] = members
    (folder / "model.json").write_text(json.dumps(tree))
    write_checksums(folder)
    with pytest.raises(SegwrightError):
        load_bundle(folder)


def test_nesting_without_end_is_a_typed_error(joined: Path, tmp_path: Path) -> None:
    network, bundle = load_bundle(joined)
    folder = save_bundle(tmp_path / "deep", network, bundle)
    (folder / "model.json").write_text('{"arguments": ' + "[" * 100_000 + "]" * 100_000 + "}")
    write_checksums(folder)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(folder)

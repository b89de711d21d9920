"""Fine-tuning keeps what fits, matches classes by name, and says what it began anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segwright.api import train, train_run
from segwright.config import TrainConfig
from segwright.data.dataset import open_dataset
from segwright.data.synthetic import write_street_scenes
from segwright.errors import WeightsError
from segwright.inference.bundle import load_bundle, read_bundle, save_bundle
from segwright.models.leannet import LeanNet
from segwright.models.segmenter import Provenance
from segwright.training.finetune import transfer_weights
from segwright.training.results import origin
from segwright.training.run import run_training
from segwright.types import LabelSpace


def network(classes: int, **changed: object) -> LeanNet:
    arguments = {"widths": (4, 8, 8, 8, 8), "decoder_channels": (4, 8, 8, 8), **changed}
    return LeanNet(classes=classes, **arguments)  # type: ignore[arg-type]


def test_classes_are_matched_by_name() -> None:
    source, target = network(3), network(3)
    fresh = target.head.weight.detach().clone()
    lines = transfer_weights(source, LabelSpace(("a", "b", "c")), target, LabelSpace(("c", "new", "a")))
    assert torch.equal(target.head.weight[0], source.head.weight[2])
    assert torch.equal(target.head.weight[2], source.head.weight[0])
    assert torch.equal(target.head.weight[1], fresh[1])
    assert torch.equal(target.stem[0].weight, source.stem[0].weight)
    assert "matched by class name (c, a)" in lines[1]


def test_another_number_of_classes_keeps_the_rest() -> None:
    source, target = network(2), network(4)
    transfer_weights(source, LabelSpace(("a", "b")), target, LabelSpace(("x", "b", "y", "z")))
    assert torch.equal(target.head.weight[1], source.head.weight[1])
    assert torch.equal(target.fuse1.conv[0].weight, source.fuse1.conv[0].weight)


def test_another_network_is_refused() -> None:
    with pytest.raises(WeightsError, match="another network"):
        transfer_weights(network(2), LabelSpace(("a", "b")), network(2, widths=(6, 6, 6, 6, 6)), LabelSpace(("a", "b")))


SMALL: dict[str, Any] = {
    "model.name": "leannet", "training.size": (64, 96), "training.batch": 4, "training.device": "cpu",
    "training.epochs": 1, "model.arguments": {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]},
}  # fmt: skip


def test_from_a_saved_model_to_the_next_and_the_terms_go_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was trained before says where its weights came from, over a fine-tuning and a resumed run of it."""
    scenes = write_street_scenes(tmp_path / "scenes", train=8, val=3, test=1, size=(64, 96))
    train_run(scenes, SMALL, out=tmp_path / "first")
    first = tmp_path / "first" / "model"
    assert read_bundle(first).licences == {"weights": "trained from random weights"}
    network, bundle = load_bundle(first)
    save_bundle(first, network, replace(bundle, licences={"weights": "started from timm/x (licence: cc-by-nc-4.0)"}))
    expected = {"weights": "fine-tuned from first: started from timm/x (licence: cc-by-nc-4.0)"}
    config = TrainConfig().with_values({**SMALL, "training.epochs": 4, "out": str(tmp_path / "second")})
    stopped = run_training(
        open_dataset(scenes), config, start=tmp_path / "first", on_validation=lambda progress, found: True
    )
    assert stopped.stopped_by == "on_validation"
    assert "kept" in capsys.readouterr().err
    assert read_bundle(tmp_path / "second" / "model").licences == expected
    again = train(scenes, out=tmp_path / "second", resume=True, epochs=4)
    assert again.stopped_by is None
    assert read_bundle(tmp_path / "second" / "model").licences == expected
    assert read_bundle(tmp_path / "second" / "last").licences == expected


def test_published_weights_bring_their_terms() -> None:
    assert origin(Provenance()) == "trained from random weights"
    published = Provenance("timm/resnet34.a1_in1k", "apache-2.0", pretrained=True)
    assert origin(published) == "started from timm/resnet34.a1_in1k (licence: apache-2.0)"

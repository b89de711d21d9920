"""The path that a user with the extra ``weights`` takes, with the real weights: plan, fine-tuning, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_plan import CPU, FOUND

from segwright import api
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.inference.bundle import load_bundle
from segwright.inference.predictor import load
from segwright.models.catalog import create_model
from segwright.models.encoders import pretrained
from segwright.models.encoders.pretrained import PACKAGED, packaged_weights
from segwright.training.config import TrainConfig
from segwright.training.planning.checked_data import DataFacts
from segwright.training.planning.plan import make_plan
from segwright.training.run import Run

LITE0 = "tf_efficientnet_lite0"
ARGUMENTS = {"head_stride": 4, "decoder_channels": [128, 64, 48]}

pytestmark = pytest.mark.skipif(packaged_weights(LITE0) is None, reason="the extra `weights` is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps on four images of 64 pixels, all of them in each step and none of them varied."""
    folder = tmp_path_factory.mktemp("packaged")
    scenes = write_street_scenes(folder / "scenes", train=4, val=2, test=0, size=(64, 64))
    settings = {
        "training.size": (64, 64), "training.epochs": 3, "training.warmup": 0.0, "training.precision": "fp32",
        "augment.strength": "none", "augment.rotation": 0.0, "augment.flip": False, "augment.class_aware": 0.0,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return api.train(scenes, settings=settings, out=folder / "run")


@pytest.mark.parametrize(
    "values",
    [{}, {"model.weights": "imagenet"}, {"model.name": "unet"}, *({"model.encoder": name} for name in PACKAGED)],
    ids=lambda values: str(list(values.values())),
)
def test_the_plan_finds_them_without_a_connection(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "_cached", lambda repository: None)
    encoder = values.get("model.encoder", LITE0)
    if packaged_weights(encoder) is None:
        pytest.skip(f"the weights of {encoder} are not installed")
    found = make_plan(TrainConfig().with_values(values), DataFacts(FOUND, images=300, val_images=60), CPU).config
    assert (found.model.name, found.model.encoder, found.model.arguments) == ("unet", encoder, ARGUMENTS)
    assert found.training.encoder_lr_factor == 0.5 and len(found.training.phases) == 3


def test_three_steps_lower_the_loss_and_change_the_encoder(run: Run) -> None:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    losses = [line["main_loss"] for line in lines if "main_loss" in line]
    assert len(losses) == 3 and losses[2] < losses[0]
    network, bundle = load_bundle(run.model)
    assert bundle.architecture == "unet" and "efficientnet-lite0" in bundle.licenses["weights"]
    published = create_model("unet", encoder=LITE0, classes=2, weights="imagenet").encoder.state_dict()
    now = network.encoder.state_dict()
    weights = [key for key, tensor in published.items() if tensor.ndim == 4]
    assert published.keys() == now.keys() and weights
    assert all(0 < (now[key] - published[key]).abs().max() < 0.1 for key in weights), "moved a little, and all of it"


def test_the_export_gives_the_same_labels(run: Run) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    found = api.export(run.model, "onnx", run.folder / "exported.onnx")
    assert found.parity.argmax_agreement == 1
    val = open_dataset(run.folder.parent / "scenes").val
    assert val is not None
    ours, theirs = load(run.model), load(run.folder / "exported.onnx")
    for index in range(len(val)):
        image = val.read_image(index)
        np.testing.assert_array_equal(ours(image).labels, theirs(image).labels)

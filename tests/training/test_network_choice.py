"""The network of a plan, and what it begins from: every way to name weights, with and without a network's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_plan import ALWAYS, CPU, FOUND, GPU, NEVER, plan

from segwright.api import train
from segwright.core.errors import SegwrightError, UsageError, WeightsError
from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.models import catalog
from segwright.models.base import Provenance
from segwright.models.catalog import CATALOG, create_model
from segwright.models.encoders import pretrained
from segwright.training.config import TrainConfig
from segwright.training.planning import timing
from segwright.training.planning.draft import Plan
from segwright.training.planning.network_choice import named_by_weights
from segwright.training.planning.timing import MeasuredTimings
from segwright.training.run import planned_trainer, run_training

SPACE = LabelSpace(("road", "sky", "pole"))
LEAN = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}
SMALL_UNET = {"encoder": "test_resnet", "decoder_channels": [8, 8, 8, 8, 8]}


def reasons(found: Plan) -> dict[str, str]:
    return {entry.setting: entry.reason for entry in found.entries}


def start(found: Plan) -> tuple[str, str]:
    """(network, what the plan treats it as)."""
    training = found.config.training
    scratch = (training.encoder_lr_factor == 1.0, training.optimizer == "muon" or training.lr == 2e-3)
    assert scratch in ((True, True), (False, False)) or training.encoder_lr_factor == 0.5
    return found.config.model.name, "random" if scratch[0] else "pretrained"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, an empty cache, no package of weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "_cached", lambda repository: None)
    monkeypatch.setattr(pretrained, "packaged_weights", lambda name: None)


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, str]:
    """Weights by kind: saved models, which name their network, and a state dict, which does not."""
    for name, arguments in (("leannet", LEAN), ("unet", SMALL_UNET)):
        network = create_model(name, classes=3, weights=None, **arguments)
        save_bundle(tmp_path / name, network, Bundle(name, SPACE, {**arguments, "in_channels": 3}))
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    return {key: str(tmp_path / key) for key in ("leannet", "unet", "leannet.pt", "unet.pt")}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "weights", "had", "expected"),
    [
        (None, None, ALWAYS, ("leannet", "random")),
        (None, "auto", ALWAYS, ("unet", "pretrained")),
        (None, "auto", NEVER, ("leannet", "random")),
        (None, "imagenet", ALWAYS, ("unet", "pretrained")),
        (None, "imagenet", NEVER, "no pretrained weights for tf_efficientnet_lite0"),
        (None, "leannet", NEVER, ("leannet", "pretrained")),
        (None, "unet", NEVER, ("unet", "pretrained")),
        (None, "leannet.pt", NEVER, "--model"),
        (None, "torchvision:IMAGENET1K_V1", NEVER, "--model"),
        ("leannet", None, ALWAYS, ("leannet", "random")),
        ("leannet", "auto", NEVER, ("leannet", "random")),
        ("leannet", "imagenet", NEVER, "no pretrained weights are published for this network"),
        ("leannet", "leannet", NEVER, ("leannet", "pretrained")),
        ("leannet", "leannet.pt", NEVER, ("leannet", "pretrained")),
        ("unet", None, ALWAYS, ("unet", "random")),
        ("unet", "auto", ALWAYS, ("unet", "pretrained")),
        ("unet", "auto", NEVER, ("unet", "random")),
        ("unet", "imagenet", ALWAYS, ("unet", "pretrained")),
        ("unet", "imagenet", NEVER, "no pretrained weights for resnet34"),
        ("unet", "unet", NEVER, ("unet", "pretrained")),
        ("unet", "unet.pt", NEVER, ("unet", "pretrained")),
        ("unet", "torchvision:IMAGENET1K_V1", NEVER, ("unet", "pretrained")),
    ],
)
def test_a_plan_begins_from_the_weights_that_are_named(
    name: str | None, weights: str | None, had: Callable[[str, str | None], bool], expected: tuple[str, str] | str,
    saved: dict[str, str],
) -> None:  # fmt: skip
    values: dict[str, object] = {"model.weights": saved.get(str(weights), weights)}
    values |= {} if name is None else {"model.name": name}
    named = weights not in (None, "auto", "imagenet")
    look_up = (lambda name, encoder: True) if named else had  # as create_model: it takes them, or ends in an error
    if isinstance(expected, str):
        with pytest.raises((UsageError, WeightsError)) as caught:
            plan(values, pretrained=look_up)
        assert expected in str(caught.value) and ("LeanNet" not in str(caught.value) or name == "leannet")
        return
    found = plan(values, pretrained=look_up)
    assert start(found) == expected
    assert "random weights" not in reasons(found)["model.name"] or expected[1] == "random"
    assert Plan.from_json(found.to_json()).config == found.config


def test_a_saved_model_names_its_network_and_arguments(saved: dict[str, str]) -> None:
    files = {"leannet": ("leannet", "leannet/model.safetensors"), "unet": ("unet", "unet/model.safetensors")}
    folder = Path(saved["leannet"]).parent
    shutil.copytree(folder / "unet", folder / "run" / "model")
    for place in (*files["unet"], "run"):
        found = plan({"model.weights": str(folder / place)}, pretrained=ALWAYS)
        model = found.config.model
        assert (model.name, model.encoder) == ("unet", "test_resnet") and "saved model" in reasons(found)["model.name"]
        assert model.arguments == {"decoder_channels": [8] * 5}, "no other decoder: its weights are in the file"
        assert not found.config.training.loss_at_native_stride and found.config.training.encoder_lr_factor == 0.3
    for place in files["leannet"]:
        model = plan({"model.weights": str(folder / place)}).config.model
        assert (model.name, model.encoder, model.arguments) == ("leannet", None, LEAN), "no other width"
    more = {"model.arguments": {"dropout": 0.1}, "model.weights": saved["unet"]}
    assert plan(more, pretrained=ALWAYS).config.model.arguments == {"decoder_channels": [8] * 5, "dropout": 0.1}
    same = plan({"model.name": "unet", "model.weights": saved["unet"]}, pretrained=ALWAYS).config.model
    assert same.encoder == "test_resnet" and same.arguments == {"decoder_channels": [8] * 5}
    with pytest.raises(UsageError, match="another encoder") as caught:
        plan({"model.encoder": "resnet50", "model.weights": saved["unet"]})
    assert "test_resnet" in str(caught.value) and "resnet50" in str(caught.value)
    timed = named_by_weights(TrainConfig().with_values({"model.weights": saved["unet"]})).model
    assert (timed.name, timed.encoder) == ("unet", "test_resnet"), "and steps are timed with it"


def test_a_file_with_an_encoder_is_a_unets(saved: dict[str, str]) -> None:
    found = plan({"model.weights": saved["unet.pt"], "model.encoder": "test_resnet"}, pretrained=ALWAYS)
    assert start(found) == ("unet", "pretrained") and found.config.model.arguments == {}
    assert "encoder" in reasons(found)["model.name"] and saved["unet.pt"] in reasons(found)["model.start"]


def test_other_files_say_how_to_choose(saved: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        plan({"model.weights": str(tmp_path / "gone.pt")})
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "state.safetensors").write_bytes(b"")
    for place in (checkpoint, checkpoint / "state.safetensors"):
        with pytest.raises(UsageError, match="checkpoint") as caught:
            plan({"model.weights": str(place), "model.name": "leannet"})
        assert f"--init-from {tmp_path / 'run'}" in str(caught.value)
    description = Path(saved["leannet"]) / "model.json"
    tree = json.loads(description.read_text())
    network, bundle = load_bundle(saved["leannet"])
    foreign = Bundle("smp:Unet", SPACE, {"encoder_name": "resnet18"})
    assert tree["architecture"] == bundle.architecture
    save_bundle(tmp_path / "foreign", network, foreign)
    with pytest.raises(SegwrightError, match="another package") as caught:
        plan({"model.weights": str(tmp_path / "foreign")})
    assert "smp:Unet" in str(caught.value)


def test_a_training_takes_the_network_of_its_weights(tmp_path: Path) -> None:
    scenes = write_street_scenes(tmp_path / "scenes", train=6, val=2, test=0, size=(64, 96))
    settings = {"training.size": (64, 96), "training.epochs": 1, "model.arguments": LEAN, "model.weights": None}
    first = train(scenes, settings=settings, out=tmp_path / "first")
    trained, _ = load_bundle(first.model)
    small = {"training.size": (64, 96), "training.epochs": 1}
    for place in (first.folder, first.model):
        again = planned_trainer(open_dataset(scenes), TrainConfig().with_values({**small, "model.weights": str(place)}))
        assert again.model.architecture == "leannet" and again.model.has_trained_classifier
        for key, tensor in trained.state_dict().items():
            assert torch.equal(again.model.state_dict()[key], tensor), key
    torch.save(trained.state_dict(), tmp_path / "bare.pt")
    config = TrainConfig().with_values(
        {**small, "model.weights": str(tmp_path / "bare.pt"), "out": str(tmp_path / "b")}
    )
    with pytest.raises(UsageError, match="--model"):
        run_training(open_dataset(scenes), config)
    assert not (tmp_path / "b").exists(), "before the check and the plan"


def test_a_saved_model_to_fine_tune_gives_its_arguments_to_a_named_network(
    saved: dict[str, str], tmp_path: Path
) -> None:
    scenes = open_dataset(write_street_scenes(tmp_path / "scenes", train=4, val=2, test=0, size=(64, 96)))
    for name in ("auto", "unet"):
        values = {"model.name": name, "model.weights": None, "training.size": (64, 96), "training.epochs": 1}
        trainer = planned_trainer(scenes, TrainConfig().with_values(values), init_from=saved["unet"])
        assert trainer.model.encoder.name == "test_resnet"
        before, now = load_bundle(saved["unet"])[0].state_dict(), trainer.model.state_dict()
        assert all(torch.equal(tensor, now[key]) for key, tensor in before.items() if not key.startswith("head."))


def test_weights_may_be_a_path_object() -> None:
    assert TrainConfig().with_values({"model.weights": Path("x.pt")}).model.weights == "x.pt"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("hardware", [CPU, GPU])
def test_an_encoder_that_is_asked_for_means_a_unet(hardware: Any) -> None:
    for weights in ("auto", None):
        found = plan({"model.encoder": "resnet50", "model.weights": weights}, hardware=hardware)
        assert start(found) == ("unet", "random") and found.config.model.encoder == "resnet50"
        assert "encoder" in reasons(found)["model.name"]
        assert (found.config.model.arguments.get("head_stride") == 2) is not hardware.is_gpu
    with pytest.raises(WeightsError, match="no pretrained weights for resnet50") as caught:
        plan({"model.encoder": "resnet50", "model.weights": "imagenet"}, hardware=hardware)
    assert "connection" in str(caught.value) and "HF_HUB_OFFLINE" in str(caught.value)
    assert plan({"model.encoder": None}, pretrained=ALWAYS, hardware=hardware).config.model.name == "leannet"


def test_steps_are_timed_with_a_network_that_takes_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(timing, "time_step", lambda config, *rest: timed.append(config.model.name) or 1.0)
    timings = MeasuredTimings(3, torch.device("cpu"))
    for encoder in ("auto", None, "resnet50"):
        timings.precision(TrainConfig().with_values({"model.encoder": encoder}), "fp32")
    assert timed == ["leannet", "leannet", "unet"]


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_what_can_be_had_is_what_create_model_takes(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """imagenet: of torchvision's networks, too, the encoder's weights, and with any encoder."""
    asked: list[str] = []

    def timm(encoder: str, *, required: bool) -> tuple[Path | None, Provenance]:
        asked.append(f"timm:{encoder}")
        return Path("x"), Provenance()

    def torchvision(model: str, tag: str, *, required: bool) -> tuple[dict[str, Any], Provenance]:
        asked.append(f"torchvision:{model}")
        return {}, Provenance()

    monkeypatch.setattr(catalog, "encoder_weights", timm)
    monkeypatch.setattr(catalog, "torchvision_weights", torchvision)
    assert catalog.starts_pretrained("deeplabv3_resnet50", None, weights)
    assert catalog.starts_pretrained("deeplabv3_resnet50", "resnet18", weights) is (weights == "imagenet")
    own = ["torchvision:deeplabv3_resnet50"] if weights == "auto" else ["timm:resnet50", "timm:resnet18"]
    assert asked == own


@pytest.mark.usefixtures("offline")
def test_weights_that_nobody_publishes_are_refused_by_their_reason() -> None:
    for values, message in (
        ({"model.name": "segformer"}, "no free ImageNet weights for mit_b0"),
        ({"model.name": "ddrnet"}, "published"),
    ):
        with pytest.raises(WeightsError, match=message):
            plan({**values, "model.weights": "imagenet"})


LEAN_PLAN = {"head_stride": 4, "decoder_channels": [128, 64, 48]}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "encoder",
    ["auto", "tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2", "resnet34", "resnet50"],
)
def test_every_pretrained_unet_on_a_cpu_is_lean(named: bool, encoder: str) -> None:
    values = {"model.encoder": encoder, **({"model.name": "unet"} if named else {})}
    found = plan(values, pretrained=ALWAYS).config
    assert found.model.name == "unet" and found.model.arguments == LEAN_PLAN
    assert found.model.encoder == (encoder if encoder != "auto" else None if named else "tf_efficientnet_lite0")
    training = found.training
    assert training.loss_at_native_stride and training.final_phase_loss == "0.5*jaccard"
    assert (training.encoder_lr_factor, training.lr, training.optimizer) == (0.5, 2e-3, "adamw")
    assert [phase.until for phase in training.phases] == [0.25, 0.84, 1.0]
    assert training.phases[0].size < training.phases[1].size < training.phases[2].size
    on_gpu = plan(values, pretrained=ALWAYS, hardware=GPU).config
    assert on_gpu.model.arguments == {} and on_gpu.training.encoder_lr_factor == 0.3
    assert len(on_gpu.training.phases) == 1 and on_gpu.training.final_phase_loss is None


def test_what_was_asked_for_goes_before_the_lean_plan() -> None:
    unet = {"model.name": "unet"}
    channels = [256, 128, 64, 32, 16]
    asked = plan({**unet, "model.arguments": {"decoder_channels": channels}}, pretrained=ALWAYS).config
    assert asked.model.arguments == {"decoder_channels": channels} and not asked.training.loss_at_native_stride
    more = plan({**unet, "model.arguments": {"dropout": 0.1}}, pretrained=ALWAYS).config
    assert more.model.arguments == {**LEAN_PLAN, "dropout": 0.1}
    sized = plan({**unet, "training.size": (96, 128)}, pretrained=ALWAYS).config.training
    assert [phase.size for phase in sized.phases] == [(96, 128)]
    phase = {"until": 1.0, "size": (64, 96), "scale": (0.7, 1.35), "batch": 4}
    assert len(plan({**unet, "training.phases": [phase]}, pretrained=ALWAYS).config.training.phases) == 1
    rates = {"training.encoder_lr_factor": 0.1, "training.lr": 1e-4, "training.final_phase_loss": "dice"}
    kept = plan({**unet, **rates}, pretrained=ALWAYS).config.training
    assert (kept.encoder_lr_factor, kept.lr, kept.final_phase_loss) == (0.1, 1e-4, "dice")
    saved = plan({**unet, "model.encoder": "resnet34"}, pretrained=ALWAYS, fine_tuning=True).config
    assert saved.model.arguments == {} and saved.training.encoder_lr_factor == 0.3, "a saved model has its decoder"


@pytest.mark.parametrize("had", [ALWAYS, NEVER])
@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {}), ("resnet18", {"encoder_depth": 4}), ("resnet18", {"encoder_depth": 3}),
        ("resnet18", {"encoder_depth": 2}), ("resnet18", {"output_stride": 8}), ("convnext_atto", {}), ("vgg11_bn", {}),
    ],
)  # fmt: skip
def test_a_lean_decoder_fits_the_encoder(encoder: str, arguments: dict[str, Any], had: Any) -> None:
    values = {"model.name": "unet", "model.encoder": encoder, "model.arguments": arguments}
    found = plan(values, pretrained=had).config.model
    network = create_model("unet", encoder=encoder, classes=3, weights=None, **found.arguments).eval()
    with torch.inference_mode():
        assert network(torch.zeros((1, 64, 64, 3), dtype=torch.uint8)).logits.shape == (1, 3, 64, 64)
    assert arguments.items() <= found.arguments.items()


def test_a_named_unet_takes_the_packaged_encoder_where_no_other_can_be_had() -> None:
    packaged = lambda name, encoder: encoder in pretrained.PACKAGED  # noqa: E731
    for hardware in (CPU, GPU):
        for weights in ("auto", "imagenet"):
            found = plan({"model.name": "unet", "model.weights": weights}, pretrained=packaged, hardware=hardware)
            assert start(found) == ("unet", "pretrained") and found.config.model.encoder == "tf_efficientnet_lite0"
            assert "resnet34" in reasons(found)["model.encoder"] and CATALOG["unet"].encoder == "resnet34"
    assert plan({"model.name": "unet"}, pretrained=packaged).config.model.arguments == LEAN_PLAN
    only = lambda name, encoder: encoder == "tf_efficientnet_lite1"  # noqa: E731
    assert plan({"model.name": "unet"}, pretrained=only).config.model.encoder == "tf_efficientnet_lite1"
    asked = {"model.name": "unet", "model.encoder": "resnet34"}
    assert start(plan(asked, pretrained=packaged)) == ("unet", "random")
    none = {"model.name": "unet", "model.weights": None}
    assert plan(none, pretrained=packaged).config.model.encoder is None
    assert plan({"model.name": "pspnet"}, pretrained=packaged).config.model.encoder is None
    assert FOUND.channels == 3


@pytest.mark.parametrize(("given", "expected"), [({"weights": None}, None), ({"weights": "none"}, None), ({}, "auto")])
def test_no_weights_in_python_are_random_weights(tmp_path: Path, given: dict[str, Any], expected: str | None) -> None:
    scenes = write_street_scenes(tmp_path / "scenes", train=4, val=2, test=0, size=(64, 96))
    run = train(
        scenes,
        model="leannet",
        epochs=1,
        out=tmp_path / "run",
        size=(64, 96),
        batch=2,
        device="cpu",
        dry_run=True,
        **given,
    )
    assert run.plan.config.model.weights == expected

"""Fine-tuning keeps what fits, matches classes by name, and says what it began anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segwright.api import train
from segwright.core.errors import BundleError, SegwrightError, UsageError, WeightsError
from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.inference.bundle import Bundle, load_bundle, read_bundle, save_bundle
from segwright.models.base import Provenance
from segwright.models.catalog import create_model
from segwright.models.external import wrap
from segwright.models.leannet import LeanNet
from segwright.training.build import describe_origin
from segwright.training.config import TrainConfig
from segwright.training.finetune import transfer_weights
from segwright.training.run import planned_trainer, run_training


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


ENCODERS = {"unet": "resnet18", "deeplabv3plus": "mobilenetv2_100"}


@pytest.mark.parametrize(
    ("case", "renamed"),
    [
        *((case, renamed) for case in ("leannet", "unet", "deeplabv3plus") for renamed in (False, True)),
        # several classifiers, or one that is not called a head
        *((case, False) for case in ("segnet_basic", "unet2015", "lraspp", "parsenet")),
    ],
)
def test_as_many_classes_as_a_hidden_width_move_no_hidden_layer(case: str, renamed: bool) -> None:
    """The last layer's rows follow the class names; with 16 or 32 classes widths inside are equal, and stay."""
    classes = 32 if case == "leannet" else 16
    arguments = {"encoder": ENCODERS[case]} if case in ENCODERS else {}
    torch.manual_seed(0)
    source = create_model(case, classes=classes, weights=None, **arguments).eval()
    target = create_model(case, classes=classes, weights=None, **arguments).eval()
    for tensor in source.state_dict().values():  # statistics that differ per channel, so that an exchange shows
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    names = [f"class {i}" for i in range(classes)]
    order = torch.randperm(classes).tolist()
    target_names = [f"other {i}" for i in range(classes)] if renamed else [names[i] for i in order]
    lines = transfer_weights(source, LabelSpace(tuple(names)), target, LabelSpace(tuple(target_names)))
    heads = target.classifier_tensors()
    theirs = source.state_dict()
    for name, tensor in target.state_dict().items():
        if name not in heads:
            assert torch.equal(tensor, theirs[name]), name
    if renamed:
        assert "matched by class name (none)" in "\n".join(lines)
        return
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(target(pixels).logits, source(pixels).logits[:, order], rtol=1e-4, atol=1e-4)


def test_other_classes_in_a_network_without_declared_classifiers_are_refused() -> None:
    source, target = wrap(nn.Conv2d(3, 2, 1), classes=2), wrap(nn.Conv2d(3, 2, 1), classes=2)
    transfer_weights(source, LabelSpace(("a", "b")), target, LabelSpace(("a", "b")))
    with pytest.raises(WeightsError, match="does not declare its classifier layers"):
        transfer_weights(source, LabelSpace(("a", "b")), target, LabelSpace(("b", "a")))


SMALL: dict[str, Any] = {
    "model.name": "leannet", "training.size": (64, 96), "training.batch": 4, "training.device": "cpu",
    "training.epochs": 1, "model.arguments": {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]},
}  # fmt: skip


def test_from_a_saved_model_to_the_next_and_the_terms_go_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was trained before says where its weights came from, over a fine-tuning and a resumed run of it."""
    scenes = write_street_scenes(tmp_path / "scenes", train=8, val=3, test=1, size=(64, 96))
    train(scenes, settings=SMALL, out=tmp_path / "first")
    first = tmp_path / "first" / "model"
    assert read_bundle(first).licenses == {"weights": "trained from random weights"}
    network, bundle = load_bundle(first)
    save_bundle(first, network, replace(bundle, licenses={"weights": "started from timm/x (license: cc-by-nc-4.0)"}))
    expected = {"weights": "fine-tuned from first: started from timm/x (license: cc-by-nc-4.0)"}
    config = TrainConfig().with_values({**SMALL, "training.epochs": 4, "out": str(tmp_path / "second")})
    stopped = run_training(
        open_dataset(scenes), config, init_from=tmp_path / "first", on_validation=lambda progress, found: True
    )
    assert stopped.stopped_by == "on_validation"
    assert "kept" in capsys.readouterr().err
    assert read_bundle(tmp_path / "second" / "model").licenses == expected
    again = train(scenes, out=tmp_path / "second", resume=True, epochs=4)
    assert again.stopped_by is None
    assert read_bundle(tmp_path / "second" / "model").licenses == expected
    assert read_bundle(tmp_path / "second" / "last").licenses == expected


def test_published_weights_bring_their_terms() -> None:
    assert describe_origin(Provenance()) == "trained from random weights"
    published = Provenance("timm/resnet34.a1_in1k", "apache-2.0", pretrained=True)
    assert describe_origin(published) == "started from timm/resnet34.a1_in1k (license: apache-2.0)"


def planned(scenes: Path, weights: str | None, **model: Any) -> LeanNet:
    """The network as a training of ``scenes`` begins with it."""
    config = TrainConfig().with_values({**SMALL, "model.name": "leannet", "model.weights": weights, **model})
    network = planned_trainer(open_dataset(scenes), config).model
    assert isinstance(network, LeanNet)
    return network


def test_a_trained_head_from_a_file_of_weights_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = write_street_scenes(tmp_path / "scenes", train=8, val=3, test=1, size=(64, 96))
    classes = open_dataset(scenes).label_space.classes
    trained = network(classes)
    with torch.no_grad():
        trained.head.bias.copy_(torch.arange(classes) / 7)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    again = planned(scenes, str(tmp_path / "trained.pt"))
    assert again.has_trained_classifier
    for name, tensor in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    # Without such weights the last layer starts at the frequencies of the classes.
    fresh = planned(scenes, None)
    assert not fresh.has_trained_classifier and fresh.head.bias.unique().numel() > 1

    body = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("head.")}
    torch.save(body, tmp_path / "body.pt")
    with pytest.raises(WeightsError, match=r"head\.weight"):  # no part of a network is passed off as trained
        planned(scenes, str(tmp_path / "body.pt"))


@pytest.mark.parametrize("renamed", [False, True])
def test_the_last_layer_of_a_saved_model_follows_the_names_of_its_classes(renamed: bool, tmp_path: Path) -> None:
    """As many classes in another order, given as weights: nothing but the names tells them apart."""
    scenes = write_street_scenes(tmp_path / "scenes", train=8, val=3, test=1, size=(64, 96))
    names = open_dataset(scenes).label_space.names
    theirs = names[::-1] if not renamed else (*names[1:], "another")
    trained = network(len(names))
    with torch.no_grad():
        trained.head.bias.copy_(torch.arange(len(names)) + 50.0)
    arguments = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "in_channels": 3}
    save_bundle(tmp_path / "model", trained, Bundle("leannet", LabelSpace(theirs), arguments))
    again = planned(scenes, str(tmp_path / "model"))
    for index, name in enumerate(names):
        if name in theirs:
            assert again.head.bias[index] == 50 + theirs.index(name)
            assert torch.equal(again.head.weight[index], trained.head.weight[theirs.index(name)])
        else:
            assert again.head.bias[index] < 50, "a class that the saved model has not begins anew"
    assert torch.equal(again.stem[0].weight, trained.stem[0].weight)


@pytest.mark.parametrize("given", ["nothing", "empty", "file", "exported", "damaged", "other network", "other encoder"])
def test_a_wrong_start_ends_in_a_typed_error_before_anything_is_written(given: str, tmp_path: Path) -> None:
    scenes = write_street_scenes(tmp_path / "scenes", train=4, val=2, test=0, size=(64, 96))
    start, values, out = tmp_path / "start", dict(SMALL), tmp_path / "run"
    expected: tuple[type[SegwrightError], str] = (BundleError, "no saved model here")
    if given == "empty":
        start.mkdir()
    elif given == "file":
        start.write_text("weights")
    elif given == "exported":
        start = tmp_path / "start.onnx"
        start.write_bytes(b"graph")
        expected = (BundleError, "an exported file holds no network to go on from")
    elif given != "nothing":
        space = LabelSpace(("a", "b"))
        arguments = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "in_channels": 3}
        save_bundle(start, network(2), Bundle("leannet", space, arguments))
        if given == "damaged":
            (start / "model.safetensors").write_bytes(b"\x00" * 40)
            expected = (BundleError, "model")
        else:
            values |= {"model.name": "unet"} if given == "other network" else {"model.encoder": "resnet18"}
            expected = (UsageError, "the saved model to fine-tune is another network")
    with pytest.raises(expected[0], match=expected[1]) as caught:
        run_training(open_dataset(scenes), TrainConfig().with_values({**values, "out": str(out)}), init_from=start)
    assert str(start) in str(caught.value) and not out.exists()

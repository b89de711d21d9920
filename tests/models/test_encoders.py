"""Encoders of timm by name: strides, dilation, channels, freezing; and what comes of weights that are not there."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from segwright.core.errors import ModelError, UsageError, WeightsError
from segwright.models.catalog import CATALOG, create_encoder, create_model
from segwright.models.encoders import pretrained as weights_module
from segwright.models.encoders.pretrained import encoder_weights, reachable, torchvision_weights
from segwright.models.encoders.state_files import read_state_dict
from segwright.models.encoders.timm import TimmEncoder

TINY = "test_resnet"


@pytest.mark.parametrize("name", [TINY, "test_convnext", "test_efficientnet", "test_byobnet", "mit_b0"])
def test_features_lie_at_their_strides(name: str) -> None:
    encoder, _ = create_encoder(name)
    features = encoder(torch.zeros(1, 3, 64, 96))
    assert list(features) == list(encoder.channels)
    for stride, feature in features.items():
        assert feature.shape == (1, encoder.channels[stride], 64 // stride, 96 // stride)
    assert encoder.output_stride == 32


@pytest.mark.parametrize("name", [TINY, "test_convnext", "test_efficientnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_names_and_lowers_the_stride(name: str, output_stride: int) -> None:
    encoder = TimmEncoder(name, output_stride=output_stride)
    assert encoder.output_stride == output_stride
    features = encoder.eval()(torch.zeros(1, 3, 64, 64))
    assert features[32].shape[-1] == 64 // output_stride
    assert {stride: 64 // feature.shape[-1] for stride, feature in features.items()} == encoder.reductions
    assert [p.shape for p in encoder.parameters()] == [p.shape for p in TimmEncoder(name).parameters()]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_network_computes_what_the_strided_one_did(output_stride: int) -> None:
    """À trous: between the places of the coarse grid there are new values, on it the old ones stay (no padding counts).

    Holds for plain ResNets: nothing in them looks at the whole image, and no shortcut pools.
    """
    torch.manual_seed(0)
    strided, dilated = TimmEncoder("resnet18").eval(), TimmEncoder("resnet18", output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    step = 32 // output_stride
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        coarse, fine = strided(x)[32], dilated(x)[32]
    assert fine.std() > 0
    torch.testing.assert_close(fine[..., ::step, ::step], coarse, atol=1e-4 * float(coarse.std()), rtol=1e-4)


@pytest.mark.parametrize("name", [TINY, "test_convnext", "test_efficientnet", "test_byobnet"])
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_pretrained_first_convolutions_are_adapted(name: str, channels: int, tmp_path: Path) -> None:
    """Nothing is thrown away: summed for one channel, else repeated in turn and scaled by 3 ÷ channels."""
    source = timm.create_model(name)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    plain, adapted = (
        TimmEncoder(name, in_channels=count, weights_file=tmp_path / "model.safetensors").eval()
        for count in (3, channels)
    )
    first, ours = (next(p for p in e.parameters() if p.ndim == 4) for e in (plain, adapted))
    expected = (
        first.sum(1, keepdim=True) if channels == 1 else first[:, [i % 3 for i in range(channels)]] * 3 / channels
    )
    torch.testing.assert_close(ours, expected)
    if channels in (1, 6):  # a gray image spread over the channels gives exactly what it gave
        gray = torch.rand(1, 1, 64, 64)
        with torch.no_grad():
            found, before = (e(gray.expand(-1, e.in_channels, -1, -1))[32] for e in (adapted, plain))
        torch.testing.assert_close(found, before, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n, entry in CATALOG.items() if entry.encoder and not entry.torchvision])
def test_every_network_uses_stages_its_encoder_has_at_any_output_stride(name: str) -> None:
    """8, 16 and 32 where the encoder can be dilated, and each answers at the image's size."""
    for output_stride in (8, 16, 32):
        with torch.device("meta"):
            model = create_model(name, classes=3, encoder=TINY, weights=None, output_stride=output_stride).eval()
            output = model(torch.empty(1, 70, 90, 3, dtype=torch.uint8))
        assert model.encoder.output_stride == output_stride
        assert output.logits.shape == (1, 3, 70, 90)


def test_networks_that_cannot_be_dilated_raise() -> None:
    for name in ("vgg11", "densenet121", "mit_b0"):
        with pytest.raises(ModelError, match="dilated"):
            create_encoder(name, output_stride=8)


def test_unknown_and_unhierarchical_encoders_are_explained() -> None:
    with pytest.raises(UsageError, match="unknown encoder"):
        TimmEncoder("resnot34")
    with pytest.raises(ModelError, match="one resolution"):
        create_model("unet", classes=2, encoder="test_vit", weights=None)
    with pytest.raises(ModelError, match="no stage"):
        create_model("deeplabv3plus", classes=2, encoder="test_vit", weights=None)


def test_stages_behind_the_last_wanted_are_cut_away() -> None:
    for name in (TINY, "test_efficientnet"):
        encoder = TimmEncoder(name, strides=(2, 4, 8))
        encoder(torch.zeros(1, 3, 32, 32))[8].sum().backward()
        assert [p for p in encoder.parameters() if p.grad is None] == []


def test_multi_grid_multiplies_the_last_stage_only() -> None:
    with torch.device("meta"):
        plain = TimmEncoder("resnet50", output_stride=16)
        grid = TimmEncoder("resnet50", output_stride=16, multi_grid=(1, 2, 4))
    assert [b.conv2.dilation[0] for b in plain.model.layer4] == [1, 2, 2]
    assert [b.conv2.dilation[0] for b in grid.model.layer4] == [2, 4, 8]
    assert [b.conv2.dilation for b in grid.model.layer3] == [b.conv2.dilation for b in plain.model.layer3]
    with pytest.raises(ModelError, match="multi-grid"), torch.device("meta"):
        TimmEncoder("resnet50", multi_grid=(1, 2))


def test_dilated_first_blocks_are_those_of_the_pspnet_release() -> None:
    with torch.device("meta"):
        model = create_model("pspnet", classes=2, weights=None).encoder.model
    assert {b.conv2.dilation for b in model.layer3} == {(2, 2)} and {b.conv2.dilation for b in model.layer4} == {(4, 4)}


@pytest.mark.parametrize("until", [2, 8, 32])
def test_a_stage_depends_on_the_parameters_up_to_it(until: int) -> None:
    names = TimmEncoder(TINY).parameter_names_up_to(until)
    deepest = {2: "conv1", 8: "layer2", 32: "layer4"}[until]
    assert any(deepest in name for name in names)
    beyond = {2: ("layer",), 8: ("layer3", "layer4"), 32: ()}[until]
    assert not [name for name in names if any(part in name for part in beyond)]


# Weights


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty caches, and every host silent."""
    import huggingface_hub.constants

    monkeypatch.setattr(weights_module, "reachable", lambda url, seconds=10.0: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_auto_goes_on_from_scratch_and_says_so(no_network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model("unet", classes=2, encoder="resnet10t")
    assert not model.provenance.pretrained
    said = capsys.readouterr().err
    assert "random initialization" in said and "resnet10t" in said and "did not answer" in said
    model = create_model("lraspp_mobilenet_v3_large", classes=2)
    assert not model.provenance.pretrained and "download.pytorch.org" in capsys.readouterr().err


def test_an_explicit_request_that_cannot_be_met_is_an_error(no_network: Path) -> None:
    with pytest.raises(WeightsError, match="no pretrained weights"):
        create_model("unet", classes=2, encoder="resnet10t", weights="imagenet")
    with pytest.raises(WeightsError, match="no pretrained weights"):
        create_model("lraspp_mobilenet_v3_large", classes=21, weights="torchvision:COCO_WITH_VOC_LABELS_V1")
    with pytest.raises(WeightsError, match="has no weights NONSENSE"):
        create_model("lraspp_mobilenet_v3_large", classes=21, weights="torchvision:NONSENSE")
    with pytest.raises(WeightsError, match="non-commercial"):
        create_model("segformer", classes=2, weights="imagenet")
    with pytest.raises(WeightsError, match="no such weights file"):
        create_model("unet", classes=2, weights=no_network / "missing.pth")


def test_torchvision_weights_come_from_the_cache(no_network: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
    url = torchvision.models.get_model_weights("lraspp_mobilenet_v3_large")["COCO_WITH_VOC_LABELS_V1"].url
    file = no_network / "torch" / "checkpoints" / url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    for asked in ("auto", "torchvision:COCO_WITH_VOC_LABELS_V1"):
        model = create_model("lraspp_mobilenet_v3_large", classes=21, weights=asked)
        assert model.provenance.pretrained and "torchvision" in str(model.provenance)
        assert torch.equal(model.gate.weight, theirs.classifier.scale[1].weight)


@pytest.mark.parametrize("channels", [3, 1, 5])
def test_encoder_weights_come_from_the_cache_and_fit_any_channels(
    channels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = timm.create_model("resnet10t")
    file = tmp_path / "model.safetensors"
    save_file(source.state_dict(), file)
    monkeypatch.setattr(weights_module, "_cached", lambda repository: file)
    model = create_model("unet", classes=2, encoder="resnet10t", weights="imagenet", in_channels=channels)
    assert model.provenance.license == "apache-2.0" and model.provenance.pretrained
    assert torch.equal(model.encoder.model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    first, theirs = model.encoder.model.conv1[0].weight, source.conv1[0].weight
    if channels == 3:
        assert torch.equal(first, theirs)
    elif channels == 1:
        assert torch.allclose(first, theirs.sum(1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(first[:, :3], theirs * 3 / 5, atol=1e-6)


def test_a_host_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def silent(*_: object, **__: object) -> None:
        over.wait(30)
        raise OSError("nobody answered")

    monkeypatch.setattr(weights_module.urllib.request, "urlopen", silent)
    reachable.cache_clear()
    start = time.monotonic()
    assert not reachable("https://example.invalid/x", 0.2)
    assert time.monotonic() - start < 5
    over.set()
    reachable.cache_clear()


def test_a_pickle_is_refused_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "run",))

    for name, write in (
        ("a.pth", lambda f: torch.save({"w": Payload()}, f)),
        ("b.pt", lambda f: pickle.dump(Payload(), f.open("wb"))),
    ):
        file = tmp_path / name
        write(file)
        with pytest.raises(WeightsError, match="not unpickled"):
            read_state_dict(file)
    assert not (tmp_path / "run").exists()
    (tmp_path / "c.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(WeightsError, match="safetensors"):
        read_state_dict(tmp_path / "c.safetensors")


def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path) -> None:
    model = create_model("unet", classes=2, encoder=TINY, weights=None)
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}
    torch.save(wrapped, tmp_path / "checkpoint.pth")
    again = create_model("unet", classes=2, encoder=TINY, weights=tmp_path / "checkpoint.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert "segwright" in again.provenance.detail


def test_an_encoder_alone_is_recognized(tmp_path: Path) -> None:
    source = timm.create_model("resnet10t")
    save_file(source.state_dict(), tmp_path / "encoder.safetensors")
    model = create_model("unet", classes=2, encoder="resnet10t", weights=tmp_path / "encoder.safetensors")
    assert torch.equal(model.encoder.model.layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_weights_that_timm_does_not_publish(no_network: Path) -> None:
    assert encoder_weights("resnet50c", required=False)[0] is None
    with pytest.raises(WeightsError):
        torchvision_weights("no_such_model", "DEFAULT", required=False)

"""The plan: every 'auto' resolved, each with a reason; what was asked for stays; sizes follow from the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.core.errors import DataError, UsageError
from segwright.data.check.fingerprint import Fingerprint
from segwright.models import catalog
from segwright.models.base import Provenance
from segwright.models.catalog import CATALOG
from segwright.models.encoders.pretrained import PACKAGED
from segwright.training.config import TrainConfig
from segwright.training.optim.schedule import learning_rate_factor
from segwright.training.planning.checked_data import DataFacts
from segwright.training.planning.draft import Plan, shown_value
from segwright.training.planning.hardware import Hardware
from segwright.training.planning.plan import crop_size, make_plan

CPU = Hardware("cpu", cores=2, memory_bytes=1 << 34)
NEVER = lambda name, encoder: False  # noqa: E731
ALWAYS = lambda name, encoder: True  # noqa: E731
GPU = Hardware("cuda", cores=16, memory_bytes=1 << 36, precision="bf16")

FOUND = Fingerprint(
    images=300, examined=300, labeled=300, height=(360, 360, 360), width=(480, 480, 480), sizes=((360, 480, 300),),
    channels=3, mean=(100.0,) * 3, std=(50.0,) * 3, class_names=("road", "sky", "pole"),
    class_pixels=(6_000_000, 3_900_000, 50_000), class_images=(300, 300, 200), ignored_pixels=0,
    cooccurrence=((300, 300, 200), (300, 300, 200), (200, 200, 200)), scales=(None, None, None), boundary_density=0.03,
    classes_per_image=2.7,
)  # fmt: skip


def plan(
    values: dict[str, object] | None = None, hardware: Hardware = CPU, found: Fingerprint = FOUND, **more: object
) -> Plan:
    facts = {"images": 300, "val_images": 60}
    facts |= {key: more.pop(key) for key in ("images", "val_images", "pairs") if key in more}
    arguments: dict[str, object] = {
        "pretrained": lambda name, encoder: False,
        "normalized": lambda config: config.model.name == "leannet",
        **more,
    }
    config = TrainConfig().with_values(values or {})
    return make_plan(config, DataFacts(found, **facts), hardware, **arguments)  # type: ignore[arg-type]


class Given:
    """Timings that are given instead of measured; ``asked`` lists the networks' arguments."""

    def __init__(self, seconds: Callable[[TrainConfig], float]) -> None:
        self.seconds = seconds
        self.asked: list[object] = []

    def step(self, config: TrainConfig, size: tuple[int, int], batch: int, precision: str) -> float:
        self.asked.append(config.model.arguments.get("variant"))
        return self.seconds(config)


def test_nothing_stays_open_and_everything_has_a_reason() -> None:
    found = plan({"training.minutes": 20.0})
    dumped = found.config.model_dump()
    left = [f"{s}.{k}" for s in ("model", "augment", "training") for k, v in dumped[s].items() if v == "auto"]
    assert set(left) <= {"model.weights", "training.device"}
    assert all(decision.reason for decision in found.entries)
    assert Plan.from_json(found.to_json()).config == found.config


def test_the_classes_that_flips_exchange_are_written_out() -> None:
    plain = plan()
    assert plain.config.augment.flip_pairs == () and not [d for d in plain.entries if "flip" in d.setting]
    sided = replace(FOUND, class_names=("left eye", "right eye", "nose"))

    def decided(values: dict[str, object] | None = None, **more: object) -> tuple[object, str, str]:
        found = plan(values, found=sided, **more)
        chosen = [d for d in found.entries if d.setting == "augment.flip_pairs"]
        assert len(chosen) == 1 and Plan.from_json(found.to_json()) == found
        return found.config.augment.flip_pairs, chosen[0].value, chosen[0].reason

    eyes = (("left eye", "right eye"),)
    assert decided()[:2] == (eyes, "left eye ↔ right eye") and "flips exchange" in decided()[2]
    assert "flips are off" in decided({"augment.flip": False})[2]
    pairs, value, reason = decided({"augment.flip_pairs": "none"})
    assert pairs == () and value == "none" and "left eye ↔ right eye" in reason
    assert decided({"augment.flip_pairs": [["right eye", "left eye"]]})[::2] == ((eyes[0][::-1],), "as asked")
    assert plan(found=sided, pairs=()).config.augment.flip_pairs == (), "the label space's own word goes before names"
    assert decided(pairs=(("nose", "left eye"),))[0] == (("nose", "left eye"),)
    with pytest.raises(UsageError, match="pairs") as caught:
        plan({"augment.flip_pairs": [["left eye", "tail"]]}, found=sided)
    assert "tail" in str(caught.value) and "augment.flip_pairs" in str(caught.value)


def test_what_was_asked_for_stays() -> None:
    asked = {"model.name": "unet", "training.lr": 0.5, "training.batch": 3, "training.loss": "dice",
             "training.size": (64, 96), "training.optimizer": "sgd", "training.class_weights": "none"}  # fmt: skip
    found = plan(asked)
    for key, value in asked.items():
        section, name = key.split(".")
        assert getattr(getattr(found.config, section), name) == value
    assert [phase.size for phase in found.config.training.phases] == [(64, 96)]
    assert found.config.training.phases[0].batch == 3 and found.class_weights is None


def test_small_images_first_only_where_they_show_enough() -> None:
    sizes = [phase.size for phase in plan().config.training.phases]
    assert sizes == sorted(sizes) and len(sizes) == 3 and sizes[-1] == (320, 416)
    small = replace(FOUND, height=(128,) * 3, width=(192,) * 3)
    assert [phase.size for phase in plan(found=small).config.training.phases] == [(128, 192)]


@pytest.mark.parametrize(
    ("image", "largest", "expected"),
    [((360, 480), 480 * 480, (320, 416)), ((96, 128), 480 * 480, (96, 128)), ((5, 7), 480 * 480, (32, 32))],
)
def test_crops(image: tuple[int, int], largest: int, expected: tuple[int, int]) -> None:
    assert crop_size(*image, largest) == expected


def test_a_large_image_is_cropped_to_its_own_shape() -> None:
    height, width = crop_size(2000, 4000, 480 * 480)
    assert height * width <= 480 * 480 and 1.7 < width / height < 2.4


def test_classes_are_pasted_where_there_are_several_and_images_vary() -> None:
    assert plan().config.augment.paste == 0.5
    two = replace(FOUND, class_pixels=(5_000_000, 4_900_000, 0))
    assert plan(found=two).config.augment.paste == 0.0  # of a thing and its background neither helps: docs/results.md
    assert plan({"augment.strength": "none"}).config.augment.paste == 0.0
    asked = plan({"augment.paste": 0.2}, found=two).config.augment
    assert asked.paste == 0.2


def test_small_crops_get_no_pasted_classes() -> None:
    """Of 96×128 pixels they lost two points of mIoU by them, of 320×416 none: docs/results.md."""
    small = plan({"training.size": (96, 128)})
    assert small.config.augment.paste == 0.0
    assert "crops of 96×128" in {entry.setting: entry.reason for entry in small.entries}["augment.paste"]
    assert plan({"training.size": (192, 192)}).config.augment.paste == 0.0
    assert plan({"training.size": (224, 224)}).config.augment.paste == 0.5
    assert plan({"training.size": (96, 128), "augment.paste": 0.5}).config.augment.paste == 0.5


def test_classes_are_pasted_where_the_run_is_long_enough() -> None:
    class Steps:
        seconds = 0.1
        asked = 0

        def step(self, config: TrainConfig, size: tuple[int, int], batch: int, precision: str) -> float:
            self.asked += 1
            return self.seconds

    assert plan({"training.epochs": 34}).config.augment.paste == 0.5  # 300 images: 10,200 crops
    short = plan({"training.epochs": 33})
    assert short.config.augment.paste == 0.0
    assert "about 9,900 images" in {entry.setting: entry.reason for entry in short.entries}["augment.paste"]
    timings = Steps()
    values = {"training.minutes": 20, "model.name": "unet"}
    assert plan(values, timings=timings).config.augment.paste == 0.5
    timings.seconds = 2.0  # 600 updates of 8
    assert plan(values, timings=timings).config.augment.paste == 0.0
    before = timings.asked
    hurried = plan({**values, "training.minutes": 3}, timings=timings)
    assert hurried.config.augment.paste == 0.0
    assert "the time is short" in {entry.setting: entry.reason for entry in hurried.entries}["augment.paste"]
    assert timings.asked == before  # a short budget has no time for another measurement


def test_rare_classes_are_weighed_and_aimed_at() -> None:
    found = plan()
    assert found.class_weights is not None and found.class_weights[2] > 2 * found.class_weights[0]
    assert found.config.augment.class_aware == 0.4
    even = replace(FOUND, class_pixels=(5_000_000, 4_900_000, 4_800_000))
    assert plan(found=even).class_weights is None and plan(found=even).config.augment.class_aware == 0.0


def test_width_follows_from_the_measured_speed() -> None:
    cost = {"small": 0.1, "medium": 0.2, "large": 0.4}

    def width(speed: float) -> tuple[object, list[object]]:
        timings = Given(lambda config: cost[config.model.arguments["variant"]] / speed)
        found = plan({"training.minutes": 10.0}, timings=timings)
        return found.config.model.arguments["variant"], timings.asked

    assert width(0.1) == ("small", ["small"]), "a wider network is not timed if the narrowest leaves no time"
    assert width(1.5) == ("medium", ["small", "medium", "large"])
    assert width(10.0) == ("large", ["small", "medium", "large"])


def test_pretrained_weights_and_gpus_change_the_network() -> None:
    assert plan().config.model.name == "leannet" and plan().config.training.optimizer == "muon"
    fine = plan(pretrained=ALWAYS).config
    assert (fine.model.name, fine.training.optimizer) == ("unet", "adamw") and fine.training.encoder_lr_factor == 0.5
    assert (
        fine.model.encoder == "tf_efficientnet_lite0"
        and fine.training.loss_at_native_stride
        and fine.training.final_phase_loss
    )
    assert fine.model.arguments == {"head_stride": 4, "decoder_channels": [128, 64, 48]}
    assert len(fine.training.phases) == 3, "small images first, as from random weights"
    on_gpu = plan(pretrained=ALWAYS, hardware=GPU).config
    assert on_gpu.model.encoder == "resnet34" and on_gpu.training.encoder_lr_factor == 0.3
    only = lambda name, encoder: encoder == "mobilenetv2_100"  # noqa: E731
    assert plan(pretrained=only).config.model.encoder == "mobilenetv2_100", "the first that can be had"
    assert plan(pretrained=only, hardware=GPU).config.model.encoder == "mobilenetv2_100"
    asked = plan({"model.encoder": "resnet50"}, pretrained=ALWAYS).config
    assert asked.model.encoder == "resnet50" and asked.model.arguments == fine.model.arguments, "and so is any other"
    big = plan(hardware=GPU).config
    assert big.model.arguments["variant"] == "large" and big.training.precision == "bf16"


@pytest.mark.parametrize(("name", "half"), [("leannet", True), ("ddrnet", True), ("segnet", False)])
def test_the_loss_is_taken_at_half_resolution_where_a_network_can(name: str, half: bool) -> None:
    found = plan({"model.name": name}, normalized=lambda config: True).config
    assert found.training.loss_at_native_stride is half and found.training.aux_decay is (name == "leannet")


def test_a_classical_network_from_random_weights_gets_a_start_it_can_learn_from() -> None:
    found = plan({"model.name": "fcn32s", "model.weights": None}).config
    assert found.model.arguments == {"init": "he"}
    assert (found.training.optimizer, found.training.lr, found.training.clip) == ("adamw", 1e-4, 1.0)
    asked = plan(
        {"model.name": "fcn32s", "model.arguments": {"init": "paper"}, "training.lr": 1e-3, "training.clip": 2.0}
    )
    assert asked.config.model.arguments == {"init": "paper"}
    assert (asked.config.training.lr, asked.config.training.clip) == (1e-3, 2.0)
    normed = plan({"model.name": "segnet", "model.weights": None}, normalized=lambda config: True).config
    assert normed.training.optimizer == "muon" and normed.training.clip == 5.0


def test_epochs_are_planned_within_bounds_and_time_is_estimated() -> None:
    assert plan(images=3).config.training.epochs == 400 and plan(images=10**6).config.training.epochs == 20
    timed = plan({"training.epochs": 10}, timings=Given(lambda config: 0.5))
    assert timed.seconds == pytest.approx(10 * 300 / 8 * 0.5, rel=0.5)
    assert plan({"training.minutes": 3.0}).seconds == 180


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        plan(images=0)


def test_the_last_layer_starts_at_the_frequencies_unless_it_is_published_otherwise() -> None:
    assert plan().config.training.prior_bias_init is True
    assert plan({"model.name": "unet"}, pretrained=ALWAYS).config.training.prior_bias_init is True
    assert plan({"model.name": "fcn32s"}).config.training.prior_bias_init is False
    assert plan({"model.name": "deeplabv3_resnet50"}, pretrained=ALWAYS).config.training.prior_bias_init is False
    assert plan({"training.prior_bias_init": False}).config.training.prior_bias_init is False


def test_a_class_that_few_images_show_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def decision(images: tuple[int, ...]) -> str:
        found = plan(found=replace(FOUND, class_images=images))
        assert found.config.training.repeat_rare == 0
        return next(d.reason for d in found.entries if d.setting == "training.repeat_rare")

    assert decision((300, 300, 200)) == "every class is in 67 % of the images or more"
    assert decision((300, 6, 0)) == "sky is in 2.0% of the images: 0.05 shows those more often"


def test_tensorboard_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.training.callbacks.trackers.find_spec", lambda name: None)
    assert plan().config.training.trackers == ()
    monkeypatch.setattr("segwright.training.callbacks.trackers.find_spec", lambda name: object())
    assert plan().config.training.trackers == ("tensorboard",)
    none = plan({"training.trackers": ()})
    assert none.config.training.trackers == ()
    assert [shown_value(value) for value in ((), ("mlflow", "wandb"), (64, 96), None, 0.1)] == [
        "none", "mlflow, wandb", "64×96", "none", "0.1",
    ]  # fmt: skip


FREE = {
    "unet2015",
    "segnet_basic",
    "fc_densenet56",
    "fc_densenet67",
    "fc_densenet103",
    "ddrnet",
    "leannet",
    "segformer",
}


@pytest.mark.parametrize("name", list(CATALOG))
@pytest.mark.parametrize("online", [True, False])
def test_a_network_is_planned_as_what_it_begins_from(
    name: str, online: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From scratch where no weights are published or can be had; and only a network's own weights are asked for.

    A U-Net is made lean, and takes an encoder with packaged weights where its usual one has none.
    """
    asked: list[str] = []

    def timm(encoder: str, *, required: bool) -> tuple[Path | None, Provenance]:
        asked.append(f"timm:{encoder}")
        return (tmp_path if online else None), Provenance()

    def torchvision(model: str, tag: str, *, required: bool) -> tuple[dict[str, torch.Tensor] | None, Provenance]:
        asked.append(f"torchvision:{model}")
        return ({} if online else None), Provenance()

    monkeypatch.setattr(catalog, "encoder_weights", timm)
    monkeypatch.setattr(catalog, "torchvision_weights", torchvision)
    found = plan({"model.name": name}, pretrained=lambda *network: catalog.starts_pretrained(*network))
    fine = online and name not in FREE
    lean = name == "unet"
    assert found.config.training.encoder_lr_factor == ((0.5 if lean else 0.3) if fine else 1.0)
    assert (found.config.training.final_phase_loss is None) is (fine and not lean)
    others = [f"timm:{encoder}" for encoder in PACKAGED] if lean and not online else []
    assert asked == ([] if name in FREE else [CATALOG[name].pretrained(), *others])
    assert [d.value for d in found.entries if d.setting == "model.start"] == ["pretrained" if fine else "random"]
    offline = plan(
        {"model.name": name, "model.weights": None}, pretrained=lambda *n: catalog.starts_pretrained(*n, None)
    )
    assert offline.config.training.encoder_lr_factor == 1.0
    again = plan({"model.name": name}, fine_tuning=True)
    assert again.config.training.final_phase_loss is None, "a saved model that is fine-tuned is no random start"


def test_what_is_asked_for_is_what_create_model_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CATALOG["unet"].pretrained("resnet18") == "timm:resnet18"
    assert CATALOG["unet"].pretrained("mit_b0") is None and CATALOG["segnet"].pretrained() == "torchvision:vgg16_bn"
    assert CATALOG["fcn8s"].pretrained() == "torchvision:vgg16"
    assert CATALOG["deeplabv3_resnet50"].pretrained() == "torchvision:deeplabv3_resnet50"
    assert CATALOG["deeplabv3_resnet50"].pretrained("resnet18") is None, "other encoders of these begin at random"


def test_class_weights_of_another_number_are_refused_before_anything_else() -> None:
    with pytest.raises(UsageError, match="one number per class") as caught:
        plan({"training.class_weights": [1, 2]})
    assert "3 numbers, of road, sky, pole" in str(caught.value) and "2: 1, 2" in str(caught.value)


def test_one_cycle_has_no_warm_up_before_its_own() -> None:
    found = plan({"training.schedule": "one-cycle"}).config
    assert found.training.warmup == 0.0
    factors = [learning_rate_factor("one-cycle", share, 0.04) for share in np.linspace(0, 1, 400)]
    top = int(np.argmax(factors))
    assert (np.diff(factors[: top + 1]) >= 0).all() and (np.diff(factors[top:]) <= 0).all() and 100 < top < 140


def test_a_late_loss_over_the_whole_run_is_said() -> None:
    reasons = {d.setting: d.reason for d in plan({"training.size": (96, 96)}).entries}
    assert "one phase, from its first step on" in reasons["training.final_phase_loss"]
    reasons = {d.setting: d.reason for d in plan().entries}
    assert "the last phase also" in reasons["training.final_phase_loss"]

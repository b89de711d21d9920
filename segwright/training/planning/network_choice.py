"""The network of a plan: its name, its encoder, and what it begins from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from segwright.core.errors import UsageError, WeightsError
from segwright.core.types import LabelSpace
from segwright.inference.bundle import WEIGHTS, is_bundle, read_network
from segwright.inference.description import Bundle, find_bundle, read_bundle
from segwright.models.catalog import CATALOG, create_model, starts_pretrained
from segwright.models.encoders.pretrained import PACKAGED
from segwright.models.without_memory import without_memory
from segwright.training.config import TrainConfig
from segwright.training.planning.draft import Draft, PlanEntry
from segwright.training.planning.hardware import Hardware

ENCODERS_FOR_CPUS = ("tf_efficientnet_lite0", "mobilenetv2_100")  # the first of them whose weights are available
LEAN_CHANNELS = (128, 64, 48, 32)  # of a lean decoder, from the deepest stage up

Pretrained = Callable[[str, str | None], bool]  # (network, encoder) → whether pretrained weights are available


@dataclass(frozen=True)
class SavedNetwork:
    """The network that a saved model names, to begin from its weights."""

    name: str
    encoder: str | None
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, bundle: Bundle, config: TrainConfig) -> SavedNetwork:
        """The bundle's network, with the arguments that the config has itself."""
        arguments = {key: value for key, value in bundle.arguments.items() if key not in ("encoder", "in_channels")}
        return cls(bundle.architecture, bundle.arguments.get("encoder"), {**arguments, **config.model.arguments})

    def named(self, config: TrainConfig) -> TrainConfig:
        """The config with this network."""
        values = {"model.name": self.name, "model.encoder": self.encoder, "model.arguments": dict(self.arguments)}
        return config.with_values(values)


def is_weights_file(weights: str | None) -> TypeGuard[str]:
    """Whether ``model.weights`` is a path."""
    return weights is not None and weights not in ("auto", "imagenet") and not weights.startswith("torchvision:")


def network_of_weights(config: TrainConfig) -> SavedNetwork | None:
    """The network of ``model.weights`` where they are those of a saved model; None where the config is to name it.

    UsageError if neither weights nor config name a network, if the weights are those of another encoder than the one
    asked for, and for a training's checkpoint; WeightsError if there is no such file; BundleError if the saved model is
    damaged, or of another package.
    """
    weights, name, encoder = config.model.weights, config.model.name, config.model.encoder
    if weights is None or weights in ("auto", "imagenet"):
        return None
    if is_weights_file(weights):
        place = _saved_model(Path(weights))
        if place is not None and ":" not in name:
            bundle = read_network(place)
            has = bundle.arguments.get("encoder")
            if name == "auto" and encoder not in ("auto", None, has):
                raise UsageError(
                    "the saved model has another encoder",
                    expected=f"--encoder {has}" if has else f"{bundle.architecture}, which takes no encoder",
                    found=f"--encoder {encoder}",
                    where=weights,
                    fix="leave --encoder out: that of the saved model is used",
                )
            if name in ("auto", bundle.architecture) and encoder in ("auto", None, has):
                return SavedNetwork.of(bundle, config)
    if name != "auto" or encoder not in ("auto", None):
        return None
    raise UsageError(
        "the weights do not name the network that they belong to",
        expected="--model NAME, and --encoder where it is not the network's usual one",
        found=weights,
        fix="name the network (segwright models lists them), or give a saved model, which names its own",
    )


def labels_of_weights(config: TrainConfig) -> LabelSpace | None:
    """The classes of the saved model that ``model.weights`` names; None for other weights, which have no names."""
    weights = config.model.weights
    place = _saved_model(Path(weights)) if is_weights_file(weights) else None
    return None if place is None else read_bundle(place).label_space


def named_by_weights(config: TrainConfig) -> TrainConfig:
    """The config with the network of its weights, where they are those of a saved model.

    Errors as of :func:`network_of_weights`.
    """
    found = network_of_weights(config)
    return config if found is None else found.named(config)


def _saved_model(path: Path) -> Path | None:
    """The saved model that a path of weights is, or lies in; None for other files."""
    if not path.exists():
        raise WeightsError("no such weights file", where=path, fix="check the path")
    folder = path if path.is_dir() else path.parent
    if (folder / "state.json").is_file() and folder.parent.name == "checkpoints":
        raise UsageError(
            "a checkpoint is the state of a training, and no file of weights",
            expected="a saved model, or a state dict",
            found=str(path),
            fix=f"begin from the run's model: --init-from {folder.parent.parent}",
        )
    if path.is_dir():
        return find_bundle(path) if is_bundle(path) or is_bundle(path / "model") else None
    return find_bundle(folder) if path.name == WEIGHTS and is_bundle(folder) else None


def plan_network(draft: Draft, hardware: Hardware, pretrained: Pretrained, *, fine_tuning: bool) -> bool:
    """Network, encoder and start; returns whether training starts from random weights.

    ``fine_tuning``: from a saved model whose network the config names. Errors as of :func:`network_of_weights`;
    WeightsError if ``model.weights`` is ``imagenet`` and they cannot be had.
    """
    weights = draft.get("model.weights")
    unasked = draft.get("model.name") == "auto" and draft.get("model.encoder") in ("auto", None)
    saved = None if fine_tuning else network_of_weights(draft.config)
    if saved is not None:
        _take_saved(draft, saved)
        had: bool | None = True
    elif unasked:
        had = _choose(draft, hardware, pretrained)
    else:
        had = _complete(draft, None if fine_tuning else pretrained)
    name, encoder = draft.get("model.name"), draft.get("model.encoder")
    if had is None:
        had = fine_tuning or (weights is not None and pretrained(name, encoder))
    if not had and not fine_tuning and weights == "imagenet":
        had = starts_pretrained(name, encoder, weights, required=True)
    from_scratch = not fine_tuning and not had
    if not fine_tuning and weights is not None and (saved is not None or not unasked):
        why = "pretrained weights are available" if had else "no pretrained weights are available"
        if weights not in ("auto", "imagenet"):
            why = f"from {weights}"
        draft.entries.append(PlanEntry("model.start", "pretrained" if had else "random", why))
    # Weights in a file may include a decoder, and those of a saved model do: such a network stays as it is.
    if name == "unet" and not hardware.is_gpu and not fine_tuning and not (had and is_weights_file(weights)):
        draft.lean = not from_scratch
        _plan_lean_unet(draft, head_stride=4 if draft.lean else 2)
    return from_scratch


def _take_saved(draft: Draft, saved: SavedNetwork) -> None:
    reason = "the network of the saved model whose weights are given"
    draft.set_default("model.name", saved.name, reason)
    draft.values["model.encoder"] = saved.encoder
    draft.entries.append(PlanEntry("model.encoder", saved.encoder, reason))
    if saved.arguments:
        draft.values["model.arguments"] = dict(saved.arguments)
        draft.entries.append(PlanEntry("model.arguments", dict(saved.arguments), reason))


def _choose(draft: Draft, hardware: Hardware, pretrained: Pretrained) -> bool:
    """A network where none is asked for; returns whether pretrained weights of it were found."""
    weights = draft.get("model.weights")
    if weights in ("auto", "imagenet") and draft.get("model.encoder") == "auto":
        fitting = ("resnet34", *ENCODERS_FOR_CPUS) if hardware.is_gpu else ENCODERS_FOR_CPUS
        found = next((name for name in fitting if pretrained("unet", name)), None)
        if found is not None or weights == "imagenet":
            reason = "pretrained encoder weights are available: U-Net makes the most of little data"
            draft.set_default("model.name", "unet", reason)
            draft.set_default("model.encoder", found or fitting[0], "fits the machine")
            return found is not None
    reason = "from random weights, LeanNet learns most in the same time on CPU cores"
    reason += "; on GPUs that is not measured" if hardware.is_gpu else ""
    draft.set_default("model.name", "leannet", reason)
    draft.set_default("model.encoder", None, "LeanNet has no separate encoder")
    return False


def _complete(draft: Draft, pretrained: Pretrained | None) -> bool | None:
    """The network or the encoder where the other is asked for; returns whether pretrained weights were found, None
    where they were not looked up. ``pretrained``: None where they are not needed."""
    draft.set_default("model.name", "unet", "an encoder is asked for, and U-Net takes any")
    usual = CATALOG["unet"].encoder
    found: bool | None = None
    looked_up = pretrained is not None and draft.get("model.weights") in ("auto", "imagenet")
    if looked_up and draft.get("model.name") == "unet" and draft.get("model.encoder") == "auto":
        assert pretrained is not None
        found = pretrained("unet", None)
        packaged = None if found else next((name for name in PACKAGED if pretrained("unet", name)), None)
        if packaged is not None:
            found = True
            reason = f"its pretrained weights are available; those of {usual}, U-Net's usual encoder, are not"
            draft.set_default("model.encoder", packaged, reason)
    draft.set_default("model.encoder", None, "the network's own default")
    return found


def _plan_lean_unet(draft: Draft, *, head_stride: int) -> None:
    """A U-Net that few CPU cores can train: half the decoder's channels, logits at a part of the resolution."""
    arguments = draft.get("model.arguments")
    if {"decoder_channels", "head_stride"} & set(arguments):
        return
    try:
        with without_memory():
            network = create_model(
                "unet", encoder=draft.get("model.encoder"), classes=2, weights=None,
                in_channels=draft.get("model.in_channels"), **arguments,
            )  # fmt: skip
    except (NotImplementedError, RuntimeError):  # an initialization that needs real memory
        return
    blocks = (network.stride // head_stride).bit_length() - 1  # each doubles the resolution
    if not 1 <= blocks <= len(LEAN_CHANNELS):
        return
    lean = {"head_stride": head_stride, "decoder_channels": list(LEAN_CHANNELS[:blocks])}
    draft.values["model.arguments"] = {**arguments, **lean}
    draft.values["training.loss_at_native_stride"] = True
    saved = "half the time of the full one" if head_stride == 2 else "less time than the full one"
    draft.entries.append(PlanEntry("model.arguments", lean, f"a lean decoder: {saved} on a CPU"))

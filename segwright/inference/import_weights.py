"""Import weights that were trained elsewhere as a saved model, to evaluate, export and serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segwright.core.counted import counted
from segwright.core.errors import ModelError, UsageError, WeightsError
from segwright.core.types import LabelSpace
from segwright.data.label_maps import class_space
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.inference.mmseg_config import MmsegNetwork, read_mmseg_config, read_mmseg_text
from segwright.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from segwright.models.catalog import create_model
from segwright.models.convert import load_converted
from segwright.models.encoders.state_files import WeightsFile, read_weights_file
from segwright.models.external import ExternalModel

# Names of common normalizations of pixels in 0 to 1
NORMALIZATIONS: dict[str, dict[str, list[float]]] = {
    "imagenet": {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
    "none": {"mean": [0.0], "std": [1.0]},  # pixels in 0 to 1
    "half": {"mean": [0.5], "std": [0.5]},  # pixels in -1 to 1
    "raw": {"mean": [0.0], "std": [1 / 255]},  # pixels in 0 to 255
}
TRIED = (2, 65, 97)  # images, height, width of the forward pass


@dataclass(frozen=True)
class Imported:
    """What :func:`import_weights` did."""

    path: Path
    tensors: int  # taken from the file
    parameters: int
    layout: str  # whose names the file used
    normalization: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path), "tensors": self.tensors, "parameters": self.parameters, "layout": self.layout,
            "normalization": dict(self.normalization), "notes": list(self.notes),
        }  # fmt: skip


def import_weights(
    weights: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    classes: Sequence[str] | str | Path | None = None,
    config: str | Path | None = None,
    encoder: str | None = None,
    in_channels: int = 3,
    normalization: str | Mapping[str, Any] | None = None,
    key: str | None = None,
    prefix: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    command: str = "",
) -> Imported:
    """Write a bundle to ``out`` from the network ``model`` and the weights in a file.

    ``config``: mmsegmentation's config, which gives model, encoder, arguments and normalization; None: the one that its
    checkpoint holds, if ``model`` is not given. ``classes``: their names in the order of the network's outputs, or a
    file that lists them; None: those in a checkpoint of mmsegmentation. ``normalization``: a name of
    :data:`NORMALIZATIONS` or ``{"mean": […], "std": […]}``; None: the network's own, with a note. ``key`` and
    ``prefix`` as for :func:`segwright.models.encoders.state_files.read_weights_file`; ``arguments`` are passed to the
    network. Every tensor of the network has to be in the file; the saved model is loaded again and run on random
    pixels. WeightsError if weights and network do not fit, UsageError for invalid arguments, ConfigError for a config
    that cannot be read.
    """
    file = read_weights_file(weights, key=key, prefix=prefix)
    described = _described_in(file, model, weights) if config is None else read_mmseg_config(config)
    space = class_space(_classes(classes, file, weights))
    options: dict[str, Any] = {"in_channels": in_channels, **(arguments or {})}
    if encoder is not None:
        options["encoder"] = encoder
    given = _normalization(normalization)
    if described is not None:
        _check_described(described, space, model or encoder, weights)
        model, in_channels, given = described.model, described.in_channels, given or described.normalization
        options = {"encoder": described.encoder, **described.arguments, **options, "in_channels": in_channels}
    assert model is not None
    if given is not None:
        options["normalization"] = given
    out = Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UsageError(
            "the output folder exists and is not empty", expected="a new name or an empty folder", where=out,
            fix="another folder with --out",
        )  # fmt: skip
    network = create_model(model, classes=space.classes, weights=None, **options)
    layout, taken, adapted = _load(network, model, file.tensors, space, weights)
    notes = [*file.notes, *(described.notes if described else ())]
    notes += [f"adapted to {in_channels} channels: {name}" for name in adapted]
    mean, std = (network.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
    used = {"mean": mean, "std": std}
    if given is None:
        notes.append(
            f"pixels are normalized with mean {_short(mean)} and std {_short(std)}, the network's default; if the "
            "weights were trained otherwise, give --normalization"
        )
    _try(network, weights)
    bundle = Bundle(
        architecture=model,
        label_space=space,
        arguments=options,
        preprocessing={"channels": in_channels},
        training={"imported": Path(weights).name, "command": command},
        licenses={"weights": f"{Path(weights).name} (license as its publisher states)"},
    )
    folder = save_bundle(out, network.eval(), bundle)
    again, _ = load_bundle(folder, trust_external=True)
    _compare(network, again, folder)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Imported(folder, taken, parameters, layout, used, tuple(notes))


def _described_in(file: WeightsFile, model: str | None, weights: str | Path) -> MmsegNetwork | None:
    """The network by the config that a checkpoint of mmsegmentation holds, where no model is given."""
    mmseg = {"backbone", "decode_head"} <= {name.split(".")[0] for name in file.tensors}
    text = file.meta.get("cfg") or file.meta.get("config")
    if model is not None:
        if mmseg:  # dilations and aligned corners leave no trace in the tensors
            raise UsageError(
                "a network of mmsegmentation is imported by its config, not by --model", found=model, where=weights,
                fix="segwright import WEIGHTS --config CONFIG.py --out FOLDER",
            )  # fmt: skip
        return None
    if mmseg and isinstance(text, str):
        return read_mmseg_text(text, weights)
    raise UsageError(
        "which network the weights belong to is not known", where=weights,
        expected="--config CONFIG.py of mmsegmentation" if mmseg else "--model NAME, a network of `segwright models`",
    )  # fmt: skip


def _classes(given: Sequence[str] | str | Path | None, file: WeightsFile, weights: str | Path) -> Any:
    """The class names: those given, or those of a checkpoint of mmsegmentation."""
    if given is not None:
        return given
    dataset = file.meta.get("dataset_meta")
    found = dataset.get("classes") if isinstance(dataset, Mapping) else file.meta.get("CLASSES")
    if isinstance(found, list | tuple) and found and all(isinstance(name, str) for name in found):
        return list(found)
    fix = "name all classes in the order of the outputs with --classes A,B,C or --classes FILE"
    raise UsageError("the weights have no names of classes", where=weights, fix=fix)


def _check_described(described: MmsegNetwork, space: LabelSpace, other: str | None, weights: str | Path) -> None:
    if other is not None:
        raise UsageError("the config names network and encoder", found=other, fix="leave --model and --encoder out")
    if space.classes != described.classes:
        raise UsageError(
            "the config has another number of classes", expected=f"{described.classes} names",
            found=f"{space.classes}: {', '.join(space.names[:8])}", where=weights,
            fix="name all classes in the order of the outputs with --classes",
        )  # fmt: skip


def _load(
    network: SegmentationModel, model: str, tensors: Mapping[str, torch.Tensor], space: LabelSpace, weights: str | Path
) -> tuple[str, int, Sequence[str]]:
    """Load the tensors: (whose names the file used, number of tensors taken, tensors adapted to the channels)."""
    if isinstance(network, ExternalModel):
        return model.split(":")[0], _load_external(network, tensors, Path(weights)), ()
    loaded = load_converted(network, tensors)
    if loaded.origin == "encoder":
        raise WeightsError(
            "the file contains only an encoder", expected="a whole network", where=weights,
            fix="train the rest: segwright train DATA --weights FILE",
        )  # fmt: skip
    if loaded.left_out:
        shapes = [tuple(tensors[name].shape) for name in loaded.left_out if name in tensors]
        found = counted(shapes[0][0], "class") if shapes else ", ".join(loaded.left_out)
        raise WeightsError(
            "the weights have another number of classes", expected=f"{space.classes}: {', '.join(space.names)}",
            found=found, where=weights, fix="name all classes in the order of the outputs with --classes",
        )  # fmt: skip
    return loaded.origin, loaded.taken, loaded.adapted


def _normalization(given: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None or isinstance(given, Mapping):
        return None if given is None else dict(given)
    if given in NORMALIZATIONS:
        return dict(NORMALIZATIONS[given])
    try:  # mean/std, of numbers with commas between them
        mean, std = ([float(number) for number in part.split(",")] for part in given.split("/"))
    except ValueError:
        raise UsageError(
            "unknown normalization",
            expected=f"{', '.join(NORMALIZATIONS)}, or MEAN/STD of pixels in 0 to 1, such as 0.5,0.5,0.5/0.2,0.2,0.2",
            found=given,
        ) from None
    return {"mean": mean, "std": std}


def _load_external(network: ExternalModel, tensors: Mapping[str, torch.Tensor], where: Path) -> int:
    try:
        network.module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WeightsError("the weights do not fit the network", where=where, found=str(error)[:400]) from error
    return len(tensors)


def _pixels(network: SegmentationModel) -> torch.Tensor:
    count, height, width = TRIED
    shape = (count, max(height, network.minimum_size), max(width, network.minimum_size), network.in_channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _try(network: SegmentationModel, weights: str | Path) -> None:
    """Raise ModelError if the network's output for random pixels is not finite."""
    logits = network.eval()(_pixels(network)).logits
    if not torch.isfinite(logits).all():
        raise ModelError(
            "the output of the network with these weights is not finite", found="NaN or infinity", where=weights
        )


@torch.inference_mode()
def _compare(network: SegmentationModel, again: SegmentationModel, where: Path) -> None:
    pixels = _pixels(network)
    worst = float((network(pixels).logits - again.eval()(pixels).logits).abs().max())
    if not worst <= 1e-3:
        raise ModelError("the saved model differs from the imported weights", found=f"logits differ by {worst:.3g}",
                         where=where)  # fmt: skip


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:4])

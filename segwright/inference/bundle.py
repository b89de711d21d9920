"""A saved model is a folder: ``model.safetensors``, ``model.json`` and SHA-256 sums. No pickle anywhere.

``model.json`` says everything that is needed to run the network elsewhere: architecture and its arguments, label
space, preprocessing, post-processing, metrics with their intervals, the data's fingerprint, licences and versions. It
holds names of our own catalog only, never an import path, so that loading runs no code that came with the file.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file

from segwright import __version__
from segwright.errors import BundleError, ModelError
from segwright.files import recover_folder, write_folder, write_json, write_sums, wrong_sums
from segwright.models.catalog import create_model, with_former_defaults
from segwright.models.segmenter import SegmentationModel
from segwright.postprocess.chain import with_symmetric_presets
from segwright.types import LabelSpace

FORMAT = "segwright-bundle"
VERSION = 2  # 1: CRF presets in `postprocess` were symmetric, some networks had other defaults
MAX_JSON_BYTES = 64_000_000
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Bundle:
    """What a saved model is, its weights apart."""

    architecture: str  # a name of the catalog
    label_space: LabelSpace
    arguments: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of create_model
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # value range of non-8-bit data, channels
    postprocess: str | None = None  # a chain in the grammar of segwright.postprocess.chain
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)  # config, fingerprint, command
    licences: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "label_space": self.label_space.to_json(),
            "preprocessing": dict(self.preprocessing),
            "postprocess": self.postprocess,
            "metrics": dict(self.metrics),
            "training": dict(self.training),
            "licences": dict(self.licences),
            "versions": dict(self.versions) or versions(),
        }


def versions() -> dict[str, str]:
    """What made the model."""
    return {
        "segwright": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def save_bundle(folder: str | Path, model: SegmentationModel, bundle: Bundle) -> Path:
    """Write ``model`` and ``bundle`` to ``folder``, whole or not at all; what stood there is replaced."""
    bundle = replace(bundle, arguments={**bundle.arguments, **model.settled_arguments()})
    with write_folder(folder) as beside:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(_unshare(tensors), str(beside / "model.safetensors"), metadata={"format": "pt"})
        write_json(beside / "model.json", bundle.to_json())
        write_sums(beside, SUMS)
    return Path(folder)


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a folder with a saved model in it."""
    return (path / "model.json").is_file()


def read_bundle(folder: str | Path) -> Bundle:
    """The bundle's description, checked: its sums, its form, its version. BundleError says what is wrong."""
    folder = Path(folder)
    recover_folder(folder)
    description = folder / "model.json"
    if not description.is_file():
        raise BundleError("no saved model here", expected="model.json and model.safetensors", where=folder)
    if description.stat().st_size > MAX_JSON_BYTES:
        raise BundleError("model.json is too large to be one of ours", where=description)
    wrong = wrong_sums(folder, SUMS)
    if wrong:
        raise BundleError(
            "the saved model is not what was saved",
            expected=f"every file as {SUMS} lists it",
            found="; ".join(wrong[:5]),
            where=folder,
            fix="copy the whole folder again from its source",
        )
    try:
        tree = json.loads(description.read_text(encoding="utf-8"))
        if tree.get("format") != FORMAT or int(tree.get("version", 0)) > VERSION:
            raise BundleError(
                "model.json is of another kind or a newer version",
                expected=f"{FORMAT} up to version {VERSION}",
                found=f"{tree.get('format')} version {tree.get('version')}",
                where=description,
                fix="install a newer segwright",
            )
        return bundle_from_json(tree)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BundleError("model.json cannot be read", found=str(error), where=description) from error


def load_bundle(folder: str | Path) -> tuple[SegmentationModel, Bundle]:
    """The network in eval mode with its weights, and its description."""
    folder = Path(folder)
    bundle = read_bundle(folder)
    arguments = {key: value for key, value in bundle.arguments.items() if key not in ("classes", "weights")}
    try:
        model = create_model(bundle.architecture, classes=bundle.label_space.classes, weights=None, **arguments)
    except TypeError as error:
        raise BundleError(
            "model.json names arguments the network does not take", found=str(error), where=folder
        ) from error
    load_weights(model, folder / "model.safetensors")
    return model.eval(), bundle


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Read a safetensors file into ``model``, every tensor of the right name and shape; BundleError otherwise."""
    try:
        tensors = load_file(str(path))
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise BundleError("the weights cannot be read", found=str(error), where=path) from error
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise BundleError("the weights do not fit the network", found=str(error)[:400], where=path) from error


def bundle_from_json(tree: Mapping[str, Any]) -> Bundle:
    if not isinstance(tree["architecture"], str) or not isinstance(tree.get("arguments", {}), dict):
        raise ModelError("model.json names no architecture")
    arguments, chain = tree.get("arguments", {}), tree.get("postprocess")
    if int(tree.get("version", VERSION)) < 2:
        arguments = with_former_defaults(tree["architecture"], arguments)
        chain = with_symmetric_presets(chain) if isinstance(chain, str) else chain
    return Bundle(
        architecture=tree["architecture"],
        arguments=arguments,
        label_space=LabelSpace.from_json(tree["label_space"]),
        preprocessing=tree.get("preprocessing", {}),
        postprocess=chain,
        metrics=tree.get("metrics", {}),
        training=tree.get("training", {}),
        licences=tree.get("licences", {}),
        versions=tree.get("versions", {}),
    )


def _unshare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses two names for one memory: give every name its own."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result

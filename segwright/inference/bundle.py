"""A saved model is a folder: ``model.safetensors``, ``model.json`` and SHA-256 sums. No pickle anywhere.

``model.json`` has everything that is needed to run the network elsewhere: architecture and its arguments, label space,
preprocessing, post-processing, metrics with their intervals, the data's fingerprint, licenses and versions. It contains
names of our own catalog, never an import path, so loading runs no code from the file. A name of another package
(``smp:Unet``) is built only if the caller trusts the file.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from segwright.core.atomic_io import write_checksums, write_folder, write_json
from segwright.core.errors import BundleError, BundleWriteError, MissingExtraError, PluginError
from segwright.core.unreadable import UNREADABLE
from segwright.inference.attachments import Attachment, write_attachment
from segwright.inference.description import (
    DESCRIPTION,
    SUMS,
    WEIGHTS,
    Bundle,
    is_bundle,
    parse_description,
    read_attachment,
    read_attachments,
    read_bundle,
    read_description,
    stable,
    versions,
)
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model, is_plugin
from segwright.models.without_memory import without_memory

__all__ = [
    "DESCRIPTION",
    "WEIGHTS",
    "Bundle",
    "foreign_parts",
    "is_bundle",
    "load_bundle",
    "load_weights",
    "parse_description",
    "read_attachment",
    "read_attachments",
    "read_bundle",
    "read_network",
    "rewrite_description",
    "save_bundle",
    "versions",
]

MAX_NUMBER = 16_384  # of an argument; the widest layer of the catalog has 4,096 channels
MAX_ARGUMENTS = 4_096  # numbers, texts and lists among the arguments
# Arguments with which other packages fetch weights, kernels or code
FETCHING = (
    "use_pretrained_backbone", "backbone", "auto_map", "trust_remote_code", "attn_implementation", "_name_or_path",
    "_attn_implementation", "pretrained", "pretrained_model_name_or_path",
)  # fmt: skip


def save_bundle(
    folder: str | Path,
    model: SegmentationModel,
    bundle: Bundle,
    attachments: Mapping[str, Attachment] | None = None,
) -> Path:
    """Write ``model`` and ``bundle`` to ``folder`` atomically, replacing an existing model and its attachments.

    ``attachments``: arrays by name that describe these weights (see :mod:`segwright.inference.attachments`).
    BundleWriteError, which is also an OSError, if the disk is full or the folder cannot be written; an existing model
    is then unchanged.
    """
    bundle = replace(bundle, arguments={**bundle.arguments, **model.resolved_arguments()})
    folder = Path(folder)
    try:
        with write_folder(folder) as beside:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
            save_file(_unshare(tensors), str(beside / WEIGHTS), metadata={"format": "pt"})
            write_json(beside / DESCRIPTION, bundle.to_json())
            for name, attachment in (attachments or {}).items():
                write_attachment(beside, name, attachment)
            write_checksums(beside, SUMS)
    except (OSError, safetensors.SafetensorError) as error:  # safetensors has its own error for a full disk
        if isinstance(error, BundleWriteError):
            raise
        raise BundleWriteError(
            "the model could not be saved; an existing one is unchanged",
            found=str(error)[:300],
            where=folder,
            fix="free some space, or save into another folder",
        ) from error
    return folder


def rewrite_description(folder: Path, change: Callable[[Bundle], Bundle]) -> Bundle:
    """Replace the description of a saved model atomically; weights and attachments stay. BundleError if it is damaged,
    BundleWriteError if the disk is full, with the saved model unchanged."""
    bundle = change(read_bundle(folder))
    try:
        with write_folder(folder) as beside:
            for file in sorted(folder.iterdir()):
                if file.name not in (DESCRIPTION, SUMS):
                    shutil.copyfile(file, beside / file.name)
            write_json(beside / DESCRIPTION, bundle.to_json())
            write_checksums(beside, SUMS)
    except OSError as error:
        raise BundleWriteError(
            "the model's description could not be replaced; the model is unchanged", found=str(error)[:300],
            where=folder, fix="free some space",
        ) from error  # fmt: skip
    return bundle


def load_bundle(folder: str | Path, *, trust_external: bool = False) -> tuple[SegmentationModel, Bundle]:
    """The network in eval mode with its weights, and its description.

    Only networks of our own catalog are built, from bounded arguments, without network access. ``trust_external``
    allows those of other packages (``smp:…``, ``transformers:…``, ``torchvision:…``, plugins), whose constructors then
    get arguments from the file. BundleError if that is needed and not allowed, and for any invalid bundle.
    """

    def load(place: Path) -> tuple[SegmentationModel, Bundle]:
        bundle = read_description(place)
        return _build(bundle, place, trust_external).eval(), bundle

    return stable(Path(folder), load)


def read_network(folder: str | Path) -> Bundle:
    """The description of a saved model whose network is ours and fits its tensors; no memory is allocated for it.

    BundleError as of :func:`load_bundle` with ``trust_external=False``.
    """

    def read(place: Path) -> Bundle:
        bundle = read_description(place)
        _check_network(bundle, place, trust_external=False)
        return bundle

    return stable(Path(folder), read)


def _build(bundle: Bundle, folder: Path, trust_external: bool) -> SegmentationModel:
    """Build the network of a bundle with its weights."""
    create = _check_network(bundle, folder, trust_external)
    with _named_errors(folder), _offline():
        model = create()
    load_weights(model, folder / WEIGHTS)
    return model


def _check_network(bundle: Bundle, folder: Path, trust_external: bool) -> Callable[[], SegmentationModel]:
    """How a bundle's network is built, after a check of its arguments. Its tensors are compared with the file's, so
    that a false description cannot cause large allocations."""
    arguments = {key: value for key, value in bundle.arguments.items() if key not in ("classes", "weights")}
    foreign = foreign_parts(bundle.architecture, arguments)
    if foreign and not trust_external:
        raise BundleError(
            "this model is built by another package, with arguments from the file",
            expected="a network of segwright's own catalog",
            found=", ".join(foreign[:4]),
            where=folder,
            fix="--trust-external (trust_external=True) if you trust where the model came from",
        )
    _check_arguments(arguments, folder)
    shapes = _shapes(folder / WEIGHTS)

    def create() -> SegmentationModel:
        return create_model(
            bundle.architecture, classes=bundle.label_space.classes, weights=None, **_harmless(arguments)
        )

    if not foreign:
        with _named_errors(folder), without_memory():
            _compare(create().state_dict(), shapes, folder / WEIGHTS)
    return create


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """BundleError for whatever a constructor raises with arguments that are not ours."""
    try:
        yield
    except (BundleError, MissingExtraError, PluginError):
        raise
    except Exception as error:
        raise BundleError(
            "the network that the model describes cannot be built",
            found=f"{type(error).__name__}: {str(error)[:300]}",
            where=folder,
            fix="copy the model again from its source",
        ) from error


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Read a safetensors file into ``model``, every tensor of the right name and shape; BundleError otherwise."""
    _compare(model.state_dict(), _shapes(path), path)
    try:
        tensors = load_file(str(path))
    except UNREADABLE as error:
        raise BundleError("the weights cannot be read", found=str(error)[:300], where=path) from error
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise BundleError("the weights do not fit the network", found=str(error)[:400], where=path) from error


def foreign_parts(architecture: str, arguments: Mapping[str, Any]) -> list[str]:
    """The parts of a description that name another package, a host or a path: a plugin, a colon or a slash."""
    found = [architecture] if ":" in architecture or "/" in architecture or is_plugin(architecture) else []

    def look(value: Any) -> None:
        if isinstance(value, str) and (":" in value or "/" in value):
            found.append(value)
        elif isinstance(value, Mapping):
            member = value.get("architecture")  # of an ensemble
            found.extend([member] if isinstance(member, str) and is_plugin(member) else [])
            for one in value.values():
                look(one)
        elif isinstance(value, list | tuple):
            for one in value:
                look(one)

    look(dict(arguments))
    return found


def _check_arguments(arguments: Mapping[str, Any], where: Path) -> None:
    """Raise BundleError for numbers and lists larger than any of our networks has, before anything is built."""
    parts = 0

    def look(value: Any, depth: int) -> None:
        nonlocal parts
        parts += 1
        wrong = None
        if parts > MAX_ARGUMENTS or depth > 8:
            wrong = "more parts than a network has"
        elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:  # NaN too
            wrong = str(value)
        elif isinstance(value, Mapping):
            for one in value.values():
                look(one, depth + 1)
        elif isinstance(value, list | tuple):
            for one in value:
                look(one, depth + 1)
        if wrong is not None:
            raise BundleError(
                "an argument of the network is out of bounds", expected=f"numbers up to {MAX_NUMBER}", found=wrong,
                where=where,
            )  # fmt: skip

    look(dict(arguments), 0)


def _harmless(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those that make other packages fetch weights, kernels or code."""
    kept = {key: value for key, value in arguments.items() if key not in FETCHING}
    for key in ("encoder_weights", "weights_backbone"):
        if key in kept:
            kept[key] = None
    return kept


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the Hugging Face libraries offline, if they are loaded."""
    constants = sys.modules.get("huggingface_hub.constants")
    before = getattr(constants, "HF_HUB_OFFLINE", None)
    try:
        if constants is not None:
            constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        yield
    finally:
        if constants is not None:
            constants.HF_HUB_OFFLINE = before  # type: ignore[attr-defined]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors in a safetensors file, by its header alone."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise BundleError("the weights cannot be read", found=str(error)[:300], where=path) from error


def _compare(wanted: Mapping[str, torch.Tensor], found: Mapping[str, tuple[int, ...]], where: Path) -> None:
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is no part of the network" for name in found if name not in wanted]
    wrong += [
        f"{name}: {found[name]} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and tuple(tensor.shape) != found[name]
    ]
    if wrong:
        raise BundleError(
            "the weights do not fit the network",
            found="; ".join(wrong[:4]) + (f"; … {len(wrong)} in all" if len(wrong) > 4 else ""),
            where=where,
        )


def _unshare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share memory, which safetensors does not allow."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result

"""A saved model is a folder: ``model.safetensors``, ``model.json`` and SHA-256 sums. No pickle anywhere.

``model.json`` has everything that is needed to run the network elsewhere: architecture and its arguments, label space,
preprocessing, post-processing, metrics with their intervals, the data's fingerprint, licenses and versions. It contains
names of our own catalog, never an import path, so loading runs no code from the file. A name of another package
(``smp:Unet``) is built only if the caller trusts the file.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file

from segwright.core.atomic_io import verify_checksums, write_checksums, write_folder, write_json
from segwright.core.errors import BundleError, BundleWriteError, MissingExtraError, ModelError, SegwrightError
from segwright.core.types import LabelSpace
from segwright.core.version import __version__
from segwright.inference.attachments import Attachment, attachment_names, load_attachment, write_attachment
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model, with_current_names, with_former_defaults
from segwright.postprocess.pipeline import with_symmetric_presets

FORMAT = "segwright-bundle"
VERSION = 2  # 1: CRF presets in `postprocess` were symmetric, some networks had other defaults
MAX_JSON_BYTES = 16_000_000
MAX_JSON_PARTS = 500_000  # objects and lists; each takes some hundred bytes in Python
MAX_SUMS_BYTES = 1_000_000
MAX_PIPELINE = 500  # characters of a saved post-processing pipeline
MAX_NUMBER = 16_384  # of an argument; the widest layer of the catalog has 4,096 channels
MAX_ARGUMENTS = 4_096  # numbers, texts and lists among the arguments
STABLE_SECONDS = 30.0  # how long a folder that is repeatedly replaced is retried
SUMS = "SHA256SUMS"
DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"
# Arguments with which other packages fetch weights, kernels or code
FETCHING = (
    "use_pretrained_backbone", "backbone", "auto_map", "trust_remote_code", "attn_implementation", "_name_or_path",
    "_attn_implementation", "pretrained", "pretrained_model_name_or_path",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """The description of a saved model, without its weights."""

    architecture: str  # a name of the catalog
    label_space: LabelSpace
    arguments: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of create_model
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # value range of non-8-bit data, channels
    postprocess: str | None = None  # in the grammar of segwright.postprocess.pipeline
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)  # config, fingerprint, command
    licenses: Mapping[str, str] = field(default_factory=dict)
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
            "licenses": dict(self.licenses),
            "versions": dict(self.versions) or versions(),
        }


def versions() -> dict[str, str]:
    """The versions of Python and packages that made the model."""
    return {
        "segwright": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


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


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a folder with a saved model, even while a training replaces it."""
    return (path / DESCRIPTION).is_file() or any((old / DESCRIPTION).is_file() for old in _old_versions(path))


def read_bundle(folder: str | Path) -> Bundle:
    """The bundle's description, after a check of checksums, form and version; BundleError otherwise.

    Nothing is written or removed. If a training replaces the folder meanwhile, it is read again.
    """
    return _stable(Path(folder), _read_description)


def read_attachment(folder: str | Path, name: str) -> Attachment | None:
    """The attachment ``name`` of a saved model, or None; BundleError if the model or the attachment is damaged."""

    def read(place: Path) -> Attachment | None:
        _read_description(place)  # verifies the checksums of all files
        return load_attachment(place, name)

    return _stable(Path(folder), read)


def read_attachments(folder: str | Path) -> dict[str, Attachment]:
    """All attachments of a saved model by name."""

    def read(place: Path) -> dict[str, Attachment]:
        _read_description(place)
        found = {name: load_attachment(place, name) for name in attachment_names(place)}
        return {name: attachment for name, attachment in found.items() if attachment is not None}

    return _stable(Path(folder), read)


def load_bundle(folder: str | Path, *, trust_external: bool = False) -> tuple[SegmentationModel, Bundle]:
    """The network in eval mode with its weights, and its description.

    Only networks of our own catalog are built, from bounded arguments, without network access. ``trust_external``
    allows those of other packages (``smp:…``, ``transformers:…``, ``torchvision:…``), whose constructors then get
    arguments from the file. BundleError if that is needed and not allowed, and for any invalid bundle.
    """

    def load(place: Path) -> tuple[SegmentationModel, Bundle]:
        bundle = _read_description(place)
        return _build(bundle, place, trust_external).eval(), bundle

    return _stable(Path(folder), load)


def _read_description(folder: Path) -> Bundle:
    description = folder / DESCRIPTION
    if not description.is_file():
        raise BundleError("no saved model here", expected=f"{DESCRIPTION} and {WEIGHTS}", where=folder)
    for name, most in ((DESCRIPTION, MAX_JSON_BYTES), (SUMS, MAX_SUMS_BYTES)):
        if (folder / name).is_file() and (folder / name).stat().st_size > most:
            raise BundleError(f"{name} is too large to be one of ours", expected=f"at most {most} bytes", where=folder)
    try:
        wrong = verify_checksums(folder, SUMS)
    except ValueError as error:  # no UTF-8, or a name that no file can have
        raise BundleError(f"{SUMS} is damaged", found=str(error)[:200], where=folder) from error
    if wrong:
        raise BundleError(
            "the saved model is not what was saved",
            expected=f"every file as {SUMS} lists it",
            found="; ".join(wrong[:5]),
            where=folder,
            fix="copy the whole folder again from its source",
        )
    return parse_description(description.read_bytes(), description)


def parse_description(text: bytes | str, where: Path) -> Bundle:
    """Parse the text of a description, within limits of size and number of parts; BundleError otherwise."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        if len(decoded) > MAX_JSON_BYTES or decoded.count("{") + decoded.count("[") > MAX_JSON_PARTS:
            raise BundleError("the description is too large to be one of ours", where=where)
        tree = json.loads(decoded)
        if not isinstance(tree, dict):
            raise BundleError("the description is no object", found=type(tree).__name__, where=where)
        if tree.get("format") != FORMAT or int(tree.get("version", 0)) > VERSION:
            raise BundleError(
                "the description is of another kind or a newer version",
                expected=f"{FORMAT} up to version {VERSION}",
                found=f"{tree.get('format')} version {tree.get('version')}",
                where=where,
                fix="install a newer segwright",
            )
        return bundle_from_json(tree)
    except BundleError:
        raise
    except (SegwrightError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, LookupError,
            RecursionError) as error:  # fmt: skip
        raise BundleError(
            "the description of the model cannot be read",
            found=f"{type(error).__name__}: {str(error)[:300]}",
            where=where,
            fix="copy the model again from its source",
        ) from error


def _build(bundle: Bundle, folder: Path, trust_external: bool) -> SegmentationModel:
    """Build the network of a bundle with its weights. Its tensors are compared with the file's first, so that a false
    description cannot cause large allocations."""
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

    try:
        if not foreign:
            with torch.device("meta"):
                _compare(create().state_dict(), shapes, folder / WEIGHTS)
        with _offline():
            model = create()
    except (BundleError, MissingExtraError):
        raise
    except Exception as error:  # any error of a constructor with arguments that are not ours
        raise BundleError(
            "the network that the model describes cannot be built",
            found=f"{type(error).__name__}: {str(error)[:300]}",
            where=folder,
            fix="copy the model again from its source",
        ) from error
    load_weights(model, folder / WEIGHTS)
    return model


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Read a safetensors file into ``model``, every tensor of the right name and shape; BundleError otherwise."""
    _compare(model.state_dict(), _shapes(path), path)
    try:
        tensors = load_file(str(path))
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise BundleError("the weights cannot be read", found=str(error)[:300], where=path) from error
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise BundleError("the weights do not fit the network", found=str(error)[:400], where=path) from error


def foreign_parts(architecture: str, arguments: Mapping[str, Any]) -> list[str]:
    """The parts of a description that name another package, a host or a path: a colon or a slash."""
    found = [architecture] if ":" in architecture or "/" in architecture else []

    def look(value: Any) -> None:
        if isinstance(value, str) and (":" in value or "/" in value):
            found.append(value)
        elif isinstance(value, Mapping):
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
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
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


def _stable(folder: Path, read: Callable[[Path], T]) -> T:
    """Call ``read`` on a folder, and again if a training has replaced it meanwhile."""
    end = time.monotonic() + STABLE_SECONDS
    while True:
        place = _present(folder)
        before = _identity(place)
        try:
            found = read(place)
            error: Exception | None = None
        except (SegwrightError, OSError) as raised:
            error = raised
        if before is not None and _identity(place) == before and _present(folder) == place:
            if error is None:
                return found
            if isinstance(error, SegwrightError):
                raise error
            raise BundleError("the saved model cannot be read", found=str(error), where=folder) from error
        if before is None and not _being_replaced(folder):
            raise error or BundleError("no saved model here", where=folder)
        if time.monotonic() > end:
            raise BundleError(
                "the saved model is replaced faster than it can be read", where=folder, fix="try again later"
            ) from error
        time.sleep(0.01)


def _present(folder: Path) -> Path:
    """The folder, or its previous version if a save was interrupted between its two renames."""
    if folder.exists():
        return folder
    return next(iter(_old_versions(folder)), folder)


def _old_versions(folder: Path) -> list[Path]:
    """The versions that saves have moved aside, the newest first."""
    name = glob.escape(folder.name)
    if not folder.name or not folder.parent.is_dir():
        return []
    found = []
    for entry in folder.parent.glob(f".{name}.old-*"):
        with contextlib.suppress(OSError):
            found.append((entry.stat().st_mtime, entry))
    return [entry for _, entry in sorted(found, reverse=True)]


def _being_replaced(folder: Path) -> bool:
    return folder.exists() or bool(_old_versions(folder))


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def bundle_from_json(tree: Mapping[str, Any]) -> Bundle:
    """A bundle from its JSON; ModelError, or an error of Python, if the tree is not one of ours."""
    if not isinstance(tree["architecture"], str) or not isinstance(tree.get("arguments", {}), dict):
        raise ModelError("the description names no architecture")
    if "licenses" not in tree and "licences" in tree:  # as the first release wrote it
        tree = {**tree, "licenses": tree["licences"]}
    for key in ("preprocessing", "metrics", "training", "licenses", "versions"):
        if not isinstance(tree.get(key) or {}, dict):
            raise ModelError(f"{key} is no object", found=type(tree[key]).__name__)
    if not isinstance(tree.get("postprocess"), str | None) or len(tree.get("postprocess") or "") > MAX_PIPELINE:
        raise ModelError("postprocess is no pipeline", expected=f"a text of at most {MAX_PIPELINE} characters")
    arguments, pipeline = with_current_names(tree.get("arguments", {})), tree.get("postprocess")
    if int(tree.get("version", VERSION)) < 2:
        arguments = with_former_defaults(tree["architecture"], arguments)
        pipeline = with_symmetric_presets(pipeline) if isinstance(pipeline, str) else pipeline
    space = LabelSpace.from_json(tree["label_space"])
    space.lookup(), space.palette()  # invalid file values and colors fail here, not in a prediction
    if any(not 0 <= level <= 255 for color in space.colors for level in color):
        raise ModelError("a color of the label space is out of range", expected="0 to 255", found=str(space.colors))
    return Bundle(
        architecture=tree["architecture"],
        arguments=arguments,
        label_space=space,
        preprocessing=tree.get("preprocessing") or {},
        postprocess=pipeline,
        metrics=tree.get("metrics") or {},
        training=tree.get("training") or {},
        licenses=tree.get("licenses") or {},
        versions=tree.get("versions") or {},
    )


def _unshare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share memory, which safetensors does not allow."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result

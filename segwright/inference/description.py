"""The description of a saved model: everything but its weights, read and checked without torch.

``model.json`` has everything that is needed to run the network elsewhere: architecture and its arguments, label space,
preprocessing, post-processing, metrics with their intervals, the data's fingerprint, licenses and versions. It contains
names of our own catalog, never an import path, so reading it runs no code. Exported files hold it as metadata.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from segwright.core.atomic_io import verify_checksums
from segwright.core.errors import BundleError, ModelError, SegwrightError
from segwright.core.types import LabelSpace
from segwright.core.version import __version__
from segwright.inference.attachments import Attachment, attachment_names, load_attachment
from segwright.models.former import with_current_names, with_former_defaults
from segwright.postprocess.pipeline import with_symmetric_presets

FORMAT = "segwright-bundle"
VERSION = 2  # 1: CRF presets in `postprocess` were symmetric, some networks had other defaults
MAX_JSON_BYTES = 16_000_000
MAX_JSON_PARTS = 500_000  # objects and lists; each takes some hundred bytes in Python
MAX_SUMS_BYTES = 1_000_000
MAX_PIPELINE = 500  # characters of a saved post-processing pipeline
STABLE_SECONDS = 30.0  # how long a folder that is repeatedly replaced is retried
SUMS = "SHA256SUMS"
DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"

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
    torch = sys.modules.get("torch")  # a model that is described without torch was not made by it here
    found = {"torch": str(torch.__version__)} if torch is not None else {}
    return {"segwright": __version__, **found, "numpy": np.__version__, "python": platform.python_version()}


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a folder with a saved model, even while a training replaces it."""
    return (path / DESCRIPTION).is_file() or any((old / DESCRIPTION).is_file() for old in old_versions(path))


def read_bundle(folder: str | Path) -> Bundle:
    """The bundle's description, after a check of checksums, form and version; BundleError otherwise.

    Nothing is written or removed. If a training replaces the folder meanwhile, it is read again.
    """
    return stable(Path(folder), read_description)


def read_attachment(folder: str | Path, name: str) -> Attachment | None:
    """The attachment ``name`` of a saved model, or None; BundleError if the model or the attachment is damaged."""

    def read(place: Path) -> Attachment | None:
        read_description(place)  # verifies the checksums of all files
        return load_attachment(place, name)

    return stable(Path(folder), read)


def read_attachments(folder: str | Path) -> dict[str, Attachment]:
    """All attachments of a saved model by name."""

    def read(place: Path) -> dict[str, Attachment]:
        read_description(place)
        found = {name: load_attachment(place, name) for name in attachment_names(place)}
        return {name: attachment for name, attachment in found.items() if attachment is not None}

    return stable(Path(folder), read)


def read_description(folder: Path) -> Bundle:
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


def stable(folder: Path, read: Callable[[Path], T]) -> T:
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
    return next(iter(old_versions(folder)), folder)


def old_versions(folder: Path) -> list[Path]:
    """The versions that saves have moved aside, the newest first."""
    name = glob.escape(folder.name)
    if not folder.name or not folder.parent.is_dir():
        return []
    found = []
    for entry in folder.parent.glob(f".{name}.old-*"):
        with suppress(OSError):
            found.append((entry.stat().st_mtime, entry))
    return [entry for _, entry in sorted(found, reverse=True)]


def _being_replaced(folder: Path) -> bool:
    return folder.exists() or bool(old_versions(folder))


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


def find_bundle(path: str | Path) -> Path:
    """The bundle folder at ``path``: the path itself, or the ``model`` folder of a run; the version in service of a
    slot, where ``model`` is a link, so that all that is read of it is of one version."""
    path = Path(path)
    for folder in (path, path / "model"):
        if is_bundle(folder):
            return folder.resolve() if folder.is_symlink() else folder
    if path.is_file() and path.suffix.lower() in (".onnx", ".xml", ".pt2"):
        raise BundleError(
            "an exported file holds no network to go on from",
            expected="the saved model that it was exported from: a run folder or a bundle",
            found=f"a file {path.suffix.lower()}",
            where=path,
            fix="name the run folder",
        )
    raise BundleError(
        "no saved model here",
        expected="a run folder, a bundle (model.json and model.safetensors) or an exported file",
        found="nothing"
        if not path.exists()
        else ", ".join(sorted(e.name for e in path.iterdir())[:8] or ["an empty folder"])
        if path.is_dir()
        else "a file",
        where=path,
        fix="train one: segwright train DATA",
    )

"""Arrays that travel with a saved model beside its weights: its reference, its error model, and the like.

An attachment is one safetensors file in the bundle's folder, ``attachment-NAME.safetensors``, with a JSON object as
metadata. It is listed in the folder's checksums, as every file of a bundle. No pickle, no code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import load_file, save_file

from segwright.core.atomic_io import without_nan
from segwright.core.errors import BundleError, UsageError
from segwright.core.unreadable import UNREADABLE

METADATA_KEY = "segwright"
MAX_FILE_BYTES = 256_000_000
MAX_METADATA_BYTES = 1_000_000


@dataclass(frozen=True)
class Attachment:
    """Named arrays with a description.

    ``arrays``: numeric arrays by name, at most 256 MB in all. ``description``: a JSON object of at most 1 MB.
    """

    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)


def attachment_name(name: str) -> str:
    """The file's name in the bundle's folder; UsageError for anything but lower-case letters, digits and hyphens."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise UsageError("no name of an attachment", expected="lower-case letters, digits, hyphens", found=name[:100])
    return f"attachment-{name}.safetensors"


def write_attachment(folder: Path, name: str, attachment: Attachment) -> Path:
    """Write an attachment into a folder that is being made into a bundle (see ``save_bundle``)."""
    path = folder / attachment_name(name)
    arrays = {key: np.ascontiguousarray(value) for key, value in attachment.arrays.items()}
    text = json.dumps(without_nan(dict(attachment.description)), allow_nan=False)
    if sum(array.nbytes for array in arrays.values()) > MAX_FILE_BYTES or len(text) > MAX_METADATA_BYTES:
        raise UsageError(
            f"the attachment {name} is too large",
            expected=f"at most {MAX_FILE_BYTES} bytes of arrays and {MAX_METADATA_BYTES} of description",
        )
    save_file(arrays, str(path), metadata={METADATA_KEY: text})
    return path


def attachment_names(folder: Path) -> list[str]:
    """The names of the attachments in a bundle's folder, sorted."""
    found = [path.name.removeprefix("attachment-") for path in folder.glob("attachment-*.safetensors")]
    return sorted(name.removesuffix(".safetensors") for name in found)


def load_attachment(folder: Path, name: str) -> Attachment | None:
    """Read an attachment; None if the folder has none of that name, BundleError if it is damaged or too large.

    Checksums are those of the bundle: call this through :func:`segwright.inference.bundle.read_attachment`.
    """
    path = folder / attachment_name(name)
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_FILE_BYTES + 2 * MAX_METADATA_BYTES:
        raise BundleError("the attachment is too large to be one of ours", where=path)
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
        arrays = load_file(str(path))
        description = json.loads(metadata.get(METADATA_KEY, "{}"))
    except UNREADABLE as error:
        raise BundleError(
            "the attachment cannot be read", found=str(error)[:300], where=path, fix="copy the model again"
        ) from error
    if not isinstance(description, dict):
        raise BundleError("the attachment's description is no object", found=type(description).__name__, where=path)
    return Attachment(arrays, description)

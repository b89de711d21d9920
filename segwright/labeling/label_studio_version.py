"""The version of a model as Label Studio shows it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def model_version(path: Path, name: str) -> str:
    """The model's name with the beginning of the hash of its weights: the same weights are the same version."""
    weights = path if path.is_file() else next(path.glob("**/model.safetensors"), None)
    if weights is None:
        return name
    with open(weights, "rb") as file:
        return f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"

"""Losses: each reduces in fp32, honors the ignore value, and is a plain nn.Module.

``create_loss("ce+dice", classes=12)``; the names and their arguments are in :mod:`segwright.losses.catalog`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segwright.losses.catalog import create_loss

__all__ = ["create_loss"]


def __getattr__(name: str) -> Any:
    if name == "create_loss":  # on demand: the package must not cost an import of torch
        from segwright.losses.catalog import create_loss

        return create_loss
    raise AttributeError(f"module 'segwright.losses' has no attribute {name!r}")

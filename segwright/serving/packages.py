"""The packages of the extra ``serve``."""

from __future__ import annotations

import importlib.util

from segwright.core.errors import MissingExtraError

PACKAGES = {"h11": "h11", "prometheus_client": "prometheus-client", "starlette": "starlette", "uvicorn": "uvicorn"}


def require_packages() -> None:
    """Raise MissingExtraError if a package of the extra is not installed. Imports none of them."""
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            "serving needs packages that are not installed",
            expected=", ".join(PACKAGES.values()),
            found=f"without {', '.join(missing)}",
            fix="pip install 'segwright[serve]'",
        )

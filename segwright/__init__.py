"""segwright: from a folder of images and masks to a segmenter in service, and back again.

``import segwright as sw`` is cheap: torch is loaded only when a name that needs it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segwright.core.renamed import install as _install_renamed_modules
from segwright.core.version import __version__

_install_renamed_modules()

if TYPE_CHECKING:
    from segwright.api import (
        create_model,
        ensemble,
        evaluate,
        export,
        import_weights,
        load,
        open_dataset,
        predict,
        serve,
        train,
    )

__all__ = [
    "__version__",
    "create_model",
    "ensemble",
    "evaluate",
    "export",
    "import_weights",
    "load",
    "open_dataset",
    "predict",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from segwright import api

        return getattr(api, name)
    raise AttributeError(f"module 'segwright' has no attribute {name!r}")

"""segwright: from a folder of pictures and masks to a segmenter in service, and back again.

``import segwright as sw`` is cheap: torch is loaded only when a name that needs it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

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

"""Which of the two wheels is installed: ``segwright``, or ``segwright-runtime`` with the modules that need no torch.

Both hold the package ``segwright``, and the files that both hold are the same in one version. pip does not compare
them: of two versions, the one that was installed last has replaced some files of the other. That is refused here.
"""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from segwright.core.errors import UsageError

WHOLE, RUNTIME = "segwright", "segwright-runtime"


def check_installation() -> None:
    """Raise UsageError if both are installed in different versions. Costs nothing where only the whole one is."""
    if find_spec("segwright._runtime") is None:
        return
    found = {name: version for name in (WHOLE, RUNTIME) if (version := _version(name)) is not None}
    if len(set(found.values())) > 1:
        raise UsageError(
            "segwright and segwright-runtime are installed over each other, in different versions",
            found=", ".join(f"{name} {version}" for name, version in found.items()),
            fix=f"pip uninstall {WHOLE} {RUNTIME}, then install one of them",
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

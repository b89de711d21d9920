"""Whether what is installed fits together.

There are two wheels: ``segwright``, and ``segwright-runtime`` with the modules that need no torch. Both hold the
package ``segwright``, and the files that both hold are the same in one version. pip does not compare them: of two
versions, the one that was installed last has replaced some files of the other. That is refused here. So is a
torchvision that was built for another torch, which pip does not notice either.
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


def foreign_torchvision(error: RuntimeError) -> UsageError | None:
    """The typed error where torchvision was built for another torch; None for any other error.

    torchvision cannot be imported then (``operator torchvision::nms does not exist``), nor what imports it, as timm
    does.
    """
    if "torchvision::" not in str(error):
        return None
    return UsageError(
        "torchvision was built for another torch than the one that is installed",
        expected="both of one release and from one index",
        found=f"torch {_version('torch')}, torchvision {_version('torchvision')} ({error})",
        fix="install both from one index, such as: pip install --force-reinstall torch torchvision "
        "--index-url https://download.pytorch.org/whl/cpu",
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

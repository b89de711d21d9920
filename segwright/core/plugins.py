"""Networks, losses and data formats of other packages, found by their entry points.

A package lists them in its ``pyproject.toml``, in the groups ``segwright.models``, ``segwright.losses`` and
``segwright.formats``. Finding names reads the metadata of installed packages alone; a plugin's module is imported when
its name is given, or when plugins are listed.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from segwright.core.errors import PluginError

Group = Literal["models", "losses", "formats"]


def plugin_names(group: Group) -> list[str]:
    """The names that installed packages offer, in order. Nothing is imported."""
    return sorted({point.name for point in entry_points(group=f"segwright.{group}")})


def load_plugin(group: Group, name: str, expected: str) -> Any | None:
    """The object of the plugin ``name``; None if no installed package offers it.

    ``expected``: what it has to be, for errors. PluginError if several packages offer the name, or if it cannot be
    imported.
    """
    found = {_package(point): point for point in entry_points(group=f"segwright.{group}", name=name)}
    if not found:
        return None
    if len(found) > 1:
        raise PluginError(
            f"several packages offer the plugin {name}",
            expected=f"one package with {name} in segwright.{group}",
            found=", ".join(sorted(found)),
            fix="uninstall all but one of them",
        )
    package, point = next(iter(found.items()))
    try:
        return point.load()
    except Exception as error:  # the code of another package
        raise PluginError(
            f"the plugin {name} of {package} cannot be loaded",
            expected=expected,
            found=f"{type(error).__name__}: {str(error)[:300]}",
            where=point.value,
            fix=f"update {package}, or uninstall it",
        ) from error


def not_a_plugin(group: Group, name: str, expected: str, found: object) -> PluginError:
    """The error for a plugin that is something else than its group needs."""
    return PluginError(
        f"the plugin {name} is not what segwright.{group} holds",
        expected=expected,
        found=f"{type(found).__name__} {str(found)[:200]}",
        fix="correct the entry point in the package that offers it",
    )


def _package(point: EntryPoint) -> str:
    return "unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"

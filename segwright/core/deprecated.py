"""Names that were renamed: the old one works for one release, and a DeprecationWarning says what it is called now."""

from __future__ import annotations

import warnings
from typing import Any


def renamed_attribute(old: str, new: str) -> Any:
    """A property of the old name that returns the attribute ``new``.

    >>> class Palette:
    ...     colors = (1, 2)
    ...     colours = renamed_attribute("colours", "colors")
    >>> Palette().colours  # doctest: +SKIP
    (1, 2)
    """

    def get(self: Any) -> Any:
        warn_renamed(old, new)
        return getattr(self, new)

    return property(get, doc=f"The former name of ``{new}``.")


def warn_renamed(old: str, new: str) -> None:
    """Issue the warning, as from the caller's caller."""
    warnings.warn(f"{old} is now {new}; the old name works until the next release", DeprecationWarning, stacklevel=3)

"""Names that nearly are another one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_names(word: str, names: Iterable[str], most: int = 1) -> list[str]:
    """At most ``most`` of ``names`` that ``word`` may be a misspelling of, the nearest first; case does not count.

    >>> nearest_names("Unett", ["unet", "segnet"])
    ['unet']
    """
    lower = {name.lower(): name for name in names}
    return [lower[near] for near in difflib.get_close_matches(word.lower(), lower, most, 0.6)]

"""Lengths of time as people write them: 90min, 12h, 30d, 2w."""

from __future__ import annotations

import re

SECONDS = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]*)", re.ASCII)


def seconds_of(text: str, *, bare: str | None = None, m: bool = False) -> float | None:
    """The seconds in ``text``, without regard to case; None if it is no length of time.

    ``bare``: the unit of a number alone. ``m``: whether that is a minute too, where nobody could mean a month.
    """
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        return None
    unit = "min" if m and found[2] == "m" else found[2] or bare
    return float(found[1]) * SECONDS[unit] if unit in SECONDS else None

"""Which rows of a journal a look is at: since a time, the newest hours or images; and where their examination begins.

What is judged depends on the row at which a stream begins. A look at the newest 500 images begins at another row each
time, so that the same images would be judged again and again. The first row is therefore chosen among somewhat more
rows by their content: it is the same one for many looks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from segwright.core.errors import UsageError
from segwright.monitoring.ages import seconds_of
from segwright.monitoring.observation import Observation

SPARE = 4  # a look that begins at a moving row examines up to a quarter more than was asked for
_COUNT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Since:
    """The part of a journal that is looked at: one of the three is given."""

    time: float | None = None  # seconds since 1970
    seconds: float | None = None  # before now
    images: int | None = None  # the newest


def parse_since(given: float | str | None) -> Since | None:
    """Seconds since 1970 (a number), or as text: a date (``2026-11-29``, ``2026-11-29T08:00``, UTC unless it has a
    zone), the newest hours or days (``12h``, ``1d``; s, min or m, h, d, w), or the newest images (``500``)."""
    if given is None:
        return None
    if not isinstance(given, str):
        return Since(time=float(given))
    text = given.strip()
    ago = seconds_of(text, m=True)
    if ago is not None:
        return Since(seconds=ago)
    if _COUNT.fullmatch(text):
        if _is_date(text):
            raise UsageError(
                "a date or a number of images?", expected="a date with hyphens, or fewer images", found=text,
                fix=f"--since {text[:4]}-{text[4:6]}-{text[6:]}",
            )  # fmt: skip
        if int(text) > 0:
            return Since(images=int(text))
    else:
        try:
            found = datetime.fromisoformat(text)
            return Since(time=(found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            pass
    raise UsageError(
        "no time since which a journal is looked at", expected="a date (2026-11-29, 2026-11-29T08:00Z), 12h, 1d, or a "
        "number of images", found=given[:80], fix="--since 1d",
    )  # fmt: skip


def _is_date(text: str) -> bool:
    """Whether a number reads as year, month and day."""
    try:
        return len(text) == 8 and 1970 <= datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).year < 2100
    except ValueError:
        return False


def row_key(row: Observation) -> bytes:
    """What a row is recognized by, also if its name comes again: its name, time and figures."""
    figures = (row.statistics.tobytes(), row.shares.tobytes(), repr((row.time, row.mean_confidence)).encode())
    return hashlib.blake2b(b"\0".join((row.id.encode("utf-8", "replace"), *figures)), digest_size=8).digest()


def stable_start(keys: Sequence[bytes], wanted: int) -> int:
    """The row to begin with, at most a quarter of the rest before the row ``wanted``: the one with the least key, which
    stays the same while rows are added. 0 if all rows are wanted, or nearly all."""
    first = max(0, wanted - -(-(len(keys) - wanted) // SPARE))
    return min(range(first, wanted + 1), key=lambda place: keys[place]) if first and wanted < len(keys) else 0

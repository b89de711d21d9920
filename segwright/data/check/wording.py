"""The words that the findings of the check have in common: counts, lists of names, the files of a record."""

from __future__ import annotations

from collections.abc import Sequence

from segwright.data.records import Record


def count(number: int, one: str, many: str | None = None) -> str:
    """1 mask, 2 masks; ``many`` where the plural takes more than an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many there are if those are not all."""
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def image_file(record: Record) -> str:
    """The file of a record's image; its id where the image is inside an archive."""
    return str(record.image_path or record.id)


def mask_file(record: Record) -> str:
    """The file of a record's mask; its id where the mask has no file of its own."""
    return str(record.mask_path or record.id)

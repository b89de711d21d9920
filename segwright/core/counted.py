"""A number and its noun, and a sentence of a remark, for messages."""

from __future__ import annotations

from typing import Literal

_PLURAL = {"has": "have", "is": "are", "was": "were", "class": "classes"}


def counted(count: int, noun: str, predicate: Literal["has", "is", "was"] | None = None) -> str:
    """``count`` and ``noun``, and a predicate that agrees with them.

    >>> counted(1, "image"), counted(2, "image"), counted(1, "mask", "has"), counted(0, "class", "is")
    ('1 image', '2 images', '1 mask has', '0 classes are')
    """
    one = count == 1
    words = [str(count), noun if one else _PLURAL.get(noun, noun + "s")]
    if predicate is not None:
        words.append(predicate if one else _PLURAL[predicate])
    return " ".join(words)


def as_sentence(remark: str) -> str:
    """A remark with a capital letter and a full stop.

    >>> as_sentence("a mask is missing")
    'A mask is missing.'
    """
    return f"{remark[:1].upper()}{remark[1:]}."

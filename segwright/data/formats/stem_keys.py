"""What of a file's name identifies its image: the stem without words for a role, without zeros before a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MASK_ENDING = re.compile(
    r"^(.+?)[_\-. ](masks?|msk|labels?|lbl|lab|gt|seg|segmentation|annotations?|annot|anno|target|groundtruth|l|"
    r"gtfine_labelids|labelids|labeltrainids|matte)$",
    re.IGNORECASE,
)
# mask_12.png beside image_12.png; mask.png beside image.png
MASK_STEM = re.compile(
    r"(?:mask|msk|label|gt|seg)(?:[_\-. 0-9]|$)|(?:masks|labels|segmentation|annotation|groundtruth|target)$",
    re.IGNORECASE,
)
_ROLE_WORDS = frozenset(
    re.split(
        r"\W+",
        "mask masks msk label labels lbl lab gt seg segmentation annotation annotations annot anno target groundtruth "
        "l labelids matte manual image images img imgs im rgb input picture photo pic frame original orig sat raw scan "
        "training volume stack test",
    )
)
_TOKENS = re.compile(r"[^\W\d_]+|[0-9]+|[^\w\-. ]+")
FEWEST = 3  # stems from which a word that all of them hold is no part of what distinguishes them


def words(stem: str) -> str:
    """The stem without words for a role: equal for img_012 and mask_012, 21_training and 21_manual1."""
    lower = re.sub(r"manual[0-9]$", "manual", stem.lower())
    return "-".join(token for token in _TOKENS.findall(lower) if token not in _ROLE_WORDS)


def numbered(stem: str) -> str:
    """Like :func:`words`, with 007 as 7: equal for img7 and mask007."""
    return "-".join(token.lstrip("0") or "0" if token.isdecimal() else token for token in words(stem).split("-"))


def bare(stem: str) -> str:
    """The stem without an ending that marks a mask: x for x_mask."""
    match = MASK_ENDING.match(stem)
    return match.group(1) if match else stem


def tokens(stem: str) -> list[str]:
    """The words and numbers of a stem, letter case aside."""
    return _TOKENS.findall(stem.casefold())


def constant_words(stems: Sequence[str], others: Sequence[str]) -> frozenset[str]:
    """The words that every one of the stems holds and not all of the others do: they distinguish no image.

    ``620_lab, 621_lab`` beside ``620, 621``: lab. Too few stems have none: all of their words would be constant.
    """
    if len(stems) < FEWEST or len(others) < FEWEST:
        return frozenset()
    return _common(stems) - _common(others)


def _common(stems: Iterable[str]) -> frozenset[str]:
    found: frozenset[str] | None = None
    for stem in stems:
        own = frozenset(tokens(stem))
        found = own if found is None else found & own
        if not found:
            break
    return found or frozenset()


def without_words(stem: str, dropped: frozenset[str]) -> str:
    """The words of the stem that are left when each of ``dropped`` is taken out once; numbers without leading zeros.

    Of equal ones the last goes: what distinguishes ``3_gtFine_labellevel3Ids`` is its first number.
    """
    kept = tokens(stem)
    for word in dropped:
        if word in kept:
            del kept[len(kept) - 1 - kept[::-1].index(word)]
    return "-".join(token.lstrip("0") or "0" if token.isdecimal() else token for token in kept)

"""Pairs of left and right classes, which a mirrored image exchanges.

A mirrored image of a left arm is an image of a right arm. A flip, left to right or top to bottom (which is the former
with half a turn), therefore has to exchange the two classes in the mask; a rotation, or two flips, must not. This holds
for left and right of a body or scene. Classes that mean the left half of the *image* are the exception: set
``augment.flip_pairs=none``.

Pairs are found from names by a strict rule: both names exist and differ only in ``left``/``right`` or ``l``/
``r``, as words (``left-arm``, ``eye_l``, ``LShoulder``) or, written together, ``lefteye`` and of body parts ``leye``. A
single letter counts only if no other letter takes its place (``l_lip`` beside ``u_lip`` is the lower lip), and
parts that are not mirror images of each other in spite of their names (the heart's chambers) are excluded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from segwright.core.errors import UsageError

Pairs = tuple[tuple[str, str], ...]
Words = tuple[str, ...]

# Where a capital begins a word: LeftArm, eyeL, LShoulder; not in HALL or eyeLASH.
_CAPITAL = re.compile(r"(?<=[^\W\d_])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z](?:[a-z]|$|[^A-Za-z]))")
_OTHER = {"left": "right", "right": "left"}
_LETTER = {"l": "r", "r": "l"}
_MIDDLE = frozenset("cm")  # lane_l, lane_c, lane_r: the center and the middle stand beside left and right
# Of the body, where the letter and the word are written together: "lear" and "rear", but never "lamp" and "ramp".
_BODY = frozenset({
    "ankle", "arm", "bigtoe", "breast", "brow", "calf", "cheek", "clavicle", "ear", "ebrow", "elbow", "eye",
    "eyebrow", "finger", "foot", "forearm", "glove", "hand", "heel", "hip", "horn", "hoof", "iris", "kidney",
    "knee", "kneecap", "larm", "leg", "lleg", "lung", "nostril", "palm", "pupil", "shin", "shoe", "shoulder",
    "smalltoe", "sock", "sleeve", "thigh", "thumb", "toe", "uarm", "uleg", "wing", "wrist",
})  # fmt: skip
# Named after a side, but of different shape: the word is part of the name, not a position.
_NO_MIRROR_IMAGES = (
    ("the heart's chambers", frozenset({"ventricle", "ventricular", "ventricles", "atrium", "atrial", "atria"})),
    ("the coronary arteries", frozenset({"coronary"})),
    ("the liver's lobes", frozenset({"liver", "hepatic"})),
    ("the parts of the colon", frozenset({"colon"})),
)
_BRAIN = frozenset({"lateral", "lat", "brain", "cerebral"})  # whose ventricles are mirror images


@dataclass(frozen=True)
class Sides:
    """Left and right classes by name. ``pairs``: exchanged by a flip. ``doubtful``: (names, reason why they are not a
    pair). ``alone``: classes of one side without a counterpart."""

    pairs: Pairs = ()
    doubtful: tuple[tuple[Words, str], ...] = ()
    alone: Words = ()


def find_sides(names: Sequence[str]) -> Sides:
    """Pairs of left and right classes by the rule of this module, in the order of ``names``."""
    words = {name: _split(name) for name in names}
    by_words: dict[Words, list[str]] = {}
    for name, parts in words.items():
        by_words.setdefault(parts, []).append(name)
    pairs: list[tuple[str, str]] = []
    doubtful: list[tuple[Words, str]] = []
    alone: list[str] = []
    done: set[str] = set()
    for name in names:
        if name in done:
            continue
        other = _mirrored(words[name], by_words)
        if other is None:
            if any(word in _OTHER for word in words[name]):
                alone.append(name)
            continue
        here, there = by_words[words[name]], by_words[other]
        done.update(here, there)
        why = _doubt(words[name], other, by_words)
        if _mirrored(other, by_words) != words[name]:
            why = "they can be read as several pairs"
        elif len(here) + len(there) > 2:
            why = "several classes have these names, but for case and punctuation"
        if why:
            doubtful.append(((*here, *there), why))
        else:
            pairs.append((here[0], there[0]))
    return Sides(tuple(pairs), tuple(doubtful), tuple(alone))


def check_pairs(pairs: Iterable[Iterable[str]], names: Sequence[str], where: str) -> Pairs:
    """Check the user's pairs; UsageError unless each is of two known classes, and no class is in two pairs."""
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    for pair in pairs:
        members = tuple(str(name) for name in pair)
        unknown = [name for name in members if name not in names]
        if len(members) != 2 or members[0] == members[1] or unknown:
            raise UsageError(
                "classes that a flip exchanges are given as pairs",
                expected=f"two different classes of {', '.join(names[:12])}{', …' if len(names) > 12 else ''}",
                found=f"no class {unknown[0]!r}" if unknown else f"[{', '.join(members)}]",
                where=where,
                fix="such as augment.flip_pairs=[[left eye, right eye]], or none, or auto",
            )
        again = sorted(seen.intersection(members))
        if again:
            raise UsageError(
                "a class has one counterpart",
                expected="each class in one pair",
                found=f"{again[0]} in two",
                where=where,
            )
        seen.update(members)
        found.append((members[0], members[1]))
    return tuple(found)


def shown(pairs: Sequence[tuple[str, str]], most: int = 8) -> str:
    """ "left eye ↔ right eye, left arm ↔ right arm", the first ``most`` of them."""
    text = ", ".join(f"{one} ↔ {other}" for one, other in pairs[:most])
    return text + (f", … ({len(pairs)} pairs)" if len(pairs) > most else "")


def exchanged(pairs: Sequence[tuple[int, int]], count: int = 256) -> list[int]:
    """Class index → class index after a flip, for 0 … ``count`` - 1; classes without a pair are unchanged."""
    table = list(range(count))
    for one, other in pairs:
        table[one], table[other] = other, one
    return table


def _split(name: str) -> Words:
    """The words of a name in lower case: "LeftUpper-arm 2" → left, upper, arm, 2. "l1" stays one word."""
    words: list[str] = []
    for part in re.split(r"[\W_]+", _CAPITAL.sub(" ", name)):
        if part:
            words.append(part.lower())
    return tuple(words)


def _mirrored(words: Words, known: dict[Words, Any]) -> Words | None:
    """The name with left and right exchanged, if such another name exists."""
    for turn in (_whole_words, _letters, _prefix, _suffix, _body_part):
        other = turn(words)
        if other is not None and other != words and other in known:
            return other
    return None


def _whole_words(words: Words) -> Words | None:
    return tuple(_OTHER.get(word, word) for word in words)


def _letters(words: Words) -> Words | None:
    """One letter that stands by itself."""
    if sum(word in _LETTER for word in words) != 1:
        return None
    return tuple(_LETTER.get(word, word) for word in words)


def _part(words: Words, turn: Callable[[str], str | None]) -> Words | None:
    """One word turned, where exactly one can be."""
    turned = [turn(word) for word in words]
    if sum(word is not None for word in turned) != 1:
        return None
    return tuple(new if new is not None else old for new, old in zip(turned, words, strict=True))


def _prefix(words: Words) -> Words | None:
    return _part(words, lambda word: _glued(word, word.startswith, lambda w, s: _OTHER[s] + w[len(s) :]))


def _suffix(words: Words) -> Words | None:
    return _part(words, lambda word: _glued(word, word.endswith, lambda w, s: w[: -len(s)] + _OTHER[s]))


def _glued(word: str, at: Callable[[str], bool], turned: Callable[[str, str], str]) -> str | None:
    side = next((side for side in _OTHER if at(side)), None)
    return None if side is None else turned(word, side)


def _body_part(words: Words) -> Words | None:
    return _part(words, lambda word: _LETTER[word[0]] + word[1:] if _is_lettered(word) else None)


def _is_lettered(word: str) -> bool:
    return word[0] in _LETTER and word[1:] in _BODY


def _doubt(words: Words, other: Words, known: dict[Words, Any]) -> str | None:
    """Why two names that differ in a side may not mean a left and a right of the same thing."""
    all_words = set(words) | set(other)
    for what, signs in _NO_MIRROR_IMAGES:
        if all_words & signs and not all_words & _BRAIN:
            return f"{what} are not mirror images of each other"
    place = next(i for i, (a, b) in enumerate(zip(words, other, strict=True)) if a != b)
    one, two = words[place], other[place]
    lettered = one in _LETTER and two in _LETTER
    if not lettered and not (_is_lettered(one) and _is_lettered(two) and one[1:] == two[1:]):
        return None
    letters = {
        found[place][0]
        for found in known
        if len(found) == len(words)
        and found[:place] + found[place + 1 :] == words[:place] + words[place + 1 :]
        and (len(found[place]) == 1 if lettered else found[place][1:] == one[1:])
    }
    others = sorted(letters - set(_LETTER) - _MIDDLE) if lettered else sorted(letters & {"u"})
    if "u" in others:
        return "beside 'u' for upper, 'l' is lower"
    if len(words) == 1 and lettered:
        return "a letter alone may be a name of its own"
    return f"'{others[0]}' stands in the place of 'l' and 'r', too" if others else None

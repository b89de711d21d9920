"""The gray levels of masks by their counts: spread evenly, smeared between two ends, smeared between several."""

from __future__ import annotations

MOST_LEVELS = 3
LEVEL = 0.03  # of all pixels between the ends: edges alone are fewer
SOFT = 32  # values of a mask, from which only edges have so many


def evenly_spaced(values: list[int]) -> bool:
    """Whether more than two values are spread evenly from 0 to 255."""
    if len(values) < 3 or values[0] != 0 or values[-1] != 255:
        return False
    step = 255 / (len(values) - 1)
    return all(abs(value - i * step) <= 1 for i, value in enumerate(values))


def blurred(values: dict[int, int]) -> bool:
    """0/255 with smeared edges: most pixels near the two ends, and values just below 255, which class ids never are."""
    if len(values) < 8 or 0 not in values:
        return False
    total = sum(values.values())
    ends = sum(pixels for value, pixels in values.items() if value <= 24 or value >= 231)
    nearly = sum(1 for value in values if 224 < value < 255)
    high = sum(pixels for value, pixels in values.items() if value >= 231)
    most = 0.6 if len(values) >= SOFT else 0.85  # soft masks, as of hair, have wide edges
    return ends / total > most and nearly >= 2 and high / total > 0.001


def levels_between(values: dict[int, int]) -> list[int]:
    """The levels around which most pixels between 0 and 255 lie: classes of their own, and no edges; [] without any."""
    total = sum(values.values())
    left = {value: pixels for value, pixels in values.items() if 24 < value < 231}
    between = sum(left.values())
    scattered = sum(1 for value in left if value + 1 in values)
    if 0 not in values or scattered < 8 or between < LEVEL * total or not any(224 < value < 255 for value in values):
        return []
    levels: list[int] = []
    while len(levels) < MOST_LEVELS and sum(left.values()) > 0.4 * between:
        levels.append(max(left, key=lambda value: left[value]))
        left = {value: pixels for value, pixels in left.items() if abs(value - levels[-1]) > 6}
    return sorted(levels) if sum(left.values()) <= 0.4 * between else []

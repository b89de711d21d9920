"""A number, its noun and its verb."""

import pytest

from segwright.core.counted import counted


@pytest.mark.parametrize(
    ("count", "noun", "verb", "text"),
    [
        (1, "image", None, "1 image"),
        (2, "image", None, "2 images"),
        (0, "image", None, "0 images"),
        (1, "class", "is", "1 class is"),
        (3, "class", "was", "3 classes were"),
        (1, "mask", "has", "1 mask has"),
    ],
)
def test_noun_and_verb_agree_with_the_number(count, noun, verb, text):
    assert counted(count, noun, verb) == text

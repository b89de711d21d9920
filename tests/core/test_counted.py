"""A number, its noun and its predicate."""

import pytest

from segwright.core.counted import counted


@pytest.mark.parametrize(
    ("count", "noun", "predicate", "text"),
    [
        (1, "image", None, "1 image"),
        (2, "image", None, "2 images"),
        (0, "image", None, "0 images"),
        (1, "class", "is", "1 class is"),
        (3, "class", "was", "3 classes were"),
        (1, "mask", "has", "1 mask has"),
    ],
)
def test_noun_and_predicate_agree_with_the_number(count, noun, predicate, text):
    assert counted(count, noun, predicate) == text

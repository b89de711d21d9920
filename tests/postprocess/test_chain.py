"""Chains: the grammar, the place of a mistake, and what a chain does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.errors import PostprocessError
from segwright.postprocess.chain import parse_chain

NAMES = ("sky", "road", "traffic light")


def test_the_chain_of_the_docs() -> None:
    chain = parse_chain("crf(deeplab-v1) > min-area(64)>close(3)")
    assert str(chain) == "crf(deeplab-v1)>min-area(64)>close(3)"
    assert chain.links[0].crf is not None
    assert (chain.links[0].crf.appearance, chain.links[0].crf.smoothness) == ((5, 140, 5), (3, 3))


@pytest.mark.parametrize(
    "text",
    [
        "crf(deeplab-v2-vgg,iterations=3,normalization=per-row)",
        "crf(w1=4,sa=60,sb=3.5,w2=2,sg=1)",
        "min-area(0.1%,road=64,class2=1%)>fill-holes(20)",
        "superpixels(9,20)>smooth(5)>open(3)",
        "",
    ],
)
def test_a_chain_reads_back_what_it_writes(text: str) -> None:
    chain = parse_chain(text, NAMES)
    assert str(parse_chain(str(chain), NAMES)) == str(chain) == text


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("crf(deeplab-v1)>clos(3)", 16, "did you mean close"),
        ("crf(deeplab-v9)", 4, "unknown CRF preset"),
        ("close(4)", 6, "odd"),
        ("close", 0, "needs an argument"),
        ("close(3", 7, "not closed"),
        ("close(3)open(3)", 8, "does not belong"),
        ("close(3)>", 9, "step is missing"),
        ("min-area(pony=3)", 9, "unknown argument"),
        ("min-area(x)", 9, "not an area"),
        ("min-area(150%)", 9, "out of range"),
        ("crf(w1=1,w1=2)", 9, "twice"),
        ("crf(sa=0)", 0, "positive"),
        ("crf(iterations=2.5)", 15, "whole"),
        ("crf(w1=)", 7, "value is missing"),
        ("64", 0, "unknown step"),
        ("close(3%)", 6, "plain number"),
    ],
)
def test_mistakes_are_pointed_at(text: str, place: int, words: str) -> None:
    with pytest.raises(PostprocessError, match=words) as caught:
        parse_chain(text, NAMES)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  " + text
    assert lines[2] == "  " + " " * place + "^"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="crfopen(3)>,=%. -w1é\n", max_size=30))
def test_any_text_parses_or_fails_with_our_error(text: str) -> None:
    try:
        chain = parse_chain(text)
    except PostprocessError:
        return
    assert str(parse_chain(str(chain))) == str(chain)


def test_labels_stay_the_best_class_of_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    probabilities = rng.dirichlet([0.5] * 4, (40, 50)).transpose(2, 0, 1).astype(np.float32)
    probabilities[:, :5] = 0.25  # ties
    for text in ("smooth(5)>min-area(30)", "crf(iterations=2)>close(3)>superpixels", ""):
        labels, result = parse_chain(text)(image, probabilities)
        assert np.array_equal(labels, result.argmax(axis=0))
        assert np.allclose(result.sum(axis=0), 1, atol=1e-4)
        assert labels.dtype == np.uint8
    assert len(np.unique(parse_chain("smooth(5)>min-area(3000)")(image, probabilities)[0])) >= 1


def test_bad_input_of_a_chain() -> None:
    image, half = np.zeros((4, 4, 3), np.uint8), np.full((3, 4, 4), 0.5, np.float32)
    for text in ("", "close(3)", "crf"):
        with pytest.raises(PostprocessError, match="not probabilities"):
            parse_chain(text)(image, half)
        with pytest.raises(PostprocessError, match="do not fit"):
            parse_chain(text)(image[:2], half)

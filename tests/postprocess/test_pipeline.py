"""Chains: the grammar, the place of a mistake, and what a chain does."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.core.errors import PostprocessError
from segwright.postprocess.pipeline import parse_pipeline, with_symmetric_presets

NAMES = ("sky", "road", "traffic light")


def test_the_chain_of_the_docs() -> None:
    chain = parse_pipeline("crf(deeplab-v1) > min-area(64)>close(3)")
    assert str(chain) == "crf(deeplab-v1)>min-area(64)>close(3)"
    assert chain.steps[0].crf is not None
    assert (chain.steps[0].crf.appearance, chain.steps[0].crf.smoothness) == ((5, 140, 5), (3, 3))


@pytest.mark.parametrize(
    "text",
    [
        "crf(deeplab-v2-vgg-symmetric,iterations=3)",
        "crf(w1=4,sa=60,sb=3.5,w2=2,sg=1)",
        "min-area(0.1%,road=64,class2=1%)>fill-holes(20)",
        "superpixels(9,20)>smooth(5)>open(3)",
        "",
    ],
)
def test_a_chain_reads_back_what_it_writes(text: str) -> None:
    chain = parse_pipeline(text, NAMES)
    assert str(parse_pipeline(str(chain), NAMES)) == str(chain) == text


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("crf(deeplab-v1)>clos(3)", 16, "did you mean close"),
        ("crf(deeplab-v9)", 4, "unknown CRF preset"),
        ("close(4)", 6, r"odd, at [^$]*fix: close\(5\)"),
        ("close", 0, "needs an argument"),
        ("close(3", 7, "not closed"),
        ("close(3)open(3)", 8, "does not belong"),
        ("close(3)>", 9, "step is missing"),
        ("min-area(pony=3)", 9, "unknown argument"),
        ("min-area(x)", 9, "not an area"),
        ("min-area(150%)", 9, "out of range"),
        ("crf(w1=1,w1=2)", 9, "twice"),
        ("crf(sa=0)", 7, "sa must be positive"),
        ("crf(w2=-1)", 7, "w2 must not be negative"),
        ("crf(normalization=rows)", 18, "unknown normalization"),
        ("crf(iterations=-1)", 15, "0 to 1000"),
        ("crf(w1:5)", 6, "a value follows '='"),
        ("crf,close(3)", 3, "steps are joined by '>': crf>close"),
        ("crf close(3)", 4, "steps are joined by '>'"),
        ("crf>>close(3)", 4, "a step is missing"),
        ("CRF", 0, "did you mean crf"),
        ("majority(5)", 0, "did you mean smooth"),
        ("min-area(64px)", 11, "numbers go without a unit"),
        ("min-area(traffic light=64)", 17, "by its index"),
        ("min-area(0,1%)", 11, "a decimal point: 0.1%"),
        ("min-area(roat=64)", 9, "did you mean road"),
        ("fill-holes(road=5)", 11, "takes no 'road'"),
        ("close(3,5)", 8, "too many arguments"),
        ("close(999)", 6, "a size out of range"),
        ("superpixels(1)", 12, "2 to 1000"),
        ("crf(deeplab-v1,5)", 15, "takes one preset"),
        ("crf(iterations=2.5)", 15, "whole"),
        ("crf(w1=)", 7, "value is missing"),
        ("64", 0, "unknown step"),
        ("close(3%)", 6, "plain number"),
    ],
)
def test_mistakes_are_pointed_at(text: str, place: int, words: str) -> None:
    with pytest.raises(PostprocessError) as caught:
        parse_pipeline(text, NAMES)
    assert re.search(words, str(caught.value)), str(caught.value)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  " + text
    assert lines[2] == "  " + " " * place + "^"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="crfopen(3)>,=%. -w1é\n", max_size=30))
def test_any_text_parses_or_fails_with_our_error(text: str) -> None:
    try:
        chain = parse_pipeline(text)
    except PostprocessError:
        return
    assert str(parse_pipeline(str(chain))) == str(chain)


def test_labels_stay_the_best_class_of_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    probabilities = rng.dirichlet([0.5] * 4, (40, 50)).transpose(2, 0, 1).astype(np.float32)
    probabilities[:, :5] = 0.25  # ties
    for text in ("smooth(5)>min-area(30)", "crf(iterations=2)>close(3)>superpixels", ""):
        labels, result = parse_pipeline(text)(image, probabilities)
        assert np.array_equal(labels, result.argmax(axis=0))
        assert np.allclose(result.sum(axis=0), 1, atol=1e-4)
        assert labels.dtype == np.uint8
    assert len(np.unique(parse_pipeline("smooth(5)>min-area(3000)")(image, probabilities)[0])) >= 1


CHAINS = ("", "close(3)", "crf", "min-area(1%)>crf(iterations=1)>smooth(3)", "superpixels>fill-holes(4)>open(3)")


@pytest.mark.parametrize("text", CHAINS)
def test_bad_input_of_a_chain(text: str) -> None:
    image, half = np.zeros((4, 4, 3), np.uint8), np.full((3, 4, 4), 0.5, np.float32)
    missing, minus = np.full((2, 4, 4), 0.5, np.float32), np.full((2, 4, 4), 0.5, np.float32)
    missing[0, 1, 2], minus[:, 0, 0] = np.nan, (1.5, -0.5)
    chain = parse_pipeline(text)
    for bad, words in ((half, "not probabilities"), (missing, "NaN"), (minus, "a value of -0.5")):
        with pytest.raises(PostprocessError, match=words):
            chain(image, bad)
    with pytest.raises(PostprocessError, match="do not fit"):
        chain(image[:2], half)
    with pytest.raises(PostprocessError, match="float"):
        chain(image, np.zeros((3, 4, 4), np.int64))


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (20, 24)])
@pytest.mark.parametrize("classes", [1, 3])
def test_one_class_one_pixel_and_one_color_are_answered(text: str, shape: tuple[int, int], classes: int) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    probabilities = np.full((classes, *shape), 0.2 / max(1, classes - 1), np.float32)
    probabilities[-1] = 0.8 if classes > 1 else 1.0
    labels, found = parse_pipeline(text)(image, probabilities)
    assert (labels == classes - 1).all() and labels.shape == shape
    assert np.allclose(found.sum(axis=0), 1, atol=1e-5)


def test_a_chain_is_parted_after_its_last_crf() -> None:
    chain = parse_pipeline("min-area(5)>crf(sa=30)>close(3)>smooth(5)")
    local, regional = chain.parted()
    assert (str(local), str(regional)) == ("min-area(5)>crf(w1=5,sa=30,sb=5,w2=3,sg=3)", "close(3)>smooth(5)")
    assert chain.receptive_radius == local.receptive_radius == 60 and regional.receptive_radius == 0
    assert [str(part) for part in parse_pipeline("close(3)").parted()] == ["", "close(3)"]
    image, p = np.zeros((9, 9, 3), np.uint8), np.zeros((2, 9, 9), np.float32)
    p[0], p[1, 4, 4] = 0.9, 0.9
    p[1] = 1 - p[0]
    p[:, 4, 4] = (0.1, 0.9)
    labels, _ = parse_pipeline("min-area(2)")(image, p)
    assert np.array_equal(parse_pipeline("min-area(2)").on_labels(image, p.argmax(0).astype(np.uint8)), labels)
    with pytest.raises(PostprocessError, match="needs probabilities"):
        local.on_labels(image, labels)


def test_a_share_is_of_the_whole_image_where_only_a_part_is_seen() -> None:
    image, p = np.zeros((10, 10, 3), np.uint8), np.zeros((2, 10, 10), np.float32)
    p[0] = 0.8
    p[0, 2:4, 2:5] = 0.2  # six pixels of the other class: 6 % here, 1.5 % of an image of 400
    p[1] = 1 - p[0]
    chain = parse_pipeline("min-area(2%)")
    assert (chain(image, p)[0] == 1).sum() == 6
    assert (chain(image, p, whole=400)[0] == 1).sum() == 0


@pytest.mark.parametrize(
    ("text", "normalization", "shown"),
    [
        ("crf", "per-row", "crf(deeplab-v1)"),
        ("crf(deeplab-v2-vgg)", "per-row", "crf(deeplab-v2-vgg)"),
        ("crf(deeplab-v1-symmetric)", "symmetric", "crf(deeplab-v1-symmetric)"),
        (
            "crf(deeplab-v1, normalization=symmetric, iterations=5)",
            "symmetric",
            "crf(deeplab-v1-symmetric,iterations=5)",
        ),
        ("crf(w1=2,sa=9)", "symmetric", "crf(w1=2,sa=9,sb=5,w2=3,sg=3)"),
        ("crf(w1=2,normalization=per-row)", "per-row", "crf(w1=2,sa=140,sb=5,w2=3,sg=3,normalization=per-row)"),
    ],
)
def test_the_normalization_of_a_crf_is_kept_in_its_text(text: str, normalization: str, shown: str) -> None:
    chain = parse_pipeline(text)
    assert chain.steps[0].crf is not None and chain.steps[0].crf.normalization == normalization
    assert str(chain) == shown and str(parse_pipeline(shown)) == shown


def test_chains_of_models_saved_before_presets_named_their_normalization_stay_symmetric() -> None:
    for old, new in (
        ("crf(deeplab-v1)>min-area(64)", "crf(deeplab-v1-symmetric)>min-area(64)"),
        ("crf", "crf(deeplab-v1-symmetric)"),
        ("close(3)>crf(deeplab-v2-r101,iterations=5)", "close(3)>crf(deeplab-v2-r101-symmetric,iterations=5)"),
        ("crf(deeplab-v1,normalization=per-row)", "crf(deeplab-v1,normalization=per-row)"),
        ("crf(w1=2,sa=9)>open(3)", "crf(w1=2,sa=9)>open(3)"),
    ):
        assert with_symmetric_presets(old) == new
        parse_pipeline(new)

"""One vocabulary, the field's: code, messages and docs hold none of the words below, each of which has a better one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What is not written → what is. Identifiers are read as their parts: ``n_pictures``, ``PictureDecoder``.
WORDS = {
    "picture": "image", "pictures": "images", "colour": "color", "colours": "colors", "coloured": "colored",
    "licence": "license", "licences": "licenses", "catalogue": "catalog", "grey": "gray", "labelled": "labeled",
    "unlabelled": "unlabeled", "labelling": "labeling", "centre": "center", "neighbour": "neighbor",
    "neighbours": "neighbors", "optimiser": "optimizer", "normalise": "normalize", "normalised": "normalized",
    "recognise": "recognize", "recognised": "recognized", "initialise": "initialize", "behaviour": "behavior",
    "verb": "command", "verbs": "commands", "belief": "probability", "beliefs": "probabilities", "believed": "accepted",
    "believes": "takes", "stranger": "unknown", "strangers": "untrusted", "surprise": "nll", "quicken": "patch",
    "anew": "again", "knows": "holds", "speaks": "uses", "speak": "count", "complains": "reports", "asks": "needs",
    "tells": "shows", "told": "given", "says": "shows", "said": "shown", "say": "show",
}  # fmt: skip
PHRASES = {
    r"data sets?": "dataset",
    r"for ever": "forever",
    r"to the bit": "bit-exact",
    r"nothing to complain": "no problems",
    r"(images|pixels|samples|values|bytes|rows|seconds|steps|requests|updates|entries|milliseconds|ms|masks) an? "
    r"(second|step|batch|class|row|channel|pixel|epoch|image|side|fold)": "per",
}
# Files that hold the former names, so that these work for a release.
FORMER_NAMES = {"segwright/core/renamed.py", "segwright/core/deprecated.py", "segwright/cli/renamed.py"}
# Names of other people's files and interfaces: what is matched there is theirs.
THEIRS = re.compile(
    "|".join([
        "iSAID", "IMAGE_COLUMNS", "_IMAGE_WORDS", r"images\?\|imgs", "image images img imgs", "imgs img im photos",
        "rgb input picture photo",
        '"colour media leftimg8bit', '"colour", "color"', '"color", "colour"', '"grey value"',
        '"unlabeled", "unlabelled"', "renamed_", "warn_renamed", "former name", '"colou?rs" in data',
        "colors and colours", r'get\("colours"', '"licences" in tree', r'tree\["licences"\]', '"pictures": "images"',
    ])
)  # fmt: skip
_WORD = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
_PHRASE = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
_PARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|_")


def files() -> Iterator[Path]:
    """The package, the benchmarks, and every page of documentation but the history of changes."""
    for folder in ("segwright", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".md", ".j2", ".js", ".css"} and str(path.relative_to(ROOT)) not in FORMER_NAMES:
                yield path
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))


def found_in(line: str) -> list[str]:
    """The words of the list in a line, with what to write."""
    if THEIRS.search(line):
        return []
    parts = _PARTS.sub(" ", line)
    words = [f"{match[1]} → {WORDS[match[1].lower()]}" for match in _WORD.finditer(parts)]
    return words + [f"{match[0]} → {_better(match[0])}" for match in _PHRASE.finditer(line)]


def _better(text: str) -> str:
    return next(better for pattern, better in PHRASES.items() if re.fullmatch(pattern, text, re.IGNORECASE))


def test_words_are_the_fields_own() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {', '.join(words)}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (words := found_in(line))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line", ["n_pictures = 3", "class PictureDecoder:", "# it says so", "images a second", "Data set"]
)
def test_a_private_word_is_found(line: str) -> None:
    assert found_in(line)


@pytest.mark.parametrize("line", ["iSAID's masks", "images per second", "a dataset", "recognized", "essays"])
def test_other_words_are_not(line: str) -> None:
    assert not found_in(line)

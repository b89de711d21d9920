"""What an error shows: the place always, and the name that was meant."""

from __future__ import annotations

import pickle

import pytest

from segwright.core.errors import DataError, UsageError
from segwright.models.catalog import create_model


@pytest.mark.parametrize(
    ("where", "message", "first"),
    [
        ("j", "the journal is cut", "j: the journal is cut"),
        ("a", "no such file: b", "a: no such file: b"),
        ("masks", "the masks/2 folder is empty", "the masks/2 folder is empty"),
        ("photos", "more/photos is empty", "photos: more/photos is empty"),
        ("photos", "photos: no such folder", "photos: no such folder"),
        ("/data/x.png", "cannot read /data/x.png", "cannot read /data/x.png"),
        ("x.png", "'x.png' is cut.", "'x.png' is cut."),
        (None, "nothing", "nothing"),
    ],
)
def test_the_place_is_shown_unless_the_message_has_it_whole(where: str | None, message: str, first: str) -> None:
    error = DataError(message, where=where)
    assert str(error).splitlines() == [first]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_misspelled_name_leads_to_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"did you mean unet\?") as caught:
        create_model("unett", classes=2)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert UsageError("unknown schedule", expected="poly, cosine", found="cosin").fix == "did you mean cosine?"
    assert UsageError("unknown schedule", expected="poly, cosine", found="zzz").fix is None
    assert UsageError("unknown schedule", expected="poly, cosine", found="cosin", fix="this").fix == "this"

"""`segwright models` on screens of 80 and 120 columns: nothing cut off, and every word explained."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from segwright.cli.tables import WIDE, print_models
from segwright.models.catalog import CATALOG
from segwright.models.profile import GROUPS, group_of

COST = {"gflop": 12.3, "fixed_mib": 456.0, "training_mib": 789.0, "latency_ms": 321.0}


def rows(*, measured: bool) -> list[dict[str, Any]]:
    """As measure.list_catalog answers them, without building a network."""
    return [
        {"name": name, "group": group_of(name), "encoder": entry.encoder, "summary": entry.summary,
         "paper": entry.paper, "license": entry.license, "parameters": 134_489_759, "stride": 16,
         **(COST if measured else {})}
        for name, entry in CATALOG.items()
    ]  # fmt: skip


def screen(width: int, *, measured: bool) -> str:
    written = io.StringIO()
    console = Console(file=written, width=width, highlight=False)
    print_models(rows(measured=measured), console, "352x480" if measured else None)
    return written.getvalue()


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(width: int, measured: bool) -> None:
    text = screen(width, measured=measured)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    words = " ".join(text.split())
    for name, entry in CATALOG.items():
        assert name in words
        for part in (*entry.summary.split(), *entry.license.split(), *entry.paper.split()):
            assert part in words
    for term in ("parameters", "stride", "weights", "train one", "134.5 M"):
        assert term in words
    assert ("GFLOP" in words and "789" in words and "321" in words) == measured
    assert ("--measure" in words) != measured  # what to type next


def test_what_to_choose_from_comes_first_and_the_table_where_there_is_room() -> None:
    text = screen(120, measured=False)
    assert text.index("To choose from") < text.index("torchvision's networks") < text.index("The classics")
    assert "what it is, when to use it" in text
    assert "what it is, when to use it" not in screen(WIDE - 1, measured=False)
    assert {group_of(name) for name in CATALOG} | {"plugin"} == set(GROUPS)

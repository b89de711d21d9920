"""The page of the monitor: whole with everything, and with nothing."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import made_pages
import pytest

from segwright.monitoring.page import moment, monitor_page, write_monitor_page
from segwright.monitoring.result import MonitorResult


def test_everything_is_on_the_page_and_escaped(tmp_path: Path) -> None:
    page = write_monitor_page(
        tmp_path / "m.html", made_pages.watched(tmp_path), command="segwright monitor j"
    ).read_text()
    assert "<script>window.broken" not in page and "onerror='window" not in page
    for part in ("Drift over time", "Accuracy without labels", "What moved", "Shares of the classes", "Confidence",
                 "Most unlike the reference", "Versions of the model", "cut in the middle", "threshold", "61.0 %",
                 "90 % interval", "soft confusion", "segwright monitor j", "2025-10-09"):  # fmt: skip
        assert part in page, part
    text = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"\bnan\b|\binf\b", text) and "https://" not in text
    assert page.count("<img") == 1, "the image that is gone is left out, its row is not"
    assert page.count('class="alarm"') == 8, "in every chart"
    for part in ("of the last 100 images", "since the alarm began", "Estimated mean IoU over time", "goes on"):
        assert part in page, part
    names = re.findall(r'<text class="axis"[^>]*>([^<]*)<', page)
    assert names and all(names), "each axis is named"


def test_without_an_alarm(tmp_path: Path) -> None:
    watched = made_pages.watched(tmp_path, alarms=0)
    page = monitor_page(watched)
    assert "No alarm. 3 statistics differ" in page and 'class="alarm"' not in page
    calm = dataclasses.replace(watched, movements=(), series=(), unlike=(), estimate=None, notes=(), skipped={})
    page = monitor_page(calm)
    assert "the images are like those of the reference" in page and "Accuracy without labels" not in page


def test_too_few_missing_and_ended_are_not_good(tmp_path: Path) -> None:
    calm = dataclasses.replace(made_pages.watched(tmp_path, alarms=0), movements=())
    few = monitor_page(dataclasses.replace(calm, images=3, judged=False, needed=20))
    assert "Too few images to tell yet: 3 of 20." in few and "are like those" not in few and "too few to tell" in few
    missing = monitor_page(dataclasses.replace(calm, missing=("entropy",)))
    assert "entropy is not finite in most of the last images" in missing and "are like those" not in missing
    watched = made_pages.watched(tmp_path)
    over = dataclasses.replace(watched.alarms[0], over=True, last=159, ended=watched.last)
    ended = monitor_page(dataclasses.replace(watched, alarms=(over,), movements=()))
    assert "about image number 160" in ended and "1 earlier alarm has ended" in ended and "have changed" not in ended


def test_minutes_have_seconds_and_methods_have_names(tmp_path: Path) -> None:
    result = made_pages.watched(tmp_path)
    quick = tuple(
        dataclasses.replace(item, time=tuple(1.76e9 + 2.0 * place for place in range(len(item.time))))
        for item in result.series
    )
    page = monitor_page(dataclasses.replace(result, series=quick))
    drawn = re.findall(r">(\d\d:\d\d(?::\d\d)?)<", page)
    assert drawn and all(len(text) == 8 for text in drawn), "the ends of a short axis differ"
    estimate = result.estimate
    assert estimate is not None
    named = dataclasses.replace(result, estimate=dataclasses.replace(estimate, others={"atc": 0.5, "doc": 0.6}))
    page = monitor_page(named)
    assert ">ATC<" in page and "confidence change" in page and ">doc<" not in page


def test_an_empty_journal() -> None:
    nothing = MonitorResult(
        "j", "", (), 0, 0, math.nan, math.nan, 0.001, 1, (), (), (), (), None, math.nan, (), {}, ("nothing to read",)
    )
    page = monitor_page(nothing)
    assert "has no images" in page and "nothing to read" in page and "nan" not in page


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e30, -1e30])
def test_times_that_no_calendar_has(seconds: float) -> None:
    assert moment(seconds) == "–"
    assert moment(0.0) == "1970-01-01 00:00:00 UTC"

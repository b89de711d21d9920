"""A journal that grows and is looked at again and again: the same alarms, each announced once, and their end."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monitoring.command import run
from monitoring.streams import CLASSES, rows

from segwright import api
from segwright.core.errors import DataError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.monitoring import webhook
from segwright.monitoring.columns import columns_of
from segwright.monitoring.detect import Baseline, Episode, detect, looks
from segwright.monitoring.episodes import Announced
from segwright.monitoring.estimate import fit_accuracy
from segwright.monitoring.journal import Journal
from segwright.monitoring.journal_writer import JournalWriter
from segwright.monitoring.monitor import examine, monitor
from segwright.monitoring.observation import Observation
from segwright.monitoring.periodic import PeriodicMonitor
from segwright.monitoring.result import Alarm, MonitorResult
from segwright.monitoring.since import parse_since, row_key, stable_start

STREAMS = {
    "without drift": lambda: rows(330, 904, scene=10),
    "single images": lambda: rows(300, 3),
    "drift in the middle": lambda: rows(110, 4) + rows(150, 5, start=110, brightness=0.2, road=-0.8),
    "faint, in scenes": lambda: rows(90, 6, scene=5) + rows(200, 7, scene=5, start=90, brightness=0.06, doubt=0.05),
    "an episode that ends": lambda: rows(100, 8) + rows(60, 9, start=100, doubt=0.3) + rows(250, 10, start=160),
}  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> list[Observation]:
    return rows(150, 1)


def raised(episodes: list[Episode]) -> list[tuple[object, ...]]:
    return [(one.detector, one.since, one.index, one.leading) for one in episodes]


@pytest.mark.parametrize("rate", [1e-3, 0.02])
@pytest.mark.parametrize("name", STREAMS)
def test_the_alarms_of_a_prefix_are_a_prefix_of_the_alarms(
    name: str, rate: float, reference: list[Observation]
) -> None:
    base, stream = Baseline(columns_of(reference, CLASSES)), columns_of(STREAMS[name](), CLASSES)
    whole = raised(detect(base, stream, rate=rate).episodes())
    for count in (*range(1, 60, 7), *range(60, len(stream), 23)):
        sofar = raised(detect(base, stream.take(slice(0, count)), rate=rate).episodes())
        # What was raised by these rows; the order of alarms is that of the rows that raised them.
        assert sofar == [one for one in whole if one[2] < count and (count >= 20)], count  # type: ignore[operator]


def test_every_detector_was_in_that_test(reference: list[Observation]) -> None:
    base = Baseline(columns_of(reference, CLASSES))
    found = {one.detector for name in STREAMS for one in detect(base, columns_of(STREAMS[name](), CLASSES)).episodes()}
    assert found == {"stream", "statistics", "embeddings"}


def test_the_level_is_spent_once_per_image(reference: list[Observation]) -> None:
    assert looks(100) == (20, 50, 100) and looks(20) == (20,) and looks(30) == (20, 30)
    found = detect(columns_of(reference, CLASSES), columns_of(rows(400, 2), CLASSES), rate=1e-3)
    assert sum(one.level for one in found.windows) == pytest.approx(400 * 1e-3 * 0.25)
    assert sum(one.embedding_level for one in found.windows if math.isfinite(one.embedding_p)) == pytest.approx(0.02)


# ---------------------------------------------------------------- one message per episode


def growing(some: list[Observation], step: int = 5, first: int = 5) -> Iterator[list[Observation]]:
    for count in range(first, len(some) + 1, step):
        yield some[:count]


def announced(results: Iterator[MonitorResult]) -> list[Alarm]:
    seen, found = Announced(), []
    for result in results:
        found += seen.new(result)
        seen.done(result)
    return found


def test_an_episode_is_announced_once_while_the_journal_grows(reference: list[Observation]) -> None:
    stream = rows(100, 11) + rows(100, 12, start=100, brightness=0.3, road=-1.0)
    found = announced(examine(some, reference, CLASSES) for some in growing(stream))
    assert sorted(alarm.detector for alarm in found) == ["embeddings", "statistics", "stream"]
    assert len({alarm.key for alarm in found}) == 3


def test_names_that_come_again_hide_no_second_episode(reference: list[Observation]) -> None:
    calm = rows(300, 13)
    stream = [*calm[:60], *rows(40, 14, start=60, doubt=0.4), *calm[60:], *rows(40, 14, start=60, doubt=0.4)]
    stream = [replace(one, id=f"{place % 20}.png", time=1e9 + place) for place, one in enumerate(stream)]
    found = announced(examine(some, reference, CLASSES) for some in growing(stream, step=20, first=20))
    assert [alarm.detector for alarm in found].count("stream") == 2


def test_without_a_reference_an_episode_is_announced_once() -> None:
    stream = rows(150, 15) + rows(250, 16, start=150, brightness=0.3, road=-1.0)
    space = LabelSpace(CLASSES)
    journals = (Journal(Path("journal"), some, space) for some in growing(stream, step=10, first=60))
    found = announced(monitor(journal) for journal in journals)
    assert [alarm.detector for alarm in found].count("stream") == 1
    assert len(found) == len({alarm.detector for alarm in found}) >= 2


def test_a_journal_too_short_for_a_reference_of_its_own_names_what_it_takes() -> None:
    for count in (0, 1, 5):
        with pytest.raises(DataError, match="too few images to compare them with its own") as refused:
            monitor(Journal(Path("journal"), rows(count, 1) if count else [], LabelSpace(CLASSES)))
        assert (refused.value.expected, refused.value.found) == ("6 images of one model", str(count))
        assert "--reference MODEL" in (refused.value.fix or "")
    assert monitor(Journal(Path("journal"), rows(6, 1), LabelSpace(CLASSES))).state == "too few"


def test_what_could_not_be_sent_is_new_at_the_next_look(reference: list[Observation]) -> None:
    seen, result = Announced(), examine(rows(60, 17, brightness=0.3), reference, CLASSES)
    assert seen.new(result) and seen.new(result)
    seen.done(result)
    assert not seen.new(result)


def test_the_service_logs_an_episode_once(reference: list[Observation], caplog: pytest.LogCaptureFixture) -> None:
    class Gauges:
        def update(self, found: MonitorResult) -> None:
            pass

    stream = rows(100, 11) + rows(100, 12, start=100, brightness=0.3, road=-1.0)
    results = (examine(some, reference, CLASSES) for some in growing(stream, step=10, first=10))
    periodic = PeriodicMonitor(lambda: next(results), Gauges())  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        while periodic.look_once() is not None:
            pass
    assert sum(record.message.startswith("alarm: ") for record in caplog.records) == 3


# ---------------------------------------------------------------- an alarm ends


def test_an_alarm_ends(reference: list[Observation]) -> None:
    stream = rows(100, 8) + rows(60, 9, start=100, doubt=0.3) + rows(400, 10, start=160)
    during = examine(stream[:160], reference, CLASSES)
    assert during.alarm and not any(alarm.over for alarm in during.alarms)
    after = examine(stream, reference, CLASSES)
    assert after.alarms and not after.alarm and after.state != "alarm" and "ended" in after.verdict
    stream_alarm = next(alarm for alarm in after.alarms if alarm.detector == "stream")
    assert 140 <= stream_alarm.last < 200 and stream_alarm.ended == stream[stream_alarm.last].time
    assert [alarm.key for alarm in after.alarms][: len(during.alarms)] == [alarm.key for alarm in during.alarms]


def test_a_change_that_stays_goes_on(reference: list[Observation]) -> None:
    """The stream's detector takes in what it sees: after hundreds of images nothing is new to it."""
    stream = rows(100, 8) + rows(900, 9, start=100, doubt=0.3)
    found = examine(stream, reference, CLASSES)
    first = next(alarm for alarm in found.alarms if alarm.detector == "stream")
    assert found.alarm and not first.over and first.last > 700


def test_a_part_without_images_is_not_a_journal_without_images(reference: list[Observation]) -> None:
    stream = rows(30, 5)
    for since in ("2030-01-01", "1h"):
        found = examine(stream, reference, CLASSES, since=parse_since(since), now=stream[-1].time + 86_400)
        assert (found.state, found.images, found.model) == ("empty", 0, reference[0].model)
        assert found.verdict == "The journal has no images of this model in the part that was asked for (--since)."
    assert examine([], reference, CLASSES).verdict == "The journal has no images of this model."


def test_since_counts_what_was_raised_in_that_part(reference: list[Observation]) -> None:
    stream = rows(100, 8) + rows(60, 9, start=100, doubt=0.3) + rows(400, 10, start=160)
    assert examine(stream, reference, CLASSES, since=parse_since("500")).alarm
    assert not examine(stream, reference, CLASSES, since=parse_since("200")).alarm
    latest = examine(stream, reference, CLASSES, since=parse_since("200s"), now=stream[-1].time)
    assert not latest.alarm and 199 <= latest.images <= 252
    from_time = examine(stream, reference, CLASSES, since=parse_since(stream[90].time))
    assert from_time.alarm and from_time.images == 470 and from_time.looked_from == 0


def test_forms_of_since() -> None:
    assert parse_since(None) is None
    for text, seconds in (("1d", 86_400), ("12h", 43_200), ("90 s", 90), ("1.5m", 90), ("2w", 1_209_600)):
        assert parse_since(text).seconds == seconds
    assert parse_since("500").images == 500 and parse_since(12.0).time == 12
    assert parse_since("1970-01-02").time == 86_400
    assert parse_since("1970-01-02T01:00+01:00").time == 86_400
    for wrong in ("0", "yesterday", "", "1y", "-3", "2026-13-01"):
        with pytest.raises(UsageError):
            parse_since(wrong)


def test_a_look_at_the_newest_images_begins_at_the_same_one_for_long() -> None:
    keys = [row_key(one) for one in rows(1500, 18)]
    starts = [stable_start(keys[:count], count - 400) for count in range(600, 1500)]
    assert all(count - 500 <= start <= count - 400 for count, start in zip(range(600, 1500), starts, strict=True))
    assert len(set(starts)) < 40, "not one per look"
    assert stable_start(keys[:100], 0) == 0 and stable_start([], 0) == 0


def test_a_journal_that_is_too_long_begins_at_the_same_image(reference: list[Observation]) -> None:
    stream = rows(1000, 19)
    begins = {examine(stream[:count], reference, CLASSES, last=500).row_keys[0] for count in range(500, 1000, 25)}
    assert len(begins) < 14


# ---------------------------------------------------------------- nothing that shows whether it is good


def test_too_few_images_are_not_good(reference: list[Observation]) -> None:
    few = examine(rows(3, 20, brightness=0.5), reference, CLASSES)
    assert few.state == "too few" and few.verdict == "Too few images to tell yet: 3 of 20."
    assert json.loads(json.dumps(few.to_json()))["state"] == "too few"
    assert examine([], reference, CLASSES).state == "empty"
    assert examine(rows(60, 20), reference, CLASSES).state == "no alarm"


def test_figures_that_are_missing_are_not_good(reference: list[Observation]) -> None:
    gone = np.full(5, np.nan, np.float32)
    nothing = [replace(one, mean_confidence=math.nan, confidence=gone, entropy=math.nan) for one in rows(200, 21)]
    found = examine(nothing, reference, CLASSES)
    assert found.missing == ("confidence", "low confidence", "entropy") and found.state == "not finite"
    assert "confidence, low confidence, entropy are not finite" in found.verdict
    without = [replace(one, embedding=np.full(8, np.nan, np.float32)) for one in rows(200, 22)]
    assert examine(without, reference, CLASSES).missing == ("embedding",)
    seldom = [replace(one, entropy=math.nan if place % 3 else one.entropy) for place, one in enumerate(rows(90, 23))]
    without = [replace(one, entropy=math.nan) for one in reference]
    assert examine(seldom, without, CLASSES).missing == ()


def test_moved_is_marked_at_the_level_of_the_tested_rows(reference: list[Observation]) -> None:
    found = examine(rows(25, 34), reference, CLASSES, rate=0.03)
    level, of_a_window = 0.03 * 25 * 0.25, 0.03 * 100 * 0.25
    assert [one.moved for one in found.movements] == [one.adjusted <= level for one in found.movements]
    assert any(level < one.adjusted <= of_a_window for one in found.movements), "other levels mark others"


def test_a_low_rate_has_the_permutations_that_it_needs(reference: list[Observation]) -> None:
    far = [replace(one, embedding=one.embedding + np.float32(50)) for one in rows(100, 25)]
    found = examine(far, reference, CLASSES, rate=1e-5)
    assert "embeddings" in {alarm.detector for alarm in found.alarms}
    lowest = examine(far, reference, CLASSES, rate=1e-8)
    assert "embeddings" not in {alarm.detector for alarm in lowest.alarms}
    assert any("could not raise an alarm" in note for note in lowest.notes)


# ---------------------------------------------------------------- the accuracy of late


def test_the_estimate_of_the_last_images_and_since_the_alarm(reference: list[Observation]) -> None:
    """A thousand good images and a hundred bad ones: the mean of all shows next to nothing."""
    counts = np.stack([np.stack([0.8 * row.shares, row.shares, row.shares]) * 10_000 for row in reference])
    accuracy = fit_accuracy(reference, counts.astype(np.int64))
    stream = rows(1000, 28) + rows(100, 29, start=1000, doubt=0.6)
    found = examine(stream, reference, CLASSES, accuracy=accuracy)
    assert found.estimate is not None and found.recent is not None and found.since_alarm is not None
    assert found.recent.images == 100 and 90 <= found.since_alarm.images <= 120
    assert found.estimate.miou > 0.5 > 0.3 > max(found.recent.miou, found.since_alarm.miou)
    for one in (found.recent, found.since_alarm):
        assert one.low <= one.miou <= one.high
    series = next(item for item in found.series if item.group == "accuracy")
    assert len(series.value) == len(series.lows) == len(series.highs) == len(series.index) == 11
    assert series.index[-1] == 1099 and series.value[0] > 0.5 and series.value[-1] == pytest.approx(found.recent.miou)
    assert examine(stream[:900], reference, CLASSES, accuracy=accuracy).since_alarm is None


# ---------------------------------------------------------------- the command


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    pytest.importorskip("pyarrow")
    writer = JournalWriter(tmp_path / "journal", label_space=LabelSpace(CLASSES), model="street", max_bytes=10**9)
    some = rows(200, 26) + rows(60, 9, start=200, doubt=0.3, brightness=0.2) + rows(500, 27, start=260)
    for one in some:
        while not writer.add(one):
            pass
    writer.close()
    return tmp_path / "journal"


def test_exit_codes_of_an_alarm_that_ended(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, journal) == 0
    shown = capsys.readouterr().out
    assert "past alarm at image" in shown and "(ended at image" in shown and "ended." in shown
    assert run(monkeypatch, journal, "--since", "650") == 1
    assert "ALARM at image" in capsys.readouterr().out
    assert run(monkeypatch, journal, "--since", "100") == 0
    assert run(monkeypatch, journal, "--since", "1970-01-01") == 1
    assert run(monkeypatch, journal, "--since", "tomorrow") == 2


def test_a_full_disk_does_not_end_watching(
    journal: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked, written = iter(range(3)), []

    def look(*given: Any, **named: Any) -> Any:
        if next(looked, None) is None:
            raise KeyboardInterrupt
        return monitor(given[0], since="650")

    def write(path: Path, tree: object) -> None:
        written.append(tree)
        if len(written) < 3:
            raise OutputError("no space left on the device", where=path)

    sent: list[object] = []
    monkeypatch.setattr(api, "monitor", look)
    monkeypatch.setattr("segwright.cli.monitoring.write_result", write)
    monkeypatch.setattr(webhook, "post_message", lambda *_, alarms, **__: sent.extend(alarms))
    code = run(monkeypatch, journal, "--watch", "--every", "0.01", "--json", tmp_path / "found.json", "--webhook",
               "http://127.0.0.1:9/", "--allow-host", "127.0.0.1")  # fmt: skip
    assert code == 1 and len(written) == 3
    assert sent and len(sent) == len({alarm.key for alarm in sent}), "sent, and once"  # type: ignore[attr-defined]
    assert "no space left" in "".join(capsys.readouterr())

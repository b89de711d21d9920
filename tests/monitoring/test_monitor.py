"""What a journal shows against a reference: nothing without drift, and with it what moved, in words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monitoring.streams import CLASSES, rows

from segwright.core.errors import DataError, UsageError
from segwright.monitoring.monitor import examine
from segwright.monitoring.observation import Observation


@pytest.fixture(scope="module")
def reference() -> list[Observation]:
    return rows(150, 1)


def test_no_alarm_without_drift(reference: list[Observation]) -> None:
    found = examine(rows(400, 2), reference, CLASSES)
    assert not found.alarm and found.images == 400 and found.reference_images == 150
    assert found.versions[0].images == 400 and found.versions[0].examined
    assert not any(movement.moved for movement in found.movements)


def test_an_alarm_is_in_words(reference: list[Observation]) -> None:
    stream = rows(200, 3) + rows(100, 4, start=200, brightness=0.2, road=-1.2, doubt=0.25)
    found = examine(stream, reference, CLASSES)
    first = found.alarms[0]
    assert 200 <= first.index < 220 and first.detector == "stream" and 190 <= first.since <= first.index
    assert first.id == stream[first.index].id and first.time == stream[first.index].time
    words = " ".join(movement.text for movement in found.movements if movement.moved)
    assert "brighter than the reference (" in words
    assert "share of road fell from 44 % to" in words
    assert "the model is less confident (" in words
    assert found.unlike[0].index >= 200 and found.unlike[0].distance > 2
    assert {alarm.detector for alarm in found.alarms} == {"stream", "statistics", "embeddings"}
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["alarm"] is True


@pytest.mark.parametrize("drift", [{"brightness": 0.15}, {"road": -1.0}, {"doubt": 0.2}])
def test_each_kind_of_drift_is_found(reference: list[Observation], drift: dict[str, float]) -> None:
    found = examine(rows(60, 5, **drift), reference, CLASSES)
    assert found.alarm and found.alarms[0].index < 20


def test_series_and_the_evidence(reference: list[Observation]) -> None:
    found = examine(rows(300, 6), reference, CLASSES)
    names = {series.name: series for series in found.series}
    assert {"brightness", "share of road", "confidence", "evidence of drift"} <= set(names)
    for series in found.series:
        assert len(series.time) == len(series.index) == len(series.value) and series.index[-1] <= 299
    assert names["brightness"].low < names["brightness"].reference < names["brightness"].high
    assert names["evidence of drift"].threshold > max(names["evidence of drift"].value)


def test_few_images_or_none(reference: list[Observation]) -> None:
    assert not examine([], reference, CLASSES).alarm
    one = examine(rows(1, 7), reference, CLASSES)
    assert one.images == 1 and len(one.unlike) == 1
    with pytest.raises(DataError, match="too small"):
        examine(rows(5, 7), reference[:2], CLASSES)


def test_constant_statistics_cause_neither_error_nor_alarm(reference: list[Observation]) -> None:
    """Black-and-white images have a saturation of 0 in every row."""

    def gray(some: list[Observation], value: float = 0.0) -> list[Observation]:
        return [replace(one, statistics=np.array([*one.statistics[:2], value, *one.statistics[3:]], np.float32))
                for one in some]  # fmt: skip

    with np.errstate(all="raise"):
        found = examine(gray(rows(200, 8)), gray(reference), CLASSES)
    assert not found.alarm
    constant = next(movement for movement in found.movements if movement.name == "saturation")
    assert constant.p_value == 1 and math.isfinite(constant.adjusted)
    colored = examine(gray(rows(60, 9), 0.3), gray(reference), CLASSES)
    assert colored.alarm and any(movement.name == "saturation" and movement.moved for movement in colored.movements)


def test_fewer_reference_images_than_dimensions() -> None:
    reference = rows(24, 10, size=64)
    found = examine(rows(300, 11, size=64), reference, CLASSES)
    assert not found.alarm and 0 < found.embedding_p <= 1
    assert examine(rows(100, 12, size=64, brightness=0.3), reference, CLASSES).alarm


def test_the_same_row_again_and_a_clock_that_jumps(reference: list[Observation]) -> None:
    stream = rows(120, 13)
    doubled = [one for one in stream for _ in range(3)]
    late = [replace(one, time=one.time - 4000 * (index >= 60)) for index, one in enumerate(doubled)]
    found = examine(late, reference, CLASSES, now=1e9 - 1e6)
    assert found.images == 120 and found.skipped == {"the same row again": 240}
    assert not found.alarm
    assert any("went back 1 times, by up to 67 minutes" in note for note in found.notes)
    assert any("from the future" in note for note in found.notes)
    assert found.alarms == examine(stream, reference, CLASSES).alarms


def test_figures_that_are_not_finite(reference: list[Observation]) -> None:
    stream = rows(120, 14)
    stream[7] = replace(stream[7], mean_confidence=math.nan, entropy=math.inf)
    stream[8] = replace(stream[8], embedding=np.full(8, np.nan, np.float32), time=math.nan)
    found = examine(stream, reference, CLASSES)
    assert found.images == 120 and not found.alarm
    text = " ".join(found.notes)
    assert "1 image has figures that are not finite (confidence, entropy)" in text
    assert "1 image has an embedding that is not finite" in text and "1 image has no time" in text
    nothing = [replace(one, mean_confidence=math.nan) for one in rows(120, 15)]
    gone = examine(nothing, reference, CLASSES)
    assert math.isnan(next(one for one in gone.movements if one.name == "confidence").p_value)
    json.dumps(gone.to_json(), allow_nan=False)


def test_a_camera_that_stands_still_is_a_note(reference: list[Observation]) -> None:
    one = rows(1, 31)[0]
    still = [replace(one, id=f"{number}", time=one.time + number) for number in range(60)]
    found = examine([*rows(40, 32), *still], reference, CLASSES)
    assert any(note.startswith("59 images have the same figures as an earlier one") for note in found.notes)
    assert not any("earlier one" in note for note in examine(rows(100, 32), reference, CLASSES).notes)


def test_versions_are_examined_one_at_a_time(reference: list[Observation]) -> None:
    other = [replace(one, model="b" * 16) for one in rows(80, 16, doubt=0.3)]
    found = examine([*rows(100, 17), *other], reference, CLASSES)
    assert found.images == 100 and not found.alarm
    assert [(one.model[0], one.images, one.examined) for one in found.versions] == [("a", 100, True), ("b", 80, False)]
    against = examine([*rows(100, 17), *other], reference, CLASSES, model="b" * 16)
    assert against.images == 80 and against.alarm
    with pytest.raises(DataError, match="no row of the journal is of the reference's model"):
        examine(other, reference, CLASSES)
    with pytest.raises(DataError, match="no row of the journal is of this model") as unknown:
        examine(other, reference, CLASSES, model="c" * 16)
    assert unknown.value.expected == "c" * 16 and unknown.value.fix == f"--model {'b' * 16}"


def test_label_sets_and_embeddings_that_differ(reference: list[Observation]) -> None:
    with pytest.raises(DataError, match="another number of classes"):
        examine(rows(30, 18), reference, (*CLASSES, "sky"))
    found = examine(rows(60, 19, size=16), reference, CLASSES)
    assert not found.alarm and any("embeddings have 16 values" in note for note in found.notes)
    mixed = rows(30, 20, size=16) + rows(30, 20, size=8, start=30)
    with pytest.raises(DataError, match="differ in size"):
        examine(mixed, reference, CLASSES)


def test_a_video_without_drift_causes_no_alarm() -> None:
    """Scenes of 10 alike images: each image alone would say the scene is new again and again."""
    reference = rows(600, 21, scene=10)
    alarms = [examine(rows(300, seed, scene=10), reference, CLASSES).alarm for seed in range(100, 108)]
    assert sum(alarms) <= 2
    assert examine(rows(10, 1, scene=10), reference, CLASSES).block >= 4


def test_kept_images_lie_in_the_journal(reference: list[Observation], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"x")
    (tmp_path.parent / "secret.jpg").write_bytes(b"x")
    stream = rows(3, 22)
    stream[0] = replace(stream[0], tags={"image": "images/a.jpg"})
    stream[1] = replace(stream[1], tags={"image": "../secret.jpg"})
    found = {one.index: one.image for one in examine(stream, reference, CLASSES, folder=tmp_path).unlike}
    assert found == {0: str((tmp_path / "images" / "a.jpg").resolve()), 1: None, 2: None}


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": 0.5}, {"window": 3}, {"block": 0}, {"correction": "none"}])
def test_wrong_settings_are_refused(reference: list[Observation], wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        examine(rows(3, 1), reference, CLASSES, **wrong)  # type: ignore[arg-type]

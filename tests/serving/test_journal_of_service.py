"""The service writes a row per prediction, and nothing of the journal's troubles reaches a client."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from spans import record_spans
from test_serving import SPACE, Client, GatedColors, bundle, labels_of, make_image, run, until

import segwright as sw
from segwright.core.errors import OutputError
from segwright.inference.predictor import Predictor, load
from segwright.monitoring import journal_writer
from segwright.monitoring.periodic import PeriodicMonitor
from segwright.monitoring.recorder import JournalOptions
from segwright.serving.app import create_app
from segwright.serving.limits import ServiceLimits

LIMITS = ServiceLimits(max_megapixels=0.05, batch=4, wait_seconds=0.002)


def metric(text: bytes, name: str) -> float:
    (line,) = [line for line in text.decode().splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_every_prediction_is_a_row(tmp_path: Path) -> None:
    async def work() -> None:
        model = bundle(tmp_path / "model")
        app = create_app(
            load(model, device="cpu"), LIMITS, name="scenes", load=lambda: load(model, device="cpu"),
            journal=JournalOptions(tmp_path / "journal"),
        )  # fmt: skip
        client = Client(app)
        try:
            for number in range(3):
                labels_of(await client.post(make_image(number)))
            assert (await client.post(b"no image")).status == 400
            assert await app.service.reload()
            labels_of(await client.post(make_image(3)))
            description = (await client.get("/model")).json
            assert description["reference"] is False
            recorder = app.service.recorder
            assert recorder is not None
            await until(lambda: recorder.writer.written == 4)
            text = (await client.get("/metrics")).body
            assert metric(text, "segwright_journal_rows_total") == 4
            assert metric(text, "segwright_journal_lost_rows_total") == 0
        finally:
            await asyncio.to_thread(app.service.close)
        journal = sw.read_journal(tmp_path / "journal")
        assert len(journal) == 4 and len({row.id for row in journal.rows}) == 4 and journal.names == ("scenes",)
        predictor = load(model, device="cpu")
        done = sw.predict(predictor, _written(tmp_path, 0), out=tmp_path / "out", journal=tmp_path / "other")
        assert done.journal is not None
        (expected,) = sw.read_journal(tmp_path / "other").rows
        assert journal.rows[0].shares == pytest.approx(expected.shares)
        assert journal.rows[0].embedding == pytest.approx(expected.embedding, abs=1e-6)
        assert journal.rows[0].model == expected.model

    run(work())


def test_a_service_removes_images_older_than_its_retention(tmp_path: Path) -> None:
    old = tmp_path / "journal" / "images" / "20200101T000000-old.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 7300,) * 2)

    found: list[bool] = []

    async def work(retention: str) -> None:
        model = bundle(tmp_path / f"model {retention}")
        options = JournalOptions(tmp_path / "journal", keep_images=1.0, retention=retention)
        app = create_app(load(model, device="cpu"), LIMITS, journal=options)
        try:
            labels_of(await Client(app).post(make_image(0)))
            recorder = app.service.recorder
            assert recorder is not None
            await until(lambda: recorder.writer.written == 1)
        finally:
            await asyncio.to_thread(app.service.close)
        found.append(old.exists())

    run(work("3h"))
    run(work("2h"))
    assert found == [True, False]
    assert len(list(old.parent.iterdir())) == 2, "those of now stay"


def test_a_restarted_service_removes_old_images_before_its_first_request(tmp_path: Path) -> None:
    old = tmp_path / "journal" / "images" / "20200101T000000-old.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    os.utime(old, (0, 0))

    async def work() -> None:
        app = create_app(
            load(bundle(tmp_path / "model"), device="cpu"), LIMITS, journal=JournalOptions(tmp_path / "journal")
        )
        try:
            await app.service.warm_up()
            await until(lambda: not old.exists())
        finally:
            await asyncio.to_thread(app.service.close)

    run(work())
    assert not list((tmp_path / "journal").glob("*.parquet")), "and writes nothing"


def test_a_request_and_a_look_at_the_journal_are_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = record_spans(monkeypatch)

    async def work() -> None:
        app = create_app(load(bundle(tmp_path / "model"), device="cpu"), LIMITS)
        body = make_image(0)
        try:
            labels_of(await Client(app).post(body))
            assert (await Client(app).post(b"no image")).status == 400
        finally:
            await asyncio.to_thread(app.service.close)
        done, failed = kept.get_finished_spans()
        assert done.name == failed.name == "segwright.predict" and dict(done.attributes or {}) == {"bytes": len(body)}
        assert done.status.is_ok and not failed.status.is_ok and done.end_time > done.start_time

    run(work())
    kept.clear()
    assert PeriodicMonitor(Mock(side_effect=OutputError("no journal")), Mock()).look_once() is None
    (look,) = kept.get_finished_spans()
    assert look.name == "segwright.monitor" and not look.status.is_ok, "one that failed, too"


def _written(folder: Path, number: int) -> Path:
    path = folder / f"{number}.png"
    path.write_bytes(make_image(number))
    return path


def test_a_disk_that_is_full_costs_rows_and_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(journal_writer, "QUEUE", 3)

    async def work() -> None:
        app = create_app(Predictor(GatedColors(), SPACE), LIMITS, journal=JournalOptions(tmp_path / "journal"))
        client = Client(app)
        recorder = app.service.recorder
        assert recorder is not None
        recorder.writer.bound = 3
        real = os.write

        def full(handle: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        try:
            monkeypatch.setattr(journal_writer.os, "write", full)
            for number in range(12):
                labels_of(await client.post(make_image(number)))
            await until(lambda: recorder.writer.lost >= 5)
            text = (await client.get("/metrics")).body
            assert metric(text, "segwright_journal_lost_rows_total") >= 5
            assert (await client.get("/ready")).status == 200
            monkeypatch.setattr(journal_writer.os, "write", real)
            labels_of(await client.post(make_image(50)))
            await until(lambda: recorder.writer.written + recorder.writer.lost == 13)
        finally:
            monkeypatch.setattr(journal_writer.os, "write", real)
            await asyncio.to_thread(app.service.close)
        assert len(sw.read_journal(tmp_path / "journal")) == recorder.writer.written > 0

    run(work())


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        create_app(Predictor(GatedColors(), SPACE), LIMITS, journal=JournalOptions(tmp_path / "file"))

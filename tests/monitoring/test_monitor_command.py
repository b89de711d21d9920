"""The command over a journal on disk, and where its answer goes: JSON, gauges, a webhook."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("pyarrow")

from monitoring.command import run
from monitoring.streams import CLASSES, rows

from segwright import cli
from segwright.api.monitoring import monitor
from segwright.core.errors import DataError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.demo.dataset import write_street_scenes
from segwright.monitoring.gauges import DETECTORS, GAUGES
from segwright.monitoring.journal_writer import JournalWriter
from segwright.monitoring.observation import Observation
from segwright.monitoring.webhook import check_webhook, post_message

SPACE = LabelSpace(CLASSES)


def write(folder: Path, some: list[Observation], space: LabelSpace = SPACE) -> Path:
    writer = JournalWriter(folder, label_space=space, model="street", max_bytes=10**9)
    try:
        for one in some:
            while not writer.add(one):
                pass
    finally:
        writer.close()
    return folder


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("quiet") / "journal", rows(240, 1))


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    some = rows(150, 2) + rows(150, 3, start=150, brightness=0.3, road=-1.0)
    return write(tmp_path_factory.mktemp("loud") / "journal", some)


def test_no_alarm_is_exit_code_0(
    quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, quiet, "--json", tmp_path / "found.json") == 0
    shown = capsys.readouterr().out
    assert "140 images" in shown and "No alarm" in shown and "no reference was given" in shown
    tree = json.loads((tmp_path / "found.json").read_text())
    assert tree["alarm"] is False and tree["images"] == 140 and tree["reference_images"] == 100
    assert tree["state"] == "no alarm" and "row_keys" not in tree


def test_a_file_that_cannot_be_read_is_rows_of_unknown_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in range(2):
        write(tmp_path / "journal", rows(60, 1 + part, start=60 * part))
    whole = sorted((tmp_path / "journal").glob("*.parquet"))[-1]
    whole.write_bytes(whole.read_bytes()[:-100])
    assert run(monkeypatch, tmp_path / "journal", "--html", tmp_path / "page.html") == 0
    shown = capsys.readouterr().out
    assert f"not counted: rows of unknown number, {whole.name}: the journal's file is damaged" in shown
    assert re.search(rf"{whole.name}.*?</td>\s*<td[^>]*>unknown<", (tmp_path / "page.html").read_text(), re.S)


def test_an_alarm_is_exit_code_1_and_in_words(
    loud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gauges = tmp_path / "segwright.prom"
    assert run(monkeypatch, loud, "--json", tmp_path / "found.json", "--prometheus", gauges) == 1
    shown = capsys.readouterr().out
    assert "ALARM at image" in shown and "brighter than the reference" in shown
    tree = json.loads((tmp_path / "found.json").read_text())
    assert tree["alarm"] is True and tree["alarms"][0]["moved"][0]["text"]
    text = gauges.read_text()
    assert "segwright_monitor_alarm 1.0" in text and 'segwright_monitor_statistic{name="brightness"}' in text
    assert all(f"# HELP {name} " in text for name in GAUGES)


def test_a_journal_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, tmp_path / "empty") == 2
    assert run(monkeypatch, tmp_path / "nowhere") == 2


def test_a_reference_of_other_classes_or_none(loud: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no saved model here"):
        monitor(loud, tmp_path)


def test_a_journal_cut_in_the_middle(tmp_path: Path) -> None:
    folder = write(tmp_path / "journal", rows(120, 4))
    [file] = folder.glob("*.parquet")
    write(folder, rows(120, 5, start=120))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    found = monitor(folder)
    assert found.images == 70 and found.reference_images == 50
    assert any(file.name in reason for reason in found.skipped)


class Receiver(BaseHTTPRequestHandler):
    received: ClassVar[list[tuple[str, Any]]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, json.loads(body)))
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("OneReceiver", (Receiver,), {"received": [], "status": 200})
    server = HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?key=1", kind
    server.shutdown()
    server.server_close()


def test_the_webhook_gets_the_alarms(loud: Path, receiver: tuple[str, type[Receiver]]) -> None:
    url, kind = receiver
    monitor(loud, webhook=url, allow_hosts=["127.0.0.1"])
    [(path, body)] = kind.received
    assert path == "/hook?key=1" and body["alarm"] is True and "brighter" in body["text"]
    assert set(body["alarms"][0]) == {"key", "time", "index", "id", "detector", "evidence", "threshold", "text", "over",
                                      "ended"}  # fmt: skip


def test_the_webhook_is_silent_without_an_alarm(quiet: Path, receiver: tuple[str, type[Receiver]]) -> None:
    url, kind = receiver
    monitor(quiet, webhook=url, allow_hosts=["127.0.0.1"])
    assert kind.received == []


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_redirect_or_an_error_is_not_followed(loud: Path, receiver: tuple[str, type[Receiver]], status: int) -> None:
    url, kind = receiver
    kind.status = status
    with pytest.raises(OutputError, match=str(status)):
        monitor(loud, webhook=url, allow_hosts=["127.0.0.1"])
    assert len(kind.received) == 1


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:9/x", []), ("http://127.0.0.1:9/x", ["localhost"]),
        ("http://evil.example@good.example/", ["good.example"]), ("file:///etc/passwd", ["good.example"]),
        ("http://good.example.evil.example/", ["good.example"]), ("ftp://good.example/", ["good.example"]),
        ("http://[::1/", ["::1"]), ("http:///x", [""]), ("http://good.example:99999/", ["good.example"]),
    ],
)  # fmt: skip
def test_other_webhooks_are_refused(url: str, allowed: list[str]) -> None:
    with pytest.raises(UsageError):
        check_webhook(url, allowed)


def test_a_host_that_does_not_answer(loud: Path) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(OutputError, match="could not be reached"):
            post_message(f"http://127.0.0.1:{silent.getsockname()[1]}/", monitor(loud), ["127.0.0.1"], timeout=0.3)


def test_a_port_needs_watch(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, quiet, "--prometheus", "0") == 2


def test_watching_sends_an_alarm_once_and_survives_a_damaged_journal(
    loud: Path, receiver: tuple[str, type[Receiver]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, kind = receiver
    looks = iter([None, DataError("the journal cannot be read"), None])
    from segwright import api

    def look(*given: Any, **named: Any) -> Any:
        found = next(looks, KeyboardInterrupt())
        if found is not None:
            raise found
        return monitor(*given, **named)

    monkeypatch.setattr(api, "monitor", look)
    with pytest.raises(SystemExit) as ended:
        arguments = ["--watch", "--every", "0.01", "--webhook", url, "--allow-host", "127.0.0.1"]
        monkeypatch.setattr(sys, "argv", ["segwright", "monitor", str(loud), *arguments])
        cli.main()
    assert ended.value.code == 1 and len(kind.received) == 1


def test_detectors_of_the_gauges(loud: Path) -> None:
    assert {alarm.detector for alarm in monitor(loud).alarms} <= set(DETECTORS)


def test_from_a_saved_model_to_an_alarm(tmp_path: Path) -> None:
    """Reference and estimator in the bundle, images that are predicted, a journal, and fog."""
    import torch

    import segwright as sw
    from segwright.imageio import read_image, write_image
    from segwright.inference.bundle import Bundle, read_attachments, save_bundle
    from segwright.models.catalog import create_model

    streets = write_street_scenes(tmp_path / "streets", train=40, val=40, test=1, size=(64, 96))
    space = sw.open_dataset(streets).label_space
    torch.manual_seed(0)
    narrow = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}
    network = create_model("leannet", classes=space.classes, weights=None, **narrow)
    save_bundle(tmp_path / "model", network, Bundle("leannet", space, narrow))
    sw.make_reference(tmp_path / "model", streets, split="val", device="cpu")
    assert {"reference", "accuracy"} <= set(read_attachments(tmp_path / "model"))
    clear = streets / "images" / "train"
    foggy = tmp_path / "foggy"
    foggy.mkdir()
    for number, path in enumerate(sorted(clear.iterdir())):
        write_image(foggy / path.name, sw.corrupt(read_image(path), "fog", 5, seed=number))
    for name, source in (("clear", clear), ("fog", foggy)):
        sw.predict(tmp_path / "model", source, out=tmp_path / name, journal=tmp_path / f"{name} journal", device="cpu",
                   overlay=False)  # fmt: skip
    quiet = sw.monitor(tmp_path / "clear journal", tmp_path / "model")
    assert not quiet.alarm and quiet.images == 40 and quiet.estimate is not None
    assert quiet.estimate.low <= quiet.estimate.miou <= quiet.estimate.high and quiet.estimate.method == "regression"
    assert abs(quiet.estimate.miou - quiet.estimate.reference) < 0.1
    alarmed = sw.monitor(tmp_path / "fog journal", tmp_path / "model", html=tmp_path / "page.html")
    assert alarmed.alarm and alarmed.alarms[0].index < 30 and (tmp_path / "page.html").stat().st_size > 1000

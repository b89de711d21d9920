"""``segwright serve`` as a process: it says its URL, answers, takes another model, and stops when it is asked to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image

import segwright as sw
from segwright.cli import main
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import encode_png
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model

PATIENCE = 180.0  # seconds; a slow machine takes a dozen to import torch


def save_model(folder: Path, names: str = "abc") -> Path:
    torch.manual_seed(5)
    arguments = {"width": 8, "in_channels": 3}
    network = create_model("segnet_basic", classes=3, weights=None, **arguments)
    scene = torch.from_numpy(draw_street("served", (64, 96))[0][None])
    with torch.no_grad():
        for _ in range(10):
            network(scene)
    return save_bundle(folder, network.eval(), Bundle("segnet_basic", LabelSpace(tuple(names)), arguments))


class Server:
    """The command in a process of its own, and the lines that it says."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segwright", "serve", *map(str, arguments), "--port", "0", "--device", "cpu"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.said, self.log = self._lines(self.process.stdout), self._lines(self.process.stderr)
        self.first = self.line(self.said, "Serving")
        found = re.search(r"http://\S+:(\d+)/", self.first)
        assert found is not None, self.first
        self.port = int(found[1])

    @staticmethod
    def _lines(stream: IO[str] | None) -> queue.Queue[str | None]:
        assert stream is not None
        found: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            for line in stream:
                found.put(line.rstrip("\n"))
            found.put(None)

        threading.Thread(target=read, daemon=True).start()
        return found

    def line(self, lines: queue.Queue[str | None], part: str) -> str:
        """The next line with ``part`` in it."""
        while True:
            line = lines.get(timeout=PATIENCE)
            if line is None:
                rest = [self.log.get() for _ in range(self.log.qsize())]
                raise AssertionError(f"it ended without saying {part!r}: {rest}")
            if part in line:
                return line

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    server = Server(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def eventually(condition: Callable[[], Any]) -> None:
    """What another process does has no event here to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    return save_model(tmp_path_factory.mktemp("runs") / "street" / "model").parent


def test_it_answers_refuses_slow_clients_and_reloads(model: Path) -> None:
    image = draw_street("asked", (64, 96))[0]
    with serving(model, "--upload-timeout", 2) as server:
        assert server.first.startswith("Serving street at http://127.0.0.1:")
        status, body = server.ask("/predict", encode_png(image), **{"Content-Type": "image/png"})
        assert status == 200
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(body))), sw.load(model, device="cpu")(image).labels
        )
        assert re.search(r"POST /predict 200 \d+ ms$", server.line(server.log, "/predict"))
        assert server.ask("/made/up")[0] == 404 and " GET other 404 " in server.line(server.log, "404")
        status, body = server.ask("/model", Host="rebound.example")
        assert status == 400 and b"street" not in body, "a service of this machine alone"

        with server.connect() as slow:  # case 38, as an attacker would
            slow.sendall(b"POST /predict HTTP/1.1\r\n")
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := slow.recv(4096):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 408")

        def names() -> list[str]:
            return [entry["name"] for entry in json.loads(server.ask("/model")[1])["classes"]]

        save_model(model / "model", "xyz")
        assert names() == ["a", "b", "c"]
        server.process.send_signal(signal.SIGHUP)
        server.line(server.log, "model reloaded")
        assert names() == ["x", "y", "z"]
        weights = model / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])
        server.process.send_signal(signal.SIGHUP)
        assert "is not what was saved" in server.line(server.log, "the previous model stays in use")
        assert names() == ["x", "y", "z"] and server.ask("/ready")[0] == 200
        assert server.end(signal.SIGINT) == 0
        server.line(server.said, "Stopped")
        save_model(model / "model")


def test_a_stop_answers_what_was_taken_and_exits_with_0(model: Path) -> None:
    data = encode_png(draw_street("late", (64, 96))[0])
    with serving(model, "--host", "0.0.0.0") as server:
        assert "no authentication" in server.line(server.said, "Warning")
        head = f"POST /predict?as=json HTTP/1.1\r\nHost: street.example\r\nContent-Length: {len(data)}\r\n"
        with server.connect() as client:
            client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            reader = client.makefile("rb")
            assert reader.readline() == b"HTTP/1.1 100 Continue\r\n", "it has the request, and reads its body"
            client.sendall(data[:100])
            server.process.send_signal(signal.SIGTERM)

            def refuses() -> bool:
                try:
                    server.connect().close()
                except OSError:
                    return True
                return False

            eventually(refuses)  # it is stopping, and not stopped
            assert server.process.poll() is None
            client.sendall(data[100:])
            answer = reader.read()
            assert b"HTTP/1.1 200 OK" in answer and b'"mean_confidence"' in answer
        assert server.process.wait(PATIENCE) == 0
        server.line(server.said, "Stopped")


def test_a_busy_port_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["segwright", "serve", str(tmp_path / "none"), "--port", str(port)])
        with pytest.raises(SystemExit) as leaving:
            main()
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in said and "--port 0" in said


def test_no_model_is_said_as_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["segwright", "serve", str(tmp_path), "--port", "0"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2 and "no saved model here" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_a_server() -> None:
    code = "import sys; from segwright.cli import main; sys.argv = ['segwright', 'serve', '--help']\n"
    code += (
        "try: main()\nexcept SystemExit: pass\nassert not {'torch', 'uvicorn', 'prometheus_client'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for option in ("--host", "--max-concurrent-requests", "--max-megapixels", "--watch"):
        assert option in done.stdout


def test_former_options_work_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("segwright.api.serve", lambda model, **options: given.update(options))
    monkeypatch.setattr(sys, "argv", ["segwright", "serve", str(tmp_path), "--queue", "7", "--timeout", "3.5"])
    with contextlib.suppress(SystemExit):
        main()
    assert given["max_concurrent_requests"] == 7 and given["upload_timeout"] == 3.5
    lines = capsys.readouterr().err.splitlines()
    assert "--queue is now --max-concurrent-requests" in lines[0] and "--timeout is now --upload-timeout" in lines[1]

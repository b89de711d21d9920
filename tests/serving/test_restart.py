"""Another process takes the port over while requests come: none of them is lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_serving import bundle

from segwright.core.errors import UsageError
from segwright.imageio import encode_png
from segwright.serving import restart

PATIENCE = 180.0
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="there are no such signals")


class Process:
    """``segwright serve`` with its log in a file; ``pids`` are its own and those that took over."""

    def __init__(self, folder: Path, model: Path, *more: str) -> None:
        self.log = folder / "log.txt"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "segwright", "serve", str(model), "--port", "0", "--device", "cpu", *more],
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.port = int(self.wait_for(r"Serving .* at https?://[^:]+:(\d+)/")[0])

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """The first groups of a pattern in the log, once it is there so many times."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = re.findall(pattern, self.log.read_text(errors="replace"))
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{pattern} never came:\n{self.log.read_text(errors='replace')}")

    def end(self) -> None:
        for pid in (self.process.pid, *map(int, re.findall(r"process (\d+) is being", self.log.read_text()))):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


class Load(threading.Thread):
    """A client that sends one image after the other over a connection that it keeps as long as it may."""

    def __init__(self, port: int, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.keeps, self.stop = port, keeps, threading.Event()
        self.answered, self.lost = 0, list[str]()

    def run(self) -> None:
        body = encode_png(np.zeros((24, 32, 3), np.uint8))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        while not self.stop.is_set():
            try:
                headers = {} if self.keeps else {"Connection": "close"}
                connection.request("POST", "/predict", body, headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.lost.append(str(answer.status))
                self.answered += 1
            except Exception as error:  # a thread that dies would count as one that lost nothing
                self.lost.append(repr(error))
                connection.close()
        connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Process:
    process = Process(tmp_path, bundle(tmp_path / "street"))
    yield process  # type: ignore[misc]
    process.end()


def test_requests_in_flight_and_new_ones_survive_two_restarts(served: Process) -> None:
    clients = [Load(served.port, keeps) for keeps in (True, True, False)]
    for client in clients:
        client.start()

    def progress(number: int) -> None:
        """Let every client be answered so many times more."""
        goals = [client.answered + number for client in clients]
        end = time.monotonic() + PATIENCE
        while any(client.answered < goal for client, goal in zip(clients, goals, strict=True)):
            assert time.monotonic() < end and not any(client.lost for client in clients), [c.lost for c in clients]
            time.sleep(0.02)

    progress(3)
    pid = served.process.pid
    for turn in (1, 2):
        os.kill(pid, signal.SIGUSR2)
        served.wait_for(r"has taken over", turn)
        pid = int(served.wait_for(r"process (\d+) is being started", turn)[-1])
        served.wait_for(r"Stopped", turn)
        progress(3)
    assert served.process.wait(PATIENCE) == 0
    for client in clients:
        client.stop.set()
    for client in clients:
        client.join(PATIENCE)
    assert [client.lost for client in clients] == [[], [], []]
    os.kill(pid, signal.SIGTERM)
    served.wait_for(r"Stopped", 3)


def test_a_new_process_that_cannot_start_leaves_the_old_one_in_service(served: Process, tmp_path: Path) -> None:
    description = tmp_path / "street" / "model.json"
    was = description.read_bytes()
    description.write_bytes(was[:-10])
    os.kill(served.process.pid, signal.SIGUSR2)
    served.wait_for(r"not restarted, this process goes on: the new one has ended with exit code 2")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
    connection.request("GET", "/ready")
    assert json.loads(connection.getresponse().read()) == {"status": "ready"}
    connection.close()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE) == 0


def test_what_is_no_listening_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (restart.SOCKET_VARIABLE, "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    assert restart.inherited_socket() is None
    with open(tmp_path / "file", "w") as file, socket.socket(socket.AF_UNIX) as local:
        for number in ("x", "-1", "999999", str(os.dup(file.fileno())), str(os.dup(local.fileno()))):
            monkeypatch.setenv(restart.SOCKET_VARIABLE, number)
            with pytest.raises(UsageError, match="cannot be used"):
                restart.inherited_socket()
            assert restart.SOCKET_VARIABLE not in os.environ
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(UsageError, match="one socket"):
        restart.inherited_socket()
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert restart.inherited_socket() is None, "meant for another process"


def test_a_socket_of_another_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv(restart.SOCKET_VARIABLE, str(os.dup(listening.fileno())))
        receive, send = os.pipe()
        monkeypatch.setenv(restart.READY_VARIABLE, str(send))
        found = restart.inherited_socket()
        assert found is not None and found.sock.getsockname() == listening.getsockname()
        assert not os.get_inheritable(found.sock.fileno())
        found.report_ready()
        assert os.read(receive, 9) == b"1" and os.read(receive, 9) == b""
        os.close(receive)
        found.sock.close()

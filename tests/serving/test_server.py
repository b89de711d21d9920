"""The service on a real port: clients that are slow, silent or too many; the port; watching the model's files."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segwright.core.errors import MissingExtraError, UsageError
from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array, encode_png
from segwright.inference.predictor import Predictor
from segwright.serving import uvicorn_timeouts
from segwright.serving.app import create_app
from segwright.serving.limits import ServiceLimits
from segwright.serving.packages import require_packages
from segwright.serving.server import Address, bind, build_server

PATIENCE = 120.0


class Dark:
    """A network for which everything is its first class."""

    classes, in_channels = 2, 3

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.warm = False

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        if self.warm:  # the first image is the service's own, before it listens
            self.gate.wait(PATIENCE)
        self.warm = True
        return np.zeros(images.shape[:3], np.uint8), np.ones(images.shape[:3], np.float32)

    def logits(self, images: UInt8Array) -> Float32Array:
        raise AssertionError("nobody asks for them")


@asynccontextmanager
async def listening(network: Dark | None = None, **limits: Any) -> AsyncIterator[tuple[Any, int]]:
    """A server in this loop, and its port."""
    app = create_app(Predictor(network or Dark(), LabelSpace(("a", "b"))), ServiceLimits(**limits))
    ready = asyncio.Event()
    sock, address = bind("127.0.0.1", 0)
    server = build_server(app, ready.set)
    serving = asyncio.create_task(server._serve([sock]))
    await asyncio.wait_for(ready.wait(), PATIENCE)
    try:
        yield server, address.port
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, PATIENCE)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes."""
    return await asyncio.wait_for(reader.read(), PATIENCE)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def test_case_38_slow_headers_end_the_connection_however_often_a_byte_comes() -> None:
    async def work() -> None:
        async with listening(header_seconds=0.5) as (server, port):
            silent, quiet = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")

            async def drip() -> None:
                while not writer.is_closing():  # each byte well within any limit of its own
                    writer.write(b"X-Slow: 1\r\n")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            answer = await asyncio.wait_for(reader.readline(), PATIENCE)
            assert answer == b"HTTP/1.1 408 Request Timeout\r\n"
            assert (await rest(silent)).startswith(b"HTTP/1.1 408")
            await until(lambda: not server.server_state.connections)
            dripping.cancel()
            for each in (writer, quiet):
                each.close()

    asyncio.run(work())


def test_case_38_the_second_request_of_a_connection_is_timed_as_well() -> None:
    async def work() -> None:
        async with listening(header_seconds=1.0) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            writer.write(b"GET /health HTTP/1.1\r\n")
            assert b"408 Request Timeout" in await rest(reader)
            writer.close()

    asyncio.run(work())


def test_case_38_a_request_that_is_being_worked_on_is_not_timed_by_its_headers() -> None:
    async def work() -> None:
        async with listening(header_seconds=1.0, body_seconds=PATIENCE) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
            )
            assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            await asyncio.sleep(1.5)  # longer than headers may take
            writer.write(b"abc")
            assert b"400 Bad Request" in await asyncio.wait_for(reader.readuntil(b"}\n"), PATIENCE)
            writer.close()

    asyncio.run(work())


def test_who_does_not_read_the_answers_is_cut_off() -> None:
    async def work() -> None:
        async with listening(write_seconds=0.3) as (server, port):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            asking = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
            loop, broken = asyncio.get_running_loop(), False
            while not broken:  # until the server reads no more, having nowhere to put its answers
                try:
                    await asyncio.wait_for(loop.sock_sendall(client, asking), PATIENCE)
                except OSError:
                    broken = True
            await until(lambda: not server.server_state.connections)
            assert broken and not server.server_state.connections
            client.close()

    asyncio.run(work())


def test_a_slow_reader_who_goes_on_reading_gets_all() -> None:
    """With a loop and a transport that are played: what a line carries in a second is no matter of a real clock."""
    looks: list[Callable[[], None]] = []

    class Played:
        left, aborted = 5_000_000, False

        def get_write_buffer_size(self) -> int:
            return self.left

        def abort(self) -> None:
            self.aborted = True

        def call_later(self, seconds: float, look: Callable[[], None]) -> None:
            looks.append(look)

    played = Played()
    protocol: Any = uvicorn_timeouts.TimeoutH11Protocol.__new__(uvicorn_timeouts.TimeoutH11Protocol)
    protocol.loop = protocol.transport = played
    protocol.limits = ServiceLimits()
    protocol._arm_write_timer(played.left)
    for _ in range(5):
        played.left -= 100_000
        looks.pop()()
        assert not played.aborted and len(looks) == 1, "looked at again"
    played.left -= 1000
    looks.pop()()
    assert played.aborted and not looks, "a byte now and then is no reading"


def test_a_stop_is_bounded_whatever_the_network_does() -> None:
    network = Dark()
    network.gate.clear()

    async def work() -> None:
        async with listening(network, stop_seconds=1.0) as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            data = encode_png(np.zeros((4, 5, 3), np.uint8))
            writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await until(lambda: server.app.service.in_flight == 1 and server.app.service.decoded_pixels > 0)
        assert server.app.service.stopping and server.app.service.in_flight == 0
        writer.close()

    try:
        asyncio.run(work())
    finally:
        network.gate.set()


def test_a_body_that_nobody_reads_has_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every route, announced or in chunks: such connections close, whatever was answered."""
    monkeypatch.setattr("segwright.serving.uvicorn_timeouts.GRACE_SECONDS", 0.5)
    length, chunked = b"Content-Length: 1000000\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

    async def work() -> None:
        async with listening(body_seconds=1.0, connections=40) as (_, port):
            lines = []
            for path in (b"GET /health", b"GET /", b"POST /health", b"GET /nowhere", b"POST /predict", b"GET /metrics"):
                for body in (length, chunked):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(path + b" HTTP/1.1\r\nHost: localhost\r\n" + body)
                    lines.append((reader, writer, path))
            for reader, writer, path in lines:
                async with asyncio.timeout(PATIENCE):
                    answer = await rest(reader)  # to the end of the connection
                assert answer.startswith(b"HTTP/1.1 ") or path == b"POST /predict", (path, answer)
                writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await rest(reader)).startswith(b"HTTP/1.1 200"), "there is room for others"
            writer.close()

    asyncio.run(work())


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def test_connections_at_work_are_bounded_and_idle_ones_make_room() -> None:
    network = Dark()
    image = encode_png(np.zeros((8, 8, 3), np.uint8))
    post = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"

    async def work() -> None:
        async with listening(network, connections=2, header_seconds=PATIENCE) as (server, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            held[0][1].write(HEALTH + b"\r\n")
            assert await held[0][0].readline() == b"HTTP/1.1 200 OK\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await rest(held[1][0]) == b"", "the one that was silent for longest has made room"
            network.gate.clear()
            for line in (held[0][1], writer):
                line.write(post % len(image) + image)
            await until(lambda: sum(one.cycle is not None and not one.cycle.response_complete
                                    for one in server.server_state.connections) == 2)  # fmt: skip
            third, closing = await asyncio.open_connection("127.0.0.1", port)
            refused = await rest(third)
            assert refused.startswith(b"HTTP/1.1 503") and b"retry-after" in refused, "all are at work"
            network.gate.set()
            assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"HTTP/1.1 200 OK\r\n"
            for each in (held[0][1], held[1][1], writer, closing):
                each.close()

    try:
        asyncio.run(work())
    finally:
        network.gate.set()


SILENT = (
    b"", HEALTH[:9], HEALTH + b"Content-Length: 1000000\r\n\r\nx", HEALTH + b"\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nx",
)  # fmt: skip


@pytest.mark.parametrize("sent", SILENT)
def test_256_silent_connections_keep_nobody_out(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the service takes, in every state in which a client can fall silent."""
    monkeypatch.setattr("segwright.serving.uvicorn_timeouts.SILENT_SECONDS", 0.1)

    async def work() -> None:
        async with listening() as (server, port):
            most = server.config.app.service.limits.connections
            assert most == 256
            held = []
            for _ in range(most):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                held.append((reader, writer))
            await asyncio.sleep(0.5)  # those that were answered may be closed meanwhile
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HEALTH + b"Connection: close\r\n\r\n")
                assert (await rest(reader)).startswith(b"HTTP/1.1 200")
                writer.close()
            for _, writer in held:
                writer.close()

    asyncio.run(work())


def test_headers_are_bounded_and_the_banner_tells_nothing() -> None:
    async def work() -> None:
        async with listening() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000)
            assert (await rest(reader)).startswith(b"HTTP/1.1 400")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = (await rest(reader)).lower()
            assert text.count(b"\r\nserver: ") == 1 and b"\r\nserver: segwright\r\n" in text and b"uvicorn" not in text
            writer.close()

    asyncio.run(work())


def test_a_port_that_cannot_be_had_is_said_with_its_fix() -> None:
    taken, address = bind("127.0.0.1", 0)
    taken.listen()
    with taken, pytest.raises(UsageError, match="port is in use") as caught:
        bind("127.0.0.1", address.port)
    assert "--port 0" in str(caught.value)
    for host, port in (("127.0.0.1", 65536), ("no such host", 0), ("203.0.113.7", 0)):
        with pytest.raises(UsageError):
            bind(host, port)


def test_what_is_loopback() -> None:
    for host, alone in (("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("street", False)):
        assert Address(host, 80).loopback is alone, host
    assert Address("::1", 80).url == "http://[::1]:80/"


def test_a_changed_model_is_noticed_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_timeouts, "WATCH_SECONDS", 0.0)
    seen: list[Any] = []
    real = uvicorn_timeouts.signature

    def counted(path: Path) -> Any:
        seen.append(real(path))
        return seen[-1]

    monkeypatch.setattr(uvicorn_timeouts, "signature", counted)
    reloads: list[Any] = []

    class App:
        class service:
            @staticmethod
            async def reload() -> None:
                reloads.append(real(tmp_path / "model"))

    async def looks(count: int) -> None:
        goal = len(seen) + count
        await until(lambda: len(seen) >= goal)

    async def work() -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.json").write_text("1")
        watching = asyncio.create_task(uvicorn_timeouts._watch(tmp_path / "model", App))  # type: ignore[arg-type]
        await looks(4)
        assert not reloads
        (tmp_path / "model").rename(tmp_path / "away")
        await looks(4)
        assert not reloads, "gone for a moment is no other model"
        (tmp_path / "away" / "model.json").write_text("22")
        (tmp_path / "away").rename(tmp_path / "model")
        await looks(6)
        assert reloads == [real(tmp_path / "model")], "once"
        watching.cancel()

    asyncio.run(work())


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"segwright\[serve\]"):
        create_app(Predictor(Dark(), LabelSpace(("a", "b"))))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="uvicorn"):
        require_packages()

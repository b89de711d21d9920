"""What uvicorn leaves open, closed. To be imported where a server is started: uvicorn is an optional package.

uvicorn bounds how long an idle connection is kept, not how slowly a request's headers come, nor how long a client may
leave its answer unread, and a signal that it handles ends the process as that signal would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from segwright.serving.app import Application
from segwright.serving.limits import ServiceLimits

WATCH_SECONDS = 2.0
GRACE_SECONDS = 3.0  # after which a body that is late is cut off; who reads it has answered 408 by then
SILENT_SECONDS = 2.0  # after which a body that stopped coming may make room for another connection
READ_BYTES = 1 << 16  # of an answer, that a client has to take in ``write_seconds``


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a time limit for headers and for reading the answer, and a bound on connections.

    Where there are more, an idle one makes room: it is refused only where all others are at work.
    """

    limits: ServiceLimits
    _heard = 0.0  # when the client last sent something, by the loop's clock
    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _body: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.limits = self.config.app.service.limits  # type: ignore[union-attr]
        self._heard = self.loop.time()
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._end(503, "too many connections")
        self._look()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)
        self._look()

    def _make_room(self) -> bool:
        """Close the connection that has said nothing for longest, of those that no answer is due to."""
        others = [one for one in self.connections if one is not self and not one.transport.is_closing()]
        if len(others) < self.limits.connections:
            return True
        spare = [one for one in others if isinstance(one, PatientProtocol) and one._is_spare()]
        if not spare:
            return False
        min(spare, key=lambda one: (one._is_working(), one._heard)).transport.abort()
        return True

    def _is_working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_spare(self) -> bool:
        """Whether it waits for bytes of the client's: for a request, or for the rest of a body that stopped coming."""
        if self.transport.get_write_buffer_size():  # of an answer
            return False
        silent = self.conn.their_state is h11.SEND_BODY and self.loop.time() - self._heard > SILENT_SECONDS
        return silent or not self._is_working()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._waiting, self._unread, self._body):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _expect_reading(self, unread: int) -> None:
        """Look again after a while, and cut off who took next to nothing meanwhile; a slow line takes its time."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if unread - left < READ_BYTES:
                self.transport.abort()
            else:
                self._expect_reading(left)

        self._unread = self.loop.call_later(self.limits.write_seconds, look)

    def _look(self) -> None:
        """One timer from the moment a request is awaited to the end of its headers, however often bytes come."""
        awaited = _awaits_headers(self.conn) and not self.transport.is_closing()
        if awaited and self._waiting is None:
            late = "the headers did not come in time"
            self._waiting = self.loop.call_later(self.limits.header_seconds, self._end, 408, late)
        elif not awaited and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        # Whether anybody reads it or not: the clock of a body runs from its headers to its end.
        coming = self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing()
        if coming and self._body is None:
            self._body = self.loop.call_later(self.limits.body_seconds + GRACE_SECONDS, self.transport.abort)
        elif not coming and self._body is not None:
            self._body.cancel()
            self._body = None

    def _end(self, status: int, message: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(_last_words(status, message))
            self.transport.close()


def _awaits_headers(connection: Any) -> bool:
    return connection.their_state is h11.IDLE and connection.our_state is h11.IDLE


def _last_words(status: int, message: str) -> bytes:
    """A whole answer, for connections that no request was read from."""
    body = f'{{"error": "{message}", "expected": null, "found": null, "fix": "ask again"}}\n'
    phrase = {408: "Request Timeout", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {phrase}\r\nserver: segwright\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode("ascii")


class PatientServer(uvicorn.Server):
    """Says when it listens; its signals end it with exit code 0."""

    def __init__(self, config: uvicorn.Config, app: Application, greet: Callable[[], None], watch: Path | None) -> None:
        super().__init__(config)
        self.app, self.greet, self.watch = app, greet, watch
        self.reloads: set[asyncio.Task[Any]] = set()
        # Started by nohup, it has said that its terminal may go.
        self.terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # the application's own start failed: serve_model says so
            self.should_exit = True
            return
        if self.watch is not None:
            self._keep(_watch(self.watch, self.app))
        self.greet()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.service.stopping = True
        for task in self.reloads:
            task.cancel()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        actions = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGHUP: self._hang_up}
        for number, action in actions.items():
            loop.add_signal_handler(number, action, number)
        try:
            yield
        finally:
            for number in actions:
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT  # the second Ctrl-C does not wait
        self.should_exit = True

    def _hang_up(self, number: signal.Signals) -> None:
        if self.terminal and not _has_terminal():  # its window was closed: nobody asked for another model
            self._stop(number)
        else:
            self._keep(self.app.service.reload())

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.reloads.add(task)  # a task that nobody holds may be collected while it runs
        task.add_done_callback(self.reloads.discard)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _watch(path: Path, app: Application) -> None:
    """Reload whenever the saved model is another one, and the same twice in a row: not while it is being copied."""
    loaded = seen = signature(path)
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        now = signature(path)
        if now == seen and now != loaded and now is not None:
            loaded = now
            await app.service.reload()
        seen = now


def signature(path: Path) -> tuple[tuple[str, int, int, int], ...] | None:
    """What tells one saved model from another by its files' entries alone; None where there is none."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

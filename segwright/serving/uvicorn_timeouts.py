"""Timeouts that uvicorn lacks, and its signal handling.

uvicorn limits how long an idle connection is kept, but not how slowly headers may arrive, nor how long a client may
leave its response unread, and a signal that it handles ends the process with that signal. The class below extends
``H11Protocol``, whose internals are not a public interface: the extra ``serve`` pins ``uvicorn<1``, and
``tests/serving/test_server.py`` tests every timeout on a real port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import h11
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from segwright.serving.limits import ServiceLimits
from segwright.serving.restart import start_successor, stop_accepting, until_quiet

logger = logging.getLogger("segwright.serve")

WATCH_SECONDS = 2.0
GRACE_SECONDS = 3.0  # after a body is late, until its connection is closed; the route has sent 408 by then
SILENT_SECONDS = 2.0  # without data, until a connection in the middle of a body may be closed for another one
READ_BYTES = 1 << 16  # of a response that a client has to read per ``write_seconds``


class ServedService(Protocol):
    """What the server needs of an application's service."""

    stopping: bool

    @property
    def limits(self) -> ServiceLimits: ...

    async def reload(self, name: str | None = None) -> bool: ...


class ServedApplication(Protocol):
    """An ASGI application with such a service."""

    @property
    def service(self) -> ServedService: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class TimeoutH11Protocol(H11Protocol):
    """HTTP/1.1 with a time limit for headers, body and reading the response, and a limit of connections.

    A connection above the limit replaces an idle one; it is rejected only if all others are busy.
    """

    limits: ServiceLimits
    _last_received = 0.0  # when data last arrived, by the loop's clock
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.limits = self.config.app.service.limits  # type: ignore[union-attr]
        self._last_received = self.loop.time()
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._abort(503, "too many connections")
        self._arm_timers()

    def data_received(self, data: bytes) -> None:
        self._last_received = self.loop.time()
        super().data_received(data)
        self._arm_timers()

    def _make_room(self) -> bool:
        """Close the idle connection that has sent nothing for longest; False if all are busy."""
        others = [one for one in self.connections if one is not self and not one.transport.is_closing()]
        if len(others) < self.limits.connections:
            return True
        spare = [one for one in others if isinstance(one, TimeoutH11Protocol) and one._is_idle()]
        if not spare:
            return False
        min(spare, key=lambda one: (one._is_busy(), one._last_received)).transport.abort()
        return True

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_idle(self) -> bool:
        """Whether it waits for the client: for a request, or for the rest of a body that no longer arrives."""
        if self.transport.get_write_buffer_size():  # of a response
            return False
        silent = self.conn.their_state is h11.SEND_BODY and self.loop.time() - self._last_received > SILENT_SECONDS
        return silent or not self._is_busy()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._write_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm_write_timer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _arm_write_timer(self, unread: int) -> None:
        """After ``write_seconds``, disconnect a client that has read less than READ_BYTES; a slow one may continue."""

        def check() -> None:
            left = self.transport.get_write_buffer_size()
            if unread - left < READ_BYTES:
                self.transport.abort()
            else:
                self._arm_write_timer(left)

        self._write_timer = self.loop.call_later(self.limits.write_seconds, check)

    def _arm_timers(self) -> None:
        """One timer from waiting for a request to the end of its headers, however often data arrives; one per body."""
        awaited = _awaits_headers(self.conn) and not self.transport.is_closing()
        if awaited and self._header_timer is None:
            late = "the headers did not arrive in time"
            self._header_timer = self.loop.call_later(self.limits.header_seconds, self._abort, 408, late)
        elif not awaited and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        # The timer of a body runs from its headers to its end, whether a route reads it or not.
        coming = self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing()
        if coming and self._body_timer is None:
            self._body_timer = self.loop.call_later(self.limits.body_seconds + GRACE_SECONDS, self.transport.abort)
        elif not coming and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _abort(self, status: int, message: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(_error_response(status, message))
            self.transport.close()


def _awaits_headers(connection: Any) -> bool:
    return connection.their_state is h11.IDLE and connection.our_state is h11.IDLE


def _error_response(status: int, message: str) -> bytes:
    """A whole response, for a connection from which no request was read."""
    body = f'{{"error": "{message}", "expected": null, "found": null, "fix": "try again"}}\n'
    phrase = {408: "Request Timeout", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {phrase}\r\nserver: segwright\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode("ascii")


class GracefulServer(uvicorn.Server):
    """Calls ``on_started`` once it listens. SIGINT and SIGTERM end it with exit code 0, SIGHUP reloads the models and
    calls ``on_reload``, SIGUSR2 lets a new process take over (:mod:`segwright.serving.restart`). ``watch``: names of
    models, and the files whose change reloads them. ``tls``: the context of new connections."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: ServedApplication,
        on_started: Callable[[], None],
        watch: Mapping[str, Path],
        *,
        on_reload: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config)
        self.app, self.on_started, self.watch, self.on_reload, self.tls = app, on_started, watch, on_reload, tls
        self.tasks: set[asyncio.Task[Any]] = set()
        self._restarting = False
        # Ignored under nohup: SIGHUP is then a request to reload even after the terminal was closed.
        self.terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            if self.tls is None:
                await super().startup(sockets)
            else:
                await self._startup_tls(self.tls, sockets or [])
        except SystemExit:  # the application failed to start: serve_models raises the error
            self.should_exit = True
            return
        for name, path in self.watch.items():
            self._start_task(_watch(path, self.app, name))
        self.on_started()

    async def _startup_tls(self, context: ssl.SSLContext, sockets: list[socket.socket]) -> None:
        """As uvicorn's own, with a time limit for handshakes, which is a minute there."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(1)
        config = self.config

        def protocol() -> asyncio.Protocol:
            state = self.lifespan.state
            return TimeoutH11Protocol(config=config, server_state=self.server_state, app_state=state)

        loop, seconds = asyncio.get_running_loop(), self.app.service.limits.header_seconds
        self.servers = [
            await loop.create_server(
                protocol, sock=one, ssl=context, backlog=config.backlog, ssl_handshake_timeout=seconds
            )
            for one in sockets
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self.tasks:
            task.cancel()
        if getattr(self.app, "handing_over", False):
            # A client that sends over an open connection now is still answered with Connection: close.
            await stop_accepting(self.servers)
            await until_quiet(lambda: len(self.server_state.connections), self.config.timeout_keep_alive + 1)
        self.app.service.stopping = True
        await super().shutdown(sockets)

    async def restart(self) -> None:
        """Start the command again with the listening socket; once it listens, this process ends."""
        if self._restarting or self.should_exit or not self.servers:
            logger.warning("not restarted: %s", "the service is stopping" if self.should_exit else "it is being done")
            return
        self._restarting = True
        try:
            taken = await start_successor(self.servers[0].sockets[0].fileno())
        finally:
            self._restarting = False
        if taken:
            logger.info("another process has taken over; this one finishes its requests")
            setattr(self.app, "handing_over", True)  # noqa: B010
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        actions = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGHUP: self._on_sighup}
        if hasattr(self.app, "handing_over"):
            actions[signal.SIGUSR2] = lambda number: self._start_task(self.restart())
        for number, action in actions.items():
            loop.add_signal_handler(number, action, number)
        try:
            yield
        finally:
            for number in actions:
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT  # a second Ctrl-C does not wait for requests
        self.should_exit = True

    def _on_sighup(self, number: signal.Signals) -> None:
        if self.terminal and not _has_terminal():  # the terminal was closed; this is not a request to reload
            self._stop(number)
        else:
            self.on_reload()
            self._start_task(self.app.service.reload())

    def _start_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)  # a task without a reference may be collected while it runs
        task.add_done_callback(self.tasks.discard)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _watch(path: Path, app: ServedApplication, *name: str) -> None:
    """Reload the model of a name, all without one, when its files have changed and two looks in a row are equal, so not
    while they are being copied."""
    loaded = seen = signature(path)
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        now = signature(path)
        if now == seen and now != loaded and now is not None:
            loaded = now
            await app.service.reload(*name)
        seen = now


def signature(path: Path) -> tuple[tuple[str, int, int, int], ...] | None:
    """Identify a saved model by the names, inodes, sizes and times of its files; None if there is none."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

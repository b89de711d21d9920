"""A restart without a lost request: a new process gets the listening socket, and the old one finishes what it has.

At SIGUSR2 the service starts its own command again with the socket inherited. Once the new process listens, the old one
accepts no more connections, answers what still comes over the open ones, each answer with ``Connection: close``, and
ends. The socket is never closed, so connections that wait for it are lost at no moment. If the new process cannot
start, the old one goes on. A supervisor that holds the socket itself (systemd's socket units: LISTEN_FDS) gets the same
by a plain restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from segwright.core.errors import UsageError

logger = logging.getLogger("segwright.serve")

SOCKET_VARIABLE, READY_VARIABLE = "SEGWRIGHT_LISTEN_FD", "SEGWRIGHT_READY_FD"
SYSTEMD_SOCKET = 3  # SD_LISTEN_FDS_START


@dataclass(frozen=True)
class Inherited:
    """The listening socket that another process has left to this one; ``ready``: what to close once it is used."""

    sock: socket.socket
    ready: int | None = None

    def report_ready(self) -> None:
        """Let the process before know that this one listens."""
        if self.ready is not None:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                os.write(self.ready, b"1")
            with contextlib.suppress(OSError):
                os.close(self.ready)


def inherited_socket() -> Inherited | None:
    """What this process was started with, and None if with nothing. The variables are removed: child processes of this
    one inherit nothing. UsageError for a descriptor that is no listening socket."""
    number, ready = os.environ.pop(SOCKET_VARIABLE, None), os.environ.pop(READY_VARIABLE, None)
    if number is None:
        count, process = os.environ.pop("LISTEN_FDS", None), os.environ.pop("LISTEN_PID", None)
        if count is None or process != str(os.getpid()):
            return None
        if count != "1":
            raise UsageError("one socket is needed of systemd", expected="LISTEN_FDS=1", found=count[:20])
        number = str(SYSTEMD_SOCKET)
    try:
        found = socket.socket(fileno=int(number))
        kind = found.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        if kind != socket.SOCK_STREAM or found.family not in (socket.AF_INET, socket.AF_INET6):
            raise OSError("not a TCP socket")
        os.set_inheritable(found.fileno(), False)
        handle = None if ready is None else int(ready)
        if handle is not None:
            os.set_inheritable(handle, False)
    except (OSError, ValueError) as error:
        raise UsageError(
            "the inherited socket cannot be used", expected="a TCP socket", found=f"descriptor {number[:20]}: {error}",
            fix=f"start without {SOCKET_VARIABLE} and LISTEN_FDS",
        ) from error  # fmt: skip
    return Inherited(found, handle)


async def start_successor(listening: int, command: list[str] | None = None) -> bool:
    """Start this process's command again with the listening socket, wait until it listens; False if it does not."""
    own = [sys.executable, *sys.orig_argv[1:]] if command is None else command
    receive, send = os.pipe()
    try:
        variables = {**os.environ, SOCKET_VARIABLE: str(listening), READY_VARIABLE: str(send)}
        process = subprocess.Popen(own, pass_fds=(listening, send), env=variables)
    except OSError as error:
        os.close(receive)
        os.close(send)
        logger.error("not restarted, this process goes on: %s", error)
        return False
    os.close(send)
    logger.info("restarting: process %d is being started", process.pid)
    if await _first_byte(receive):
        return True
    code = await asyncio.get_running_loop().run_in_executor(None, process.wait)
    logger.error("not restarted, this process goes on: the new one has ended with exit code %d", code)
    return False


async def _first_byte(receive: int) -> bool:
    """Whether a byte comes through a pipe before it is closed at the other end."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bool] = loop.create_future()

    def read() -> None:
        if not came.done():
            came.set_result(bool(os.read(receive, 1)))

    loop.add_reader(receive, read)
    try:
        return await came
    finally:
        loop.remove_reader(receive)
        os.close(receive)


async def stop_accepting(servers: list[asyncio.Server]) -> None:
    """Accept no more connections, and close the sockets once those that were accepted are attached to their server."""
    loop = asyncio.get_running_loop()
    for server in servers:
        for one in server.sockets:
            loop.remove_reader(one.fileno())
    for _ in range(10):  # accepted ones become connections in the next rounds of the loop
        await asyncio.sleep(0.01)
    for server in servers:
        server.close()


async def until_quiet(count: Callable[[], int], seconds: float) -> None:
    """Return when no connection is left, or after ``seconds``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while count():
                await asyncio.sleep(0.05)

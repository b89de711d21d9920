"""The service on a port: a socket, a server around the application, and lines for people."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.core.errors import UsageError
from segwright.serving.app import Application, create_app
from segwright.serving.http import LOOPBACK
from segwright.serving.metrics import missing_package
from segwright.serving.service import try_out

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor
    from segwright.serving.limits import ServiceLimits
    from segwright.serving.uvicorn_timeouts import PatientServer

logger = logging.getLogger("segwright.serve")

MAX_HEADERS = 16 * 1024  # bytes of a request's line and headers
KEEP_ALIVE = 5  # seconds
BACKLOG = 256  # connections that the system holds for us
Say = Callable[[str], None]


@dataclass(frozen=True)
class Address:
    """Where the service listens."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}/" if ":" in self.host else f"http://{self.host}:{self.port}/"


def bind(host: str, port: int) -> tuple[socket.socket, Address]:
    """A socket that has the port, but does not listen yet; port 0 takes a free one. UsageError where there is none."""
    if not 0 <= port <= 65535:
        raise UsageError("no such port", expected="0 to 65535", found=str(port))
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError("no such host", expected="a name or address of this machine", found=host) from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
    except OSError as error:
        found.close()
        raise _unbindable(error, host, port) from error
    return found, Address(host, int(found.getsockname()[1]))


def _unbindable(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        message, fix = "the port is taken", "--port with another number; --port 0 takes a free one"
    elif error.errno == errno.EACCES:
        message, fix = "the port may not be taken", "--port above 1023"
    else:
        message, fix = "the address cannot be had", "--host 127.0.0.1, or an address that this machine has"
    return UsageError(message, expected="a free port", found=f"{host}:{port} ({error.strerror})", fix=fix)


def serve_model(
    load: Callable[[], Predictor],
    limits: ServiceLimits,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    watch: Path | None = None,
    say: Say = print,
) -> None:
    """Load a model and answer until a signal asks for the end; ``say`` gets lines for people, the URL once it answers.

    ``load`` makes the predictor, now and at SIGHUP; ``watch`` is a file or folder whose change does as SIGHUP. Outside
    the main thread no signal is handled. UsageError for a port that cannot be had, before anything is loaded;
    MissingExtraError without uvicorn or prometheus-client.
    """
    require_packages()  # what is missing is said first
    sock, address = bind(host, port)
    with contextlib.closing(sock):
        predictor = load()
        try_out(predictor)  # what is wrong with the model is said here, with its fix
        app = create_app(predictor, limits, name=name, hosts=LOOPBACK if address.loopback else None, load=load)
        server = build_server(app, _greeting(address, name, say), watch)
        server.run([sock])
    if server.lifespan.should_exit:
        raise UsageError("the service could not start", found="see the log", fix="segwright predict MODEL IMAGE")
    say("stopped")


def build_server(
    app: Application, greet: Callable[[], None] = lambda: None, watch: Path | None = None
) -> PatientServer:
    """A ``uvicorn.Server`` for ``app`` with our protocol; ``greet`` is called once it listens."""
    import uvicorn

    from segwright.serving.uvicorn_timeouts import PatientProtocol, PatientServer

    config = uvicorn.Config(
        app, http=PatientProtocol, ws="none", lifespan="on", log_config=None, log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE, backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=max(1, round(app.service.limits.stop_seconds)),
    )  # fmt: skip
    return PatientServer(config, app, greet, watch)


def require_packages() -> None:
    """MissingExtraError where uvicorn is not installed; prometheus-client is asked for by the application."""
    if importlib.util.find_spec("uvicorn") is None:
        raise missing_package("uvicorn")


def _greeting(address: Address, name: str, say: Say) -> Callable[[], None]:
    def greet() -> None:
        say(f"{name} answers at {address.url}  (Ctrl-C stops it)")
        if not address.loopback:
            say("anyone who reaches this port may use it: there is no password. Put a proxy that asks for one in front")

    return greet


def log_to_stderr() -> None:
    """One line a request on stderr, with its time; where the program has set up logging itself, it stays as it is."""
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

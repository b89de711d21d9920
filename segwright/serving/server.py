"""The service on a port: a socket, a uvicorn server around the application, and its messages."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.core.errors import UsageError
from segwright.serving.app import create_app
from segwright.serving.http import LOOPBACK
from segwright.serving.keys import KeyRing
from segwright.serving.models import ModelSource, check_sources, smoke_test
from segwright.serving.packages import require_packages
from segwright.serving.restart import inherited_socket
from segwright.serving.service import Service
from segwright.serving.tls import TlsFiles

if TYPE_CHECKING:
    from starlette.routing import Route

    from segwright.inference.predictor import Predictor
    from segwright.serving.limits import ServiceLimits
    from segwright.serving.uvicorn_timeouts import GracefulServer, ServedApplication

logger = logging.getLogger("segwright.serve")

MAX_HEADERS = 16 * 1024  # bytes of a request's line and headers
KEEP_ALIVE = 75  # seconds: longer than proxies and balancers keep an unused connection (60), or they meet a closed one
BACKLOG = 256  # connections that the system queues before they are accepted


@dataclass(frozen=True)
class Address:
    """The address that the service listens on."""

    host: str
    port: int
    secure: bool = False  # with TLS

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect to it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        scheme = "https" if self.secure else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/"


def bind(host: str, port: int) -> tuple[socket.socket, Address]:
    """A socket bound to the port, not yet listening; port 0 takes a free one. UsageError if it cannot be bound."""
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
        message, fix = "the port is in use", "--port with another number; --port 0 takes a free one"
    elif error.errno == errno.EACCES:
        message, fix = "no permission for the port", "--port above 1023"
    else:
        message, fix = "not an address of this machine", "--host 127.0.0.1, or another address of this machine"
    return UsageError(message, expected="a free port", found=f"{host}:{port} ({error.strerror})", fix=fix)


@dataclass(frozen=True)
class ListenOptions:
    """Where a service listens, and who may use it. ``keys``: the file of API keys; ``tls``: the certificate.

    ``stores``: a folder that requests change; without keys the service then takes a loopback address alone.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    tls: TlsFiles | None = None
    stores: Path | None = None


def serve_models(
    sources: Sequence[ModelSource],
    limits: ServiceLimits,
    options: ListenOptions,
    *,
    more: Callable[[Service], Sequence[Route]] | None = None,
    message: Callable[[str], None] = print,
) -> None:
    """Load models and serve them until a signal ends the service; the first is the default one.

    ``more``: further routes for the service; ``message`` gets lines for the user, such as the URL once the service
    listens. Outside the main thread no signal is handled. UsageError for a port that cannot be bound and for unusable
    names, keys or certificates, before anything is loaded; MissingExtraError without the extra ``serve``.
    """
    require_packages()
    check_sources(sources, limits.models_bytes)
    inherited = inherited_socket()
    if inherited is None:
        sock, address = bind(options.host, options.port)
    else:
        sock, address = inherited.sock, Address(options.host, int(inherited.sock.getsockname()[1]))
    with contextlib.closing(sock):
        if options.stores is not None and options.keys is None:
            _check_local(sock, options.stores)
        context = None if options.tls is None else options.tls.context()
        keys = None if options.keys is None else KeyRing(options.keys)
        address = replace(address, secure=context is not None)
        loaded = [(source, _loaded(source)) for source in sources]
        (first, predictor), *others = loaded
        hosts = LOOPBACK if address.loopback else None
        app = create_app(predictor, limits, hosts=hosts, more=more, source=first, others=others, keys=keys)

        def started() -> None:
            _announce(address, [source.name for source in sources], keys is not None, message)
            if options.stores is not None:
                who = "this machine alone, for there are no API keys" if keys is None else "whoever has an API key"
                message(f"Annotations are stored in {options.stores}, from {who}")
            if inherited is not None:
                inherited.report_ready()

        watch = {source.name: source.watch for source in sources if source.watch is not None}
        server = build_server(app, started, watch, tls=context, on_reload=_reloader(options.tls, context))
        server.run([sock])
    if server.lifespan.should_exit:
        raise UsageError("the service could not start", found="see the log", fix="segwright predict MODEL IMAGE")
    message("Stopped")


def _check_local(sock: socket.socket, folder: Path) -> None:
    """UsageError if other machines reach a socket whose requests change a folder."""
    place = sock.getsockname()
    host = str(place[0]) if isinstance(place, tuple) and place else ""
    if not Address(host.partition("%")[0], 0).loopback:
        raise UsageError(
            "without API keys anyone who reaches the port could replace or delete the masks of the label folder",
            expected="--api-keys FILE, or a loopback address", found=f"{host or 'a socket'}, no keys", where=folder,
            fix="--api-keys FILE (segwright api-key), and the key in Label Studio: as the password of the model's "
            "basic authentication, and as the header Authorization: Bearer KEY of its webhook; or --host 127.0.0.1",
        )  # fmt: skip


def _loaded(source: ModelSource) -> Predictor:
    assert source.load is not None
    predictor = source.load()
    smoke_test(predictor)  # an error of the model is raised here, with its fix
    return predictor


def _reloader(tls: TlsFiles | None, context: ssl.SSLContext | None) -> Callable[[], None]:
    """What SIGHUP does beside reloading the models. Keys need no signal."""

    def reload() -> None:
        if tls is not None and context is not None:
            tls.reload(context)

    return reload


def _announce(address: Address, names: Sequence[str], has_keys: bool, message: Callable[[str], None]) -> None:
    message(f"Serving {', '.join(names)} at {address.url}  (press Ctrl-C to stop)")
    if address.loopback:
        return
    if not has_keys:
        message(
            "Warning: no authentication. Anyone who can reach this port can use the service: --api-keys FILE, or an "
            "authenticating reverse proxy in front of it."
        )
    if not address.secure:
        message(
            "Warning: no TLS. Images, and API keys if there are any, travel unencrypted: --tls-cert and --tls-key, or "
            "a reverse proxy in front of it."
        )


def build_server(
    app: ServedApplication,
    on_started: Callable[[], None] = lambda: None,
    watch: Mapping[str, Path] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    on_reload: Callable[[], None] = lambda: None,
) -> GracefulServer:
    """A ``uvicorn.Server`` for ``app`` with our protocol; ``on_started`` is called once it listens."""
    import uvicorn

    from segwright.serving.uvicorn_timeouts import GracefulServer, TimeoutH11Protocol

    config = uvicorn.Config(
        app, http=TimeoutH11Protocol, ws="none", lifespan="on", log_config=None, log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE, backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=max(1, round(app.service.limits.stop_seconds)),
    )  # fmt: skip
    return GracefulServer(config, app, on_started, watch or {}, on_reload=on_reload, tls=tls)


def log_to_stderr(logger: logging.Logger = logger) -> None:
    """Log one line per request to stderr, unless the program has configured logging itself."""
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

"""ASGI middleware around every route, outermost first: access log, security headers, body drain, host check, API
keys, errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segwright.core.errors import SegwrightError
from segwright.serving.http import check_host, content_length, error_response
from segwright.serving.keys import KeyRing, given_key
from segwright.serving.limits import ClientDisconnected, RequestRejected

logger = logging.getLogger("segwright.serve")

OPEN_PATHS = frozenset({"/", "/health", "/healthz", "/ready", "/openapi.json"})  # to read, they need no API key
KEY = "segwright.key"  # in a request's scope: its ApiKey
OTHER = "other"  # the label of unknown paths and methods
CLIENT_DISCONNECTED = 499  # the status that nginx logs if the client disconnected before the response
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DRAIN_SECONDS = 1.0  # how long the unread body of a rejected request is discarded
SECURITY_HEADERS = {
    "server": "segwright",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
DEFAULT_POLICY = "default-src 'none'; frame-ancestors 'none'"


class _Noted:
    """``send`` that notes the status of the response; until it starts, that of a client that has gone."""

    def __init__(self, send: Send) -> None:
        self.send, self.status = send, CLIENT_DISCONNECTED

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)


class AccessLog:
    """Log and count every request with its status and time. ``routes``: the paths, with ``{name}`` where any text may
    stand, that are logged as they are."""

    def __init__(self, app: ASGIApp, routes: frozenset[str], count: Callable[[str, int, float], None]) -> None:
        self.app, self.count = app, count
        self.routes = frozenset(route for route in routes if "{" not in route)
        self.templates = [(compile_path(route)[0], route) for route in routes - self.routes]

    def _route(self, path: str) -> str:
        if path in self.routes:
            return path
        return next((template for pattern, template in self.templates if pattern.match(path)), OTHER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, noted = time.monotonic(), _Noted(send)
        try:
            await self.app(scope, receive, noted)
        except ClientDisconnected:
            pass
        finally:
            seconds = time.monotonic() - began
            route = self._route(route_path(scope))
            self.count(route, noted.status, seconds)
            method = scope["method"] if scope["method"] in METHODS else OTHER
            key = scope.get(KEY)
            by = "" if key is None else f" by {key.name}"
            logger.info("%s %s %d %.0f ms%s", method, route, noted.status, seconds * 1000, by)


class ResponseHeaders:
    """Add the security headers; send no body in response to HEAD. ``closing``: whether connections end with their
    response, because another process takes over."""

    def __init__(self, app: ASGIApp, closing: Callable[[], bool] = lambda: False) -> None:
        self.app, self.closing = app, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("content-security-policy", DEFAULT_POLICY)
                if self.closing():
                    headers["connection"] = "close"
            elif scope["method"] == "HEAD":
                message["body"] = b""
            await send(message)

        await self.app(scope, receive, send_secured)


class BodyDrain:
    """Discard, for a moment, a body that no route has read, before the response is sent.

    A connection that is closed with unread data is reset, and the client never sees the response. If more than
    ``limit`` bytes come, or the client waits for ``100 Continue``, the connection is closed instead.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        ended = not (content_length(headers) or "transfer-encoding" in headers)

        async def receive_noted() -> Message:
            nonlocal ended
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                ended = True
            return message

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                if message["status"] != 408 and "expect" not in headers:  # 408: the body is late already
                    await _drain(receive_noted, self.limit)
                if not ended:
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self.app(scope, receive_noted, send_after_body)


async def _drain(receive: Receive, limit: int) -> None:
    read = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while read < limit:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                read += len(message.get("body", b""))
    except TimeoutError:
        return


class HostCheck:
    """Reject Host headers other than ``hosts``; None allows any. Unlike Starlette's own, it reads IPv6 addresses."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_host(Headers(scope=scope), self.hosts)
            except RequestRejected as error:
                await rejected(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class ApiKeyCheck:
    """Reject requests without a known API key, and those beyond its limits. ``keys`` None: none is needed.

    ``is_open``: whether a path needs no key. The key is in the scope as KEY. Requests that only read do not count.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing | None,
        is_open: Callable[[str], bool],
        count: Callable[[str, int], None] = lambda name, status: None,
    ) -> None:
        self.app, self.keys, self.is_open, self.count = app, keys, is_open, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if self.keys is None or scope["type"] != "http" or (reads and self.is_open(route_path(scope))):
            await self.app(scope, receive, send)
            return
        try:
            limit = self.keys.check(given_key(Headers(scope=scope).get))
            scope[KEY] = limit.key
            if not reads:
                limit.take(self.keys.clock())
        except RequestRejected as error:
            if KEY in scope:
                self.count(scope[KEY].name, error.status)
            await rejected(Request(scope), error)(scope, receive, send)
            return
        noted = _Noted(send)
        try:
            await self.app(scope, receive, noted)
        finally:
            self.count(limit.key.name, noted.status)
            if not reads:
                limit.finish()


class UnhandledErrors:
    """Log an unhandled exception and respond with 500, without details of this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except ClientDisconnected:
            raise
        except Exception as exception:
            if scope["type"] != "http" or started:
                raise
            if isinstance(exception, SegwrightError):
                logger.exception("the image could not be predicted")
                response = error_response(exception, 500)
            else:
                logger.exception("unhandled exception")
                error = SegwrightError("internal error of the service", fix="see the service's log")
                response = error_response(error, 500)
            await response(scope, receive, send)


def is_open(path: str) -> bool:
    """Whether reading a path needs no API key: what holds nothing of the models."""
    return path in OPEN_PATHS or path.startswith("/static/")


def rejected(request: Request, error: Exception) -> Any:
    """The response to a RequestRejected."""
    assert isinstance(error, RequestRejected)
    return error_response(error, error.status, error.headers)


def route_path(scope: Scope) -> str:
    """The path without the prefix under which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path

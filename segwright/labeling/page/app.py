"""The label page as an ASGI application (Starlette), behind the checks of :mod:`segwright.serving`.

Everything that changes something is a POST of JSON from our own page: other sites' pages are refused by the headers
that browsers add, by the content type and by the Origin. With a token, every request needs it, as a cookie that the
first visit sets or as a bearer token.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from segwright.core.errors import OutputError, SegwrightError
from segwright.labeling.page.document import STATIC, label_page, policy, static_file
from segwright.labeling.page.service import LabelService
from segwright.serving.http import check_sender, error_response, read_body
from segwright.serving.limits import RequestRejected
from segwright.serving.middleware import (
    AccessLog,
    BodyDrain,
    HostCheck,
    ResponseHeaders,
    UnhandledErrors,
    rejected,
    route_path,
)
from segwright.serving.responses import json_response

logger = logging.getLogger("segwright.label")
BINARY = "application/octet-stream"
NO_SPACE = 507  # Insufficient Storage (RFC 4918)
Handler = Callable[[Request], Awaitable[Response]]


class LabelApplication(Starlette):
    """The routes of the label page. ``hosts``: the allowed names in a Host header; None: any. ``token``: None: none."""

    def __init__(
        self, service: LabelService, hosts: frozenset[str] | None = None, token: str | None = None, secure: bool = False
    ) -> None:
        self.service, self.token = service, token
        self.cookie = "segwright_label_" + hashlib.sha256((token or "").encode()).hexdigest()[:8]
        routes = [
            Route("/", self._page, methods=["GET"]),
            Route("/favicon.ico", self._no_icon, methods=["GET"]),
            Route("/static/{name}", self._static, methods=["GET"]),
            Route("/api/state", self._guarded(self._state), methods=["GET"]),
            Route("/api/images", self._guarded(self._images), methods=["GET"]),
            Route("/api/images/{number:int}", self._guarded(self._image), methods=["GET"]),
            Route("/api/images/{number:int}/tiles/{level:int}/{row:int}/{column:int}", self._guarded(self._tile)),
            Route("/api/images/{number:int}/{part}", self._guarded(self._part), methods=["GET"]),
            Route("/api/strokes", self._guarded(self._stroke), methods=["POST"]),
            Route("/api/questions", self._guarded(self._questions), methods=["POST"]),
            Route("/api/presence", self._guarded(self._presence), methods=["POST"]),
            Route("/api/training", self._guarded(self._training), methods=["POST"]),
        ]
        super().__init__(
            routes=routes,
            lifespan=_lifespan,
            exception_handlers={HTTPException: self._http_error, RequestRejected: rejected},
            middleware=[
                Middleware(AccessLog, routes=frozenset({"/"}), count=lambda route, status, seconds: None),
                Middleware(ResponseHeaders),
                Middleware(BodyDrain, limit=2 * service.limits.max_bytes),
                Middleware(HostCheck, hosts=hosts),
                Middleware(UnhandledErrors),
            ],
        )
        self.router.redirect_slashes = False

    # -----------------------------------------------------------------------------------------------------------------
    # Who may

    def _guarded(self, handler: Handler) -> Handler:
        """The route, for our own page and, with a token, for those who have it; typed errors become responses."""

        @functools.wraps(handler)
        async def guarded(request: Request) -> Response:
            check_sender(request.headers)
            self._check_origin(request)
            if not self._has_token(request):
                raise RequestRejected(
                    401, "a token is needed", expected="the address with ?token=…, as it was printed at the start",
                    found="none, or another one", fix="ask the person who started segwright label for the address",
                )  # fmt: skip
            if (
                request.method == "POST"
                and request.headers.get("content-type", "").partition(";")[0] != "application/json"
            ):
                raise RequestRejected(415, "the request body is not JSON", expected="application/json")
            try:
                return await handler(request)
            except RequestRejected:
                raise
            except OutputError as error:
                logger.error("a stroke cannot be written: %s", error)
                return error_response(_without_place(error), NO_SPACE)
            except SegwrightError as error:
                return error_response(_without_place(error), 400)

        return guarded

    def _check_origin(self, request: Request) -> None:
        """Browsers name the page that sends a request: one of another origin is refused, whatever else it holds."""
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host", ""):
            raise RequestRejected(403, "requests from the pages of other sites are not allowed", found=origin[:80])

    def _has_token(self, request: Request) -> bool:
        if self.token is None:
            return True
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = request.cookies.get(self.cookie) or bearer
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    async def _page(self, request: Request) -> Response:
        """``GET /``: the page. ``/?token=…`` sets the cookie and leads to the address without it."""
        given = request.query_params.get("token")
        if self.token is not None and given is not None:
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
                raise RequestRejected(401, "the token is another one", fix="use the address that was printed")
            answer = RedirectResponse("./", 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax", path="/", max_age=30 * 86400)
            return answer
        if not self._has_token(request):
            raise RequestRejected(
                401, "a token is needed", expected="the address with ?token=…, as it was printed at the start",
                found="none", fix="ask the person who started segwright label for the address",
            )  # fmt: skip
        headers = {"content-security-policy": policy()}
        return Response(label_page(self.service.describe()), 200, headers, "text/html; charset=utf-8")

    async def _no_icon(self, request: Request) -> Response:
        """``GET /favicon.ico``: none; browsers look for it by themselves, and a 404 would be an error of the page."""
        return Response(status_code=204)

    async def _static(self, request: Request) -> Response:
        """``GET /static/NAME``: one of the page's own files; they hold nothing secret."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        return Response(static_file(name), media_type=STATIC[name])

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    async def _state(self, request: Request) -> Response:
        """``GET /api/state``: classes, model, counts, people, training."""
        return json_response(await self._in_thread(self.service.state))

    async def _images(self, request: Request) -> Response:
        """``GET /api/images?from=N``: a part of the list of images with their counts."""
        first = _number(request.query_params.get("from", "0"))
        return json_response(self.service.listed(first))

    async def _image(self, request: Request) -> Response:
        """``GET /api/images/N``: its name, size and counts."""
        number = self._checked(request.path_params["number"])
        return json_response(await self._in_thread(self.service.image, number))

    async def _tile(self, request: Request) -> Response:
        """``GET /api/images/N/tiles/LEVEL/ROW/COLUMN``."""
        given = request.path_params
        number = self._checked(given["number"])
        data, kind = await self._in_thread(
            self.service.images.tile, number, given["level"], given["row"], given["column"]
        )
        return Response(data, media_type=kind)

    async def _part(self, request: Request) -> Response:
        """``GET /api/images/N/labels|prediction|units``: runs."""
        number, part = self._checked(request.path_params["number"]), request.path_params["part"]
        makers = {
            "labels": self.service.labels, "prediction": self.service.prediction, "units": self.service.units,
        }  # fmt: skip
        if part not in makers:
            raise HTTPException(404)
        data, headers = await self._in_thread(makers[part], number)
        return Response(data, 200, headers, BINARY)

    # -----------------------------------------------------------------------------------------------------------------
    # Changing

    async def _stroke(self, request: Request) -> Response:
        """``POST /api/strokes``: acknowledged only when it is on the disk; 507 if it cannot be written."""
        tree = await self._json(request)
        number = 0 if isinstance(tree.get("image"), str) else self._checked(tree.get("number"))
        return json_response(await self._in_thread(self.service.stroke, number, tree))

    async def _questions(self, request: Request) -> Response:
        """``POST /api/questions``: the next ones for a person, reserved for a while."""
        tree = await self._json(request)
        return json_response(await self._in_thread(self.service.questions, tree))

    async def _presence(self, request: Request) -> Response:
        """``POST /api/presence``: renews a page's lease of its image; others there, the training, the counts."""
        tree = await self._json(request)
        return json_response(await self._in_thread(self.service.presence, tree))

    async def _training(self, request: Request) -> Response:
        """``POST /api/training``: starts a round now."""
        await self._json(request)
        return json_response(await self._in_thread(self.service.train_now))

    async def _json(self, request: Request) -> dict[str, Any]:
        limits = self.service.limits
        body = await read_body(request, limits.max_bytes, limits.body_seconds, lambda count: None)
        try:
            tree = json.loads(body)
        except (ValueError, RecursionError):
            tree = None
        if not isinstance(tree, dict):
            raise RequestRejected(400, "the request body is no JSON object", found=repr(body[:40]))
        return tree

    def _checked(self, number: Any) -> int:
        count = len(self.service.images.names)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
            raise RequestRejected(404, "no such image", expected=f"0 to {count - 1}", found=str(number)[:40])
        return number

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self.service.threads, functools.partial(work, *arguments)
        )

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wrong = SegwrightError(
            "the method is not allowed" if error.status_code == 405 else "no such path",
            found=route_path(request.scope)[:80],
        )
        return error_response(wrong, error.status_code)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestRejected(400, "not a number", found=text[:40])
    return int(text)


def _without_place(error: SegwrightError) -> SegwrightError:
    """The error without paths of this machine in its text."""
    return SegwrightError(error.message, expected=error.expected, found=error.found, fix=error.fix)


@asynccontextmanager
async def _lifespan(app: LabelApplication) -> AsyncIterator[None]:
    app.service.start()
    yield
    await asyncio.get_running_loop().run_in_executor(None, app.service.close)

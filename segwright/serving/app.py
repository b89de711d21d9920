"""The service as an ASGI application, for our own server (:mod:`.listen`) or any other.

It is written against ASGI itself: there are six routes, and what a framework would do for us, reading bodies and forms
whole before anybody looks at them, is what this service must not do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from segwright.core.errors import SegwrightError
from segwright.core.version import __version__
from segwright.inference.predictor import Predictor
from segwright.serving.http import (
    Receive,
    Request,
    Scope,
    Send,
    check_host,
    check_sender,
    check_type,
    drain,
    error_answer,
    parse_query,
    read_body,
    send_answer,
    wait_for_leaving,
)
from segwright.serving.limits import ClientLeft, Refused, ServiceLimits
from segwright.serving.page import service_page
from segwright.serving.responses import Answer, json_answer
from segwright.serving.service import Service, Visit

logger = logging.getLogger("segwright.serve")

OTHER = "other"  # the template of every path that there is not
GONE = 499  # no answer was sent: nginx's number for a client that left
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Application:
    """ASGI 3. ``hosts``: the names in a Host header that are answered to; None: any."""

    def __init__(self, service: Service, hosts: frozenset[str] | None = None) -> None:
        self.service, self.hosts = service, hosts
        self.routes: dict[str, tuple[str, Callable[[Request], Awaitable[Answer]]]] = {
            "/": ("GET", self.page),
            "/predict": ("POST", self.predict),
            "/model": ("GET", self.model),
            "/health": ("GET", self.health),
            "/ready": ("GET", self.ready),
            "/metrics": ("GET", self.metrics),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._respond(Request(scope, receive), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _respond(self, request: Request, send: Send) -> None:
        began = time.monotonic()
        route = request.path if request.path in self.routes else OTHER
        status = GONE
        try:
            answer = await self._answer(request)
            status = answer.status
            await send_answer(send, answer, head=request.method == "HEAD")
        except ClientLeft:
            pass
        finally:
            seconds = time.monotonic() - began
            self.service.metrics.count(route, status, seconds)
            method = request.method if request.method in METHODS else OTHER
            logger.info("%s %s %d %.0f ms", method, route, status, seconds * 1000)

    async def _answer(self, request: Request) -> Answer:
        try:
            check_host(request, self.hosts)
            answer = await self._route(request)(request)
            if not request.ended and request.path != "/predict":  # a body that no route asked for
                await drain(request, 2 * self.service.limits.max_bytes)
                if not request.ended:
                    headers = (*answer.headers, ("connection", "close"))
                    answer = Answer(answer.body, answer.content_type, headers, answer.status)
            return answer
        except ClientLeft:
            raise
        except Refused as refused:
            headers = refused.headers
            if not request.ended and refused.status != 408:  # who was waited for in vain is not waited for again
                await drain(request, 2 * self.service.limits.max_bytes)
            if not request.ended:
                headers = (*headers, ("connection", "close"))
            return error_answer(refused, refused.status, headers)
        except SegwrightError as error:
            logger.exception("an image could not be predicted")
            return error_answer(error, 500)
        except Exception:
            logger.exception("a bug, or the machine's fault")
            return error_answer(SegwrightError("the service failed on this request", fix="its log says how"), 500)

    def _route(self, request: Request) -> Callable[[Request], Awaitable[Answer]]:
        found = self.routes.get(request.path)
        if found is None:
            raise Refused(404, "there is nothing here", expected=", ".join(self.routes), found=request.path[:80])
        allowed = ("GET", "HEAD") if found[0] == "GET" else ("POST",)
        if request.method not in allowed:
            raise Refused(
                405, "another method is needed", expected=" or ".join(allowed), found=request.method[:20],
                headers=(("allow", ", ".join(allowed)),),
            )  # fmt: skip
        return found[1]

    async def predict(self, request: Request) -> Answer:
        """``POST /predict``: the answer to the image in the body."""
        began = time.monotonic()
        check_sender(request)
        wanted = parse_query(request.query)
        check_type(request)
        limits = self.service.limits
        self.service.check_room()
        with self.service.holding() as hold:
            body = await read_body(request, limits.max_bytes, limits.body_seconds, hold)
            return await self._unless_gone(
                request, lambda visit: self.service.answer(body, wanted.form, visit, mask=wanted.mask, began=began)
            )

    async def _unless_gone(self, request: Request, work: Callable[[Visit], Awaitable[Answer]]) -> Answer:
        """The work's answer; ClientLeft, and the work told so, when the connection ends before."""
        visit = Visit()
        working = asyncio.ensure_future(work(visit))
        leaving = asyncio.ensure_future(wait_for_leaving(request))
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.service.leave(visit)
            return await working
        finally:
            leaving.cancel()
            working.cancel()  # nothing where it is done; the server's own end of patience otherwise

    async def page(self, request: Request) -> Answer:
        """``GET /``."""
        document, policy = service_page(self.service.model.describe(), self.service.limits)
        return Answer(document, "text/html; charset=utf-8", (("content-security-policy", policy),))

    async def model(self, request: Request) -> Answer:
        """``GET /model``."""
        limits = self.service.limits
        bounds = {"max_megabytes": limits.max_megabytes, "max_megapixels": limits.max_megapixels}
        return json_answer({**self.service.model.describe(), "limits": bounds, "version": __version__})

    async def health(self, request: Request) -> Answer:
        """``GET /health``: the process is up."""
        return json_answer({"status": "up"})

    async def ready(self, request: Request) -> Answer:
        """``GET /ready``: an image would be answered now."""
        why = self.service.ready()
        if why is None:
            return json_answer({"status": "ready"})
        return json_answer({"status": why}, status=503, headers=(("retry-after", "1"),))

    async def metrics(self, request: Request) -> Answer:
        """``GET /metrics``."""
        return Answer(*self.service.metrics.text())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.service.warm_up()
                except SegwrightError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await asyncio.get_running_loop().run_in_executor(None, self.service.close)
                await send({"type": "lifespan.shutdown.complete"})
                return


def create_app(
    predictor: Predictor,
    limits: ServiceLimits | None = None,
    *,
    name: str = "model",
    hosts: frozenset[str] | None = None,
    load: Callable[[], Predictor] | None = None,
) -> Application:
    """An ASGI application that answers with ``predictor``, for any ASGI server.

    ``hosts``: the names in a Host header that are answered to (:data:`segwright.serving.http.LOOPBACK` for a
    service of this machine alone); None: any. ``load`` makes the predictor anew for ``app.service.reload()``. The
    server has to bound how slowly headers may come; ours does. MissingExtraError without prometheus-client.
    """
    return Application(Service(predictor, limits, name=name, load=load), hosts)

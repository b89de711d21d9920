"""The service as an ASGI application (Starlette), for our own server (:mod:`.server`) or any other.

Bodies are read in chunks, within limits, and only by the route that needs one; forms are never parsed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from segwright.core.errors import SegwrightError
from segwright.core.telemetry import span
from segwright.core.version import __version__
from segwright.inference.predictor import Predictor
from segwright.monitoring.recorder import JournalOptions
from segwright.serving.http import (
    check_content_type,
    check_sender,
    error_response,
    parse_query,
    read_body,
    wait_for_disconnect,
)
from segwright.serving.keys import ApiKey, KeyRing, check_model, check_reload
from segwright.serving.limits import RequestRejected, ServiceLimits
from segwright.serving.middleware import (
    KEY,
    AccessLog,
    ApiKeyCheck,
    BodyDrain,
    HostCheck,
    ResponseHeaders,
    UnhandledErrors,
    is_open,
    rejected,
    route_path,
)
from segwright.serving.models import ModelEntry, ModelSource
from segwright.serving.openapi import describe_api
from segwright.serving.packages import require_packages
from segwright.serving.page import STATIC, service_page, static_file
from segwright.serving.responses import json_response
from segwright.serving.service import RequestContext, Service

logger = logging.getLogger("segwright.serve")


class Application(Starlette):
    """The routes of one service.

    ``hosts``: the allowed names in a Host header; None: any. ``more``: further routes. ``keys``: the API keys, one of
    which every request has to have except for open paths; None: none is needed.
    """

    def __init__(
        self,
        service: Service,
        hosts: frozenset[str] | None = None,
        more: Sequence[Route] = (),
        keys: KeyRing | None = None,
    ) -> None:
        self.service, self.keys = service, keys
        self.handing_over = False  # another process has the port: connections end with their next response
        routes = [
            Route("/", self.page, methods=["GET"]),
            Route("/static/{name}", self.static, methods=["GET"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/model", self.model, methods=["GET"]),
            Route("/models", self.list_models, methods=["GET"]),
            Route("/models/{name}", self.model, methods=["GET"]),
            Route("/models/{name}/predict", self.predict, methods=["POST"]),
            Route("/models/{name}/reload", self.reload, methods=["POST"]),
            Route("/models/{name}/versions/{version}/predict", self.predict, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/monitor", self.monitor, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            *more,
        ]
        self.paths = [route.path for route in routes]
        super().__init__(
            routes=routes,
            lifespan=_lifespan,
            exception_handlers={HTTPException: self._http_error, RequestRejected: rejected},
            middleware=[
                Middleware(AccessLog, routes=frozenset(self.paths), count=service.metrics.count),
                Middleware(ResponseHeaders, closing=lambda: self.handing_over),
                Middleware(BodyDrain, limit=2 * service.limits.max_bytes),
                Middleware(HostCheck, hosts=hosts),
                Middleware(ApiKeyCheck, keys=keys, is_open=is_open, count=service.metrics.count_key),
                Middleware(UnhandledErrors),
            ],
        )
        self.router.redirect_slashes = False

    async def predict(self, request: Request) -> Response:
        """``POST /predict``: the prediction for the image in the body, by the first model or the one in the path."""
        began = time.monotonic()
        check_sender(request.headers)
        name, version = self._model_of(request)
        params = parse_query(request.scope.get("query_string", b""))
        check_content_type(request.headers)
        limits = self.service.limits
        self.service.check_capacity()
        with self.service.reserve_body() as reserve:
            body = await read_body(request, limits.max_bytes, limits.body_seconds, reserve)
            with span("segwright.predict", bytes=len(body)):
                return await self._until_disconnect(
                    request,
                    lambda context: self.service.predict(
                        body, params, context, began=began, name=name, version=version
                    ),
                )

    def _model_of(self, request: Request) -> tuple[str, str | None]:
        """The names of the model and the version in the path; RequestRejected with 404 for unknown ones, with 403 for
        a model that the key is not for."""
        models = self.service.models
        name = request.path_params.get("name")
        key = request.scope.get(KEY)
        if name is not None:
            check_model(key, name)  # first: a key finds out nothing of other models
        name = models.entry(name).name
        check_model(key, name)
        version = request.path_params.get("version")
        return name, None if version is None else models.version(name, version)

    async def _until_disconnect(
        self, request: Request, work: Callable[[RequestContext], Awaitable[Response]]
    ) -> Response:
        """The response of ``work``; if the connection ends before, the work is canceled: ClientDisconnected."""
        context = RequestContext()
        working = asyncio.ensure_future(work(context))
        disconnect = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            await asyncio.wait([working, disconnect], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.service.cancel(context)
            return await working
        finally:
            disconnect.cancel()
            working.cancel()  # has an effect only if the server gives up on the request, at the end of a stop

    async def page(self, request: Request) -> Response:
        """``GET /``: the same for everybody; the model is loaded by its script."""
        recorders = [entry.recorder for entry in self.service.models]
        keeps_images = any(one is not None and one.writer.keep_images > 0 for one in recorders)
        document, policy = service_page(self.service.limits, keeps_images=keeps_images)
        return Response(document, 200, {"content-security-policy": policy}, "text/html; charset=utf-8")

    async def static(self, request: Request) -> Response:
        """``GET /static/{name}``: the script and the style sheet of the page."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        return Response(static_file(name), media_type=STATIC[name])

    async def model(self, request: Request) -> Response:
        """``GET /model``, ``GET /models/{name}``."""
        name, _ = self._model_of(request)
        return json_response(self._describe(self.service.models.entry(name)))

    async def list_models(self, request: Request) -> Response:
        """``GET /models``: those that the key may use, the default one first."""
        key: ApiKey | None = request.scope.get(KEY)
        allowed = [e for e in self.service.models if key is None or key.models is None or e.name in key.models]
        return json_response({"models": [self._describe(entry) for entry in allowed]})

    def _describe(self, entry: ModelEntry) -> dict[str, Any]:
        limits, models = self.service.limits, self.service.models
        bounds = {"max_megabytes": limits.max_megabytes, "max_megapixels": limits.max_megapixels}
        more = {"default": entry is models.default, "limits": bounds, "version": __version__}
        return {**entry.describe(), **more}

    async def reload(self, request: Request) -> Response:
        """``POST /models/{name}/reload``, for keys that may."""
        check_sender(request.headers)
        check_reload(request.scope.get(KEY))
        name, _ = self._model_of(request)
        entry = self.service.models.entry(name)
        if not await self.service.reload(name):
            wrong = SegwrightError(
                "the model was not reloaded, the previous one stays in use", found=name, fix="see the service's log"
            )
            return error_response(wrong, 409)
        return json_response(self._describe(entry))

    async def health(self, request: Request) -> Response:
        """``GET /health``: the process is up."""
        return json_response({"status": "up"})

    async def ready(self, request: Request) -> Response:
        """``GET /ready``: whether an image would be predicted now."""
        reason = self.service.not_ready_reason()
        if reason is None:
            return json_response({"status": "ready"})
        return json_response({"status": reason}, status=503, headers={"retry-after": "1"})

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``."""
        text, content_type = self.service.metrics.text()
        return Response(text, media_type=content_type)

    async def monitor(self, request: Request) -> Response:
        """``GET /monitor``: a look at the journal."""
        view = self.service.monitor_view
        if view is None:
            wrong = SegwrightError("the service writes no journal", fix="start it with --journal FOLDER")
            return error_response(wrong, 404)
        document, policy = await view.page()
        headers = {"content-security-policy": policy, "cache-control": "no-store"}
        return Response(document, 200, headers, "text/html; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """``GET /openapi.json``."""
        return json_response(describe_api(self.service.limits, with_keys=self.keys is not None))

    async def _http_error(self, request: Request, error: Exception) -> Response:
        """The router's 404 and 405 with what would have been right."""
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            wrong = SegwrightError(
                "the method is not allowed", expected=allowed.replace(", ", " or "), found=request.method[:20]
            )
            return error_response(wrong, 405, (("allow", allowed),))
        path = route_path(request.scope)[:80]
        wrong = SegwrightError("no such path", expected=", ".join(self.paths), found=path)
        return error_response(wrong, error.status_code)


@asynccontextmanager
async def _lifespan(app: Application) -> AsyncIterator[None]:
    try:
        await app.service.warm_up()
    except SegwrightError as error:
        logger.error("the service cannot start: %s", error)
        raise
    yield
    await asyncio.get_running_loop().run_in_executor(None, app.service.close)


def create_app(
    predictor: Predictor,
    limits: ServiceLimits | None = None,
    *,
    name: str = "model",
    hosts: frozenset[str] | None = None,
    load: Callable[[], Predictor] | None = None,
    journal: JournalOptions | None = None,
    more: Callable[[Service], Sequence[Route]] | None = None,
    source: ModelSource | None = None,
    others: Sequence[tuple[ModelSource, Predictor]] = (),
    keys: KeyRing | None = None,
) -> Application:
    """An ASGI application that serves ``predictor``, for any ASGI server.

    ``hosts``: the allowed names in a Host header (:data:`segwright.serving.http.LOOPBACK` for a service that only this
    machine uses); None: any. ``load`` loads the predictor again for ``app.service.reload()``. ``journal``: where a row
    per prediction goes; OutputError if it cannot be written now. ``more``: further routes for the service. ``source``,
    ``others``: where the model comes from, and further models, see :class:`~segwright.serving.service.Service`.
    ``keys``: the API keys. The server has to bound how slowly headers may arrive; ours does. MissingExtraError without
    the extra ``serve``.
    """
    require_packages()
    service = Service(predictor, limits, name=name, load=load, journal=journal, source=source, others=others)
    return Application(service, hosts, () if more is None else more(service), keys)

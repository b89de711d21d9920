"""Checks of a request before its image is decoded: host, sender, content type, query, body size and time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from segwright.core.errors import SegwrightError
from segwright.inference.output_options import MOST_SIMPLIFIED
from segwright.serving.limits import ClientDisconnected, RequestRejected
from segwright.serving.responses import FORMATS, PredictParams, json_response

BYTES = "application/octet-stream"
SEND_BYTES = "send the file's bytes as the body: curl -H 'Content-Type: image/png' --data-binary @image.png"
SWITCHES = ("mask", "quality", "polygons")  # of as=json
MAX_QUERY = 512  # bytes
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


def check_host(headers: Headers, hosts: frozenset[str] | None) -> None:
    """Reject a Host header that is not one of ``hosts``; None allows any.

    A name that another site's page resolves to this machine (DNS rebinding) would let that page read the responses.
    IPv6 addresses are written in brackets, so the port is what follows the last colon.
    """
    if hosts is None:
        return
    given = headers.get("host", "")
    name = given if given.endswith("]") else given.rpartition(":")[0] or given
    if name.lower().rstrip(".") not in hosts:
        raise RequestRejected(
            400,
            "the Host header is not a name of this machine",
            expected="localhost or 127.0.0.1 in the Host header",
            found=given[:80] or "none",
            fix="use http://localhost, or start the service with --host",
        )


def check_sender(headers: Headers) -> None:
    """Reject a request that a browser sends on behalf of another site's page."""
    if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
        raise RequestRejected(
            403, "requests from the pages of other sites are not allowed", fix="send it from a program"
        )


def check_content_type(headers: Headers) -> None:
    """Reject forms, compressed bodies and any content type that is not an image, with 415."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != BYTES and not kind.startswith("image/"):
        raise RequestRejected(
            415,
            "the request body is not an image",
            expected=f"image/png, image/jpeg, image/tiff, … or {BYTES}",
            found=kind[:80],
            fix=SEND_BYTES,
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestRejected(
            415, "compressed bodies are not supported", expected="no Content-Encoding", found=encoding[:80],
            fix="send the image as it is: images are compressed already",
        )  # fmt: skip


def parse_query(query: bytes) -> PredictParams:
    """The parameters of ``/predict``, each at most once; anything else is rejected with 400."""
    expected = (
        f"as={'|'.join(FORMATS)}, with as=json also mask=true, quality=true and polygons=true, with polygons also "
        "simplify=PIXELS"
    )
    if len(query) > MAX_QUERY:
        raise RequestRejected(400, "the query is too long", expected=expected, found=f"{len(query)} bytes")
    text = query.decode("latin-1")
    pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY)
    given = dict(pairs)
    unknown = [name for name in given if name not in ("as", "simplify", *SWITCHES)]
    if unknown or len(given) < len(pairs):
        raise RequestRejected(
            400, "unknown query parameter" if unknown else "repeated query parameter", expected=expected,
            found=", ".join(unknown)[:80] or "a parameter given twice",
            fix="nothing is fetched: send the image's bytes as the body" if unknown else "give it once",
        )  # fmt: skip
    switches = {name: given.get(name, "false") for name in SWITCHES}
    params = PredictParams(
        given.get("as", "labels"), simplify=_pixels(given.get("simplify"), text),
        **{name: value == "true" for name, value in switches.items()},
    )  # fmt: skip
    if params.format not in FORMATS or any(value not in ("true", "false") for value in switches.values()):
        raise RequestRejected(400, "unknown response format", expected=expected, found=text)
    for name, value in switches.items():
        if value == "true" and params.format != "json":
            raise RequestRejected(400, f"{name}=true needs as=json", expected=expected, found=text)
    if "simplify" in given and not params.has_polygons:
        raise RequestRejected(400, "simplify needs polygons", expected=expected, found=text)
    return params


def _pixels(text: str | None, query: str) -> float:
    """The pixels of ``simplify``, 0 without; RequestRejected with 400 for anything else."""
    if text is None:
        return 0.0
    if re.fullmatch(r"\d+(\.\d+)?([eE][-+]?\d+)?", text, re.ASCII) and float(text) <= MOST_SIMPLIFIED:
        return float(text)
    raise RequestRejected(
        400, "polygons cannot be simplified by that", expected=f"simplify=0 to {MOST_SIMPLIFIED} pixels", found=query
    )


def content_length(headers: Headers) -> int | None:
    """The announced length of the body; None if it is chunked."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


async def read_body(request: Request, limit: int, seconds: float, reserve: Callable[[int], None]) -> bytes:
    """The whole body, read in chunks.

    413 beyond ``limit`` bytes, announced or not; 408 after ``seconds``; whatever ``reserve``, called with the size of
    every chunk, raises; ClientDisconnected if the connection ends.
    """
    announced = content_length(request.headers)
    if announced is not None and announced > limit:
        raise _too_large(limit, f"{announced} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit, f"more than {limit} bytes")
                reserve(len(chunk))
                body += chunk
    except TimeoutError:
        raise RequestRejected(
            408, "the request body did not arrive in time", expected=f"the whole body within {seconds:g} s",
            found=f"{len(body)} bytes", fix="send a smaller image, or use a faster connection",
        ) from None  # fmt: skip
    except ClientDisconnect:
        raise ClientDisconnected from None
    if not body:
        raise RequestRejected(
            400, "the request body is empty", expected="an image's bytes", found="0 bytes", fix=SEND_BYTES
        )
    return bytes(body)


def _too_large(limit: int, found: str) -> RequestRejected:
    return RequestRejected(
        413, "the request body is too large", expected=f"at most {limit} bytes", found=found,
        fix="send a smaller file; the limit is set by --max-megabytes",
    )  # fmt: skip


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client's connection ends."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(error: SegwrightError, status: int, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """``{"error", "expected", "found", "fix"}``; never a path of this machine."""
    tree = {"error": error.message, "expected": error.expected, "found": error.found, "fix": error.fix}
    return json_response(tree, status=status, headers=dict(headers))

"""HTTP as ASGI hands it over: what a request says, its body within bounds, and the answer on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from segwright.core.errors import SegwrightError
from segwright.serving.limits import ClientLeft, Refused
from segwright.serving.responses import FORMS, Answer, json_answer

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BYTES = "application/octet-stream"
SEND_BYTES = "send the file's bytes as the body: curl -H 'Content-Type: image/png' --data-binary @image.png"
MAX_QUERY = 512  # bytes
DRAIN_SECONDS = 1.0  # how long what a refused client still sends is read and thrown away
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
SAFE = (
    ("server", "segwright"),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
)
NOTHING = ("content-security-policy", "default-src 'none'; frame-ancestors 'none'")


@dataclass(frozen=True)
class Wanted:
    """What a query asks for."""

    form: str = "labels"
    mask: bool = False


class Request:
    """Method, path, headers in lower case, and the body's messages."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        root: str = scope.get("root_path", "")
        path: str = scope["path"]
        self.path = path[len(root) :] if root and path.startswith(root) else path
        self.query: bytes = scope.get("query_string", b"")
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.receive = receive
        self.ended = not (self.length() or "transfer-encoding" in self.headers)  # whether the body is read

    def length(self) -> int | None:
        """The body's length as announced; None where it comes in chunks."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None


def check_host(request: Request, hosts: frozenset[str] | None) -> None:
    """Refused where the service is for this machine and the address asked for is another one: a name that a foreign
    page made to point here (DNS rebinding) would let that page read the answers."""
    if hosts is None:
        return
    named = request.headers.get("host", "")
    name = named if named.endswith("]") else named.rpartition(":")[0] or named
    if name.lower().rstrip(".") not in hosts:
        raise Refused(
            400,
            "this service answers to this machine's own name only",
            expected="localhost or 127.0.0.1 in the Host header",
            found=named[:80] or "none",
            fix="ask http://localhost, or start the service with --host",
        )


def check_sender(request: Request) -> None:
    """Refused for what a browser sends on behalf of another site's page."""
    if request.headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
        raise Refused(403, "pages of other sites may not use this service", fix="ask it from a program")


def check_type(request: Request) -> None:
    """Refused with 415 for forms, compressed bodies and anything that announces itself as no image."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != BYTES and not kind.startswith("image/"):
        raise Refused(
            415,
            "the body is no image",
            expected=f"image/png, image/jpeg, image/tiff, … or {BYTES}",
            found=kind[:80],
            fix=SEND_BYTES,
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refused(
            415, "compressed bodies are not unpacked", expected="no Content-Encoding", found=encoding[:80],
            fix="send the image as it is: images are compressed already",
        )  # fmt: skip


def parse_query(query: bytes) -> Wanted:
    """Refused with 400 for anything but ``as`` and ``mask``, once each."""
    expected = f"as={'|'.join(FORMS)}, with as=json also mask=true"
    if len(query) > MAX_QUERY:
        raise Refused(400, "the query is too long", expected=expected, found=f"{len(query)} bytes")
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY)
    given = dict(pairs)
    unknown = [name for name in given if name not in ("as", "mask")]
    if unknown or len(given) < len(pairs):
        raise Refused(
            400, "an unknown query", expected=expected, found=", ".join(unknown)[:80] or "a name given twice",
            fix="nothing is fetched: send the image's bytes as the body" if unknown else "give it once",
        )  # fmt: skip
    wanted = Wanted(given.get("as", "labels"), given.get("mask", "false") == "true")
    if wanted.form not in FORMS or given.get("mask", "false") not in ("true", "false"):
        raise Refused(400, "an unknown form of answer", expected=expected, found=query.decode("latin-1"))
    if wanted.mask and wanted.form != "json":
        raise Refused(400, "mask=true goes with as=json", expected=expected, found=query.decode("latin-1"))
    return wanted


async def read_body(request: Request, limit: int, seconds: float, hold: Callable[[int], None]) -> bytes:
    """The whole body. Refused with 413 beyond ``limit`` bytes, announced or not, with 408 after ``seconds``, and with
    whatever ``hold``, told of every chunk, raises; ClientLeft where the connection ends."""
    announced = request.length()
    if announced is not None and announced > limit:
        raise _too_many(limit, f"{announced} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk, more = message.get("body", b""), message.get("more_body", False)
                request.ended = not more
                if len(body) + len(chunk) > limit:
                    raise _too_many(limit, f"more than {limit} bytes")
                hold(len(chunk))
                body += chunk
    except TimeoutError:
        raise Refused(
            408, "the image did not come in time", expected=f"the whole body within {seconds:g} s",
            found=f"{len(body)} bytes", fix="send a smaller image, or from nearer by",
        ) from None  # fmt: skip
    if not body:
        raise Refused(400, "the body is empty", expected="an image's bytes", found="0 bytes", fix=SEND_BYTES)
    return bytes(body)


def _too_many(limit: int, found: str) -> Refused:
    return Refused(
        413, "the body is larger than the limit", expected=f"at most {limit} bytes", found=found,
        fix="send a smaller file; who runs the service sets --max-megabytes",
    )  # fmt: skip


async def drain(request: Request, limit: int) -> None:
    """Throw away what a refused client still sends, for a moment: a connection that is closed on unread data is reset,
    and the client never sees why. One that waits to be asked (100-continue) is not asked."""
    if request.ended or "expect" in request.headers:
        return
    read = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while read < limit:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    return
                if not message.get("more_body", False):
                    request.ended = True
                    return
                read += len(message.get("body", b""))
    except TimeoutError:
        return


async def wait_for_leaving(request: Request) -> None:
    """Return when the client's connection ends."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_answer(error: SegwrightError, status: int, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """``{"error", "expected", "found", "fix"}``; never where on this machine."""
    tree = {"error": error.message, "expected": error.expected, "found": error.found, "fix": error.fix}
    return json_answer(tree, status=status, headers=headers)


async def send_answer(send: Send, answer: Answer, *, head: bool = False) -> None:
    """``head``: headers only."""
    policy = () if any(name == "content-security-policy" for name, _ in answer.headers) else (NOTHING,)
    own = (("content-type", answer.content_type), ("content-length", str(len(answer.body))))
    headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in (*own, *SAFE, *policy, *answer.headers)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})

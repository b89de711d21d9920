"""Fetch images from one Label Studio server, and from nowhere else.

A task names its image by an address that anybody who can create tasks chose. It is fetched only if scheme, host and
port are those of the configured server and the path is one of its files, without proxies or more bytes and seconds than
allowed; so is every address that a redirect leads to. Requests carry an API key, so a path that a proxy in front of the
server could turn into another one (``..``, ``%2e``, ``%2f``, a backslash, also encoded twice) is refused, not repaired.
The name is resolved once, and never to a link-local address, where clouds keep their credentials.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from segwright.core.errors import DataError, UsageError

MAX_REDIRECTS = 3
CHUNK = 1 << 16
TOKEN_SECONDS = 240.0  # Label Studio's access tokens live for five minutes
# Where Label Studio has images; never its API.
IMAGE_PATHS = re.compile(r"/(?:data|storage-data|static)/.*|/tasks/\d+/(?:resolve|presign)/")
EXPORT_PATH = re.compile(r"/api/projects/\d+/export/?")
NAMED_PATHS = "/data/, /storage-data/, /static/ or /tasks/N/resolve/"
MAX_CODINGS = 4  # how often a path may be percent-encoded
SAFE = "%/:?#[]@!$&'()*+,;=~"  # what is not percent-encoded in a request
PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]  # scheme, host, port


class FetchError(DataError):
    """An address that is not fetched, or could not be."""


def origin_of(url: str) -> Origin:
    """Scheme, host and port of an address; UsageError if it has none or holds a name and password."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise UsageError("not an address", expected="http://host:port", found=str(error)) from error
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None or parts.password is not None:
        raise UsageError("not the address of a server", expected="http://host:port or https://host", found=url[:200])
    return parts.scheme, parts.hostname.lower().rstrip("."), port


class HostFetcher:
    """GET requests to the server at ``url``.

    ``key``: an API key of Label Studio, a personal access token or a legacy token; ``max_bytes`` per answer;
    ``seconds`` for one answer, from connecting to the last byte.
    """

    def __init__(self, url: str, key: str | None = None, *, max_bytes: int = 32_000_000, seconds: float = 30.0) -> None:
        self.origin = origin_of(url)
        self.base = url.rstrip("/") + "/"
        self.max_bytes, self.seconds = max_bytes, seconds
        self._key = key
        self._lock = threading.Lock()
        self._access: tuple[str, float] | None = None

    def image(self, address: str) -> bytes:
        """The bytes of a task's image; FetchError for an address that is not one of Label Studio's files."""
        return self._get(address, IMAGE_PATHS, self.max_bytes)

    def export(self, project: int, *, max_bytes: int) -> bytes:
        """All tasks of a project with their annotations, as JSON. FetchError."""
        return self._get(f"/api/projects/{project}/export?exportType=JSON", EXPORT_PATH, max_bytes)

    def _get(self, address: str, paths: re.Pattern[str], most: int) -> bytes:
        """The bytes at an address, absolute or as a path of the server, and wherever it is redirected to within
        ``paths``. FetchError."""
        url = self._allowed(address, paths)
        deadline = time.monotonic() + self.seconds
        refreshed = False
        for _ in range(MAX_REDIRECTS + 2):
            status, headers, body = self._request("GET", url, deadline, most, self._authorization(deadline))
            if status in (301, 302, 303, 307, 308):
                url = self._allowed(urljoin(url, headers.get("location", "")), paths)
                continue
            if status == 401 and self._access is not None and not refreshed:
                self._access, refreshed = None, True
                continue
            if status != 200:
                raise self._refused(status, url)
            return body
        raise FetchError("too many redirects", expected=f"at most {MAX_REDIRECTS}", where=_shown(url))

    def _allowed(self, address: str, paths: re.Pattern[str]) -> str:
        """The absolute address; FetchError where its path is none of ``paths``, or a proxy could make it another."""
        url = self._resolved(address)
        prefix, path = urlsplit(self.base).path, urlsplit(url).path
        read = _readings(path)
        plain = read is not None and all(
            one.startswith(prefix) and paths.fullmatch("/" + one.removeprefix(prefix)) is not None for one in read
        )
        if not plain:
            raise FetchError("not the address of a file of Label Studio", expected=NAMED_PATHS, found=_shown(address))
        return url

    def _resolved(self, address: str) -> str:
        """The absolute address; FetchError where it belongs to another server."""
        try:
            prefix = urlsplit(self.base).path
            inside = address.startswith("/") and not address.startswith("//") and not address.startswith(prefix)
            url = urljoin(self.base, address.lstrip("/") if inside else address)
            origin = origin_of(url)
        except (UsageError, ValueError) as error:
            origin, url = ("", "", 0), address
            if not isinstance(error, UsageError):
                raise FetchError("not an address", found=address[:200]) from error
        if origin != self.origin:
            scheme, host, port = self.origin
            raise FetchError(
                "the image is on another server than Label Studio's",
                expected=f"{scheme}://{host}:{port}/…",
                found=_shown(address),
                fix="upload the images to Label Studio, or use its local files storage",
            )
        return url

    def _refused(self, status: int, url: str) -> FetchError:
        fix = None
        if status in (401, 403):
            fix = "set LABEL_STUDIO_API_KEY, or --label-studio-key-file, to an API key of a member of the project"
        return FetchError("Label Studio does not give the file", found=f"status {status}", where=_shown(url), fix=fix)

    def _authorization(self, deadline: float) -> str | None:
        """The header's value: a personal access token is exchanged for a short-lived one."""
        if self._key is None:
            return None
        if not (self._key.startswith("ey") and self._key.count(".") == 2):
            return f"Token {self._key}"
        with self._lock:
            if self._access is None or self._access[1] < time.monotonic():
                url = urljoin(self.base, "api/token/refresh/")
                body = json.dumps({"refresh": self._key}).encode()
                status, _, found = self._request("POST", url, deadline, 1 << 20, None, body)
                try:
                    access = str(json.loads(found)["access"]) if status == 200 else ""
                except (ValueError, KeyError, TypeError):
                    access = ""
                if not access:
                    raise self._refused(status if status != 200 else 401, url)
                self._access = (access, time.monotonic() + TOKEN_SECONDS)
            return f"Bearer {self._access[0]}"

    def _request(
        self, method: str, url: str, deadline: float, most: int, authorization: str | None, body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        scheme, host, port = self.origin
        parts = urlsplit(url)
        path = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
        headers = {"User-Agent": "segwright", "Accept-Encoding": "identity"}
        if authorization:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(host, port)
        try:
            connection.sock = _connected(scheme, host, port, deadline)
            connection.putrequest(method, path, skip_accept_encoding=True)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, self._read(answer, connection.sock, deadline, most, url)
        except FetchError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise FetchError("Label Studio cannot be reached", found=text[:200], where=_shown(url)) from error
        finally:
            connection.close()

    def _read(self, answer: http.client.HTTPResponse, sock: Any, deadline: float, most: int, url: str) -> bytes:
        body = bytearray()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise FetchError("the file did not arrive in time", expected=f"within {self.seconds:g} s",
                                 found=f"{len(body)} bytes", where=_shown(url))  # fmt: skip
            if sock is not None:
                sock.settimeout(left)
            chunk = answer.read1(CHUNK)
            if not chunk:
                if answer.length:
                    raise FetchError("the file breaks off", found=f"{len(body)} bytes", where=_shown(url))
                return bytes(body)
            body += chunk
            if len(body) > most:
                raise FetchError(
                    "the file is too large", expected=f"at most {most} bytes", found="more", where=_shown(url)
                )


def _connected(scheme: str, host: str, port: int, deadline: float) -> socket.socket:
    """A socket to the host at the address that it has now; FetchError for a link-local or unusable one."""
    last: OSError | None = None
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        number = ipaddress.ip_address(str(place[0]).partition("%")[0])
        mapped = getattr(number, "ipv4_mapped", None) or number
        if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified:
            raise FetchError("the server's name leads to an address that is never asked", found=str(number), where=host)
        found = socket.socket(family, kind, protocol)
        try:
            found.settimeout(max(0.01, deadline - time.monotonic()))
            found.connect(place)
            if scheme == "https":
                return ssl.create_default_context().wrap_socket(found, server_hostname=host)
            return found
        except OSError as error:
            found.close()
            last = error
    raise last if last is not None else OSError("the name has no address")


def _readings(path: str) -> list[str] | None:
    """A path as it stands and with its percent signs resolved; None where a server could read it as another path."""
    found = [path]
    for _ in range(MAX_CODINGS):
        if any(sign == "\\" or ord(sign) < 32 or ord(sign) == 127 for sign in found[-1]):
            return None
        if any(part.partition(";")[0] in (".", "..") for part in found[-1].split("/")):
            return None
        if (plain := unquote(found[-1])) == found[-1]:
            return found
        found.append(plain)
    return None


def _shown(url: str) -> str:
    """An address as messages show it, without what may be a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url[:80]
    query = f"?{parts.query}" if parts.query.startswith("d=") else "?…" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"[:200] if parts.scheme else url[:200]

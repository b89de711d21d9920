"""API keys: a file of names and hashes, the check of a request's key, and the limits of each key.

A key is 256 random bits, so its plain SHA-256 cannot be turned round by guessing, and no slow hash is needed. The file
holds no key. It is read again when it changes, so that a key can be added or removed while the service runs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from segwright.core.atomic_io import atomic_file, typed_output
from segwright.core.errors import SegwrightError, UsageError
from segwright.serving.limits import RequestRejected

logger = logging.getLogger("segwright.serve")

PREFIX = "sw_"
VERSION = 1
MAX_FILE = 1_000_000  # bytes
CHECK_SECONDS = 1.0  # between two looks at the file
BEARER = (("www-authenticate", 'Bearer realm="segwright"'),)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKey:
    """One key of the file. ``models``: the names that it may use, None: all; ``may_reload``: whether it may reload
    models. UsageError for values that cannot be."""

    name: str
    sha256: str
    created: str = ""
    requests_per_minute: float | None = None  # POST requests, None: not limited
    max_concurrent: int | None = None  # POST requests at a time
    models: tuple[str, ...] | None = None
    may_reload: bool = False

    def __post_init__(self) -> None:
        rate, most = self.requests_per_minute, self.max_concurrent
        checks = (
            ("name", isinstance(self.name, str) and _NAME.fullmatch(self.name) is not None,
             "letters, digits, '.', '_' and '-', up to 64"),
            ("sha256", isinstance(self.sha256, str) and _HASH.fullmatch(self.sha256) is not None,
             "64 hexadecimal digits"),
            ("created", isinstance(self.created, str), "a text"),
            ("requests_per_minute", rate is None or (_is_number(rate) and 0 < rate <= 1e6), "above 0, up to 1000000"),
            ("max_concurrent", most is None or (type(most) is int and most > 0), "a whole number above 0"),
            ("models", self.models is None or all(isinstance(one, str) for one in self.models), "a list of names"),
            ("may_reload", isinstance(self.may_reload, bool), "true or false"),
        )  # fmt: skip
        for field, right, expected in checks:
            if not right:
                raise UsageError(
                    f"not an API key's {field}", expected=expected, found=repr(getattr(self, field))[:80]
                )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def hash_of(secret: str) -> str:
    """The SHA-256 of a key, as in the file."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: str | Path) -> list[ApiKey]:
    """The keys of a file, at least one; UsageError if it is none."""
    keys = _read(Path(path))
    if not keys:
        raise UsageError(
            "the file has no API key: nobody could use the service", expected="one key or more", where=path,
            fix=f"segwright api-key NAME --file {path}",
        )  # fmt: skip
    return keys


def _read(path: Path) -> list[ApiKey]:
    expected = 'a file that `segwright api-key` has written: {"version": 1, "keys": [{"name", "sha256", …}]}'
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(
            "the file of API keys cannot be read", found=error.strerror or str(error), where=path,
            fix=f"segwright api-key NAME --file {path}",
        ) from error  # fmt: skip
    try:
        if len(data) > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE} bytes")
        tree = json.loads(data)
        if not isinstance(tree, dict) or tree.get("version") != VERSION or not isinstance(tree.get("keys"), list):
            raise ValueError("no version 1 with a list of keys")
        keys = [_key(entry) for entry in tree["keys"]]
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError("not a file of API keys", expected=expected, found=str(error)[:200], where=path) from error
    except UsageError as error:
        raise UsageError(error.message, expected=error.expected, found=error.found, where=path) from error
    for field in ("name", "sha256"):
        values = [getattr(key, field) for key in keys]
        double = next((value for value in values if values.count(value) > 1), None)
        if double is not None:
            raise UsageError(f"two API keys have one {field}", found=double[:64], where=path)
    return keys


def _key(entry: Any) -> ApiKey:
    if not isinstance(entry, dict):
        raise ValueError(f"a key is an object, and not {type(entry).__name__}")
    models = entry.get("models")
    if models is not None and not isinstance(models, list):
        raise ValueError("the models of a key are a list")
    return ApiKey(**{**entry, "models": None if models is None else tuple(models)})


def create_key(
    path: str | Path,
    name: str,
    *,
    requests_per_minute: float | None = None,
    max_concurrent: int | None = None,
    models: Sequence[str] | None = None,
    may_reload: bool = False,
) -> str:
    """Make a key, add its hash to the file, which need not exist, and return the key: it is stored nowhere.

    UsageError for a name that is there already, a limit that cannot be, or a file that is no file of keys.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = None if models is None else tuple(models)
    key = ApiKey(name, hash_of(secret), created, requests_per_minute, max_concurrent, names, may_reload)
    with _changing(Path(path)) as keys:
        if any(one.name == name for one in keys):
            raise UsageError(
                "there is an API key of this name", found=name, where=path,
                fix="another name, or remove the old one first: --remove",
            )  # fmt: skip
        keys.append(key)
    return secret


def remove_key(path: str | Path, name: str) -> ApiKey:
    """Remove a key from the file, and return what it was; UsageError if there is none of this name."""
    with _changing(Path(path)) as keys:
        found = next((one for one in keys if one.name == name), None)
        if found is None:
            names = ", ".join(one.name for one in keys)
            raise UsageError("no API key of this name", expected=names[:300] or "a key", found=name[:80], where=path)
        keys.remove(found)
    return found


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """The keys of a file, to be changed; it is replaced at the end; a new one can be read by its owner alone. One
    process at a time."""
    with typed_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=10)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UsageError("another process is changing the keys", where=path, fix="try again") from error
    try:
        keys = _read(path) if path.exists() else []
        yield keys
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with atomic_file(path) as beside:
            beside.chmod(mode)
            beside.write_text(json.dumps({"version": VERSION, "keys": [asdict(key) for key in keys]}, indent=2) + "\n")
    finally:
        lock.release()


def given_key(headers: Callable[[str], str | None]) -> str | None:
    """The key in ``Authorization: Bearer KEY``, ``X-API-Key: KEY``, or as the password of ``Authorization: Basic``;
    None without one."""
    kind, _, value = (headers("authorization") or "").strip().partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    if kind.lower() == "basic":
        try:
            text = base64.b64decode(value.strip(), validate=True).decode("utf-8", "surrogateescape")
        except (binascii.Error, ValueError):
            return None
        return text.partition(":")[2] or None
    return (headers("x-api-key") or "").strip() or None


class KeyLimit:
    """What one key has left: a bucket of requests that fills steadily, up to those of ten seconds (at least one), and
    the requests at a time."""

    def __init__(self, key: ApiKey, now: float) -> None:
        self.key, self.running = key, 0
        self.level, self.filled = self._size(), now

    def _size(self) -> float:
        return max(1.0, (self.key.requests_per_minute or 0.0) / 6)

    def take(self, now: float) -> None:
        """Count a request that begins; RequestRejected with 429 if the key has none left."""
        key = self.key
        if key.max_concurrent is not None and self.running >= key.max_concurrent:
            raise _limited(key, f"at most {key.max_concurrent} requests at a time", f"{self.running} in progress", 1)
        rate = (key.requests_per_minute or 0.0) / 60
        if rate:
            self.level = min(self._size(), self.level + (now - self.filled) * rate)
            self.filled = now
            if self.level < 1:
                wait = math.ceil((1 - self.level) / rate)
                expected = f"at most {key.requests_per_minute:g} requests per minute"
                raise _limited(key, expected, f"the next one in {wait} s", wait)
            self.level -= 1
        self.running += 1

    def finish(self) -> None:
        """Count a request that ended."""
        self.running -= 1


def _limited(key: ApiKey, expected: str, found: str, seconds: int) -> RequestRejected:
    return RequestRejected(
        429, "the limit of the API key is reached", expected=expected, found=found,
        fix=f"try again in {seconds} s, or ask for a higher limit for {key.name!r}",
        headers=(("retry-after", str(max(1, seconds))),),
    )  # fmt: skip


class KeyRing:
    """The keys of a file, to be used on one event loop. A file that becomes unusable leaves the keys as they were,
    with the reason in the log. UsageError if it is unusable at the start."""

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.clock = Path(path), clock
        self._signature = self._stat()
        self._use(read_keys(self.path))
        self._looked = clock()

    def names(self) -> list[str]:
        return [limit.key.name for limit in self._limits]

    def check(self, secret: str | None) -> KeyLimit:
        """The limit of a key; RequestRejected with 401 for none or an unknown one.

        The hash is compared with every key's in the same time, so that no response time leads towards a hash.
        """
        self._look()
        if secret is None:
            raise RequestRejected(
                401, "the service needs an API key", expected="Authorization: Bearer KEY, or X-API-Key: KEY",
                found="no key", fix="curl -H 'Authorization: Bearer KEY' …", headers=BEARER,
            )  # fmt: skip
        digest, found = hash_of(secret), None
        for limit in self._limits:
            if hmac.compare_digest(limit.key.sha256, digest):
                found = limit
        if found is None:
            raise RequestRejected(
                401, "the API key is unknown", expected="a key that the service has", found="another key",
                headers=BEARER,
            )  # fmt: skip
        return found

    def _look(self) -> None:
        now = self.clock()
        if now - self._looked < CHECK_SECONDS:
            return
        self._looked = now
        seen = self._stat()
        if seen == self._signature:
            return
        self._signature = seen
        try:
            self._use(read_keys(self.path))
        except SegwrightError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("API keys read again: %s", ", ".join(self.names()))

    def _use(self, keys: list[ApiKey]) -> None:
        """Keys that are as they were keep what they have used."""
        now, old = self.clock(), {limit.key: limit for limit in getattr(self, "_limits", [])}
        self._limits = [old.get(key) or KeyLimit(key, now) for key in keys]

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def check_model(key: ApiKey | None, name: str) -> None:
    """RequestRejected with 403 if the key may not use a model."""
    if key is not None and key.models is not None and name not in key.models:
        raise RequestRejected(
            403, "the API key is not for this model", expected=", ".join(key.models)[:200] or "no model",
            found=name[:80], fix="use another key, or another model",
        )  # fmt: skip


def check_reload(key: ApiKey | None) -> None:
    """RequestRejected with 403 unless the key may reload models; without keys nobody may over HTTP."""
    if key is None or not key.may_reload:
        raise RequestRejected(
            403, "models are reloaded by a key that may reload them",
            expected="a key made with --may-reload, or SIGHUP to the service's process",
            found="no API keys" if key is None else f"the key {key.name!r}",
        )  # fmt: skip

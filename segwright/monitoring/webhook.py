"""A message to another service when there is an alarm: only to hosts that are allowed by name, and never further."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from segwright.core.errors import OutputError, UsageError
from segwright.core.version import __version__
from segwright.monitoring.result import Alarm, MonitorResult

TIMEOUT = 10.0  # seconds
MOST_BYTES = 200_000


def check_webhook(url: str, allowed: Sequence[str]) -> None:
    """UsageError if the URL is not http(s), has a password, or its host is not one of ``allowed``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError("the webhook is no URL", found=str(error)[:200]) from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("the webhook is no URL", expected="https://host/path", found=url[:200])
    if parts.username is not None or parts.password is not None:
        raise UsageError("the webhook has a name or password", expected="a URL without", found=f"…@{host}")
    names = {name.strip().lower() for name in allowed}
    if host.lower() not in names and f"{host.lower()}:{port}" not in names:
        raise UsageError(
            "the webhook's host is not allowed", expected=", ".join(sorted(names)) or "no host is", found=host[:200],
            fix=f"--allow-host {host[:200]}",
        )  # fmt: skip


def message_of(result: MonitorResult, alarms: Sequence[Alarm] | None = None) -> dict[str, Any]:
    """What is sent: the alarms in words and the estimates, no image and no row. ``alarms``: those that are new; by
    default all that count."""
    chosen = [alarm for alarm in result.alarms if result.counts(alarm)] if alarms is None else alarms
    tree = replace(result, alarms=tuple(chosen)).to_json()
    keys = ("journal", "model", "images", "first", "last", "rate", "estimate", "recent", "since_alarm", "notes")
    shown = ("key", "time", "index", "id", "detector", "evidence", "threshold", "text", "over", "ended")
    named = [{key: one[key] for key in shown} for one in tree["alarms"]]
    # "text" alone is what chat services show
    text = "; ".join(one["text"] for one in named[:3]) or "no alarm"
    return {"source": "segwright", "version": __version__, "text": text, "alarm": result.alarm,
            **{key: tree[key] for key in keys}, "alarms": named[:20]}  # fmt: skip


def post_message(
    url: str,
    result: MonitorResult,
    allowed: Sequence[str],
    *,
    alarms: Sequence[Alarm] | None = None,
    timeout: float = TIMEOUT,
) -> int:
    """POST the message as JSON; the status of the answer. UsageError as of :func:`check_webhook`; OutputError if the
    host does not answer within ``timeout`` seconds, or with another status than 2xx. A redirect is not followed, and no
    proxy is used."""
    check_webhook(url, allowed)
    parts = urlsplit(url)
    assert parts.hostname is not None
    message = message_of(result, alarms)
    body = json.dumps(message, allow_nan=False).encode()
    if len(body) > MOST_BYTES:
        body = json.dumps({**message, "alarms": [], "notes": []}, allow_nan=False).encode()
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        headers = {"content-type": "application/json", "user-agent": f"segwright/{__version__}", "connection": "close"}
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OutputError(
            "the webhook could not be reached", found=str(error)[:200] or type(error).__name__, where=parts.hostname,
            fix="check the address, and that the host is up",
        ) from error  # fmt: skip
    finally:
        connection.close()
    if not 200 <= status < 300:
        what = "a redirect, which is not followed" if 300 <= status < 400 else "an error"
        raise OutputError("the webhook was refused", expected="2xx", found=f"{status}: {what}", where=parts.hostname)
    return status

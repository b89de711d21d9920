"""Getting a published dataset: resumed where it broke off, checked, unpacked with care, its license agreed to first.

A file is fetched to ``.download/NAME.part`` with the server's tag beside it; the next attempt, in this run or a later
one, requests the rest only if the file is still the same (``If-Range``, RFC 9110 section 13.1.5). Only http and https
are spoken, also after redirects, and https is never left for http.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segwright.core.atomic_io import lock_folder, typed_output, write_text
from segwright.core.errors import DownloadError, UsageError
from segwright.core.progress import progress, stderr_console
from segwright.core.version import __version__
from segwright.data.download.catalog import CATALOG, Archive, DatasetEntry
from segwright.data.download.unpack import DEFAULT_LIMITS, NOTICE, RESERVED, STORE, UnpackLimits, unpack

__all__ = ["CATALOG", "Archive", "DatasetEntry", "fetch", "get"]

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 6  # in a row without progress
LARGEST_REDIRECTS = 8
MEGABYTE = 1_000_000


def get(
    name: str,
    out: str | Path,
    *,
    yes: bool = False,
    keep_archives: bool = False,
    catalog: Mapping[str, DatasetEntry] = CATALOG,
    ask: Callable[[str], bool] | None = None,
    limits: UnpackLimits = DEFAULT_LIMITS,
) -> Path:
    """Download and unpack a dataset of the catalog into ``out``; returns it.

    The license is shown, and agreed to by ``yes`` or by ``ask`` (a question on the terminal by default). What was
    fetched before, whole or in part, is not fetched again. Errors: UsageError for an unknown name, or where nobody can
    be asked; DownloadError where the server fails, lies or serves what it should not.
    """
    if name not in catalog:
        raise UsageError("unknown dataset", expected=", ".join(catalog), found=name)
    entry, out = catalog[name], Path(out)
    _agree(entry, yes, ask)
    store = out / STORE
    with typed_output(out), lock_folder(store):
        marks = _CompletedArchives(store / "done.json", out)
        for remote in entry.files:
            if marks.has(remote):
                continue
            path = fetch(remote.url, store / remote.file, md5=remote.md5, about=remote.bytes)
            unpack(path, out / remote.into if remote.into else out, keep=remote.keep, limits=limits)
            marks.add(remote)
            if not keep_archives:
                path.unlink()
        write_text(out / NOTICE, f"{entry.title}\n{entry.homepage}\n{entry.license}\n")
    return out


class _CompletedArchives:
    """Which archives are unpacked already, so that a second run goes on after the last whole one.

    Kept in the folder when all is done: what was unpacked is not fetched again, as long as it is there.
    """

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self.out = path, out
        self.done: dict[str, list[str]] = {}  # address → what lay in the folder when its archive was unpacked
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                self.done = {
                    str(url): [str(n) for n in names] for url, names in found.items() if isinstance(names, list)
                }

    def has(self, remote: Archive) -> bool:
        names = self.done.get(remote.url)
        return bool(names) and all((self._folder(remote) / name).exists() for name in names or ())

    def add(self, remote: Archive) -> None:
        names = sorted(entry.name for entry in self._folder(remote).iterdir() if entry.name not in RESERVED)
        self.done[remote.url] = names
        write_text(self.path, json.dumps(self.done, indent=1))

    def _folder(self, remote: Archive) -> Path:
        return self.out / remote.into if remote.into else self.out


def _agree(entry: DatasetEntry, yes: bool, ask: Callable[[str], bool] | None) -> None:
    unchecked = [remote.file for remote in entry.files if remote.md5 is None]
    console = stderr_console()
    console.print(f"{entry.title}: about {entry.bytes / 1e9:.2g} GB, {entry.homepage}\nLicense: {entry.license}")
    if unchecked:
        console.print(f"No checksum is published for {', '.join(unchecked)}: only the length can be checked.")
    if yes:
        return
    if ask is None:
        if not sys.stdin.isatty():
            raise UsageError("the license has to be agreed to", expected=entry.license, fix="read it, then add --yes")
        ask = _ask_on_terminal
    if not ask("Do you agree? [y/N] "):
        raise UsageError("not agreed to the license; nothing was downloaded", found=entry.license)


def _ask_on_terminal(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@dataclass
class _State:
    """Metadata of a partial file, stored beside it."""

    url: str
    tag: str | None = None  # a strong ETag, or Last-Modified
    total: int | None = None


def fetch(
    url: str,
    path: Path,
    *,
    md5: str | None = None,
    about: int | None = None,
    attempts: int = ATTEMPTS,
    timeout: float = TIMEOUT,
    pause: Callable[[float], Any] = time.sleep,
) -> Path:
    """Download ``url`` to ``path``, whole and checked, or DownloadError; what arrived stays for the next attempt.

    ``about``: how many bytes to expect, roughly; a server that sends over a half more is stopped. ``attempts``: how
    many in a row may bring nothing new before giving up.
    """
    check_scheme(url)
    if path.exists() and (md5 is None or _md5(path) == md5):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    most = None if about is None else about + about // 2 + 10 * MEGABYTE
    part = path.with_name(path.name + ".part")
    failed = 0
    with progress(f"downloading {path.name} (MB)", None if about is None else about // MEGABYTE) as advance:
        shown = _Megabytes(advance)
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                whole = _attempt(url, part, most, timeout, shown)
            except _RetryableError as error:
                after = part.stat().st_size if part.exists() else 0
                failed = 0 if after > before else failed + 1
                if failed >= attempts:
                    raise DownloadError(
                        "the download breaks off again and again",
                        found=f"{error} ({after} bytes so far)",
                        where=url,
                        fix="try again later: what arrived is kept and the rest is fetched then",
                    ) from error
                pause(min(30.0, 2.0**failed / 2))
                continue
            if whole:
                break
    if md5 is not None and (found := _md5(part)) != md5:
        part.unlink()
        _state_path(part).unlink(missing_ok=True)
        raise DownloadError("the file is not the published one", expected=f"MD5 {md5}", found=f"MD5 {found}", where=url,
                            fix="try again; if it stays so, the file has changed or is not genuine")  # fmt: skip
    part.replace(path)
    _state_path(part).unlink(missing_ok=True)
    return path


class _RetryableError(Exception):
    """A failure that another attempt may mend."""


class _Megabytes:
    """Counts bytes, advances in whole megabytes."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance, self.bytes, self.shown = advance, 0, 0

    def to(self, total: int) -> None:
        self.bytes = max(self.bytes, total)
        if self.bytes // MEGABYTE > self.shown:
            self.advance(self.bytes // MEGABYTE - self.shown)
            self.shown = self.bytes // MEGABYTE


def check_scheme(url: str) -> None:
    """DownloadError unless the address is http or https."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError("only http and https are spoken", found=url, fix="give an http or https address")


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = LARGEST_REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_scheme(newurl)
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError("the server sends on from https to http", found=newurl, where=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Only http and https: the default opener would also follow to ftp, file and data addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _attempt(url: str, part: Path, most: int | None, timeout: float, shown: _Megabytes) -> bool:
    """Fetch what is missing; True when the file is whole. _RetryableError where another attempt may help."""
    state = _read_state(part, url)
    have = part.stat().st_size if part.exists() and state.tag is not None else 0
    if have and have == state.total:
        return True
    headers = {"User-Agent": f"segwright/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": str(state.tag)}
    try:
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            return _receive(response, url, part, have, most, shown)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what we have does not fit what is there: start again
            part.unlink(missing_ok=True)
            raise _RetryableError("the server refused the rest") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _RetryableError(f"HTTP {error.code}") from error
        raise DownloadError(
            "the server refuses",
            expected="HTTP 200",
            found=f"HTTP {error.code} {error.reason}",
            where=url,
            fix="look at the dataset's homepage for its new address",
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _RetryableError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _receive(response: Any, url: str, part: Path, have: int, most: int | None, shown: _Megabytes) -> bool:
    resumed = response.status == 206 and have > 0
    length = _number(response.headers.get("Content-Length"))
    if length is None and response.headers.get("Content-Length") is not None:
        raise _RetryableError(f"a length that is no number: {response.headers['Content-Length'][:40]}")
    if response.status == 206:
        start, total = _content_range(response.headers.get("Content-Range"))
        if not resumed or start != have:
            part.unlink(missing_ok=True)
            raise _RetryableError("the server sent another part than requested")
    else:
        have, total = 0, length
    if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
        raise DownloadError("the server sends the file recoded", found=response.headers["Content-Encoding"], where=url)
    if most is not None and total is not None and total > most:
        raise _too_much(url, most, total)
    if total is not None and shutil.disk_usage(part.parent).free < total - have:
        raise DownloadError("the disk has no room for the file", expected=f"{total - have} bytes",
                            found=f"{shutil.disk_usage(part.parent).free} free", where=part.parent)  # fmt: skip
    tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if tag is not None and tag.startswith("W/"):  # a weak tag does not vouch for the bytes
        tag = response.headers.get("Last-Modified")
    write_text(_state_path(part), json.dumps({"url": url, "tag": tag, "total": total}))
    with open(part, "ab" if resumed else "wb") as file:
        while chunk := response.read(CHUNK):
            have += len(chunk)
            if most is not None and have > most:
                raise _too_much(url, most, have)
            file.write(chunk)
            shown.to(have)
    if total is not None and have != total:
        raise _RetryableError(f"{have} of {total} bytes")
    return True


def _too_much(url: str, most: int, found: int) -> DownloadError:
    return DownloadError("the server sends far more than the dataset has", expected=f"at most {most} bytes",
                         found=f"{found}", where=url, fix="look at the dataset's homepage")  # fmt: skip


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,19}", text.strip()) else None


def _content_range(text: str | None) -> tuple[int, int | None]:
    """(first byte, total or None) of a Content-Range; (-1, None) where it is none."""
    match = re.fullmatch(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", (text or "").strip())
    return (int(match[1]), _number(match[3])) if match else (-1, None)


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path, url: str) -> _State:
    try:
        data = json.loads(_state_path(part).read_text(encoding="utf-8"))
        if data["url"] == url:
            tag, total = data.get("tag"), data.get("total")
            return _State(url, tag if isinstance(tag, str) else None, total if isinstance(total, int) else None)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return _State(url)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

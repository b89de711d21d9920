"""A slot: the folder that a service takes its model from, with the versions before it.

::

    SLOT/model -> versions/0002-1f3c…     what `serve SLOT` and every other command loads; replaced in one rename
    SLOT/versions/0001-90ab…/             bundles, each checked by its sums
    SLOT/versions/0002-1f3c….json         who put it into service, when, why, and by which figures
    SLOT/history.jsonl                    a line per switch, in order

Everything a switch needs is on the disk before the link is replaced, so a process that is killed at any instant leaves
the version before or the new one. The link is the truth: a switch that is missing in the history is added by the next
promotion, from the version's own file, and a history that is gone is made again from the files of all versions.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from segwright.core.atomic_io import clear_leftovers, sync_path, typed_output, write_folder, write_json
from segwright.core.errors import BundleError, UsageError
from segwright.inference.description import read_bundle
from segwright.inference.lineage import bundle_id

LINK, VERSIONS, HISTORY = "model", "versions", "history.jsonl"
MOST_HISTORY_BYTES = 64_000_000
_VERSION = re.compile(r"[0-9]{4,}-[0-9a-f]{16}")


@dataclass(frozen=True)
class Slot:
    """The folder of a slot; it need not exist."""

    folder: Path

    @property
    def link(self) -> Path:
        """What commands load."""
        return self.folder / LINK

    def current(self) -> str | None:
        """The name of the version in service; None in an empty slot. BundleError if it is not there any more."""
        try:
            target = os.readlink(self.link)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            return self._copied()
        name = Path(target).name
        if not _VERSION.fullmatch(name) or not self.link.exists():
            raise BundleError(
                "the slot's version is missing", expected=f"a version in {self.folder / VERSIONS}", found=target,
                where=self.folder, fix="segwright promote SLOT --back, or restore the folder",
            )  # fmt: skip
        return name

    def _copied(self) -> str | None:
        """The current version where links cannot be made: the one whose weights are in the folder."""
        if not self.link.is_dir():
            raise UsageError("no slot", expected="a folder that promote has made", found="a file", where=self.link)
        id = bundle_id(self.link)
        found = [name for name in self.versions() if name.endswith(f"-{id}")]
        if not found:
            raise UsageError(
                "the folder is no slot: it holds a model that was not promoted",
                expected="a new folder, or one that promote has made",
                where=self.folder,
                fix="another folder as SLOT",
            )
        return found[-1]

    def versions(self) -> list[str]:
        """The names of the versions kept, the oldest first."""
        try:
            names = [entry.name for entry in os.scandir(self.folder / VERSIONS) if entry.is_dir()]
        except OSError:
            return []
        return sorted((name for name in names if _VERSION.fullmatch(name)), key=_number)

    def version(self, name: str) -> Path:
        """The folder of a version."""
        return self.folder / VERSIONS / name

    def history(self) -> list[dict[str, Any]]:
        """The switches so far, the oldest first; a line that a kill cut is left out.

        Without a history they are what the files of the versions tell.
        """
        return self._written() or self._rebuilt()

    def _written(self) -> list[dict[str, Any]]:
        path = self.folder / HISTORY
        if not path.is_file():
            return []
        if path.stat().st_size > MOST_HISTORY_BYTES:
            raise UsageError("the slot's history is too large to be one of ours", where=path)
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("version"), str):
                    found.append(entry)
        return found

    def _rebuilt(self) -> list[dict[str, Any]]:
        """The switches that led to the version in service, from the versions' files: each names the one before."""
        try:
            current = Path(os.readlink(self.link)).name
        except OSError:
            try:
                current = self.current() or ""
            except (BundleError, UsageError):
                current = ""
        names = {path.stem for path in (self.folder / VERSIONS).glob("*.json") if _VERSION.fullmatch(path.stem)}
        rows: list[dict[str, Any]] = []
        stack: list[str] = []

        def back_to(target: object) -> None:
            while target in stack and stack[-1] != target:
                stack.pop()
                rows.append({"action": "back", "version": stack[-1], "why": "found from the files of the versions"})

        for name in sorted(names | set(self.versions()), key=_number):
            record = self._record(name)
            back_to(record.get("before"))
            stack.append(name)
            rows.append(record)
        back_to(current)
        return rows

    def _record(self, name: str) -> dict[str, Any]:
        """How a version was put into service, from its file."""
        try:
            found = json.loads((self.folder / VERSIONS / f"{name}.json").read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return {**found, "action": "promote", "version": name}
        except (OSError, ValueError, RecursionError):
            pass
        return {"action": "promote", "version": name, "time": now(), "why": "found in service"}

    def before(self) -> str | None:
        """The version that --back returns to; None if there is none.

        A promotion puts a version on a stack, --back takes the top off it.
        """
        stack: list[str] = []
        for entry in self.history():
            if entry.get("action") == "back":
                del stack[-1:]
            elif not stack or stack[-1] != entry["version"]:
                stack.append(entry["version"])
        return stack[-2] if len(stack) > 1 else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the slot's lock; UsageError if another process changes the slot. Repairs what a kill left."""
        with typed_output(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / ".lock", timeout=0, mode=0o666, thread_local=False)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise UsageError(
                    "another promotion is changing the slot", where=self.folder, fix="try again"
                ) from error
        try:
            self._repair()
            yield
        finally:
            lock.release()

    def add(self, candidate: Path, id: str, record: Mapping[str, Any]) -> str:
        """Copy a bundle into the slot as a version that is not in service yet; returns its name.

        OutputError if the disk is full, BundleError if the copy is not what its sums list; neither leaves anything.
        """
        known = [_number(name) for name in self.versions()]
        name = f"{max(known, default=0) + 1:04d}-{id}"
        try:
            with write_folder(self.version(name)) as beside:
                for file in sorted(candidate.iterdir()):
                    if file.is_symlink() or not file.is_file():
                        raise BundleError("a bundle holds plain files only", found=file.name, where=candidate)
                    shutil.copyfile(file, beside / file.name)
                read_bundle(beside)  # of the copy: what was checked is what will be served
                if bundle_id(beside) != id:
                    raise BundleError("the candidate has changed while it was copied", where=candidate)
            write_json(self.folder / VERSIONS / f"{name}.json", {**record, "version": name})
        except BaseException:
            shutil.rmtree(self.version(name), ignore_errors=True)
            raise
        return name

    def switch(self, name: str, entry: Mapping[str, Any]) -> None:
        """Put a version into service in one rename, then write the history. OutputError leaves the version before."""
        with typed_output(self.folder):
            beside = self.folder / f".{LINK}-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                os.symlink(Path(VERSIONS) / name, beside, target_is_directory=True)
            except (OSError, NotImplementedError):
                self._copy(name)  # where links cannot be made
            else:
                try:
                    os.replace(beside, self.link)
                except OSError:
                    beside.unlink(missing_ok=True)
                    raise
                sync_path(self.folder)
        self._append({**entry, "version": name})

    def prune(self, keep: int) -> list[str]:
        """Remove the oldest versions but ``keep``; never the one in service or the one that --back returns to."""
        held = {self.current(), self.before()}
        names = self.versions()
        removed = [name for name in names[: max(0, len(names) - keep)] if name not in held]
        for name in removed:
            shutil.rmtree(self.version(name), ignore_errors=True)
            (self.folder / VERSIONS / f"{name}.json").unlink(missing_ok=True)
        return removed

    def _copy(self, name: str) -> None:
        with write_folder(self.link) as beside:
            for file in sorted(self.version(name).iterdir()):
                shutil.copyfile(file, beside / file.name)

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the history. If the disk is full, the next promotion adds it: the switch itself is done."""
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        with contextlib.suppress(OSError), open(self.folder / HISTORY, "ab") as file:
            if file.tell() and not _ends_a_line(self.folder / HISTORY):
                file.write(b"\n")
            file.write(line.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())

    def _repair(self) -> None:
        """Remove leftovers of promotions that were killed; add a switch that is missing in the history."""
        clear_leftovers(self.folder / VERSIONS)
        clear_leftovers(self.folder)
        for link in self.folder.glob(f".{LINK}-*"):
            if link.is_symlink():
                link.unlink(missing_ok=True)
        if not self._written():
            for row in self._rebuilt():
                self._append(row)
        try:
            current, history = self.current(), self.history()
        except BundleError:  # its folder is gone: --back leads to the one before
            return
        if current is None or (history and history[-1]["version"] == current):
            return
        if any(entry["version"] == current for entry in history):  # gone back to, without a line
            record: dict[str, Any] = {"action": "back", "version": current, "time": now(), "why": "found in service"}
        else:
            record = self._record(current)
        self._append(record)


def is_slot(path: Path) -> bool:
    """Whether a folder is a slot."""
    return (path / VERSIONS).is_dir() and ((path / HISTORY).is_file() or bool(Slot(path).versions()))


def slot_of(path: str | Path) -> Slot:
    """The slot at a path, which may be new; UsageError for a folder that holds other things."""
    folder = Path(path)
    if folder.is_dir() and not (folder / VERSIONS).is_dir():
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise UsageError(
                "the folder is no slot", expected="a new or empty folder, or one that promote has made",
                found=", ".join(others[:6]), where=folder, fix="another folder as SLOT",
            )  # fmt: skip
    elif folder.exists() and not folder.is_dir():
        raise UsageError("a slot is a folder", found="a file", where=folder, fix="another path as SLOT")
    return Slot(folder)


def existing_slot(path: str | Path) -> Slot:
    """The slot at a path; UsageError where there is none: a mistyped path is no empty slot."""
    slot = slot_of(path)
    if not slot.folder.is_dir():
        raise UsageError("no slot here", expected="a folder that promote has made", found="nothing", where=path)
    return slot


def who() -> str:
    """user@host, as far as they are known."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = "unknown"
    return f"{name}@{platform.node() or 'unknown'}"


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

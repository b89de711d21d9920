"""The main loop of a worker process of :mod:`.sandbox`: receive functions and items, answer without pickle."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Callable
from typing import IO, Any

from segwright.imageio import messages

STDERR_KEPT = 4000  # characters of a worker's output that are kept for one file
MAX_PRINTED = 64 << 20  # bytes that a worker may write to any file: libraries print, nothing else is written


def _fetch(pipe: IO[bytes]) -> Any:
    size = int.from_bytes(messages.exactly(pipe, 8), "little")
    return pickle.loads(messages.exactly(pipe, size))


def serve(requests: int, answers: int) -> None:
    """Main loop of a worker: set-ups and items, until the pipe closes."""
    if os.name != "posix":  # decoders may print to stdout: the answers keep a descriptor of their own
        requests, answers = os.dup(requests), os.dup(answers)
        os.dup2(2, 1)
    questions, replies = os.fdopen(requests, "rb"), os.fdopen(answers, "wb")
    import cv2

    cv2.setNumThreads(1)
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_FSIZE", MAX_PRINTED)
    functions: dict[int, tuple[Callable[[Any], Any], int]] = {}
    here = os.getcwd()
    try:
        while True:
            folder, key, body = _fetch(questions)
            if folder != here:  # relative paths mean what they mean to the parent
                with contextlib.suppress(OSError):
                    os.chdir(folder)
                    here = folder
            if key in functions:
                function, memory = functions[key]
                _limit("RLIMIT_AS", memory)
                for item in body:
                    _answer(replies, function, item)
                continue
            message, memory = body

            def prepare(message: bytes = message, key: int = key, memory: int = memory) -> None:
                make, arguments = pickle.loads(message)
                functions[key] = (make(*arguments), _address_space() + memory)

            _limit("RLIMIT_AS", None)
            _answer(replies, lambda _: prepare(), None)
    except EOFError:
        return


def _answer(pipe: IO[bytes], function: Callable[[Any], Any], item: Any) -> None:
    try:
        good, value = True, function(item)
    except Exception as error:
        good, value = False, error
    stderr = _printed()
    try:
        messages.send(pipe, (good, value, stderr))
    except (TypeError, ValueError, MemoryError) as error:  # nothing was written: what cannot travel fails before
        messages.send(pipe, (False, RuntimeError(f"{value!r:.500} ({error})"), stderr))


def _printed() -> str:
    """Return the output since the last answer, and empty the file."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        sys.stdout.flush()
    try:
        if os.fstat(2).st_size == 0:
            return ""
        text = os.pread(2, STDERR_KEPT, 0) if hasattr(os, "pread") else b""
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
    except OSError:
        return ""
    return text.decode(errors="replace").strip()


def _limit(name: str, value: int | None) -> None:
    """Set a soft limit of this process; None lifts it. Without effect where the system has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return
    which = getattr(resource, name)
    _, hard = resource.getrlimit(which)
    soft = hard if value is None or (hard != resource.RLIM_INFINITY and value > hard) else value
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(which, (soft, hard))


def _address_space() -> int:
    """Bytes of address space of this process; a value beyond any limit if it is unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 1 << 45

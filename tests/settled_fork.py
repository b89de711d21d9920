"""A fork of a test's process at a moment in which no thread of it is ending."""

from __future__ import annotations

import os
import time


def settled_fork() -> int:
    """os.fork, once the number of threads stands still.

    A thread that has ended for Python still cleans up in the system. OpenCV's do so under a lock, which a fork just
    then leaves locked for ever in the child.
    """
    until, before = time.monotonic() + 5.0, -1
    while os.path.isdir("/proc/self/task") and time.monotonic() < until:
        now = len(os.listdir("/proc/self/task"))
        if now == before:
            break
        before = now
        time.sleep(0.02)
    return os.fork()

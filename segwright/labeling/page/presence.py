"""Who is at which image now, so that two people are sent to different ones and see each other where they meet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

LEASE_SECONDS = 45.0  # the page renews its lease every few seconds


@dataclass
class Lease:
    """One open page: a person at an image."""

    by: str
    image: int
    until: float


class Leases:
    """Leases by the page that holds them; one that is not renewed ends by itself, as after a crash."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()

    def take(self, page: str, by: str, image: int) -> list[str]:
        """Note that ``page``, which is ``by``'s, is at an image; returns the others there."""
        with self._lock:
            self._clear()
            self._leases[page] = Lease(by, image, self.clock() + LEASE_SECONDS)
            return sorted({one.by for key, one in self._leases.items() if one.image == image and key != page})

    def release(self, page: str) -> None:
        """The page was closed."""
        with self._lock:
            self._leases.pop(page, None)

    def busy(self, page: str) -> set[int]:
        """The images that other pages are at."""
        with self._lock:
            self._clear()
            return {one.image for key, one in self._leases.items() if key != page}

    def people(self) -> dict[str, int]:
        """Name → image."""
        with self._lock:
            self._clear()
            return {one.by: one.image for one in self._leases.values()}

    def _clear(self) -> None:
        now = self.clock()
        self._leases = {key: one for key, one in self._leases.items() if one.until >= now}

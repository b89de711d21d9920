"""What the service lets a request ask for, and how it says no."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from segwright.core.errors import SegwrightError, UsageError
from segwright.imageio import Limits

HELD_BODIES = 8  # bodies of full size in memory at a time, for all clients together
HELD_IMAGES = 4  # decoded images of full size in memory at a time
DEEP_PIXEL = 16  # bytes a pixel while decoding: four bands of 32 bits


@dataclass(frozen=True)
class ServiceLimits:
    """The bounds of one service. UsageError where a value is not positive."""

    max_megabytes: float = 32.0  # of a request's body, in 10^6 bytes
    max_megapixels: float = 32.0  # of an image, by its header
    queue: int = 32  # requests taken and not yet answered
    batch: int | None = None  # images of one size a run; None: 8 on a GPU, 1 on a CPU
    wait_seconds: float = 0.004  # what the first of a batch waits for others
    header_seconds: float = 10.0  # for a request's line and headers
    body_seconds: float = 30.0  # for its body
    decode_seconds: float = 30.0  # for decoding, in a process that is ended then
    predict_seconds: float = 120.0  # of the network for one image, looked at after each of its windows
    write_seconds: float = 30.0  # for a client that stopped reading its answer
    stop_seconds: float = 20.0  # for what was taken when a stop is asked for
    connections: int = 256

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(
                    "a limit of the service is a positive number", expected="more than 0", found=f"{entry.name} {value}"
                )

    @property
    def max_bytes(self) -> int:
        """Of a body."""
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """Of an image."""
        return int(self.max_megapixels * 1e6)

    def for_images(self) -> Limits:
        """The same for the decoder. ``max_bytes`` is there what a TIFF may unpack to."""
        return Limits(max_pixels=self.max_pixels, max_bytes=max(self.max_bytes, DEEP_PIXEL * self.max_pixels))


class Refused(SegwrightError):
    """A request that is answered with an error. ``status`` is HTTP's; ``headers`` go along."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, expected=expected, found=found, fix=fix)
        self.status, self.headers = status, headers


class ClientLeft(Exception):
    """Whoever asked is gone: nothing is to be answered."""

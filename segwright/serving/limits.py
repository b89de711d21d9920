"""The limits of the service, and the errors of a request."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, fields

from segwright.core.deprecated import renamed_attribute, warn_renamed
from segwright.core.errors import SegwrightError, UsageError
from segwright.imageio import Limits

MAX_BUFFERED_BODIES = 8  # bodies of the largest size in memory at a time, for all clients together
MAX_DECODED_IMAGES = 4  # decoded images of the largest size in memory at a time
BYTES_PER_PIXEL = 16  # while decoding: four bands of 32 bits


@dataclass(frozen=True)
class ServiceLimits:
    """The limits of one service. UsageError if a value is not positive."""

    max_megabytes: float = 32.0  # of a request's body, in 10^6 bytes
    max_megapixels: float = 32.0  # of an image, by its header
    max_concurrent_requests: int = 32  # accepted and not yet answered
    batch: int | None = None  # images of one size per run of the network; None: 8 on a GPU, 1 on a CPU
    wait_seconds: float = 0.004  # how long the first image of a batch waits for others
    header_seconds: float = 10.0  # to receive a request's line and headers
    body_seconds: float = 30.0  # to receive its body
    decode_seconds: float = 30.0  # to decode it; the process is killed after that
    predict_seconds: float = 120.0  # of the network for one image, checked after each window
    write_seconds: float = 30.0  # until a client that stopped reading its response is disconnected
    stop_seconds: float = 20.0  # to finish accepted requests when the service stops
    connections: int = 256
    models_megabytes: float | None = None  # of the files of all loaded models, in 10^6 bytes; None: not limited
    queue: InitVar[int | None] = None  # the former name of max_concurrent_requests

    def __post_init__(self, queue: int | None) -> None:
        if queue is not None:
            warn_renamed("ServiceLimits(queue=…)", "max_concurrent_requests=…")
            object.__setattr__(self, "max_concurrent_requests", queue)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(
                    "a limit of the service is not positive", expected="more than 0", found=f"{entry.name} {value}"
                )

    @property
    def max_bytes(self) -> int:
        """The largest body in bytes."""
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """The largest image in pixels."""
        return int(self.max_megapixels * 1e6)

    @property
    def models_bytes(self) -> int | None:
        """The files of all loaded models together, in bytes."""
        return None if self.models_megabytes is None else int(self.models_megabytes * 1e6)

    def image_limits(self) -> Limits:
        """The limits of the decoder; its ``max_bytes`` bounds the uncompressed size of a TIFF."""
        return Limits(max_pixels=self.max_pixels, max_bytes=max(self.max_bytes, BYTES_PER_PIXEL * self.max_pixels))


setattr(ServiceLimits, "queue", renamed_attribute("queue", "max_concurrent_requests"))  # noqa: B010


class RequestRejected(SegwrightError):
    """A request that gets an error response. ``status``: the HTTP status; ``headers``: added to the response."""

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


class ClientDisconnected(Exception):
    """The client disconnected; no response is sent."""

"""Pictures from strangers: decoded in child processes, so that a file that kills a decoder kills no service.

Needs no torch: a child imports this module.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from segwright.data.records import ValueRange
from segwright.errors import DepthError, ImageReadError, SegwrightError, TooLargeError
from segwright.images import Limits, UInt8Array, decode_image
from segwright.images.isolated import Children, Outcome, killed
from segwright.images.raster import decode_raster

WHERE = "the picture"
WHOLE = "send one whole picture, byte for byte as it lies on the disk"
DEEPER = "send an image of the depth that the model was trained on"
SMALLER = "send a smaller picture, or cut it into tiles; who runs the service sets --max-megapixels"

_Item = tuple[bytes, ValueRange | None]


class PictureDecoder:
    """Bytes to pixels as :meth:`segwright.inference.predictor.Predictor.read` gives them, channels not yet fitted.

    At most ``count`` pictures at a time, each in a child process, for at most ``seconds``; safe to call from ``count``
    threads. A child that dies or hangs is replaced.
    """

    def __init__(self, limits: Limits, *, count: int, seconds: float) -> None:
        self.children: Children[_Item, UInt8Array] = Children(
            make_decoder, limits, count=count, timeout=seconds, limits=limits
        )
        self.seconds = seconds

    def decode(self, data: bytes, value_range: ValueRange | None = None) -> UInt8Array:
        """uint8 H×W×C. TooLargeError by the header, before pixels are decoded; ImageReadError where the bytes are no
        whole picture, or end the process that decodes them; MissingExtraError for a compression we cannot read."""
        began = time.monotonic()
        outcome = self.children.one((data, value_range))
        if outcome.died is not None and time.monotonic() - began < self.seconds:
            # A child may die of something else, as when the system is short of memory: the picture gets a second one.
            outcome = self.children.one((data, value_range))
        if outcome.result is not None:
            return outcome.result
        raise _explained(outcome)

    def close(self) -> None:
        self.children.close()


def make_decoder(limits: Limits) -> Callable[[_Item], UInt8Array]:
    """A child's function."""
    # A Ctrl-C reaches the whole process group, and a stop may be sent to all of a service's processes: what was taken
    # is finished first. A child ends when its parent closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def decode(item: _Item) -> UInt8Array:
        data, value_range = item
        if value_range is None:
            return decode_image(data, WHERE, limits)
        raster: npt.NDArray[Any] = decode_raster(data, WHERE, limits)
        return value_range.scale(raster)

    return decode


def _explained(outcome: Outcome[_Item, UInt8Array]) -> SegwrightError:
    """The error of a failed decoding, its fix fit for who sent the picture."""
    error = outcome.error
    if error is None:
        died = killed(WHERE, str(outcome.died))
        return ImageReadError(died.message, expected=died.expected, found=died.found, fix=WHOLE)
    if isinstance(error, DepthError):
        return ImageReadError(error.message, expected=error.expected, found=error.found, fix=DEEPER)
    if isinstance(error, ImageReadError):
        kind, fix = (TooLargeError, SMALLER) if isinstance(error, TooLargeError) else (ImageReadError, WHOLE)
        return kind(error.message, expected=error.expected, found=error.found, fix=fix)
    if isinstance(error, SegwrightError):
        return error
    # MemoryError and the like: the child lives, the picture cannot be had
    return ImageReadError("the picture cannot be decoded", found=type(error).__name__, fix=WHOLE)

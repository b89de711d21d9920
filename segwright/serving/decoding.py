"""Images from strangers: decoded in child processes, so that a file that kills a decoder kills no service.

Needs no torch: a child imports this module.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from segwright.core.errors import ImageReadError, SegwrightError, TooLargeError
from segwright.imageio import Limits, decode_image
from segwright.imageio.raster import decode_raster
from segwright.imageio.sandbox import DecoderStartError, TaskResult, WorkerPool, decoder_crashed_error

WHERE = "the image"
WHOLE = "send one whole image, byte for byte as it lies on the disk"
DEEPER = "send an image of the depth that the model was trained on"
SMALLER = "send a smaller image, or cut it into tiles; who runs the service sets --max-megapixels"

_Item = tuple[bytes, bool]
_Pixels = npt.NDArray[Any]


class DecoderLostError(SegwrightError):
    """The processes that decode are ended from outside, as for want of memory: no fault of this image."""


class ImageDecoder:
    """Bytes to pixels, channels not yet fitted.

    At most ``count`` images at a time, each in a child process, for at most ``seconds``; safe to call from ``count``
    threads. A child that dies or hangs is replaced; an image whose child is ended from outside gets a second one.
    """

    def __init__(self, limits: Limits, *, count: int, seconds: float) -> None:
        self.pool: WorkerPool[_Item, _Pixels] = WorkerPool(
            make_decoder, limits, count=count, timeout=seconds, limits=limits
        )
        self.seconds = seconds

    def decode(self, data: bytes, deep: bool = False) -> _Pixels:
        """uint8 H×W×C, or with ``deep`` all bands in the file's own number type.

        TooLargeError by the header, before pixels are decoded, or where memory runs out; ImageReadError where the
        bytes are no whole image, take longer than ``seconds``, or end the process that decodes them;
        MissingExtraError for a compression we cannot read; DecoderLostError where no process lives long enough.
        """
        try:
            began = time.monotonic()
            outcome = self.pool.one((data, deep))
            if outcome.crash is not None and not outcome.interrupted and time.monotonic() - began < self.seconds:
                outcome = self.pool.one((data, deep))  # it may have died of something else
        except DecoderStartError as error:
            raise DecoderLostError("images cannot be decoded now", found=error.found, fix="ask again") from error
        if outcome.interrupted:
            raise DecoderLostError(
                "the process that decodes the image was ended from outside, twice", found=outcome.crash, fix="ask again"
            )
        if outcome.result is not None:
            return outcome.result
        raise _explained(outcome)

    def close(self) -> None:
        self.pool.close()


def make_decoder(limits: Limits) -> Callable[[_Item], _Pixels]:
    """A child's function."""
    # A Ctrl-C reaches the whole process group, and a stop may be sent to all of a service's processes: what was taken
    # is finished first. A child ends when its parent closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def decode(item: _Item) -> _Pixels:
        data, deep = item
        return decode_raster(data, WHERE, limits) if deep else decode_image(data, WHERE, limits)

    return decode


def _explained(outcome: TaskResult[_Item, _Pixels]) -> SegwrightError:
    """The error of a failed decoding, its fix fit for who sent the image."""
    error = outcome.error
    if error is None:
        crash = decoder_crashed_error(WHERE, str(outcome.crash))
        return ImageReadError(crash.message, expected=crash.expected, found=crash.found, fix=WHOLE)
    if isinstance(error, ImageReadError):
        kind, fix = (TooLargeError, SMALLER) if isinstance(error, TooLargeError) else (ImageReadError, WHOLE)
        return kind(error.message, expected=error.expected, found=error.found, fix=fix)
    if isinstance(error, SegwrightError):
        return error
    if isinstance(error, MemoryError):  # the child lives; its memory is bounded
        return TooLargeError("the image takes more memory than is allowed for one", found="memory ran out", fix=SMALLER)
    return ImageReadError("the image cannot be decoded", found=type(error).__name__, fix=WHOLE)

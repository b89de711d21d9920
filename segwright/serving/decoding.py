"""Decoding of untrusted images in child processes, so that a file that crashes a decoder does not end the service.

Imports no torch: the child processes import this module.
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
FIX_WHOLE_FILE = "send one whole image file, byte for byte"
FIX_BIT_DEPTH = "send an image of the bit depth that the model was trained on"
FIX_SIZE = "send a smaller image, or cut it into tiles; the limit is set by --max-megapixels"

_Item = tuple[bytes, bool]
_Pixels = npt.NDArray[Any]


class DecoderUnavailableError(SegwrightError):
    """The decoder processes are killed from outside, for example for lack of memory; the image is not the cause."""


class ImageDecoder:
    """Decode images, at most ``count`` at a time, each in a child process, for at most ``seconds``.

    Safe to call from ``count`` threads. A child that dies or hangs is replaced; an image whose child is killed from
    outside gets a second one.
    """

    def __init__(self, limits: Limits, *, count: int, seconds: float) -> None:
        self.pool: WorkerPool[_Item, _Pixels] = WorkerPool(
            make_decoder, limits, count=count, timeout=seconds, limits=limits
        )
        self.seconds = seconds

    def decode(self, data: bytes, deep: bool = False) -> _Pixels:
        """uint8 H×W×C, or with ``deep`` all bands in the file's own number type; channels as in the file.

        TooLargeError by the header, before pixels are decoded, or if memory runs out; ImageReadError if the bytes are
        not a whole image, take longer than ``seconds``, or crash the decoder; MissingExtraError for a compression that
        is not supported; DecoderUnavailableError if the processes are killed from outside.
        """
        try:
            began = time.monotonic()
            outcome = self.pool.one((data, deep))
            if outcome.crash is not None and not outcome.interrupted and time.monotonic() - began < self.seconds:
                outcome = self.pool.one((data, deep))  # it may have died of another cause
        except DecoderStartError as error:
            raise DecoderUnavailableError(
                "the decoder processes cannot be started", found=error.found, fix="try again"
            ) from error
        if outcome.interrupted:
            raise DecoderUnavailableError(
                "the decoder process was killed from outside, twice", found=outcome.crash, fix="try again"
            )
        if outcome.result is not None:
            return outcome.result
        raise _client_error(outcome)

    def close(self) -> None:
        self.pool.close()


def make_decoder(limits: Limits) -> Callable[[_Item], _Pixels]:
    """The function of a child process."""
    # Ctrl-C reaches the whole process group, and SIGTERM may be sent to all processes of a service, but accepted images
    # are finished first. A child ends when its parent closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def decode(item: _Item) -> _Pixels:
        data, deep = item
        return decode_raster(data, WHERE, limits) if deep else decode_image(data, WHERE, limits)

    return decode


def _client_error(outcome: TaskResult[_Item, _Pixels]) -> SegwrightError:
    """The error of a failed decoding, with a fix for the client."""
    error = outcome.error
    if error is None:
        crash = decoder_crashed_error(WHERE, str(outcome.crash))
        return ImageReadError(crash.message, expected=crash.expected, found=crash.found, fix=FIX_WHOLE_FILE)
    if isinstance(error, ImageReadError):
        kind, fix = (TooLargeError, FIX_SIZE) if isinstance(error, TooLargeError) else (ImageReadError, FIX_WHOLE_FILE)
        return kind(error.message, expected=error.expected, found=error.found, fix=fix)
    if isinstance(error, SegwrightError):
        return error
    if isinstance(error, MemoryError):  # the child is alive; its memory is bounded
        return TooLargeError("the image needs more memory than the limit", found="memory ran out", fix=FIX_SIZE)
    return ImageReadError("the image cannot be decoded", found=type(error).__name__, fix=FIX_WHOLE_FILE)

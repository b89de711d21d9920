"""A micro-batcher: one thread runs the network, on several waiting images of one size together.

Every queued image carries the predictor that it was decoded for, so that a model can be replaced at any time: images
queued before use the old one, and no batch mixes two. The queue is not bounded here: the caller
(:class:`segwright.serving.service.Service`) reserves a slot before an image is decoded.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from segwright.core.errors import SegwrightError
from segwright.imageio import UInt8Array
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor


class PredictTimeoutError(SegwrightError):
    """The network needs more time for the image than the limit."""


class _Canceled(Exception):
    """The client of the image disconnected."""


class PredictorProtocol(Protocol):
    """The part of :class:`segwright.inference.predictor.Predictor` that the batcher uses."""

    def batches(self, image: UInt8Array) -> bool:
        """Whether images of this size can be run together."""
        ...

    def window_count(self, image: UInt8Array) -> int:
        """The number of windows in which the image is predicted."""
        ...

    def predict(self, image: UInt8Array, *, advance: Callable[[int], None]) -> Prediction:
        """One image; ``advance`` is called after every window of a large one."""
        ...

    def predict_batch(self, images: Sequence[UInt8Array]) -> list[Prediction]:
        """Predictions of images uint8 H×W×C, in order."""
        ...


class InDetail:
    """A predictor whose predictions also have their uncertainty (entropy) and the estimate of the error model. Images
    are run one by one: both are several times the work of the labels."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def batches(self, image: UInt8Array) -> bool:
        return False

    def window_count(self, image: UInt8Array) -> int:
        return self.predictor.window_count(image)

    def predict(self, image: UInt8Array, *, advance: Callable[[int], None] = lambda count: None) -> Prediction:
        return self.predictor.predict(image, uncertainty="entropy", quality=True, advance=advance)

    def predict_batch(self, images: Sequence[UInt8Array]) -> list[Prediction]:
        return [self.predict(image) for image in images]


class QueuedImage:
    """One image, uint8 H×W×C, and the future of its :class:`Prediction`."""

    def __init__(self, predictor: PredictorProtocol, image: UInt8Array, batch: int) -> None:
        self.predictor, self.image = predictor, image
        self.max_batch = batch if predictor.batches(image) else 1  # how many of its kind are run together
        self.windows = predictor.window_count(image)
        self.canceled = False
        self.kind = (id(predictor), image.shape)
        self.arrived = time.monotonic()
        self.future: Future[Prediction] = Future()


class Batcher:
    """Runs queued images, the oldest first, in batches of up to ``batch`` of equal size.

    The first of a batch waits at most ``wait`` seconds for others, and not at all if it has already waited that long
    for the network. A batch that fails is run again image by image, so that an invalid image fails only its own
    request. After each window of a large image, waiting smaller ones are run for as long as the window took. A large
    image fails with :class:`PredictTimeoutError` when its own windows have taken ``seconds``. ``observe`` is called
    after every run with the number of images, of pixels, and the seconds.
    """

    def __init__(
        self,
        *,
        batch: int = 8,
        wait: float = 0.004,
        seconds: float = math.inf,
        observe: Callable[[int, int, float], None] = lambda count, pixels, seconds: None,
    ) -> None:
        self.batch, self.wait, self.seconds, self.observe = batch, wait, seconds, observe
        self._queue: deque[QueuedImage] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, predictor: PredictorProtocol, image: UInt8Array) -> QueuedImage:
        """Queue an image, already checked: uint8 H×W×C with the network's channels."""
        queued = QueuedImage(predictor, image, self.batch)
        with self._changed:
            if self._closed:
                queued.future.cancel()
                return queued
            if self._thread is None:  # not in __init__: a server may fork between the two
                self._thread = threading.Thread(target=self._run_all, name="batcher", daemon=True)
                self._thread.start()
            self._queue.append(queued)
            self._changed.notify_all()
        return queued

    def cancel(self, queued: QueuedImage) -> bool:
        """Remove an image from the queue; False if it is being run or has been. A large one ends after its window."""
        with self._changed:
            queued.canceled = True
            if not queued.future.cancel():
                return False
            if queued in self._queue:
                self._queue.remove(queued)
            self._changed.notify_all()
            return True

    def alive(self) -> bool:
        """Whether an image that is submitted now will be run."""
        return not self._closed and (self._thread is None or self._thread.is_alive())

    def close(self, timeout: float | None = None) -> None:
        """Run what is queued, then end; what is left after ``timeout`` seconds is canceled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._changed:
            for queued in self._queue:
                queued.future.cancel()
            self._queue.clear()

    def _run_all(self) -> None:
        while True:
            images = self._next_batch()
            if images is None:
                return
            self._run_batch([queued for queued in images if queued.future.set_running_or_notify_cancel()])
            images = None  # frees their memory before the next ones arrive

    def _next_batch(self) -> list[QueuedImage] | None:
        """The next batch; None after :meth:`close`."""
        with self._changed:
            while True:
                if not self._queue:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                first = self._queue[0]
                batch = [queued for queued in self._queue if queued.kind == first.kind][: first.max_batch]
                left = first.arrived + self.wait - time.monotonic()
                if len(batch) >= first.max_batch or left <= 0 or self._closed:
                    for queued in batch:
                        self._queue.remove(queued)
                    return batch
                self._changed.wait(left)

    def _run_batch(self, images: list[QueuedImage]) -> None:
        if not images:
            return
        if images[0].windows > 1:
            for queued in images:
                self._run_windows(queued)
            return
        began = time.monotonic()
        try:
            predictions = images[0].predictor.predict_batch([queued.image for queued in images])
            pairs = list(zip(images, predictions, strict=True))
        except Exception as error:
            if len(images) > 1:
                for queued in images:
                    self._run_batch([queued])
                return
            # An invalid image, or a fault of the network, fails its own request; the thread continues.
            images[0].future.set_exception(error)
            return
        self._report(images, time.monotonic() - began)
        for queued, prediction in pairs:
            queued.future.set_result(prediction)

    def _run_windows(self, queued: QueuedImage) -> None:
        """One image of several windows; between them, batches of images of a single window."""
        used, began, done = 0.0, time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal used, began, done
            done += count
            last = time.monotonic() - began
            used += last
            if queued.canceled:
                raise _Canceled
            if used > self.seconds and done < queued.windows:
                raise PredictTimeoutError(
                    "the network takes longer for the image than the limit",
                    expected=f"at most {self.seconds:g} s",
                    found=f"{used:.0f} s for {done} of {queued.windows} windows",
                )
            self._run_waiting(last)
            began = time.monotonic()

        try:
            prediction = queued.predictor.predict(queued.image, advance=advance)
        except Exception as error:
            queued.future.set_exception(error)
            return
        self._report([queued], used + time.monotonic() - began)
        queued.future.set_result(prediction)

    def _run_waiting(self, seconds: float) -> None:
        """Run the batches of single windows that wait, at least one, until they have taken ``seconds``: half of the
        time is theirs, so that they do not queue up behind a large image, nor it behind them."""
        end = time.monotonic() + seconds
        while batch := self._take_single_windows():
            self._run_batch(batch)
            if time.monotonic() >= end:
                return

    def _take_single_windows(self) -> list[QueuedImage]:
        """Take a batch with the oldest image of a single window from the queue; empty if there is none."""
        with self._changed:
            first = next((queued for queued in self._queue if queued.windows == 1), None)
            if first is None:
                return []
            batch = [queued for queued in self._queue if queued.kind == first.kind][: first.max_batch]
            for queued in batch:
                self._queue.remove(queued)
        return [queued for queued in batch if queued.future.set_running_or_notify_cancel()]

    def _report(self, images: list[QueuedImage], seconds: float) -> None:
        self.observe(len(images), sum(queued.image.shape[0] * queued.image.shape[1] for queued in images), seconds)

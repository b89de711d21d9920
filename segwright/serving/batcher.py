"""A micro-batcher: one thread runs the network, on images of one size together where several wait.

Jobs carry the predictor that they were decoded for, so that a model can be exchanged at any time: what was taken before
is answered by the old one, and no batch mixes two. How many jobs may wait is bounded by who submits them
(:class:`segwright.serving.service.Service`): a place is taken before an image is decoded, not after.
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


class TooLongError(SegwrightError):
    """An image that would take the network longer than it may have."""


class _Abandoned(Exception):
    """Nobody waits for the image any more."""


class Predicts(Protocol):
    """What the batcher needs of a :class:`segwright.inference.predictor.Predictor`."""

    def batches(self, image: UInt8Array) -> bool:
        """Whether images of this one's size go through the network together."""
        ...

    def window_count(self, image: UInt8Array) -> int:
        """In how many windows an image is worked on."""
        ...

    def predict(self, image: UInt8Array, *, advance: Callable[[int], None]) -> Prediction:
        """One image; ``advance`` is told of every finished window of a large one."""
        ...

    def predict_batch(self, images: Sequence[UInt8Array]) -> list[Prediction]:
        """Images uint8 H×W×C; the answers in order."""
        ...


class Job:
    """One image, uint8 H×W×C, and the future of its :class:`Prediction`."""

    def __init__(self, predictor: Predicts, image: UInt8Array, most: int) -> None:
        self.predictor, self.image = predictor, image
        self.most = most if predictor.batches(image) else 1  # how many like it are run together
        self.windows = predictor.window_count(image)
        self.abandoned = False
        self.kind = (id(predictor), image.shape)
        self.arrived = time.monotonic()
        self.future: Future[Prediction] = Future()


class Batcher:
    """Runs jobs, the oldest first, in batches of up to ``batch`` equal sizes.

    The first of a batch waits at most ``wait`` seconds for others, and not at all while the network is busy anyway. A
    batch that fails is run again image by image, so that only the one at fault is told. A large image holds up
    nobody: after each of its windows, one batch of smaller ones that wait is run. It ends in :class:`TooLongError`
    when its own windows have taken ``seconds``. ``observe`` hears of every run: how many images, how many pixels,
    how many seconds.
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
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, predictor: Predicts, image: UInt8Array) -> Job:
        """Queue an image, already checked: uint8 H×W×C with the network's channels."""
        job = Job(predictor, image, self.batch)
        with self._changed:
            if self._closed:
                job.future.cancel()
                return job
            if self._thread is None:  # not in __init__: a server may fork between the two
                self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
                self._thread.start()
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def withdraw(self, job: Job) -> bool:
        """Take a job back that nobody waits for; False where it runs already, or has run."""
        with self._changed:
            job.abandoned = True  # a large image that is under work ends after its window
            if not job.future.cancel():
                return False
            if job in self._waiting:
                self._waiting.remove(job)
            self._changed.notify_all()
            return True

    def alive(self) -> bool:
        """Whether a job that is submitted now will be run."""
        return not self._closed and (self._thread is None or self._thread.is_alive())

    def close(self, timeout: float | None = None) -> None:
        """Finish what waits, then end; what is left after ``timeout`` seconds is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._changed:
            for job in self._waiting:
                job.future.cancel()
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            jobs = self._gather()
            if jobs is None:
                return
            self._answer([job for job in jobs if job.future.set_running_or_notify_cancel()])
            jobs = None  # the images go now, not when the next ones come

    def _gather(self) -> list[Job] | None:
        """The next batch; None at the end."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                alike = [job for job in self._waiting if job.kind == first.kind][: first.most]
                left = first.arrived + self.wait - time.monotonic()
                if len(alike) >= first.most or left <= 0 or self._closed:
                    for job in alike:
                        self._waiting.remove(job)
                    return alike
                self._changed.wait(left)

    def _answer(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        if jobs[0].windows > 1:
            for job in jobs:
                self._answer_large(job)
            return
        began = time.monotonic()
        try:
            predictions = jobs[0].predictor.predict_batch([job.image for job in jobs])
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
                return
            # What is wrong with one image, or with the network, is for the one who asked; the thread goes on.
            jobs[0].future.set_exception(error)
            return
        self._note(jobs, time.monotonic() - began)
        for job, prediction in zip(jobs, predictions, strict=True):
            job.future.set_result(prediction)

    def _answer_large(self, job: Job) -> None:
        """One image of several windows; between them, those that are quick."""
        used, began, done = 0.0, time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal used, began, done
            done += count
            used += time.monotonic() - began
            if job.abandoned:
                raise _Abandoned
            if used > self.seconds and done < job.windows:
                raise TooLongError(
                    "the network takes longer for the image than the service allows",
                    expected=f"at most {self.seconds:g} s",
                    found=f"{used:.0f} s for {done} of {job.windows} windows",
                )
            self._answer(self._quick())
            began = time.monotonic()

        try:
            prediction = job.predictor.predict(job.image, advance=advance)
        except Exception as error:
            job.future.set_exception(error)
            return
        self._note([job], used + time.monotonic() - began)
        job.future.set_result(prediction)

    def _quick(self) -> list[Job]:
        """A batch of the oldest waiting image of a single window, taken out; empty where there is none."""
        with self._changed:
            first = next((job for job in self._waiting if job.windows == 1), None)
            if first is None:
                return []
            alike = [job for job in self._waiting if job.kind == first.kind][: first.most]
            for job in alike:
                self._waiting.remove(job)
        return [job for job in alike if job.future.set_running_or_notify_cancel()]

    def _note(self, jobs: list[Job], seconds: float) -> None:
        self.observe(len(jobs), sum(job.image.shape[0] * job.image.shape[1] for job in jobs), seconds)

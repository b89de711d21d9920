"""A model in service, apart from HTTP: an image's bytes go in, an answer comes out, within bounds.

A request takes a place, is decoded in a child process, predicted in a batch and encoded in a thread; the event loop
does none of these. Places, bytes and pixels in memory are counted on the event loop alone, and so need no lock.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segwright.core.errors import DepthError, MissingExtraError, ModelError, SegwrightError, TooLargeError
from segwright.imageio import UInt8Array, encode_png
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.kernels.threads import processors
from segwright.serving.batcher import Batcher, Job, TooLongError
from segwright.serving.decoding import DEEPER, SMALLER, DecoderLostError, ImageDecoder
from segwright.serving.limits import HELD_BODIES, HELD_IMAGES, ClientLeft, Refused, ServiceLimits
from segwright.serving.metrics import ServiceMetrics
from segwright.serving.responses import Answer, encode_answer

logger = logging.getLogger("segwright.serve")

GPU_BATCH = 8
DECODERS = 4  # at most; decoding is faster than any network
WARM_SIZE = (96, 128)
CLOSE_SECONDS = 1.0


@dataclass(frozen=True)
class ServedModel:
    """The predictor that answers now, and what it is called."""

    predictor: Predictor
    name: str
    since: float = field(default_factory=time.time)

    def facts(self) -> dict[str, Any]:
        """What an answer in JSON says of the model."""
        return {"model": self.name, **self.in_force()}

    def in_force(self) -> dict[str, str | None]:
        """The chain and the views."""
        chain, views = self.predictor.chain, self.predictor.tta
        return {"post": str(chain) if chain else None, "tta": str(views) if views else None}

    def describe(self) -> dict[str, Any]:
        """What ``/model`` says."""
        predictor, bundle = self.predictor, self.predictor.bundle
        space = predictor.label_space
        return {
            "name": self.name,
            **self.in_force(),
            "architecture": bundle.architecture if bundle else None,
            "classes": [
                {"index": index, "name": name, "color": list(space.colors[index])}
                for index, name in enumerate(space.names)
            ],
            "channels": predictor.runtime.in_channels,
            "value_range": predictor.value_range.to_json() if predictor.value_range else None,
            "device": device_of(predictor),
            "metrics": _object(bundle.metrics) if bundle else {},
            "licenses": _object(bundle.licenses) if bundle else {},
            "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since)),
        }


def _object(found: Any) -> dict[str, Any]:
    """What a description holds, where it is an object: a file may say anything."""
    return {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}


class Visit:
    """One request on its way; what it waits for is told when the client is gone."""

    def __init__(self) -> None:
        self.left = False
        self.job: Job | None = None


class Service:
    """Answers images with ``predictor`` within ``limits``.

    ``load`` makes the predictor anew for :meth:`reload`. Everything but :meth:`close` is to be called on one event
    loop; threads and processes are started when the first image needs them.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: ServiceLimits | None = None,
        *,
        name: str = "model",
        load: Callable[[], Predictor] | None = None,
    ) -> None:
        self.limits = limits or ServiceLimits()
        self.model = ServedModel(predictor, name)
        self.load = load
        self.metrics = ServiceMetrics()
        self.stopping = False
        self.taken = self.held_bytes = self.held_pixels = 0
        self._seconds = 0.1  # an image, roughly; follows what is measured
        self._pixel_seconds = 0.0  # of the network per pixel; follows what is measured
        self._reloading = False
        batch = self.limits.batch or (1 if device_of(predictor).startswith("cpu") else GPU_BATCH)
        self.batcher = Batcher(
            batch=batch, wait=self.limits.wait_seconds, seconds=self.limits.predict_seconds, observe=self._observe
        )
        count = min(DECODERS, processors())
        self.decoder = ImageDecoder(self.limits.for_images(), count=count, seconds=self.limits.decode_seconds)
        self._decoding = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._encoding = ThreadPoolExecutor(count, thread_name_prefix="encode")

    async def answer(
        self, body: bytes, form: str, visit: Visit, *, mask: bool = False, began: float | None = None
    ) -> Answer:
        """The answer to an image's bytes. Refused where no place is left (503), the image is too large (413), cannot
        be read or does not fit the network (400, 415); ClientLeft when ``visit`` says so."""
        began = time.monotonic() if began is None else began
        model = self.model  # this one answers, whatever is loaded meanwhile
        async with self._place():
            image = await self._decoded(body, model.predictor, visit)
            decoded = time.monotonic()
            with self._pixels(image):
                prediction = await self._predicted(model.predictor, image, visit)
                predicted = time.monotonic()
                facts = {**model.facts(), "milliseconds": round((predicted - began) * 1000, 2)}
                encode = functools.partial(encode_answer, prediction, form, facts, mask=mask)
                answer = await asyncio.get_running_loop().run_in_executor(self._encoding, encode)
        timing = f"decode;dur={(decoded - began) * 1e3:.1f}, predict;dur={(predicted - decoded) * 1e3:.1f}"
        return Answer(answer.body, answer.content_type, (*answer.headers, ("server-timing", timing)), answer.status)

    def leave(self, visit: Visit) -> None:
        """The client is gone: what has not begun is not begun."""
        visit.left = True
        self.metrics.left.inc()
        if visit.job is not None:
            self.batcher.withdraw(visit.job)

    def check_room(self) -> None:
        """Refused with 503 where a request that begins now would find no place: before its body is read."""
        if self.stopping:
            raise Refused(503, "the service is stopping", fix="ask another one", headers=(("retry-after", "5"),))
        self._check_queue()

    def _check_queue(self) -> None:
        if self.taken >= self.limits.queue:
            raise self._full(f"{self.taken} requests are being worked on")

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body as it comes in: the block gets a function to tell of them. It raises Refused with
        503 where all clients together send more than fits; a first body of full size always does."""
        mine = 0

        def hold(count: int) -> None:
            nonlocal mine
            if self.held_bytes + count > HELD_BODIES * self.limits.max_bytes:
                raise self._full(f"{self.held_bytes / 1e6:.0f} MB of images are coming in")
            mine += count
            self.held_bytes += count

        try:
            yield hold
        finally:
            self.held_bytes -= mine

    async def warm_up(self) -> None:
        """Run decoder and network once, so that the first client does not wait for kernels to be compiled."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._encoding, try_out, self.model.predictor)
        await loop.run_in_executor(self._decoding, self.decoder.decode, _dot())

    async def reload(self) -> bool:
        """Load the model beside, try it out, exchange it between two batches. Whatever goes wrong with the new one, the
        old one goes on, and the log says why. False where nothing was exchanged."""
        if self.load is None or self._reloading:
            logger.warning("no reload: %s", "one is under way" if self._reloading else "nothing to load from")
            return False
        self._reloading = True
        try:
            fresh = await asyncio.get_running_loop().run_in_executor(None, _loaded, self.load)
        except Exception as error:  # whatever a half-written or unfit model causes must not end the service
            known = isinstance(error, SegwrightError)
            logger.error(
                "the new model is not taken, the old one goes on: %s", error, exc_info=None if known else error
            )
            self.metrics.failed_reloads.inc()
            return False
        finally:
            self._reloading = False
        self.model = ServedModel(fresh, self.model.name)
        self.metrics.reloads.inc()
        logger.info("model loaded anew: %s", self.model.name)
        return True

    def ready(self) -> str | None:
        """None where an image would be answered now; else why not."""
        if self.stopping:
            return "stopping"
        if not self.batcher.alive():
            return "the network does not run"
        return "full" if self.taken >= self.limits.queue else None

    def close(self) -> None:
        """End threads and child processes. Requests are over by now, answered or given up: a run of the network that
        nobody waits for any more is left to itself."""
        self.stopping = True
        self.batcher.close(CLOSE_SECONDS)
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._encoding.shutdown(wait=False, cancel_futures=True)
        self.decoder.close()

    async def _decoded(self, body: bytes, predictor: Predictor, visit: Visit) -> UInt8Array:
        def decode() -> UInt8Array:
            if visit.left:
                raise ClientLeft
            pixels = self.decoder.decode(body, predictor.value_range is not None)
            return predictor.scaled(pixels, "the image")  # as predict does

        try:
            image = await asyncio.get_running_loop().run_in_executor(self._decoding, decode)
            if visit.left:
                raise ClientLeft
            return image
        except DecoderLostError as error:
            raise Refused(
                503, error.message, found=error.found, fix="ask again in 5 s", headers=(("retry-after", "5"),)
            ) from error
        except SegwrightError as error:  # up to here, what goes wrong is the image's fault
            status = 413 if isinstance(error, TooLargeError) else 415 if isinstance(error, MissingExtraError) else 400
            fix = DEEPER if isinstance(error, DepthError) else error.fix
            raise Refused(status, error.message, expected=error.expected, found=error.found, fix=fix) from error

    async def _predicted(self, predictor: Predictor, image: UInt8Array, visit: Visit) -> Prediction:
        visit.job = self.batcher.submit(predictor, image)
        future = asyncio.wrap_future(visit.job.future)
        await asyncio.wait([future])
        if visit.left:
            raise ClientLeft
        if future.cancelled():
            raise Refused(503, "the service stopped before the image's turn", headers=(("retry-after", "5"),))
        try:
            return future.result()
        except TooLongError as error:
            raise Refused(413, error.message, expected=error.expected, found=error.found, fix=SMALLER) from error

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        self._check_queue()  # a stop does not turn away whose body came in meanwhile
        self.taken += 1
        self.metrics.taken.set(self.taken)
        try:
            yield
        finally:
            self.taken -= 1
            self.metrics.taken.set(self.taken)

    @contextmanager
    def _pixels(self, image: UInt8Array) -> Iterator[None]:
        """Count decoded pixels; Refused with 503 where too many are in memory. One image always fits."""
        count = image.shape[0] * image.shape[1]
        if self.held_pixels and self.held_pixels + count > HELD_IMAGES * self.limits.max_pixels:
            raise self._full(f"{self.held_pixels / 1e6:.0f} megapixels are being worked on")
        self.held_pixels += count
        try:
            yield
        finally:
            self.held_pixels -= count

    def _full(self, found: str) -> Refused:
        waiting = max(self.taken * self._seconds, self.held_pixels * self._pixel_seconds)
        wait = min(3600, max(1, math.ceil(waiting)))
        return Refused(
            503,
            "the service is full",
            expected=f"at most {self.limits.queue} requests at a time",
            found=found,
            fix=f"ask again in {wait} s",
            headers=(("retry-after", str(wait)),),
        )

    def _observe(self, count: int, pixels: int, seconds: float) -> None:
        self._seconds += 0.2 * (seconds / count - self._seconds)
        each = seconds / max(pixels, 1)
        self._pixel_seconds += (0.2 if self._pixel_seconds else 1.0) * (each - self._pixel_seconds)
        self.metrics.batch_images.observe(count)
        self.metrics.batch_seconds.observe(seconds)


def device_of(predictor: Predictor) -> str:
    """``cuda:0``, ``cpu``, or what onnxruntime runs on."""
    device = getattr(predictor.runtime, "device", None)
    if device is not None:
        return str(device)
    session = getattr(predictor.runtime, "session", None)
    providers = session.get_providers() if session is not None else []
    return "cuda (onnxruntime)" if "CUDAExecutionProvider" in providers else "cpu (onnxruntime)"


def try_out(predictor: Predictor) -> None:
    """Predict one small image of noise; ModelError where the network does not answer with numbers."""
    noise = np.random.default_rng(0).integers(0, 256, (*WARM_SIZE, predictor.runtime.in_channels), np.uint8)
    labels = predictor.predict(noise).labels
    if labels.shape != WARM_SIZE:
        raise ModelError("the network answers another size", expected=str(WARM_SIZE), found=str(labels.shape))


def _loaded(load: Callable[[], Predictor]) -> Predictor:
    predictor = load()
    try_out(predictor)
    return predictor


def _dot() -> bytes:
    return encode_png(np.zeros((2, 2, 3), np.uint8))

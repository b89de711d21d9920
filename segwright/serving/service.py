"""Prediction of one image per request, within limits of requests, bytes and pixels.

A request reserves a slot, is decoded in a child process, predicted in a batch and encoded in a thread, never on the
event loop. Slots, bytes and pixels are counted on the event loop only and therefore need no lock.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from starlette.responses import Response

from segwright.core.errors import DepthError, MissingExtraError, SegwrightError, TooLargeError
from segwright.imageio import UInt8Array, encode_png
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor
from segwright.kernels.threads import processors
from segwright.monitoring.gauges import MonitorGauges
from segwright.monitoring.monitor import monitor
from segwright.monitoring.periodic import PeriodicMonitor
from segwright.monitoring.recorder import JournalOptions, RecordedModel, Recorder
from segwright.serving.batcher import Batcher, InDetail, PredictTimeoutError, QueuedImage
from segwright.serving.decoding import FIX_BIT_DEPTH, FIX_SIZE, DecoderUnavailableError, ImageDecoder
from segwright.serving.limits import (
    MAX_BUFFERED_BODIES,
    MAX_DECODED_IMAGES,
    ClientDisconnected,
    RequestRejected,
    ServiceLimits,
)
from segwright.serving.metrics import ServiceMetrics
from segwright.serving.models import (
    ModelEntry,
    ModelSource,
    ModelTable,
    ServedModel,
    check_sources,
    device_of,
    smoke_test,
)
from segwright.serving.monitor_view import MonitorView
from segwright.serving.responses import PredictParams, encode_prediction

logger = logging.getLogger("segwright.serve")

GPU_BATCH = 8
MAX_DECODERS = 4  # decoding is faster than any network
CLOSE_SECONDS = 1.0
GAUGE_ROWS = 1000  # the newest rows that the gauges are of: at least four fifths of these
GAUGE_SECONDS = 300.0  # between two looks, each of about a second: below 1 % of one core


class RequestContext:
    """The state of one request: whether its client is gone, and its image in the batcher."""

    def __init__(self) -> None:
        self.canceled = False
        self.queued: QueuedImage | None = None


class Service:
    """Predict images with ``predictor`` within ``limits``.

    ``load`` loads the predictor again for :meth:`reload`; ``journal``: every prediction is a row of it. ``source``
    holds both and more of the first model, ``others`` the further ones, each with its predictor: all share the limits,
    the decoders and the thread of the network. With several models a journal has a folder per model. All methods but
    :meth:`close` must be called on one event loop. Threads and processes are started when the first image needs them.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: ServiceLimits | None = None,
        *,
        name: str = "model",
        load: Callable[[], Predictor] | None = None,
        journal: JournalOptions | None = None,
        source: ModelSource | None = None,
        others: Sequence[tuple[ModelSource, Predictor]] = (),
    ) -> None:
        self.limits = limits or ServiceLimits()
        self.metrics = ServiceMetrics()
        first = source or ModelSource(name, load, journal=journal)
        check_sources([first, *(one for one, _ in others)], self.limits.models_bytes)
        self.monitor_view: MonitorView | None = None
        self.periodic: PeriodicMonitor | None = None
        self.models = ModelTable(
            [self._entry(one, found, bool(others)) for one, found in ((first, predictor), *others)],
            self.limits.models_bytes,
        )
        self.recorder = self.models.default.recorder
        self.metrics.loaded_models.set_function(self.models.loaded_count)
        self.metrics.loaded_bytes.set_function(self.models.loaded_bytes)
        self._monitor_first()
        self.stopping = False
        self.in_flight = self.buffered_bytes = self.decoded_pixels = 0
        self._image_seconds = 0.1  # moving average of the time per image
        self._pixel_seconds = 0.0  # moving average of the network's time per pixel
        batch = self.limits.batch or (1 if device_of(predictor).startswith("cpu") else GPU_BATCH)
        self.batcher = Batcher(
            batch=batch, wait=self.limits.wait_seconds, seconds=self.limits.predict_seconds, observe=self._observe
        )
        count = min(MAX_DECODERS, processors())
        self.decoder = ImageDecoder(self.limits.image_limits(), count=count, seconds=self.limits.decode_seconds)
        self._decoding = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._encoding = ThreadPoolExecutor(count, thread_name_prefix="encode")

    def _entry(self, source: ModelSource, predictor: Predictor, several: bool) -> ModelEntry:
        recorder = None
        if source.journal is not None:
            folder = Path(source.journal.folder) / source.name if several else source.journal.folder
            source = replace(source, journal=replace(source.journal, folder=folder))
            assert source.journal is not None
            recorder = Recorder(
                source.journal, predictor, source.name, on_written=self.metrics.journal_rows.inc,
                on_lost=self.metrics.journal_lost.inc,
            )  # fmt: skip
        return ModelEntry(source, predictor, recorder)

    def _monitor_first(self) -> None:
        """The page and the gauges of the first model's journal."""
        entry = self.models.default
        journal = entry.source.journal
        if journal is None or entry.recorder is None:
            return
        reference = journal.reference if "reference" in entry.current.predictor.attachments else None
        self.monitor_view = MonitorView(journal.folder, reference)
        if reference is not None:
            writer = entry.recorder.writer
            self.periodic = PeriodicMonitor(
                functools.partial(monitor, journal.folder, reference, last=GAUGE_ROWS),
                MonitorGauges(self.metrics.registry), seconds=GAUGE_SECONDS, written=lambda: writer.written,
            )  # fmt: skip

    @property
    def model(self) -> ServedModel:
        """The current first model."""
        return self.models.default.current

    async def predict(
        self,
        body: bytes,
        params: PredictParams,
        context: RequestContext,
        *,
        began: float | None = None,
        name: str | None = None,
        version: str | None = None,
    ) -> Response:
        """The prediction for an image's bytes by a model, None: the first one, in a version, None: the current one.

        RequestRejected if no slot is free (503), there is no such model or version (404), the image is too large (413),
        cannot be read or does not fit the network (400, 415); ClientDisconnected after :meth:`cancel`.
        """
        began = time.monotonic() if began is None else began
        async with self._reserve_slot():
            model = await self.models.get(name, version)  # used to the end, even if a reload replaces it
            image = await self._decode(body, model.predictor, context)
            decoded = time.monotonic()
            with self._reserve_pixels(image):
                prediction = await self._run_network(model.predictor, image, context, in_detail=params.in_detail)
                predicted = time.monotonic()
                self.metrics.count_image(model.name)
                metadata = {**model.metadata(), "milliseconds": round((predicted - began) * 1000, 2)}
                encode = functools.partial(encode_prediction, prediction, params, metadata)
                response = await asyncio.get_running_loop().run_in_executor(
                    self._encoding, _encode_recorded, encode, model.recorded, prediction
                )
        timing = f"decode;dur={(decoded - began) * 1e3:.1f}, predict;dur={(predicted - decoded) * 1e3:.1f}"
        response.headers["server-timing"] = timing
        response.headers["x-model-id"] = model.id
        return response

    async def segment(self, body: bytes, context: RequestContext) -> tuple[ServedModel, Prediction]:
        """As :meth:`predict`, but the prediction itself, for other protocols; it is recorded, too."""
        model = self.model
        async with self._reserve_slot():
            image = await self._decode(body, model.predictor, context)
            with self._reserve_pixels(image):
                prediction = await self._run_network(model.predictor, image, context)
                self.metrics.count_image(model.name)
                if model.recorded is not None:
                    model.recorded.record(prediction, model.recorded.recorder.next_id())
        return model, prediction

    def cancel(self, context: RequestContext) -> None:
        """Stop the work for a client that disconnected; what has not begun is not begun."""
        context.canceled = True
        self.metrics.count_disconnect()
        if context.queued is not None:
            self.batcher.cancel(context.queued)

    def check_capacity(self) -> None:
        """Reject with 503, before its body is read, a request that would find no free slot."""
        if self.stopping:
            raise RequestRejected(
                503, "the service is stopping", fix="try again in 5 s", headers=(("retry-after", "5"),)
            )
        self._check_slots()

    def _check_slots(self) -> None:
        if self.in_flight >= self.limits.max_concurrent_requests:
            raise self._overloaded(f"{self.in_flight} requests in progress")

    @contextmanager
    def reserve_body(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body as they arrive; yields a function to call with the size of every chunk.

        It raises RequestRejected with 503 if the bodies of all clients together exceed their limit. The first body of
        the largest size always fits.
        """
        mine = 0

        def reserve(count: int) -> None:
            nonlocal mine
            if self.buffered_bytes + count > MAX_BUFFERED_BODIES * self.limits.max_bytes:
                raise self._overloaded(f"{self.buffered_bytes / 1e6:.0f} MB of images being received")
            mine += count
            self.buffered_bytes += count

        try:
            yield reserve
        finally:
            self.buffered_bytes -= mine

    async def warm_up(self) -> None:
        """Run decoder and networks once, so that the first client does not wait for kernels to be compiled."""
        loop = asyncio.get_running_loop()
        for entry in self.models:
            await loop.run_in_executor(self._encoding, smoke_test, entry.current.predictor)
        await loop.run_in_executor(self._decoding, self.decoder.decode, _tiny_png())
        if self.periodic is not None:
            self.periodic.start()
        for entry in self.models:
            if entry.recorder is not None:
                entry.recorder.writer.start()

    async def reload(self, name: str | None = None) -> bool:
        """Load a model, or all of them, test it, and replace the current one between two batches.

        If anything fails, the current model stays in use and the log has the reason. Returns whether every one was
        replaced.
        """
        entries = list(self.models) if name is None else [self.models.entry(name)]
        return all([await self._reload(entry) for entry in entries])

    async def _reload(self, entry: ModelEntry) -> bool:
        if entry.source.load is None or entry.reloading:
            logger.warning("not reloaded: %s", "a reload is in progress" if entry.reloading else "no model to load")
            return False
        entry.reloading = True
        try:
            entry.current = await asyncio.get_running_loop().run_in_executor(None, entry.load_again)
        except Exception as error:  # a half-written or unfit model must not end the service
            known = isinstance(error, SegwrightError)
            logger.error(
                "reload of %s failed, the previous model stays in use: %s", entry.name, error,
                exc_info=None if known else error,
            )  # fmt: skip
            self.metrics.failed_reloads.inc()
            return False
        finally:
            entry.reloading = False
        self.metrics.reloads.inc()
        logger.info("model reloaded: %s", entry.name)
        return True

    def not_ready_reason(self) -> str | None:
        """Why an image would not be predicted now; None if it would."""
        if self.stopping:
            return "stopping"
        if not self.batcher.alive():
            return "the prediction thread has ended"
        return "full" if self.in_flight >= self.limits.max_concurrent_requests else None

    def close(self) -> None:
        """End threads and child processes. A run of the network that is still in progress is abandoned."""
        self.stopping = True
        self.batcher.close(CLOSE_SECONDS)
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._encoding.shutdown(wait=False, cancel_futures=True)
        self.decoder.close()
        if self.monitor_view is not None:
            self.monitor_view.close()
        if self.periodic is not None:
            self.periodic.close()
        for entry in self.models:
            if entry.recorder is not None:
                entry.recorder.close()

    async def _decode(self, body: bytes, predictor: Predictor, context: RequestContext) -> UInt8Array:
        def decode() -> UInt8Array:
            if context.canceled:
                raise ClientDisconnected
            pixels = self.decoder.decode(body, predictor.value_range is not None)
            return predictor.scaled(pixels, "the image")  # as predict does

        try:
            image = await asyncio.get_running_loop().run_in_executor(self._decoding, decode)
            if context.canceled:
                raise ClientDisconnected
            return image
        except DecoderUnavailableError as error:
            raise RequestRejected(
                503, error.message, found=error.found, fix="try again in 5 s", headers=(("retry-after", "5"),)
            ) from error
        except SegwrightError as error:  # until here every error is caused by the image
            status = 413 if isinstance(error, TooLargeError) else 415 if isinstance(error, MissingExtraError) else 400
            fix = FIX_BIT_DEPTH if isinstance(error, DepthError) else error.fix
            raise RequestRejected(status, error.message, expected=error.expected, found=error.found, fix=fix) from error

    async def _run_network(
        self, predictor: Predictor, image: UInt8Array, context: RequestContext, *, in_detail: bool = False
    ) -> Prediction:
        context.queued = self.batcher.submit(InDetail(predictor) if in_detail else predictor, image)
        future = asyncio.wrap_future(context.queued.future)
        await asyncio.wait([future])
        if context.canceled:
            raise ClientDisconnected
        if future.cancelled():
            raise RequestRejected(
                503, "the service stopped before the image was predicted", headers=(("retry-after", "5"),)
            )
        try:
            return future.result()
        except PredictTimeoutError as error:
            raise RequestRejected(
                413, error.message, expected=error.expected, found=error.found, fix=FIX_SIZE
            ) from error

    @asynccontextmanager
    async def _reserve_slot(self) -> AsyncIterator[None]:
        self._check_slots()  # not check_capacity: a body that arrived before a stop is still predicted
        self.in_flight += 1
        self.metrics.set_in_flight(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.metrics.set_in_flight(self.in_flight)

    @contextmanager
    def _reserve_pixels(self, image: UInt8Array) -> Iterator[None]:
        """Count decoded pixels; RequestRejected with 503 if too many are in memory. One image always fits."""
        count = image.shape[0] * image.shape[1]
        if self.decoded_pixels and self.decoded_pixels + count > MAX_DECODED_IMAGES * self.limits.max_pixels:
            raise self._overloaded(f"{self.decoded_pixels / 1e6:.0f} megapixels in progress")
        self.decoded_pixels += count
        try:
            yield
        finally:
            self.decoded_pixels -= count

    def _overloaded(self, found: str) -> RequestRejected:
        seconds = max(self.in_flight * self._image_seconds, self.decoded_pixels * self._pixel_seconds)
        wait = min(3600, max(1, math.ceil(seconds)))
        return RequestRejected(
            503,
            "the service is overloaded",
            expected=f"at most {self.limits.max_concurrent_requests} requests at a time",
            found=found,
            fix=f"try again in {wait} s",
            headers=(("retry-after", str(wait)),),
        )

    def _observe(self, count: int, pixels: int, seconds: float) -> None:
        self._image_seconds += 0.2 * (seconds / count - self._image_seconds)
        each = seconds / max(pixels, 1)
        self._pixel_seconds += (0.2 if self._pixel_seconds else 1.0) * (each - self._pixel_seconds)
        self.metrics.batch_images.observe(count)
        self.metrics.batch_seconds.observe(seconds)


def _encode_recorded(
    encode: Callable[[], Response], recorded: RecordedModel | None, prediction: Prediction
) -> Response:
    """The response; the row of the prediction is queued, which raises nothing and waits for no disk."""
    response = encode()
    if recorded is not None:
        recorded.record(prediction, recorded.recorder.next_id())
    return response


def _tiny_png() -> bytes:
    return encode_png(np.zeros((2, 2, 3), np.uint8))

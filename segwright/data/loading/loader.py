"""Load batches of uint8 from a split: sample order, worker threads, and failed samples.

**Order is arithmetic.** Position → sample is a pure function of (seed, epoch); a sample's random numbers are a function
of (seed, epoch, index). Nothing depends on the number of workers or on which of them was faster, so a run that resumes
at ``start=n`` sees exactly the samples, augmented exactly alike, that it would have seen; ranks read neighboring
slices of the same global batches, so that W ranks with batch B train on what one process with batch W·B trains on.

**Threads, not processes.** Decoding, warping and color run in OpenCV, Pillow and numpy, which release the interpreter
lock: threads scale, share the decoded cache for nothing, hand over arrays without copying them through a pipe, start in
microseconds, and cannot be orphaned. (Measured in docs/data-path.md.) Each thread takes the next sample, whichever
batch it is of, and writes it into its place in the batch: work is done out of order, batches come in order.

**Bounded.** At most ``prefetch`` batches are begun ahead of the one that is handed out.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError, LabelError, SegwrightError, UsageError
from segwright.core.types import Batch, Sample
from segwright.data.loading.cache import DecodedCache, cache_limit
from segwright.imageio import UInt8Array
from segwright.kernels.threads import processors

# Separates the random streams: the order of epoch 3 shares no numbers with the augmentation of anything.
_ORDER, _AUGMENT, _PASTE = 0x0D, 0xA6, 0x9A

Weights = Sequence[float] | npt.NDArray[np.float64]


class Transform(Protocol):
    """Called for every sample: image uint8 (H, W, C), mask uint8 (H, W), its own generator → image and mask."""

    def __call__(
        self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array]: ...


class Paste(Protocol):
    """Called for ``share`` of the samples, both augmented: image, mask, another's image and mask → image and mask."""

    @property
    def share(self) -> float: ...

    def __call__(
        self, image: UInt8Array, mask: UInt8Array, other: UInt8Array, other_mask: UInt8Array, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array]: ...


class Source(Protocol):
    """The part of a split that the loader needs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


def epoch_order(count: int, *, seed: int, epoch: int, weights: Weights | None = None) -> npt.NDArray[np.int64]:
    """(count,) indices: the samples of an epoch by position.

    Without weights every sample comes once. With ``weights`` (one a sample, relative) sample i comes
    ``count · w_i / Σw`` times on average, and in every single epoch that number rounded down or up (systematic
    resampling: one random offset for all, so rare samples are not left to luck).
    """
    rng = np.random.default_rng((_ORDER, seed, epoch))
    if weights is None:
        return rng.permutation(count).astype(np.int64)
    share = np.asarray(weights, np.float64)
    if share.shape != (count,) or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise UsageError(
            "sample weights do not fit", expected=f"{count} finite numbers >= 0, not all 0", found=f"{share.shape}"
        )
    edges = np.cumsum(share) * (count / share.sum())
    drawn = np.searchsorted(edges, np.arange(count) + rng.random(), side="right")
    return rng.permutation(np.minimum(drawn, np.flatnonzero(share)[-1])).astype(np.int64)


def sample_rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The generator for sample ``index`` in ``epoch``; ``repeat`` counts its earlier visits in the same epoch."""
    return np.random.default_rng((_AUGMENT, seed, epoch, index, repeat))


class Loader:
    """Batches of a split, in an order that is arithmetic.

    ``seed``: a whole number >= 0. ``workers``: threads; "auto" takes half the usable cores, 1 to 8 (training on the CPU
    needs the cores itself; measured in docs/data-path.md); 0 does the work in the calling thread. ``cache``: "auto"
    (half of the free memory), "none", a share, or bytes (:func:`segwright.data.loading.cache.cache_limit`). ``rank``,
    ``world_size``: this process's share of every global batch.
    """

    def __init__(
        self,
        split: Source,
        *,
        seed: int,
        workers: int | str = "auto",
        cache: str | int | float = "auto",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(split) == 0:
            raise DataError(
                "nothing to load",
                expected="at least one sample",
                found="an empty split",
                where=getattr(split, "name", None),
            )
        if seed < 0:
            raise UsageError("a seed is a whole number of at least 0", found=str(seed))
        if world_size < 1 or not 0 <= rank < world_size:
            raise UsageError(
                "rank and world size do not fit", expected="0 <= rank < world size", found=f"{rank}/{world_size}"
            )
        self.split = split
        self.seed = seed
        self.workers = resolve_workers(workers)
        self.cache = DecodedCache(cache_limit(cache))
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Samples of an epoch, over all ranks."""
        return len(self.split)

    def epoch_samples(self, batch_size: int, *, start: int = 0, drop_last: bool = True, parts: int = 1) -> int:
        """The global position at which an epoch ends that is continued at ``start`` with this batch size.

        ``parts``: batches that belong together, such as the micro-batches of an update; ``drop_last`` leaves out what
        fills no such group. A split smaller than one group, over all ranks, is gone through again until the group is
        full: an epoch is never empty.
        """
        count, whole = len(self.split), batch_size * self.world_size * parts
        if count < whole and drop_last:
            return max(whole, start)
        if drop_last:
            return start + max(count - start, 0) // whole * whole
        return max(count, start)

    def steps(self, batch_size: int, *, start: int = 0, drop_last: bool = True, parts: int = 1) -> int:
        """How many batches :meth:`batches` yields."""
        whole = batch_size * self.world_size
        return -(-(self.epoch_samples(batch_size, start=start, drop_last=drop_last, parts=parts) - start) // whole)

    def batches(
        self,
        *,
        epoch: int,
        batch_size: int,
        transform: Transform,
        start: int = 0,
        drop_last: bool = True,
        weights: Weights | None = None,
        prefetch: int = 3,
        pin: bool = False,
        paste: Paste | None = None,
        parts: int = 1,
    ) -> Iterator[Batch]:
        """The batches of ``epoch`` from global position ``start`` (samples already consumed, over all ranks).

        ``transform`` runs in the workers. ``drop_last=False`` keeps a last, smaller batch; with several ranks all get
        equally many, the order wrapping round to fill. ``weights``: oversampling, see :func:`epoch_order`.
        ``prefetch``: batches begun ahead. ``pin``: batches in page-locked memory, for copying to a GPU in the
        background (needs torch with an accelerator). ``paste``: runs for a share of the samples with
        another one each, which is drawn by ``weights`` and goes through ``transform`` as well. ``parts``: batches that
        belong together, see :meth:`epoch_samples`.

        A sample that fails is tried once more in the calling thread; if it fails again its error, naming it, is raised
        at the place where its batch was due. Closing the iterator, or leaving it by an exception, stops the threads.
        """
        if batch_size < 1 or start < 0 or epoch < 0 or prefetch < 1 or parts < 1:
            raise UsageError(
                "batches: argument out of range",
                expected="batch_size >= 1, start >= 0, epoch >= 0, prefetch >= 1, parts >= 1",
                found=f"{batch_size=}, {start=}, {epoch=}, {prefetch=}, {parts=}",
            )
        end = self.epoch_samples(batch_size, start=start, drop_last=drop_last, parts=parts)
        visits = self._visits(epoch, batch_size, start, end, weights)
        others = None if paste is None else _Others(paste, len(self.split), weights)
        jobs = (_Job(self, epoch, visit, transform, pin, others) for visit in visits)
        if self.workers == 0:
            return _in_this_thread(jobs)
        return _with_threads(jobs, self.workers, prefetch)

    def read(self, index: int) -> Sample:
        """The decoded sample, through the cache; LabelError where it has no mask."""
        sample = self.cache.get(index, self.split.__getitem__)
        if sample.mask is None:
            raise LabelError(
                "no mask to train on",
                where=sample.image_path or sample.id,
                fix="add the mask, or leave the image out",
            )
        return sample

    def _visits(
        self, epoch: int, batch_size: int, start: int, end: int, weights: Weights | None
    ) -> Iterator[list[tuple[int, int]]]:
        """This rank's (index, repeat) pairs from position ``start`` to ``end``, batch by batch."""
        count = len(self.split)
        order = epoch_order(count, seed=self.seed, epoch=epoch, weights=weights)
        repeats = _repeats(order)
        for first in range(start, end, batch_size * self.world_size):
            size = min(batch_size, -(-(end - first) // self.world_size))
            mine = range(first + self.rank * size, first + (self.rank + 1) * size)
            # Positions past the end wrap round; a wrapped visit is a further repeat, with random numbers of its own.
            yield [(int(order[p % count]), int(repeats[p % count]) + p // count * count) for p in mine]


def resolve_workers(workers: int | str) -> int:
    """A number of threads; "auto" is half the cores that this process may use, at least 1, at most 8."""
    if workers == "auto":
        return min(max(processors() // 2, 1), 8)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise UsageError("workers is auto or a whole number of at least 0", found=str(workers))
    return workers


def _repeats(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often the index of each position occurred before in ``order``."""
    by_index = np.argsort(order, kind="stable")
    grouped = order[by_index]
    first = np.searchsorted(grouped, grouped, side="left")
    repeats = np.empty(len(order), np.int64)
    repeats[by_index] = np.arange(len(order)) - first
    return repeats


class _Others:
    """Which other sample is pasted into a sample, and whether one is: arithmetic, as the order of the samples."""

    def __init__(self, paste: Paste, count: int, weights: Weights | None) -> None:
        self.paste, self.count = paste, count
        self.edges = None if weights is None else np.cumsum(np.asarray(weights, np.float64))

    def draw(self, rng: np.random.Generator) -> int | None:
        """The index of a sample to paste, or None."""
        if rng.random() >= self.paste.share:
            return None
        place = rng.random()
        if self.edges is None:
            return min(int(place * self.count), self.count - 1)
        return min(int(np.searchsorted(self.edges, place * self.edges[-1], side="right")), self.count - 1)


class _Job:
    """One batch in the making: samples land in their rows in any order; the row count is fixed, the size is found."""

    def __init__(
        self,
        loader: Loader,
        epoch: int,
        visits: list[tuple[int, int]],
        transform: Transform,
        pin: bool,
        others: _Others | None,
    ) -> None:
        self.others = others
        self.loader, self.epoch, self.visits, self.transform, self.pin = loader, epoch, visits, transform, pin
        self.images: UInt8Array | None = None
        self.masks: UInt8Array | None = None
        self.ids = [""] * len(visits)
        self.failed: list[int] = []
        self.left = len(visits)
        self.lock = threading.Lock()
        self.done = threading.Event()

    def work(self, row: int) -> None:
        """Run in a worker; never raises: a failure is kept for the calling thread."""
        try:
            self.fill(row)
        except BaseException:
            # Kept for the calling thread, which tries again and raises where the user can see it.
            with self.lock:
                self.failed.append(row)
        finally:
            with self.lock:
                self.left -= 1
                if self.left == 0:
                    self.done.set()

    def fill(self, row: int) -> None:
        index, repeat = self.visits[row]
        sample = self.loader.read(index)
        image, mask = self.augmented(sample, sample_rng(self.loader.seed, self.epoch, index, repeat))
        if self.others is not None:
            rng = np.random.default_rng((_PASTE, self.loader.seed, self.epoch, index, repeat))
            other = self.others.draw(rng)
            if other is not None:
                other_image, other_mask = self.augmented(self.loader.read(other), rng)
                image, mask = self.others.paste(image, mask, other_image, other_mask, rng)
        with self.lock:
            if self.images is None or self.masks is None:
                self.images = _allocate((len(self.visits), *image.shape), self.pin)
                self.masks = _allocate((len(self.visits), *mask.shape), self.pin)
            images, masks = self.images, self.masks
        if image.shape != images.shape[1:] or mask.shape != masks.shape[1:]:
            raise DataError(
                "the images of a batch differ in size",
                expected="{} as the first of the batch".format("×".join(map(str, images.shape[1:]))),
                found="×".join(map(str, image.shape)),
                where=sample.image_path or sample.id,
                fix="use a transform with a fixed size, or batch size 1",
            )
        images[row], masks[row] = image, mask
        self.ids[row] = sample.id

    def augmented(self, sample: Sample, rng: np.random.Generator) -> tuple[UInt8Array, UInt8Array]:
        assert sample.mask is not None  # Loader.read
        return self.transform(sample.image, sample.mask, rng)

    def batch(self) -> Batch:
        """Finish in the calling thread, when all rows are done: failed samples are read once more here."""
        for row in sorted(self.failed):
            try:
                self.fill(row)
            except SegwrightError:
                raise
            except Exception as error:
                index = self.visits[row][0]
                raise DataError(
                    "a sample could not be loaded or augmented, in two attempts",
                    found=f"{type(error).__name__}: {error}",
                    where=_name(self.loader.split, index),
                    fix="run `segwright check` on the dataset, or leave the sample out with --skip-bad",
                ) from error
        assert self.images is not None and self.masks is not None
        return Batch(self.images, self.masks, tuple(self.ids))


def _name(split: Any, index: int) -> str:
    """The file or id of a sample that may not be readable."""
    with contextlib.suppress(Exception):
        path = getattr(split.records[index], "image_path", None)
        if path is not None:
            return str(path)
    with contextlib.suppress(Exception):
        return str(split.ids[index])
    return f"sample {index}"


def _allocate(shape: tuple[int, ...], pin: bool) -> UInt8Array:
    if not pin:
        return np.empty(shape, np.uint8)
    import torch  # only here: the data path itself does not need it

    # The array keeps the tensor alive; torch hands the block to the next batch when both are gone.
    return np.asarray(torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy())


def _in_this_thread(jobs: Iterator[_Job]) -> Iterator[Batch]:
    for job in jobs:
        job.failed = list(range(len(job.visits)))
        yield job.batch()


def _with_threads(jobs: Iterator[_Job], workers: int, prefetch: int) -> Iterator[Batch]:
    tasks: deque[tuple[_Job, int]] = deque()
    ready = threading.Condition()
    stop = False

    def run() -> None:
        while True:
            with ready:
                while not tasks and not stop:
                    ready.wait()
                if stop:
                    return
                job, row = tasks.popleft()
            job.work(row)

    pending: deque[_Job] = deque()

    def begin_next() -> None:
        job = next(jobs, None)
        if job is not None:
            pending.append(job)
            with ready:
                tasks.extend((job, row) for row in range(len(job.visits)))
                ready.notify_all()

    threads = [threading.Thread(target=run, name=f"loader-{i}", daemon=True) for i in range(workers)]
    with single_threaded_opencv():
        try:
            for thread in threads:
                thread.start()
            for _ in range(prefetch):
                begin_next()
            while pending:
                job = pending.popleft()
                job.done.wait()
                batch = job.batch()
                begin_next()
                del job  # so that the consumer alone holds the arrays
                yield batch
                del batch
        finally:
            with ready:
                stop = True
                tasks.clear()
                ready.notify_all()
            for thread in threads:
                thread.join()


_opencv_lock = threading.Lock()
_opencv_users = 0
_opencv_threads = 1


@contextlib.contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """OpenCV's own thread pool off while worker threads run: the workers are the parallelism.

    The setting is the process's. It is put back when the last user leaves, and never changed by importing this.
    """
    global _opencv_users, _opencv_threads
    with _opencv_lock:
        if _opencv_users == 0:
            _opencv_threads = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _opencv_users += 1
    try:
        yield
    finally:
        with _opencv_lock:
            _opencv_users -= 1
            if _opencv_users == 0:
                cv2.setNumThreads(_opencv_threads)

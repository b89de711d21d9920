"""Order as arithmetic, resume, ranks, the cache, and what happens when a sample fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from segwright.core.errors import DataError, ImageReadError, LabelError, UsageError
from segwright.core.types import Batch, Sample
from segwright.data.loading import cache as cache_module
from segwright.data.loading.cache import DecodedCache, available_memory, cache_limit
from segwright.data.loading.loader import Loader, epoch_order, resolve_workers, sample_rng


class Split:
    """In-memory samples whose pixels say which sample they are; ``before`` runs at every read."""

    name = "train"

    def __init__(self, count: int, *, before: Callable[[int], None] = lambda index: None, masked: bool = True) -> None:
        self.count, self.before, self.masked = count, before, masked
        self.reads: Counter[int] = Counter()
        self.ids = [f"image{i}" for i in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.before(index)
        self.reads[index] += 1
        mask = np.full((6, 8), index % 7, np.uint8) if self.masked else None
        return Sample(self.ids[index], np.full((6, 8, 3), index, np.uint8), mask)


def noisy(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every batch shows the order (channel 0) and the random numbers (channel 1)."""
    image = image.copy()
    image[..., 1] = rng.integers(0, 256, mask.shape)
    return image, mask


def collect(loader: Loader, **arguments: object) -> list[tuple[tuple[str, ...], bytes, bytes]]:
    arguments = {"epoch": 0, "batch_size": 4, "transform": noisy, **arguments}
    return [(b.ids, b.images.tobytes(), b.masks.tobytes()) for b in loader.batches(**arguments)]  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    opencv = cv2.getNumThreads()
    yield
    assert threading.active_count() == before
    assert cv2.getNumThreads() == opencv


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("cache", ["none", "auto"])
def test_batches_do_not_depend_on_workers_or_cache(workers: int, cache: str) -> None:
    def uneven(index: int) -> None:
        time.sleep(0.002 * (index % 3))  # so that threads overtake each other

    plain = Loader(Split(23), seed=3, workers=0, cache="none")
    threaded = Loader(Split(23, before=uneven), seed=3, workers=workers, cache=cache)
    for epoch in range(2):
        assert collect(plain, epoch=epoch) == collect(threaded, epoch=epoch)
    assert collect(plain, epoch=0) != collect(plain, epoch=1)
    assert collect(plain) != collect(Loader(Split(23), seed=4, workers=0))


def test_an_epoch_visits_every_sample_once() -> None:
    loader = Loader(Split(23), seed=0, workers=2)
    ids = [i for batch in collect(loader, drop_last=False) for i in batch[0]]
    assert sorted(ids) == sorted(f"image{i}" for i in range(23))
    assert [len(batch[0]) for batch in collect(loader, drop_last=False)] == [4, 4, 4, 4, 4, 3]
    assert [len(batch[0]) for batch in collect(loader)] == [4] * 5
    assert loader.steps(4) == 5 and loader.steps(4, drop_last=False) == 6 and loader.steps(4, start=8) == 3


@pytest.mark.parametrize("start", [4, 12, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_resume_in_the_middle_is_exact(start: int, weighted: bool) -> None:
    weights = np.arange(1, 24) if weighted else None
    whole = collect(Loader(Split(23), seed=1, workers=2), epoch=5, weights=weights)
    rest = collect(Loader(Split(23), seed=1, workers=1), epoch=5, weights=weights, start=start)
    assert rest == whole[start // 4 :]


def test_batch_size_may_change_in_the_middle() -> None:
    loader = Loader(Split(24), seed=1, workers=0)
    whole = [i for batch in collect(loader, batch_size=3) for i in batch[0]]
    parts = [i for batch in collect(loader, batch_size=8)[:1] for i in batch[0]]
    parts += [i for batch in collect(loader, batch_size=4, start=8) for i in batch[0]]
    assert parts == whole


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_together_are_one_process(world_size: int, drop_last: bool) -> None:
    count = 25
    alone = collect(Loader(Split(count), seed=2, workers=0), batch_size=2 * world_size, drop_last=drop_last)
    ranks = [
        collect(
            Loader(Split(count), seed=2, workers=0, rank=rank, world_size=world_size), batch_size=2, drop_last=drop_last
        )
        for rank in range(world_size)
    ]
    assert len({len(rank) for rank in ranks}) == 1, "ranks of different length hang in the last all-reduce"
    for step, batch in enumerate(alone):
        together = tuple(i for rank in ranks for i in rank[step][0])
        images = b"".join(rank[step][1] for rank in ranks)
        assert together[: len(batch[0])] == batch[0]
        assert images[: len(batch[1])] == batch[1]
        assert len({len(rank[step][0]) for rank in ranks}) == 1


def test_a_split_smaller_than_a_batch_fills_it() -> None:
    batches = list(Loader(Split(3), seed=0, workers=1).batches(epoch=0, batch_size=8, transform=noisy))
    assert len(batches) == 1 and len(batches[0]) == 8
    assert Counter(batches[0].ids).most_common()[0][1] == 3
    twins = [i for i, name in enumerate(batches[0].ids) if name == "image1"]
    assert not np.array_equal(batches[0].images[twins[0]], batches[0].images[twins[1]]), "repeats must differ"


@pytest.mark.parametrize("count", [6, 13, 19, 24])
@pytest.mark.parametrize(("world_size", "parts"), [(1, 2), (1, 4), (2, 2), (4, 1)])
def test_an_epoch_has_the_same_updates_however_they_are_divided(count: int, world_size: int, parts: int) -> None:
    size = 8 // (world_size * parts)
    whole = collect(Loader(Split(count), seed=2, workers=0), batch_size=8)
    divided = [
        collect(Loader(Split(count), seed=2, workers=0, rank=rank, world_size=world_size), batch_size=size, parts=parts)
        for rank in range(world_size)
    ]
    assert {len(batches) for batches in divided} == {len(whole) * parts}
    assert Loader(Split(count), seed=2, workers=0, world_size=world_size).steps(size, parts=parts) == len(whole) * parts
    for number, (ids, *_) in enumerate(whole):
        mine = slice(number * parts, (number + 1) * parts)
        assert sorted(i for batches in divided for batch in batches[mine] for i in batch[0]) == sorted(ids)


def test_oversampling_counts_and_repeats_differ() -> None:
    weights = np.ones(20)
    weights[3] = 6.0
    order = epoch_order(20, seed=0, epoch=0, weights=weights)
    expected = 20 * 6 / 25
    counts = [int((epoch_order(20, seed=0, epoch=e, weights=weights) == 3).sum()) for e in range(200)]
    assert {min(counts), max(counts)} <= {int(expected), int(expected) + 1}
    assert np.mean(counts) == pytest.approx(expected, abs=0.1)
    assert len(order) == 20
    loader = Loader(Split(20), seed=0, workers=0)
    rows = [
        image.tobytes()
        for batch in loader.batches(epoch=0, batch_size=20, transform=noisy, weights=weights)
        for image, name in zip(batch.images, batch.ids, strict=True)
        if name == "image3"
    ]
    assert len(rows) >= 4 and len(set(rows)) == len(rows)
    never = epoch_order(5, seed=0, epoch=0, weights=[1, 0, 1, 0, 0])
    assert set(never.tolist()) <= {0, 2}
    for wrong in ([1.0], [0.0] * 5, [-1, 1, 1, 1, 1], [float("nan")] * 5):
        with pytest.raises(UsageError, match="weights"):
            epoch_order(5, seed=0, epoch=0, weights=wrong)


def test_random_numbers_depend_on_seed_epoch_index_and_nothing_else() -> None:
    values = {
        (seed, epoch, index, repeat): sample_rng(seed, epoch, index, repeat).integers(1 << 62)
        for seed in (0, 1)
        for epoch in (0, 1)
        for index in (0, 1)
        for repeat in (0, 1)
    }
    assert len(set(values.values())) == len(values)


# -- the cache -----------------------------------------------------------------------------------------------------


def test_every_sample_is_decoded_once() -> None:
    split = Split(12)
    loader = Loader(split, seed=0, workers=2)
    for epoch in range(3):
        collect(loader, epoch=epoch)
    assert set(split.reads.values()) == {1} and len(loader.cache) == 12


def test_a_cache_too_small_keeps_what_came_first() -> None:
    split, size = Split(12), 6 * 8 * 4
    loader = Loader(split, seed=0, workers=1, cache=5 * size)
    for epoch in range(3):
        collect(loader, epoch=epoch)
    assert sorted(split.reads.values()) == [1] * 5 + [3] * 7
    assert loader.cache.stored == 5 * size and loader.cache.full
    loader.cache.clear()
    assert len(loader.cache) == 0 and not loader.cache.full


def test_cached_arrays_cannot_be_written_to() -> None:
    def careless(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image[0] = 0
        return image, mask

    with pytest.raises(DataError, match="read-only"):
        collect(Loader(Split(4), seed=0, workers=1), transform=careless)


def test_a_cache_stops_growing_when_memory_gets_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_CHECK_EVERY", 6 * 8 * 4 * 3)
    monkeypatch.setattr(cache_module, "available_memory", lambda: 0)
    cache, split = DecodedCache(1 << 30), Split(20)
    for index in range(20):
        cache.get(index, split.__getitem__)
    assert len(cache) == 3 and cache.full


def test_cache_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "available_memory", lambda: 1000)
    assert cache_limit("auto") == 500 and cache_limit(True) == 500 and cache_limit(0.2) == 200
    assert cache_limit("none") == cache_limit(False) == cache_limit(0) == 0 and cache_limit(4096) == 4096
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cache_limit("auto") == 125
    for wrong in ("all", -5):
        with pytest.raises(UsageError, match="cache"):
            cache_limit(wrong)
    monkeypatch.undo()
    assert available_memory() > 0


# -- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_bad_sample_is_named_and_the_batches_before_it_arrive(workers: int) -> None:
    def broken(index: int) -> None:
        if index == 7:
            raise ValueError("bits fell out")

    loader = Loader(Split(16, before=broken), seed=0, workers=workers)
    position = epoch_order(16, seed=0, epoch=0).tolist().index(7)
    arrived: list[Batch] = []
    with pytest.raises(DataError, match="image7") as caught:
        arrived.extend(loader.batches(epoch=0, batch_size=2, transform=noisy))
    assert "bits fell out" in str(caught.value) and caught.value.fix
    assert len(arrived) in (0, position // 2)  # extend keeps what came before the error


def test_a_typed_error_passes_through() -> None:
    def broken(index: int) -> None:
        raise ImageReadError("not a readable image", where=f"/somewhere/{index}.png")

    with pytest.raises(ImageReadError, match=r"/somewhere/\d+\.png"):
        collect(Loader(Split(4, before=broken), seed=0, workers=2))


def test_a_sample_that_fails_once_is_tried_again_in_the_calling_thread() -> None:
    tried: Counter[int] = Counter()
    threads = []

    def shaky(index: int) -> None:
        tried[index] += 1
        if index % 3 == 0:
            threads.append(threading.current_thread().name)
            if tried[index] == 1:
                raise MemoryError

    calm = collect(Loader(Split(12), seed=0, workers=0))
    assert collect(Loader(Split(12, before=shaky), seed=0, workers=2)) == calm
    assert threads.count(threading.main_thread().name) == 4


def test_images_of_different_size_are_named() -> None:
    class Mixed(Split):
        def __getitem__(self, index: int) -> Sample:
            side = 9 if index == 2 else 8
            return Sample(f"image{index}", np.zeros((6, side, 3), np.uint8), np.zeros((6, side), np.uint8))

    with pytest.raises(DataError, match="differ in size"):
        collect(Loader(Mixed(4), seed=0, workers=2), transform=lambda image, mask, rng: (image, mask))


def test_no_mask_no_samples_and_wrong_arguments() -> None:
    with pytest.raises(LabelError, match="no mask"):
        collect(Loader(Split(4, masked=False), seed=0, workers=1))
    with pytest.raises(DataError, match="nothing to load"):
        Loader(Split(0), seed=0)
    for wrong in ({"seed": -1}, {"seed": 0, "rank": 2, "world_size": 2}, {"seed": 0, "workers": -1}):
        with pytest.raises(UsageError):
            Loader(Split(4), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="workers"):
        resolve_workers("many")
    with pytest.raises(UsageError, match="batch_size"):
        Loader(Split(4), seed=0).batches(epoch=0, batch_size=0, transform=noisy)
    assert 1 <= resolve_workers("auto") <= 8


def test_leaving_early_stops_the_threads() -> None:
    loader = Loader(Split(64), seed=0, workers=4)
    batches = loader.batches(epoch=0, batch_size=2, transform=noisy)
    next(batches)
    assert any(thread.name.startswith("loader-") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("loader-") for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="enough"):
        for _ in loader.batches(epoch=0, batch_size=2, transform=noisy):
            raise RuntimeError("enough")


def test_work_ahead_is_bounded() -> None:
    split = Split(64)
    batches = Loader(split, seed=0, workers=2, cache="none").batches(epoch=0, batch_size=2, transform=noisy, prefetch=3)
    next(batches)
    time.sleep(0.2)
    assert sum(split.reads.values()) <= 2 * (1 + 3)
    batches.close()  # type: ignore[attr-defined]


def test_two_iterators_at_once_put_opencv_back() -> None:
    before = cv2.getNumThreads()
    loader = Loader(Split(16), seed=0, workers=1)
    first = loader.batches(epoch=0, batch_size=2, transform=noisy)
    second = loader.batches(epoch=1, batch_size=2, transform=noisy)
    next(first), next(second)
    assert cv2.getNumThreads() == 1
    first.close()  # type: ignore[attr-defined]
    assert cv2.getNumThreads() == 1
    second.close()  # type: ignore[attr-defined]
    assert cv2.getNumThreads() == before


# -- pasting ----------------------------------------------------------------------------------------------------------


class LeftHalf:
    """Pastes the left half of the other sample; keeps which pairs it got."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, other: np.ndarray, other_mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        image, mask = image.copy(), mask.copy()
        image[:, :4], mask[:, :4] = other[:, :4], other_mask[:, :4]
        image[..., 2] = rng.integers(0, 256)
        return image, mask


def test_pasted_batches_do_not_depend_on_workers_ranks_or_a_resume() -> None:
    paste = LeftHalf(0.5)
    plain = collect(Loader(Split(22), seed=3, workers=0, cache="none"), paste=paste)
    assert collect(Loader(Split(22), seed=3, workers=3, cache="auto"), paste=paste) == plain
    assert collect(Loader(Split(22), seed=3, workers=2), paste=paste, start=8) == plain[2:]
    assert plain != collect(Loader(Split(22), seed=4, workers=0), paste=paste)
    halves = [
        collect(Loader(Split(22), seed=3, workers=0, rank=rank, world_size=2), paste=paste, batch_size=2)
        for rank in range(2)
    ]
    for whole, *parts in zip(plain, *halves, strict=True):
        assert whole[0] == sum((part[0] for part in parts), ())
        assert whole[1] == b"".join(part[1] for part in parts)


def test_the_share_of_pasted_samples_and_what_they_are_made_of() -> None:
    loader = Loader(Split(50), seed=0, workers=0)
    pasted, own, others = 0, 0, Counter[int]()
    for epoch in range(8):
        for batch in loader.batches(epoch=epoch, batch_size=5, transform=noisy, paste=LeftHalf(0.3)):
            left, right = batch.images[:, 0, 0, 0], batch.images[:, 0, -1, 0]
            assert [f"image{index}" for index in right] == list(batch.ids)
            for one, other, mask in zip(right, left, batch.masks, strict=True):
                pasted += int(one != other)
                own += 1
                others[int(other)] += one != other
                assert mask[0, 0] == other % 7 and mask[0, -1] == one % 7
    assert 0.23 < pasted / own < 0.37
    assert len([index for index, count in others.items() if count]) > 40


def test_what_is_pasted_follows_the_weights() -> None:
    weights = np.zeros(30)
    weights[[4, 9]] = 1.0
    loader = Loader(Split(30), seed=0, workers=0)
    for batch in loader.batches(epoch=0, batch_size=6, transform=noisy, paste=LeftHalf(1.0), weights=weights):
        assert set(batch.images[:, 0, 0, 0].tolist()) <= {4, 9}


def test_a_sample_that_cannot_be_pasted_is_named() -> None:
    def broken(index: int) -> None:
        if index == 7:
            raise ImageReadError("the file is damaged", where="image7.png")

    loader = Loader(Split(30, before=broken), seed=0, workers=2)
    with pytest.raises(ImageReadError, match="damaged"):
        list(loader.batches(epoch=0, batch_size=6, transform=noisy, paste=LeftHalf(1.0)))

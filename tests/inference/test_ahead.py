"""Windows together, read ahead and written behind: the answer and the errors are those of one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from brightest import SPACE, Brightest
from test_windows import Small, noise

from segwright.core.errors import ImageReadError
from segwright.core.types import Float32Array
from segwright.imageio import UInt8Array, WindowReader
from segwright.inference.ahead import WriteBehind, read_ahead
from segwright.inference.predictor import Predictor
from segwright.inference.sliding_window import Window
from segwright.models.base import SegOutput


def test_items_come_in_order_and_errors_at_their_item() -> None:
    assert list(read_ahead(range(7), lambda i: i * i)) == [(i, i * i) for i in range(7)]
    assert list(read_ahead([], lambda i: i)) == []
    found = []
    with pytest.raises(ZeroDivisionError):
        for item, _ in read_ahead([1, 2, 0, 4], lambda i: 1 / i, depth=3):
            found.append(item)
    assert found == [1, 2]


def test_reading_stops_where_the_reader_stops() -> None:
    read: list[int] = []
    for item, _ in read_ahead(range(1000), read.append, depth=2):
        if item == 3:
            break
    time.sleep(0.05)
    assert len(read) <= 8 and not [one for one in threading.enumerate() if one.name.startswith("segwright-read")]


def test_writes_are_in_order_and_what_follows_an_error_is_not_written() -> None:
    done: list[int] = []

    def write(i: int) -> None:
        if i == 4:
            raise OSError("full")
        done.append(i)

    with pytest.raises(OSError, match="full"), WriteBehind() as behind:
        for i in range(20):
            behind(write, i)
    assert done == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt), WriteBehind() as behind:
        behind(write, 5)
        raise KeyboardInterrupt
    assert done[-1] == 5, "what is waiting is written before the block ends"


class Rows(Small):
    """Counts how many images came in each call."""

    calls: list[int]

    def forward(self, images: torch.Tensor) -> SegOutput:
        self.calls.append(images.shape[0])
        return super().forward(images)


@pytest.mark.parametrize("pool", [False, True])  # without and with blending
@pytest.mark.parametrize("batch", [2, 5])
def test_windows_together_give_the_same_answer(pool: bool, batch: int) -> None:
    torch.manual_seed(0)
    network = Rows(1, pool)
    network.calls = []
    model = Predictor.from_model(network.eval(), SPACE, "cpu")
    model.window, image = 128, noise(300, 421)
    alone = model.predict(image)
    network.calls.clear()
    model.window_batch = batch
    together = model.predict(image)
    assert max(network.calls) > 1 and sum(network.calls) == model.window_count(image)
    assert (together.labels == alone.labels).all()
    np.testing.assert_allclose(together.confidence, alone.confidence, atol=1e-6)
    whole = model.predict(image, probabilities=True)
    assert (whole.labels == alone.labels).all(), "blended from the border zones as from all probabilities"
    parts: dict[Window, UInt8Array] = {}

    def write(part: Window, labels: UInt8Array, confidence: Float32Array) -> None:
        parts[part] = labels

    model.predict_windows(*image.shape[:2], lambda part: image[part.window], write)
    found = np.empty_like(alone.labels)
    for part, labels in parts.items():
        found[part.core] = labels[part.core_in_window]
    assert (found == alone.labels).all()


class Narrow(Brightest):
    """Has memory for two windows of 96, as it states, and then for one."""

    receptive_radius = 0

    def __init__(self, most: int) -> None:
        self.most, self.tried = most, list[int]()

    def room(self, shape: tuple[int, int, int]) -> int:
        return 8

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        self.tried.append(len(images))
        if len(images) > self.most:
            raise RuntimeError("CUDA out of memory")
        return super().labels(images)


@pytest.mark.parametrize("most", [1, 3])
def test_fewer_windows_are_tried_before_smaller_ones(most: int) -> None:
    network = Narrow(most)
    model = Predictor(network, SPACE)
    model.window, image = 128, noise(200, 900)
    assert (model.predict(image).labels == image.argmax(axis=2)).all()
    assert model.window == 128 and max(network.tried[-2:]) <= most and 8 in network.tried
    assert not model.notes


def test_a_gpu_takes_as_many_windows_as_fit(gpu: torch.device) -> None:
    torch.manual_seed(0)
    network = Small()
    on_cpu = Predictor.from_model(network.eval(), SPACE, "cpu")
    image = noise(200, 421)
    on_cpu.window = 128
    expected = on_cpu.predict(image)
    model = Predictor.from_model(network.eval(), SPACE, str(gpu))
    model.window = 128
    assert model.windows_together() > 1 and on_cpu.windows_together() == 1
    assert (model.predict(image).labels == expected.labels).mean() > 0.999


@pytest.mark.parametrize("layout", [{"tile": (64, 48)}, {"rowsperstrip": 7}, {"planarconfig": "separate"}])
@pytest.mark.parametrize("keep", [0, 20_000, 1 << 20])
def test_a_reader_that_keeps_tiles_reads_the_same(tmp_path: Path, layout: dict[str, Any], keep: int) -> None:
    image = noise(230, 310)
    planar = layout.get("planarconfig") == "separate"
    tifffile.imwrite(
        tmp_path / "a.tif", image.transpose(2, 0, 1) if planar else image, photometric="rgb", compression="zlib",
        **layout,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    with WindowReader(tmp_path / "a.tif", keep=keep) as reader:
        for _ in range(30):
            top, left = int(rng.integers(0, 200)), int(rng.integers(0, 280))
            height, width = int(rng.integers(1, 231 - top)), int(rng.integers(1, 311 - left))
            assert (reader.read(top, left, height, width) == image[top : top + height, left : left + width]).all()
        kept = reader._segments
        assert kept is not None and sum(one.nbytes for one in kept._kept.values()) <= keep
        with pytest.raises(ImageReadError, match="reaches beyond"):
            reader.read(0, 0, 500, 10)


def test_the_network_runs_while_windows_are_read_and_written() -> None:
    """Each side waits for a sign that another one is at work at the same time."""
    reading, predicting, writing = threading.Event(), threading.Event(), threading.Event()

    class Waits(Brightest):
        receptive_radius = 0
        runs = 0

        def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
            self.runs += 1
            if self.runs == 3:
                predicting.set()
                assert reading.wait(60) and writing.wait(60)
            return super().labels(images)

    def at_call(event: threading.Event, count: int) -> Callable[[], None]:
        seen = [0]

        def step() -> None:
            seen[0] += 1
            if seen[0] == count:
                event.set()
                assert predicting.wait(60)

        return step

    image, model = noise(128, 900), Predictor(Waits(), SPACE)
    model.window = 128
    at_read, at_write = at_call(reading, 4), at_call(writing, 2)

    def read(part: Window) -> UInt8Array:
        at_read()
        return image[part.window]

    def write(part: Window, labels: UInt8Array, confidence: Float32Array) -> None:
        at_write()

    model.predict_windows(*image.shape[:2], read, write)
    assert reading.is_set() and writing.is_set()

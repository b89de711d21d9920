"""The service under load, one figure per command, as ratios in one run.

    python benchmarks/service.py throughput   requests per second beside the same predictor in a loop, in turn
    python benchmarks/service.py tail         p99 over p50 at 70 % of the service's own rate, even and random arrivals
    python benchmarks/service.py large        small images alone, and beside one large image after the other
    python benchmarks/service.py sizes        what a batch of several sizes would cost, and what padding does to labels
    python benchmarks/service.py memory       memory of all processes over 10,000 requests
    python benchmarks/service.py overload     what a service that gets four times its rate answers, and how soon

``--model`` is a saved model; without it a U-Net on a ResNet-18 of random weights (for memory and overload a small one).
Images are street scenes of CamVid's size, 360×480. The clients are threads of this process, the service is a process of
its own. Latencies are counted from the moment at which a request was due, so a late client hides nothing.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import queue
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from serve import images, plain_loop, random_model, served

import segwright as sw
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import decode_image
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model

Answer = tuple[float, float, int]  # due, seconds from then to the whole response, status


def small_model(folder: Path) -> Path:
    torch.manual_seed(0)
    arguments = {"width": 8, "in_channels": 3}
    network = create_model("segnet_basic", classes=3, weights=None, **arguments).eval()
    return save_bundle(folder / "small", network, Bundle("segnet_basic", LabelSpace(("a", "b", "c")), arguments))


@contextmanager
def service(model: Path, device: str, *more: str) -> Iterator[tuple[psutil.Process, int]]:
    process, port = served(model, 1, device, *more)
    threading.Thread(target=lambda: [None for _ in process.stdout or ()], daemon=True).start()
    try:
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait()


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """Of the service and its decoders."""
    return sum(sum(one.cpu_times()[:2]) for one in tree(process))


def memory(process: psutil.Process) -> float:
    """MB of memory that is the processes' own (USS)."""
    return sum(one.memory_full_info().uss for one in tree(process)) / 1e6


def ask(connection: http.client.HTTPConnection, body: bytes) -> int:
    connection.request("POST", "/predict", body, {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def closed(port: int, data: Sequence[bytes], clients: int, count: int) -> float:
    """Requests per second of clients that send the next image when they have the last answer."""
    numbers = iter(range(count))
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            status = ask(connection, data[number % len(data)])
            assert status == 200, status

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - began)


def open_load(port: int, data: Sequence[bytes], due: Sequence[float], clients: int = 48) -> list[Answer]:
    """Send a request at each of the given seconds from now."""
    waiting: queue.Queue[tuple[int, float] | None] = queue.Queue()
    found: list[Answer] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while (entry := waiting.get()) is not None:
            number, at = entry
            try:
                status = ask(connection, data[number % len(data)])
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            found.append((at - began, time.perf_counter() - at, status))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    for number, seconds in enumerate(due):
        time.sleep(max(0.0, began + seconds - time.perf_counter()))
        waiting.put((number, began + seconds))
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    return found


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def even(rate: float, count: int) -> list[float]:
    return [number / rate for number in range(count)]


def at_random(rate: float, count: int, seed: int) -> list[float]:
    """Poisson arrivals."""
    rng, now, due = random.Random(seed), 0.0, list[float]()
    for _ in range(count):
        now += rng.expovariate(rate)
        due.append(now)
    return due


def one_server(load: float, count: int = 400_000) -> float:
    """p99 over p50 of a queue with random arrivals, one server, and a constant time per request (M/D/1)."""
    rng = np.random.default_rng(0)
    gaps = rng.exponential(1 / load, count)
    steps = np.concatenate(([0.0], 1 - gaps[1:]))
    walk = np.cumsum(steps)
    waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    return percentile((waits + 1).tolist(), 0.99) / percentile((waits + 1).tolist(), 0.5)


def throughput(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    data, predictor = images(), sw.load(model, device=options.device)
    rows = []
    own = psutil.Process()
    with service(model, options.device) as (process, port):
        closed(port, data, 2, 8)
        for _ in range(options.rounds):
            began, used = time.perf_counter(), sum(own.cpu_times()[:2])
            rate = plain_loop(predictor, data, options.seconds)
            alone = (sum(own.cpu_times()[:2]) - used) / (rate * (time.perf_counter() - began))
            count, used = max(8, round(rate * options.seconds)), cpu_seconds(process)
            served_rate = closed(port, data, options.clients, count)
            with_service = (cpu_seconds(process) - used) / count
            rows.append({"rate": served_rate / rate, "cpu": alone / with_service, "loop": rate, "served": served_rate})
            print(json.dumps({key: round(value, 3) for key, value in rows[-1].items()}), flush=True)
    found = {key: statistics.median(row[key] for row in rows) for key in ("rate", "cpu")}
    print(f"of the loop's rate: {found['rate']:.2f} by the clock, {found['cpu']:.2f} by processor time (medians)")
    return {"rounds": rows, **found}


def tail(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    data, rows = images(), []
    kinds: dict[str, Callable[[float, int, int], list[float]]] = {
        "even": lambda rate, count, seed: even(rate, count), "random": at_random,
    }  # fmt: skip
    with service(model, options.device) as (_, port):
        closed(port, data, 2, 8)
        for turn in range(options.rounds):
            for kind, arrivals in kinds.items():
                rate = closed(port, data, 4, options.count // 4)
                found = open_load(port, data, arrivals(0.7 * rate, options.count, turn))
                times = [seconds for _, seconds, status in found if status == 200]
                p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
                row = {"arrivals": kind, "rate": rate, "p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3, "ratio": p99 / p50}
                rows.append({**row, "not_200": len(found) - len(times)})
                print(json.dumps(rows[-1]), flush=True)
    for kind in kinds:
        print(f"{kind}: p99 / p50 {statistics.median(r['ratio'] for r in rows if r['arrivals'] == kind):.2f} (median)")
    print(f"a queue of one server with random arrivals and constant times at 70 % has {one_server(0.7):.2f}")
    return {"rounds": rows, "one_server": one_server(0.7)}


def large(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    small, rows = images(), []
    buffer = io.BytesIO()
    side = options.side
    Image.fromarray(np.tile(draw_street("large", (500, 500))[0], (-(-side // 500), -(-side // 500), 1))[:side, :side]
                    ).save(buffer, "JPEG", quality=90)  # fmt: skip
    predictor = sw.load(model, device=options.device)
    predictor.window = options.window
    windows = predictor.window_count(np.zeros((side, side, 3), np.uint8))
    with service(model, options.device, "--window", str(options.window)) as (_, port):
        closed(port, small, 2, 8)
        stop = threading.Event()
        whole: list[float] = []

        def send_large() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
            while not stop.is_set():
                began = time.perf_counter()
                assert ask(connection, buffer.getvalue()) == 200
                whole.append(time.perf_counter() - began)

        for _ in range(options.rounds):
            rate = closed(port, small, 1, options.count // 4)
            due = even(0.2 * rate, options.count // 2)
            alone = [seconds for _, seconds, _ in open_load(port, small, due)]
            stop.clear()
            sender = threading.Thread(target=send_large)
            sender.start()
            time.sleep(1)
            beside = [seconds for _, seconds, _ in open_load(port, small, due)]
            stop.set()
            sender.join()
            row = {
                "alone_p50_ms": percentile(alone, 0.5) * 1e3, "alone_p95_ms": percentile(alone, 0.95) * 1e3,
                "beside_p50_ms": percentile(beside, 0.5) * 1e3, "beside_p95_ms": percentile(beside, 0.95) * 1e3,
                "window_ms": statistics.median(whole) / windows * 1e3, "large_s": statistics.median(whole),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps({key: round(value, 1) for key, value in row.items()}), flush=True)
    print(f"the large image, {side}×{side}, has {windows} windows")
    return {"windows": windows, "rounds": rows}


def sizes(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Sixteen images of eight sizes: one by one, equal sizes together, and all padded to the largest."""
    predictor = sw.load(model, device=options.device)
    shapes = [(360, 480), (352, 470), (375, 500), (333, 500), (360, 480), (480, 360), (427, 480), (360, 450)] * 2
    found = [decode_image(scene(number, shape)) for number, shape in enumerate(shapes)]
    height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    padded = [
        np.pad(one, ((0, height - one.shape[0]), (0, width - one.shape[1]), (0, 0)), mode="edge") for one in found
    ]  # fmt: skip
    groups: dict[tuple[int, ...], list[Any]] = {}
    for one in found:
        groups.setdefault(one.shape, []).append(one)
    ways: dict[str, Callable[[], Any]] = {
        "one by one": lambda: [predictor.predict(one) for one in found],
        "equal sizes together": lambda: [predictor.predict_batch(group) for group in groups.values()],
        "all padded, batches of 4": lambda: [predictor.predict_batch(padded[at : at + 4]) for at in range(0, 16, 4)],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if turn:
                times[name].append((time.process_time() - began) / len(found))
    single = [predictor.predict(one).labels for one in found]
    together = [one for at in range(0, 16, 4) for one in predictor.predict_batch(padded[at : at + 4])]
    differ = [
        float((wide.labels[: own.shape[0], : own.shape[1]] != own).mean())
        for own, wide in zip(single, together, strict=True)
    ]
    least = {name: min(seconds) for name, seconds in times.items()}
    for name, seconds in least.items():
        print(f"{name}: {seconds * 1e3:.0f} ms of processor time per image, {seconds / least['one by one']:.2f}")
    changed = f"{statistics.mean(differ):.2%} of the labels on average, {max(differ):.2%} in the worst image"
    area = sum(one.shape[0] * one.shape[1] for one in padded) / sum(one.shape[0] * one.shape[1] for one in found)
    print(f"padding changes {changed}; pixels with padding: {area:.2f}")
    return {"seconds": least, "labels_that_differ": differ, "pixels": area}


def scene(number: int, shape: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_street(f"sizes/{number}", shape)[0]).save(buffer, "PNG")
    return buffer.getvalue()


def flat_memory(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    rng, rows = np.random.default_rng(0), []
    data = []
    for number in range(64):  # of many sizes and kinds, some damaged
        buffer = io.BytesIO()
        shape = (int(rng.integers(32, 200)), int(rng.integers(32, 200)))
        Image.fromarray(draw_street(f"memory/{number}", shape)[0]).save(buffer, ("JPEG", "PNG", "TIFF")[number % 3])
        data.append(buffer.getvalue() if number % 16 else buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with service(model, options.device) as (process, port):
        for step in range(11):
            found = open_load(port, data, [0.0] * (options.requests // 10 if step else 200), clients=8)
            assert {status for _, _, status in found} <= {200, 400}
            rows.append(memory(process))
            print(f"{step * options.requests // 10:6d} requests: {rows[-1]:.1f} MB", flush=True)
    growth = rows[-1] - rows[1]
    print(f"from 10 % to 100 % of the requests: {growth:+.1f} MB of {rows[1]:.0f}, {growth / rows[1]:+.1%}")
    return {"mb": rows, "growth": growth / rows[1]}


def overload(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    data = images()
    with service(model, options.device) as (_, port):
        closed(port, data, 2, 16)
        rate = closed(port, data, 8, options.count)
        found = open_load(port, data, even(4 * rate, 8 * options.count), clients=128)
    late = max(due + seconds for due, seconds, _ in found)
    good = [seconds for _, seconds, status in found if status == 200]
    refused = [seconds for _, seconds, status in found if status == 503]
    other = len(found) - len(good) - len(refused)
    goodput = len(good) / late / rate
    asked = f"of {len(found)} requests at four times that: {len(good)} 200, {len(refused)} 503, {other} other"
    print(f"alone {rate:.1f}/s; {asked}; answered with 200: {goodput:.2f} of the rate alone")
    for status, times in (("503", refused), ("200", good)):
        middle, most = (percentile(times, share) * 1e3 for share in (0.5, 0.95))
        print(f"{status} after {middle:.0f} ms (median), {most:.0f} ms (95 %)")
    return {"rate": rate, "good": len(good), "refused": len(refused), "other": other, "goodput": goodput}


PARTS: dict[str, tuple[Callable[[argparse.Namespace, Path], dict[str, Any]], Callable[[Path], Path]]] = {
    "throughput": (throughput, random_model), "tail": (tail, random_model), "large": (large, random_model),
    "sizes": (sizes, random_model), "memory": (flat_memory, small_model), "overload": (overload, small_model),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--count", type=int, default=200, help="requests per round")
    parser.add_argument("--requests", type=int, default=10_000, help="of memory")
    parser.add_argument("--side", type=int, default=4000, help="pixels of the large image")
    parser.add_argument("--window", type=int, default=1536, help="pixels, of large")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work, default = PARTS[options.part]
    with tempfile.TemporaryDirectory() as folder:
        found = work(options, options.model or default(Path(folder)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

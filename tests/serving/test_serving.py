"""The service as an ASGI application: the same answers as ``predict``, within bounds, whatever clients do.

Where something has to happen while the network is busy, the network waits at a gate that the test opens.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segwright import api
from segwright.core.errors import DataError, ImageReadError, UsageError
from segwright.core.types import Float32Array, LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import UInt8Array, encode_png
from segwright.imageio.sandbox import WorkerPool
from segwright.inference.attachments import Attachment
from segwright.inference.boosting import BoostedTrees, fit_trees
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import Predictor, load
from segwright.inference.quality import CLASS_FEATURES, IMAGE_FEATURES, ErrorModel, parse_error_model
from segwright.inference.region_estimator import RegionEstimator, RegionIou, fit_regions
from segwright.inference.region_features import feature_names
from segwright.inference.vectorize import geojson
from segwright.models.catalog import create_model
from segwright.monitoring.journal import read_journal
from segwright.monitoring.recorder import JournalOptions
from segwright.serving import monitor_view
from segwright.serving.app import Application, create_app
from segwright.serving.batcher import Batcher, PredictTimeoutError
from segwright.serving.decoding import ImageDecoder
from segwright.serving.http import LOOPBACK
from segwright.serving.limits import ServiceLimits

SPACE = LabelSpace(("ground", "thing", "other"))
PATIENCE = 120.0  # seconds that a slow machine may take for anything; nothing here waits for its end
POISON = 77
NAN = 78


class GatedColors:
    """A network whose classes are red, green and blue. It remembers what it was run on and waits for its gate; a
    image whose first value is POISON makes it fail, with NAN it answers that."""

    classes, in_channels = 3, 3

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift
        self.runs: list[list[tuple[int, int, int]]] = []  # (height, width, first value) of every run's images
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def logits(self, images: UInt8Array) -> Float32Array:
        self.runs.append([(*image.shape[:2], int(image[0, 0, 0])) for image in images])
        self.entered.release()
        assert self.gate.wait(PATIENCE), "the test forgot the gate"
        if any(run[2] == POISON for run in self.runs[-1]):
            raise RuntimeError("secret of the machine")
        found = np.roll(images.astype(np.float32), self.shift, axis=3).transpose(0, 3, 1, 2) / 16
        for place, run in enumerate(self.runs[-1]):
            if run[2] == NAN:
                found[place] = np.nan
        return found

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        logits = self.logits(images)
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        return logits.argmax(axis=1).astype(np.uint8), (power.max(axis=1) / power.sum(axis=1)).astype(np.float32)

    async def running(self) -> None:
        """Return when a run has begun that nobody waited for yet."""
        await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks an application without a network between. ``sent`` counts the body's messages that were taken."""

    def __init__(self, app: Application) -> None:
        self.app, self.sent = app, 0

    async def __call__(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        *,
        leave: asyncio.Event | None = None,
        stall: bool = False,
    ) -> Reply | None:
        """None where no answer was sent. A body of several parts comes in chunks, without a length. The client leaves
        when ``leave`` is set; with ``stall`` the last part never comes."""
        parts = [body] if isinstance(body, bytes) else list(body)
        path, _, query = target.partition("?")
        own = {"host": "localhost:8000", **{k.lower(): v for k, v in (headers or {}).items()}}
        if isinstance(body, bytes) and body and "content-length" not in own:
            own["content-length"] = str(len(body))
        elif not isinstance(body, bytes):
            own["transfer-encoding"] = "chunked"
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in own.items()],
        }  # fmt: skip
        leaving = leave or asyncio.Event()
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if parts and not (stall and len(parts) == 1):
                self.sent += 1
                chunk = parts.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(parts)}
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        await asyncio.wait_for(self.app(scope, receive, send), PATIENCE)
        if not messages:
            return None
        start = messages[0]
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], found, b"".join(m.get("body", b"") for m in messages[1:]))

    async def get(self, target: str, **headers: str) -> Reply:
        found = await self("GET", target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        assert found is not None
        return found

    async def post(self, body: bytes | Sequence[bytes], form: str = "labels", **headers: str) -> Reply:
        given = {"content-type": "image/png", **{k.replace("_", "-"): v for k, v in headers.items()}}
        found = await self("POST", f"/predict?as={form}", body, given)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    """Child processes for every test of the module: starting them costs more than most tests."""
    shared = ImageDecoder(ServiceLimits(max_megapixels=0.05).image_limits(), count=2, seconds=PATIENCE)
    close, shared.close = shared.close, lambda: None  # type: ignore[method-assign]
    yield shared
    close()


Served = Callable[..., Any]


@pytest.fixture
def served(decoder: ImageDecoder) -> Served:
    @asynccontextmanager
    async def build(
        runtime: Any = None,
        *,
        predictor: Predictor | None = None,
        load: Any = None,
        hosts: Any = None,
        journal: Any = None,
        **limits: Any,
    ) -> AsyncIterator[Client]:
        bounds = ServiceLimits(**{"max_megapixels": 0.05, "batch": 4, "wait_seconds": 0.002, **limits})
        app = create_app(
            predictor or Predictor(runtime or GatedColors(), SPACE),
            bounds,
            name="colors",
            load=load,
            hosts=hosts,
            journal=journal,
        )
        app.service.decoder = decoder
        try:
            yield Client(app)
        finally:
            if runtime is not None:
                runtime.gate.set()
            await asyncio.to_thread(app.service.close)

    return build


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something on it has happened."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def make_image(first: int = 0, height: int = 20, width: int = 30) -> bytes:
    """A PNG whose first value is ``first``."""
    pixels = np.random.default_rng(first).integers(80, 256, (height, width, 3), np.uint8)
    pixels[0, 0, 0] = first
    return encode_png(pixels)


def labels_of(reply: Reply) -> UInt8Array:
    assert reply.status == 200, reply.body
    return np.asarray(Image.open(io.BytesIO(reply.body)))


def bundle(folder: Path, *, post: str | None = None, channels: int = 3, **more: Any) -> Path:
    torch.manual_seed(5)
    arguments = {"width": 8, "in_channels": channels}
    network = create_model("segnet_basic", classes=3, weights=None, **arguments)
    scene = torch.from_numpy(draw_street("served", (96, 128))[0][None][..., [0, 1, 2, 0][:channels]])
    with torch.no_grad():
        for _ in range(30):
            network(scene)  # its norms learn what images are like: random weights then tell one place from another
    return save_bundle(folder, network.eval(), Bundle("segnet_basic", SPACE, arguments, postprocess=post, **more))


# ---------------------------------------------------------------------------------------------------------------------
# The same answer as predict


@pytest.mark.parametrize(
    ("post", "tta"),
    [
        (None, None),
        ("close(3)>min-area(8)", None),
        ("crf(w1=4,sa=30,sb=8,w2=3,sg=2,iterations=3)>min-area(8)", None),
        ("close(3)>min-area(8)", "flip,0.75,1"),
    ],
)
def test_the_answer_is_that_of_predict_bit_for_bit(
    post: str | None, tta: str | None, tmp_path: Path, served: Served
) -> None:
    model = bundle(tmp_path / "model", post=post)
    street = Image.fromarray(draw_street("served", (96, 128))[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turned upright by both
    street.save(tmp_path / "turned.jpg", exif=exif)
    street.convert("P").save(tmp_path / "palette.png")

    async def work() -> None:
        async with served(predictor=load(model, device="cpu", tta=tta), batch=1) as client:
            for name in ("turned.jpg", "palette.png"):
                api.predict(model, tmp_path / name, out=tmp_path / "out", device="cpu", tta=tta, confidence=True)
                stem = tmp_path / "out" / name.partition(".")[0]
                data = (tmp_path / name).read_bytes()
                for form, ending in (
                    ("labels", ".png"),
                    ("overlay", ".overlay.jpg"),
                    ("confidence", ".confidence.png"),
                ):
                    reply = await client.post(data, form, content_type="application/octet-stream")
                    assert reply.status == 200, reply.body
                    assert reply.body == stem.with_name(stem.name + ending).read_bytes(), f"{name}: {form}"

    run(work())
    labels = np.asarray(Image.open(tmp_path / "out" / "palette.png"))
    assert len(np.unique(labels)) > 1, "a network that says one thing proves nothing"


def test_images_of_many_bands_take_the_value_range_of_the_model(tmp_path: Path, served: Served) -> None:
    saved = {"value_range": {"low": [100.0], "high": [3000.0]}}
    model = bundle(tmp_path / "model", channels=4, preprocessing=saved)
    bands = np.random.default_rng(0).integers(0, 4000, (40, 60, 4), np.uint16)
    tifffile.imwrite(tmp_path / "bands.tif", bands, planarconfig="contig", photometric="minisblack")
    expected = load(model, device="cpu")(tmp_path / "bands.tif")

    async def work() -> None:
        async with served(predictor=load(model, device="cpu")) as client:
            reply = await client.post((tmp_path / "bands.tif").read_bytes(), content_type="image/tiff")
            np.testing.assert_array_equal(labels_of(reply), expected.labels)
            reply = await client.post(make_image(), content_type="image/png")
            assert reply.status == 400 and "8 bits" in reply.json["expected"], "8 bits of what is not guessed"
            tifffile.imwrite(tmp_path / "three.tif", np.full((20, 30, 3), 900, np.uint16), photometric="rgb")
            reply = await client.post((tmp_path / "three.tif").read_bytes(), content_type="image/tiff")
            assert reply.status == 400 and "channels" in reply.json["expected"], "three bands do not fit four"

    run(work())


def test_json_says_the_shares_and_the_chain_in_force(served: Served) -> None:
    predictor = Predictor(GatedColors(), SPACE, post="min-area(8)", tta="flip")
    expected = predictor.predict(np.asarray(Image.open(io.BytesIO(make_image()))))

    async def work() -> None:
        async with served(predictor=predictor) as client:
            found = (await client.post(make_image(), "json")).json
            assert (found["height"], found["width"]) == (20, 30) and "mask" not in found
            assert [entry["name"] for entry in found["classes"]] == list(SPACE.names)
            assert [entry["pixels"] for entry in found["classes"]] == np.bincount(
                expected.labels.ravel(), minlength=3
            ).tolist()
            assert sum(entry["share"] for entry in found["classes"]) == pytest.approx(1)
            assert found["mean_confidence"] == pytest.approx(float(expected.confidence.mean()))
            assert found["post"] == "min-area(8)" and found["tta"] == "flip" and found["milliseconds"] > 0
            masked = (await client("POST", "/predict?as=json&mask=true", make_image())).json
            again = np.asarray(Image.open(io.BytesIO(base64.b64decode(masked["mask"]))))
            np.testing.assert_array_equal(again, expected.labels)

    run(work())


def test_quality_and_uncertainty_come_on_request(served: Served) -> None:
    plain = Predictor(GatedColors(), SPACE)
    fitted = Predictor(GatedColors(), SPACE)
    fitted.error_model = parse_error_model(constant_error_model(), 3)
    expected = plain.predict(np.asarray(Image.open(io.BytesIO(make_image()))), uncertainty="entropy").uncertainty
    assert expected is not None

    async def work() -> None:
        for predictor in (plain, fitted):
            async with served(predictor=predictor) as client:
                found = (await client("POST", "/predict?as=json&mask=true&quality=true", make_image())).json
                shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["uncertainty"]))))
                assert np.abs(shown / 255 - expected).max() < 0.003
                assert found["mean_uncertainty"] == pytest.approx(float(expected.mean()), abs=1e-6)
                alone = await client.post(make_image(), "uncertainty")
                np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(alone.body))), shown)
                if predictor is plain:
                    assert found["quality"] == {"note": "no error model in this bundle"}
                    assert "quality" not in (await client.post(make_image(), "json")).json
                    continue
                document = (await client.get("/openapi.json")).json
                described = document["components"]["schemas"]["Prediction"]["properties"]["quality"]["properties"]
                assert set(found["quality"]) == set(described)
                assert set(found["quality"]["regions"][0]) == set(described["regions"]["items"]["properties"])
                assert found["quality"]["estimated_miou"]["iou"] == pytest.approx(0.6, abs=0.02)
                brief = (await client("POST", "/predict?as=json&quality=true", make_image())).json
                assert "uncertainty" not in brief and brief["quality"] == found["quality"]
        async with served(predictor=plain) as client:
            for query in (
                "quality=true",
                "as=json&quality=1",
                "as=overlay&quality=true",
                "as=json&quality=true&quality=true",
            ):
                assert (await client("POST", f"/predict?{query}", make_image())).status == 400, query

    run(work())


def constant_error_model() -> Attachment:
    """An error model that expects an IoU of 0.6 of everything."""
    rng = np.random.default_rng(0)

    def trees(width: int, value: float) -> BoostedTrees:
        return fit_trees(rng.random((40, width), np.float32), np.full(40, value), "squares", trees=1, depth=1)

    def regions() -> tuple[RegionEstimator, RegionIou]:
        rows = rng.random((40, len(feature_names(3))), np.float32)
        return fit_regions(rows, np.where(np.arange(40) % 2, 0.9, 0.0), classes=3, seed=0)

    scores = np.full(20, 0.1)
    return ErrorModel(
        3, *regions(), trees(len(CLASS_FEATURES) + 3, 0.6),
        np.full(3, 0.6), np.zeros(len(IMAGE_FEATURES)), np.ones(len(IMAGE_FEATURES)),
        np.zeros(len(IMAGE_FEATURES) + 1), 10.0, scores, np.full(20, 1 / 21), scores, np.full(20, 1 / 21),
        np.zeros(20, np.int64), np.zeros(20),
    ).attachment()  # fmt: skip


def test_model_health_ready_and_metrics(tmp_path: Path, served: Served) -> None:
    model = bundle(tmp_path / "private" / "model", post="close(3)", metrics={"miou": 0.5, "iou": float("nan")})

    async def work() -> None:
        async with served(predictor=load(model, device="cpu")) as client:
            found = (await client.get("/model")).json
            assert found["name"] == "colors" and found["post"] == "close(3)" and found["channels"] == 3
            assert [entry["name"] for entry in found["classes"]] == list(SPACE.names)
            assert found["metrics"] == {"miou": 0.5, "iou": None} and found["device"] == "cpu"
            assert "private" not in json.dumps(found), "no paths of the machine"
            assert (await client.get("/health")).json == {"status": "up"}
            assert (await client.get("/ready")).json == {"status": "ready"}
            head = await client("HEAD", "/health")
            assert head is not None and head.status == 200 and head.body == b""
            assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain")
            client.app.service.stopping = True
            assert (await client.get("/ready")).status == 503 and (await client.get("/health")).status == 200
            refused = await client.post(make_image())
            assert refused.status == 503 and int(refused.headers["retry-after"]) > 0

    run(work())


# ---------------------------------------------------------------------------------------------------------------------
# Limits before decoding


def test_case_37_a_body_is_bounded_with_a_length_and_without(served: Served) -> None:
    async def work() -> None:
        async with served(max_megabytes=0.01) as client:
            announced = await client(
                "POST", "/predict", [b"x" * 4000] * 9, {"content-length": "36000", "expect": "100"}
            )
            assert announced is not None and announced.status == 413 and client.sent == 0, "told before it is read"
            assert announced.headers["connection"] == "close"
            chunked = await client("POST", "/predict", [b"x" * 4000] * 500, {"content-type": "image/png"})
            assert chunked is not None and chunked.status == 413 and "--max-megabytes" in chunked.json["fix"]
            assert client.sent < 20, "what is thrown away is bounded as well"
            fits = await client.post([make_image()[:700], make_image()[700:]])
            assert fits.status == 200

    run(work())


def test_case_37_pixels_are_bounded_by_the_header_alone(served: Served) -> None:
    header = bytearray(make_image()[:33])
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # a PNG that ends where its pixels would begin

    async def work() -> None:
        async with served() as client:
            for large in (bytes(header), make_image(0, 200, 300)):
                reply = await client.post(large)
                assert reply.status == 413 and "--max-megapixels" in reply.json["fix"], reply.body
            assert (await client.post(make_image(0, 200, 240))).status == 200

    run(work())


def test_case_38_a_slow_body_is_given_up(served: Served) -> None:
    async def work() -> None:
        async with served(body_seconds=0.2) as client:
            reply = await client("POST", "/predict", [b"\x89PNG", b"never"], stall=True)
            assert reply is not None and reply.status == 408 and reply.headers["connection"] == "close"
            assert client.app.service.buffered_bytes == 0 and client.app.service.in_flight == 0

    run(work())


def test_case_39_forms_are_refused_unread(served: Served) -> None:
    async def work() -> None:
        async with served() as client:
            flood = b"&".join(b"a%d=1" % i for i in range(100_000))
            for kind in ("multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/html"):
                before = client.sent
                reply = await client("POST", "/predict", flood, {"content-type": kind, "expect": "100-continue"})
                assert reply is not None and reply.status == 415 and "--data-binary" in reply.json["fix"]
                assert client.sent == before, "nothing of it was read"
            packed = await client.post(make_image(), content_encoding="gzip")
            assert packed.status == 415, "a compressed body may unpack to anything"
            for query in (
                "&".join(f"a{i}=1" for i in range(10_000)),
                "as=labels&as=json",
                "as=video",
                "mask=true",
                "as",
            ):
                reply = await client("POST", f"/predict?{query}", make_image())
                assert reply is not None and reply.status == 400, query[:40]

    run(work())


def test_bodies_of_all_clients_together_are_bounded(served: Served) -> None:
    async def work() -> None:
        async with served(max_megabytes=0.01, max_concurrent_requests=100) as client:
            leave = asyncio.Event()
            slow = [
                asyncio.create_task(client("POST", "/predict", [b"x" * 9900, b"never"], stall=True, leave=leave))
                for _ in range(8)
            ]
            await until(lambda: client.app.service.buffered_bytes == 8 * 9900)
            reply = await client("POST", "/predict", make_image(0, 30, 30))
            assert reply is not None and reply.status == 503 and int(reply.headers["retry-after"]) >= 1
            leave.set()
            assert await asyncio.gather(*slow) == [None] * 8
            assert client.app.service.buffered_bytes == 0
            assert (await client.post(make_image())).status == 200

    run(work())


def test_decoded_images_are_bounded_together(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=1) as client:
            network.gate.clear()
            large = [asyncio.create_task(client.post(make_image(i, 200, 240))) for i in range(4)]  # 192,000 of 200,000
            await until(lambda: client.app.service.decoded_pixels == 4 * 48_000)
            assert (await client.post(make_image(9, 100, 100))).status == 503
            network.gate.set()
            assert [reply.status for reply in await asyncio.gather(*large)] == [200] * 4
            assert client.app.service.decoded_pixels == 0

    run(work())


# ---------------------------------------------------------------------------------------------------------------------
# Many clients at once


def test_case_40_who_leaves_in_the_queue_is_not_predicted(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=1, max_concurrent_requests=3) as client:
            network.gate.clear()
            first = asyncio.create_task(client.post(make_image(1)))
            await network.running()
            leave = asyncio.Event()
            gone = asyncio.create_task(client("POST", "/predict", make_image(2), leave=leave))
            last = asyncio.create_task(client.post(make_image(3)))
            await until(lambda: len(client.app.service.batcher._queue) == 2)
            leave.set()
            assert await gone is None, "nothing is sent to who is gone"
            assert client.app.service.in_flight == 2, "and the place is free while the others still wait"
            network.gate.set()
            assert (await first).status == (await last).status == 200
            assert [run[0][2] for run in network.runs] == [1, 3]
            assert "segwright_client_disconnects_total 1.0" in (await client.get("/metrics")).body.decode()

    run(work())


def test_case_40_who_leaves_in_mid_batch_costs_the_others_nothing(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=3, wait_seconds=PATIENCE) as client:  # runs when three are there
            network.gate.clear()
            leave = asyncio.Event()
            gone = asyncio.create_task(client("POST", "/predict", make_image(2), leave=leave))
            others = [asyncio.create_task(client.post(make_image(i))) for i in (1, 3)]
            await network.running()
            leave.set()
            await until(lambda: client.app.service.metrics.disconnects() == 1)
            network.gate.set()
            for reply, first in zip(await asyncio.gather(*others), (1, 3), strict=True):
                expected = np.asarray(Image.open(io.BytesIO(make_image(first)))).argmax(axis=2)
                np.testing.assert_array_equal(labels_of(reply), expected)
            assert await gone is None and len(network.runs) == 1
            assert client.app.service.in_flight == 0

    run(work())


@pytest.mark.parametrize("bad", [POISON, NAN])
def test_case_41_a_batch_that_fails_is_run_again_one_by_one(bad: int, served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=3, wait_seconds=PATIENCE) as client:
            replies = await asyncio.gather(*(client.post(make_image(first)) for first in (1, bad, 3)))
            assert [reply.status for reply in replies] == [200, 500, 200]
            assert [len(run) for run in network.runs] == [3, 1, 1, 1]
            assert "secret" not in replies[1].body.decode() and "Traceback" not in replies[1].body.decode()
            client.app.service.batcher.wait = 0.0
            assert (await client.post(make_image(4))).status == 200, "and the thread lives"

    run(work())


def test_case_41_what_is_no_image_never_reaches_a_batch(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network) as client:
            cut, empty, text = make_image(1)[:200], b"", b"\x00" * 64
            replies = await asyncio.gather(*(client.post(data) for data in (cut, make_image(2), empty, text)))
            assert [reply.status for reply in replies] == [400, 200, 400, 400]
            assert set(replies[0].json) == {"error", "expected", "found", "fix"} and replies[0].json["fix"]
            assert "--skip-bad" not in replies[0].json["fix"], "a fix for who sent it"
            assert [run[2] for runs in network.runs for run in runs] == [2]

    run(work())


def test_a_decoder_that_dies_is_replaced(served: Served, tmp_path: Path) -> None:
    async def work() -> None:
        async with served() as client:
            assert (await client.post(make_image())).status == 200
            for child in client.app.service.decoder.pool._processes._waiting:
                child.process.kill()
                child.process.wait()
            assert (await client.post(make_image())).status == 200, "an image that did nothing gets a second child"

    run(work())
    deadly = ImageDecoder(ServiceLimits().image_limits(), count=1, seconds=PATIENCE)
    deadly.pool = WorkerPool(eval, "lambda item: __import__('os').abort()", count=1, timeout=PATIENCE)
    with pytest.raises(ImageReadError, match="signal 6"):
        deadly.decode(b"")
    deadly.close()
    (tmp_path / "once").touch()
    once = f"__import__('os').path.exists({str(tmp_path / 'once')!r})"
    dies = f"(__import__('os').unlink({str(tmp_path / 'once')!r}), __import__('os').abort())"
    unlucky = ImageDecoder(ServiceLimits().image_limits(), count=1, seconds=PATIENCE)
    unlucky.pool = WorkerPool(eval, f"lambda item: {dies} if {once} else 'pixels'", count=1, timeout=PATIENCE)
    assert unlucky.decode(b"") == "pixels", "killed in mid-work by somebody else: tried once more"
    unlucky.close()


def test_case_42_a_full_queue_says_when_to_come_again(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=1, max_concurrent_requests=2) as client:
            network.gate.clear()
            taken = [asyncio.create_task(client.post(make_image(i))) for i in (1, 2)]
            await until(lambda: client.app.service.in_flight == 2)
            before = client.sent
            refused = await client("POST", "/predict", make_image(3), {"expect": "100-continue"})
            assert refused is not None and refused.status == 503 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert client.sent == before, "refused before its body is read"
            assert (await client.get("/ready")).status == 503 and (await client.get("/health")).status == 200
            network.gate.set()
            assert [reply.status for reply in await asyncio.gather(*taken)] == [200, 200]
            assert (await client.get("/ready")).status == 200 and (await client.post(make_image(3))).status == 200

    run(work())


def test_case_43_equal_sizes_share_a_batch_and_mixed_ones_do_not(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=2) as client:
            network.gate.clear()
            first = asyncio.create_task(client.post(make_image(1)))
            await network.running()
            sizes = ((20, 30), (24, 30), (20, 30), (24, 30), (20, 30))
            others = []
            for number, size in enumerate(sizes):
                others.append(asyncio.create_task(client.post(make_image(number, *size))))
                await until(lambda so_far=number + 1: len(client.app.service.batcher._queue) == so_far)
            network.gate.set()
            assert (await first).status == 200
            for number, (size, reply) in enumerate(zip(sizes, await asyncio.gather(*others), strict=True)):
                pixels = np.asarray(Image.open(io.BytesIO(make_image(number, *size))))
                np.testing.assert_array_equal(labels_of(reply), pixels.argmax(axis=2))
            seen = [[run[:2] for run in runs] for runs in network.runs]
            assert seen == [[(20, 30)], [(20, 30)] * 2, [(24, 30)] * 2, [(20, 30)]]

    run(work())


def test_a_lone_image_does_not_wait_for_a_batch_to_fill(served: Served) -> None:
    async def work() -> None:
        async with served(batch=64) as client:
            assert (await client.post(make_image())).status == 200

    run(work())


def test_a_chain_goes_image_by_image(served: Served) -> None:
    """Images that cannot share a run do not wait for each other either."""
    network = GatedColors()
    predictor = Predictor(network, SPACE, post="close(3)")

    async def work() -> None:
        async with served(predictor=predictor, batch=4, wait_seconds=PATIENCE) as client:
            replies = await asyncio.gather(*(client.post(make_image(i)) for i in (1, 2)))
            for number, reply in enumerate(replies, 1):
                expected = predictor.predict(np.asarray(Image.open(io.BytesIO(make_image(number)))))
                np.testing.assert_array_equal(labels_of(reply), expected.labels)

    run(work())


def test_case_44_reload_under_load(served: Served) -> None:
    old, new = GatedColors(), GatedColors(shift=1)
    loads: list[Any] = [lambda: Predictor(new, SPACE)]

    async def work() -> None:
        async with served(old, batch=2, load=lambda: loads[-1]()) as client:
            service = client.app.service
            old.gate.clear()
            before = [asyncio.create_task(client.post(make_image(i))) for i in (1, 2, 3)]
            await until(lambda: len(service.batcher._queue) + len(old.runs) >= 1 and service.in_flight == 3)
            await until(lambda: sum(map(len, old.runs)) + len(service.batcher._queue) == 3)
            assert await service.reload()
            after = asyncio.create_task(client.post(make_image(1)))
            await until(lambda: service.in_flight == 4)
            old.gate.set()
            pixels = [np.asarray(Image.open(io.BytesIO(make_image(i)))) for i in (1, 2, 3)]
            for reply, image in zip(await asyncio.gather(*before), pixels, strict=True):
                np.testing.assert_array_equal(
                    labels_of(reply), image.argmax(axis=2), "taken by the old, answered by it"
                )
            found = labels_of(await after)
            np.testing.assert_array_equal(found, np.roll(pixels[0], 1, axis=2).argmax(axis=2))

            def broken() -> Predictor:
                raise DataError("half a model")

            sick = GatedColors()
            sick.labels = lambda images: (  # type: ignore[method-assign]
                np.zeros(images.shape[:3], np.uint8), np.full(images.shape[:3], np.nan, np.float32)
            )  # fmt: skip
            for bad in (broken, lambda: Predictor(sick, SPACE), lambda: 1 / 0):
                loads.append(bad)
                assert not await service.reload()
                np.testing.assert_array_equal(labels_of(await client.post(make_image(1))), found, "the old one goes on")
            text = (await client.get("/metrics")).body.decode()
            assert "segwright_reloads_total 1.0" in text and "segwright_failed_reloads_total 3.0" in text

    run(work())


# ---------------------------------------------------------------------------------------------------------------------
# What is refused, and what is said


def test_case_45_addresses_are_not_fetched(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def caught(*_: object) -> None:
        raise AssertionError("something was fetched")

    async def work() -> None:
        async with served() as client:
            assert (await client.post(make_image())).status == 200
            monkeypatch.setattr(socket.socket, "connect", caught)
            for body in (b"http://127.0.0.1:1/street.png", b"file:///etc/passwd", b"/etc/passwd"):
                reply = await client.post(body, content_type="application/octet-stream")
                assert reply.status == 400 and "root" not in reply.body.decode()
            for query in ("url=http://127.0.0.1:1/street.png", "path=/etc/passwd", "as=labels&image=x"):
                reply2 = await client("POST", f"/predict?{query}", make_image())
                assert reply2 is not None and reply2.status == 400 and "nothing is fetched" in reply2.json["fix"]

    run(work())


def test_case_46_labels_are_bounded_whatever_is_asked_for(served: Served) -> None:
    async def work() -> None:
        async with served() as client:
            for number in range(50):
                await client(f"COMMAND{number}", f"/made/up/{number}")
                await client("GET", f"/../../etc/{number}?{number}")
            await client.post(make_image())
            await client.post(b"no image")
            await client("DELETE", "/predict")
            text = (await client.get("/metrics")).body.decode()
            pairs = set(re.findall(r"segwright_requests_total\{(.*?)\}", text))
            assert pairs == {
                'route="other",status="4xx"', 'route="/predict",status="2xx"', 'route="/predict",status="4xx"',
            }  # fmt: skip
            assert set(re.findall(r'(\w+)="', text)) == {"route", "status", "le", "model"}
            assert set(re.findall(r'model="(.*?)"', text)) == {"colors"}

    run(work())


def test_hosts_methods_paths_and_other_sites(served: Served) -> None:
    async def work() -> None:
        async with served(hosts=LOOPBACK) as client:
            for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST.:1", "[::1]"):
                assert (await client.get("/health", host=host)).status == 200, host
            for host in ("rebound.example", "rebound.example:8000", "localhost.rebound.example", ""):
                reply = await client.get("/model", host=host)
                assert reply.status == 400 and "colors" not in reply.body.decode(), host
            refused = await client.post(make_image(), sec_fetch_site="cross-site")
            assert refused.status == 403
            assert (await client.post(make_image(), sec_fetch_site="same-origin")).status == 200
            put = await client("PUT", "/predict", make_image())
            assert put is not None and put.status == 405 and put.headers["allow"] == "POST"
            assert (await client.get("/predict")).status == 405
            assert (await client.get("/predict/")).status == 404
        async with served() as client:
            assert (await client.get("/health", host="street.example")).status == 200, "behind a proxy any name"

    run(work())


def test_the_page_fetches_nothing_and_runs_nothing_else(tmp_path: Path, served: Served) -> None:
    space = LabelSpace(("<script>alert(1)</script>", "thing", "other"))

    async def work() -> None:
        async with served(predictor=Predictor(GatedColors(), space)) as client:
            reply = await client.get("/")
            document, policy = reply.body.decode(), reply.headers["content-security-policy"]
            assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["server"] == "segwright"
            assert "<script>alert" not in document, "nothing of the model is in the document"
            assert not re.findall(r"https?://|src=\"//|@import|url\(", document), "self-contained"
            assert "'unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
            assert not re.findall(r"<style|<script>| style=", document), "nothing inline"
            for name in re.findall(r"(?:src|href)=\"(static/[^\"]+)\"", document):
                file = await client.get(f"/{name}")
                assert file.status == 200 and file.headers["x-content-type-options"] == "nosniff", name
            assert (await client.get("/static/page.py")).status == (await client.get("/static/")).status == 404
            answer = await client.post(make_image())
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]

    run(work())


def test_the_monitor_page_shows_the_journal_of_the_service(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with served() as client:
            reply = await client.get("/monitor")
            assert reply.status == 404 and "--journal" in reply.json["fix"]
        async with served(journal=JournalOptions(tmp_path)) as client:
            reply = await client.get("/monitor")
            assert reply.status == 200 and "cannot be examined yet" in reply.body.decode()
            for _ in range(10):
                assert (await client.post(make_image())).status == 200
            await asyncio.to_thread(wait_for_rows, 10)
            assert "cannot be examined yet" in (await client.get("/monitor")).body.decode(), "kept for a minute"
            monkeypatch.setattr(monitor_view, "FRESH_SECONDS", 0.0)
            first, second = await asyncio.gather(client.get("/monitor"), client.get("/monitor"))
            assert first.body == second.body, "one examination for both"
            document, policy = first.body.decode(), first.headers["content-security-policy"]
            assert first.status == 200 and first.headers["content-type"] == "text/html; charset=utf-8"
            assert "Versions of the model" in document and "no reference was given" in document
            assert "'unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert first.headers["cache-control"] == "no-store"
            for content in re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", document, re.S):
                digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy, "else the browser does not run it"

    def wait_for_rows(count: int) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(DataError):
                if len(read_journal(tmp_path).rows) >= count:
                    return
            time.sleep(0.05)
        raise AssertionError("no rows were written")

    run(work())


def test_the_openapi_document_describes_every_route_and_what_is_sent(served: Served) -> None:
    async def work() -> None:
        async with served() as client:
            document = (await client.get("/openapi.json")).json
            routes = set(client.app.paths) - {"/static/{name}"}  # files of the page
            assert document["openapi"].startswith("3.1") and set(document["paths"]) == routes
            for path in ("/", "/model", "/health", "/ready", "/metrics"):
                reply = await client.get(path)
                described = document["paths"][path]["get"]["responses"]["200"]["content"]
                assert reply.headers["content-type"].partition(";")[0] in described, path
            predict = document["paths"]["/predict"]["post"]
            formats = predict["parameters"][0]["schema"]["enum"]
            for form in formats:
                reply = await client.post(make_image(), form)
                assert reply.status == 200 and reply.headers["content-type"] in predict["responses"]["200"]["content"]
            schemas = document["components"]["schemas"]
            sent = (await client.post(make_image(), "json")).json
            on_request = {"quality", "mean_uncertainty", "mask", "uncertainty", "polygons"}
            assert set(sent) | on_request == set(schemas["Prediction"]["properties"])
            assert set(sent["classes"][0]) == set(schemas["Prediction"]["properties"]["classes"]["items"]["properties"])
            assert set((await client.get("/model")).json) == set(schemas["Model"]["properties"])
            refused = await client.post(b"no image")
            assert str(refused.status) in predict["responses"] and set(refused.json) == set(
                schemas["Error"]["required"]
            )
            for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
                assert reference in schemas

    run(work())


def test_former_names_of_limits_and_metrics_work_for_a_release(served: Served) -> None:
    with pytest.warns(DeprecationWarning, match="max_concurrent_requests"):
        limits = ServiceLimits(queue=7)
    assert limits.max_concurrent_requests == 7
    with pytest.warns(DeprecationWarning, match="max_concurrent_requests"):
        assert limits.queue == 7

    async def work() -> None:
        async with served() as client:
            await client.post(make_image())
            text = (await client.get("/metrics")).body.decode()
            for name in ("inflight_requests 0.0", "taken 0.0", "client_disconnects_total 0.0", "left_total 0.0"):
                assert f"segwright_{name}" in text

    run(work())


def test_limits_are_positive() -> None:
    for wrong in (
        {"max_concurrent_requests": 0},
        {"max_megabytes": -1.0},
        {"max_megapixels": float("nan")},
        {"batch": 0},
    ):
        with pytest.raises(UsageError):
            ServiceLimits(**wrong)


def test_what_the_batcher_took_is_finished_when_it_closes() -> None:
    network = GatedColors()
    network.gate.clear()
    predictor, batcher = Predictor(network, SPACE), Batcher(batch=1)
    jobs = [batcher.submit(predictor, np.full((4, 5, 3), value, np.uint8)) for value in (1, 2, 3)]
    assert network.entered.acquire(timeout=PATIENCE)
    assert not batcher.cancel(jobs[0]) and batcher.cancel(jobs[2])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    network.gate.set()
    closing.join(PATIENCE)
    assert jobs[1].future.result(0).labels.shape == (4, 5) and jobs[2].future.cancelled()
    assert not batcher.alive() and batcher.submit(predictor, np.zeros((4, 5, 3), np.uint8)).future.cancelled()


def test_any_asgi_server_starts_and_stops_it() -> None:
    app = create_app(Predictor(GatedColors(), SPACE))

    async def work() -> None:
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message["type"])

        answered: Awaitable[None] = app({"type": "lifespan"}, receive, send)
        await asyncio.wait_for(answered, PATIENCE)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(work())


# ---------------------------------------------------------------------------------------------------------------------
# Nobody waits for somebody else's image


def test_a_small_image_is_answered_between_the_windows_of_a_large_one() -> None:
    network = GatedColors()
    predictor, batcher = Predictor(network, SPACE), Batcher(batch=1)
    predictor.window = 128
    network.gate.clear()
    large = batcher.submit(predictor, np.full((400, 400, 3), 100, np.uint8))
    assert network.entered.acquire(timeout=PATIENCE), "its first window is under work"
    second = batcher.submit(predictor, np.full((300, 300, 3), 101, np.uint8))
    small = [batcher.submit(predictor, np.full((20, 30, 3), value, np.uint8)) for value in (1, 2)]
    network.gate.set()
    expected = Predictor(GatedColors(), SPACE).predict(np.full((400, 400, 3), 100, np.uint8)).labels
    np.testing.assert_array_equal(large.future.result(PATIENCE).labels, expected)
    assert second.future.result(PATIENCE).labels.shape == (300, 300)
    firsts = [runs[0][2] for runs in network.runs]
    assert firsts.index(1) == 1, "after the first window of the large one"
    assert all(job.future.result(PATIENCE).labels.shape == (20, 30) for job in small)
    batcher.close(PATIENCE)


def test_small_images_get_as_long_as_a_window_took_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Timed(GatedColors):
        now = 0.0

        def logits(self, images: UInt8Array) -> Float32Array:
            found = super().logits(images)
            self.now += 0.4 if images.shape[2] == 30 else 1.0
            return found

    network = Timed()
    monkeypatch.setattr("segwright.serving.batcher.time", SimpleNamespace(monotonic=lambda: network.now))
    predictor, batcher = Predictor(network, SPACE), Batcher(batch=1, wait=0.0)
    predictor.window = 128
    network.gate.clear()
    large = batcher.submit(predictor, np.full((400, 400, 3), 100, np.uint8))
    assert network.entered.acquire(timeout=PATIENCE), "its first window is under work"
    small = [batcher.submit(predictor, np.full((20, 30, 3), value, np.uint8)) for value in range(1, 8)]
    network.gate.set()
    assert large.future.result(PATIENCE).labels.shape == (400, 400)
    assert all(job.future.result(PATIENCE).labels.shape == (20, 30) for job in small)
    order = "".join("s" if runs[0][1] == 30 else "L" for runs in network.runs)
    assert order.startswith("LsssLsssLsL"), order
    batcher.close(PATIENCE)


def test_an_image_has_so_many_seconds_of_the_network() -> None:
    class Slow(GatedColors):
        def logits(self, images: UInt8Array) -> Float32Array:
            time.sleep(0.05)
            return super().logits(images)

    predictor, batcher = Predictor(Slow(), SPACE), Batcher(batch=1, seconds=0.12)
    predictor.window = 128
    large = batcher.submit(predictor, np.zeros((900, 900, 3), np.uint8))
    with pytest.raises(PredictTimeoutError, match="longer"):
        large.future.result(PATIENCE)
    assert len(predictor.runtime.runs) < 20, "the rest of its windows is not run"  # type: ignore[attr-defined]
    assert batcher.submit(predictor, np.zeros((20, 30, 3), np.uint8)).future.result(PATIENCE).labels.shape == (20, 30)
    batcher.close(PATIENCE)


def test_an_image_that_takes_too_long_is_answered_413_and_retry_after_follows_the_pixels(served: Served) -> None:
    network = GatedColors()

    async def work() -> None:
        async with served(network, batch=1, max_concurrent_requests=1, predict_seconds=1e-6) as client:
            client.app.service.model.predictor.window = 128
            reply = await client.post(make_image(1, 200, 200))
            assert reply.status == 413 and "windows" in reply.json["found"], reply.body
            service = client.app.service
            service._pixel_seconds, service.decoded_pixels = 1e-3, 200_000
            assert dict(service._overloaded("x").headers)["retry-after"] == "200", "what waits takes 200 s: not 60"
            service.decoded_pixels = 0

    run(work())


def test_a_large_image_that_nobody_waits_for_ends_after_its_window() -> None:
    network = GatedColors()
    predictor, batcher = Predictor(network, SPACE), Batcher(batch=1)
    predictor.window = 128
    network.gate.clear()
    large = batcher.submit(predictor, np.zeros((900, 900, 3), np.uint8))
    assert network.entered.acquire(timeout=PATIENCE)
    assert not batcher.cancel(large)
    network.gate.set()
    with pytest.raises(Exception):  # noqa: B017
        large.future.result(PATIENCE)
    assert len(network.runs) == 1
    batcher.close(PATIENCE)


def test_decoders_killed_from_outside_are_503_and_a_hang_ends_at_the_stated_second(served: Served) -> None:
    async def work() -> None:
        async with served() as client:
            client.app.service.decoder = killed
            reply = await client.post(make_image())
            assert reply.status == 503 and int(reply.headers["retry-after"]) > 0, reply.body

    killed = ImageDecoder(ServiceLimits().image_limits(), count=1, seconds=PATIENCE)
    kill = "lambda item: __import__('os').kill(__import__('os').getpid(), 9)"
    killed.pool = WorkerPool(eval, kill, count=1, timeout=PATIENCE)
    run(work())
    killed.close()
    hangs = ImageDecoder(ServiceLimits().image_limits(), count=1, seconds=0.5)
    hangs.pool = WorkerPool(eval, "lambda item: __import__('time').sleep(600)", count=1, timeout=0.5)
    for _ in range(2):  # a new child gets no longer
        hangs.pool._processes.give_back(hangs.pool._processes.take())
        began = time.monotonic()
        with pytest.raises(ImageReadError, match=r"0\.5 s"):
            hangs.decode(b"")
        assert time.monotonic() - began < 60, "not the 60 s more that starting once was given"
    hangs.close()


def test_a_description_of_odd_metrics_breaks_no_page(tmp_path: Path, served: Served) -> None:
    predictor = load(bundle(tmp_path / "model"), device="cpu")
    assert predictor.bundle is not None

    async def work() -> None:
        for odd in ([1, 2], "x", 3.5, None, {"a": {"b": [None]}}, {1: float("nan")}):
            object.__setattr__(predictor.bundle, "metrics", odd)
            object.__setattr__(predictor.bundle, "licenses", odd)
            async with served(predictor=predictor) as client:
                assert (await client.get("/model")).status == 200 and (await client.get("/")).status == 200, odd

    run(work())


def test_polygons_are_those_of_predict_and_share_their_edges(served: Served) -> None:
    predictor = Predictor(GatedColors(), SPACE, post="min-area(8)")
    expected = predictor.predict(np.asarray(Image.open(io.BytesIO(make_image()))))

    async def work() -> None:
        async with served(predictor=predictor) as client:
            reply = await client.post(make_image(), "geojson")
            assert reply.status == 200 and reply.headers["content-type"] == "application/geo+json"
            assert reply.json == json.loads(json.dumps(geojson(expected.labels, SPACE)))
            drawn = np.full(expected.labels.shape, 255, np.uint8)
            for feature in sorted(reply.json["features"], key=lambda one: -one["properties"]["pixels"]):
                for ring, value in zip(
                    feature["geometry"]["coordinates"], (feature["properties"]["index"], *[255] * 99), strict=False
                ):
                    inside = _inside(ring, drawn.shape)
                    drawn[inside] = np.where(value == 255, drawn[inside], value)
            assert (drawn != 255).all() and sum(f["properties"]["pixels"] for f in reply.json["features"]) == drawn.size
            whole = (await client.post(make_image(), "json&polygons=true&mask=true")).json
            assert whole["polygons"] == reply.json and "mask" in whole
            coarse = (await client.post(make_image(), "geojson&simplify=1.5")).json
            assert coarse == json.loads(json.dumps(geojson(expected.labels, SPACE, tolerance=1.5)))
            for wrong in (
                "labels&polygons=true", "json&simplify=1", "geojson&simplify=-1", "geojson&simplify=1001",
                "geojson&simplify=nan", "geojson&simplify=1e999", "geojson&simplify=", "json&polygons=1",
                "geojson&simplify=1&simplify=2", "geojson&simplify=\u0663",
            ):  # fmt: skip
                assert (await client.post(make_image(), wrong)).status == 400, wrong
            for right in ("0", "1000", "2.5577995380587", "1e1", "1E-7"):
                assert (await client.post(make_image(), f"geojson&simplify={right}")).status == 200, right

    run(work())


def _inside(ring: list[list[int]], shape: tuple[int, ...]) -> Any:
    """The pixels inside a ring of pixels' corners, by the crossings to the left of each center."""
    inside = np.zeros(shape, bool)
    for (x, top), (_, bottom) in itertools.pairwise(ring):
        if top != bottom:
            inside[min(top, bottom) : max(top, bottom), x:] ^= True
    return inside


def test_too_many_regions_for_polygons_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.serving.responses.MAX_REGIONS", 5)

    async def work() -> None:
        async with served() as client:
            reply = await client.post(make_image(), "geojson")
            assert reply.status == 413 and "min-area" in reply.json["fix"] and int(reply.json["found"]) > 5
            assert (await client.post(make_image(), "json&polygons=true")).status == 413
            assert (await client.post(make_image(), "labels")).status == 200 and client.app.service.in_flight == 0

    run(work())

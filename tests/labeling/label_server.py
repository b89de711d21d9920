"""A label page on a real port, in this process, with a network that takes no time."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np

from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array, write_image
from segwright.inference.predictor import Predictor
from segwright.labeling.page.app import LabelApplication
from segwright.labeling.page.server import open_label_page
from segwright.serving.http import LOOPBACK
from segwright.serving.server import bind, build_server

SPACE = LabelSpace(("road", "sky", "car", "tree"), ((128, 64, 128), (70, 130, 180), (0, 0, 142), (107, 142, 35)))
PATIENCE = 60.0


class Bands:
    """A network that gives horizontal bands of its classes, least certain on the right."""

    classes, in_channels = 4, 3

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        count, height, width = images.shape[:3]
        rows = (np.arange(height) * self.classes // height).astype(np.uint8)
        confidence = np.linspace(1.0, 0.3, width, dtype=np.float32)
        shape = (count, height, width)
        return np.broadcast_to(rows[None, :, None], shape).copy(), np.broadcast_to(confidence, shape).copy()

    def logits(self, images: UInt8Array) -> Float32Array:
        labels, confidence = self.labels(images)
        certain = np.clip(confidence, 0.3, 0.99)
        right = np.arange(self.classes)[None, :, None, None] == labels[:, None]
        height = np.log((self.classes - 1) * certain / (1 - certain))[:, None]
        return np.asarray(np.where(right, height, 0), np.float32)


def write_photos(folder: Path, count: int = 3, size: tuple[int, int] = (120, 160)) -> Path:
    """Blocks of colors with noise: superpixels have something to hold on to."""
    rng = np.random.default_rng(0)
    for number in range(count):
        blocks = rng.integers(0, 256, (-(-size[0] // 20), -(-size[1] // 20), 3), np.uint8)
        image = np.kron(blocks, np.ones((20, 20, 1), np.uint8))[: size[0], : size[1]]
        write_image(folder / f"photo{number}.png", image // 2 + rng.integers(0, 40, (*size, 3), np.uint8))
    return folder


class LabelServer:
    """The server in a thread; ``stop`` ends it as a signal does."""

    def __init__(
        self,
        photos: Path,
        *,
        model: bool = True,
        token: str | None = None,
        space: LabelSpace = SPACE,
        predictor: Predictor | None = None,
        **rest: Any,
    ) -> None:
        predictor = predictor or (Predictor(Bands(), space) if model else None)
        name = "bands" if model else None
        self.folder = photos.parent / f"{photos.name}-labels"
        self.service = open_label_page(photos, self.folder, space, predictor=predictor, model=name, **rest)
        self.sock, self.address = bind("127.0.0.1", 0)
        started = threading.Event()
        self.server = build_server(LabelApplication(self.service, LOOPBACK, token), started.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.sock],), daemon=True)
        self.thread.start()
        assert started.wait(PATIENCE)
        self.url = f"http://localhost:{self.address.port}/"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        connection = http.client.HTTPConnection("localhost", self.address.port, timeout=PATIENCE)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if data is None else {"content-type": "application/json"}
        connection.request(method, path, data, {**kind, **(headers or {})})
        answer = connection.getresponse()
        found = (answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def get(self, path: str) -> Any:
        status, _, body = self.request("GET", path)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def post(self, path: str, body: Any) -> Any:
        status, _, answer = self.request("POST", path, body)
        assert status == 200, (path, status, answer)
        return json.loads(answer)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

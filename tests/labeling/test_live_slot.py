"""A running service takes a promotion over: no request is lost, and every response is of one whole version."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slot_models import candidate, scores, tiny_model

import segwright as sw
from segwright.imageio import encode_png
from segwright.inference.lineage import bundle_id

PATIENCE = 240.0
pytest.importorskip("uvicorn")


def request(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    headers = {"content-type": "image/png"} if data is not None else {}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=PATIENCE) as response:
        return response.status, response.read()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never came"
        time.sleep(0.2)


def test_no_request_is_lost_while_a_version_is_promoted(tmp_path: Path) -> None:
    slot = tmp_path / "slot"
    sw.promote(tiny_model(tmp_path / "first", 1), slot)
    good = candidate(tmp_path / "good", tmp_path / "first", 2, new=scores("new", 0.4, 0.6), old=scores("old", 0.7, 0.7))
    command = [sys.executable, "-m", "segwright", "serve", str(slot), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as server:
        assert server.stdout is not None
        try:
            url = re.search(rb"http://\S+/", server.stdout.readline())
            assert url is not None
            _promote_under_load(url[0].decode(), slot, good, bundle_id(tmp_path / "first"))
        finally:
            server.terminate()
            server.wait(PATIENCE)


def _promote_under_load(url: str, slot: Path, good: Path, first: str) -> None:
    image = encode_png(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    seen: Counter[int | str] = Counter()
    answers: set[bytes] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                status, body = request(f"{url}predict", image)
                seen[status] += 1
                answers.add(body)
            except OSError as error:
                seen[str(error)] += 1

    def serves(id: str) -> bool:
        return bool(json.loads(request(f"{url}model")[1])["id"] == id)

    assert serves(first)
    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        sw.promote(good, slot)
        until(lambda: serves(bundle_id(good)))
        sw.promote(None, slot, back=True)
        until(lambda: serves(first))
    finally:
        over.set()
        for client in clients:
            client.join()
    assert set(seen) == {200} and seen[200] >= 6, seen
    assert len(answers) <= 2  # every response is of one whole version

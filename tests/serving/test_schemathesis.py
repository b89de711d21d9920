"""schemathesis against a live server, with and without API keys: every response is as the document describes it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_serving import SPACE, GatedColors

from segwright.inference.predictor import Predictor
from segwright.serving.app import create_app
from segwright.serving.keys import KeyRing, create_key
from segwright.serving.limits import ServiceLimits
from segwright.serving.models import ModelSource
from segwright.serving.server import bind, build_server

PATIENCE = 300.0
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"
)


@contextmanager
def live(keys: Path | None) -> Iterator[int]:
    """The port of a service of two models, in a thread."""

    def source(name: str, shift: int) -> tuple[ModelSource, Predictor]:
        return ModelSource(name, lambda: Predictor(GatedColors(shift), SPACE)), Predictor(GatedColors(shift), SPACE)

    (first, predictor), other = source("street", 0), source("fields", 1)
    app = create_app(
        predictor, ServiceLimits(max_megapixels=0.05), source=first, others=[other],
        keys=None if keys is None else KeyRing(keys),
    )  # fmt: skip
    sock, address = bind("127.0.0.1", 0)
    started = threading.Event()
    server = build_server(app, started.set)
    thread = threading.Thread(target=lambda: asyncio.run(server._serve([sock])), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield address.port
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def examine(port: int, folder: Path, examples: int, *more: str) -> None:
    """``folder`` gets what schemathesis keeps for another run."""
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", "all",
            "--max-examples", str(examples), "--seed", "1", "--no-color", "--request-timeout", "120",
            "--continue-on-failure", "--suppress-health-check", "all", *more,
        ],
        capture_output=True, text=True, errors="replace", timeout=PATIENCE * examples,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)},
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("with_keys", [False, True])
def test_schemathesis_finds_nothing(tmp_path: Path, with_keys: bool) -> None:
    _run(tmp_path, with_keys, 100)


def test_schemathesis_finds_nothing_in_a_short_pass(tmp_path: Path) -> None:
    _run(tmp_path, True, 1, "--phases", "examples,coverage")


def _run(folder: Path, with_keys: bool, examples: int, *more: str) -> None:
    keys, headers = None, list[str]()
    if with_keys:
        keys = folder / "keys.json"
        key = create_key(keys, "schemathesis", may_reload=True)
        headers = ["--header", f"Authorization: Bearer {key}"]
    with live(keys) as port:
        examine(port, folder, examples, *headers, *more)

"""Pretrained weights over a loopback host: reached, silent, refusing, lying; and what is remembered of it."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save

from segwright.core.errors import WeightsError
from segwright.models.catalog import create_model
from segwright.models.encoders import pretrained as weights_module
from segwright.models.encoders.pretrained import reachable

ENCODER = "resnet10t"


class Host(ThreadingHTTPServer):
    """Serves ``files`` (path → bytes), breaks off those in ``broken``, and counts what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        failing = body and self.path in self.server.broken
        self.send_response(404 if content is None else 500 if failing else 200)
        if content is not None and not failing:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        content = b"" if content is None or failing else content
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    """A loopback host in place of Hugging Face's, and empty caches."""
    import huggingface_hub.constants as constants

    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    forget()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    forget()


def forget() -> None:
    reachable.cache_clear()
    weights_module.SILENT_HOSTS.clear()


def file_of(encoder: str) -> str:
    return f"/{timm.models.get_pretrained_cfg(encoder).hf_hub_id}/resolve/main/model.safetensors"


def test_auto_takes_the_weights_of_a_host_that_answers(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    source = timm.create_model(ENCODER)
    host.files[file_of(ENCODER)] = save(source.state_dict())
    model = create_model("unet", classes=2, encoder=ENCODER)
    assert model.provenance.pretrained and model.provenance.source in capsys.readouterr().err
    assert torch.equal(model.encoder.model.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    asked = len(host.asked)
    again = create_model("unet", classes=2, encoder=ENCODER, weights="imagenet")
    assert again.provenance.pretrained and len(host.asked) == asked  # from the cache: nobody is asked


def test_a_host_without_the_file_is_said_and_is_asked_for_others(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("unet", classes=2, encoder=ENCODER)
    assert not model.provenance.pretrained and "random initialization" in capsys.readouterr().err
    host.files["/other"] = b"1"
    assert reachable(f"{host.url}/other")
    with pytest.raises(WeightsError, match="no pretrained weights"):
        create_model("unet", classes=2, encoder=ENCODER, weights="imagenet")


@pytest.mark.parametrize("how", ["refused", "library"])
def test_a_download_that_fails_half_way_leaves_auto_from_scratch(
    how: str, host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.files[file_of(ENCODER)] = b"x"
    host.broken.add(file_of(ENCODER))
    if how == "library":  # such as httpx.ReadTimeout, which is no OSError

        class Timeout(Exception):
            pass

        def broken(*_: Any, **__: Any) -> str:
            raise Timeout("read timed out")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    model = create_model("unet", classes=2, encoder=ENCODER)
    assert not model.provenance.pretrained and "download failed" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="no pretrained weights"):
        create_model("unet", classes=2, encoder=ENCODER, weights="imagenet")


def test_a_closed_port_is_known_at_once_and_remembered(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    start = time.monotonic()
    assert not create_model("unet", classes=2, encoder=ENCODER).provenance.pretrained
    with pytest.raises(WeightsError, match="did not answer"):
        create_model("unet", classes=2, encoder=ENCODER, weights="imagenet")
    assert time.monotonic() - start < weights_module.REACH_SECONDS
    assert {closed.removeprefix("http://")} == weights_module.SILENT_HOSTS


def test_a_silent_host_is_waited_for_once() -> None:
    forget()
    with socket.socket() as silent:  # takes connections, never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        assert not reachable(f"{url}/first", 0.3)
        waited = time.monotonic() - start
        assert 0.25 < waited < 5
        start = time.monotonic()
        assert not reachable(f"{url}/second", 30.0)
        assert time.monotonic() - start < 10  # of the 30 that a host that was not asked yet would get
    forget()


def test_torchvision_files_are_checked_by_their_hash(host: Host, tmp_path: Path) -> None:
    content = b"weights" * 100
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name in (f"net-{digest}.pth", "net-01234567.pth"):
        host.files[f"/{name}"] = content
    found = weights_module._torch_cache(f"{host.url}/net-{digest}.pth")
    assert found.read_bytes() == content and found.is_relative_to(tmp_path)
    with pytest.raises(OSError, match="hash"):
        weights_module._torch_cache(f"{host.url}/net-01234567.pth")
    assert not (found.parent / "net-01234567.pth").exists()
    asked = len(host.asked)
    assert weights_module._torch_cache(f"{host.url}/net-{digest}.pth") == found and len(host.asked) == asked

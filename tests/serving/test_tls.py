"""Certificates that cannot be used end in a typed error before anything is loaded; good ones serve HTTPS."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from test_server import PATIENCE, Dark, rest

import segwright as sw
from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.inference.predictor import Predictor
from segwright.serving.app import create_app
from segwright.serving.limits import ServiceLimits
from segwright.serving.server import bind, build_server
from segwright.serving.tls import TlsFiles, tls_files

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_certificate(folder: Path, name: str, *more: str, days: int = 90) -> TlsFiles:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out",
        certificate, "-days", days, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        *more,
    )  # fmt: skip
    return TlsFiles(certificate, key)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"), "good")


def test_unusable_files_are_refused_with_the_reason(tmp_path: Path, good: TlsFiles) -> None:
    other = make_certificate(tmp_path, "other")
    old = make_certificate(tmp_path, "old", days=-1) if _takes_negative_days(tmp_path) else None
    (tmp_path / "empty.pem").write_bytes(b"")
    (tmp_path / "text.pem").write_text("-----BEGIN CERTIFICATE-----\nno base64\n-----END CERTIFICATE-----\n")
    openssl("pkey", "-in", other.key, "-aes128", "-passout", "pass:secret", "-out", tmp_path / "locked.key")
    client_only = make_certificate(tmp_path, "client", "-addext", "extendedKeyUsage=clientAuth")
    cases = [
        (TlsFiles(good.certificate, other.key), "does not belong"),
        (TlsFiles(tmp_path / "none.pem", good.key), "certificate cannot be read"),
        (TlsFiles(good.certificate, tmp_path / "none.key"), "key cannot be read"),
        (TlsFiles(tmp_path, good.key), "not a file|cannot be read"),
        (TlsFiles(tmp_path / "empty.pem", good.key), "cannot be used"),
        (TlsFiles(tmp_path / "text.pem", good.key), "cannot be used"),
        (TlsFiles(good.key, good.certificate), "cannot be used"),
        (TlsFiles(other.certificate, tmp_path / "locked.key"), "encrypted"),
        (client_only, "not one for a server"),
        *([(old, "has expired")] if old is not None else []),
    ]
    for files, expected in cases:
        with pytest.raises(UsageError, match=expected):
            files.context()
    with pytest.raises(UsageError, match="does not belong"):  # before the model is looked at
        sw.serve(tmp_path / "no model" / "x", port=0, tls_cert=good.certificate, tls_key=other.key)
    for certificate, key in ((good.certificate, None), (None, good.key)):
        with pytest.raises(UsageError, match="certificate and its key"):
            tls_files(certificate, key)
    assert tls_files(None, None) is None


def _takes_negative_days(folder: Path) -> bool:
    try:
        make_certificate(folder, "probe", days=-1)
    except subprocess.CalledProcessError:  # newer versions of openssl refuse to make an expired one
        return False
    return True


def test_a_certificate_that_ends_soon_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_certificate(tmp_path, "short", days=3).context()
    assert "expires in" in caplog.text


def test_it_serves_https_and_takes_a_renewed_certificate(tmp_path: Path, good: TlsFiles) -> None:
    files = TlsFiles(tmp_path / "own.pem", tmp_path / "own.key")
    shutil.copy(good.certificate, files.certificate)
    shutil.copy(good.key, files.key)
    renewed = make_certificate(tmp_path, "renewed")

    async def ask(port: int, trusted: Path) -> bytes:
        client = ssl.create_default_context(cafile=str(trusted))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await rest(reader)
        writer.close()
        return answer

    async def work() -> None:
        app = create_app(Predictor(Dark(), LabelSpace(("a", "b"))), ServiceLimits(header_seconds=1.0))
        ready, context = asyncio.Event(), files.context()
        sock, address = bind("127.0.0.1", 0)
        server = build_server(app, ready.set, tls=context)
        serving = asyncio.create_task(server._serve([sock]))
        await asyncio.wait_for(ready.wait(), PATIENCE)
        try:
            assert (await ask(address.port, good.certificate)).startswith(b"HTTP/1.1 200 OK")
            reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" not in await rest(reader), "nothing without TLS"
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
            assert await rest(reader) == b"", "a handshake that never begins ends with the limit of headers"
            writer.close()
            files.certificate.write_bytes(b"half")
            assert not files.reload(context)
            assert (await ask(address.port, good.certificate)).startswith(b"HTTP/1.1 200 OK"), "the old one stays"
            shutil.copy(renewed.certificate, files.certificate)
            shutil.copy(renewed.key, files.key)
            assert files.reload(context)
            assert (await ask(address.port, renewed.certificate)).startswith(b"HTTP/1.1 200 OK")
            with pytest.raises(ssl.SSLError):
                await ask(address.port, good.certificate)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE)

    asyncio.run(work())

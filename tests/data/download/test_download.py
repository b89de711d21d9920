"""Downloads from a server on loopback that breaks off, lies and serves traps; and the traps unpacked by themselves."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from trees import make_image, mask

from segwright.core.atomic_io import lock_folder
from segwright.core.errors import DownloadError, OutputError, UsageError
from segwright.data.dataset import open_dataset
from segwright.data.download.catalog import CATALOG, Archive, DatasetEntry
from segwright.data.download.fetch import fetch, get
from segwright.data.download.unpack import UnpackLimits, unpack
from segwright.data.formats import FORMATS

BODY = random.Random(0).randbytes(700_000)
MD5 = hashlib.md5(BODY).hexdigest()


@dataclass
class Server:
    """What the server does to each request in turn; the last behavior stays."""

    url: str = ""
    body: bytes = BODY
    etag: str = '"one"'
    behaviors: list[str] = field(default_factory=lambda: ["good"])
    requests: list[dict[str, str]] = field(default_factory=list)

    def plan(self, *behaviors: str) -> None:
        self.behaviors, self.requests = list(behaviors), []


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        plan: Server = self.server.plan
        plan.requests.append(dict(self.headers))
        behavior = plan.behaviors.pop(0) if len(plan.behaviors) > 1 else plan.behaviors[0]
        getattr(self, f"_{behavior}")(plan)
        self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _part(self, plan: Server) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, data) as a proper server answers, ranges and If-Range included."""
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == plan.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            rest = plan.body[start:]
            span = f"bytes {start}-{len(plan.body) - 1}/{len(plan.body)}"
            return 206, {"Content-Range": span, "Content-Length": str(len(rest)), "ETag": plan.etag}, rest
        return 200, {"Content-Length": str(len(plan.body)), "ETag": plan.etag}, plan.body

    def _good(self, plan: Server) -> None:
        self._send(*self._part(plan))

    def _break(self, plan: Server) -> None:
        status, headers, data = self._part(plan)
        self._send(status, headers, data[: len(data) // 3])

    def _silent(self, plan: Server) -> None:
        self.connection.close()

    def _busy(self, plan: Server) -> None:
        self._send(503, {"Content-Length": "0"})

    def _gone(self, plan: Server) -> None:
        self._send(404, {"Content-Length": "0"})

    def _norange(self, plan: Server) -> None:
        self._send(200, {"Content-Length": str(len(plan.body))}, plan.body)

    def _wrongpart(self, plan: Server) -> None:
        span = f"bytes 5-{len(plan.body) - 1}/{len(plan.body)}"
        self._send(206, {"Content-Range": span, "Content-Length": str(len(plan.body) - 5)}, plan.body[5:])

    def _unsatisfied(self, plan: Server) -> None:
        self._send(416, {"Content-Range": f"bytes */{len(plan.body)}", "Content-Length": "0"})

    def _tooshort(self, plan: Server) -> None:
        """Says it has less than it sends."""
        self._send(200, {"Content-Length": str(len(plan.body) // 2)}, plan.body)

    def _endless(self, plan: Server) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(4000):
                self.wfile.write(plan.body[:100_000])
        except OSError:
            pass

    def _huge(self, plan: Server) -> None:
        self._send(200, {"Content-Length": str(10**15)}, b"x")

    def _recoded(self, plan: Server) -> None:
        data = gzip.compress(plan.body)
        self._send(200, {"Content-Encoding": "gzip", "Content-Length": str(len(data))}, data)

    def _tofile(self, plan: Server) -> None:
        self._send(302, {"Location": "file:///etc/hostname", "Content-Length": "0"})

    def _toftp(self, plan: Server) -> None:
        self._send(302, {"Location": "ftp://127.0.0.1/x", "Content-Length": "0"})

    def _circle(self, plan: Server) -> None:
        self._send(302, {"Location": self.path, "Content-Length": "0"})

    def _onward(self, plan: Server) -> None:
        self._send(302, {"Location": "/elsewhere", "Content-Length": "0"})


@pytest.fixture
def server() -> Iterator[Server]:
    plan = Server()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.plan = plan  # type: ignore[attr-defined]
    plan.url = f"http://127.0.0.1:{httpd.server_port}/data.bin"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield plan
    httpd.shutdown()
    httpd.server_close()


def load(server: Server, path: Path, **more: Any) -> Path:
    return fetch(server.url, path, pause=lambda seconds: None, timeout=5.0, **more)


def test_whole(server: Server, tmp_path: Path) -> None:
    path = load(server, tmp_path / "x.bin", md5=MD5, about=len(BODY))
    assert path.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"], "nothing partial stays"
    load(server, tmp_path / "x.bin", md5=MD5)
    assert len(server.requests) == 1, "what is there and right is not fetched again"


def test_resumes_after_breaks(server: Server, tmp_path: Path) -> None:
    server.plan("break", "silent", "busy", "break", "good")
    assert load(server, tmp_path / "x.bin", md5=MD5).read_bytes() == BODY
    ranges = [request.get("Range") for request in server.requests]
    third = len(BODY) // 3
    assert ranges[0] is None and ranges[1:4] == [f"bytes={third}-"] * 3
    assert server.requests[-1]["If-Range"] == '"one"'


def test_resumes_in_a_later_run(server: Server, tmp_path: Path) -> None:
    server.plan("break", "busy")
    with pytest.raises(DownloadError, match="again and again"):
        load(server, tmp_path / "x.bin", attempts=2)
    assert (tmp_path / "x.bin.part").stat().st_size == len(BODY) // 3
    server.plan("good")
    assert load(server, tmp_path / "x.bin", md5=MD5).read_bytes() == BODY
    assert server.requests[0]["Range"] == f"bytes={len(BODY) // 3}-"


def test_starts_again_when_the_file_changed(server: Server, tmp_path: Path) -> None:
    server.plan("break", "busy")
    with pytest.raises(DownloadError):
        load(server, tmp_path / "x.bin", attempts=1)
    server.body, server.etag = BODY[::-1], '"two"'
    server.plan("good")
    assert load(server, tmp_path / "x.bin").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("answer", ["norange", "wrongpart", "unsatisfied"])
def test_servers_that_do_not_resume(server: Server, tmp_path: Path, answer: str) -> None:
    server.plan("break", answer, "good")
    assert load(server, tmp_path / "x.bin", md5=MD5).read_bytes() == BODY


def test_lies_about_the_length(server: Server, tmp_path: Path) -> None:
    server.plan("tooshort")
    with pytest.raises(DownloadError, match="not the published one"):
        load(server, tmp_path / "x.bin", md5=MD5)
    assert list(tmp_path.iterdir()) == [], "a wrong file is not kept, for resuming would keep it wrong"
    server.plan("huge")
    with pytest.raises(DownloadError, match="far more than"):
        load(server, tmp_path / "x.bin", about=len(BODY))
    server.plan("endless")
    with pytest.raises(DownloadError, match="far more than"):
        load(server, tmp_path / "x.bin", about=len(BODY))
    server.plan("huge")
    with pytest.raises(DownloadError, match="no room"):
        load(server, tmp_path / "x.bin")


def test_wrong_bytes(server: Server, tmp_path: Path) -> None:
    server.body = BODY[:-1] + b"?"
    with pytest.raises(DownloadError, match=MD5):
        load(server, tmp_path / "x.bin", md5=MD5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [("gone", "404"), ("recoded", "gzip"), ("tofile", "file:///etc"), ("toftp", "ftp://"), ("circle", "30[0-9]")],
)
def test_refusals_are_final(server: Server, tmp_path: Path, answer: str, message: str) -> None:
    server.plan(answer)
    with pytest.raises(DownloadError, match=message):
        load(server, tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


def test_honest_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.plan("onward", "good")
    assert load(server, tmp_path / "x.bin", md5=MD5).read_bytes() == BODY


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://x/y", "data:,x", "/etc/hostname"])
def test_other_schemes(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="http"):
        fetch(url, tmp_path / "x")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="again and again"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", attempts=2, pause=lambda seconds: None)


# Unpacking


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def make_zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name) if name.endswith("/") else name, data)
    return path


def zip_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "../../outside")
    return path


def zip_overlapping(path: Path) -> Path:
    """Many names for one body: the better zip bomb's trick, by copying directory entries."""
    make_zip(path, [("x", b"\0" * 2_000_000)])
    with zipfile.ZipFile(path, "a") as archive:
        only = archive.infolist()[0]
        for i in range(400):
            twin = zipfile.ZipInfo(f"x{i}")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type", "flag_bits"):
                setattr(twin, name, getattr(only, name))
            twin.orig_filename = "x"
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True  # type: ignore[attr-defined]
    return path


TRAPS: dict[str, Callable[[Path], Path]] = {
    "climbing.zip": lambda p: make_zip(p, [("ok", b"x"), ("../evil", b"x")]),
    "deep.zip": lambda p: make_zip(p, [("a/b/../../../evil", b"x")]),
    "absolute.zip": lambda p: make_zip(p, [("/tmp/evil", b"x")]),
    "drive.zip": lambda p: make_zip(p, [("C:/evil", b"x")]),
    "backslash.zip": lambda p: make_zip(p, [("..\\evil", b"x")]),
    "link.zip": zip_link,
    "bomb.zip": lambda p: make_zip(p, [("zeros", b"\0" * 5_000_000)]),
    "overlapping.zip": zip_overlapping,
    "twice.zip": lambda p: make_zip(p, [("a", b"1"), ("./a", b"2")]),
    "filefolder.zip": lambda p: make_zip(p, [("a", b"1"), ("a/b", b"2")]),
    "empty.zip": lambda p: make_zip(p, [("a/", b"")]),
    "climbing.tar": lambda p: make_tar(p, [(member("../evil"), b"x")]),
    "absolute.tar": lambda p: make_tar(p, [(member("/tmp/evil"), b"x")]),
    "symlink.tar": lambda p: make_tar(p, [(member("a", tarfile.SYMTYPE, ".."), b""), (member("a/evil"), b"x")]),
    "inside.tar": lambda p: make_tar(p, [(member("b"), b"x"), (member("a", tarfile.SYMTYPE, "b"), b"")]),
    "hardlink.tar": lambda p: make_tar(p, [(member("a", tarfile.LNKTYPE, "/etc/passwd"), b"")]),
    "device.tar": lambda p: make_tar(p, [(member("a", tarfile.CHRTYPE), b"")]),
    "fifo.tar": lambda p: make_tar(p, [(member("a", tarfile.FIFOTYPE), b"")]),
    "bomb.tar.gz": lambda p: make_tar(p, [(member("zeros"), b"\0" * 5_000_000)], "w:gz"),
    "bomb.tar.xz": lambda p: make_tar(p, [(member("zeros"), b"\0" * 5_000_000)], "w:xz"),
    "header.tar.gz": lambda p: make_tar(p, [(member("n" * 20_000_000), b"x")], "w:gz"),
    "many.tar": lambda p: make_tar(p, [(member(f"f{i}"), b"") for i in range(600)]),
    "junk.tar": lambda p: (p.write_bytes(b"not an archive" * 99), p)[1],
    "cut.tar.gz": lambda p: (make_tar(p, [(member("a"), BODY)], "w:gz"), os.truncate(p, 300_000), p)[2],
    "cut.zip": lambda p: (make_zip(p, [("a", BODY)]), os.truncate(p, 300_000), p)[2],
    "nothing": lambda p: (p.touch(), p)[1],
}


@pytest.mark.parametrize("name", list(TRAPS))
def test_traps_are_refused_and_leave_nothing(tmp_path: Path, name: str) -> None:
    archive = TRAPS[name](tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("stays")
    with pytest.raises(DownloadError, match=name.replace(".", r"\.")):
        unpack(archive, out, limits=UnpackLimits(max_files=500, always_allowed=1_000_000))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out"])
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_honest_archives(tmp_path: Path) -> None:
    files = [("top/a.txt", b"1"), ("top/sub/b.txt", b"2" * 100_000), ("other/c.txt", b"3")]
    archives = [make_zip(tmp_path / "x.zip", [("top/", b""), *files])]
    for ending, mode in (("tar", "w:"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")):
        members = [(member("./" + n), d) for n, d in files]
        archives.append(make_tar(tmp_path / f"x.{ending}", [(member("top", tarfile.DIRTYPE), b""), *members], mode))
    for archive in archives:
        out = tmp_path / f"out-{archive.name}"
        assert unpack(archive, out) == 3
        assert (out / "top/sub/b.txt").read_bytes() == b"2" * 100_000
        assert unpack(archive, out / "kept", keep="top") == 2
        assert (out / "kept/sub/b.txt").exists() and not (out / "kept/c.txt").exists()
    with pytest.raises(DownloadError, match="no file"):
        unpack(archives[0], tmp_path / "none", keep="absent")


# The whole


def small_camvid(root: Path) -> bytes:
    for i in range(3):
        make_image(root / "CamVid/train" / f"0001TP_00{i}.png")
        mask(root / "CamVid/trainannot" / f"0001TP_00{i}.png", [0, 11])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, f"Repo-1/{path.relative_to(root)}")
    return buffer.getvalue()


def entry(server: Server) -> dict[str, DatasetEntry]:
    remote = Archive(server.url, "c.zip", len(server.body), hashlib.md5(server.body).hexdigest(), keep="Repo-1/CamVid")
    return {"mini": DatasetEntry("mini", "Mini", (remote,), "camvid", "be kind", "http://home")}


def test_get(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.body = small_camvid(tmp_path / "made")
    asked: list[str] = []
    out = get("mini", tmp_path / "out", catalog=entry(server), ask=lambda q: not asked.append(q))
    assert asked and "be kind" in capsys.readouterr().err
    data = open_dataset(out)
    assert data.format == "camvid" and len(data) == 3
    assert "be kind" in (out / "LICENSE-NOTICE.txt").read_text()
    assert sorted(p.name for p in (out / ".download").iterdir()) == [".lock", "done.json"], "the archive is gone"


def test_get_twice_is_one_download(server: Server, tmp_path: Path) -> None:
    server.body = small_camvid(tmp_path / "made")
    for _ in range(2):
        get("mini", tmp_path / "out", catalog=entry(server), yes=True)
    assert len(server.requests) == 1
    shutil.rmtree(tmp_path / "out" / "train")
    get("mini", tmp_path / "out", catalog=entry(server), yes=True)
    assert len(server.requests) == 2 and len(open_dataset(tmp_path / "out")) == 3, "what was deleted comes again"
    for broken in ("[]", '["x"]', "{", '{"x": 1}', "\udcff"):
        (tmp_path / "out/.download/done.json").write_bytes(broken.encode(errors="surrogateescape"))
        get("mini", tmp_path / "out", catalog=entry(server), yes=True)
    assert len(server.requests) == 7


def test_two_downloads_into_one_folder_do_not_meet(server: Server, tmp_path: Path) -> None:
    server.body = small_camvid(tmp_path / "made")
    with lock_folder(tmp_path / "out/.download"), pytest.raises(UsageError, match="folder"):
        get("mini", tmp_path / "out", catalog=entry(server), yes=True)
    assert server.requests == []
    get("mini", tmp_path / "out", catalog=entry(server), yes=True)


@pytest.mark.parametrize("name", [".download/done.json", "LICENSE-NOTICE.txt", "./.Download/x", "license-notice.TXT"])
def test_an_archive_brings_no_notes_of_the_download(server: Server, tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"Repo-1/CamVid/{name}", b"free for all")
        archive.writestr("Repo-1/CamVid/a.txt", b"1")
    server.body = buffer.getvalue()
    with pytest.raises(DownloadError, match="itself writes"):
        get("mini", tmp_path / "out", catalog=entry(server), yes=True)
    assert not (tmp_path / "out/LICENSE-NOTICE.txt").exists() and not (tmp_path / "out/a.txt").exists()


def test_get_into_a_place_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    server.body = small_camvid(tmp_path / "made")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file exists in place of a folder"):
        get("mini", tmp_path / "file/out", catalog=entry(server), yes=True)


def test_get_asks_first(server: Server, tmp_path: Path) -> None:
    server.body = small_camvid(tmp_path / "made")
    with pytest.raises(UsageError, match="not agreed"):
        get("mini", tmp_path / "out", catalog=entry(server), ask=lambda q: False)
    with pytest.raises(UsageError, match="--yes"):
        get("mini", tmp_path / "out", catalog=entry(server))
    assert server.requests == [] and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="mini"):
        get("maxi", tmp_path / "out", catalog=entry(server))


def test_get_goes_on_after_the_last_whole_archive(server: Server, tmp_path: Path) -> None:
    server.body = small_camvid(tmp_path / "made")
    one = entry(server)["mini"].files[0]
    two = Archive(server.url.replace("data", "gone"), "two.zip", 10, None)
    both = {"mini": DatasetEntry("mini", "Mini", (one, two), "camvid", "be kind", "http://home")}
    server.plan("good", "gone")
    with pytest.raises(DownloadError, match="404"):
        get("mini", tmp_path / "out", catalog=both, yes=True)
    server.plan("good")
    get("mini", tmp_path / "out", catalog=both, yes=True)
    assert len(server.requests) == 1, "the first archive is not fetched again"
    assert len(open_dataset(tmp_path / "out")) == 3


def test_the_catalog_is_whole() -> None:
    assert {"camvid", "voc2012", "sbd", "coco-stuff", "ade20k", "oxford-pets"} <= set(CATALOG)
    for name, found in CATALOG.items():
        assert name == found.name and found.license and found.homepage.startswith("http") and found.format in FORMATS
        for remote in found.files:
            assert remote.url.startswith("http") and remote.bytes > 10**6 and "/" not in remote.file
            assert remote.md5 is None or len(remote.md5) == 32

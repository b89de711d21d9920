"""Tars of strangers: what Python writes is read alike, and no header's claim is believed."""

from __future__ import annotations

import io
import random
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from segwright.core.errors import DownloadError, FormatError
from segwright.data import tar_headers
from segwright.data.dataset import open_dataset
from segwright.data.download.unpack import unpack
from segwright.data.tar_headers import BLOCK, TarHeaderError, entries
from segwright.imageio import encode_png


def header(name: bytes = b"x", kind: bytes = b"0", size: bytes | int = 0) -> bytes:
    """A block with a sum that fits, whatever its fields say."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"0" * 11 + b"\0" + b" " * 8)
    block += kind + bytes(100) + b"ustar\x0000"
    block += bytes(BLOCK - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary(number: int) -> bytes:
    return (number % 2**96).to_bytes(12, "big") if number < 0 else b"\x80" + number.to_bytes(11, "big")


def payload(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def read(data: bytes, known: bool = True) -> list[tuple[str, str, int, int]]:
    found = entries(io.BytesIO(data), len(data) if known else None)
    return [(entry.name, entry.kind, entry.offset, entry.size) for entry in found]


NAMES = ("a.txt", "d/b.png", "é/ü.jpg", "x" * 99, "l" * 100, "d/" * 40 + "f.txt", "p" * 150 + "/" + "q" * 90,
         "n" * 300, "a b=c\nd.txt", "very/" * 60 + "end")  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read_as_python_reads_it(form: int) -> None:
    rng = random.Random(form)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers={"comment": "made by a test"}) as archive:
        for place, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size = rng.choice((0, 1, 511, 512, 513, 5000))
            info.mtime = 1.5 if form == tarfile.PAX_FORMAT else 1
            if place == 3:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "t" * 90, 0
            if place == 5:
                info.type, info.size = tarfile.DIRTYPE, 0
            try:
                archive.addfile(info, io.BytesIO(rng.randbytes(info.size)))
            except ValueError:  # the oldest form has no long names
                assert form == tarfile.USTAR_FORMAT
    data = out.getvalue()
    kinds = {tarfile.SYMTYPE: "a link", tarfile.DIRTYPE: "folder", tarfile.REGTYPE: "file"}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        wanted = [(info.name, kinds[info.type], info.offset_data, info.size) for info in archive]
    assert read(data) == wanted and read(data, known=False) == wanted and len(wanted) >= 7
    bare = data[: wanted[-1][2] + wanted[-1][3]]  # without the filling and the end
    assert read(bare) == wanted and read(bare, known=False) == wanted


HOSTILE = {
    "a payload of gigabytes": header(kind=b"x", size=2 << 30) + bytes(4096),
    "a long name of gigabytes": header(kind=b"L", size=2 << 30) + bytes(4096),
    "a long link of gigabytes": header(kind=b"K", size=binary(1 << 50)) + bytes(4096),
    "global ones": header(kind=b"g", size=2 << 30) + bytes(4096),
    "a negative size": header(b"a", size=0) + header(b"b", size=binary(-1024)) + bytes(4096),
    "a minus": header(b"a", size=0) + header(b"b", size=b"-0000002000\0") + bytes(4096),
    "a negative size in a record": header(kind=b"x", size=14) + payload(b"14 size=-1024\n") + header() + bytes(1024),
    "a size beyond the file": header(b"a", size=binary(1 << 60)) + bytes(4096),
    "a size of many digits": header(kind=b"x", size=912) + payload(b"912 size=" + b"9" * 902 + b"\n") + header() * 2,
    "records within records": header(kind=b"x", size=600_001) + payload(b"2 " * 300_000 + b"=") + header(b"b"),
    "digits without end": header(kind=b"x", size=1_000_000) + payload(b"1" * 1_000_000) + header(b"b"),
    "spaces without end": header(kind=b"x", size=1_000_000) + payload(b"9 " + b" " * 999_998) + header(b"b"),
    "a chain of headers": (header(kind=b"x", size=10) + payload(b"10 path=ab")) * 5000 + header(b"b"),
    "a chain of names": (header(kind=b"L", size=4) + payload(b"name")) * 5000 + header(b"b"),
    "holes without end": header(kind=b"S")[:482] + b"\1" + header(kind=b"S")[483:] + (b"\1" * 512) * 100,
    "nothing after a payload": header(kind=b"x", size=11) + payload(b"11 path=abc"),
    "a damaged block": header(b"a", size=5) + payload(b"12345") + b"\1" * BLOCK + header(b"c") + bytes(1024),
    "cut in a block": header(b"a", size=5) + payload(b"12345") + header(b"c")[:300],
    "no tar": b"\x1f\x8b" + bytes(600), "text": b"a,b\n" * 400, "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_header_claims_is_not_believed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.process_time()
    for known in (True, False):
        with pytest.raises(TarHeaderError):
            read(HOSTILE[name], known)
    (tmp_path / "train-0.tar").write_bytes(HOSTILE[name])
    with pytest.raises(DownloadError):
        unpack(tmp_path / "train-0.tar", tmp_path / "out")
    with pytest.raises(FormatError):
        open_dataset(tmp_path / "train-0.tar")
    assert time.process_time() - began < 5


def test_a_header_reads_no_more_than_its_bound() -> None:
    asked: list[int] = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    for data in HOSTILE.values():
        with pytest.raises(TarHeaderError):
            list(entries(Stream(data), len(data)))
    assert min(asked) > 0 and max(asked) <= tar_headers.MAX_PAYLOAD


def test_a_shard_that_is_damaged_in_the_middle_loses_nothing_in_silence(tmp_path: Path) -> None:
    png = encode_png(np.zeros((4, 4), np.uint8))
    one = b"".join(
        header(name, size=len(png)) + payload(png)
        for name in (b"a.image.png", b"a.mask.png", b"b.image.png", b"b.mask.png")
    )
    (tmp_path / "train-0.tar").write_bytes(one + bytes(1024))
    assert len(open_dataset(tmp_path)) == 2
    cut = 2 * (BLOCK + len(payload(png)))
    (tmp_path / "train-0.tar").write_bytes(one[:cut] + b"\7" + one[cut + 1 :] + bytes(1024))
    with pytest.raises(FormatError, match=f"byte {cut}"):
        open_dataset(tmp_path)
    (tmp_path / "train-0.tar").write_bytes(one + header(b"c.png", b"2") + header(b"d.png", b"S") + bytes(1024))
    data = open_dataset(tmp_path)
    assert len(data) == 2
    (problem,) = [p for p in data.problems if p.kind == "special file"]
    assert len(problem.files) == 2 and "a link" in problem.files[0] and "sparse" in problem.files[1]


def test_what_is_passed_over_counts(tmp_path: Path) -> None:
    """A folder of the archive is asked for, and another unpacks to more than is allowed."""
    from segwright.data.download.unpack import UnpackLimits

    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name, size in (("other/zeros", 30_000_000), ("data/a.txt", 3)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    assert unpack(tmp_path / "x.tar.gz", tmp_path / "a", keep="data") == 1
    with pytest.raises(DownloadError, match="bytes come out"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "b", keep="data", limits=UnpackLimits(always_allowed=1 << 20))

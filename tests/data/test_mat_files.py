"""MATLAB files whose compressed elements are larger than they say, or say that they are larger than memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from segwright.core.errors import ImageReadError, TooLargeError
from segwright.data import mat_files
from segwright.data.mat_files import read_mat
from segwright.imageio import Limits

HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


def compressed(kind: int, size: int, zeros: int) -> bytes:
    packer = zlib.compressobj(9)
    data = packer.compress(struct.pack("<II", kind, size))
    for _ in range(zeros >> 20):
        data += packer.compress(bytes(1 << 20))
    data += packer.flush()
    return HEAD + struct.pack("<II", 15, len(data)) + data


def peak(data: bytes, error: type[Exception]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(error):
            read_mat(data, "x.mat", Limits())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_an_element_says_is_asked_before_it_is_unpacked() -> None:
    assert peak(compressed(14, 0xFFFFFFF0, 64 << 20), TooLargeError) < 4 << 20
    assert peak(compressed(14, 1000, 64 << 20), ImageReadError) < 4 << 20, "no more comes out than it says"
    assert peak(compressed((4 << 16) | 1, 1000, 64 << 20), ImageReadError) < 4 << 20
    assert peak(compressed(14, 0, 0)[:-2], ImageReadError) < 4 << 20


def test_several_elements_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    scipy = pytest.importorskip("scipy.io")
    out = io.BytesIO()
    values = np.zeros((100, 100))
    scipy.savemat(out, {f"x{i}": values for i in range(4)}, do_compression=True)
    found = read_mat(out.getvalue(), "x.mat", Limits())
    assert len(found) == 4 and all(np.array_equal(value, values) for value in found.values())
    monkeypatch.setattr(mat_files, "MAX_BYTES", 6 * values.nbytes)
    with pytest.raises(TooLargeError):
        read_mat(out.getvalue(), "x.mat", Limits())

"""The counting loops of the confusion matrix, compiled by numba.

A pixel's code is row·K + prediction with row = (ground truth + 1) mod 256: the ignore value 255 becomes row 0, which is
cut off at the end, so that the loop has no branch and the compiler turns it into vector instructions. The largest
values are kept beside, and the caller refuses what is out of range; codes wrap harmlessly until then.

Importing this module imports numba (half a second); :mod:`segwright.metrics.confusion` does so at the first count.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from segwright.kernels.jit import kernel

BLOCK = 8192  # bytes of codes: one block stays in the first-level cache
WORD = np.uint64(0xFFFF)
S1, S2, S3 = np.uint64(16), np.uint64(32), np.uint64(48)
ONE, FOUR = np.uint32(1), np.uint32(4)
LOW_BYTE, EVERY_BYTE = np.uint64(0xFF), np.uint64(0x0101010101010101)
LOW_HALF, EVERY_HALF = np.uint64(0xFFFF), np.uint64(0x0001000100010001)


# Every intermediate is narrowed by hand: numba widens uint8 arithmetic to 64 bits, which the compiler does not undo.


@kernel
def _encode_bytes(said: Any, truth: Any, classes: Any, out: Any) -> Any:
    largest, last_row = numba.uint8(0), numba.uint8(0)
    for i in range(said.size):
        row = numba.uint8(truth[i] + numba.uint8(1))
        out[i] = numba.uint8(numba.uint8(row * classes) + said[i])
        largest, last_row = numba.uint8(max(largest, said[i])), numba.uint8(max(last_row, row))
    return largest, last_row


@kernel
def _encode_halves(said: Any, truth: Any, classes: Any, out: Any) -> Any:
    largest, last_row = numba.uint8(0), numba.uint8(0)
    for i in range(said.size):
        row = numba.uint8(truth[i] + numba.uint8(1))
        out[i] = numba.uint16(numba.uint16(numba.uint16(row) * classes) + said[i])
        largest, last_row = numba.uint8(max(largest, said[i])), numba.uint8(max(last_row, row))
    return largest, last_row


@kernel
def _histogram(words: Any, even: Any, odd: Any, low: Any, every: Any) -> None:
    """The four 16-bit entries of each 64-bit word, in two tables: neighboring pixels are mostly alike, and an
    increment would wait for the one before. A word of one value throughout is added at once."""
    for i in range(words.size):
        word = words[i]
        if word == (word & low) * every:
            even[word & WORD] += FOUR
        else:
            even[word & WORD] += ONE
            odd[(word >> S1) & WORD] += ONE
            even[(word >> S2) & WORD] += ONE
            odd[word >> S3] += ONE


@kernel
def count_narrow(said: Any, truth: Any, classes: Any) -> Any:
    """uint8 (N,), uint8 (N,), K ≤ 15 → (counts K×K int64, largest prediction, largest row).

    Two neighboring pixels are one entry of a table of 65,536, which is folded at the end.
    """
    codes = np.zeros(BLOCK, np.uint8)
    words = codes.view(np.uint64)
    tables = np.zeros((2, 65536), np.uint32)
    largest, last_row = numba.uint8(0), numba.uint8(0)
    for start in range(0, said.size, BLOCK):
        stop = min(start + BLOCK, said.size)
        if stop - start < BLOCK:
            codes[:] = 0  # code 0 is an ignored pixel
        most, row = _encode_bytes(said[start:stop], truth[start:stop], np.uint8(classes), codes)
        largest, last_row = max(largest, most), max(last_row, row)
        _histogram(words, tables[0], tables[1], LOW_BYTE, EVERY_BYTE)
    used = (classes + 1) * classes
    flat = np.zeros(used, np.int64)
    for first in range(used):
        for second in range(used):
            pairs = np.int64(tables[0, first * 256 + second]) + np.int64(tables[1, first * 256 + second])
            flat[first] += pairs
            flat[second] += pairs
    return flat[classes:].reshape(classes, classes), largest, last_row


@kernel
def count_wide(said: Any, truth: Any, classes: Any) -> Any:
    """As :func:`count_narrow` for K ≤ 255: a pixel is one 16-bit code."""
    codes = np.zeros(BLOCK // 2, np.uint16)
    words = codes.view(np.uint64)
    tables = np.zeros((2, 65536), np.uint32)
    largest, last_row = numba.uint8(0), numba.uint8(0)
    for start in range(0, said.size, BLOCK // 2):
        stop = min(start + BLOCK // 2, said.size)
        if stop - start < BLOCK // 2:
            codes[:] = 0
        most, row = _encode_halves(said[start:stop], truth[start:stop], np.uint16(classes), codes)
        largest, last_row = max(largest, most), max(last_row, row)
        _histogram(words, tables[0], tables[1], LOW_HALF, EVERY_HALF)
    used = (classes + 1) * classes
    flat = np.zeros(used, np.int64)
    for code in range(used):
        flat[code] = np.int64(tables[0, code]) + np.int64(tables[1, code])
    return flat[classes:].reshape(classes, classes), largest, last_row

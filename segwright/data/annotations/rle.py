"""Run-length codings of binary masks: COCO's two, CVAT's and Label Studio's. Decoding and encoding, vectorized.

COCO counts runs down the columns, background first, either as a list of numbers or as text, in which every number from
the fourth on is the difference to the one two before, in groups of five bits, the lowest first (the format of the
reference implementation's ``rleToString``). CVAT counts along the rows of a mask's bounding box. Label Studio packs the
RGBA pixels of a whole image into a stream of bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError

BoolMask = npt.NDArray[np.bool_]
MAX_PIXELS = 250_000_000


def _check_runs(counts: npt.NDArray[np.int64], size: int, where: str) -> None:
    if counts.size == 0 or counts.min() < 0 or counts.max() > size or int(counts.sum()) != size:
        raise LabelError(
            "the run lengths do not fill the mask",
            expected=f"lengths from 0 up that sum to {size}",
            found=f"{counts.size} lengths that sum to {int(counts.sum())}",
            where=where,
            fix="export the annotations again",
        )


def _runs_to_flat(counts: npt.NDArray[np.int64], size: int, where: str) -> BoolMask:
    _check_runs(counts, size, where)
    return np.repeat(np.arange(counts.size) % 2 == 1, counts)


def crop_columns(counts: npt.NDArray[np.int64], height: int, width: int, where: str) -> tuple[int, BoolMask]:
    """COCO's run lengths to (left, mask) of the columns that hold anything: a small object of a large image."""
    _check_runs(counts, height * width, where)
    ends = np.cumsum(counts)
    lit = np.flatnonzero((np.arange(counts.size) % 2 == 1) & (counts > 0))
    if lit.size == 0:
        return 0, np.zeros((0, 0), bool)
    left = int(ends[lit[0]] - counts[lit[0]]) // height
    right = (int(ends[lit[-1]]) - 1) // height + 1
    inner = counts[: lit[-1] + 1].copy()
    inner[: lit[0]] = 0
    inner[0] = int(ends[lit[0]] - counts[lit[0]]) - left * height
    rest = right * height - int(ends[lit[-1]])
    flat = np.repeat(np.arange(inner.size + 1) % 2 == 1, np.append(inner, 0))
    if rest:
        flat = np.concatenate([flat, np.zeros(rest, bool)])
    return left, flat.reshape(right - left, height).T


def check_size(height: int, width: int, where: str) -> None:
    """Raise LabelError if the size of an annotation's mask is zero or beyond the limit."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise LabelError(
            "the annotation's size is out of bounds",
            expected=f"1 to {MAX_PIXELS} pixels",
            found=f"{width}×{height}",
            where=where,
        )


def decode_counts(counts: Sequence[int], height: int, width: int, where: str = "RLE") -> BoolMask:
    """COCO's uncompressed run lengths to an H×W mask."""
    check_size(height, width, where)
    return _runs_to_flat(list_runs(counts, where), height * width, where).reshape(width, height).T


def decode_string(text: str | bytes, height: int, width: int, where: str = "RLE") -> BoolMask:
    """COCO's compressed run lengths to an H×W mask."""
    check_size(height, width, where)
    return _runs_to_flat(string_runs(text, where), height * width, where).reshape(width, height).T


def list_runs(counts: Sequence[int], where: str) -> npt.NDArray[np.int64]:
    """COCO's uncompressed run lengths as an array; LabelError where they are no whole numbers."""
    try:
        return np.asarray(counts, np.int64).ravel()
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError("the run lengths are no numbers", found=str(error), where=where) from error


def string_runs(text: str | bytes, where: str) -> npt.NDArray[np.int64]:
    """COCO's compressed run lengths as an array."""
    data = text.encode("latin-1", errors="replace") if isinstance(text, str) else bytes(text)
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or (codes < 0).any() or (codes > 63).any() or codes[-1] & 0x20:
        raise LabelError("not a COCO run-length text", found=repr(data[:20]), where=where)
    last = (codes & 0x20) == 0  # the highest group of its number
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if int(place.max()) > 9:
        raise LabelError("a run length of more than 50 bits", where=where)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    negative = (codes[ends] & 0x10) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * (place[ends] + 1)), 0)
    # Differences to the number two before hold from the fourth on: two interleaved running sums.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return np.asarray(numbers, np.int64)


def encode_counts(mask: npt.NDArray[Any]) -> list[int]:
    """An H×W mask to COCO's uncompressed run lengths."""
    return _flat_to_runs(np.asarray(mask, bool).T.ravel())


def _flat_to_runs(flat: BoolMask) -> list[int]:
    """Run lengths, the background's first even if it is 0."""
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    runs: list[int] = np.diff(bounds).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def encode_string(mask: npt.NDArray[Any]) -> str:
    """An H×W mask to COCO's compressed run lengths."""
    counts = encode_counts(mask)
    pieces = []
    for i, count in enumerate(counts):
        number = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            group = number & 0x1F
            number >>= 5
            more = number != (-1 if group & 0x10 else 0)
            pieces.append(chr(48 + (group | 0x20 if more else group)))
    return "".join(pieces)


def decode_rows(counts: Sequence[int], height: int, width: int, where: str = "RLE") -> BoolMask:
    """CVAT's run lengths along the rows of a box, background first, to the box's mask."""
    check_size(height, width, where)
    return _runs_to_flat(list_runs(counts, where), height * width, where).reshape(height, width)


def encode_rows(mask: npt.NDArray[Any]) -> list[int]:
    """A box's mask to CVAT's run lengths."""
    return _flat_to_runs(np.asarray(mask, bool).ravel())


def decode_pairs(values: Any, size: int, where: str = "RLE", *, first: int = 1) -> BoolMask:
    """Pairs of (start, length) along a flat mask of ``size`` pixels, counted from ``first``, to that mask.

    Kaggle's and Hasty's coding; which way the flat mask runs through the image is up to the caller.
    """
    try:
        numbers = np.asarray(values, np.int64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(
            "run lengths are pairs of start and length", found=str(error)[:120], where=where, fix="export them again"
        ) from error
    starts, lengths = numbers[:, 0] - first, numbers[:, 1]
    if numbers.size and (starts.min() < 0 or lengths.min() < 0 or (starts > size - lengths).any()):
        bad = int(np.flatnonzero((starts < 0) | (lengths < 0) | (starts > size - lengths))[0])
        raise LabelError(
            "a run is outside the image",
            expected=f"starts from {first} and ends up to {size - 1 + first}",
            found=f"start {int(numbers[bad, 0])}, length {int(lengths[bad])}",
            where=where,
            fix="use the images that were annotated, at their size",
        )
    steps = np.zeros(size + 1, np.int32)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + lengths, -1)
    return np.asarray(np.cumsum(steps[:-1]) > 0)


def decode_label_studio(data: Sequence[int], height: int, width: int, where: str = "RLE") -> BoolMask:
    """Label Studio's brush (a list of bytes) to an H×W mask: where the alpha of its RGBA pixels is above 0.

    A 32-bit count of values, 5 bits for a value's size - 1 and four times 4 bits for the sizes - 1 of a run's length;
    then runs: 1 bit (one value repeated, or that many values), 2 bits for which size, the length - 1, the values.
    """
    check_size(height, width, where)
    try:
        bits = np.unpackbits(np.asarray(data, np.uint8))
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError("not a Label Studio brush", found=str(error), where=where) from error
    text = (bits + 48).tobytes().decode("ascii")
    total = 4 * height * width
    try:
        if int(text[:32], 2) != total:
            raise LabelError(
                "the brush does not fit the image", expected=f"{total} values", found=text[:32], where=where
            )
        word = int(text[32:37], 2) + 1
        sizes = [int(text[37 + 4 * k : 41 + 4 * k], 2) + 1 for k in range(4)]
        values = np.zeros(total, np.uint8)
        done, at = 0, 53
        while done < total:
            repeated, size = text[at] == "1", sizes[int(text[at + 1 : at + 3], 2)]
            end = min(done + 1 + int(text[at + 3 : at + 3 + size], 2), total)
            at += 3 + size
            if repeated:
                values[done:end] = int(text[at : at + word], 2) & 0xFF
                at += word
            else:
                raw = bits[at : at + word * (end - done)].reshape(end - done, word)[:, -8:]
                values[done:end] = raw @ (1 << np.arange(raw.shape[1])[::-1])
                at += word * (end - done)
            done = end
    except (ValueError, IndexError) as error:
        raise LabelError("the brush breaks off", found=f"{len(bits) // 8} bytes", where=where) from error
    return np.asarray(values.reshape(height, width, 4)[..., 3] > 0)


BRUSH_WORD = 8  # bits of a value
BRUSH_SIZES = (3, 4, 8, 16)  # bits of a run's length; which one, is two bits before it
BRUSH_LONGEST = 1 << BRUSH_SIZES[-1]  # values of one run


def encode_label_studio(mask: npt.NDArray[Any]) -> list[int]:
    """An H×W mask to Label Studio's brush, as its own encoder writes it: all four channels 255 where the mask is set.

    LabelError where the image has more values than the format's 32 bits count.
    """
    flat = np.asarray(mask, bool).ravel()
    if flat.size == 0 or 4 * flat.size >= 1 << 32:
        raise LabelError(
            "the mask does not fit Label Studio's brush", expected="1 to 2^30 - 1 pixels", found=f"{flat.size} pixels"
        )
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    lengths, lit = 4 * np.diff(bounds), flat[bounds[:-1]]
    pieces = -(-lengths // BRUSH_LONGEST)
    lit, last = np.repeat(lit, pieces), np.cumsum(pieces) - 1
    counts = np.full(int(pieces.sum()), BRUSH_LONGEST, np.int64)
    counts[last] = lengths - (pieces - 1) * BRUSH_LONGEST
    choice = np.searchsorted(1 << np.asarray(BRUSH_SIZES, np.int64), counts)
    width = np.asarray(BRUSH_SIZES, np.int64)[choice]
    # One bit "repeated", two for the size of the length, the length - 1, the value.
    bits = 3 + width + BRUSH_WORD
    codes = ((((4 + choice) << width) | (counts - 1)) << BRUSH_WORD) | np.where(lit, 255, 0)
    head = f"{4 * flat.size:032b}{BRUSH_WORD - 1:05b}" + "".join(f"{size - 1:04b}" for size in BRUSH_SIZES)
    place = np.arange(int(bits.sum())) - np.repeat(np.cumsum(bits) - bits, bits)
    body = (np.repeat(codes, bits) >> (np.repeat(bits, bits) - 1 - place)) & 1
    used = len(head) + len(body)
    fill = np.zeros(8 - used % 8, np.uint8)  # a whole byte where none is needed, as its encoder does
    stream = np.concatenate((np.frombuffer(head.encode(), np.uint8) - 48, body.astype(np.uint8), fill))
    packed: list[int] = np.packbits(stream).tolist()
    return packed

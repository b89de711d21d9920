"""MATLAB's files of version 5 to 7, by MathWorks' published description of the format ("MAT-File Format").

Of what stands in them numbers, structures and cells are read; texts, sparse matrices and objects are None. The file is
untrusted: depth, number of parts and what unpacks from it are bounded, and no native parser sees it.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.errors import ImageReadError, TooLargeError
from segwright.imageio import Limits

MAX_PARTS = 100_000  # matrices in one file, those in structures and cells included
MAX_DEPTH = 8
MAX_BYTES = 1 << 29  # that may come out of one file, unpacked and as arrays: 64 megapixels as MATLAB's own doubles
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
CELL, STRUCTURE = 1, 2
LOGICAL, COMPLEX = 0x200, 0x800


def read_mat(data: bytes, where: str | Path, limits: Limits) -> dict[str, Any]:
    """Name → array (as MATLAB shapes it, sides of 1 included), dict of a structure, list of several structures or of a
    cell, or None. ImageReadError where the file is not whole, TooLargeError beyond the limits."""
    try:
        return _File(data, where, limits).variables()
    except (struct.error, ValueError, IndexError, KeyError, TypeError, OverflowError, zlib.error, MemoryError) as error:
        raise ImageReadError(
            "not a readable MATLAB file", expected="a whole .mat of version 5 to 7",
            found=f"{type(error).__name__}: {str(error)[:160]}", where=where,
            fix="copy it again from its source, or save it again: save('x.mat', 'mask', '-v7')",
        ) from error  # fmt: skip


class _File:
    def __init__(self, data: bytes, where: str | Path, limits: Limits) -> None:
        if not data.startswith(b"MATLAB") or data[126:128] not in (b"IM", b"MI"):
            raise ValueError("it does not begin as one")
        self.data, self.where = data, where
        self.order = "<" if data[126:128] == b"IM" else ">"
        self.left = min(MAX_BYTES, limits.max_bytes, limits.max_pixels * 16)  # bytes that may come out
        self.parts = 0

    def variables(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind, body in self._elements(memoryview(self.data)[128:]):
            if kind == COMPRESSED:
                for inner, content in self._elements(memoryview(self._unpacked(body))):
                    if inner == MATRIX:
                        name, value = self._matrix(content, 0)
                        found[name] = value
            elif kind == MATRIX:
                name, value = self._matrix(body, 0)
                found[name] = value
        return found

    def _unpacked(self, body: memoryview) -> bytes:
        unpacker = zlib.decompressobj()
        head = unpacker.decompress(body, 8)
        kind, size = struct.unpack(f"{self.order}II", head)
        most = 8 if kind >> 16 else 8 + size + -size % 8  # what the element claims, and no more comes out of it
        if most > self.left:
            raise self._too_large()
        out = head + unpacker.decompress(unpacker.unconsumed_tail, most - 7)
        if len(out) > most:
            raise ValueError(f"its compressed data holds more than the stated {most} bytes")
        if not unpacker.eof:
            raise ValueError("its compressed data is not whole")
        self.left -= len(out)
        return out

    def _elements(self, view: memoryview) -> Any:
        """(type, bytes) of one after the other."""
        at = 0
        while at + 8 <= len(view):
            kind, size = struct.unpack_from(f"{self.order}II", view, at)
            if kind >> 16:  # the small form: four bytes of data within the tag
                kind, size, begin, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
                if size > 4:
                    raise ValueError("a small element of more than 4 bytes")
            else:
                begin = at + 8
                following = begin + size + (0 if kind == COMPRESSED else -size % 8)
            if begin + size > len(view):
                raise ValueError(f"it ends within an element of {size} bytes")
            yield kind, view[begin : begin + size]
            at = following

    def _matrix(self, view: memoryview, depth: int) -> tuple[str, Any]:
        self.parts += 1
        if self.parts > MAX_PARTS or depth > MAX_DEPTH:
            raise self._too_large()
        if len(view) == 0:  # an empty one in a cell or structure
            return "", np.empty((0, 0))
        elements = self._elements(view)
        flags = struct.unpack_from(f"{self.order}I", next(elements)[1])[0]
        shape = tuple(int(side) for side in np.frombuffer(next(elements)[1], f"{self.order}i4"))
        name = bytes(next(elements)[1]).rstrip(b"\0").decode("utf-8", "replace")
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"a matrix of sides {shape[:8]}")
        count, kind = math.prod(shape), flags & 0xFF
        if kind == CELL:
            return name, [self._matrix(self._own(part), depth + 1)[1] for part in self._next(elements, count)]
        if kind == STRUCTURE:
            return name, self._structures(elements, count, depth)
        if kind not in CLASSES:
            return name, None
        stored, body = next(elements, (0, memoryview(b"")))
        made = np.dtype(CLASSES[kind])
        self.left -= count * made.itemsize
        if self.left < 0:
            raise self._too_large()
        if flags & COMPLEX:
            return name, None
        values = np.frombuffer(body, f"{self.order}{NUMBERS[stored]}")
        if values.size != count:
            raise ValueError(f"{values.size} numbers for sides of {'×'.join(map(str, shape))}")
        return name, values.astype(np.bool_ if flags & LOGICAL else made).reshape(shape, order="F")

    def _structures(self, elements: Any, count: int, depth: int) -> Any:
        width = struct.unpack_from(f"{self.order}i", next(elements)[1])[0]
        text = bytes(next(elements)[1])
        if not 0 < width <= 256:
            raise ValueError(f"field names of {width} bytes")
        names = [text[at : at + width].split(b"\0")[0].decode("utf-8", "replace") for at in range(0, len(text), width)]
        made = []
        for _ in range(count if names else 0):
            parts = self._next(elements, len(names))
            made.append(
                {name: self._matrix(self._own(part), depth + 1)[1] for name, part in zip(names, parts, strict=True)}
            )
        return made[0] if len(made) == 1 else made

    def _next(self, elements: Any, count: int) -> Any:
        if count > MAX_PARTS:
            raise self._too_large()
        for _ in range(count):
            found = next(elements, None)
            if found is None:
                raise ValueError("parts are missing")
            yield found

    @staticmethod
    def _own(part: tuple[int, memoryview]) -> memoryview:
        if part[0] != MATRIX:
            raise ValueError(f"an element of type {part[0]} where a matrix is due")
        return part[1]

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            "the MATLAB file holds more than the limit", where=self.where, fix="save the masks alone, one per file",
            expected=f"at most {MAX_PARTS} parts, and the memory of an image",
        )  # fmt: skip

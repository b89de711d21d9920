"""The form in which a decoding process answers: a JSON header, then the raw bytes of its arrays. No pickle.

The process has just decoded a file that nobody vouches for. What comes back is therefore parsed, never executed: plain
values, arrays of numbers, the dataclasses that the caller named, and the errors of :mod:`segwright.core.errors` by
name.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from segwright.core import errors
from segwright.core.errors import ImageReadError, SegwrightError

MAGIC = b"SGW1"
MAX_HEADER = 256 << 20  # bytes of JSON in one answer
MAX_ANSWER = 4 << 30  # bytes of arrays in one answer, where the caller gives no other bound
_DTYPE = re.compile(r"[<>|=]?[biufc][0-9]{1,2}")
_BUILTIN_ERRORS = frozenset({
    "ArithmeticError", "AssertionError", "AttributeError", "BufferError", "EOFError", "ImportError", "IndexError",
    "KeyError", "LookupError", "MemoryError", "NotImplementedError", "OSError", "OverflowError", "RecursionError",
    "RuntimeError", "SyntaxError", "TypeError", "ValueError", "ZeroDivisionError",
})  # fmt: skip


class MalformedAnswerError(ValueError):
    """Bytes that no decoding process of ours sends."""


def dataclasses_in(kind: Any) -> dict[str, type]:
    """Name → class of every dataclass that a type annotation reaches, through unions, containers and fields."""
    found: dict[str, type] = {}
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        if dataclasses.is_dataclass(one) and isinstance(one, type):
            if one.__qualname__ not in found:
                found[one.__qualname__] = one
                waiting += typing.get_type_hints(one).values()
        elif isinstance(one, types.UnionType) or typing.get_origin(one) is not None:
            waiting += typing.get_args(one)
    return found


class _Packer:
    def __init__(self) -> None:
        self.shapes: list[tuple[str, list[int]]] = []
        self.parts: list[Any] = []

    def node(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value if type(value) in (type(None), bool, int, float, str) else _exact(value)
        if isinstance(value, np.generic):
            return self.node(value.item())
        if isinstance(value, np.ndarray):
            if not _DTYPE.fullmatch(value.dtype.str):
                raise TypeError(f"arrays of {value.dtype} do not travel")
            return ["a", self._raw(np.ascontiguousarray(value), value.dtype.str, list(value.shape))]
        if isinstance(value, bytes | bytearray | memoryview):
            return ["b", self._raw(np.frombuffer(value, np.uint8), "|u1", [len(value)])]
        if isinstance(value, Path):
            return ["p", str(value)]
        for tag, kind in (("t", tuple), ("l", list), ("s", set), ("f", frozenset)):
            if isinstance(value, kind):
                return [tag, *map(self.node, value)]
        if isinstance(value, dict):
            return ["d", *([self.node(key), self.node(one)] for key, one in value.items())]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self.node(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
            return ["c", type(value).__qualname__, fields]
        if isinstance(value, BaseException):
            return _error_node(value)
        raise TypeError(f"a {type(value).__name__} does not travel")

    def _raw(self, array: Any, dtype: str, shape: list[int]) -> int:
        self.shapes.append((dtype, shape))
        self.parts.append(array.reshape(-1).view(np.uint8).data if array.size else b"")
        return len(self.shapes) - 1


def _exact(value: Any) -> Any:
    """A subclass of a plain type as that type."""
    return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))


def _error_node(error: BaseException) -> list[Any]:
    if isinstance(error, SegwrightError):
        names = ["message", "expected", "found", "where", "fix"] + ["reason"] * isinstance(error, ImageReadError)
        return ["e", type(error).__name__, {name: getattr(error, name) for name in names}]
    return ["x", type(error).__name__, str(error)]


def send(pipe: IO[bytes], value: Any) -> None:
    """Write one answer."""
    packer = _Packer()
    node = packer.node(value)
    header = json.dumps([node, packer.shapes]).encode()
    pipe.write(MAGIC + len(header).to_bytes(4, "little") + header)
    for part in packer.parts:
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes], allowed: dict[str, type], max_bytes: int = MAX_ANSWER) -> Any:
    """Read one answer; EOFError where the stream ends, MalformedAnswerError where it is none or too large."""
    head = exactly(pipe, 8)
    size = int.from_bytes(head[4:], "little")
    if head[:4] != MAGIC or size > MAX_HEADER:
        raise MalformedAnswerError("the answer does not begin as one")
    header = exactly(pipe, size)
    try:
        node, shapes = json.loads(header)
        arrays = []
        for dtype, shape in shapes:
            if not _DTYPE.fullmatch(dtype) or any(type(side) is not int or side < 0 for side in shape):
                raise MalformedAnswerError("an array that is none")
            count = 1
            for side in shape:
                count *= side
            max_bytes -= count * np.dtype(dtype).itemsize
            if max_bytes < 0:
                raise MalformedAnswerError("the answer is larger than the limit")
            array = np.empty(shape, dtype)
            if array.size:
                _fill(pipe, memoryview(array.reshape(-1).view(np.uint8)))  # type: ignore[arg-type]
            arrays.append(array)
        return _value(node, arrays, allowed)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError, MemoryError) as error:
        raise MalformedAnswerError(f"{type(error).__name__}: {str(error)[:200]}") from error


def exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _fill(pipe: Any, view: memoryview) -> None:
    while view:
        count = pipe.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]


def _value(node: Any, arrays: list[Any], allowed: dict[str, type]) -> Any:
    if not isinstance(node, list):
        if isinstance(node, dict):
            raise MalformedAnswerError("a bare mapping")
        return node
    tag, *rest = node
    if tag == "a":
        return arrays[rest[0]]
    if tag == "b":
        return arrays[rest[0]].tobytes()
    if tag == "p":
        return Path(rest[0])
    if tag == "d":
        return {_value(key, arrays, allowed): _value(one, arrays, allowed) for key, one in rest}
    if tag == "c":
        name, fields = rest
        return allowed[name](**{key: _value(one, arrays, allowed) for key, one in fields.items()})
    if tag == "e":
        return _error(*rest)
    if tag == "x":
        name, text = rest
        if name in _BUILTIN_ERRORS:
            return getattr(builtins, name)(str(text))
        return RuntimeError(f"{name}: {text}")
    container: Callable[[Iterable[Any]], Any] = {"t": tuple, "l": list, "s": set, "f": frozenset}[tag]
    return container(_value(one, arrays, allowed) for one in rest)


def _error(name: str, fields: dict[str, Any]) -> Exception:
    kind = getattr(errors, name, None)
    if not isinstance(kind, type) or not issubclass(kind, SegwrightError):
        raise MalformedAnswerError(f"no error of ours: {name}")
    if any(one is not None and not isinstance(one, str) for one in fields.values()):
        raise MalformedAnswerError("an error of which a part is no text")
    message = fields.pop("message")
    return kind(message, **fields)

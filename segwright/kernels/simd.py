"""Several floats at a time inside numba kernels: loads, stores, arithmetic and exp on the processor's vector registers.

Numba's loop vectorizer gives up on the gathers of a permutohedral lattice (it cannot prove that the rows do not
overlap), which costs a factor of four. These few operations state the vector code directly. They are LLVM vector types,
so the same code runs on AVX, AVX-512, SSE and NEON: LLVM cuts the lanes to what the processor has, and no compiler is
needed on the user's machine.

How many lanes a vector has is part of its type. A kernel takes the width as a tuple of that length (``form(16)``), so
that numba compiles one version for each width that is really used. Inside a kernel a vector lives in a local variable
only; arrays stay flat float32 arrays, and nothing here checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba's intrinsic, as Any: a kernel calls these without the typing context, which no type expresses."""
    return numba_intrinsic(function)


def width_for(classes: int) -> int:
    """How many lanes suit a number of classes: the widest that wastes no more than a narrower one would."""
    if classes <= 4:
        return 4
    return 16 if -(-classes // 16) * 16 == -(-classes // 8) * 8 else 8


def form(width: int) -> tuple[int, ...]:
    """A width as a kernel's argument: a tuple of that length, which the compiler sees in its type."""
    return (0,) * width


def aligned_zeros(count: int) -> npt.NDArray[np.float32]:
    """``count`` zeros that begin at a cache line: a vector across two lines costs two loads."""
    line = 64  # bytes
    room = np.zeros(count + line // 4, np.float32)
    start = -room.ctypes.data % line // 4
    return room[start : start + count]


class LanesType(types.Type):
    """The numba type of a vector of ``width`` float32."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"float32x{width}")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _floats(kind.width))  # type: ignore[no-untyped-call]


def _floats(width: int) -> ir.VectorType:
    return ir.VectorType(ir.FloatType(), width)


def _integers(width: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(32), width)


def _broadcast(builder: Any, scalar: Any, width: int) -> Any:
    nothing = ir.Constant(_floats(width), ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_integers(width), [0] * width))


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def peek(typing_context: Any, array: Any, index: Any) -> Any:
    """``peek(array, i)``: one element. Numba's own indexing also checks for a negative i, every time."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature, arguments))

    return array.dtype(array, types.intp), code


@intrinsic
def load(typing_context: Any, array: Any, index: Any, width: Any) -> Any:
    """``load(array, i, form)``: the lanes at ``array[i : i + width]`` of a flat float32 array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _address(context, builder, signature, arguments)
        return builder.load(builder.bitcast(pointer, _floats(width.count).as_pointer()), align=4)

    return LanesType(width.count)(array, types.intp, width), code


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``store(array, i, v)``: write the lanes to ``array[i : i + width]``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _address(context, builder, signature, arguments)
        builder.store(arguments[2], builder.bitcast(pointer, _floats(value.width).as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), code


@intrinsic
def fill(typing_context: Any, scalar: Any, width: Any) -> Any:
    """``fill(x, form)``: x in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _broadcast(builder, arguments[0], width.count)

    return LanesType(width.count)(types.float32, width), code


@intrinsic
def scale(typing_context: Any, scalar: Any, value: Any) -> Any:
    """``scale(s, v)``: s·v."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(_broadcast(builder, arguments[0], value.width), arguments[1], flags=("contract",))

    return value(types.float32, value), code


@intrinsic
def scale_add(typing_context: Any, scalar: Any, value: Any, total: Any) -> Any:
    """``scale_add(s, v, t)``: s·v + t, fused where the processor can."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        factor = _broadcast(builder, arguments[0], value.width)
        return builder.fadd(builder.fmul(factor, arguments[1], flags=("contract",)), arguments[2], flags=("contract",))

    return value(types.float32, value, value), code


@intrinsic
def add(typing_context: Any, left: Any, right: Any) -> Any:
    """``add(a, b)``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("contract",))

    return left(left, right), code


@intrinsic
def multiply(typing_context: Any, left: Any, right: Any) -> Any:
    """``multiply(a, b)``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(*arguments, flags=("contract",))

    return left(left, right), code


def _larger(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


@intrinsic
def maximum(typing_context: Any, left: Any, right: Any) -> Any:
    """``maximum(a, b)``, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _larger(builder, *arguments)

    return left(left, right), code


def _reduced(builder: Any, value: Any, width: int, combine: Callable[[Any, Any, Any], Any]) -> Any:
    """All lanes to one by halving: log2(width) steps instead of width."""
    step = width // 2
    while step:
        mask = ir.Constant(_integers(width), [(lane + step) % width for lane in range(width)])
        value = combine(builder, value, builder.shuffle_vector(value, ir.Constant(_floats(width), ir.Undefined), mask))
        step //= 2
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def largest(typing_context: Any, value: Any) -> Any:
    """``largest(v)``: the largest lane, a float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduced(builder, arguments[0], value.width, _larger)

    return types.float32(value), code


@intrinsic
def total(typing_context: Any, value: Any) -> Any:
    """``total(v)``: the sum of the lanes, a float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduced(builder, arguments[0], value.width, lambda b, x, y: b.fadd(x, y))

    return types.float32(value), code


@intrinsic
def exponential(typing_context: Any, value: Any, shift: Any) -> Any:
    """``exponential(v, s)``: exp(v - s) lane by lane for v - s <= 0, within 1e-5 relative; below -87 it is 1e-38.

    2^x = 2^n · 2^f with n the nearest integer: n goes into the exponent bits, 2^f (|f| <= 1/2) is a polynomial of
    degree six (coefficients of the Cephes library's exp2f).
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: float) -> ir.Constant:
            return ir.Constant(_floats(value.width), [number] * value.width)

        def integer(number: int) -> ir.Constant:
            return ir.Constant(_integers(value.width), [number] * value.width)

        x = builder.fsub(arguments[0], _broadcast(builder, arguments[1], value.width))
        x = builder.fmul(_larger(builder, x, constant(-87.0)), constant(1.44269504088896341))
        magic = constant(12582912.0)  # 1.5 · 2^23: adding it rounds to an integer, found in the low mantissa bits
        shifted = builder.fadd(x, magic)
        fraction = builder.fsub(x, builder.fsub(shifted, magic))
        result = constant(1.535336188319500e-4)
        for coefficient in (
            1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2, 2.402264791363012e-1,
            6.931472028550421e-1, 1.0,
        ):  # fmt: skip
            product = builder.fmul(result, fraction, flags=("contract",))
            result = builder.fadd(product, constant(coefficient), flags=("contract",))
        whole = builder.sub(builder.bitcast(shifted, _integers(value.width)), integer(0x4B400000))  # magic's own bits
        power = builder.shl(builder.add(whole, integer(127)), integer(23))
        return builder.fmul(result, builder.bitcast(power, _floats(value.width)))

    return value(value, types.float32), code

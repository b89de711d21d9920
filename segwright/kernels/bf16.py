"""bf16 inside numba kernels, which have no such type: arrays of its 16 bits (uint16), read and written as float32.

A kernel that calls :func:`wide` on what it reads and :func:`narrow` on what it writes takes maps of either precision
and computes in float32: numba compiles one version for each. A bf16 number is the upper half of a float32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from segwright.kernels.simd import intrinsic

_BITS = ir.IntType(32)
_NOT_A_NUMBER = 0x7FC0


@intrinsic
def wide(typing_context: Any, value: Any) -> Any:
    """``wide(array[i])``: the number; of uint16 the float32 whose upper half it is."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        upper = builder.shl(builder.zext(arguments[0], _BITS), ir.Constant(_BITS, 16))
        return builder.bitcast(upper, ir.FloatType())

    if isinstance(value, types.Integer):
        return types.float32(value), code
    return value(value), lambda context, builder, signature, arguments: arguments[0]


@intrinsic
def narrow(typing_context: Any, value: Any, array: Any) -> Any:
    """``narrow(x, array)``: a number as an element of ``array``; for uint16 a float32 rounded to the nearest bf16, ties
    to even, and not a number where it is none."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0]
        bits = builder.bitcast(number, _BITS)
        shift = ir.Constant(_BITS, 16)
        odd = builder.and_(builder.lshr(bits, shift), ir.Constant(_BITS, 1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, ir.Constant(_BITS, 0x7FFF))), shift)
        none = builder.fcmp_unordered("uno", number, number)
        return builder.trunc(builder.select(none, ir.Constant(_BITS, _NOT_A_NUMBER), rounded), ir.IntType(16))

    if isinstance(array.dtype, types.Integer):
        return array.dtype(types.float32, array), code
    return array.dtype(array.dtype, array), lambda context, builder, signature, arguments: arguments[0]

"""Bytes by their address, one or `WIDTH` at once: what numba has no words for, in LLVM's.

For compiled functions (operators/compiled.py) that call each other for every few bytes. An array is passed on
as seven numbers, an address as one, which made the scan of JSON 1.5 times as fast, and 32 bytes in one step
1.7 times. What stands here becomes part of its callers' code: after a change, their `__pycache__` is out of
date.

Nobody asks whether the bytes are there, whatever `NUMBA_BOUNDSCHECK` says: the caller does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Address: TypeAlias = int

WIDTH: Final = 32
"""One register of AVX2; where registers are shorter LLVM takes several."""

_BYTE, _COUNT, _BITS = ir.IntType(8), ir.IntType(64), ir.IntType(WIDTH)
_BYTES = ir.VectorType(_BYTE, WIDTH)

_Code: TypeAlias = Callable[..., ir.Value]
"""Writes the code of a function: builder, arguments -> result."""


def _function(result: types.Type, arguments: int, code: _Code) -> Callable[..., Any]:
    """A function of so many addresses that compiled code can call."""
    signature = result(*[types.int64] * arguments)

    def generate(
        _context: object, builder: ir.IRBuilder, _signature: object, values: list[ir.Value]
    ) -> ir.Value:
        return code(builder, *values)

    # numba asks for the arguments' names.
    if arguments == 1:
        return cast("Callable[..., Any]", intrinsic(lambda _typing, _one: (signature, generate)))
    return cast("Callable[..., Any]", intrinsic(lambda _typing, _one, _two: (signature, generate)))


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _all(byte: int) -> ir.Value:
    return ir.Constant(_BYTES, [byte] * WIDTH)


def _first(builder: ir.IRBuilder, found: ir.Value) -> ir.Value:
    """The number of the first that is found, else `WIDTH`."""
    bits = builder.zext(builder.bitcast(found, _BITS), _COUNT)
    bits = builder.or_(bits, ir.Constant(_COUNT, 1 << WIDTH))
    return builder.cttz(bits, ir.Constant(ir.IntType(1), True))


def _byte_at(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return _load(builder, address, _BYTE)


def _plain_ahead(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    ahead = _load(builder, address, _BYTES)
    found = builder.icmp_unsigned("<", ahead, _all(ord(" ")))
    for byte in b'"\\':
        found = builder.or_(found, builder.icmp_unsigned("==", ahead, _all(byte)))
    return _first(builder, found)


def _same_ahead(builder: ir.IRBuilder, address: ir.Value, other: ir.Value) -> ir.Value:
    one, two = _load(builder, address, _BYTES), _load(builder, other, _BYTES)
    return _first(builder, builder.icmp_unsigned("!=", one, two))


byte_at: Callable[[Address], int] = _function(types.uint8, 1, _byte_at)
"""The byte there."""
plain_ahead: Callable[[Address], int] = _function(types.int64, 1, _plain_ahead)
"""How many of the `WIDTH` bytes from there on stand in a JSON string as they are: up to the first quote,
backslash or control character."""
same_ahead: Callable[[Address, Address], int] = _function(types.int64, 2, _same_ahead)
"""How many of the `WIDTH` bytes from there on are the same in both places, up to the first other one."""

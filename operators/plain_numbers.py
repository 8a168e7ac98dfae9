"""Short JSON numbers, read exactly and without a Python object each. Compiled.

`Texts` -> `plain_numbers` -> which of them are such numbers -> `plain_quantities` -> limbs
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.aggregate import DECIMALS, Limbs
from operators.compiled import compiled
from operators.texts import Bytes, Texts
from schemas.usage import I64, U64, Mask

PLAIN_BYTES_MAX: Final = 14
"""A JSON number of so many bytes, without an exponent, has at most 14 digits before its point and 12 behind
it: it is in range, and exact. `0.123456789012` has 14."""

_ZERO, _MINUS, _POINT = map(ord, "0-.")
_HALF, _LOW, _TEN = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(10)


def plain_numbers(texts: Texts) -> tuple[Mask, Mask]:
    """Which texts are JSON numbers of `PLAIN_BYTES_MAX` without an exponent, and which of these are integers
    as Python writes them."""
    return _plain_numbers(texts.data, texts.start, texts.end)


def plain_quantities(texts: Texts) -> Limbs:
    """The quantities that such numbers are: 20 ns each."""
    return _quantities(texts.data, texts.start, texts.end)


@compiled
def _plain_numbers(data: Bytes, starts: I64, ends: I64) -> tuple[Mask, Mask]:
    is_plain, is_integer = np.zeros(len(starts), np.bool_), np.zeros(len(starts), np.bool_)
    for row in range(len(starts)):
        start, end = starts[row], ends[row]
        if end - start > PLAIN_BYTES_MAX:
            continue
        sign = 1 if end > start and data[start] == _MINUS else 0
        whole = _digits_end(data, start + sign, end)
        size = whole - start - sign
        if size == 0 or (size > 1 and data[start + sign] == _ZERO):
            continue
        if whole == end:
            is_plain[row] = True
            is_integer[row] = sign == 0 or data[start + 1] != _ZERO  # -0 is 0
        elif data[whole] == _POINT:
            is_plain[row] = whole + 1 < end and _digits_end(data, whole + 1, end) == end
    return is_plain, is_integer


@compiled
def _digits_end(data: Bytes, at: int, end: int) -> int:
    while at < end and 0 <= data[at] - _ZERO <= 9:
        at += 1
    return at


@compiled
def _quantities(data: Bytes, starts: I64, ends: I64) -> tuple[U64, I64]:
    lo, hi = np.empty(len(starts), np.uint64), np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        mantissa, decimals, is_behind_point = np.uint64(0), 0, False
        for byte in data[starts[row] : ends[row]]:
            if byte == _POINT:
                is_behind_point = True
            elif byte != _MINUS:
                mantissa = mantissa * _TEN + np.uint64(byte - _ZERO)
                decimals += is_behind_point
        low, high = mantissa, np.uint64(0)
        for _ in range(DECIMALS - decimals):  # 128 bits times ten, by 32 bits
            bottom = (low & _LOW) * _TEN
            top = (low >> _HALF) * _TEN + (bottom >> _HALF)
            low, high = (top << _HALF) | (bottom & _LOW), high * _TEN + (top >> _HALF)
        if data[starts[row]] == _MINUS:
            low, high = ~low + np.uint64(1), ~high + np.uint64(low == 0)
        lo[row], hi[row] = low, np.int64(high)
    return lo, hi

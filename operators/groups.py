"""Rows grouped by a 64-bit key, and sums of quantities by group. Compiled.

keys -> `group` -> order, starts, keys, ascending; quantities in that order, starts -> `sum_by_group` -> sums

Keys are numbered by a hash table with open addressing, and only different ones are sorted: with 5 rows a key
20 ns a row, where sorting all of them takes 55. Nothing here keeps state.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from operators.aggregate import Limbs
from operators.compiled import compiled
from schemas.usage import I32, I64, U64

SLOTS_MIN: Final = 64
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
"""As in operators/numbering.py."""
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_SIGNED_HALF: Final = np.int64(32)
_TOP_MAX: Final = np.int64(1 << 31)


def group(keys: U64) -> tuple[I64, I64, U64]:
    """Order rows by key -> (order, starts, unique_keys), unique_keys ascending.

    The rows of unique_keys[g] are `order[starts[g]:starts[g + 1]]`, as they were among themselves.
    """
    slots = np.full(max(SLOTS_MIN, 1 << (2 * len(keys)).bit_length()), -1, np.int32)
    numbers, different = _numbered(keys, slots)
    ascending = np.argsort(different)
    order, starts = _arranged(numbers, ascending)
    return order, starts, different[ascending]


def first_of_runs(values: U64 | I64) -> npt.NDArray[np.intp]:
    """Where each run of equal values begins."""
    first = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return np.flatnonzero(first)


def sum_by_group(lo: U64, hi: I64, starts: npt.NDArray[np.intp]) -> Limbs:
    """Sum each run of rows `starts[g] .. starts[g + 1]`, the last one to the end; up to 2**31 rows.

    The rows are ordered by group already (`lo[order]`).
    Raises ValueError if a group is empty, OverflowError past 128 bits.
    """
    if len(starts) and (starts[0] < 0 or starts[-1] >= len(lo) or (starts[1:] <= starts[:-1]).any()):
        raise ValueError("starts must be ascending rows: a group has at least one")
    sum_lo, sum_hi, fits = _summed(lo, hi, starts)
    if not fits:
        raise OverflowError("a sum of quantities has more than 128 bits")
    return sum_lo, sum_hi


@compiled
def _numbered(keys: U64, slots: I32) -> tuple[I32, U64]:
    """The number of each row's key, and the keys by number. `slots`: twice as many as rows, all -1."""
    numbers, different, mask = np.empty(len(keys), np.int32), np.empty(len(keys), np.uint64), len(slots) - 1
    count = 0
    for row in range(len(keys)):
        key = keys[row]
        at = np.int64((key * _FACTOR) >> _HALF) & mask
        while slots[at] != -1 and different[slots[at]] != key:
            at = (at + 1) & mask
        if slots[at] == -1:
            slots[at], different[count] = count, key
            count += 1
        numbers[row] = slots[at]
    return numbers, different[:count].copy()


@compiled
def _arranged(numbers: I32, ascending: I64) -> tuple[I64, I64]:
    """The rows in the order of their keys' numbers, and where each number's begin."""
    rows, groups = len(numbers), len(ascending)
    sizes, starts = np.zeros(groups, np.int64), np.empty(groups, np.int64)
    for number in numbers:
        sizes[number] += 1
    first = 0
    for place in range(groups):
        number = ascending[place]
        starts[place] = first
        size, sizes[number] = sizes[number], first  # from here on, where its next row goes
        first += size
    order = np.empty(rows, np.int64)
    for row in range(rows):
        order[sizes[numbers[row]]] = row
        sizes[numbers[row]] += 1
    return order, starts


@compiled
def _summed(lo: U64, hi: I64, starts: I64) -> tuple[U64, I64, bool]:
    """The sums, and whether 128 bits hold them all."""
    sum_lo, sum_hi, fits = np.empty(len(starts), np.uint64), np.empty(len(starts), np.int64), True
    for place in range(len(starts)):
        end = starts[place + 1] if place + 1 < len(starts) else len(lo)
        # Digits of 32 bits, the top one signed: no digit's sum of 2**31 rows leaves 64 bits.
        first, second, third, top = np.uint64(0), np.uint64(0), np.uint64(0), np.int64(0)
        for row in range(starts[place], end):
            first += lo[row] & _LOW
            second += lo[row] >> _HALF
            third += np.uint64(hi[row]) & _LOW
            top += hi[row] >> _SIGNED_HALF
        second += first >> _HALF
        third += second >> _HALF
        top += np.int64(third >> _HALF)
        fits &= bool(-_TOP_MAX <= top < _TOP_MAX)
        sum_lo[place] = (first & _LOW) | (second << _HALF)
        sum_hi[place] = np.int64(third & _LOW) | (top << _SIGNED_HALF)
    return sum_lo, sum_hi, fits

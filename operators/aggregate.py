"""Exact sums of decimals by group, a column at a time: no float and no Python number per row.

JSON values -> `parse_decimals` -> limbs -> `add`, `operators.groups` -> `from_limbs` -> Arrow column

A quantity v is the 128-bit integer `v * 10**12`, held as two limbs, `lo` (uint64) and `hi` (int64, with the
sign): `units = hi * 2**64 + lo`. An Arrow decimal128 buffer is laid out so, and goes in and out uncopied.
Nothing here keeps state. What leaves 128 bits, or 38 digits in a column, raises OverflowError; nothing wraps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrow import QUANTITY
from schemas.events import Reason
from schemas.usage import I64, U64

Limbs: TypeAlias = tuple[U64, I64]
"""(lo, hi) of equal length."""

DECIMALS: Final = QUANTITY.scale
INTEGER_DIGITS_MAX: Final = 18
"""Digits a metered value may have before its point: |v| < 1e18, so a group overflows only past 1e8 rows."""

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_SCALE: Final = 10**DECIMALS
_LIMIT: Final = 10**INTEGER_DIGITS_MAX
_HI_MAX: Final = 10**QUANTITY.precision >> 64
_LO_MAX: Final = np.uint64(10**QUANTITY.precision & (1 << 64) - 1)
_NARROW: Final = (1 << 63) // _SCALE
"""Integers up to this size are still 64-bit integers when scaled."""

_CONTEXT: Final = Context(40, ROUND_HALF_EVEN, MIN_EMIN, MAX_EMAX, traps=[InvalidOperation])
_STEP: Final = Decimal(1).scaleb(-DECIMALS)
_PLAIN: Final = rf"^[+-]?(?:0|[1-9][0-9]{{0,{INTEGER_DIGITS_MAX - 1}}})(?:\.[0-9]{{1,{DECIMALS}}})?$"
"""Numbers that Arrow reads exactly."""
_LONG: Final = r"^[+-]?(?:0|[1-9][0-9]{0,16})\.[0-9]{1,20}$"
"""Numbers such as 0.30000000000000004, that Arrow reads exactly into _WIDE; rounding may add a digit."""
_WIDE: Final = pa.decimal128(38, 20)
_NUMBER: Final = re.compile(r"[+-]?((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?:[eE]([+-]?)([0-9]+))?")
_EXPONENT_DIGITS_MAX: Final = 17
"""Exponents of more digits outweigh any mantissa that fits in memory; `Decimal` refuses those past 18."""


@dataclass(frozen=True, slots=True)
class ParsedColumn:
    """Row i of `lo` and `hi` is value i; a row of `errors`, which are in order of index, is 0."""

    lo: U64
    hi: I64
    errors: list[tuple[int, Reason]]
    """(index, VALUE_MISSING | VALUE_NOT_NUMERIC | VALUE_OUT_OF_RANGE)"""


def parse_decimals(values: Sequence[object]) -> ParsedColumn:
    """Read quantities exactly as JSON gave them: int, str (a number's text or a numeric string), None, …

    Numeric is the JSON grammar with an optional leading '+': '5', '+5', '-0.5' and '1e3', but not '.5', '5.',
    '05', ' 5', '1,000', '0x1', 'NaN' or ''. Past 12 decimals rounds half-even; what then is 1e18 or more, of
    either sign, is VALUE_OUT_OF_RANGE. None is VALUE_MISSING; a bool, list or dict is VALUE_NOT_NUMERIC.
    A float raises TypeError: its digits were lost before it came here (decode with `float_hook=str`).
    In batches of 10,000: 60 ns an int, 0.3 us a plain text, 0.5 us one to round, 4 us one with an exponent.
    """
    kinds = set(map(type, values))
    if kinds == {int}:
        return _read_integers(cast("Sequence[int]", values))
    if kinds == {str}:
        return _read_texts(cast("Sequence[str]", values))
    integers, texts, errors = _split(values)
    lo, hi = np.zeros(len(values), np.uint64), np.zeros(len(values), np.int64)
    for rows, column in (
        (integers, _read_integers([cast("int", values[row]) for row in integers]) if integers else None),
        (texts, _read_texts([cast("str", values[row]) for row in texts]) if texts else None),
    ):
        if column is not None:
            lo[rows], hi[rows] = column.lo, column.hi
            errors.extend((rows[i], reason) for i, reason in column.errors)
    return ParsedColumn(lo, hi, sorted(errors))


def limbs(array: pa.Decimal128Array) -> Limbs:
    """View a Decimal(38, 12) column as limbs, uncopied and read-only.

    Raises ValueError for another type, whose unit is another, and for nulls, whose limbs mean nothing.
    """
    if array.type != QUANTITY:
        raise ValueError(f"expected {QUANTITY}, not {array.type}")
    if array.null_count:
        raise ValueError(f"{array.null_count} of {len(array)} quantities are null")
    if not len(array):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    words = np.frombuffer(array.buffers()[1], np.uint64)[2 * array.offset : 2 * (array.offset + len(array))]
    return words[::2], words[1::2].view(np.int64)


def from_limbs(lo: U64, hi: I64) -> pa.Decimal128Array:
    """Make a Decimal(38, 12) column: uncopied if the limbs already lie as Arrow wants them, else one copy.

    Raises OverflowError if a quantity has more than 38 digits.
    """
    # -10**38 < units < 10**38; the negative bound is ~(10**38 - 1), whose low limb is the complement.
    over = (hi > _HI_MAX) | (hi < ~_HI_MAX)
    over |= (hi == _HI_MAX) & (lo >= _LO_MAX) | (hi == ~_HI_MAX) & (lo <= ~_LO_MAX + np.uint64(1))
    if over.any():
        raise OverflowError(f"row {int(over.argmax())} has more than {QUANTITY.precision} digits")
    if _interleaved(lo, hi):
        words = np.lib.stride_tricks.as_strided(lo, (2 * len(lo),), (8,), writeable=False)
    else:
        words = np.empty(2 * len(lo), np.uint64)
        words[::2], words[1::2] = lo, hi.view(np.uint64)
    return pa.Decimal128Array.from_buffers(QUANTITY, len(lo), [None, pa.py_buffer(words)], null_count=0)


def from_integers(values: I64) -> Limbs:
    """Scale whole numbers, any int64, to quantities."""
    if not len(values) or (values.min() > -_NARROW and values.max() < _NARROW):
        scaled = values * np.int64(_SCALE)
        return scaled.view(np.uint64), scaled >> np.int64(63)
    # The 128-bit product by 32-bit halves; read as unsigned, a negative is 2**64 too much, so hi owes _SCALE.
    unsigned = np.ascontiguousarray(values).view(np.uint64)
    scale_lo, scale_hi = np.uint64(_SCALE & 0xFFFFFFFF), np.uint64(_SCALE >> 32)
    low, high = unsigned & _LOW, unsigned >> _HALF
    bottom, middle, other = low * scale_lo, low * scale_hi, high * scale_lo
    carry = (bottom >> _HALF) + (middle & _LOW) + (other & _LOW)
    top = high * scale_hi + (middle >> _HALF) + (other >> _HALF) + (carry >> _HALF)
    return (bottom & _LOW) | (carry << _HALF), top.view(np.int64) - np.where(values < 0, np.int64(_SCALE), 0)


def to_decimals(lo: U64, hi: I64) -> list[Decimal]:
    """Make Python decimals, each with its 12 decimals written out; 1.7 us each, so not for every row."""
    return cast("list[Decimal]", from_limbs(lo, hi).to_pylist())


def add(lo_a: U64, hi_a: I64, lo_b: U64, hi_b: I64) -> Limbs:
    """Add row by row. Raises OverflowError past 128 bits."""
    lo = lo_a + lo_b
    hi = hi_a + hi_b + (lo < lo_a)
    # The sum's sign differs from both operands' only if it wrapped.
    if ((hi ^ hi_a) & (hi ^ hi_b) < 0).any():
        raise OverflowError("a sum of quantities has more than 128 bits")
    return lo, hi


def locate(sorted_keys: U64, wanted: U64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Find keys in ascending `sorted_keys` -> (positions, found); a missing key's is where it belongs."""
    positions = np.searchsorted(sorted_keys, wanted)
    found = np.zeros(len(wanted), np.bool_)
    inside = positions < len(sorted_keys)
    found[inside] = sorted_keys[positions[inside]] == wanted[inside]
    return positions, found


def _interleaved(lo: U64, hi: I64) -> bool:
    """Whether `hi` lies just behind `lo`, both every 16 bytes, as an Arrow buffer has them."""
    return (
        len(lo) == len(hi) > 0
        and lo.strides == hi.strides == (16,)
        and hi.__array_interface__["data"][0] - lo.__array_interface__["data"][0] == 8
    )


def _split(values: Sequence[object]) -> tuple[list[int], list[int], list[tuple[int, Reason]]]:
    """The rows of integers, the rows of texts, and the errors that the rest are."""
    integers: list[int] = []
    texts: list[int] = []
    errors: list[tuple[int, Reason]] = []
    for row, value in enumerate(values):
        kind = type(value)
        if kind is str:
            texts.append(row)
        elif kind is int:
            integers.append(row)
        elif value is None:
            errors.append((row, Reason.VALUE_MISSING))
        elif issubclass(kind, str):  # schemas.meters.JsonNumber
            texts.append(row)
        elif kind in (bool, list, dict):
            errors.append((row, Reason.VALUE_NOT_NUMERIC))
        else:
            raise TypeError(
                f"value {row} is a {kind.__name__}: decode JSON numbers with float_hook=JsonNumber"
            )
    return integers, texts, errors


def _read_integers(values: Sequence[int]) -> ParsedColumn:
    try:
        numbers = np.fromiter(values, np.int64, len(values))
    except OverflowError:
        numbers = np.fromiter((max(-_LIMIT, min(value, _LIMIT)) for value in values), np.int64, len(values))
    beyond = (numbers >= _LIMIT) | (numbers <= -_LIMIT)
    numbers[beyond] = 0
    errors = [(row, Reason.VALUE_OUT_OF_RANGE) for row in np.flatnonzero(beyond).tolist()]
    return ParsedColumn(*from_integers(numbers), errors)


def _read_texts(texts: Sequence[str]) -> ParsedColumn:
    """Arrow reads the plain numbers, then the plain ones that it has to round; Python reads the others."""
    lo, hi = np.zeros(len(texts), np.uint64), np.zeros(len(texts), np.int64)
    left = np.arange(len(texts))
    try:
        column = pa.array(texts, pa.string())
    except UnicodeEncodeError:  # a lone surrogate
        column = None
    for pattern, exact in ((_PLAIN, QUANTITY), (_LONG, _WIDE)) if column is not None else ():
        plain = pc.match_substring_regex(column, pattern=pattern)
        at = plain.to_numpy(zero_copy_only=False)
        read = column.filter(plain).cast(exact)
        if exact is _WIDE:
            read = pc.round(read, ndigits=DECIMALS, round_mode="half_to_even").cast(QUANTITY)
        lo[left[at]], hi[left[at]] = limbs(read)
        left = left[~at]
        if not len(left):
            break
        column = column.filter(pc.invert(plain))
    errors: list[tuple[int, Reason]] = []
    for row in left.tolist():
        units = _units(texts[row])
        if isinstance(units, Reason):
            errors.append((row, units))
        else:
            lo[row], hi[row] = units & (1 << 64) - 1, units >> 64
    return ParsedColumn(lo, hi, errors)


def _units(text: str) -> int | Reason:
    """Read one number the slow way: with an exponent, with many digits, or none at all."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return Reason.VALUE_NOT_NUMERIC
    mantissa, exponent_sign, exponent = match.groups()
    if not mantissa.strip("0."):
        return 0
    if exponent and len(exponent.lstrip("0")) > _EXPONENT_DIGITS_MAX:
        return 0 if exponent_sign == "-" else Reason.VALUE_OUT_OF_RANGE
    value = Decimal(text, _CONTEXT)
    if value.adjusted() >= INTEGER_DIGITS_MAX:
        return Reason.VALUE_OUT_OF_RANGE
    units = int(value.quantize(_STEP, context=_CONTEXT).scaleb(DECIMALS, _CONTEXT))
    return units if abs(units) < _LIMIT * _SCALE else Reason.VALUE_OUT_OF_RANGE

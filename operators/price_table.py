"""What usage costs, priced in columns: exact integers instead of a `Decimal` each. Compiled.

quantities, in units of 1e-12 -> amounts, unrounded in units of 1e-24 and rounded in the currency's minor
units. As `Tariff.prices` and `schemas.money.round_money`, which stay the meaning: what a column can't hold
(a package price, an amount above `MINOR_MAX`) is marked, to be priced there.

All other prices are pieces of a line: from one bound to the next an amount is
`base + (quantity - origin) * unit_amount`. A row takes 60 ns; priced by itself, 5 us.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from operators.account_state import ZERO
from operators.compiled import compiled
from schemas.catalog import Catalog
from schemas.money import DECIMALS_MAX, EXACT, MINOR_UNITS
from schemas.plans import PlanCharge
from schemas.prices import Flat, Graduated, Package, PerUnit, Volume
from schemas.usage import I64, U64, Mask

MINOR_MAX: Final = 1 << 50
"""Amounts below this, 11 trillion dollars, are kept as an int64 of minor units."""

_AMOUNT_DECIMALS: Final = 2 * DECIMALS_MAX
_END = (1 << 127) - 1
"""Units of a quantity: the bound of a last piece."""

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_SIGN: Final = np.uint64(1 << 63)
_ONE, _NOUGHT = np.uint64(1), np.uint64(0)
_BILLION: Final = np.uint64(10**9)


class Piece(NamedTuple):
    """A stretch of quantities, up to and including a bound, that a price is one line over."""

    up_to: int
    """Units of 1e-12, as `origin` and `unit_amount`."""
    origin: int
    base: int
    """Units of 1e-24: what `origin` costs."""
    unit_amount: int


@dataclass(frozen=True, slots=True)
class Priced:
    """Rows of usage with their amounts; where `is_exact` is false, the rest means nothing."""

    minor: I64
    """What is owed, in the currency's minor units."""
    lo: U64
    hi: U64
    """Unrounded, in units of 1e-24, never negative: `hi << 64 | lo`."""
    is_exact: Mask


class PriceTable:
    """The prices of a catalog's plans, by number.

    A usage that nothing prices has a number too: its price is 0.
    """

    def __init__(self, catalog: Catalog) -> None:
        rows = [
            (plan, meter, charge) for plan in catalog.plans for meter, charge in plan.charges_by_meter.items()
        ]
        self.numbers = {(plan.id, meter): number for number, (plan, meter, _) in enumerate(rows, 1)}
        """By plan and meter, of those that have a price; 0 is the number of none."""
        self.charges = [PlanCharge(price=Flat(model="flat", amount=ZERO)), *(charge for _, _, charge in rows)]
        """By number, as all that follows."""
        columns = zip(
            ("", "", ""), *((plan.id, meter, plan.currency) for plan, meter, _ in rows), strict=True
        )
        self.names = [pa.array(column, pa.string()) for column in columns]
        """Plan, meter, currency."""
        digits = [0, *(MINOR_UNITS[plan.currency] for plan, _, _ in rows)]
        self.digits: I64 = np.array(digits, np.int64)
        """Decimals of the currency."""
        is_tiered = [isinstance(charge.price, Graduated | Volume) for charge in self.charges]
        self.is_tiered: Mask = np.array(is_tiered, np.bool_)
        """Whether its charges have a breakdown by tiers."""
        pieces = [pieces_of(charge) for charge in self.charges]
        self._pieces: U64 = np.array([_row(piece) for some in pieces for piece in some], np.uint64)
        self._ends: I64 = np.cumsum([len(some) for some in pieces])
        self._steps: U64 = np.array([10 ** (_AMOUNT_DECIMALS - 18 - one) for one in digits], np.uint64)
        """Units of 1e-6 in a minor unit."""

    def price(self, number: I64, lo: U64, hi: I64) -> Priced:
        """What quantities cost, each with the number of its price."""
        return Priced(*_price(self._pieces, self._ends, self._steps, number, lo, hi))


def pieces_of(charge: PlanCharge) -> list[Piece]:
    """The lines of a price; none if it has others, or one that 64 bits can't hold."""
    price, free = charge.price, charge.free_units
    nothing = Piece(_units(free), 0, 0, 0)
    if isinstance(price, Flat):
        pieces = [Piece(_END, 0, _squared(price.amount), 0)]
    elif isinstance(price, PerUnit):
        pieces = [nothing, Piece(_END, nothing.up_to, 0, _units(price.unit_amount))]
    elif isinstance(price, Graduated | Volume):
        pieces, below = [nothing], ZERO
        for tier in price.tiers:
            start = EXACT.add(free, below) if isinstance(price, Graduated) else free
            top = _END if tier.up_to is None else _units(EXACT.add(free, tier.up_to))
            flat = tier.flat_amount
            if isinstance(price, Graduated):
                flat = EXACT.add(flat, price.charge(below).amount)
            pieces.append(Piece(top, _units(start), _squared(flat), _units(tier.unit_amount)))
            below = tier.up_to or below
    elif isinstance(price, Package):
        return []
    return pieces if all(map(_is_narrow, pieces)) else []


def _is_narrow(piece: Piece) -> bool:
    return piece.up_to <= _END and piece.base <= _END and piece.unit_amount < 1 << 64


def _units(value: Decimal) -> int:
    return int(EXACT.scaleb(value, DECIMALS_MAX))


def _squared(amount: Decimal) -> int:
    return int(EXACT.scaleb(amount, _AMOUNT_DECIMALS))


def _row(piece: Piece) -> list[int]:
    """Low and high words, as `_price` reads them."""
    wide = (piece.up_to, piece.origin, piece.base)
    return [word for value in wide for word in (value & (1 << 64) - 1, value >> 64)] + [piece.unit_amount]


def averages(lo: U64, hi: I64, events: I64) -> tuple[U64, I64]:
    """Totals divided by how many readings they are of, at least one and below 2^32: half to even, as
    `schemas.money.quantize_quantity` rounds."""
    return _averages(lo, hi, events)


@compiled
def _averages(lo: U64, hi: I64, events: I64) -> tuple[U64, I64]:
    mean_lo, mean_hi = np.empty(len(lo), np.uint64), np.empty(len(lo), np.int64)
    for row in range(len(lo)):
        low, high, divisor = lo[row], np.uint64(hi[row]), np.uint64(events[row])
        if hi[row] < 0:
            low, high = ~low + _ONE, ~high + np.uint64(low == _NOUGHT)
        quotient_hi, quotient = _divide(high, low, divisor)
        rest = low - quotient * divisor  # below the divisor: the lower words tell
        twice = rest + rest
        if twice > divisor or (twice == divisor and quotient & _ONE):
            quotient += _ONE
            quotient_hi += np.uint64(quotient == _NOUGHT)
        if hi[row] < 0:
            quotient, quotient_hi = ~quotient + _ONE, ~quotient_hi + np.uint64(quotient == _NOUGHT)
        mean_lo[row], mean_hi[row] = quotient, np.int64(quotient_hi)
    return mean_lo, mean_hi


@compiled
def _price(  # noqa: PLR0917 - compiled code takes arrays, one by one
    pieces: U64, ends: I64, steps: U64, number: I64, q_lo: U64, q_hi: I64
) -> tuple[I64, U64, U64, Mask]:
    rows = len(number)
    minor, is_exact = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    lo, hi = np.zeros(rows, np.uint64), np.zeros(rows, np.uint64)
    for row in range(rows):
        first = ends[number[row] - 1] if number[row] else 0
        end = ends[number[row]]
        if first == end:
            continue
        low, high = q_lo[row], np.uint64(q_hi[row])
        if q_hi[row] < 0:  # a negative quantity costs what 0 costs
            low, high = _NOUGHT, _NOUGHT
        at = first
        while high > pieces[at, 1] or (high == pieces[at, 1] and low > pieces[at, 0]):
            at += 1
        # Above the origin, by what a unit costs: three words, of which the third must stay empty.
        part_lo = low - pieces[at, 2]
        part_hi = high - pieces[at, 3] - np.uint64(low < pieces[at, 2])
        if pieces[at, 6] == _NOUGHT:
            part_lo, part_hi = _NOUGHT, _NOUGHT
        first_lo, first_hi = _multiply(part_lo, pieces[at, 6])
        second_lo, second_hi = _multiply(part_hi, pieces[at, 6])
        middle = first_hi + second_lo
        third = second_hi + np.uint64(middle < first_hi)
        total_lo = first_lo + pieces[at, 4]
        carry = np.uint64(total_lo < first_lo)
        total_hi = middle + pieces[at, 5] + carry
        if third != _NOUGHT or middle >= _SIGN or total_hi >= _SIGN:
            continue
        lo[row], hi[row] = total_lo, total_hi
        # Half away from zero: half a minor unit more, and what is left of it is cut off.
        step = steps[number[row]]
        half_lo, half_hi = _multiply(_BILLION * _BILLION, step >> _ONE)
        up_lo = total_lo + half_lo
        up_hi = total_hi + half_hi + np.uint64(up_lo < total_lo)
        up_hi, up_lo = _divide(up_hi, up_lo, _BILLION)
        up_hi, up_lo = _divide(up_hi, up_lo, _BILLION)
        up_hi, up_lo = _divide(up_hi, up_lo, step)
        if up_hi == _NOUGHT and up_lo < MINOR_MAX:
            minor[row], is_exact[row] = np.int64(up_lo), True
    return minor, lo, hi, is_exact


@compiled
def _multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The 128 bits of a product: (low, high)."""
    a_lo, a_hi, b_lo, b_hi = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    bottom, one, other = a_lo * b_lo, a_lo * b_hi, a_hi * b_lo
    middle = (bottom >> _HALF) + (one & _LOW) + (other & _LOW)
    top = a_hi * b_hi + (one >> _HALF) + (other >> _HALF) + (middle >> _HALF)
    return (middle << _HALF) | (bottom & _LOW), top


@compiled
def _divide(high: np.uint64, low: np.uint64, divisor: np.uint64) -> tuple[np.uint64, np.uint64]:
    """128 bits by at most 32, cut off: (high, low)."""
    part = high >> _HALF
    digit, rest = part // divisor, part % divisor
    part = (rest << _HALF) | (high & _LOW)
    quotient_hi, rest = (digit << _HALF) | (part // divisor), part % divisor
    part = (rest << _HALF) | (low >> _HALF)
    digit, rest = part // divisor, part % divisor
    part = (rest << _HALF) | (low & _LOW)
    return quotient_hi, (digit << _HALF) | (part // divisor)

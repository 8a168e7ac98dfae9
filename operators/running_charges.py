"""Rows of `usage_charges` of usage in columns: as operators/charges.py makes them of ledgers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.accounts import Accounts
from operators.aggregate import Limbs, add, from_integers, from_limbs, to_decimals
from operators.charges import MOVES_MAX, READINGS_BITS, READINGS_MAX
from operators.price_table import Priced, PriceTable
from schemas import arrow
from schemas.money import DECIMALS_MAX
from schemas.usage import I64, U64, Mask


@dataclass(frozen=True, slots=True)
class RunningCharges:
    """Usages whose charges are to be sent, in columns."""

    account: I64
    place: I64
    first: I64
    end: I64
    """Minutes of their segments."""
    price: I64
    """Its number in the table of prices."""
    events: I64
    moves: I64
    """Of their accounts."""
    quantity: Limbs
    priced: Priced
    """All of it is exact."""
    is_unique: Mask

    def versions(self) -> I64:
        """As `operators.charges.charge_version`: each of these is owed."""
        folded = np.minimum(self.events + 1, READINGS_MAX)
        return np.minimum(self.moves, MOVES_MAX) << np.int64(READINGS_BITS) | folded


def running_charge_rows(
    charges: RunningCharges, prices: PriceTable, generation: int, accounts: Accounts
) -> pa.RecordBatch | None:
    """`schemas.arrow.USAGE_CHARGES` of the usages that a plan prices; None without any.

    :arg generation: What all versions begin with.
    """
    at = np.flatnonzero(charges.price)
    if not len(at):
        return None
    price = charges.price[at]
    lo, hi = charges.quantity[0][at], charges.quantity[1][at]
    plans, meters, currencies = (column.take(pa.array(price)) for column in prices.names)
    unrounded = np.zeros((len(at), 4), np.uint64)
    unrounded[:, 0], unrounded[:, 1] = charges.priced.lo[at], charges.priced.hi[at]
    versions = charges.versions()[at].view(np.uint64) | np.uint64(generation)
    columns = [
        *accounts.columns(charges.account[at]),
        pa.array(charges.first[at] * 60).view(arrow.TIMESTAMP_S),
        pa.array(charges.end[at] * 60).view(arrow.TIMESTAMP_S),
        meters,
        plans,
        currencies,
        pa.array(charges.events[at].view(np.uint64)),
        from_limbs(lo, hi),
        pa.Array.from_buffers(arrow.AMOUNT, len(at), [None, pa.py_buffer(unrounded)], null_count=0),
        from_limbs(*_money(charges.priced.minor[at], prices.digits[price])),
        pa.array(_tiers(prices, price, lo, hi), pa.string()),
        pa.array(versions),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=arrow.USAGE_CHARGES)


def _money(minor: I64, digits: I64) -> Limbs:
    """Amounts in units of 1e-12."""
    unit = 10**digits
    lo, hi = from_integers(minor // unit)
    below = minor % unit * 10 ** (DECIMALS_MAX - digits)
    return add(lo, hi, below.view(np.uint64), np.zeros(len(minor), np.int64))


def _tiers(prices: PriceTable, price: I64, lo: U64, hi: I64) -> list[str]:
    """The breakdown of each price."""
    tiers = ["[]"] * len(price)
    at = np.flatnonzero(prices.is_tiered[price])
    for row, number, quantity in zip(
        at.tolist(), price[at].tolist(), to_decimals(lo[at], hi[at]), strict=True
    ):
        tiers[row] = prices.charges[number].charge(quantity).tiers_json()
    return tiers

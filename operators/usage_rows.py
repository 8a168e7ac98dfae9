"""What a fold adds to the bills: a row for each account and meter, with all its minutes summed.

in: `Folded`, a cell for each account, meter and minute. out: rows for `Ledger.add_usage`, which takes a row
whole where its minutes are in one segment, as nearly all are: it is called once a meter, not once a minute.

Nothing here keeps state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

import numpy as np

from operators.account_state import ZERO
from operators.folds import MINUTE_BITS, Folded, unpack
from operators.groups import first_of_runs, sum_by_group
from schemas.money import EXACT
from schemas.usage import I64, U64, Mask

UsageRow: TypeAlias = tuple[int, int, int, int, int, int, Decimal]
"""(account number, meter index, first minute, last minute, start, end, total): the readings are
`folded.order[start:end]`, and `folded.tokens[start:end]` theirs."""

_DECIMALS = -12
"""Of a quantity's unit, as a power of ten (operators/aggregate.py)."""


@dataclass(frozen=True, slots=True)
class UsageRows:
    """Rows in columns; int64, and `lo` and `hi` as in `Readings`, 0 of meters that add nothing up."""

    account: I64
    meter: I64
    first: I64
    last: I64
    start: I64
    end: I64
    lo: U64
    hi: I64

    def __iter__(self) -> Iterator[UsageRow]:
        columns = (self.account, self.meter, self.first, self.last, self.start, self.end)
        return zip(*(column.tolist() for column in columns), _totals(self.lo, self.hi), strict=True)

    def at(self, rows: I64) -> UsageRows:
        """Some of the rows."""
        return UsageRows(
            self.account[rows],
            self.meter[rows],
            self.first[rows],
            self.last[rows],
            self.start[rows],
            self.end[rows],
            self.lo[rows],
            self.hi[rows],
        )


def by_meter(folded: Folded, summed: Mask) -> UsageRows:
    """A row for each account and meter.

    :arg summed: Meters that add values up.
    """
    first = first_of_runs(folded.key >> np.uint64(MINUTE_BITS))
    if len(first) == len(folded.key):
        return by_minute(folded, summed)
    last = np.append(first[1:], len(folded.key)) - 1
    lo, hi = sum_by_group(folded.lo, folded.hi, first)
    return _rows(folded, (first, last), (lo, hi), summed)


def by_minute(folded: Folded, summed: Mask) -> UsageRows:
    """A row for each account, meter and minute."""
    every = np.arange(len(folded.key))
    return _rows(folded, (every, every), (folded.lo, folded.hi), summed)


def _rows(folded: Folded, cells: tuple[I64, I64], sums: tuple[U64, I64], summed: Mask) -> UsageRows:
    first, last = cells
    account, meter, minute = unpack(folded.key[first])
    last_minute = minute if first is last else unpack(folded.key[last])[2]
    lo, hi = sums
    adds_up = summed[meter]
    bounds = (folded.starts[first], folded.ends[last])
    return UsageRows(account, meter, minute, last_minute, *bounds, lo * adds_up, hi * adds_up)


def _totals(lo: U64, hi: I64) -> list[Decimal]:
    totals = [ZERO] * len(lo)
    at = np.flatnonzero((lo != 0) | (hi != 0))
    # A quarter of what `to_decimals` takes by way of Arrow.
    for row, low, high in zip(at.tolist(), lo[at].tolist(), hi[at].tolist(), strict=True):
        totals[row] = EXACT.scaleb(high << 64 | low, _DECIMALS)
    return totals

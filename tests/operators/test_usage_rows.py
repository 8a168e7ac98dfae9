"""Rows of a fold, by meter and by minute."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.folds import pack, sum_by_key
from operators.usage_rows import UsageRow, by_meter, by_minute
from schemas.money import exact_sum

SUMMED = np.array([False, True, True])
LIMIT = 10**30
readings = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4), st.integers(-LIMIT, LIMIT)), min_size=1
)
"""(account, meter, minute, value in units of 10^-12)"""


def rows_of(drawn: list[tuple[int, int, int, int]]) -> tuple[list[UsageRow], list[UsageRow]]:
    account, meter, minute = (np.array([one[at] for one in drawn], np.uint64) for at in range(3))
    lo = np.array([units & (1 << 64) - 1 for *_, units in drawn], np.uint64)
    hi = np.array([units >> 64 for *_, units in drawn], np.int64)
    folded = sum_by_key(pack(account, meter, minute), lo, hi, lo)
    return list(by_meter(folded, SUMMED)), list(by_minute(folded, SUMMED))


@given(readings)
def test_a_row_by_meter_is_all_its_minutes(drawn: list[tuple[int, int, int, int]]) -> None:
    whole, parts = rows_of(drawn)
    wanted: dict[tuple[int, int], list[tuple[int, Decimal]]] = {}
    for account, meter, minute, units in drawn:
        total = Decimal(f"{units}e-12") if SUMMED[meter] else Decimal(0)
        wanted.setdefault((account, meter), []).append((minute, total))
    assert [row[:2] for row in whole] == sorted(wanted)
    for account, meter, first, last, start, end, total in whole:
        minutes, totals = zip(*wanted[account, meter], strict=True)
        assert (first, last, end - start) == (min(minutes), max(minutes), len(minutes))
        assert total == exact_sum(totals)
        mine = [row for row in parts if row[:2] == (account, meter)]
        assert [row[2] for row in mine] == [row[3] for row in mine] == sorted(set(minutes))
        assert (mine[0][4], mine[-1][5], exact_sum(row[6] for row in mine)) == (start, end, total)

"""What must be in the stores after a log of `Events`, added up from the columns that it was rendered from.

It shares neither decoder, meter, decimal nor price code with the flow: integers in numpy, then Decimals.
Every total is exact. A distinct count over `EXACT_UNIQUES` is what the stores only estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import numpy as np

from benchmarks.catalog import (
    AMOUNT_METERS,
    API,
    CREDIT,
    LLM,
    MODELS,
    NAMES,
    PRICES,
    REGIONS,
    SUMMED_MODELS,
    SUMMED_REGIONS,
)
from benchmarks.events import AMOUNT_SCALES, I64, Events, Mask

CENT = Decimal("0.01")
EXACT_UNIQUES = 4096
"""uniqCombined64(17) counts exactly up to here."""
MINUTE_S = 60


@dataclass(frozen=True)
class Cell:
    """A meter's usage of one customer in one window, or month."""

    events: int
    total: Decimal
    uniques: int

    def quantity(self, meter: str) -> Decimal:
        counts = {"api-requests": self.events, "active-users": self.uniques}
        return Decimal(counts[meter]) if meter in counts else self.total


Cells = dict[tuple[str, str, int], Cell]
"""meter_id, customer, start in Unix seconds -> its usage"""


def counted(events: Events) -> Events:
    """The events without their repeats."""
    return events.select(~events.duplicate)


def windows(events: Events) -> Cells:
    """Every 1-minute window."""
    return _cells(counted(events), counted(events).at_ms // 1000 // MINUTE_S * MINUTE_S)


def windows_with_repeats(events: Events) -> Cells:
    """Every window of who does not know a repeat when it sees one."""
    return _cells(events, events.at_ms // 1000 // MINUTE_S * MINUTE_S)


def months(events: Events) -> Cells:
    """Every billing period."""
    once = counted(events)
    month = once.at_ms.astype("datetime64[ms]").astype("datetime64[M]")
    return _cells(once, month.astype("datetime64[s]").astype(np.int64))


def charge(meter: str, cell: Cell) -> Decimal:
    """What a month of a meter costs, rounded to cents."""
    return (cell.quantity(meter) * PRICES[meter]).quantize(CENT, ROUND_HALF_UP)


def wallets(charges: dict[tuple[str, str, int], Decimal], customers: int) -> dict[str, Decimal]:
    """What each customer has left; every one has a wallet, used or not."""
    left = {customer_name(number): CREDIT for number in range(customers)}
    for (_, customer, _), amount in charges.items():
        left[customer] -= amount
    return left


def customer_name(number: int) -> str:
    return f"cust_{number:06d}"


def _cells(once: Events, start_s: I64) -> Cells:
    api, llm = once.name == NAMES.index(API), once.name == NAMES.index(LLM)
    summed = llm & np.isin(once.model, [MODELS.index(model) for model in SUMMED_MODELS])
    summed &= np.isin(once.region, [REGIONS.index(region) for region in SUMMED_REGIONS])
    masks = {
        "api-requests": api,
        "llm-tokens": summed,
        "api-latency": api,
        "active-users": llm,
        "storage": ~api & ~llm,
    }
    cells: Cells = {}
    for meter, mask in masks.items():
        cells.update(_of_meter(meter, once, start_s, mask))
    return cells


def _of_meter(meter: str, once: Events, start_s: I64, mask: Mask) -> Cells:
    rows = np.flatnonzero(mask)
    if not len(rows):
        return {}
    key = once.customer[rows] << 32 | start_s[rows]
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    keys, starts, counts = np.unique(key, return_index=True, return_counts=True)
    sums = np.add.reduceat(once.amount[rows], starts) if meter in AMOUNT_METERS else np.zeros_like(keys)
    uniques = np.zeros_like(keys)
    if meter == "active-users":
        place = np.repeat(np.arange(len(keys)), counts)
        distinct = np.unique(place << 32 | once.user[rows])
        uniques = np.bincount(distinct >> 32, minlength=len(keys))
    scale = AMOUNT_SCALES[int(once.name[rows[0]])]
    columns = zip(keys.tolist(), counts.tolist(), sums.tolist(), uniques.tolist(), strict=True)
    return {
        (meter, customer_name(at >> 32), at & 0xFFFFFFFF): Cell(
            count, Decimal(total).scaleb(-scale), distinct_
        )
        for at, count, total, distinct_ in columns
    }

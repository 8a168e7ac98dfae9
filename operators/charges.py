"""Rows of `usage_charges`: what each meter's usage in a billing segment costs, and why."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from operators.account_state import Usage
from operators.ledger import Ledger
from schemas import arrow

MOVES_BITS, READINGS_BITS = 14, 38
MOVES_MAX, READINGS_MAX = (1 << MOVES_BITS) - 1, (1 << READINGS_BITS) - 1
"""Of a charge's version: 16,383 subscription events and adjustments an account, 270 billion readings a
charge. Past them versions stay the same, and of equal ones the store keeps the last that was sent."""


class UnsentCharge(NamedTuple):
    """A usage whose charge is to be sent, and the version of that."""

    ledger: Ledger
    usage: Usage
    version: int


def charge_version(ledger: Ledger, usage: Usage) -> int:
    """How much is folded into a charge: moves, then readings. It grows with every input that the charge
    depends on, in whatever order they come, and with no other: it would not be sent again for that, and
    a replay that meets the topics in another order could then never overtake what it replaces.
    """
    folded = ledger.readings_of(usage) + ledger.is_owed(usage)
    return min(ledger.state.moves, MOVES_MAX) << READINGS_BITS | min(max(folded, 0), READINGS_MAX)


def charge_rows(unsent: list[UnsentCharge]) -> pa.RecordBatch | None:
    """`schemas.arrow.USAGE_CHARGES` of the usages that a plan prices; None without any.

    A usage that lost its segment (its plan turned out not to hold then) is sent once more, as 0.
    """
    rows = [
        _row(item)
        for item in unsent
        if (item.usage.plan_id, item.usage.meter_id) in item.ledger.tariff.prices
    ]
    if not rows:
        return None
    columns = [
        pa.array(values, field.type)
        for field, values in zip(arrow.USAGE_CHARGES, zip(*rows, strict=True), strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=arrow.USAGE_CHARGES)


def _row(item: UnsentCharge) -> tuple[object, ...]:
    ledger, usage, version = item
    state = ledger.state
    if usage.is_stale:
        ledger.price(usage)
    return (
        state.tenant_id,
        state.customer_id,
        usage.start_ms // 1000,
        usage.end_ms // 1000,
        usage.meter_id,
        usage.plan_id,
        usage.currency,
        max(usage.events, 0),
        usage.quantity,
        usage.amount_unrounded,
        usage.amount,
        _tiers(ledger, usage) if (usage.plan_id, usage.meter_id) in ledger.tariff.tiered else "[]",
        version,
    )


def _tiers(ledger: Ledger, usage: Usage) -> str:
    charge = ledger.catalog.plans_by_id[usage.plan_id].charges_by_meter[usage.meter_id]
    return charge.charge(usage.quantity).tiers_json() if ledger.is_owed(usage) else "[]"

"""Rows of `usage_charges`: what each meter's usage in a billing segment costs, and why."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa

from operators.account_state import ZERO, Usage
from operators.ledger import Ledger
from schemas import arrow
from schemas.prices import Charge


@dataclass(frozen=True, slots=True)
class UnsentCharge:
    """A usage whose charge is to be sent, and the version of its account."""

    ledger: Ledger
    usage: Usage
    version: int


def charge_rows(unsent: list[UnsentCharge]) -> pa.RecordBatch | None:
    """`schemas.arrow.USAGE_CHARGES` of the usages that a plan prices; None without any.

    A usage that lost its segment (its plan turned out not to hold then) is sent once more, as 0.
    """
    rows = [_row(item, item.ledger.charge(item.usage)) for item in unsent if _is_priced(item)]
    if not rows:
        return None
    columns = [
        pa.array(values, field.type)
        for field, values in zip(arrow.USAGE_CHARGES, zip(*rows, strict=True), strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=arrow.USAGE_CHARGES)


def _is_priced(item: UnsentCharge) -> bool:
    plan = item.ledger.catalog.plans_by_id.get(item.usage.plan_id)
    return plan is not None and item.usage.meter_id in plan.charges_by_meter


def _row(item: UnsentCharge, charge: Charge | None) -> tuple[object, ...]:
    usage, state = item.usage, item.ledger.state
    holds = charge is not None
    return (
        state.tenant_id,
        state.customer_id,
        usage.start_ms // 1000,
        usage.end_ms // 1000,
        usage.meter_id,
        usage.plan_id,
        usage.currency,
        max(usage.events, 0),
        item.ledger.quantity(usage) if holds else ZERO,
        _unrounded(charge),
        item.ledger.amount(usage),
        charge.tiers_json() if charge is not None else "[]",
        item.version,
    )


def _unrounded(charge: Charge | None) -> Decimal:
    return ZERO if charge is None else charge.amount

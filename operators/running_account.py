"""What of an account can run in columns (operators/running_usage.py), and its way there and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from operators.account_state import Usage
from operators.ledger import Ledger
from operators.timeline import Segment
from schemas.money import EXACT, MINOR_UNITS

TOTAL_MAX = Decimal(10) ** 25
"""Of a total that 128 bits hold, with room to grow; and minor units of a wallet's usage:"""
USED_MAX = 1 << 61


def usages_of(ledger: Ledger, segment: Segment) -> list[Usage] | None:
    """The usages of a segment that more may be added to; None if they can't run."""
    known = ledger.catalog.meters_by_id
    usages = [
        usage
        for usage in ledger.usages.values()
        if usage.key[:2] == segment.key and usage.events > 0 and usage.meter_id in known
    ]
    return usages if all(_can_run(ledger, usage) for usage in usages) else None


def _can_run(ledger: Ledger, usage: Usage) -> bool:
    is_plain = usage.holds and not usage.adjustments and usage.meter_id not in ledger.tariff.lasting
    return is_plain and abs(usage.total) < TOTAL_MAX


def can_begin(ledger: Ledger, segment: Segment, meter_id: str) -> bool:
    """Whether usage of a meter may begin where it runs: no other usage of its segment depends on it."""
    return (
        (*segment.key, meter_id) not in ledger.usages
        and segment.end_ms > ledger.state.forgotten_ms
        and meter_id not in ledger.tariff.lasting
        and not ledger.catalog.standing_charges[segment.plan.id]
    )


def begin(ledger: Ledger, segment: Segment, meter_id: str) -> Usage:
    """Begin a usage that runs: the rest of its account is as it was."""
    before = ledger.has_changed
    usage = ledger.usage_of(segment, meter_id)
    ledger.has_changed = before
    # As `release`, in a third of its time: it is the last one in both lists.
    usage.is_stale = usage.is_unsent = False
    ledger.stale.pop()
    ledger.unsent.pop()
    return usage


def minor_units(amount: Decimal, currency: str) -> int:
    """A rounded amount, or a sum of such."""
    return int(EXACT.scaleb(amount, MINOR_UNITS[currency]))


def release(ledger: Ledger, usages: Iterable[Usage]) -> None:
    """The ledger need not price and send these from now on."""
    for usage in usages:
        usage.is_stale = usage.is_unsent = False
    ledger.stale = [usage for usage in ledger.stale if usage.is_stale]
    ledger.unsent = [usage for usage in ledger.unsent if usage.is_unsent]


def take_back(ledger: Ledger, usage: Usage) -> None:
    """The usage is the ledger's again, and may have more than when it was priced there last."""
    usage.is_stale = True
    ledger.stale.append(usage)
    if usage.is_unsent:
        ledger.unsent.append(usage)

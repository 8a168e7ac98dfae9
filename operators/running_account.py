"""What of an account can run in columns (operators/running_usage.py), and its way there and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from operators.account_state import Usage
from operators.balances import Wallet
from operators.ledger import Ledger
from operators.timeline import Segment
from schemas.catalog import Catalog
from schemas.money import EXACT, MINOR_UNITS

TOTAL_MAX = Decimal(10) ** 25
"""Of a total that 128 bits hold with room to grow; and minor units of a wallet's usage:"""
USED_MAX = 1 << 61


class Running(NamedTuple):
    """An account whose usage may run in columns."""

    number: int
    ledger: Ledger
    segment: Segment
    usages: list[Usage]
    """Those of the segment that a reading may be added to."""
    wallet: Wallet
    """The only one."""


def running_of(number: int, ledger: Ledger) -> Running | None:
    """The account, if its usage may run in columns: everything is priced, its wallets are made."""
    segment, wallets = ledger.current, ledger.balances.wallets()
    if segment is None or len(wallets) != 1:
        return None
    (wallet,) = wallets
    if wallet.currency != segment.plan.currency or abs(minor_units(wallet)) >= USED_MAX:
        return None
    usages = [usage for usage in ledger.usages.values() if _is_of(usage, segment, ledger.catalog)]
    if usages and all(_can_run(ledger, usage) for usage in usages):
        return Running(number, ledger, segment, usages, wallet)
    return None


def _is_of(usage: Usage, segment: Segment, catalog: Catalog) -> bool:
    return usage.key[:2] == segment.key and usage.events > 0 and usage.meter_id in catalog.meters_by_id


def _can_run(ledger: Ledger, usage: Usage) -> bool:
    is_plain = usage.holds and not usage.adjustments and usage.meter_id not in ledger.tariff.lasting
    return is_plain and not ledger.balances.is_covered(usage) and abs(usage.total) < TOTAL_MAX


def can_begin(ledger: Ledger, segment: Segment, meter_id: str) -> bool:
    """Whether usage of a meter may begin while the account runs: it is the first in a segment whose other
    usages do not depend on it, and no ledger has looked at another segment since."""
    plan = segment.plan
    return (
        ledger.current is segment
        and (segment.start_ms, plan.id, meter_id) not in ledger.usages
        and segment.end_ms > ledger.state.forgotten_ms
        and meter_id not in ledger.tariff.lasting
        and not ledger.catalog.standing_charges[plan.id]
        and not ledger.balances.is_covered_at(plan.currency, segment.start_ms, segment.period_ms)
    )


def minor_units(wallet: Wallet) -> int:
    """A wallet's usage, which is a sum of rounded amounts."""
    return int(EXACT.scaleb(wallet.usage, MINOR_UNITS[wallet.currency]))


def release(ledger: Ledger, usages: Iterable[Usage]) -> None:
    """Columns tell from now on which of these has a charge to send."""
    for usage in usages:
        usage.is_unsent = False
    ledger.unsent = [usage for usage in ledger.unsent if usage.is_unsent]


def take_back(ledger: Ledger, usage: Usage) -> None:
    """The usage is the ledger's again, and may have more than when it was priced last."""
    if not usage.is_stale:
        usage.is_stale = True
        ledger.stale.append(usage)
    if usage.is_unsent:
        ledger.unsent.append(usage)

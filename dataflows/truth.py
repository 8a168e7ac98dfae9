"""The truth about a workload, to check a flow by: what must be in the stores once all is read.

`Truth.add(event)`, `add_account(event)` -> `usage`, `bills`, `wallets()`. It adds up what the generator says
about its usage events and never reads their bytes: it shares no decoder, meter or price with the flow.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import orjson

from dataflows.workload import Kind, Produced
from dataflows.workload_catalog import PRICES

CENT = Decimal("0.01")


@dataclass(slots=True)
class Usage:
    """What a meter has read: how many readings, their sum, the distinct texts."""

    events: int = 0
    total: Decimal = Decimal(0)
    uniques: set[str] = field(default_factory=set)

    def quantity(self, meter_id: str) -> Decimal:
        """What is billed of a meter of the workload's catalog."""
        by_meter = {"api-requests": Decimal(self.events), "active-users": Decimal(len(self.uniques))}
        return by_meter.get(meter_id, self.total)


@dataclass(slots=True)
class Money:
    """A wallet of the workload's one currency."""

    balance: Decimal = Decimal(0)
    unpaid_invoices: Decimal = Decimal(0)
    usage: Decimal = Decimal(0)

    @property
    def available(self) -> Decimal:
        return self.balance - self.unpaid_invoices - self.usage


class Truth:
    """Totals over everything added so far."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.reasons: Counter[str] = Counter()
        self.usage: dict[tuple[str, str, str], Usage] = defaultdict(Usage)
        """By tenant_id, meter_id, customer: all its windows together, without late readings."""
        self.bills: dict[tuple[str, str, str, datetime], Usage] = defaultdict(Usage)
        """By tenant_id, customer, meter_id, first of the month: late readings too."""
        self.late_readings = 0
        self._accounts: dict[tuple[str, str], Money] = defaultdict(Money)

    def add(self, event: Produced) -> None:
        """Count one usage event."""
        self.kinds[event.kind] += 1
        if event.reason is not None:
            self.reasons[event.reason] += 1
        month = None
        for meter_id, value, unique in event.readings:
            if month is None:
                at = datetime.fromtimestamp(event.at_ms // 1000, UTC)
                month = at.replace(day=1, hour=0, minute=0, second=0)
            folds = [self.bills[event.tenant_id, event.customer, meter_id, month]]
            if event.kind is Kind.LATE:
                self.late_readings += 1
            else:
                folds.append(self.usage[event.tenant_id, meter_id, event.customer])
            for usage in folds:
                usage.events += 1
                if value is not None:
                    usage.total += Decimal(value)
                if unique is not None:
                    usage.uniques.add(unique)

    def add_account(self, event: Produced) -> None:
        """Apply one account event."""
        account = self._accounts[event.tenant_id, event.customer]
        said = orjson.loads(event.value)
        amount = Decimal(said["amount"])
        match said["type"]:
            case "credit_granted":
                account.balance += amount
            case "debit":
                account.balance -= amount
            case "invoice_issued":
                account.unpaid_invoices += amount
            case "invoice_paid":
                account.unpaid_invoices -= amount

    def wallets(self) -> dict[tuple[str, str], Money]:
        """By tenant_id and customer, all with a balance or a bill; charges are rounded, then added."""
        wallets: dict[tuple[str, str], Money] = defaultdict(Money)
        for account, money in self._accounts.items():
            wallets[account] = Money(money.balance, money.unpaid_invoices)
        for (tenant, customer, meter_id, _), usage in self.bills.items():
            if meter_id in PRICES:
                charge = usage.quantity(meter_id) * Decimal(PRICES[meter_id])
                wallets[tenant, customer].usage += charge.quantize(CENT, ROUND_HALF_UP)
        return dict(wallets)

"""What is kept of a customer, in plain values: usage by segment, credits, invoices, plan phases."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from operators.hyperloglog import UniqueSketch
from operators.timeline import BEGINNING_MS, Phase

ZERO = Decimal(0)


class Usage(msgspec.Struct):
    """One meter's usage in one segment; `meter_id` "" is the plan's own fee."""

    meter_id: str
    plan_id: str
    currency: str
    start_ms: int
    end_ms: int
    period_ms: int
    events: int = 0
    total: Decimal = ZERO
    adjusted: Decimal = ZERO
    uniques: UniqueSketch | None = None
    settled: UniqueSketch | None = None
    """The part of `uniques` that no account event can move to another segment any more."""
    amount: Decimal = ZERO
    """What is owed for it: rounded to the currency's precision."""
    is_stale: bool = True
    """`amount` was computed before the last change."""
    is_unsent: bool = True
    """The charge changed since it was last sent to ClickHouse."""

    @property
    def key(self) -> tuple[int, str, str]:
        return self.start_ms, self.plan_id, self.meter_id


class Grant(msgspec.Struct):
    """A credit, and what debits have left of it."""

    id: str
    currency: str
    remaining: Decimal
    granted_ms: int
    expires_ms: int | None
    priority: int
    is_expired: bool = False
    """Its expiry was counted as a transition."""


class Invoice(msgspec.Struct):
    """An invoice and what is unpaid of it; a voided one covers nothing any more."""

    id: str
    currency: str
    amount: Decimal
    unpaid: Decimal
    period_ms: int
    is_void: bool = False


class AccountState(msgspec.Struct):
    """All that is kept of a customer, in plain values."""

    tenant_id: str
    customer_id: str
    phases: list[Phase] = []
    usages: list[Usage] = []
    grants: list[Grant] = []
    overdrafts: dict[str, Decimal] = {}
    """By currency: debits that no grant covered."""
    invoices: list[Invoice] = []
    applied: dict[str, int] = {}
    """Ids of account events, with their append times."""
    inputs: int = 0
    transitions: int = 0
    """Changes that time alone made: credits expired, fees begun."""
    fees_until_ms: int = BEGINNING_MS
    """Fees of subscribed segments before this moment have begun."""
    as_of_ms: int = 0
    """The newest append time among the inputs."""

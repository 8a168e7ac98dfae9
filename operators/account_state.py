"""What is kept of a customer, in plain values: usage by segment, credits, invoices, plan phases.

It grows with open business only, such as usage that no invoice covers. What is settled leaves it
(operators/aging.py); what remains of a customer for ever is an empty account: its names, its counts, and
an amount for every currency, so that its versions go on and its wallets can be sent again.

Structs are written as arrays, without their fields' names (operators/stored_accounts.py, usages in a form of
their own): an epoch's snapshot encodes accounts that changed in it. A new field goes last, with a default.
"""

from __future__ import annotations

from collections.abc import Container
from decimal import Decimal

import msgspec

from operators.hyperloglog import UniqueSketch
from operators.timeline import BEGINNING_MS, Phase

ZERO = Decimal(0)
DAY_MS = 86_400_000
KEPT_MS = 90 * DAY_MS
"""How long what is settled can still be referred to, by append time: ids applied, credits expired,
invoices paid or voided, the usage they cover."""


class Usage(msgspec.Struct):
    """One meter's usage in one segment; `meter_id` "" is the plan's own fee.

    `plan_id` "" is what a meter that never resets had in segments that are forgotten.
    """

    meter_id: str
    plan_id: str
    currency: str
    start_ms: int
    end_ms: int
    period_ms: int
    events: int = 0
    total: Decimal = ZERO
    adjustments: dict[int, Decimal] = {}
    """By the moment that each was for: a subscription event may move it, as it moves usage."""
    uniques: UniqueSketch | None = None
    settled: UniqueSketch | None = None
    """The part of `uniques` that no account event can move to another segment any more."""
    quantity: Decimal = ZERO
    """What the meter's aggregation made of it when it was last priced, with adjustments; 0 if it costs
    nothing because no plan prices it."""
    amount_unrounded: Decimal = ZERO
    amount: Decimal = ZERO
    """What is owed for it: rounded to the currency's precision."""
    holds: bool = True
    """Its segment is on the timeline; otherwise its plan did not hold then, and it costs nothing."""
    is_stale: bool = True
    """It changed since it was last priced."""
    is_unsent: bool = True
    """The charge changed since it was last sent to ClickHouse."""
    is_stored: bool = False
    """A commit has it, so that its charge may be sent; see `Bills.charges`."""
    place: int = 0
    """In `AccountState.usages`."""

    @property
    def key(self) -> tuple[int, str, str]:
        return self.start_ms, self.plan_id, self.meter_id

    def is_covered(self, places: Container[tuple[str, int]]) -> bool:
        """Whether one of the invoices at these places (currency, period_start) covers it."""
        return (self.currency, self.period_ms) in places or (self.currency, self.start_ms) in places

    @property
    def is_used(self) -> bool:
        return self.events != 0 or bool(self.adjustments)


class Grant(msgspec.Struct, array_like=True):
    """A credit, and what debits have left of it."""

    id: str
    currency: str
    remaining: Decimal
    granted_ms: int
    expires_ms: int | None
    priority: int
    is_expired: bool = False
    """Its expiry was counted as a transition. One that is used up before counts then, and is dropped."""


OPEN_MS = 1 << 62
"""When an open invoice was settled."""


class Invoice(msgspec.Struct, array_like=True):
    """An invoice and what is unpaid of it; a voided one covers nothing."""

    id: str
    currency: str
    amount: Decimal
    unpaid: Decimal
    period_ms: int
    is_void: bool = False
    settled_ms: int = OPEN_MS
    """Append time of the event that paid or voided it."""


class Terms(msgspec.Struct, array_like=True, frozen=True):
    """A threshold: `schemas.thresholds.Threshold`, with its name for id."""

    id: str
    kind: str
    amount: Decimal | None
    percent: Decimal | None


class Level(msgspec.Struct, array_like=True, frozen=True):
    """What thresholds compare of a wallet."""

    available: Decimal = ZERO
    usage: Decimal = ZERO
    credits: Decimal = ZERO


class Crossing(msgspec.Struct, array_like=True, frozen=True):
    """How often a threshold was crossed, and whether the last time was downwards."""

    number: int = 0
    is_low: bool = False


class AccountState(msgspec.Struct, array_like=True):
    """All that is kept of a customer, in plain values."""

    tenant_id: str
    customer_id: str
    phases: list[Phase] = []
    usages: list[Usage] = []
    grants: list[Grant] = []
    overdrafts: dict[str, Decimal] = {}
    """Debits that no grant covered, for every currency that the account has seen."""
    invoices: list[Invoice] = []
    applied: dict[str, int] = {}
    """Ids of account events, with their append times, oldest first."""
    thresholds: dict[str, list[Terms]] = {}
    """The account's own, by currency."""
    credits: dict[str, Decimal] = {}
    """By currency, what all credits were worth just after the last one was granted."""
    judged: dict[str, Level] = {}
    """By currency, what thresholds were compared with last; only of wallets that have one."""
    crossings: dict[str, Crossing] = {}
    """By currency/threshold, the one that crossed last at the end."""
    inputs: int = 0
    moves: int = 0
    """Subscription events and adjustments among the inputs: what can take usage from a segment again."""
    transitions: int = 0
    """Changes that time alone made: credits expired, standing charges begun. A function of the inputs and
    of how far time has come, not of when which was heard of: versions must not depend on that."""
    begun_until_ms: int = BEGINNING_MS
    """Standing charges of subscribed segments that start before this moment have begun."""
    forgotten_ms: int = BEGINNING_MS
    """Nothing begins any more in a segment that ended before this moment."""
    as_of_ms: int = 0
    """The newest append time among the inputs."""

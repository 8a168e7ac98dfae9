"""The money of one customer: usage by billing segment, credits, debits, invoices. Pure.

in: usage partials (meter, minute, events, total, tokens) and account events, each once, in any order of
minutes. out: a wallet a currency, and the charges that changed.

`available = balance - unpaid_invoices - usage`. `usage` is every priced segment that no invoice covers:
the current period and the closed ones not invoiced yet. An invoice covers the segments of its currency in
the billing period, or the one segment, that starts at its `period_start`; usage that comes later for a
covered segment changes its charge and not the wallet: correct the invoice, or adjust the next period.

A usage belongs to the segment of its own timestamp. A flat price is owed, whole, for every subscribed
segment that has begun, used or not, and for one of the default plan if any meter was used in it. A meter
that never resets is priced, in the same segments, on all that came together until the segment's end.
An AVG is rounded half-even to 12 decimals; a COUNT_UNIQUE is exact to 4,096 values, above an estimate
(operators/hyperloglog.py), and so is what it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal

from operators.account_state import ZERO, AccountState, Usage
from operators.hyperloglog import UniqueSketch
from operators.timeline import Segment, Timeline
from schemas.catalog import Catalog
from schemas.meters import AggregationType, Meter
from schemas.money import EXACT, exact_sum, quantize_quantity, round_money
from schemas.prices import Charge
from schemas.usage import U64

MOVES_BITS, READINGS_BITS = 14, 38
MOVES_MAX, READINGS_MAX = (1 << MOVES_BITS) - 1, (1 << READINGS_BITS) - 1
"""Of a charge's version: 16,383 subscription events and adjustments an account, 270 billion readings a
charge. Past them versions stay the same, and of equal ones the store keeps the last that was sent."""

_WIDE = Context(prec=76)
"""For averages: rounded once more, to 12 decimals, where it is used."""


@dataclass(frozen=True, slots=True)
class Wallet:
    """One currency of one customer at one moment; see `schemas.wallets.WalletRow`."""

    currency: str
    balance: Decimal
    unpaid_invoices: Decimal
    usage: Decimal

    @property
    def available(self) -> Decimal:
        return EXACT.subtract(EXACT.subtract(self.balance, self.unpaid_invoices), self.usage)


class Ledger:
    """One customer's account under a catalog."""

    def __init__(self, catalog: Catalog, state: AccountState) -> None:
        self.catalog = catalog
        self.state = state
        self.timeline = Timeline(catalog, state.phases)
        self.usages = {usage.key: usage for usage in state.usages}
        self._current: Segment | None = None

    def add_usage(
        self, meter: Meter, at_ms: int, events: int, total: Decimal, tokens: U64, *, is_settled: bool
    ) -> None:
        """Fold in one minute's usage of a meter.

        :arg at_ms: Start of the minute.
        :arg is_settled: No account event can change any more which segment the minute belongs to.
        """
        self.state.inputs += events
        segment = self.segment_at(at_ms)
        if segment is None or self._is_forgotten(segment, meter.id):
            return
        usage = self.usage_of(segment, meter.id)
        self._change(usage, meter, events, total)
        if meter.aggregation.type is AggregationType.COUNT_UNIQUE:
            sketch = usage.uniques = usage.uniques or UniqueSketch()
            sketch.add(tokens)
            if is_settled:
                settled = usage.settled = usage.settled or UniqueSketch()
                settled.add(tokens)

    def adjust(self, segment: Segment, meter: Meter, at_ms: int, quantity: Decimal) -> None:
        """Correct a meter's quantity in the segment of a moment."""
        self.begin(segment)
        usage = self.usage_of(segment, meter.id)
        was_used = usage.is_used
        usage.adjustments[at_ms] = EXACT.add(usage.adjustments.get(at_ms, ZERO), quantity)
        self._note_change(usage, meter, was_used=was_used)

    def move_usage(
        self, meter: Meter, old: Segment | None, new: Segment | None, events: int, total: Decimal
    ) -> Iterator[Usage]:
        """A subscription event put a minute into another segment; yields the usages that changed."""
        if old is not None:
            yield (usage := self.usage_of(old, meter.id))
            self._change(usage, meter, -events, total.copy_negate())
        if new is not None:
            yield (usage := self.usage_of(new, meter.id))
            self._change(usage, meter, events, total)

    def settle_uniques(self, meter: Meter, at_ms: int, uniques: UniqueSketch) -> None:
        """A minute's distinct values can't move to another segment any more."""
        segment = self.segment_at(at_ms)
        if segment is not None:
            usage = self.usage_of(segment, meter.id)
            settled = usage.settled = usage.settled or UniqueSketch()
            settled.merge(uniques)

    def _change(self, usage: Usage, meter: Meter, events: int, total: Decimal) -> None:
        was_used = usage.is_used
        usage.events += events
        if total:
            usage.total = EXACT.add(usage.total, total)
        self._note_change(usage, meter, was_used=was_used)

    def _note_change(self, usage: Usage, meter: Meter, *, was_used: bool) -> None:
        usage.is_stale = usage.is_unsent = True
        if usage.is_used != was_used:  # standing charges of a default plan stand or fall with it
            _outdate(u for u in self.usages.values() if u.key[:2] == usage.key[:2])
        if meter.reset_usage == "NEVER":  # later segments are priced on what has come together so far
            same = (u for u in self.usages.values() if u.meter_id == meter.id)
            _outdate(u for u in same if u.start_ms > usage.start_ms)

    def segment_at(self, at_ms: int) -> Segment | None:
        """As `Timeline.segment_at`; the last one asked for is remembered."""
        current = self._current
        if current is None or not current.start_ms <= at_ms < current.end_ms:
            current = self._current = self.timeline.segment_at(at_ms)
            if current is not None:
                self.begin(current)
        return current

    def retime(self, from_ms: int) -> None:
        """The timeline changed from a moment on: usages get their segment's new bounds, adjustments their
        segment. A usage whose segment is gone costs nothing. What was over by then stays as it is, whatever
        another catalog would make of it."""
        self._current = None
        for usage in [one for one in self.usages.values() if one.end_ms > from_ms]:
            segment = self.timeline.segment_at(usage.start_ms)
            if segment is not None and segment.key == usage.key[:2]:
                usage.holds = True
                usage.end_ms, usage.period_ms = segment.end_ms, segment.period_ms
            elif usage.start_ms >= from_ms:
                usage.holds = False
            self._move_adjustments(usage, from_ms)
            usage.is_stale = usage.is_unsent = True

    def _move_adjustments(self, usage: Usage, from_ms: int) -> None:
        for at_ms in [moment for moment in usage.adjustments if moment >= from_ms]:
            segment = self.timeline.segment_at(at_ms)
            if segment is not None and segment.key != usage.key[:2]:
                self.begin(segment)
                into = self.usage_of(segment, usage.meter_id).adjustments
                into[at_ms] = EXACT.add(into.get(at_ms, ZERO), usage.adjustments.pop(at_ms))

    def begin(self, segment: Segment) -> None:
        """Standing charges are there from a segment's first moment, used or not."""
        for meter_id in self.catalog.standing_charges[segment.plan.id]:
            if not self._is_forgotten(segment, meter_id):
                self.usage_of(segment, meter_id)

    def _is_forgotten(self, segment: Segment, meter_id: str) -> bool:
        """Whether a usage ended too long ago to begin: a new one would overwrite what was billed for it."""
        if segment.end_ms > self.state.forgotten_ms:
            return False
        return (segment.start_ms, segment.plan.id, meter_id) not in self.usages

    def usage_of(self, segment: Segment, meter_id: str) -> Usage:
        """The usage of a meter in a segment, begun if need be."""
        plan = segment.plan
        usage = self.usages.get((segment.start_ms, plan.id, meter_id))
        if usage is None:
            usage = Usage(
                meter_id, plan.id, plan.currency, segment.start_ms, segment.end_ms, segment.period_ms
            )
            self.usages[usage.key] = usage
            self.state.usages.append(usage)
        return usage

    def quantity(self, usage: Usage) -> Decimal:
        """What the meter's aggregation makes of the usage, with adjustments."""
        meter = self.catalog.meters_by_id.get(usage.meter_id)
        if meter is None:  # the plan's own fee, or a meter that left the catalog
            return exact_sum(usage.adjustments.values())
        if meter.reset_usage != "NEVER":
            quantity = _aggregate(meter.aggregation.type, usage.events, usage.total, usage.uniques)
            return exact_sum([quantity, *usage.adjustments.values()]) if usage.adjustments else quantity
        parts = list(self._until(usage))
        uniques = UniqueSketch()
        for part in parts:
            if part.uniques is not None:
                uniques.merge(part.uniques)
        events = sum(part.events for part in parts)
        total = exact_sum(part.total for part in parts)
        quantity = _aggregate(meter.aggregation.type, events, total, uniques)
        return exact_sum([quantity, *(adjusted for part in parts for adjusted in part.adjustments.values())])

    def _until(self, usage: Usage) -> Iterator[Usage]:
        for part in self.usages.values():
            if part.meter_id == usage.meter_id and part.start_ms <= usage.start_ms:
                yield part

    def charge(self, usage: Usage) -> Charge | None:
        """The price of a usage's quantity; None if its plan does not price the meter, or never held then."""
        plan = self.catalog.plans_by_id.get(usage.plan_id)
        charge = plan.charges_by_meter.get(usage.meter_id) if plan is not None else None
        return charge.charge(usage.quantity) if charge is not None and self.is_owed(usage) else None

    def is_owed(self, usage: Usage) -> bool:
        """Whether its segment is on the timeline and, of a default plan, any meter was used in it."""
        if not usage.holds or usage.is_used:
            return usage.holds
        phase = self.timeline.phase_at(usage.start_ms)
        if phase is not None and phase.plan_id is not None:
            return True
        return any(u.is_used for u in self.usages.values() if u.key[:2] == usage.key[:2])

    def note_move(self) -> None:
        """What may have lowered some usage was applied: every charge has a new version, and is sent again."""
        self.state.moves += 1
        self.outdate()

    def outdate(self) -> None:
        """Price every usage again, and send its charge."""
        _outdate(self.usages.values())

    def charge_version(self, usage: Usage) -> int:
        """How much is folded into a charge: moves, then readings. It grows with every input that the charge
        depends on, in whatever order they come, and with no other: it would not be sent again for that, and
        a replay that meets the topics in another order could then never overtake what it replaces.
        """
        meter = self.catalog.meters_by_id.get(usage.meter_id)
        parts = self._until(usage) if meter is not None and meter.reset_usage == "NEVER" else (usage,)
        folded = sum(part.events for part in parts) + self.is_owed(usage)
        return min(self.state.moves, MOVES_MAX) << READINGS_BITS | min(max(folded, 0), READINGS_MAX)

    def price(self, usage: Usage) -> None:
        """Bring the amounts of a usage up to date: rounded once, here, and never again."""
        usage.quantity = self.quantity(usage) if self.is_owed(usage) else ZERO
        charge = self.charge(usage)
        usage.amount_unrounded = ZERO if charge is None else charge.amount
        usage.amount = round_money(usage.amount_unrounded, usage.currency)
        usage.is_stale = False

    def wallets(self, now_ms: int) -> list[Wallet]:
        """One wallet for every currency that the account has seen, by currency."""
        state = self.state
        balance = {currency: overdraft.copy_negate() for currency, overdraft in state.overdrafts.items()}
        for grant in state.grants:
            live = grant.expires_ms is None or grant.expires_ms > now_ms
            _add(balance, grant.currency, grant.remaining if live else ZERO)
        unpaid: dict[str, Decimal] = {}
        covered = set()
        for invoice in state.invoices:
            _add(unpaid, invoice.currency, invoice.unpaid)
            if not invoice.is_void:
                covered.add((invoice.currency, invoice.period_ms))
        used: dict[str, Decimal] = {}
        for usage in self.usages.values():
            if usage.is_stale:
                self.price(usage)
            currency = usage.currency
            if currency not in used:
                used[currency] = ZERO
            if usage.amount and not (covered and usage.is_covered(covered)):
                used[currency] = EXACT.add(used[currency], usage.amount)
        return [
            Wallet(c, balance.get(c, ZERO), unpaid.get(c, ZERO), used.get(c, ZERO))
            for c in sorted(balance.keys() | unpaid.keys() | used.keys())
        ]


def _outdate(usages: Iterable[Usage]) -> None:
    for usage in usages:
        usage.is_stale = usage.is_unsent = True


def _add(sums: dict[str, Decimal], currency: str, amount: Decimal) -> None:
    sums[currency] = EXACT.add(sums.get(currency, ZERO), amount)


def _aggregate(kind: AggregationType, events: int, total: Decimal, uniques: UniqueSketch | None) -> Decimal:
    if kind is AggregationType.COUNT:
        return Decimal(events)
    if kind is AggregationType.SUM:
        return total
    if kind is AggregationType.COUNT_UNIQUE:
        return Decimal(0 if uniques is None else uniques.count())
    return quantize_quantity(_WIDE.divide(total, Decimal(events))) if events else ZERO

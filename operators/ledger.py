"""The money of one customer: usage by billing segment, credits, debits, invoices. Pure.

in: usage partials (meter, minute, events, total, tokens) and account events, each once, in any order of
minutes. out: a wallet a currency, and the charges that changed.

`available = balance - unpaid_invoices - usage`. `usage` is every priced segment that no invoice covers:
the current period and the closed ones not invoiced yet. An invoice covers the segments of the billing
period, or the one segment, that starts at its `period_start`; usage that comes later for a covered
segment changes its charge, for the next invoice, and not the wallet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal

from operators.account_state import ZERO, AccountState, Usage
from operators.hyperloglog import UniqueSketch
from operators.timeline import END_MS, Segment, Timeline
from schemas.catalog import Catalog
from schemas.meters import AggregationType, Meter
from schemas.money import EXACT, quantize_quantity, round_money
from schemas.prices import Charge, Flat
from schemas.usage import U64

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
        if segment is None:
            return
        usage = self.usage_of(segment, meter.id)
        self._change(usage, meter, events, total)
        if meter.aggregation.type is AggregationType.COUNT_UNIQUE:
            sketch = usage.uniques = usage.uniques or UniqueSketch()
            sketch.add(tokens)
            if is_settled:
                settled = usage.settled = usage.settled or UniqueSketch()
                settled.add(tokens)

    def adjust(self, meter: Meter, period_start_ms: int, quantity: Decimal) -> bool:
        """Correct a meter's quantity in the segment of a moment; False if there is no plan then."""
        segment = self.segment_at(period_start_ms)
        if segment is None:
            return False
        usage = self.usage_of(segment, meter.id)
        usage.adjusted = EXACT.add(usage.adjusted, quantity)
        self._change(usage, meter, 0, ZERO)
        return True

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
        usage.events += events
        if total:
            usage.total = EXACT.add(usage.total, total)
        usage.is_stale = usage.is_unsent = True
        if meter.reset_usage == "NEVER":  # later segments are priced on what has come together so far
            for later in self.usages.values():
                if later.meter_id == meter.id and later.start_ms > usage.start_ms:
                    later.is_stale = later.is_unsent = True

    def segment_at(self, at_ms: int) -> Segment | None:
        """As `Timeline.segment_at`; the last one asked for is remembered."""
        current = self._current
        if current is None or not current.start_ms <= at_ms < current.end_ms:
            current = self._current = self.timeline.segment_at(at_ms)
            if current is not None:
                self.begin(current)
        return current

    def retime(self) -> None:
        """The timeline changed: usages get their segment's new end; one without a segment costs nothing."""
        self._current = None
        for usage in self.usages.values():
            segment = self.timeline.segment_at(usage.start_ms)
            usage.holds = segment is not None and segment.key == usage.key[:2]
            if segment is not None and usage.holds:
                usage.end_ms = segment.end_ms
            usage.is_stale = usage.is_unsent = True

    def begin(self, segment: Segment) -> None:
        """Fees are owed from the segment's first moment, used or not."""
        for meter_id, charge in segment.plan.charges_by_meter.items():
            if isinstance(charge.price, Flat):
                self.usage_of(segment, meter_id)

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
            return usage.adjusted
        if meter.reset_usage != "NEVER":
            quantity = _aggregate(meter.aggregation.type, usage.events, usage.total, usage.uniques)
            return EXACT.add(quantity, usage.adjusted) if usage.adjusted else quantity
        parts = list(self._until(usage))
        uniques = UniqueSketch()
        for part in parts:
            if part.uniques is not None:
                uniques.merge(part.uniques)
        events = sum(part.events for part in parts)
        quantity = _aggregate(meter.aggregation.type, events, _sum(part.total for part in parts), uniques)
        return EXACT.add(quantity, _sum(part.adjusted for part in parts))

    def _until(self, usage: Usage) -> Iterator[Usage]:
        for part in self.usages.values():
            if part.meter_id == usage.meter_id and part.start_ms <= usage.start_ms:
                yield part

    def charge(self, usage: Usage) -> Charge | None:
        """The price of a usage's quantity; None if its plan does not price the meter, or never held then."""
        plan = self.catalog.plans_by_id.get(usage.plan_id)
        charge = plan.charges_by_meter.get(usage.meter_id) if plan is not None and usage.holds else None
        return None if charge is None else charge.charge(usage.quantity)

    def price(self, usage: Usage) -> None:
        """Bring the amounts of a usage up to date: rounded once, here, and never again."""
        usage.quantity = self.quantity(usage) if usage.holds else ZERO
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
            if usage.amount and not (
                covered and ((currency, usage.period_ms) in covered or (currency, usage.start_ms) in covered)
            ):
                used[currency] = EXACT.add(used[currency], usage.amount)
        return [
            Wallet(c, balance.get(c, ZERO), unpaid.get(c, ZERO), used.get(c, ZERO))
            for c in sorted(balance.keys() | unpaid.keys() | used.keys())
        ]

    def next_transition_ms(self) -> int | None:
        """When time alone changes the wallet next: a credit expires, or a subscription's fee begins."""
        moments = [g.expires_ms for g in self.state.grants if g.expires_ms is not None and not g.is_expired]
        if (fee_ms := self._next_fee_ms()) is not None:
            moments.append(fee_ms)
        return min(moments, default=None)

    def pass_transitions(self, now_ms: int) -> bool:
        """Count credits that have expired, begin fees that are due; whether there were any."""
        before = self.state.transitions
        for grant in self.state.grants:
            if grant.expires_ms is not None and grant.expires_ms <= now_ms and not grant.is_expired:
                grant.is_expired = True
                self.state.transitions += 1
        while (fee_ms := self._next_fee_ms()) is not None and fee_ms <= now_ms:
            segment = self.timeline.segment_at(fee_ms)
            if segment is None:  # the plan left the catalog
                break
            self.begin(segment)
            self.state.fees_until_ms = segment.end_ms
            self.state.transitions += 1
        return self.state.transitions > before

    def _next_fee_ms(self) -> int | None:
        """Start of the first subscribed segment with a fee that has not begun. Without a subscription
        a fee is owed only for a period with usage, which begins it."""
        phases = self.state.phases
        for index, phase in enumerate(phases):
            to_ms = phases[index + 1].from_ms if index + 1 < len(phases) else END_MS
            plan = self.catalog.plans_by_id.get(phase.plan_id) if phase.plan_id else None
            from_ms = max(phase.from_ms, self.state.fees_until_ms)
            if plan is not None and plan.has_fees and from_ms < to_ms:
                return from_ms
        return None


def _add(sums: dict[str, Decimal], currency: str, amount: Decimal) -> None:
    sums[currency] = EXACT.add(sums.get(currency, ZERO), amount)


def _sum(values: Iterable[Decimal]) -> Decimal:
    total = ZERO  # never `sum()`: the default context rounds to 28 digits
    for value in values:
        total = EXACT.add(total, value)
    return total


def _aggregate(kind: AggregationType, events: int, total: Decimal, uniques: UniqueSketch | None) -> Decimal:
    if kind is AggregationType.COUNT:
        return Decimal(events)
    if kind is AggregationType.SUM:
        return total
    if kind is AggregationType.COUNT_UNIQUE:
        return Decimal(0 if uniques is None else uniques.count())
    return quantize_quantity(_WIDE.divide(total, Decimal(events))) if events else ZERO

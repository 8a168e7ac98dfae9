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
from decimal import Decimal

from operators.account_state import ZERO, AccountState, Usage
from operators.balances import Balances, Wallet
from operators.hyperloglog import UniqueSketch
from operators.tariff import Tariff
from operators.timeline import Segment, Timeline
from schemas.catalog import Catalog
from schemas.meters import Meter
from schemas.money import exact_add, exact_sum, round_money
from schemas.usage import U64


class Ledger:
    """One customer's account under a catalog.

    :arg tariff: The catalog's, when it is there already.
    """

    __slots__ = (
        "_here",
        "balances",
        "catalog",
        "current",
        "has_changed",
        "stale",
        "state",
        "tariff",
        "timeline",
        "unsent",
        "usages",
    )

    def __init__(self, catalog: Catalog, state: AccountState, tariff: Tariff | None = None) -> None:
        self.catalog = catalog
        self.tariff = tariff or Tariff(catalog)
        self.state = state
        self.timeline = Timeline(catalog, state.phases)
        self.usages = {usage.key: usage for usage in state.usages}
        self.has_changed = False
        """Usage brought more than itself: others that are new, or have another price now."""
        self.current: Segment | None = None
        """The segment that was asked for last."""
        self._here: dict[str, Usage] = {}
        """Usages of the current segment, by meter: those that were asked for."""
        self.balances = Balances()
        # Usages with these marks, so that nobody looks through all; one without may still be among them.
        self.stale = [usage for usage in state.usages if usage.is_stale]
        self.unsent = [usage for usage in state.usages if usage.is_unsent]

    def add_usage(
        self, meter: Meter, at_ms: int, events: int, total: Decimal, tokens: U64, *, is_settled: bool
    ) -> Usage | None:
        """Fold in usage of a meter, of one segment; what it was added to, if anything.

        :arg at_ms: Start of a minute of it.
        :arg is_settled: No account event can change any more which segment the minute belongs to.
        """
        segment, meter_id = self.segment_at(at_ms), meter.id
        if segment is None:
            return None
        usage = self._here.get(meter_id)
        if usage is None:
            if self._is_forgotten(segment, meter_id):
                return None
            usage = self._here[meter_id] = self.usage_of(segment, meter_id)
        self._change(usage, events, total)
        if meter_id in self.tariff.unique:
            sketch = usage.uniques = usage.uniques or UniqueSketch()
            sketch.add(tokens)
            if is_settled:
                settled = usage.settled = usage.settled or UniqueSketch()
                settled.add(tokens)
        return usage

    def adjust(self, segment: Segment, meter: Meter, at_ms: int, quantity: Decimal) -> None:
        """Correct a meter's quantity in the segment of a moment."""
        self.begin(segment)
        usage = self.usage_of(segment, meter.id)
        was_used = usage.is_used
        usage.adjustments[at_ms] = exact_add(usage.adjustments.get(at_ms, ZERO), quantity)
        self._note_change(usage, was_used=was_used)

    def move_usage(
        self, meter: Meter, old: Segment | None, new: Segment | None, events: int, total: Decimal
    ) -> Iterator[Usage]:
        """A subscription event put a minute into another segment; yields the usages that changed."""
        if old is not None:
            yield (usage := self.usage_of(old, meter.id))
            self._change(usage, -events, total.copy_negate())
        if new is not None:
            yield (usage := self.usage_of(new, meter.id))
            self._change(usage, events, total)

    def settle_uniques(self, meter: Meter, at_ms: int, uniques: UniqueSketch) -> Usage | None:
        """A minute's distinct values can't move to another segment any more; the usage that has them."""
        segment = self.segment_at(at_ms)
        if segment is None:
            return None
        usage = self.usage_of(segment, meter.id)
        settled = usage.settled = usage.settled or UniqueSketch()
        settled.merge(uniques)
        return usage

    def _change(self, usage: Usage, events: int, total: Decimal) -> None:
        before = usage.events
        usage.events += events
        if total:
            usage.total = exact_add(usage.total, total)
        if before > 0 < events and usage.meter_id not in self.tariff.lasting:  # as nearly always
            self._outdate(usage)
        else:
            self._note_change(usage, was_used=before != 0 or bool(usage.adjustments))

    def _note_change(self, usage: Usage, *, was_used: bool) -> None:
        self._outdate(usage)
        if usage.is_used != was_used:  # standing charges of a default plan stand or fall with it
            self.has_changed = True
            self._outdate_all(u for u in self.usages.values() if u.key[:2] == usage.key[:2])
        if usage.meter_id in self.tariff.lasting:  # later segments are priced on what has come so far
            later = [u for u in self._same(usage) if u.start_ms > usage.start_ms]
            if later:
                self.has_changed = True
                self._outdate_all(later)

    def _outdate(self, usage: Usage) -> None:
        if not usage.is_stale:
            usage.is_stale = True
            self.stale.append(usage)
        if not usage.is_unsent:
            usage.is_unsent = True
            self.unsent.append(usage)

    def _outdate_all(self, usages: Iterable[Usage]) -> None:
        for usage in usages:
            self._outdate(usage)

    def segment_at(self, at_ms: int) -> Segment | None:
        """As `Timeline.segment_at`; the last one asked for is remembered."""
        current = self.current
        if current is None or not current.start_ms <= at_ms < current.end_ms:
            current, self._here = self.timeline.segment_at(at_ms), {}
            self.current = current
            if current is not None:
                self.begin(current)
        return current

    def is_one_segment(self, first_ms: int, last_ms: int) -> bool:
        """Whether two moments, and all between, are in the same segment."""
        segment = self.segment_at(first_ms)
        return segment is not None and last_ms < segment.end_ms

    def retime(self, from_ms: int) -> None:
        """The timeline changed from a moment on: usages get their segment's new bounds, adjustments their
        segment. A usage whose segment is gone costs nothing. What was over by then stays as it is, whatever
        another catalog would make of it."""
        self.current = None
        for usage in [one for one in self.usages.values() if one.end_ms > from_ms]:
            segment = self.timeline.segment_at(usage.start_ms)
            if segment is not None and segment.key == usage.key[:2]:
                usage.holds = True
                usage.end_ms, usage.period_ms = segment.end_ms, segment.period_ms
            elif usage.start_ms >= from_ms:
                usage.holds = False
            self._move_adjustments(usage, from_ms)
            self._outdate(usage)

    def _move_adjustments(self, usage: Usage, from_ms: int) -> None:
        for at_ms in [moment for moment in usage.adjustments if moment >= from_ms]:
            segment = self.timeline.segment_at(at_ms)
            if segment is not None and segment.key != usage.key[:2]:
                self.begin(segment)
                into = self.usage_of(segment, usage.meter_id).adjustments
                into[at_ms] = exact_add(into.get(at_ms, ZERO), usage.adjustments.pop(at_ms))

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
            usage.place = len(self.state.usages)
            self.usages[usage.key] = usage
            self.state.usages.append(usage)
            self.has_changed = True
            self.stale.append(usage)
            self.unsent.append(usage)
            self.balances.forget()  # it may be the first in its currency
        return usage

    def quantity(self, usage: Usage) -> Decimal:
        """What the meter's aggregation makes of the usage, with adjustments."""
        meter_id = usage.meter_id
        quantity_of = self.tariff.quantities.get(meter_id)
        if quantity_of is None:  # the plan's own fee, or a meter that left the catalog
            return exact_sum(usage.adjustments.values())
        if meter_id not in self.tariff.lasting:
            quantity = quantity_of(usage.events, usage.total, usage.uniques)
            return exact_sum([quantity, *usage.adjustments.values()]) if usage.adjustments else quantity
        parts = list(self._until(usage))
        uniques = UniqueSketch()
        for part in parts:
            if part.uniques is not None:
                uniques.merge(part.uniques)
        events = sum(part.events for part in parts)
        total = exact_sum(part.total for part in parts)
        quantity = quantity_of(events, total, uniques)
        return exact_sum([quantity, *(adjusted for part in parts for adjusted in part.adjustments.values())])

    def readings_of(self, usage: Usage) -> int:
        """How many readings its quantity is made of."""
        if usage.meter_id not in self.tariff.lasting:
            return usage.events
        return sum(part.events for part in self._until(usage))

    def _until(self, usage: Usage) -> Iterator[Usage]:
        return (part for part in self._same(usage) if part.start_ms <= usage.start_ms)

    def _same(self, usage: Usage) -> Iterator[Usage]:
        return (one for one in self.usages.values() if one.meter_id == usage.meter_id)

    def is_owed(self, usage: Usage) -> bool:
        """Whether its segment is on the timeline and, of a default plan, any meter was used in it."""
        if not usage.holds or usage.events or usage.adjustments:
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
        self._outdate_all(self.usages.values())

    def rebuild(self) -> None:
        """The state was changed from outside, other than by this ledger's methods: sum everything anew."""
        self.balances.forget()
        self.current = None
        self.stale = [usage for usage in self.state.usages if usage.is_stale]
        self.unsent = [usage for usage in self.state.usages if usage.is_unsent]

    def take_unsent(self, *, is_last: bool) -> list[Usage]:
        """Usages whose charge changed and is to be sent now; see `Bills.charges`. The others stay."""
        unsent, ready, self.unsent = self.unsent, list[Usage](), []
        for usage in unsent:
            if usage.is_unsent:
                usage.is_unsent = not (is_last or usage.is_stored)
                (self.unsent if usage.is_unsent else ready).append(usage)
        return ready

    def price(self, usage: Usage) -> None:
        """Bring the amounts of a usage up to date: rounded once, here, and never again."""
        before = usage.amount
        price = self.tariff.prices.get((usage.plan_id, usage.meter_id))
        if price is None or not self.is_owed(usage):
            usage.quantity = usage.amount_unrounded = usage.amount = ZERO
        else:
            usage.quantity = self.quantity(usage)
            usage.amount_unrounded = price(usage.quantity)
            usage.amount = round_money(usage.amount_unrounded, usage.currency)
        usage.is_stale = False
        if usage.amount != before:
            self.balances.change(usage, before)

    def wallets(self, now_ms: int) -> Iterable[Wallet]:
        """One wallet for every currency that the account has seen, by currency."""
        for usage in self.stale:
            if usage.is_stale:
                self.price(usage)
        self.stale.clear()
        if not self.balances.hold_at(now_ms):
            self.balances.make(self.state, self.usages.values(), now_ms)
        return self.balances.wallets()

"""Apply account events to a ledger, each id once. AccountEvent -> a changed `Ledger`, or why it can't be.

Events of a customer are judged in the order of their partition: keyed by customer, that is the order in
which they were written, in every replay. What an event contradicts (paying an unknown invoice, changing
a subscription that never started) it does not change; the caller puts it into the dead letters.

What is settled can be referred to for `KEPT_MS`, by the append times of records alone, so that a replay
refuses what was refused: an id is remembered that long, a credit that expired may still pay a debit of an
earlier time, an invoice that was paid may be voided, a quantity adjusted after its period's end.
A subscription event is refused past `EVENT_LAG_MAX_MS` after its own timestamp: the usage of older minutes
has been settled into segments for good.

Credits pay debits by priority, soonest expiry, oldest. A debit at a time t uses credits that expire after t,
even if it is read after they did. What no credit covers is an overdraft, which the next credit pays first.
An amount that was paid of an invoice that is then voided is not given back: grant a credit.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TypeAlias

from operators.account_state import DAY_MS, KEPT_MS, ZERO, Grant, Invoice
from operators.aging import drop_used_up, reopen
from operators.ledger import Ledger
from operators.thresholds import terms_of
from operators.timeline import Phase, whole_minute
from schemas.accounts import (
    AccountEvent,
    Adjustment,
    CreditGranted,
    Debit,
    InvoiceIssued,
    InvoicePaid,
    InvoiceVoided,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
    ThresholdsSet,
    milliseconds,
)
from schemas.money import EXACT, decimal_text, exact_sum

EVENT_LAG_MAX_MS = 600_000
"""A subscription event that is appended later than this after its own timestamp is refused."""

NEVER_MS = -(1 << 62)

Subscription: TypeAlias = SubscriptionStarted | SubscriptionChanged | SubscriptionEnded


class ImpossibleError(ValueError):
    """The event contradicts the account; the text names field, value and what stands against it."""


def apply(ledger: Ledger, event: AccountEvent, append_ms: int) -> bool:
    """Apply one event; False if its id was applied before.

    :raises ImpossibleError: and leaves the ledger as it was.
    """
    applied = ledger.state.applied
    if append_ms - applied.get(event.id, NEVER_MS) <= KEPT_MS:
        return False
    _apply(event, ledger, append_ms)
    applied.pop(event.id, None)  # so that the ids stay in the order of their times
    applied[event.id] = append_ms
    ledger.state.inputs += 1
    if isinstance(event, Subscription | Adjustment):
        ledger.note_move()
    ledger.rebuild()
    ledger.state.as_of_ms = max(ledger.state.as_of_ms, append_ms)
    return True


def is_subscription(event: AccountEvent) -> bool:
    """Whether the event moves usage between segments."""
    return isinstance(event, Subscription)


@singledispatch
def _apply(event: AccountEvent, ledger: Ledger, append_ms: int) -> None:
    raise TypeError(f"no rule for {type(event).__name__}")


def _subscribe(
    ledger: Ledger, event: Subscription, append_ms: int, plan_id: str | None, anchor_ms: int | None
) -> None:
    if append_ms - event.at_ms > EVENT_LAG_MAX_MS:
        raise ImpossibleError(
            f"{event.type} at {event.timestamp.isoformat()}: appended over {EVENT_LAG_MAX_MS // 1000} s "
            "later, when usage was settled"
        )
    from_ms = whole_minute(event.at_ms)
    before = ledger.timeline.segment_at(from_ms)
    reopen(ledger, from_ms)
    ledger.timeline.add(Phase(from_ms, event.at_ms, event.id, plan_id, anchor_ms))
    after = ledger.timeline.segment_at(from_ms)
    if before is not None and (after is None or after.plan.currency != before.plan.currency):
        # Before a crash its wallet may have been sent with usage that is now another's: send it once more.
        ledger.state.overdrafts.setdefault(before.plan.currency, ZERO)
    ledger.retime(from_ms)


def _check_plan(ledger: Ledger, plan_id: str) -> None:
    if plan_id not in ledger.catalog.plans_by_id:
        raise ImpossibleError(f"plan_id {plan_id!r} is not a plan of the catalog")


@_apply.register
def _(event: SubscriptionStarted, ledger: Ledger, append_ms: int) -> None:
    _check_plan(ledger, event.plan_id)
    phase = ledger.timeline.phase_at(event.at_ms)
    if phase is not None and phase.plan_id is not None:
        raise ImpossibleError(
            f"subscription_started at {event.timestamp.isoformat()}: plan {phase.plan_id} is active then "
            "(send subscription_changed)"
        )
    anchor_ms = None if event.period_anchor is None else milliseconds(event.period_anchor)
    _subscribe(ledger, event, append_ms, event.plan_id, anchor_ms)


@_apply.register
def _(event: SubscriptionChanged, ledger: Ledger, append_ms: int) -> None:
    _check_plan(ledger, event.plan_id)
    phase = ledger.timeline.phase_at(event.at_ms)
    if phase is None or phase.plan_id is None:
        raise ImpossibleError(
            f"subscription_changed at {event.timestamp.isoformat()}: no subscription is active then "
            "(send subscription_started)"
        )
    anchor_ms = phase.anchor_ms if event.period_anchor is None else milliseconds(event.period_anchor)
    _subscribe(ledger, event, append_ms, event.plan_id, anchor_ms)


@_apply.register
def _(event: SubscriptionEnded, ledger: Ledger, append_ms: int) -> None:
    phase = ledger.timeline.phase_at(event.at_ms)
    if phase is None or phase.plan_id is None:
        raise ImpossibleError(
            f"subscription_ended at {event.timestamp.isoformat()}: no subscription is active then"
        )
    _subscribe(ledger, event, append_ms, None, None)


@_apply.register
def _(event: CreditGranted, ledger: Ledger, append_ms: int) -> None:
    state = ledger.state
    expires_ms = None if event.expires_at is None else milliseconds(event.expires_at)
    # A new credit first pays what debits took beyond all earlier ones: it can't expire from there.
    overdraft = state.overdrafts.get(event.currency, ZERO)
    paid = min(overdraft, event.amount)
    state.overdrafts[event.currency] = EXACT.subtract(overdraft, paid)
    remaining = EXACT.subtract(event.amount, paid)
    state.grants.append(Grant(event.id, event.currency, remaining, event.at_ms, expires_ms, event.priority))
    drop_used_up(state)
    worth = (g.remaining for g in state.grants if g.currency == event.currency and _lives(g, event.at_ms))
    state.credits[event.currency] = exact_sum(worth)


def _lives(grant: Grant, at_ms: int) -> bool:
    return grant.expires_ms is None or grant.expires_ms > at_ms


@_apply.register
def _(event: Debit, ledger: Ledger, append_ms: int) -> None:
    state, rest = ledger.state, event.amount
    usable = [
        grant
        for grant in state.grants
        if grant.currency == event.currency and _lives(grant, max(event.at_ms, append_ms - KEPT_MS))
    ]
    never_ms = 1 << 62
    usable.sort(key=lambda g: (g.priority, g.expires_ms or never_ms, g.granted_ms, g.id))
    for grant in usable:
        taken = min(grant.remaining, rest)
        grant.remaining = EXACT.subtract(grant.remaining, taken)
        rest = EXACT.subtract(rest, taken)
    state.overdrafts[event.currency] = EXACT.add(state.overdrafts.get(event.currency, ZERO), rest)
    drop_used_up(state)


@_apply.register
def _(event: InvoiceIssued, ledger: Ledger, append_ms: int) -> None:
    known = _invoice(ledger, event.invoice_id, append_ms)
    if known is not None:
        raise ImpossibleError(f"invoice_id {event.invoice_id!r} was issued before")
    invoices = ledger.state.invoices
    invoices[:] = [invoice for invoice in invoices if invoice.id != event.invoice_id]
    period_ms = whole_minute(milliseconds(event.period_start))
    invoice = Invoice(event.invoice_id, event.currency, event.amount, event.amount, period_ms)
    if not invoice.unpaid:
        invoice.settled_ms = append_ms
    invoices.append(invoice)


@_apply.register
def _(event: InvoicePaid, ledger: Ledger, append_ms: int) -> None:
    invoice = _open_invoice(ledger, event, append_ms)
    amount = invoice.unpaid if event.amount is None else event.amount
    if amount > invoice.unpaid:
        raise ImpossibleError(
            f"amount {decimal_text(amount)} is over the {decimal_text(invoice.unpaid)} {invoice.currency} "
            f"that is unpaid of invoice {invoice.id!r}"
        )
    invoice.unpaid = EXACT.subtract(invoice.unpaid, amount)
    if not invoice.unpaid:
        invoice.settled_ms = append_ms


@_apply.register
def _(event: InvoiceVoided, ledger: Ledger, append_ms: int) -> None:
    invoice = _open_invoice(ledger, event, append_ms)
    if event.amount is not None and event.amount != invoice.amount:
        raise ImpossibleError(
            f"amount {decimal_text(event.amount)} is not the {decimal_text(invoice.amount)} "
            f"of invoice {invoice.id!r}"
        )
    invoice.is_void, invoice.unpaid, invoice.settled_ms = True, ZERO, append_ms


@_apply.register
def _(event: Adjustment, ledger: Ledger, append_ms: int) -> None:
    meter = ledger.catalog.meters_by_id.get(event.meter_id)
    if meter is None:
        raise ImpossibleError(f"meter_id {event.meter_id!r} is not a meter of the catalog")
    at_ms = whole_minute(milliseconds(event.period_start))
    segment = ledger.timeline.segment_at(at_ms)
    at = event.period_start.isoformat()
    if segment is None:
        raise ImpossibleError(f"period_start {at}: the customer has no plan then")
    if segment.end_ms < append_ms - KEPT_MS:
        raise ImpossibleError(f"period_start {at}: it ended over {KEPT_MS // DAY_MS} days before")
    ledger.adjust(segment, meter, at_ms, event.quantity)


@_apply.register
def _(event: ThresholdsSet, ledger: Ledger, append_ms: int) -> None:
    thresholds = ledger.state.thresholds
    thresholds[event.currency] = [terms_of(threshold) for threshold in event.thresholds]
    if not event.thresholds:
        del thresholds[event.currency]


def _invoice(ledger: Ledger, invoice_id: str, append_ms: int) -> Invoice | None:
    invoice = next((i for i in ledger.state.invoices if i.id == invoice_id), None)
    return invoice if invoice is not None and invoice.settled_ms >= append_ms - KEPT_MS else None


def _open_invoice(ledger: Ledger, event: InvoicePaid | InvoiceVoided, append_ms: int) -> Invoice:
    invoice = _invoice(ledger, event.invoice_id, append_ms)
    if invoice is None:
        raise ImpossibleError(
            f"invoice_id {event.invoice_id!r} was never issued, or settled over {KEPT_MS // DAY_MS} days ago"
        )
    if invoice.is_void:
        raise ImpossibleError(f"invoice_id {event.invoice_id!r} was voided")
    if isinstance(event, InvoicePaid) and not invoice.unpaid:
        raise ImpossibleError(f"invoice_id {event.invoice_id!r} was paid before")
    if event.currency not in {None, invoice.currency}:
        raise ImpossibleError(f"currency {event.currency} is not invoice {invoice.id!r}'s {invoice.currency}")
    if event.period_start is not None and whole_minute(milliseconds(event.period_start)) != invoice.period_ms:
        raise ImpossibleError(
            f"period_start {event.period_start.isoformat()} is not that of invoice {invoice.id!r}"
        )
    return invoice

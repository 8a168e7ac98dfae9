"""Apply account events to a ledger, each id once. AccountEvent -> a changed `Ledger`, or why it can't be.

Events of a customer are judged in the order of their partition: keyed by customer, that is the order in
which they were written, in every replay. What an event contradicts (paying an unknown invoice, changing
a subscription that never started) it does not change; the caller puts it into the dead letters.

State of an application: the ids applied in `AccountState.applied`, kept `APPLIED_KEPT_MS` by append time.
"""

from __future__ import annotations

from functools import singledispatch

from operators.account_state import ZERO, Grant, Invoice
from operators.ledger import Ledger
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
    milliseconds,
)
from schemas.money import EXACT, decimal_text

APPLIED_KEPT_MS = 90 * 86_400_000
"""An account event that is sent again later than this, by append time, counts again."""


class ImpossibleError(ValueError):
    """The event contradicts the account; the text names field, value and what stands against it."""


def apply(ledger: Ledger, event: AccountEvent, append_ms: int) -> bool:
    """Apply one event; False if its id was applied before.

    :raises ImpossibleError: and leaves the ledger as it was.
    """
    applied = ledger.state.applied
    if event.id in applied:
        return False
    _apply(event, ledger)
    for old in [i for i, at_ms in applied.items() if at_ms < append_ms - APPLIED_KEPT_MS]:
        del applied[old]
    applied[event.id] = append_ms
    ledger.state.inputs += 1
    ledger.state.as_of_ms = max(ledger.state.as_of_ms, append_ms)
    return True


def is_subscription(event: AccountEvent) -> bool:
    """Whether the event moves usage between segments."""
    return isinstance(event, SubscriptionStarted | SubscriptionChanged | SubscriptionEnded)


@singledispatch
def _apply(event: AccountEvent, ledger: Ledger) -> None:
    raise TypeError(f"no rule for {type(event).__name__}")


def _subscribe(
    ledger: Ledger,
    event: SubscriptionStarted | SubscriptionChanged | SubscriptionEnded,
    plan_id: str | None,
    anchor_ms: int | None,
) -> None:
    from_ms = whole_minute(event.at_ms)
    ledger.timeline.add(Phase(from_ms, event.at_ms, event.id, plan_id, anchor_ms))
    ledger.state.fees_until_ms = min(ledger.state.fees_until_ms, from_ms)
    ledger.retime()


def _check_plan(ledger: Ledger, plan_id: str) -> None:
    if plan_id not in ledger.catalog.plans_by_id:
        raise ImpossibleError(f"plan_id {plan_id!r} is not a plan of the catalog")


@_apply.register
def _(event: SubscriptionStarted, ledger: Ledger) -> None:
    _check_plan(ledger, event.plan_id)
    phase = ledger.timeline.phase_at(event.at_ms)
    if phase is not None and phase.plan_id is not None:
        raise ImpossibleError(
            f"subscription_started at {event.timestamp.isoformat()}: plan {phase.plan_id} is active then "
            "(send subscription_changed)"
        )
    anchor_ms = None if event.period_anchor is None else milliseconds(event.period_anchor)
    _subscribe(ledger, event, event.plan_id, anchor_ms)


@_apply.register
def _(event: SubscriptionChanged, ledger: Ledger) -> None:
    _check_plan(ledger, event.plan_id)
    phase = ledger.timeline.phase_at(event.at_ms)
    if phase is None or phase.plan_id is None:
        raise ImpossibleError(
            f"subscription_changed at {event.timestamp.isoformat()}: no subscription is active then "
            "(send subscription_started)"
        )
    anchor_ms = phase.anchor_ms if event.period_anchor is None else milliseconds(event.period_anchor)
    _subscribe(ledger, event, event.plan_id, anchor_ms)


@_apply.register
def _(event: SubscriptionEnded, ledger: Ledger) -> None:
    phase = ledger.timeline.phase_at(event.at_ms)
    if phase is None or phase.plan_id is None:
        raise ImpossibleError(
            f"subscription_ended at {event.timestamp.isoformat()}: no subscription is active then"
        )
    _subscribe(ledger, event, None, None)


@_apply.register
def _(event: CreditGranted, ledger: Ledger) -> None:
    state = ledger.state
    expires_ms = None if event.expires_at is None else milliseconds(event.expires_at)
    # A new credit first pays what debits took beyond all earlier ones: it can't expire from there.
    overdraft = state.overdrafts.get(event.currency, ZERO)
    paid = min(overdraft, event.amount)
    if paid:
        state.overdrafts[event.currency] = EXACT.subtract(overdraft, paid)
    remaining = EXACT.subtract(event.amount, paid)
    state.grants.append(Grant(event.id, event.currency, remaining, event.at_ms, expires_ms, event.priority))


@_apply.register
def _(event: Debit, ledger: Ledger) -> None:
    state, rest = ledger.state, event.amount
    usable = [
        grant
        for grant in state.grants
        if grant.currency == event.currency
        and grant.remaining
        and (grant.expires_ms is None or grant.expires_ms > event.at_ms)
    ]
    never_ms = 1 << 62
    usable.sort(key=lambda g: (g.priority, g.expires_ms or never_ms, g.granted_ms, g.id))
    for grant in usable:
        taken = min(grant.remaining, rest)
        grant.remaining = EXACT.subtract(grant.remaining, taken)
        rest = EXACT.subtract(rest, taken)
    if rest:
        state.overdrafts[event.currency] = EXACT.add(state.overdrafts.get(event.currency, ZERO), rest)
    state.grants = [g for g in state.grants if g.remaining]


@_apply.register
def _(event: InvoiceIssued, ledger: Ledger) -> None:
    if _invoice(ledger, event.invoice_id) is not None:
        raise ImpossibleError(f"invoice_id {event.invoice_id!r} was issued before")
    period_ms = whole_minute(milliseconds(event.period_start))
    ledger.state.invoices.append(
        Invoice(event.invoice_id, event.currency, event.amount, event.amount, period_ms)
    )


@_apply.register
def _(event: InvoicePaid, ledger: Ledger) -> None:
    invoice = _open_invoice(ledger, event)
    amount = invoice.unpaid if event.amount is None else event.amount
    if amount > invoice.unpaid:
        raise ImpossibleError(
            f"amount {decimal_text(amount)} is over the {decimal_text(invoice.unpaid)} {invoice.currency} "
            f"that is unpaid of invoice {invoice.id!r}"
        )
    invoice.unpaid = EXACT.subtract(invoice.unpaid, amount)


@_apply.register
def _(event: InvoiceVoided, ledger: Ledger) -> None:
    invoice = _open_invoice(ledger, event)
    if event.amount is not None and event.amount != invoice.amount:
        raise ImpossibleError(
            f"amount {decimal_text(event.amount)} is not the {decimal_text(invoice.amount)} "
            f"of invoice {invoice.id!r}"
        )
    invoice.is_void, invoice.unpaid = True, ZERO


@_apply.register
def _(event: Adjustment, ledger: Ledger) -> None:
    meter = ledger.catalog.meters_by_id.get(event.meter_id)
    if meter is None:
        raise ImpossibleError(f"meter_id {event.meter_id!r} is not a meter of the catalog")
    if not ledger.adjust(meter, milliseconds(event.period_start), event.quantity):
        raise ImpossibleError(f"period_start {event.period_start.isoformat()}: the customer has no plan then")


def _invoice(ledger: Ledger, invoice_id: str) -> Invoice | None:
    return next((i for i in ledger.state.invoices if i.id == invoice_id), None)


def _open_invoice(ledger: Ledger, event: InvoicePaid | InvoiceVoided) -> Invoice:
    invoice = _invoice(ledger, event.invoice_id)
    if invoice is None:
        raise ImpossibleError(f"invoice_id {event.invoice_id!r} was never issued")
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

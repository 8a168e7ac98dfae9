"""What time alone does to an account: credits expire, standing charges begin, settled business is forgotten.

Credits expire by the clock: a wallet shows them until then. A standing charge begins when the account topic
has passed its segment's start, so that it is known which plan holds then; never by the clock.

Forgetting changes no amount. A usage is forgotten once an invoice covers it that was paid `KEPT_MS` ago, and
no event may be that old any more; usage that no invoice covers is open business and stays. What refers to
something forgotten is refused by its own age (operators/account_events.py), not by what memory still has.
"""

from __future__ import annotations

from collections.abc import Iterator

from operators.account_state import DAY_MS, ZERO, AccountState, Grant, Invoice, Usage
from operators.ledger import Ledger
from operators.timeline import END_MS
from schemas.money import EXACT, exact_sum

FORGET_STEP_MS = 31 * DAY_MS
"""An account in which nothing is settled is marked this seldom, so that it need not be stored again."""


def next_expiry_ms(state: AccountState) -> int | None:
    """When the next credit expires."""
    moments = (g.expires_ms for g in state.grants if g.expires_ms is not None and not g.is_expired)
    return min(moments, default=None)


def expire(state: AccountState, now_ms: int) -> bool:
    """Count the credits that have expired; whether there were any."""
    before = state.transitions
    for grant in state.grants:
        if grant.expires_ms is not None and grant.expires_ms <= now_ms and not grant.is_expired:
            grant.is_expired = True
            state.transitions += 1
    return state.transitions > before


def drop_used_up(state: AccountState) -> None:
    """Drop credits of which nothing is left; each counts as if it had expired, whichever comes first."""
    for grant in state.grants:
        if not grant.remaining and grant.expires_ms is not None and not grant.is_expired:
            state.transitions += 1
    state.grants = [grant for grant in state.grants if grant.remaining]


def next_standing_ms(ledger: Ledger) -> int | None:
    """Start of the first subscribed segment whose standing charges have not begun."""
    state = ledger.state
    from_ms = max(state.begun_until_ms, state.forgotten_ms)
    return next((s.start_ms for s in ledger.timeline.standing(from_ms, END_MS)), None)


def begin_standing(ledger: Ledger, until_ms: int) -> bool:
    """Begin the standing charges of subscribed segments that start until then; whether there were any."""
    state = ledger.state
    before = state.transitions
    from_ms = max(state.begun_until_ms, state.forgotten_ms)
    for segment in ledger.timeline.standing(from_ms, until_ms + 1):
        ledger.begin(segment)
        state.begun_until_ms = segment.end_ms
        state.transitions += 1
    return state.transitions > before


def reopen(ledger: Ledger, from_ms: int) -> None:
    """Before the timeline changes at `from_ms`: what began after it was not to be counted."""
    state = ledger.state
    state.transitions -= sum(1 for _ in ledger.timeline.standing(from_ms, state.begun_until_ms))
    state.begun_until_ms = min(state.begun_until_ms, from_ms)


def has_old(state: AccountState, before_ms: int) -> bool:
    """Whether `forget` may drop anything. It reads nothing that more usage changes."""
    return (
        next(iter(state.applied.values()), before_ms) < before_ms
        or any(grant.is_expired and (grant.expires_ms or 0) < before_ms for grant in state.grants)
        or any(invoice.settled_ms < before_ms for invoice in state.invoices)
        or any(usage.plan_id and not usage.holds for usage in state.usages)
    )


def forget(ledger: Ledger, before_ms: int, usage_before_ms: int) -> bool:
    """Drop what is settled; whether anything changed.

    :arg before_ms: What was settled before this append time is.
    :arg usage_before_ms: No usage of before this moment can come in any more; at most `before_ms`.
    """
    state = ledger.state
    old_ids = _old_ids(state, before_ms)
    for event_id in old_ids:
        del state.applied[event_id]
    old_grants = [g for g in state.grants if g.is_expired and (g.expires_ms or 0) < before_ms]
    if old_grants:
        state.grants = [grant for grant in state.grants if grant not in old_grants]
    old_usages = list(_old_usages(ledger, before_ms, usage_before_ms))
    for usage in old_usages:
        del ledger.usages[usage.key]
        _carry(ledger, usage)
    if old_usages:
        state.usages = list(ledger.usages.values())
        for place, usage in enumerate(state.usages):
            usage.place = place
    old_invoices = [i for i in state.invoices if _is_done(ledger, i, before_ms, usage_before_ms)]
    if old_invoices:
        state.invoices = [invoice for invoice in state.invoices if invoice not in old_invoices]
    gone: list[Grant | Usage | Invoice] = [*old_grants, *old_usages, *old_invoices]
    for item in gone:
        state.overdrafts.setdefault(item.currency, ZERO)
    if gone:
        ledger.rebuild()
    if old_ids or gone or usage_before_ms - state.forgotten_ms >= FORGET_STEP_MS:
        state.forgotten_ms = max(state.forgotten_ms, usage_before_ms)
        return True
    return False


def _old_ids(state: AccountState, before_ms: int) -> list[str]:
    old = []
    for event_id, append_ms in state.applied.items():
        if append_ms >= before_ms:
            break
        old.append(event_id)
    return old


def _old_usages(ledger: Ledger, before_ms: int, usage_before_ms: int) -> Iterator[Usage]:
    """Usages that are invoiced and paid, or never held, oldest first. Of a meter that never resets only
    those before all that stay: later ones are priced with them."""
    settled = {
        (i.currency, i.period_ms) for i in ledger.state.invoices if not i.is_void and i.settled_ms < before_ms
    }
    if not settled and all(usage.holds or not usage.plan_id for usage in ledger.state.usages):
        return  # as of most accounts, most of the time
    staying: set[str] = set()
    for usage in sorted(ledger.usages.values(), key=lambda usage: usage.start_ms):
        if not usage.plan_id:
            continue
        is_settled = usage.is_covered(settled) or not usage.holds
        is_over = usage.end_ms < usage_before_ms and not usage.is_unsent
        if is_settled and is_over and not (_is_carried(ledger, usage) and usage.meter_id in staying):
            yield usage
        else:
            staying.add(usage.meter_id)


def _is_carried(ledger: Ledger, usage: Usage) -> bool:
    meter = ledger.catalog.meters_by_id.get(usage.meter_id)
    return meter is not None and meter.reset_usage == "NEVER"


def _carry(ledger: Ledger, usage: Usage) -> None:
    """What a meter that never resets had in a forgotten segment still counts in later ones."""
    if not _is_carried(ledger, usage):
        return
    same = (one for one in ledger.usages.values() if one.meter_id == usage.meter_id)
    earlier = next((one for one in same if not one.plan_id), None)
    if earlier is not None:
        del ledger.usages[earlier.key]
        usage.events += earlier.events
        usage.total = EXACT.add(usage.total, earlier.total)
        for at_ms, quantity in earlier.adjustments.items():
            usage.adjustments[at_ms] = EXACT.add(usage.adjustments.get(at_ms, ZERO), quantity)
        if earlier.uniques is not None and usage.uniques is not None:
            usage.uniques.merge(earlier.uniques)
        usage.uniques = usage.uniques or earlier.uniques
    usage.plan_id, usage.settled, usage.holds = "", None, False
    usage.quantity = usage.amount_unrounded = usage.amount = ZERO
    if usage.adjustments:
        usage.adjustments = {usage.start_ms: exact_sum(usage.adjustments.values())}
    if usage.is_used:
        ledger.usages[usage.key] = usage


def _is_done(ledger: Ledger, invoice: Invoice, before_ms: int, usage_before_ms: int) -> bool:
    """Whether nothing can refer to the invoice any more, and it covers nothing that stays."""
    if invoice.settled_ms >= before_ms:
        return False
    if invoice.is_void:
        return True
    segment = ledger.timeline.segment_at(invoice.period_ms)
    if segment is not None and segment.period_end_ms >= usage_before_ms:
        return False
    places = {(invoice.currency, invoice.period_ms)}
    return not any(usage.plan_id and usage.is_covered(places) for usage in ledger.usages.values())

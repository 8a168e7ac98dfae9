"""Say when a wallet crosses a threshold. Levels before and now -> alerts, each with an id of its own. Pure.

A balance that becomes low (available <= amount) is an alert `down`; one that is above again, after such an
alert, is one `up`. A spend that is reached (usage >= amount) is an alert `up`; that it falls again, as it
does when a period is invoiced, is none, but the next time is another. So each crossing, in the half-open
interval from the level before to the level now, is told once.

Levels are compared when a wallet is sent: what happened between two flushes is one step, and a dip within it
is not seen. Before its first comparison a wallet stands at 0. A threshold that is set, raised or comes with
another plan says nothing by itself, unless the account had none before: then it is compared with that 0.

State, in `AccountState`: the levels last compared, and for each threshold the number of its crossings, which
is in the alert's id. A replay may see other crossings, as its flushes fall otherwise; so an alert is told
only once a commit has it (operators/bills.py), and a crash takes back none that was told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from operators.account_state import ZERO, AccountState, Crossing, Level, Terms
from operators.ledger import Ledger
from schemas.money import EXACT
from schemas.thresholds import Threshold, ThresholdKind
from schemas.wallets import WalletAlert, WalletRow

CROSSINGS_MAX = 100
"""Thresholds of an account whose crossings are counted; past it the one that crossed longest ago is
forgotten, and counts from 1 again should it come back."""

NOTHING = Level()


def terms_of(threshold: Threshold) -> Terms:
    """A threshold as the state keeps it."""
    return Terms(threshold.name, str(threshold.kind), threshold.amount, threshold.percent)


def level_of(row: WalletRow, state: AccountState) -> Level:
    """What thresholds compare of a wallet."""
    return Level(row.available, row.usage, state.credits.get(row.currency, ZERO))


def threshold_amount(terms: Terms, level: Level) -> Decimal | None:
    """Where the threshold is; None for a percentage of no credit."""
    if terms.percent is None:
        return terms.amount
    return EXACT.scaleb(EXACT.multiply(level.credits, terms.percent), Decimal(-2)) if level.credits else None


def is_beyond(terms: Terms, level: Level) -> bool:
    """Whether a balance is low, or a spend reached."""
    amount = threshold_amount(terms, level)
    if amount is None:
        return False
    if terms.kind == ThresholdKind.LOW_BALANCE:
        return level.available <= amount
    return level.usage >= amount


def thresholds_of(ledger: Ledger, currency: str, now_ms: int) -> list[Terms]:
    """The thresholds in force for a wallet: the account's own, and those of its plan of today, in its
    currency, of which the account's replace those of the same id."""
    found: dict[str, Terms] = {}
    segment = ledger.timeline.segment_at(now_ms)
    if segment is not None and segment.plan.currency == currency:
        found = {one.name: terms_of(one) for one in segment.plan.thresholds}
    return list((found | {one.id: one for one in ledger.state.thresholds.get(currency, ())}).values())


def judge(ledger: Ledger, rows: Iterable[WalletRow], now_ms: int) -> list[WalletAlert]:
    """The alerts of an account's wallets; remembers what was compared."""
    alerts: list[WalletAlert] = []
    state = ledger.state
    for row in rows:
        terms = thresholds_of(ledger, row.currency, now_ms)
        if not terms:
            state.judged.pop(row.currency, None)
            continue
        before, now = state.judged.get(row.currency, NOTHING), level_of(row, state)
        if before != now:
            state.judged[row.currency] = now
            alerts.extend(_crossed(state, row, terms, (before, now)))
    return alerts


def _crossed(
    state: AccountState, row: WalletRow, terms: list[Terms], levels: tuple[Level, Level]
) -> Iterator[WalletAlert]:
    before, now = levels
    for one in terms:
        was, is_now = is_beyond(one, before), is_beyond(one, now)
        place = f"{row.currency}/{one.id}"
        crossing = state.crossings.get(place, Crossing())
        recovers = was and not is_now and one.kind == ThresholdKind.LOW_BALANCE and crossing.is_low
        if not recovers and (was or not is_now):
            continue
        state.crossings.pop(place, None)
        is_low = one.kind == ThresholdKind.LOW_BALANCE and is_now
        state.crossings[place] = crossing = Crossing(crossing.number + 1, is_low)
        if len(state.crossings) > CROSSINGS_MAX:
            del state.crossings[next(iter(state.crossings))]
        yield _alert(row, one, crossing, levels)


def _alert(row: WalletRow, terms: Terms, crossing: Crossing, levels: tuple[Level, Level]) -> WalletAlert:
    before, now = levels
    is_balance = terms.kind == ThresholdKind.LOW_BALANCE
    direction = "down" if crossing.is_low else "up"
    names = (row.tenant_id, row.external_customer_id, row.currency, terms.id, direction)
    return WalletAlert(
        id="/".join(
            [*(name.replace("%", "%25").replace("/", "%2F") for name in names), str(crossing.number)]
        ),
        tenant_id=row.tenant_id,
        external_customer_id=row.external_customer_id,
        currency=row.currency,
        threshold_id=terms.id,
        kind=terms.kind,
        direction=direction,
        threshold=threshold_amount(terms, now) or ZERO,
        value_before=before.available if is_balance else before.usage,
        value=now.available if is_balance else now.usage,
        version=row.version,
        as_of_ms=row.as_of_ms,
    )

"""The oracle's thresholds: the books and wallets of a customer at the end -> where each threshold stands.

Which crossings a flow tells on its way depends on when it looks: a dip between two looks is not seen, and a
replay may meet usage before the plan that it belongs to. What does not depend on it, of a `steady` threshold:

- a low balance whose last alert is `down` is low, and one whose last alert is `up` is not;
- what is beyond its threshold at the end, and was not with nothing in the wallet, has been told.

Steady is a threshold that was in force whenever its wallet had any. It is the only plan's with thresholds in
that currency which the customer may have had (the default plan among them), or the customer's own, set once.
Any other may come into force with its wallet beyond it already, and that says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.oracle_prices import ZERO, Json, phase_at, plans_of

if TYPE_CHECKING:
    from tests.oracle_accounts import Books, Wallet

ThresholdKey = tuple[str, str, str, str]
"""tenant_id, external_customer_id, currency, threshold id"""


@dataclass(frozen=True)
class Standing:
    """A threshold in force at the end."""

    kind: str
    is_beyond: bool
    """The balance is low, or the spend is reached."""
    is_told: bool
    """However the flow came here, it has told so."""
    is_steady: bool


def standings(
    book: Books, currency: str, wallet: Wallet, catalog: Json, now: datetime
) -> dict[str, Standing]:
    """By id, all thresholds in force for a wallet."""
    credits_worth = book.credits_worth.get(currency, ZERO)
    is_steady = len(sources(book, currency, catalog)) + len(book.thresholds_set.get(currency, [])) == 1
    found = {}
    for name, threshold in in_force(book, currency, catalog, now).items():
        beyond = is_beyond(threshold, wallet.available, wallet.usage, credits_worth)
        is_told = is_steady and beyond and not is_beyond(threshold, ZERO, ZERO, ZERO)
        found[name] = Standing(threshold["kind"], beyond, is_told, is_steady)
    return found


def in_force(book: Books, currency: str, catalog: Json, now: datetime) -> dict[str, Json]:
    """The plan's of now, if it has this currency, and the customer's own, which replace those of their id."""
    phase = phase_at(book.phases, now)
    plan_id = (
        phase.plan_id if phase is not None and phase.plan_id is not None else catalog.get("default_plan")
    )
    plan = plans_of(catalog).get(plan_id or "", {})
    plans = plan.get("thresholds", []) if plan.get("currency") == currency else []
    own = book.thresholds_set.get(currency, [[]])[-1]
    return {threshold_id(one): one for one in (*plans, *own)}


def sources(book: Books, currency: str, catalog: Json) -> list[str]:
    """The plans that brought thresholds: each stretch of one, since its thresholds are forgotten between."""
    default = catalog.get("default_plan") or ""
    plans = [default, *(phase.plan_id or default for phase in book.phases)]
    return [
        plan_id
        for plan_id in plans
        if (plan := plans_of(catalog).get(plan_id))
        and plan["currency"] == currency
        and plan.get("thresholds")
    ]


def threshold_id(threshold: Json) -> str:
    if threshold.get("id"):
        return str(threshold["id"])
    level = f"{threshold['percent']}pct" if "percent" in threshold else threshold["amount"]
    return f"{threshold['kind']}:{level}"


def is_beyond(threshold: Json, available: Decimal, usage: Decimal, credits_worth: Decimal) -> bool:
    """Inclusive; a percentage of no credit means nothing."""
    if "percent" in threshold:
        level = credits_worth * Decimal(threshold["percent"]) / 100
        if not credits_worth:
            return False
    else:
        level = Decimal(threshold["amount"])
    return available <= level if threshold["kind"] == "low_balance" else usage >= level

"""Account events on a ledger: what each does, what each may not, and that a refused one changes nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from operators.account_events import ImpossibleError, apply
from operators.account_state import KEPT_MS, AccountState
from operators.ledger import Ledger
from schemas.accounts import parse_account_event
from tests.builders import account_event, payload
from tests.operators.stories import CATALOG

NOON = datetime.fromisoformat("2026-11-23T12:00:30+00:00")
KEPT = timedelta(milliseconds=KEPT_MS)
MS = timedelta(milliseconds=1)
OCTOBER = "2026-10-01T00:00:00Z"


class Account:
    def __init__(self) -> None:
        self.ledger = Ledger(CATALOG, AccountState("acme", "cust_1"))

    def send(self, type_: str, at: datetime = NOON, *, after: timedelta = timedelta(), **fields: Any) -> bool:
        append_ms = round((at + after).timestamp() * 1000)
        event = parse_account_event(payload(account_event(type_, at=at, **fields)), append_ms=append_ms)
        return apply(self.ledger, event, append_ms)

    def refuses(self, why: str, type_: str, *args: Any, **fields: Any) -> None:
        before = self.encoded()
        with pytest.raises(ImpossibleError, match=why):
            self.send(type_, *args, **fields)
        assert self.encoded() == before

    @property
    def credits(self) -> dict[str, Any]:
        return dict(self.ledger.state.credits)

    def encoded(self) -> bytes:
        return msgspec.msgpack.encode(self.ledger.state)

    def wallet(self, now: datetime = NOON, currency: str = "USD") -> tuple[Any, Any, Any]:
        """(balance, unpaid, available)"""
        found = {one.currency: one for one in self.ledger.wallets(round(now.timestamp() * 1000))}
        one = found[currency]
        return one.balance, one.unpaid_invoices, one.available


def test_an_id_is_applied_once_and_again_after_it_was_forgotten_by_its_own_time() -> None:
    account = Account()
    assert account.send("credit_granted", id="c")
    assert not account.send("credit_granted", NOON + KEPT, id="c", amount="7")
    assert account.wallet()[0] == 100
    assert account.send("credit_granted", NOON + KEPT + MS, id="c", amount="7")
    assert account.wallet()[0] == 107
    assert account.ledger.state.inputs == 2
    account.send("credit_granted", NOON + KEPT + MS, id="d")
    account.send("credit_granted", NOON + 3 * KEPT, id="c")
    assert list(account.ledger.state.applied) == [
        "d",
        "c",
    ]  # oldest first: operators/aging.py stops at a newer one
    assert not account.send("credit_granted", NOON + 4 * KEPT, id="c")


@pytest.mark.parametrize("kind", ["started", "changed", "ended"])
def test_a_subscription_event_may_be_ten_minutes_late_and_no_more(kind: str) -> None:
    account, late = Account(), timedelta(minutes=10)
    if kind != "started":
        account.send("subscription_started", NOON - timedelta(days=1))
    account.refuses("appended over 600 s later", f"subscription_{kind}", after=late + MS)
    assert account.send(f"subscription_{kind}", after=late)


def test_subscriptions_that_contradict_the_account() -> None:
    account = Account()
    account.refuses("no subscription is active", "subscription_changed")
    account.refuses("no subscription is active", "subscription_ended")
    account.refuses("'gone' is not a plan", "subscription_started", plan_id="gone")
    account.send("subscription_started", plan_id="daily")
    account.refuses("plan daily is active then", "subscription_started", NOON + MS)
    account.refuses("'gone' is not a plan", "subscription_changed", plan_id="gone")
    assert account.send("subscription_started", NOON - timedelta(minutes=1))  # before it: a plan until then
    account.send("subscription_ended", NOON + timedelta(minutes=1))
    assert account.send("subscription_started", NOON + timedelta(minutes=2))


def test_a_change_keeps_the_anchor_unless_it_names_one() -> None:
    account = Account()
    account.send("subscription_started", plan_id="daily", period_anchor="2026-11-01T09:30:00Z")
    account.send("subscription_changed", NOON + timedelta(hours=1), plan_id="weekly")
    account.send("subscription_changed", NOON + timedelta(hours=2), plan_id="weekly", period_anchor=OCTOBER)
    anchors = [phase.anchor_ms for phase in account.ledger.timeline.phases]
    assert anchors[0] == anchors[1] != anchors[2]


def test_debits_use_credits_by_priority_then_expiry_then_age() -> None:
    account = Account()
    soon, later = (NOON + timedelta(hours=hours) for hours in (1, 2))
    grants: dict[str, dict[str, Any]] = {
        "e": {"priority": 9, "expires_at": soon.isoformat()},
        "d": {"at": NOON + timedelta(minutes=1)},
        "c": {},
        "b": {"expires_at": later.isoformat()},
        "a": {"expires_at": soon.isoformat()},
    }
    for name, fields in grants.items():
        account.send("credit_granted", id=name, amount="10", **{"priority": 100, **fields})
    order: list[str] = []
    while account.ledger.state.grants:
        account.send("debit", amount="10")
        left = {grant.id for grant in account.ledger.state.grants}
        order += sorted(set("abcde") - left - set(order))
    assert order == ["e", "a", "b", "c", "d"]


def test_a_debit_uses_a_credit_that_expired_since_but_not_one_that_had() -> None:
    account, expiry = Account(), NOON + timedelta(hours=1)
    account.send("credit_granted", amount="10", expires_at=expiry.isoformat())
    account.send("debit", expiry - MS, after=timedelta(days=1), amount="4")
    assert account.wallet(expiry) == (0, 0, 0)
    account.send("debit", expiry, amount="1")
    assert account.wallet(NOON) == (5, 0, 5)
    assert account.wallet(expiry) == (-1, 0, -1)
    account.send(
        "debit", expiry - MS, after=KEPT + MS, amount="1"
    )  # so late that the credit may be forgotten
    assert account.wallet(NOON)[0] == 4
    assert [str(grant.remaining) for grant in account.ledger.state.grants] == ["6"]


def test_an_overdraft_is_paid_by_the_next_credit_of_its_currency() -> None:
    account = Account()
    account.send("debit", amount="30")
    account.send("credit_granted", amount="5", currency="EUR")
    assert account.wallet() == (-30, 0, -30)
    account.send("credit_granted", amount="20")
    assert account.wallet() == (-10, 0, -10)
    assert [grant.currency for grant in account.ledger.state.grants] == ["EUR"]
    account.send("credit_granted", amount="20", expires_at=(NOON + timedelta(hours=1)).isoformat())
    assert account.wallet() == (10, 0, 10)
    assert account.wallet(NOON + timedelta(hours=1)) == (0, 0, 0)  # what paid the overdraft can't expire
    assert account.wallet(currency="EUR") == (5, 0, 5)


def test_an_invoice_is_issued_paid_in_parts_and_settled() -> None:
    account = Account()
    account.send("invoice_issued", invoice_id="i", amount="10", period_start=OCTOBER)
    account.refuses("was issued before", "invoice_issued", invoice_id="i")
    account.refuses("amount 10.01 is over the 10 USD", "invoice_paid", invoice_id="i", amount="10.01")
    account.refuses("currency EUR is not", "invoice_paid", invoice_id="i", currency="EUR")
    account.refuses(
        "period_start .* is not that", "invoice_paid", invoice_id="i", period_start="2026-11-01T00:00:00Z"
    )
    account.refuses("never issued", "invoice_paid", invoice_id="j")
    account.send("invoice_paid", invoice_id="i", amount="4", period_start=OCTOBER)
    assert account.wallet() == (0, 6, -6)
    account.send("invoice_paid", invoice_id="i")
    assert account.wallet() == (0, 0, 0)
    account.refuses("was paid before", "invoice_paid", invoice_id="i")
    account.refuses("amount 4 is not the 10", "invoice_voided", invoice_id="i", amount="4")
    account.send("invoice_voided", invoice_id="i", amount="10")
    account.refuses("was voided", "invoice_voided", invoice_id="i")
    account.refuses("was voided", "invoice_paid", invoice_id="i")


@pytest.mark.parametrize("settled_by", ["invoice_paid", "invoice_voided", "nothing to pay"])
def test_a_settled_invoice_can_be_referred_to_for_90_days(settled_by: str) -> None:
    account = Account()
    account.send("invoice_issued", invoice_id="i", amount="0" if settled_by == "nothing to pay" else "1")
    if settled_by != "nothing to pay":
        account.send(settled_by, invoice_id="i")
    account.refuses("issued before", "invoice_issued", NOON + KEPT, invoice_id="i")
    account.refuses("or settled over 90 days ago", "invoice_voided", NOON + KEPT + MS, invoice_id="i")
    assert account.send("invoice_issued", NOON + KEPT + MS, invoice_id="i", amount="3")
    assert account.wallet() == (0, 3, -3)
    assert len(account.ledger.state.invoices) == 1


def test_an_open_invoice_is_never_too_old() -> None:
    account = Account()
    account.send("invoice_issued", invoice_id="i", amount="1")
    assert account.send("invoice_paid", NOON + 9 * KEPT, invoice_id="i")


def test_adjustments() -> None:
    account = Account()
    account.refuses("'gone' is not a meter", "adjustment", meter_id="gone")
    ended = datetime.fromisoformat("2026-11-01T00:00:00+00:00")
    adjust: dict[str, Any] = {"meter_id": "tokens", "period_start": OCTOBER}
    account.refuses("ended over 90 days before", "adjustment", ended + KEPT + MS, **adjust, quantity="1")
    account.send("adjustment", ended + KEPT, **adjust, quantity="13")
    account.send("adjustment", ended + KEPT, **adjust, quantity="-2")
    account.send(
        "adjustment", ended + KEPT, meter_id="tokens", period_start="2026-11-01T00:00:00Z", quantity="-99"
    )
    # 5 a month, 3 of the 11 tokens are free, the rest at 0.333: a price never gives money back
    assert account.wallet() == (0, 0, Decimal("-12.66"))


def test_thresholds_replace_those_that_were_set() -> None:
    account = Account()
    account.send(
        "thresholds_set", thresholds=[{"kind": "spend", "percent": "50"}, {"kind": "spend", "amount": 1}]
    )
    assert [one.id for one in account.ledger.state.thresholds["USD"]] == ["spend:50pct", "spend:1"]
    account.send("thresholds_set", thresholds=[])
    assert account.ledger.state.thresholds == {}


def test_percentages_are_of_what_credits_were_worth_after_the_last_grant() -> None:
    account = Account()
    account.send("credit_granted", amount="50", expires_at=(NOON + timedelta(hours=1)).isoformat())
    account.send("debit", amount="20")
    account.send("credit_granted", amount="70")
    assert account.credits == {"USD": 100}
    account.send("debit", amount="70")
    assert account.credits == {"USD": 100}
    account.send("credit_granted", NOON + timedelta(hours=1), amount="5")  # the 30 that were left are gone
    assert account.credits == {"USD": 35}

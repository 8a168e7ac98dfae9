"""What time does to an account: standing charges begin, credits expire, settled business leaves the state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.account_events import ImpossibleError, apply
from operators.account_state import DAY_MS, KEPT_MS, AccountState
from operators.aging import (
    FORGET_STEP_MS,
    begin_standing,
    expire,
    forget,
    next_expiry_ms,
    next_standing_ms,
    reopen,
)
from operators.ledger import Ledger
from schemas.accounts import parse_account_event
from schemas.catalog import load_catalog
from tests.builders import account_event, at_ms, payload
from tests.operators.pipeline import utc
from tests.operators.stories import CATALOG, differences, judged, long_steps, story_of, tell

DAY = timedelta(days=1)
BEGIN = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
YEAR_LATER_MS = at_ms("2027-01-01T00:00:00Z")


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class Account:
    """One customer of the stories' catalog."""

    def __init__(self) -> None:
        self.ledger = Ledger(CATALOG, AccountState("acme", "cust_1"))

    @property
    def state(self) -> AccountState:
        return self.ledger.state

    def send(self, type_: str, at: datetime, *, after: timedelta = timedelta(), **fields: Any) -> None:
        append_ms = ms(at + after)
        event = parse_account_event(payload(account_event(type_, at=at, **fields)), append_ms=append_ms)
        assert apply(self.ledger, event, append_ms)

    def use(self, at: datetime, quantity: int = 1, meter: str = "tokens") -> None:
        found = CATALOG.meters_by_id[meter]
        tokens = np.array([quantity], np.uint64)
        self.ledger.add_usage(found, ms(at), 1, Decimal(quantity), tokens, is_settled=True)

    def invoice(self, start: datetime, at: datetime, *, paid: bool = True) -> None:
        name = f"inv_{start:%m}"
        period = start.isoformat()
        self.send("invoice_issued", at, invoice_id=name, amount="1", currency="USD", period_start=period)
        if paid:
            self.send("invoice_paid", at, invoice_id=name)

    def forget(self, passed_ms: int) -> bool:
        """As `Bills` does when everything was sent."""
        for usage in self.ledger.usages.values():
            usage.is_unsent = False
        has_changed = forget(self.ledger, passed_ms - KEPT_MS, passed_ms - KEPT_MS)
        assert [usage.place for usage in self.state.usages] == list(range(len(self.state.usages)))
        return has_changed

    def kept(self) -> list[tuple[str, str]]:
        return sorted({(f"{utc(u.start_ms):%m}", u.meter_id) for u in self.state.usages})


@settings(max_examples=100, deadline=None)
@given(long_steps, st.integers(0, 2**32))
def test_years_go_by_and_nothing_that_is_forgotten_is_missed(
    drawn: list[tuple[int, str, dict[str, Any]]], seed: int
) -> None:
    story = story_of(drawn)
    assert differences(tell(story, random.Random(seed), crashes=2), judged(story)) == []


def test_a_year_that_is_paid_leaves_only_the_newest_months() -> None:
    account = Account()
    account.send("subscription_started", BEGIN, plan_id="starter")
    sizes = []
    for month in range(1, 13):
        start = BEGIN.replace(month=month)
        begin_standing(account.ledger, ms(start))
        for day in range(28):
            account.use(start + day * DAY)
            account.use(start + day * DAY, meter="stored")
            account.send("debit", start + day * DAY, amount="1")
            account.send(
                "credit_granted",
                start + day * DAY,
                amount="1",
                expires_at=(start + (day + 1) * DAY).isoformat(),
            )
        if month > 1:
            account.invoice(BEGIN.replace(month=month - 1), start)
        expire(account.state, ms(start + 28 * DAY))
        account.forget(ms(start + 28 * DAY))
        sizes.append(len(msgspec.msgpack.encode(account.state)))
    assert max(sizes[5:]) < 1.1 * sizes[4]
    carried = next(usage for usage in account.state.usages if not usage.plan_id)
    assert (carried.meter_id, carried.events) == ("stored", 28 * 8)  # of the months that are forgotten
    december = account.ledger.usages[ms(BEGIN.replace(month=12)), "starter", "stored"]
    assert account.ledger.quantity(december) == 28 * 12
    assert {invoice.id for invoice in account.state.invoices} == {"inv_09", "inv_10", "inv_11"}


@pytest.mark.parametrize("open_business", ["not invoiced", "not paid", "voided"])
def test_open_business_stays(open_business: str) -> None:
    account = Account()
    account.use(BEGIN)
    if open_business != "not invoiced":
        account.invoice(BEGIN, BEGIN + 40 * DAY, paid=False)
    if open_business == "voided":
        account.send("invoice_voided", BEGIN + 41 * DAY, invoice_id="inv_01")
    account.forget(YEAR_LATER_MS)
    account.forget(YEAR_LATER_MS + FORGET_STEP_MS)
    assert ("01", "tokens") in account.kept()
    assert len(account.state.invoices) == (open_business == "not paid")
    (wallet,) = account.ledger.wallets(YEAR_LATER_MS)
    assert wallet.available == (-1 if open_business == "not paid" else -5)


def test_nothing_is_forgotten_before_its_time() -> None:
    account = Account()
    account.use(BEGIN)
    account.send("credit_granted", BEGIN, amount="1", expires_at=(BEGIN + DAY).isoformat())
    account.invoice(BEGIN, BEGIN + 40 * DAY)
    expire(account.state, ms(BEGIN + DAY))
    before = msgspec.msgpack.encode(account.state.grants)
    settled_ms = ms(BEGIN + 40 * DAY)
    account.forget(ms(BEGIN + DAY) + KEPT_MS)
    assert msgspec.msgpack.encode(account.state.grants) == before
    account.forget(settled_ms + KEPT_MS)
    assert (len(account.state.usages), len(account.state.invoices), len(account.state.applied)) == (3, 1, 2)
    assert account.state.grants == []
    assert account.forget(settled_ms + KEPT_MS + 1)
    assert (account.state.usages, account.state.invoices, account.state.applied) == ([], [], {})
    (wallet,) = account.ledger.wallets(settled_ms)
    assert (wallet.currency, wallet.available) == ("USD", Decimal(0))
    assert not account.forget(settled_ms + KEPT_MS + 2)


@pytest.mark.parametrize("used", [True, False])
def test_an_invoice_that_was_paid_long_ago_still_covers_a_period_to_which_usage_can_come(
    *, used: bool
) -> None:
    account = Account()
    if used:
        account.use(BEGIN)
    account.invoice(BEGIN, BEGIN)
    for usage in account.ledger.usages.values():
        usage.is_unsent = False
    end_ms = ms(BEGIN.replace(month=2)) - 60_000
    forget(account.ledger, YEAR_LATER_MS, end_ms)
    account.use(BEGIN + DAY)
    (wallet,) = account.ledger.wallets(YEAR_LATER_MS)
    assert (wallet.usage, len(account.state.invoices)) == (Decimal(0), 1)
    quantity = account.ledger.quantity(account.ledger.usages[ms(BEGIN), "starter", "tokens"])
    assert quantity == Decimal(1 + used)
    for usage in account.ledger.usages.values():
        usage.is_unsent = False
    forget(account.ledger, YEAR_LATER_MS, end_ms + 60_001)
    assert (account.kept(), account.state.invoices) == ([], [])


def test_a_forgotten_segment_is_not_begun_anew() -> None:
    account = Account()
    account.send("subscription_started", BEGIN, plan_id="starter")
    begin_standing(account.ledger, ms(BEGIN))
    account.use(BEGIN + DAY)
    account.invoice(BEGIN, BEGIN + 40 * DAY)
    account.forget(YEAR_LATER_MS)
    assert account.kept() == []
    assert [wallet.currency for wallet in account.ledger.wallets(YEAR_LATER_MS)] == ["USD"]  # sent again
    account.ledger = Ledger(CATALOG, account.state)  # as after a resume
    account.use(BEGIN + DAY)
    assert account.kept() == []
    with pytest.raises(ImpossibleError, match="ended over 90 days before"):
        account.send("adjustment", BEGIN, after=365 * DAY, meter_id="tokens", quantity="1")
    assert account.kept() == []


def test_a_fee_that_a_catalog_adds_is_not_owed_for_forgotten_periods() -> None:
    plain = load_catalog("""
meters: [{id: calls, event_name: call, aggregation: {type: COUNT}}]
plans: [{id: p, currency: USD, charges: [{meter: calls, price: {model: per_unit, unit_amount: 1}}]}]
""")
    with_fee = load_catalog("""
meters: [{id: calls, event_name: call, aggregation: {type: COUNT}}]
plans: [{id: p, currency: USD, charges: [{price: {model: flat, amount: 9}}]}]
""")
    account = Account()
    account.ledger = Ledger(plain, AccountState("acme", "cust_1"))
    account.send("subscription_started", BEGIN, plan_id="p")
    account.forget(YEAR_LATER_MS)
    later = Ledger(with_fee, account.state)
    begin_standing(later, YEAR_LATER_MS)
    assert len(later.usages) == 3  # November to January: they began in the last 90 days


def test_credits_expire_once_whether_time_or_a_debit_ends_them() -> None:
    def grants() -> Iterator[Account]:
        for _ in range(2):
            account = Account()
            account.send(
                "credit_granted", BEGIN, amount="5", currency="USD", expires_at=(BEGIN + DAY).isoformat()
            )
            assert next_expiry_ms(account.state) == ms(BEGIN + DAY)
            yield account

    first, second = grants()
    assert not expire(first.state, ms(BEGIN + DAY) - 1)
    assert expire(first.state, ms(BEGIN + DAY))
    first.send("debit", BEGIN, after=2 * DAY, amount="5", currency="USD")
    second.send("debit", BEGIN, amount="5", currency="USD")
    assert not expire(second.state, ms(BEGIN + DAY))
    assert first.state.transitions == second.state.transitions == 1
    assert first.state.grants == second.state.grants == []
    assert next_expiry_ms(first.state) is None


def test_standing_charges_begin_one_after_the_other_and_are_counted_once() -> None:
    account = Account()
    assert next_standing_ms(account.ledger) is None
    account.send("subscription_started", BEGIN, plan_id="daily")
    assert next_standing_ms(account.ledger) == ms(BEGIN)
    assert not begin_standing(account.ledger, ms(BEGIN) - 1)
    assert begin_standing(account.ledger, ms(BEGIN + 2 * DAY))
    assert not begin_standing(account.ledger, ms(BEGIN + 2 * DAY))
    assert account.state.transitions == 3  # Berlin's days begin at 23:00
    assert next_standing_ms(account.ledger) == ms(BEGIN + 3 * DAY - timedelta(hours=1))
    reopen(account.ledger, ms(BEGIN + DAY))
    assert (account.state.transitions, next_standing_ms(account.ledger)) == (
        2,
        ms(BEGIN + 2 * DAY - timedelta(hours=1)),
    )


def test_what_began_before_a_change_of_plan_was_heard_of_is_counted_as_if_it_had_been() -> None:
    counts = []
    for heard in (0, 3):
        account = Account()
        account.send("subscription_started", BEGIN, plan_id="daily")
        begin_standing(account.ledger, ms(BEGIN + heard * DAY))
        account.send("subscription_changed", BEGIN + DAY, plan_id="starter")
        begin_standing(account.ledger, ms(BEGIN + 40 * DAY))
        counts.append(account.state.transitions)
    assert counts == [4, 4]  # two days of Berlin, the rest of January, February


def test_an_account_in_which_nothing_is_settled_changes_seldom() -> None:
    account = Account()
    account.use(BEGIN)
    assert account.forget(YEAR_LATER_MS)
    assert not account.forget(YEAR_LATER_MS + DAY_MS)
    assert account.forget(YEAR_LATER_MS + FORGET_STEP_MS)

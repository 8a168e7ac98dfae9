"""Usage of one customer in segments, and the wallets that come of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from operators.account_events import apply
from operators.account_state import AccountState, Usage
from operators.ledger import Ledger
from schemas.accounts import parse_account_event
from schemas.catalog import Catalog, load_catalog
from schemas.money import exact_sum
from tests.builders import account_event, catalog, meter, payload, plan, price
from tests.operators.stories import CATALOG, CATALOG_YAML

NOVEMBER = datetime.fromisoformat("2026-11-01T00:00:00+00:00")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class Account:
    def __init__(self, terms: Catalog = CATALOG) -> None:
        self.terms = terms
        self.ledger = Ledger(terms, AccountState("acme", "cust_1"))

    def send(self, type_: str, at: datetime, **fields: Any) -> None:
        event = parse_account_event(payload(account_event(type_, at=at, **fields)), append_ms=ms(at))
        assert apply(self.ledger, event, ms(at))

    def use(self, name: str, at: datetime, *values: str) -> None:
        total = exact_sum(Decimal(value) for value in values)
        tokens = np.array([hash(value) & 0xFFFF for value in values], np.uint64)
        found = self.terms.meters_by_id[name]
        self.ledger.add_usage(found, ms(at), len(values), total, tokens, is_settled=True)

    def usage(self, name: str, at: datetime, plan_id: str = "starter") -> Usage:
        return self.ledger.usages[ms(at), plan_id, name]

    def priced(self, name: str, at: datetime, plan_id: str = "starter") -> tuple[Any, Any]:
        usage = self.usage(name, at, plan_id)
        self.ledger.price(usage)
        return usage.quantity, usage.amount

    def used(self, now: datetime = NOVEMBER) -> dict[str, Any]:
        return {wallet.currency: wallet.usage for wallet in self.ledger.wallets(ms(now))}


@pytest.mark.parametrize(
    ("kind", "values", "quantity"),
    [
        ("COUNT", ["5", "5"], "2"),
        ("SUM", ["5", "-0.000000000001"], "4.999999999999"),
        ("AVG", ["1", "0", "0"], "0.333333333333"),
        ("AVG", ["1", "0", "0", "0", "0", "0"], "0.166666666667"),
        ("AVG", ["0.000000000001", "0"], "0"),  # half to even
        ("AVG", ["0.000000000003", "0"], "0.000000000002"),
        ("COUNT_UNIQUE", ["5", "6", "5"], "2"),
    ],
)
def test_quantities(kind: str, values: list[str], quantity: str) -> None:
    account = Account(catalog(meter("m", type=kind), plans=[plan(charges={"m": price(unit_amount=1)})]))
    account.use("m", NOVEMBER, *values)
    assert account.priced("m", NOVEMBER)[0] == Decimal(quantity)


def test_usage_belongs_to_the_segment_of_its_own_minute() -> None:
    account = Account()
    for at in (NOVEMBER - MINUTE, NOVEMBER, NOVEMBER + 10 * DAY):
        account.use("tokens", at, "13")
    assert account.priced("tokens", NOVEMBER)[0] == 26
    assert account.priced("tokens", NOVEMBER - 31 * DAY) == (13, Decimal("3.33"))


def test_a_fee_of_the_default_plan_stands_or_falls_with_the_periods_usage() -> None:
    account = Account()
    account.use("free", NOVEMBER, "1")  # no charge of the plan is for this meter
    assert account.used() == {"USD": 5}
    account.send("subscription_started", NOVEMBER, plan_id="weekly")
    old, found = account.usage("free", NOVEMBER), account.terms.meters_by_id["free"]
    segment = account.ledger.timeline.segment_at(ms(NOVEMBER - MINUTE))
    account.ledger.begin(segment) if segment else None
    assert account.used() == {"USD": 0}
    assert (old.holds, found.id) == (False, "free")


def test_a_fee_that_fell_stands_again_when_late_usage_comes() -> None:
    account = Account()
    account.use("free", NOVEMBER + DAY, "1")
    free = account.usage("free", NOVEMBER)
    account.send("subscription_started", NOVEMBER + DAY, plan_id="weekly")
    free.events = 0  # moved to the subscription, as operators/movable.py does
    assert account.used() == {"USD": 0}
    account.use("free", NOVEMBER, "1")
    assert account.used() == {"USD": 5}
    assert account.usage("", NOVEMBER).is_unsent


def test_an_anchor_that_changes_within_the_minute_changes_the_period() -> None:
    account = Account()
    account.send(
        "subscription_started", NOVEMBER, plan_id="starter", period_anchor=(NOVEMBER - DAY).isoformat()
    )
    account.use("free", NOVEMBER, "1")
    anchored = {"plan_id": "starter", "period_anchor": (NOVEMBER - 2 * DAY).isoformat()}
    account.send("subscription_changed", NOVEMBER + timedelta(seconds=30), **anchored)
    free = account.usage("free", NOVEMBER)
    assert (free.period_ms, free.end_ms) == (ms(NOVEMBER - 2 * DAY), ms(NOVEMBER + 29 * DAY))
    bill = {"amount": "7", "period_start": (NOVEMBER - 2 * DAY).isoformat()}
    account.send("invoice_issued", NOVEMBER + 29 * DAY, **bill)
    assert account.used() == {"USD": 0}


def test_a_flat_price_for_a_meter_is_owed_once_a_segment_whatever_the_quantity() -> None:
    account = Account()
    account.send("subscription_started", NOVEMBER, plan_id="weekly")
    account.use("users", NOVEMBER, "1", "2", "3")
    assert account.priced("users", NOVEMBER, "weekly") == (3, Decimal("0.5"))


def test_a_change_of_plan_is_priced_in_parts_without_proration() -> None:
    account = Account()
    account.use("tokens", NOVEMBER, "13")
    account.send("subscription_started", NOVEMBER + DAY, plan_id="starter")
    account.use("tokens", NOVEMBER + DAY, "13")
    assert account.used() == {"USD": Decimal("16.66")}


def test_a_meter_that_never_resets_adds_up_and_a_late_reading_changes_what_came_after() -> None:
    account = Account()
    account.use("stored", NOVEMBER, "4")
    account.use("stored", NOVEMBER + 30 * DAY, "8")
    assert account.used() == {"USD": 10 + 1 + 3}
    account.use("stored", NOVEMBER - DAY, "4")
    assert account.used() == {"USD": 15 + 1 + 2 + 4}
    october, november, december = (NOVEMBER - 31 * DAY, NOVEMBER, NOVEMBER + 30 * DAY)
    assert [account.priced("stored", at)[0] for at in (october, november, december)] == [4, 8, 16]


def test_distinct_values_of_a_meter_that_never_resets_are_counted_once() -> None:
    terms = load_catalog(
        CATALOG_YAML.replace("{meter: stored,", "{meter: seats,").replace(
            "        price: {model: per_unit, unit_amount: 1}", ""
        )
    )
    account = Account(terms)
    account.use("seats", NOVEMBER, "1", "2")
    account.use("seats", NOVEMBER + 30 * DAY, "2", "3")
    assert [account.priced("seats", at)[0] for at in (NOVEMBER, NOVEMBER + 30 * DAY)] == [2, 3]


def test_an_invoice_covers_a_billing_period_or_one_segment_in_its_currency() -> None:
    for start, left in [
        (NOVEMBER, 5),  # the calendar's November, of which the first segment is
        (NOVEMBER + DAY, 5),  # the second segment alone
        (NOVEMBER + 2 * DAY, 10),
    ]:
        account = Account()
        account.use("free", NOVEMBER, "1")
        account.send(
            "subscription_started",
            NOVEMBER + DAY,
            plan_id="starter",
            period_anchor=(NOVEMBER + DAY).isoformat(),
        )
        account.use("free", NOVEMBER + DAY, "1")
        bill = {"amount": "7", "period_start": start.isoformat()}
        account.send("invoice_issued", NOVEMBER + 3 * DAY, **bill, currency="EUR")
        assert account.used()["USD"] == 10
        account.send("invoice_issued", NOVEMBER + 3 * DAY, **bill, invoice_id="b")
        (usd,) = (one for one in account.ledger.wallets(0) if one.currency == "USD")
        assert [usd.usage, usd.unpaid_invoices, usd.available] == [left, 7, -7 - left]
        account.send("invoice_voided", NOVEMBER + 3 * DAY, invoice_id="b")
        assert account.used()["USD"] == 10


def test_usage_that_comes_after_its_invoice_changes_the_charge_and_not_the_wallet() -> None:
    account = Account()
    account.use("tokens", NOVEMBER, "13")
    account.send("invoice_issued", NOVEMBER + 30 * DAY, amount="8.33", period_start=NOVEMBER.isoformat())
    account.use("tokens", NOVEMBER + DAY, "10")
    assert account.priced("tokens", NOVEMBER) == (23, Decimal("4.33"))
    assert account.used() == {"USD": 0}


def test_adjustments_move_with_the_timeline() -> None:
    account = Account()
    account.send(
        "adjustment",
        NOVEMBER + DAY,
        meter_id="tokens",
        period_start=(NOVEMBER + DAY).isoformat(),
        quantity="13",
    )
    assert account.priced("tokens", NOVEMBER) == (13, Decimal("3.33"))
    account.send("subscription_started", NOVEMBER + DAY, plan_id="daily")
    assert account.priced("tokens", NOVEMBER) == (0, 0)
    assert account.priced("tokens", NOVEMBER + DAY, "daily") == (13, Decimal("0.91"))
    assert account.used() == {"USD": 0, "EUR": Decimal("1.91")}


def test_without_a_plan_usage_is_not_priced() -> None:
    account = Account(load_catalog(CATALOG_YAML.replace("default_plan: starter", "")))
    account.use("tokens", NOVEMBER, "13", "1")
    assert account.used() == {}


def test_sums_are_exact_beyond_the_28_digits_of_the_default_context() -> None:
    account = Account(catalog(meter("m"), plans=[plan(charges={"m": price(unit_amount="0.000000000001")})]))
    account.use("m", NOVEMBER, "999999999999999999.999999999999")
    account.use("m", NOVEMBER, "999999999999999999.999999999999")
    quantity, amount = account.priced("m", NOVEMBER)
    assert (str(quantity), str(amount)) == ("1999999999999999999.999999999998", "2000000.00")
    assert str(account.usage("m", NOVEMBER).amount_unrounded) == "1999999.999999999999999999999998"

"""The oracle's accounts and prices against cases worked out by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.oracle import LogRecord, Rules, expected
from tests.oracle_accounts import Charge, Wallet
from tests.oracle_prices import cost, period_of
from tests.oracle_thresholds import Standing

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: {type: COUNT}}
  - {id: gb, event_name: store, aggregation: {type: SUM, field: gb}, reset_usage: NEVER}
plans:
  - id: basic
    currency: USD
    charges:
      - {price: {model: flat, amount: 10}}
      - {meter: calls, price: {model: per_unit, unit_amount: 1}, free_units: 1}
      - {meter: gb, price: {model: per_unit, unit_amount: 2}}
  - {id: pro, currency: USD, charges: [{meter: calls, price: {model: per_unit, unit_amount: "0.5"}}]}
default_plan: basic
"""


TIERS = [{"up_to": 10, "unit_amount": 1}, {"up_to": None, "flat_amount": 7}]
GRADUATED = {"model": "graduated", "tiers": TIERS}
VOLUME = {"model": "volume", "tiers": [{"up_to": 10, "unit_amount": 1}, {"up_to": None, "unit_amount": 2}]}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Log:
    """One customer's records, appended at their own timestamps unless it is said otherwise."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []

    def add(self, when: str, topic: str = "account-events", after_s: float = 0, **fields: Any) -> None:
        number = len(self.records)
        event = {
            "id": f"e{number}",
            "tenant_id": "t",
            "external_customer_id": "c",
            "timestamp": when,
        } | fields
        append_ms = round((datetime.fromisoformat(when) + timedelta(seconds=after_s)).timestamp() * 1000)
        self.records.append(LogRecord(topic, 0, number, append_ms, b"c", json.dumps(event).encode()))

    def use(self, when: str, name: str = "call", **properties: Any) -> None:
        self.add(when, "usage-events", event_name=name, properties=properties)

    def charges(self, now: str) -> dict[tuple[str, str, str], Charge]:
        found = expected(self.records, CATALOG, Rules(now=at(now))).charges
        return {(m, p.strftime("%m-%dT%H:%M"), plan): one for (_, _, m, p, plan), one in found.items()}


def usd(events: int, quantity: str, amount: str) -> Charge:
    return Charge("USD", events, Decimal(quantity), Decimal(amount), Decimal(amount))


def test_a_change_of_plan_splits_the_month_at_its_minute_and_each_part_is_priced_by_itself() -> None:
    log = Log()
    log.use("2026-11-10T11:59:59Z")
    log.use("2026-11-10T11:59:59Z")
    log.add("2026-11-10T12:00:59Z", type="subscription_started", plan_id="pro")
    log.use("2026-11-10T12:00:00Z")
    assert log.charges("2026-11-12") == {
        ("", "11-01T00:00", "basic"): usd(0, "0", "10"),
        ("calls", "11-01T00:00", "basic"): usd(2, "2", "1"),
        ("gb", "11-01T00:00", "basic"): usd(0, "0", "0"),
        ("calls", "11-10T12:00", "pro"): usd(1, "1", "0.5"),
    }


def test_a_subscription_owes_its_fee_in_every_period_and_a_meter_that_never_resets_goes_on() -> None:
    log = Log()
    log.add("2026-10-15T00:00:00Z", type="subscription_started", plan_id="basic")
    log.use("2026-10-16T00:00:00Z", "store", gb=3)
    log.use("2026-12-02T00:00:00Z", "store", gb=-1)
    assert log.charges("2026-12-03") == {
        ("", "10-15T00:00", "basic"): usd(0, "0", "10"),
        ("gb", "10-15T00:00", "basic"): usd(1, "3", "6"),
        ("", "11-01T00:00", "basic"): usd(0, "0", "10"),
        ("gb", "11-01T00:00", "basic"): usd(0, "3", "6"),
        ("", "12-01T00:00", "basic"): usd(0, "0", "10"),
        ("gb", "12-01T00:00", "basic"): usd(1, "2", "4"),
    }


def test_a_late_subscription_event_is_refused_and_what_contradicts_the_account_too() -> None:
    log = Log()
    log.add("2026-11-10T12:00:00Z", type="subscription_started", plan_id="pro", after_s=600.001)
    log.add("2026-11-10T12:00:00Z", type="subscription_changed", plan_id="pro")
    log.add("2026-11-10T12:00:00Z", type="subscription_started", plan_id="no such plan")
    log.add("2026-11-10T12:00:00Z", type="invoice_paid", invoice_id="unknown")
    log.add("2026-11-10T12:00:00Z", type="teleported")
    reasons = list(expected(log.records, CATALOG).rejects.values())
    assert reasons == ["account_event_impossible"] * 4 + ["account_event_invalid"]


def test_an_invoice_takes_its_period_out_of_usage_until_it_is_voided() -> None:
    log = Log()
    log.use("2026-10-31T23:59:59Z")
    issued = {"invoice_id": "i", "amount": "12", "currency": "USD", "period_start": "2026-10-01T00:00:00Z"}
    wallets = []
    steps: list[dict[str, Any]] = [
        {"type": "invoice_issued", **issued},
        {"type": "invoice_paid", "invoice_id": "i", "amount": "5"},
        {"type": "invoice_voided", "invoice_id": "i"},
    ]
    for step in steps:
        log.add("2026-11-02T00:00:00Z", **step)
        wallets.append(expected(log.records, CATALOG).wallets["t", "c", "USD"])
    assert wallets == [
        Wallet(unpaid_invoices=Decimal(12)),
        Wallet(unpaid_invoices=Decimal(7)),
        Wallet(usage=Decimal(10)),
    ]


def test_debits_use_credits_by_priority_then_soonest_expiry_and_one_that_expired_since() -> None:
    log = Log()
    grants = [("a", 5, None), ("b", 1, None), ("c", 5, "2026-11-10T13:00:00Z")]
    for name, priority, expires in grants:
        more = {"expires_at": expires} if expires else {}
        money: dict[str, Any] = {"id": name, "amount": "10", "currency": "USD", "priority": priority, **more}
        log.add("2026-11-10T12:00:00Z", type="credit_granted", **money)
    log.add("2026-11-10T12:30:00Z", after_s=7200, type="debit", amount="15", currency="USD")
    assert expected(log.records, CATALOG).wallets["t", "c", "USD"].balance == 10  # b and half of c are used
    log.add("2026-11-10T13:00:00Z", type="debit", amount="11", currency="USD")
    assert expected(log.records, CATALOG).wallets["t", "c", "USD"].balance == -1


def test_thresholds_stand_where_the_wallet_ends() -> None:
    """A credit of 40 after an overdraft of 10 is worth 30: of them 24 are 80 %."""
    log = Log()
    low, spend = {"kind": "low_balance", "percent": "80"}, {"kind": "spend", "amount": "10", "id": "fee"}
    set_to: dict[str, Any] = {"type": "thresholds_set", "currency": "EUR"}
    log.add(
        "2026-11-10T12:00:00Z", **set_to, thresholds=[low, spend, {"kind": "low_balance", "amount": "30"}]
    )
    money: dict[str, Any] = {"currency": "EUR", "type": "debit"}
    log.add("2026-11-10T12:01:00Z", **money, amount="10")
    log.add("2026-11-10T12:02:00Z", **money | {"type": "credit_granted"}, amount="40")
    assert standings_of(log) == {
        "low_balance:80pct": Standing("low_balance", is_beyond=False, is_told=False, is_steady=True),
        "low_balance:30": Standing("low_balance", is_beyond=True, is_told=False, is_steady=True),
        "fee": Standing("spend", is_beyond=False, is_told=False, is_steady=True),
    }
    log.add("2026-11-10T12:03:00Z", **money, amount="6")
    assert standings_of(log)["low_balance:80pct"].is_told
    log.add("2026-11-10T12:04:00Z", **set_to, thresholds=[low])
    assert standings_of(log) == {
        "low_balance:80pct": Standing("low_balance", is_beyond=True, is_told=False, is_steady=False)
    }


def standings_of(log: Log, currency: str = "EUR") -> dict[str, Standing]:
    found = expected(log.records, CATALOG).thresholds
    return {name: standing for (*_, wallet, name), standing in found.items() if wallet == currency}


@pytest.mark.parametrize(
    ("model", "quantity", "amount"),
    [
        ({"model": "flat", "amount": "3"}, "0", "3"),
        ({"model": "per_unit", "unit_amount": "0.5"}, "-4", "0"),
        ({"model": "package", "amount": "2", "size": "10"}, "10.1", "4"),
        ({"model": "package", "amount": "2", "size": "10"}, "10", "2"),
        (GRADUATED, "10", "10"),
        (GRADUATED, "11", "17"),
        (VOLUME, "10", "10"),
        (VOLUME, "11", "22"),
    ],
)
def test_price_models(model: dict[str, Any], quantity: str, amount: str) -> None:
    assert cost(model, Decimal(quantity)) == Decimal(amount)


@pytest.mark.parametrize(
    ("moment", "schedule", "start", "end"),
    [
        ("2026-11-23", "WEEKLY UTC", "2026-11-23", "2026-11-30"),
        ("2026-10-25T12:00", "DAILY Europe/Berlin", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("2026-03-15", "MONTHLY UTC 2026-01-31T10:00", "2026-02-28T10:00", "2026-03-31T10:00"),
        ("2026-01-01", "QUARTERLY America/New_York", "2025-10-01T04:00", "2026-01-01T05:00"),
        ("2025-02-28", "ANNUAL UTC 2024-02-29", "2025-02-28", "2026-02-28"),
    ],
)
def test_periods(moment: str, schedule: str, start: str, end: str) -> None:
    kind, zone, *anchors = schedule.split()
    anchor = at(anchors[0]) if anchors else None
    assert period_of(at(moment), kind, zone, anchor) == (at(start), at(end))

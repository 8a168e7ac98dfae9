"""The oracle against cases worked out by hand: it is trusted by every other test."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.oracle import Charge, Wallet, Window, round_money
from tests.oracle_events import canonical
from tests.oracle_log import NOON, Log

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def log() -> Log:
    return Log()


def test_windows_of_all_four_aggregations(log: Log) -> None:
    log.add(event_name="call", timestamp="2026-11-23T11:59:59.999Z", properties={"ms": 10})
    log.add(event_name="call", timestamp="2026-11-23T12:00:00Z", properties={"ms": "0.5"})
    log.add(event_name="call", properties={})
    for user in ("u1", "u2", "u1", 7, "7", None):
        log.add(event_name="seat", properties={"user": user})
    for tokens in (1.5, "2.25", 1e3):
        log.add(event_name="llm", properties={"tokens": tokens, "model": "large", "tier": "a"})
    out = log.judge()
    assert not out.rejects
    at = NOON
    assert dict(out.windows) == {
        ("t", "calls", "c", at - timedelta(minutes=1), 60): Window(1, Decimal(0)),
        ("t", "calls", "c", at, 60): Window(2, Decimal(0)),
        ("t", "latency", "c", at.replace(hour=0), 86_400): Window(2, Decimal("10.5")),
        ("t", "users", "c", at, 900): Window(5, Decimal(0), {"u1", "u2", "7"}),
        ("t", "tokens", "c", at, 3600): Window(3, Decimal("1003.75")),
    }


def test_charges_round_half_away_from_zero_and_the_wallet_owes_their_sum(log: Log) -> None:
    for ms in (1, 2, 2):
        log.add(event_name="call", properties={"ms": ms})
    log.add(event_name="llm", properties={"tokens": -0.5, "model": True, "tier": "b"})
    log.add(event_name="seat", properties={"user": "u"}, timestamp="2026-10-31T23:59:59Z")
    out = log.judge()
    third = Decimal("1.666666666667")
    assert out.charges == {
        ("t", "c", "calls", NOVEMBER, "starter"): Charge(
            "USD", 3, Decimal(3), Decimal("0.015"), Decimal("0.02")
        ),
        ("t", "c", "latency", NOVEMBER, "starter"): Charge("USD", 3, third, third, Decimal("1.67")),
        ("t", "c", "tokens", NOVEMBER, "starter"): Charge("USD", 1, Decimal("-0.5"), Decimal(0), Decimal(0)),
        ("t", "c", "users", NOVEMBER.replace(month=10), "starter"): Charge(
            "USD", 1, Decimal(1), Decimal("2.5"), Decimal("2.5")
        ),
    }
    assert dict(out.wallets) == {("t", "c", "USD"): Wallet(usage=Decimal("4.19"))}


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.025", "USD", "0.03"),
        ("-0.025", "USD", "-0.03"),
        ("0.0249999", "USD", "0.02"),
        ("0.5", "JPY", "1"),
        ("0.0005", "KWD", "0.001"),
    ],
)
def test_money_is_rounded_half_away_from_zero(amount: str, currency: str, rounded: str) -> None:
    assert round_money(Decimal(amount), currency) == Decimal(rounded)


def test_filters_join_values_by_or_and_keys_by_and_on_canonical_text(log: Log) -> None:
    for model, tier in (("large", "b"), (1.5, "a"), ("1.5", "a"), (True, "a"), ("true", "b")):
        log.add(event_name="llm", properties={"tokens": 1, "model": model, "tier": tier})
    others: list[object] = ["small", "1.50", "True", 1, None, ["large"]]
    for other in others:
        log.add(event_name="llm", properties={"tokens": 1, "model": other, "tier": "a"})
    log.add(event_name="llm", properties={"tokens": 1, "model": "large", "tier": "c"})
    log.add(event_name="llm", properties={"tokens": 1, "model": "large"})
    out = log.judge()
    assert not out.rejects
    assert [window.events for window in out.windows.values()] == [5]
    assert len(out.events) == 13, "an event that matches no meter is stored all the same"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("1.50"), "1.5"),
        (Decimal("1e3"), "1000"),
        (Decimal("200.0"), "200"),
        (Decimal("-0.0"), "0"),
        (Decimal(10**30), "1" + "0" * 30),
        (False, "false"),
        ("1.50", "1.50"),
        (None, None),
        ([], None),
    ],
)
def test_canonical_text(value: object, text: str | None) -> None:
    assert canonical(value) == text


def test_the_first_of_an_id_wins_within_the_horizon(log: Log) -> None:
    log.add(0, id="x", event_name="call", properties={"ms": 1})
    again = log.add(600, id="x", event_name="call", properties={"ms": 2})
    log.add(601, id="x", event_name="call", properties={"ms": 4})
    log.add(601, id="x", tenant_id="other", event_name="call", properties={"ms": 8})
    out = log.judge()
    assert out.duplicates == {again}
    totals = {key[0]: window.total for key, window in out.windows.items() if key[1] == "latency"}
    assert totals == {"t": Decimal(5), "other": Decimal(8)}


def test_a_rejected_event_does_not_take_its_id(log: Log) -> None:
    bad = log.add(id="x", event_name="call", properties={"ms": "much"})
    good = log.add(id="x", event_name="call", properties={"ms": 1})
    out = log.judge()
    assert out.rejects == {bad: "value_not_numeric"}
    assert set(out.events) == {good}


def test_copies_of_an_id_on_two_partitions_have_no_order(log: Log) -> None:
    value = json.dumps({"id": "x", "event_name": "call", "external_customer_id": "c"}).encode()
    log.add_value(0, value)
    log.add_value(0, value, partition=1)
    with pytest.raises(AssertionError, match="no order between two partitions: id 'x'"):
        log.judge()


def test_a_late_reading_is_billed_but_in_no_window(log: Log) -> None:
    call: dict[str, Any] = {"event_name": "call", "timestamp": "2026-11-23T12:00:30Z"}
    log.add(120, **call)  # the window's end 12:01 and a minute: exactly the limit
    late = log.add(120.001, **call)
    out = log.judge()
    assert {key: window.events for key, window in out.windows.items()} == {("t", "calls", "c", NOON, 60): 1}
    assert set(out.late) == {(late, "calls")}
    assert out.charges["t", "c", "calls", NOVEMBER, "starter"].events == 2


def test_missing_fields_have_their_defaults(log: Log) -> None:
    value = json.dumps({"id": "x", "event_name": "call", "customer_id": "inner"}).encode()
    position = log.add_value(1.5, value)
    by_header = log.add_value(1.5, value, headers=(("tenant-id", b"acme"),))
    out = log.judge()
    event = out.events[position]
    assert (event.tenant_id, event.external_customer_id, event.customer_id) == ("default", "inner", "inner")
    assert event.timestamp == event.ingested_at == NOON + timedelta(seconds=1.5)
    assert (event.source, event.properties) == ("", {})
    assert out.events[by_header].tenant_id == "acme"


def test_cloudevents_say_the_same_by_other_names(log: Log) -> None:
    cloud = {
        "specversion": "1.0",
        "id": "x",
        "type": "call",
        "subject": "c",
        "source": "gateway",
        "time": "2026-11-23T12:00:00.1239Z",
        "data": {"ms": 4},
    }
    position = log.add_value(0, json.dumps(cloud).encode(), headers=(("tenant-id", b"t"),))
    event = log.judge().events[position]
    assert (event.event_name, event.external_customer_id, event.source) == ("call", "c", "gateway")
    assert event.timestamp == NOON + timedelta(milliseconds=123)
    assert event.properties == {"ms": Decimal(4)}


def test_wallets_are_credits_less_debits_invoices_and_usage_not_yet_invoiced(log: Log) -> None:
    log.add(event_name="seat", properties={"user": "u"})
    log.add(event_name="seat", properties={"user": "u"}, timestamp="2026-10-31T12:00:00Z")
    account: list[dict[str, Any]] = [
        {"id": "a1", "type": "credit_granted", "amount": "100", "currency": "USD"},
        {"id": "a1", "type": "credit_granted", "amount": "100", "currency": "USD"},
        {"id": "a2", "type": "debit", "amount": "0.25", "currency": "USD"},
        {"id": "a3", "type": "credit_granted", "amount": "5", "currency": "EUR"},
        {
            "id": "a4",
            "type": "invoice_issued",
            "invoice_id": "i",
            "amount": "2.5",
            "currency": "USD",
            "period_start": "2026-10-01T00:00:00Z",
        },
    ]
    for one in account:
        event = {"tenant_id": "t", "external_customer_id": "c"} | one
        log.add_value(0, json.dumps(event).encode(), topic="account-events")
    wallet = log.judge().wallets["t", "c", "USD"]
    assert wallet == Wallet(Decimal("99.75"), Decimal("2.5"), Decimal("2.5"))
    assert wallet.available == Decimal("94.75")
    assert log.judge().wallets["t", "c", "EUR"].available == 5
    paid = {"id": "a5", "type": "invoice_paid", "invoice_id": "i"}
    log.add_value(
        0,
        json.dumps({"tenant_id": "t", "external_customer_id": "c"} | paid).encode(),
        topic="account-events",
    )
    assert log.judge().wallets["t", "c", "USD"].available == Decimal("97.25")

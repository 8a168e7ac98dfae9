"""The oracle against cases worked out by hand: it is trusted by every other test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from tests.oracle import Charge, Expected, LogRecord, Wallet, Window, expected, round_money
from tests.oracle_events import canonical

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: {type: COUNT}, window: 1m, allowed_lateness: 1m}
  - id: tokens
    event_name: llm
    aggregation: {type: SUM, field: tokens}
    filters: [{key: model, values: [large, 1.50, true]}, {key: tier, values: [a, b]}]
    window: 1h
  - {id: latency, event_name: call, aggregation: {type: AVG, field: ms}, on_missing: skip, window: 1d}
  - {id: users, event_name: seat, aggregation: {type: COUNT_UNIQUE, field: user}, window: 15m}
plans:
  - id: starter
    currency: USD
    billing_period: MONTHLY
    charges:
      - {meter: calls, price: {model: per_unit, unit_amount: "0.005"}}
      - {meter: tokens, price: {model: per_unit, unit_amount: "0.01"}}
      - {meter: latency, price: {model: per_unit, unit_amount: "1"}}
      - {meter: users, price: {model: per_unit, unit_amount: "2.5"}}
default_plan: starter
"""
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


class Log:
    """Records of one partition, appended at noon unless it is said otherwise."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self._ids: Iterator[int] = count(1)

    def add(self, after_s: float = 0, *, value: bytes | None = None, **fields: Any) -> tuple[str, int, int]:
        """Append an event of customer c, tenant t; `after_s`: append time after noon."""
        event = {"id": f"e{next(self._ids)}", "tenant_id": "t", "external_customer_id": "c"} | fields
        return self.add_value(after_s, json.dumps(event).encode() if value is None else value)

    def add_value(self, after_s: float, value: bytes, **record: Any) -> tuple[str, int, int]:
        at_ms = int((NOON + timedelta(seconds=after_s)).timestamp() * 1000)
        place: dict[str, Any] = {
            "topic": "usage-events",
            "partition": 0,
            "offset": len(self.records),
        } | record
        self.records.append(LogRecord(append_ms=at_ms, key=b"c", value=value, **place))
        return self.records[-1].position

    def judge(self) -> Expected:
        return expected(self.records, CATALOG)


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


REJECTS: list[tuple[str, bytes]] = [
    ("not_json", b""),
    ("not_json", b'{"id": '),
    ("not_json", b'{"id": "\xff"}'),
    ("not_json", b'{"id": NaN}'),
    ("not_json", b"[" * 100_000),
    ("not_json", b'{"a": ' + b"[" * 256 + b"]" * 256 + b"}"),
    ("not_json", rb'{"id": "\ud800"}'),
    ("not_json", rb'{"id": "x", "event_name": "call", "customer_id": "c", "other": ["\udc00\ud800"]}'),
    ("too_large", b" " * 1_048_577),
    ("not_an_object", b"[1]"),
    ("not_an_object", b"null"),
]
FIELD_REJECTS: list[tuple[str, dict[str, Any]]] = [
    ("missing_id", {"id": ""}),
    ("missing_id", {"id": None}),
    ("missing_event_name", {"event_name": ""}),
    ("missing_customer", {"external_customer_id": None, "customer_id": ""}),
    ("field_invalid", {"id": 7}),
    ("field_too_long", {"source": "s" * 257}),
    ("field_too_long", {"id": "é" * 129}),
    ("properties_invalid", {"properties": [1]}),
    ("timestamp_invalid", {"timestamp": "2026-11-23T12:00:00"}),
    ("timestamp_invalid", {"timestamp": "2026-02-30T12:00:00Z"}),
    ("timestamp_invalid", {"timestamp": "yesterday"}),
    ("timestamp_invalid", {"timestamp": "1969-12-31T23:59:59Z"}),
    ("timestamp_invalid", {"timestamp": 1763899200}),
    ("field_invalid", {"specversion": "0.3" * 100}),
    ("properties_invalid", {"specversion": "1.0", "type": "call", "subject": "c", "data_base64": "AA=="}),
    ("missing_event_name", {"specversion": "1.0", "event_name": "call", "subject": "c"}),
    ("timestamp_ahead", {"timestamp": "2026-11-23T12:05:00.001Z"}),
    ("timestamp_too_old", {"timestamp": "2026-10-19T11:59:59.999Z"}),
    ("value_not_numeric", {"properties": {"ms": "NaN"}}),
    ("value_not_numeric", {"properties": {"ms": True}}),
    ("value_not_numeric", {"properties": {"ms": ".5"}}),
    ("value_not_numeric", {"properties": {"ms": "1_000"}}),
    ("value_out_of_range", {"properties": {"ms": "999999999999999999.9999999999999"}}),
    ("value_not_numeric", {"properties": {"ms": [1]}}),
    ("value_out_of_range", {"properties": {"ms": 10**18}}),
    ("value_out_of_range", {"properties": {"ms": "-1e9999999"}}),
    ("value_missing", {"event_name": "llm", "properties": {"model": "large", "tier": "a"}}),
    ("value_not_scalar", {"event_name": "seat", "properties": {"user": {}}}),
    ("value_too_long", {"event_name": "seat", "properties": {"user": "é" * 512 + "u"}}),
]


@pytest.mark.parametrize(("reason", "payload"), REJECTS)
def test_a_payload_is_rejected(log: Log, reason: str, payload: bytes) -> None:
    position = log.add_value(0, payload)
    assert log.judge().rejects == {position: reason}


@pytest.mark.parametrize(("reason", "fields"), FIELD_REJECTS)
def test_a_field_is_rejected_and_rejects_the_event_whole(
    log: Log, reason: str, fields: dict[str, Any]
) -> None:
    position = log.add(**({"event_name": "call"} | fields))
    out = log.judge()
    assert out.rejects == {position: reason}
    assert not out.windows
    assert not out.events


@pytest.mark.parametrize(
    ("where", "rejected"), [(b'"ms": %s', True), (b'"ms": [{"a": %s}]', True), (b'"unread": %s', False)]
)
def test_an_integer_of_over_4300_characters_is_refused_where_a_meter_reads_it(
    log: Log, where: bytes, rejected: bool
) -> None:
    value = (
        b'{"id": "x", "event_name": "call", "customer_id": "c", "properties": {"ms": 1, '
        + where % (b"9" * 4301)
        + b"}}"
    )
    position = log.add_value(0, value)
    assert log.judge().rejects == ({position: "properties_invalid"} if rejected else {})


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": "2026-11-23T12:05:00.0009Z"},
        {"timestamp": "2026-10-19T12:00:00Z"},
        {"timestamp": "2026-11-23T17:35:00+05:30"},
        {"id": "é" * 128},
        {"properties": {"ms": "999999999999999999.999999999999"}},
        {"properties": None},
        {"event_name": "seat", "properties": {"user": "é" * 512}},
        {"properties": {"text": "\U0001f680 \\ud800"}},  # in JSON a pair of surrogates, and no escape
    ],
)
def test_what_stands_on_a_limit_is_good(log: Log, fields: dict[str, Any]) -> None:
    log.add(**({"event_name": "call"} | fields))
    out = log.judge()
    assert not out.rejects
    assert len(out.events) == 1


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

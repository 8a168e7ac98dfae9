"""Account events: what each type needs, and that every mistake is named with its value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import (
    PRIORITY_DEFAULT,
    AccountEvent,
    AccountEventError,
    Adjustment,
    CreditGranted,
    InvoiceIssued,
    InvoicePaid,
    SubscriptionStarted,
    parse_account_event,
)
from schemas.events import Reason
from tests.builders import NOON, account_event, at_ms, payload

TYPES = {event.model_fields["type"].annotation.__args__[0]: event for event in AccountEvent.__args__}
APPEND_MS = at_ms("2026-11-23T12:00:01.500Z")


def parse(event: dict[str, Any] | bytes, **more: Any) -> AccountEvent:
    raw = event if isinstance(event, bytes) else payload(event)
    return parse_account_event(raw, append_ms=APPEND_MS, **more)


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_is_read_as_its_own_class(type_: str) -> None:
    event = parse(account_event(type_))
    assert type(event) is TYPES[type_]
    assert (event.tenant_id, event.external_customer_id, event.timestamp) == ("acme", "cust_1", NOON)
    assert event.at_ms == at_ms("2026-11-23T12:00:00Z")


def test_the_types_are_those_of_the_design() -> None:
    assert set(TYPES) == {
        "subscription_started",
        "subscription_changed",
        "subscription_ended",
        "credit_granted",
        "debit",
        "invoice_issued",
        "invoice_paid",
        "invoice_voided",
        "adjustment",
        "thresholds_set",
    }


def test_what_is_optional() -> None:
    credit = parse(account_event("credit_granted"))
    assert isinstance(credit, CreditGranted)
    assert (credit.expires_at, credit.priority) == (None, PRIORITY_DEFAULT)
    started = parse(account_event("subscription_started"))
    assert isinstance(started, SubscriptionStarted)
    assert started.period_anchor is None
    paid = parse(account_event("invoice_paid"))
    assert isinstance(paid, InvoicePaid)
    assert (paid.amount, paid.currency, paid.period_start) == (None, None, None)


def test_amounts_are_exact_as_numbers_and_as_text() -> None:
    written = b'{"id":"1","external_customer_id":"c","type":"debit","currency":"usd","amount":%s}'
    for text in (b"0.1", b'"0.1"', b"1e-1", b'"0.100"'):
        event = parse(written % text)
        assert (event.amount, event.currency) == (Decimal("0.1"), "USD")  # type: ignore[union-attr]  # a Debit
    exact = parse(written % b"123456789012345678.123456789012")
    assert str(exact.amount) == "123456789012345678.123456789012"  # type: ignore[union-attr]  # a Debit


def test_an_adjustment_can_be_negative_and_an_invoice_can_be_of_nothing() -> None:
    adjustment = parse(account_event("adjustment", quantity="-1.5"))
    assert isinstance(adjustment, Adjustment)
    assert adjustment.quantity == Decimal("-1.5")
    invoice = parse(account_event("invoice_issued", amount=0))
    assert isinstance(invoice, InvoiceIssued)
    assert invoice.amount == 0


def test_what_is_missing_comes_from_the_record() -> None:
    bare = {
        "id": "1",
        "customer_id": "internal",
        "type": "subscription_ended",
        "tenant_id": None,
        "timestamp": "",
    }
    event = parse(bare)
    assert (event.tenant_id, event.external_customer_id) == ("default", "internal")
    assert event.timestamp == datetime(2026, 11, 23, 12, 0, 1, 500_000, tzinfo=UTC)
    assert parse(bare, tenant_id="header").tenant_id == "header"
    assert parse({**bare, "tenant_id": "own"}, tenant_id="header").tenant_id == "own"
    assert parse({**bare, "external_customer_id": "outer"}).external_customer_id == "outer"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-23T09:30:00Z", datetime(2026, 11, 23, 9, 30, tzinfo=UTC)),
        ("2026-11-23t09:30:00.1239z", datetime(2026, 11, 23, 9, 30, 0, 123_000, tzinfo=UTC)),
        ("2026-11-23 09:30:00.123456789+05:45", datetime(2026, 11, 23, 3, 45, 0, 123_000, tzinfo=UTC)),
    ],
)
def test_times_are_utc_in_milliseconds(text: str, instant: datetime) -> None:
    event = parse(account_event(timestamp=text))
    assert event.timestamp == instant
    assert event.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"id": None}, "id: must be text, got null"),
        ({"id": ""}, 'id: must have at least 1 character, got ""'),
        ({"id": 5}, "id: must be text, got 5"),
        ({"id": 1.5}, "id: must be text, got 1.5"),
        ({"id": "é" * 129}, "id: over 256 bytes"),
        ({"external_customer_id": None}, "external_customer_id: is required"),
        ({"external_customer_id": ["c"]}, "external_customer_id: must be text, got a list"),
        ({"tenant_id": 7}, "tenant_id: must be text, got 7"),
        ({"amount": "0"}, 'amount: must be greater than 0, got "0"'),
        ({"amount": -1}, "amount: must be greater than 0, got -1"),
        ({"amount": "1.0000000000001"}, 'amount: must have at most 12 decimals, got "1.0000000000001"'),
        ({"amount": 10**18}, "amount: must be below 1e18, got 1000000000000000000"),
        ({"amount": "much"}, 'amount: must be a number of at most 64 characters, got "much"'),
        ({"amount": True}, "got true"),
        ({"amount": None}, "amount: must be a number, got null"),
        ({"currency": "BTC"}, 'currency: must be an ISO 4217 currency code, got "BTC"'),
        ({"currency": 840}, "currency: must be text, got 840"),
        (
            {"timestamp": "2026-11-23"},
            'timestamp: must be RFC 3339 with a zone, such as 2026-11-23T09:30:00Z, got "2026-11-23"',
        ),
        ({"timestamp": "2026-11-23T09:30:00"}, "timestamp: must be RFC 3339"),
        ({"timestamp": "1700000000"}, "timestamp: must be RFC 3339"),
        ({"timestamp": 1700000000}, "timestamp: must be RFC 3339 text with a zone, got 1700000000"),
        ({"timestamp": "2026-02-30T00:00:00Z"}, 'got "2026-02-30T00:00:00Z"'),
        ({"timestamp": "1970-01-01T00:00:00+01:00"}, "timestamp: must be in the years 1970 to 2299"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp: must be in the years 1970 to 2299"),
        (
            {"expires_at": "2026-11-23T12:00:00Z"},
            "expires_at 2026-11-23T12:00:00+00:00 is not after the timestamp",
        ),
        ({"expire_at": "2027-01-01T00:00:00Z"}, 'expire_at: is not a known key; did you mean "expires_at"?'),
        ({"priority": "5"}, 'priority: must be a valid integer, got "5"'),
        ({"priority": 1.5}, "priority: must be a valid integer, got 1.5"),
        ({"priority": -1}, "priority: must be greater than or equal to 0, got -1"),
        ({"type": "credit"}, "type: must be one of 'subscription_started', "),
        ({"type": None}, "type: must be one of "),
    ],
)
def test_a_mistake_is_named_with_field_and_value(changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(AccountEventError) as caught:
        parse(account_event(**changes))
    assert detail in str(caught.value)
    assert caught.value.reason is Reason.ACCOUNT_EVENT_INVALID


@pytest.mark.parametrize(
    ("type_", "needed"),
    [
        ("subscription_started", {"plan_id"}),
        ("subscription_changed", {"plan_id"}),
        ("subscription_ended", set()),
        ("credit_granted", {"amount", "currency"}),
        ("debit", {"amount", "currency"}),
        ("invoice_issued", {"invoice_id", "amount", "currency", "period_start"}),
        ("invoice_paid", {"invoice_id"}),
        ("invoice_voided", {"invoice_id"}),
        ("adjustment", {"meter_id", "period_start", "quantity", "reason"}),
    ],
)
def test_every_missing_field_is_named(type_: str, needed: set[str]) -> None:
    with pytest.raises(AccountEventError) as caught:
        parse({"type": type_})
    sentences = str(caught.value).split("; ")
    assert sorted(sentences) == sorted(
        f"{name}: is required" for name in needed | {"id", "external_customer_id"}
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b"\xff", Reason.NOT_JSON),
        (b'{"id":"\xff"}', Reason.NOT_JSON),
        (b"[" * 5000, Reason.NOT_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b'{"amount":1e99999999999999999999}', Reason.ACCOUNT_EVENT_INVALID),
        (b'{"amount":1e999999999,"type":"debit"}', Reason.ACCOUNT_EVENT_INVALID),
    ],
)
def test_what_is_no_account_event_has_a_reason(raw: bytes, reason: Reason) -> None:
    with pytest.raises(AccountEventError) as caught:
        parse(raw)
    assert caught.value.reason is reason
    assert len(str(caught.value)) < 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(sorted(TYPES)), st.data())
def test_any_json_is_an_event_or_an_error_that_says_why(type_: str, data: st.DataObject) -> None:
    event = account_event(type_)
    name = data.draw(st.sampled_from([*event, "expires_at", "priority", "customer_id", "period_anchor", "x"]))
    event[name] = data.draw(JSON)
    raw = json.dumps(event).encode()
    try:
        parsed: object = parse(raw)
    except AccountEventError as error:
        parsed = error
    assert isinstance(parsed, AccountEventError | AccountEvent)
    assert str(parsed)

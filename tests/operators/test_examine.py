"""What an event is, field by field, and every reason a record is refused, through `decode_batch`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from operators.decode import decode_batch
from operators.examine import NESTING_MAX
from schemas.events import Reason, Reject
from tests.operators.records import (
    ABSENT,
    AHEAD,
    APPEND_MS,
    APPENDED,
    CLOUD,
    CONFIG,
    EVENT,
    OLD,
    batch,
    payload,
    record,
)


def event(
    base: dict[str, Any] = EVENT, headers: list[tuple[str, bytes | None]] | None = None, **changes: Any
) -> dict[str, Any]:
    """The row of an event that is taken."""
    events, rejects = decode_batch([batch([record(payload(base, **changes), headers=headers)])], CONFIG)
    assert not rejects
    row: dict[str, Any] = events.events.to_pylist()[0]
    return row


def refused(
    value: bytes | None, headers: list[tuple[str, bytes | None]] | None = None, append_ms: int = APPEND_MS
) -> Reject:
    events, rejects = decode_batch([batch([record(value, headers=headers, append_ms=append_ms)])], CONFIG)
    assert events.events.num_rows == 0
    assert len(rejects) == 1
    return rejects[0]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_native_event_fills_its_row() -> None:
    row = event()
    assert json.loads(row.pop("properties")) == EVENT["properties"]
    assert row == {
        "tenant_id": "acme",
        "event_name": "llm_tokens",
        "external_customer_id": "cust_42",
        "customer_id": "",
        "id": "evt_1",
        "timestamp": at("2026-11-23T09:30:00.123Z"),
        "source": "gateway-eu",
        "ingested_at": at(APPENDED),
        "partition": 3,
        "offset": 7,
    }


def test_a_cloud_event_says_the_same_as_a_native_one() -> None:
    assert event(CLOUD) == event()
    assert event(CLOUD, tenantid=ABSENT, tenant_id="acme") == event()
    assert (
        event(CLOUD, properties=5, timestamp=[], event_name=1) == event()
    )  # native names mean nothing in it


@pytest.mark.parametrize(
    ("changes", "column", "expected"),
    [
        ({"external_customer_id": ABSENT, "customer_id": "c1"}, "external_customer_id", "c1"),
        ({"external_customer_id": "", "customer_id": "c1"}, "external_customer_id", "c1"),
        ({"customer_id": "c1"}, "external_customer_id", "cust_42"),
        ({"customer_id": "c1"}, "customer_id", "c1"),
        ({"source": ABSENT}, "source", ""),
        ({"source": None}, "source", ""),
        ({"timestamp": ABSENT}, "timestamp", at(APPENDED)),
        ({"timestamp": ""}, "timestamp", at(APPENDED)),
        ({"timestamp": "2026-11-23t10:30:00.9999+01:00"}, "timestamp", at("2026-11-23T09:30:00.999Z")),
        ({"properties": ABSENT}, "properties", "{}"),
        ({"properties": None}, "properties", "{}"),
        ({"properties": {"größe": "€"}}, "properties", '{"gr\\u00f6\\u00dfe": "\\u20ac"}'),
        ({"id": "a\x00b"}, "id", "a\x00b"),
        ({"id": "ü" * 128}, "id", "ü" * 128),
        ({"type": 5, "data": "x", "subject": [], "unknown": {"deep": [1]}}, "event_name", "llm_tokens"),
        ({"specversion": ""}, "id", "evt_1"),
        ({"tenant_id": ABSENT}, "tenant_id", "default"),
        ({"tenant_id": ""}, "tenant_id", "default"),
    ],
)
def test_what_a_field_means(changes: dict[str, Any], column: str, expected: object) -> None:
    assert event(EVENT, **changes)[column] == expected


def test_the_tenant_of_the_record_header_counts_where_the_event_names_none() -> None:
    headers: list[tuple[str, bytes | None]] = [("tenant-id", b"first"), ("x", None), ("tenant-id", b"globex")]
    assert event(tenant_id=ABSENT, headers=headers)["tenant_id"] == "globex"
    assert event(headers=headers)["tenant_id"] == "acme"
    assert event(tenant_id=ABSENT, headers=[("tenant-id", b"")])["tenant_id"] == "default"


def test_the_properties_column_is_the_text_that_was_sent() -> None:
    text = b'{ "a" : 1.50,  "b":"\xc3\xbc" }'
    value = payload(EVENT, properties=ABSENT)[:-1] + b', "properties": ' + text + b"}"
    events, _ = decode_batch([batch([record(value)])], CONFIG)
    assert events.events["properties"].to_pylist() == [text.decode()]
    assert events.events["properties"][0].as_py().encode() == text


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (None, Reason.NOT_JSON, "no value"),
        (b"", Reason.NOT_JSON, "truncated"),
        (b"{", Reason.NOT_JSON, "truncated"),
        (payload(EVENT) + b"x", Reason.NOT_JSON, "trailing"),
        (payload(EVENT) + payload(EVENT), Reason.NOT_JSON, "trailing"),
        (b'{"a": NaN}', Reason.NOT_JSON, "not JSON"),
        (b'{"a": "\\ud800 alone"}', Reason.NOT_JSON, "not JSON"),
        (payload(EVENT).replace(b"large", b"\xff"), Reason.NOT_JSON, "not UTF-8"),
        (payload(EVENT).replace(b"evt_1", b"\xed\xa0\x80"), Reason.NOT_JSON, "not UTF-8"),
        (b"\xef\xbb\xbf" + payload(EVENT), Reason.NOT_JSON, "not JSON"),
        (b"[" * 100_000, Reason.TOO_LARGE, "100000 bytes"),
        (b"[" * 9_000, Reason.NOT_JSON, "nested"),
        (
            payload(EVENT, properties={"a": 0}).replace(b"0}", b'{"a":' * 3000 + b"0" + b"}" * 3001),
            Reason.NOT_JSON,
            "nested",
        ),
        (b'{"a":' + b"[" * NESTING_MAX + b"]" * NESTING_MAX + b"}", Reason.NOT_JSON, "nested"),
        (payload(EVENT, x="y" * 20_000), Reason.TOO_LARGE, "over the limit of 20000"),
        (b"[1]", Reason.NOT_AN_OBJECT, "'[1]'"),
        (b"null", Reason.NOT_AN_OBJECT, "'null'"),
        (b" 1e999 ", Reason.NOT_AN_OBJECT, "1e999"),
        (payload(EVENT, id=ABSENT), Reason.MISSING_ID, "`id`"),
        (payload(EVENT, id=None), Reason.MISSING_ID, "`id`"),
        (payload(EVENT, id=""), Reason.MISSING_ID, "`id`"),
        (payload(EVENT, event_name=""), Reason.MISSING_EVENT_NAME, "`event_name`"),
        (payload(CLOUD, type=None), Reason.MISSING_EVENT_NAME, "`type`"),
        (payload(EVENT, external_customer_id=""), Reason.MISSING_CUSTOMER, "`external_customer_id`"),
        (payload(CLOUD, subject=ABSENT), Reason.MISSING_CUSTOMER, "`subject`"),
        (payload(EVENT, id=5), Reason.FIELD_INVALID, "`id` is '5'"),
        (payload(EVENT, id=5).replace(b"5", b"1e999"), Reason.FIELD_INVALID, "`id` is '1e999'"),
        (payload(EVENT, customer_id=["x"]), Reason.FIELD_INVALID, "`customer_id`"),
        (payload(EVENT, source={}), Reason.FIELD_INVALID, "`source`"),
        (payload(CLOUD, specversion="0.3"), Reason.FIELD_INVALID, "`specversion` is '0.3'"),
        (payload(EVENT, id="ü" * 129), Reason.FIELD_TOO_LONG, "258 bytes"),
        (payload(EVENT, tenant_id="t" * 257), Reason.FIELD_TOO_LONG, "`tenant_id`"),
        (payload(EVENT, event_name="t" * 257), Reason.FIELD_TOO_LONG, "`event_name`"),
        (payload(EVENT, external_customer_id="t" * 257), Reason.FIELD_TOO_LONG, "`external_customer_id`"),
        (payload(EVENT, customer_id="t" * 257), Reason.FIELD_TOO_LONG, "`customer_id`"),
        (payload(EVENT, source="t" * 257), Reason.FIELD_TOO_LONG, "`source`"),
        (payload(EVENT, properties=[]), Reason.PROPERTIES_INVALID, "`properties` is '[]'"),
        (payload(EVENT, properties="null"), Reason.PROPERTIES_INVALID, "`properties`"),
        (payload(CLOUD, data="text"), Reason.PROPERTIES_INVALID, "`data`"),
        (payload(CLOUD, data=ABSENT, data_base64="eA=="), Reason.PROPERTIES_INVALID, "`data_base64`"),
        (payload(EVENT, timestamp="yesterday"), Reason.TIMESTAMP_INVALID, "'yesterday'"),
        (payload(EVENT, timestamp="2026-11-23T09:30:00"), Reason.TIMESTAMP_INVALID, "zone"),
        (payload(EVENT, timestamp=1_795_426_200), Reason.TIMESTAMP_INVALID, "'1795426200'"),
        (payload(EVENT, timestamp=AHEAD), Reason.TIMESTAMP_AHEAD, "300 s"),
        (payload(CLOUD, time=AHEAD), Reason.TIMESTAMP_AHEAD, "`time`"),
        (payload(EVENT, timestamp=OLD), Reason.TIMESTAMP_TOO_OLD, "35 days"),
        (
            payload(EVENT, id="", timestamp="x"),
            Reason.MISSING_ID,
            "`id`",
        ),  # the first that fails is the reason
    ],
)
def test_every_reason_has_its_code_and_names_field_and_value(
    value: bytes | None, reason: Reason, words: str
) -> None:
    reject = refused(value)
    assert (reject.reason, words in reject.detail) == (reason, True), reject.detail
    assert len(reject.detail) < 300
    assert reject.detail.isprintable()


def test_the_limits_of_a_timestamp_are_inclusive_and_relative_to_the_append_time() -> None:
    assert event(timestamp="2026-11-23T09:35:10.000999Z")["timestamp"] == at("2026-11-23T09:35:10Z")
    assert event(timestamp="2026-10-19T09:30:10Z")["timestamp"] == at("2026-10-19T09:30:10Z")


@pytest.mark.parametrize("append_ms", [-1, 2**62, -(2**62)])
def test_a_record_of_an_impossible_append_time_is_refused_and_its_dead_letter_can_be_stored(
    append_ms: int,
) -> None:
    reject = refused(payload(EVENT), append_ms=append_ms)
    assert reject.reason is Reason.TIMESTAMP_INVALID
    assert datetime.fromtimestamp(reject.append_ms / 1000, UTC).year in {1970, 2299, 2300}


def test_a_tenant_header_has_the_limits_of_a_tenant() -> None:
    value = payload(EVENT, tenant_id=ABSENT)
    assert refused(value, headers=[("tenant-id", b"\xff")]).reason is Reason.FIELD_INVALID
    assert refused(value, headers=[("tenant-id", b"t" * 257)]).reason is Reason.FIELD_TOO_LONG


def test_a_dead_letter_keeps_the_whole_record() -> None:
    reject = refused(b"{", headers=[("trace", b"\x00\xff"), ("none", None)])
    assert (reject.topic, reject.partition, reject.offset, reject.append_ms) == (
        "usage-events",
        3,
        7,
        APPEND_MS,
    )
    assert (reject.key, reject.payload) == (b"k", b"{")
    assert reject.headers == (("trace", b"\x00\xff"), ("none", b""))

"""What the oracle refuses, with its reason, and what stands just on the good side of a limit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle_log import Log


@pytest.fixture
def log() -> Log:
    return Log()


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

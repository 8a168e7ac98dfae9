"""Decoding by columns says what single records say, and the step keeps batches and rejects apart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.decode import decode, decode_batch
from operators.examine import RefusedError, examine
from operators.timestamps import parse_timestamp
from schemas.arrow import USAGE_EVENTS
from schemas.events import EventBatch, Progress, Reason, Reject
from schemas.records import Record
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


def test_a_heartbeat_stays_an_empty_batch() -> None:
    events, rejects = decode_batch([batch([])], CONFIG)
    assert (events.events.num_rows, events.events.schema, rejects) == (0, USAGE_EVENTS, [])
    assert events.progress == (Progress("usage-events/3", APPEND_MS, 4),)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TIMESTAMPS = st.sampled_from(
    [
        "2026-11-23T09:30:00Z",
        "2026-11-23 09:30:00.1+00:00",
        "2026-11-23t09:30:00z",
        "2026-02-30T00:00:00Z",
        AHEAD,
        OLD,
        "2026-11-23T09:30Z",
        "2270-01-01T00:00:00Z",
        "nonsense",
        "",
    ]
)
TEXTS = st.sampled_from(["a", "", "ü" * 128, "x" * 257, "\x00", "😀", "null"])
FIELDS = st.sampled_from([*EVENT, *CLOUD, "tenant_id", "data_base64", "unknown"])
VALUES = st.one_of(TEXTS, TIMESTAMPS, JSON_VALUES)
CHANGED = st.builds(
    lambda base, changes: payload(base, **changes),
    st.sampled_from([EVENT, CLOUD]),
    st.dictionaries(FIELDS, st.one_of(TEXTS, TIMESTAMPS, VALUES, st.just(ABSENT)), max_size=3),
)
HOSTILE = st.sampled_from(
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        payload(EVENT, x="y" * 1_000_000),
        payload(EVENT, properties={"x": "y" * 10_000}),
        payload(EVENT).replace(b"812", b"9" * 6000),
        payload(EVENT).replace(b"812", b"1e999999"),
        payload(EVENT).replace(b"812", b"[" * 300 + b"]" * 300),
        payload(EVENT).replace(b"812", b"[" * 250 + b'"]]"' + b"]" * 250),
        payload(EVENT).replace(b"812", b"[],{}".join([b"["] + [b","] * 400 + [b"]"]).replace(b",,", b",")),
        payload(EVENT).replace(b"812", b"NaN"),
        payload(EVENT).replace(b'"large"', b'"\\ud83d\\ude00 \\\\ \\" \\udc00x"'),
        payload(EVENT)[:-1] + b',"id":5,"id":"again"}',
        payload(EVENT)[:-1] + b',"properties":null}',
        b"\n".join([payload(EVENT)] * 2),
    ]
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A payload with a piece cut out, or random bytes put in."""
    value = draw(CHANGED)
    start = draw(st.integers(0, len(value)))
    end = min(len(value), start + draw(st.integers(0, 8)))
    return value[:start] + draw(st.binary(max_size=3)) + value[end:]


HEADERS = st.sampled_from([None, [("tenant-id", b"globex")], [("tenant-id", b"\xff")], [("tenant-id", None)]])
PAYLOADS = st.one_of(CHANGED, CHANGED, mangled(), HOSTILE, st.binary(max_size=20), st.none())
RECORDS = st.lists(st.tuples(PAYLOADS, HEADERS), max_size=12)


def one_by_one(records: Sequence[Record]) -> tuple[list[dict[str, Any]], list[tuple[int, Reason, str]]]:
    """The meaning of a batch: each record examined alone."""
    rows, refusals = [], []
    for each in records:
        try:
            found = examine(each, CONFIG)
        except RefusedError as error:
            refusals.append((each.offset(), error.reason, error.detail))
            continue
        timestamp_ms = APPEND_MS if found.timestamp is None else parse_timestamp(found.timestamp)
        rows.append(
            {
                "tenant_id": found.tenant_id,
                "event_name": found.event_name,
                "external_customer_id": found.external_customer_id or found.customer_id,
                "customer_id": found.customer_id or "",
                "id": found.id,
                "timestamp": datetime.fromtimestamp(timestamp_ms // 1000, UTC).replace(
                    microsecond=timestamp_ms % 1000 * 1000
                ),
                "source": found.source or "",
                "properties": bytes(found.properties).decode(),
                "ingested_at": datetime.fromisoformat(APPENDED),
                "partition": 3,
                "offset": each.offset(),
            }
        )
    return rows, refusals


@settings(max_examples=300, deadline=None)
@given(RECORDS)
@example([(payload(EVENT, timestamp="2026-11-23t09:30:00z"), None), (payload(EVENT), None)])
@example([(payload(EVENT, timestamp="2270-01-01T00:00:00Z"), None), (payload(EVENT), None), (b"", None)])
def test_columns_say_what_single_records_say(
    contents: list[tuple[bytes | None, list[tuple[str, bytes | None]] | None]],
) -> None:
    records = [record(value, offset, headers) for offset, (value, headers) in enumerate(contents)]
    events, rejects = decode_batch([batch(records)], CONFIG)
    rows, refusals = one_by_one(records)
    events.events.validate(full=True)
    assert events.events.to_pylist() == rows
    assert [(reject.offset, reject.reason, reject.detail) for reject in rejects] == refusals
    assert sorted([row["offset"] for row in rows] + [offset for offset, _, _ in refusals]) == list(
        range(len(records))
    )
    assert [each.offset() for each in events.records] == [row["offset"] for row in rows]
    read = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    assert all(isinstance(read(row["properties"]), dict) for row in rows)


def test_the_step_splits_events_from_rejects_batch_by_batch() -> None:
    batches = [batch([record(payload(EVENT), 1), record(b"{", 2)]), batch([]), batch([record(b"[]", 3)])]
    events: list[EventBatch] = []
    rejects: list[Reject] = []
    flow = Dataflow("test_decode")
    decoded = decode("decode", op.input("inp", flow, TestingSource(batches)), CONFIG)
    op.output("events", decoded.events, TestingSink(events))
    op.output("rejects", decoded.rejects, TestingSink(rejects))
    run_main(flow)  # type: ignore[no-untyped-call]  # bytewax exports it without types
    assert [each.events["offset"].to_pylist() for each in events] == [[1], [], []]
    assert [each.offset for each in rejects] == [2, 3]

"""Which events meters refuse, whole and alone, and what becomes of the others of their batch."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal

import pytest

from operators.decode import DecodeConfig, decode_batch
from operators.meter import Measure
from operators.texts import Texts
from schemas.events import REASONS, RawBatch, Reason
from tests.builders import meter, payload, usage_event
from tests.operators.batches import decoded, measured, readings_of, token
from tests.operators.event_meters import HUGE, a_meter, event, read
from tests.operators.records import record

MISSING, NOT_NUMERIC, NOT_SCALAR = Reason.VALUE_MISSING, Reason.VALUE_NOT_NUMERIC, Reason.VALUE_NOT_SCALAR


def test_one_meter_that_cannot_read_an_event_refuses_it_for_all() -> None:
    meters = [a_meter("COUNT", "calls"), a_meter("SUM", "sum"), a_meter("COUNT_UNIQUE", "users", field="u")]
    events = [
        usage_event({"v": 1, "u": "a"}, event_name="e"),
        usage_event({"v": "x", "u": "b"}, event_name="e"),
        usage_event({"v": 3, "u": []}, event_name="e"),
        usage_event({"v": "x"}, event_name="unmetered"),
        usage_event({"v": 5, "u": "c"}, event_name="e"),
    ]
    metered, rejects = measured(meters, events)
    assert metered.events.column("id").to_pylist() == [events[i]["id"] for i in (0, 3, 4)]
    assert readings_of(metered, meters) == [
        (0, "calls", Decimal(0), 0),
        (0, "sum", Decimal(1), 0),
        (0, "users", Decimal(0), token("a")),
        (4, "calls", Decimal(0), 0),
        (4, "sum", Decimal(5), 0),
        (4, "users", Decimal(0), token("c")),
    ]
    assert [(one.offset, one.reason) for one in rejects] == [(1, NOT_NUMERIC), (2, NOT_SCALAR)]
    assert [one.payload for one in rejects] == [payload(events[1]), payload(events[2])]
    assert rejects[0].detail == f"meter sum: properties.v = 'x': {REASONS[NOT_NUMERIC]}"


def test_a_reject_keeps_its_record() -> None:
    headers: list[tuple[str, bytes | None]] = [("a", b"\xff"), ("b", None)]
    value = event(b'{"v": "x"}')
    _, (reject,) = Measure([a_meter("SUM")]).measure(decoded([record(value, 9, headers)], partition=3))
    assert (reject.topic, reject.partition, reject.offset) == ("usage-events", 3, 9)
    assert (reject.key, reject.payload, reject.headers) == (b"k", value, (("a", b"\xff"), ("b", b"")))


UNREADABLE = [b'{"v": %s}' % HUGE, b'{"v": [{"x": %s}]}' % HUGE, b'{"v": -%s, "v": 1}' % HUGE]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_costs_its_own_event_only(text: bytes, place: int) -> None:
    texts = [b'{"v": 1}', b'{"v": 2}']
    texts.insert(place, text)
    readings, rejects = read([a_meter("SUM")], *texts)
    assert rejects == {place: Reason.PROPERTIES_INVALID}
    offsets = [offset for offset in range(3) if offset != place]
    assert readings == [(offsets[0], "m", Decimal(1), 0), (offsets[1], "m", Decimal(2), 0)]


def test_what_no_meter_reads_may_be_anything() -> None:
    readings, rejects = read([a_meter("SUM")], b'{"v": 1, "w": %s}' % HUGE)
    assert (readings, rejects) == ([(0, "m", Decimal(1), 0)], {})


def test_unreadable_and_refused_events_of_two_names_leave_the_others_in_place() -> None:
    meters = [a_meter("SUM"), meter("n", event_name="f", type="COUNT_UNIQUE", field="v")]
    texts = [
        event(b'{"v": %s}' % HUGE),
        event(b'{"v": "b"}', b"f"),
        event(b'{"v": 2}'),
        event(b'{"v": %s}' % HUGE, b"f"),
        event(b'{"v": "x"}'),
        event(b'{"v": "d"}', b"f"),
        event(b'{"v": 6}'),
    ]
    records = [record(text, offset) for offset, text in enumerate(texts)]
    metered, rejects = Measure(meters).measure(decoded(records))
    assert {one.offset: one.reason for one in rejects} == {
        0: Reason.PROPERTIES_INVALID,
        3: Reason.PROPERTIES_INVALID,
        4: NOT_NUMERIC,
    }
    assert readings_of(metered, meters) == [
        (1, "n", Decimal(0), token("b")),
        (2, "m", Decimal(2), 0),
        (5, "n", Decimal(0), token("d")),
        (6, "m", Decimal(6), 0),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b'{"v": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"v": "\xff"}',
        b'{"v": "\\q"}',
        b'{"v": 1',
        b"[]",
    ],
    ids=["nested", "utf-8", "escape", "cut", "list"],
)
@pytest.mark.parametrize("field", ["v", "w"])
def test_meters_trust_no_properties_even_if_decode_let_them_through(text: bytes, field: str) -> None:
    batch = decoded([record(event(b'{"v": 1, "w": 1}'), offset) for offset in range(3)])
    properties = Texts.of([b'{"v": 1, "w": 1}', text, b'{"v": 1, "w": 1}']).column()
    at = batch.events.schema.get_field_index("properties")
    events = batch.events.set_column(at, batch.events.schema.field(at), properties)
    metered, rejects = Measure([a_meter("SUM", field=field)]).measure(replace(batch, events=events))
    readings = readings_of(metered, [a_meter("SUM")])
    if text == b'{"v": "\xff"}' and field == "w":  # a string that is skipped is no one's business
        assert [one.reason for one in rejects] == [MISSING]
    else:
        assert [one.reason for one in rejects] == [Reason.PROPERTIES_INVALID]
    assert [offset for offset, *_ in readings] == [0, 2]


def test_a_long_unique_value_is_not_hashed() -> None:
    began = time.process_time()
    _, rejects = read([a_meter("COUNT_UNIQUE")], b'{"v": "' + b"u" * 200_000 + b'"}')
    assert rejects == {0: Reason.VALUE_TOO_LONG}
    assert time.process_time() - began < 0.8, "hashing it takes 1.7 s"


def test_events_of_polls_that_came_at_once_are_rejected_from_their_own_partition() -> None:
    polls = [
        RawBatch("usage-events", partition, [record(event(text), offset=partition + 5)], 1, 9)
        for partition, text in (
            (7, b'{"v": 1}'),
            (3, b'{"v": "x"}'),
            (5, b'{"v": %s}' % HUGE),
            (4, b'{"v": 4}'),
        )
    ]
    batch, bad = decode_batch(polls, DecodeConfig())
    metered, rejects = Measure([a_meter("SUM")]).measure(batch)
    assert bad == []
    assert [(one.partition, one.offset, one.reason) for one in rejects] == [
        (3, 8, NOT_NUMERIC),
        (5, 10, Reason.PROPERTIES_INVALID),
    ]
    assert metered.events.column("partition").to_pylist() == [7, 4]
    assert [value for _, _, value, _ in readings_of(metered, [a_meter("SUM")])] == [Decimal(1), Decimal(4)]
    assert [one.source for one in metered.progress] == [f"usage-events/{number}" for number in (7, 3, 5, 4)]


def test_a_heartbeat_stays_one() -> None:
    metered, rejects = Measure([a_meter("SUM")]).measure(decoded([], partition=2, partitions=4))
    assert (metered.events.num_rows, len(metered.readings), rejects) == (0, 0, [])
    assert (metered.progress[0].source, metered.progress[0].sources) == ("usage-events/2", 4)

"""What meters read from events, and which events they refuse."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from operators.meter import UNIQUE_BYTES_MAX, Measure
from schemas.events import REASONS, Reason
from schemas.meters import Meter
from tests.builders import meter, payload, usage_event
from tests.operators.batches import Read, decoded, measured, readings_of, token
from tests.operators.records import record

HUGE = b"9" * 4301
"""An integer that msgspec skips over but does not read."""

MISSING, NOT_NUMERIC = Reason.VALUE_MISSING, Reason.VALUE_NOT_NUMERIC
OUT_OF_RANGE, NOT_SCALAR = Reason.VALUE_OUT_OF_RANGE, Reason.VALUE_NOT_SCALAR

QUANTITIES: list[tuple[bytes, str | Reason]] = [
    (b'{"v": 5}', "5"),
    (b'{"v": -5}', "-5"),
    (b'{"v": 0}', "0"),
    (b'{"v": "5"}', "5"),
    (b'{"v": "+5.50"}', "5.5"),
    (b'{"v": 0.1}', "0.1"),
    (b'{"v": 1e3}', "1000"),
    (b'{"v": 0.30000000000000004}', "0.3"),
    (b'{"v": 0.0000000000005}', "0"),
    (b'{"v": 0.0000000000015}', "0.000000000002"),
    (b'{"v": -0.0000000000015}', "-0.000000000002"),
    (b'{"v": 999999999999999999.999999999999}', "999999999999999999.999999999999"),
    (b'{"v": 1, "v": 2}', "2"),
    (b'{"\\u0076": 7}', "7"),
    (b'{"v": 1e-400}', "0"),
    (b'{"v": 999999999999999999.9999999999995}', OUT_OF_RANGE),
    (b'{"v": 1000000000000000000}', OUT_OF_RANGE),
    (b'{"v": -1e18}', OUT_OF_RANGE),
    (b'{"v": 1e400}', OUT_OF_RANGE),
    (b'{"v": ' + b"9" * 4300 + b"}", OUT_OF_RANGE),
    (b'{"v": true}', NOT_NUMERIC),
    (b'{"v": ""}', NOT_NUMERIC),
    (b'{"v": "NaN"}', NOT_NUMERIC),
    (b'{"v": "1,000"}', NOT_NUMERIC),
    (b'{"v": [1]}', NOT_NUMERIC),
    (b'{"v": {"v": 1}}', NOT_NUMERIC),
    (b'{"v": null}', MISSING),
    (b'{"other": 1}', MISSING),
    (b"{}", MISSING),
]
UNIQUES: list[tuple[bytes, str | Reason | None]] = [
    (b'{"v": "u1"}', "u1"),
    (b'{"v": ""}', ""),
    (b'{"v": "\xc3\xa9"}', "é"),
    (b'{"v": "\\u00e9"}', "é"),
    (b'{"v": 1000000}', "1000000"),
    (b'{"v": 1e6}', "1000000"),
    (b'{"v": 1000000.0}', "1000000"),
    (b'{"v": "1000000"}', "1000000"),
    (b'{"v": 1.50}', "1.5"),
    (b'{"v": "1.50"}', "1.50"),
    (b'{"v": -0}', "0"),
    (b'{"v": 0e9}', "0"),
    (b'{"v": 18446744073709551616}', "18446744073709551616"),
    (b'{"v": 1e400}', "1" + "0" * 400),
    (b'{"v": 1e401}', "1E+401"),
    (b'{"v": true}', "true"),
    (b'{"v": false}', "false"),
    (b'{"v": "true"}', "true"),
    (b'{"v": "' + b"u" * UNIQUE_BYTES_MAX + b'"}', "u" * UNIQUE_BYTES_MAX),
    (b'{"v": null}', None),
    (b"{}", None),
    (b'{"v": []}', NOT_SCALAR),
    (b'{"v": {}}', NOT_SCALAR),
    (b'{"v": "' + "é".encode() * (UNIQUE_BYTES_MAX // 2) + b'u"}', Reason.VALUE_TOO_LONG),
    (b'{"v": ' + b"9" * (UNIQUE_BYTES_MAX + 1) + b"}", Reason.VALUE_TOO_LONG),
]


def read(meters: Sequence[Meter], *properties: bytes) -> tuple[list[Read], dict[int, Reason]]:
    """Readings and rejects of events with these properties, as text."""
    records = [record(_event(text), offset) for offset, text in enumerate(properties)]
    metered, rejects = Measure(meters).measure(decoded(records))
    return readings_of(metered, meters), {one.offset: one.reason for one in rejects}


def _event(properties: bytes, event_name: bytes = b"e") -> bytes:
    return b'{"id":"x","event_name":"%s","customer_id":"c","properties":%s}' % (event_name, properties)


def a_meter(type: str, id: str = "m", **more: Any) -> Meter:  # noqa: A002 - the builder's names
    field = None if type == "COUNT" else more.pop("field", "v")
    return meter(id, event_name="e", type=type, field=field, **more)


@pytest.mark.parametrize("properties", [b"{}", b'{"v": "x"}', b'{"v": ' + HUGE + b"}", b"null"])
def test_count_reads_nothing(properties: bytes) -> None:
    assert read([a_meter("COUNT")], properties) == ([(0, "m", Decimal(0), 0)], {})


@pytest.mark.parametrize("type_", ["SUM", "AVG"])
@pytest.mark.parametrize(("properties", "expected"), QUANTITIES)
def test_sum_and_avg_read_exact_quantities(type_: str, properties: bytes, expected: str | Reason) -> None:
    readings, rejects = read([a_meter(type_)], properties)
    if isinstance(expected, Reason):
        assert (readings, rejects) == ([], {0: expected})
    else:
        assert (readings, rejects) == ([(0, "m", Decimal(expected), 0)], {})


@pytest.mark.parametrize(("properties", "expected"), UNIQUES)
def test_count_unique_reads_canonical_texts(properties: bytes, expected: str | Reason | None) -> None:
    readings, rejects = read([a_meter("COUNT_UNIQUE")], properties)
    if isinstance(expected, Reason):
        assert (readings, rejects) == ([], {0: expected})
    elif expected is None:
        assert (readings, rejects) == ([], {})
    else:
        assert (readings, rejects) == ([(0, "m", Decimal(0), token(expected))], {})


@pytest.mark.parametrize("type_", ["SUM", "AVG"])
def test_skipping_what_is_missing_excuses_nothing_else(type_: str) -> None:
    meters = [a_meter(type_, on_missing="skip")]
    readings, rejects = read(meters, b"{}", b'{"v": null}', b'{"v": "x"}', b'{"v": 4}')
    assert readings == [(3, "m", Decimal(4), 0)]
    assert rejects == {2: NOT_NUMERIC}


def test_all_values_of_a_column_keep_their_places() -> None:
    good = [(text, expected) for text, expected in QUANTITIES if not isinstance(expected, Reason)]
    readings, rejects = read([a_meter("SUM")], *(text for text, _ in QUANTITIES))
    assert [value for _, _, value, _ in readings] == [Decimal(expected) for _, expected in good]
    places = {text: offset for offset, (text, _) in enumerate(QUANTITIES)}
    assert [offset for offset, *_ in readings] == [places[text] for text, _ in good]
    assert rejects == {
        offset: expected for offset, (_, expected) in enumerate(QUANTITIES) if isinstance(expected, Reason)
    }


FILTERS: list[tuple[dict[str, list[Any]], bytes, bool]] = [
    ({"a": ["x", "y"]}, b'{"a": "y"}', True),
    ({"a": ["x", "y"]}, b'{"a": "z"}', False),
    ({"a": ["x"], "b": ["1"]}, b'{"a": "x", "b": 1}', True),
    ({"a": ["x"], "b": ["1"]}, b'{"a": "x"}', False),
    ({"a": ["x"], "b": ["1"]}, b'{"b": 1}', False),
    ({"a": ["1000000"]}, b'{"a": 1e6}', True),
    ({"a": [1000000]}, b'{"a": "1000000"}', True),
    ({"a": ["1.5"]}, b'{"a": 1.50}', True),
    ({"a": ["1.5"]}, b'{"a": "1.50"}', False),
    ({"a": [True]}, b'{"a": true}', True),
    ({"a": ["true"]}, b'{"a": true}', True),
    ({"a": ["1"]}, b'{"a": true}', False),
    ({"a": ["null", ""]}, b'{"a": null}', False),
    ({"a": ["null", ""]}, b"{}", False),
    ({"a": ["null", ""]}, b'{"a": ""}', True),
    ({"a": ["[]", "{}"]}, b'{"a": []}', False),
    ({"a": ["X"]}, b'{"a": "x"}', False),
    ({"é ü": ["ß"]}, b'{"\\u00e9 \xc3\xbc": "\xc3\x9f"}', True),
    ({'a"b\\c\n': ["x"]}, b'{"a\\"b\\\\c\\n": "x"}', True),
    ({'a"b\\c\n': ["x"]}, b'{"abc": "x"}', False),
]


@pytest.mark.parametrize(("filters", "properties", "passes"), FILTERS)
def test_filters_are_or_within_and_across(
    filters: dict[str, list[Any]], properties: bytes, passes: bool
) -> None:
    readings, rejects = read([a_meter("COUNT", filters=filters)], properties)
    assert (len(readings), rejects) == (int(passes), {})


def test_what_a_filter_keeps_out_may_be_unreadable() -> None:
    meters = [a_meter("SUM", filters={"a": ["x"]}), a_meter("COUNT_UNIQUE", "u", filters={"a": ["x"]})]
    readings, rejects = read(meters, b'{"a": "y", "v": []}', b'{"a": "x", "v": 3}', b'{"a": "x", "v": []}')
    assert readings == [(1, "m", Decimal(3), 0), (1, "u", Decimal(0), token("3"))]
    assert rejects == {2: NOT_NUMERIC}, "the first meter's reason"


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
    value = _event(b'{"v": "x"}')
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
        _event(b'{"v": %s}' % HUGE),
        _event(b'{"v": "b"}', b"f"),
        _event(b'{"v": 2}'),
        _event(b'{"v": %s}' % HUGE, b"f"),
        _event(b'{"v": "x"}'),
        _event(b'{"v": "d"}', b"f"),
        _event(b'{"v": 6}'),
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
    batch = decoded([record(_event(b'{"v": 1, "w": 1}'), offset) for offset in range(3)])
    properties = list(batch.properties)
    properties[1] = msgspec.Raw(text)
    metered, rejects = Measure([a_meter("SUM", field=field)]).measure(replace(batch, properties=properties))
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


def test_a_heartbeat_stays_one() -> None:
    metered, rejects = Measure([a_meter("SUM")]).measure(decoded([], partition=2, partitions=4))
    assert (metered.events.num_rows, len(metered.readings), rejects) == (0, 0, [])
    assert (metered.progress[0].source, metered.progress[0].sources) == ("usage-events/2", 4)


def test_a_thousand_meters_number_their_readings() -> None:
    meters = [a_meter("COUNT", f"m{number}") for number in range(1000)]
    readings, _ = read(meters, b"{}")
    assert [meter_id for _, meter_id, _, _ in readings] == [one.id for one in meters]

"""What meters read from events: quantities, canonical texts, filters."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from operators.plain_readings import UNIQUE_BYTES_MAX
from schemas.events import Reason
from tests.operators.batches import token
from tests.operators.event_meters import HUGE, a_meter, read

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


def test_a_thousand_meters_number_their_readings() -> None:
    meters = [a_meter("COUNT", f"m{number}") for number in range(1000)]
    readings, _ = read(meters, b"{}")
    assert [meter_id for _, meter_id, _, _ in readings] == [one.id for one in meters]

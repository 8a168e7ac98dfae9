"""Properties read by columns say what each JSON value says on its own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.aggregate import ParsedColumn, parse_decimals
from operators.properties import (
    INTEGER_BYTES_MAX,
    PLAIN_BYTES_MAX,
    Columns,
    NumberColumn,
    Properties,
    Unreadable,
)
from schemas.meters import JsonNumber
from tests.operators.event_meters import a_meter

read_value = msgspec.json.Decoder(float_hook=JsonNumber).decode

DIGITS = st.text("0123456789", min_size=1, max_size=20)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    DIGITS.map(lambda digits: digits.lstrip("0") or "0"),
    st.just("") | DIGITS.map(".{}".format),
    st.sampled_from(["", "", "", "e3", "E-2", "e0"]),
)
OTHERS = st.sampled_from(["null", "true", '"5"', '"+5.5"', '""', '"e"', "[1e3]", '{"e": 1}', "-0", "-0.0"])


@settings(deadline=None)
@given(st.lists(NUMBERS | OTHERS, min_size=1, max_size=8))
@example(["0.123456789012", "-0.12345678901", "99999999999999", "-9999999999999", "0.1234567890123"])
@example(["1", "1e3", "2"])
@example(["1", "2E1", "5E18"])
@example(["5e18"])
@example(["1E-13", "7"])
@example(["999999999999999999", "1000000000000000000"])
def test_numbers_of_a_column_are_those_of_its_values(texts: list[str]) -> None:
    raws = [msgspec.Raw(text.encode()) for text in texts]
    column = NumberColumn(raws)
    assert told(column.numbers) == told(parse_decimals([read_value(raw) for raw in raws]))
    assert [column.value(at) for at in range(len(raws))] == [read_value(raw) for raw in raws]


def told(parsed: ParsedColumn) -> tuple[Sequence[int], Sequence[int], object]:
    return parsed.lo.tolist(), parsed.hi.tolist(), parsed.errors


def test_the_longest_plain_number_is_exact() -> None:
    text = "0." + "9" * (PLAIN_BYTES_MAX - 2)
    assert NumberColumn([msgspec.Raw(text.encode())]).numbers.lo.tolist() == [10**12 - 1]


def test_a_property_that_is_compared_and_added_up_is_one_column() -> None:
    columns, unreadable = read(Properties([a_meter("SUM", filters={"v": ["1.5"]})]), b'{"v": 1.50}', b"{}")
    assert columns.texts["v"] is columns.numbers["v"]
    assert (columns.texts["v"].texts, unreadable) == (["1.5", None], [])


@pytest.mark.parametrize("value", [b"%s", b"-%s", b"[%s]", b'%s, "v": 1'])
def test_an_integer_that_python_does_not_read_is_found_wherever_it_stands(value: bytes) -> None:
    for digits, is_read in ((INTEGER_BYTES_MAX - 1, True), (INTEGER_BYTES_MAX + 1, False)):
        text = b'{"v": ' + value.replace(b"%s", b"9" * digits) + b"}"
        _, unreadable = read(Properties([a_meter("SUM")]), b'{"v": 1}', text)
        assert [one.at for one in unreadable] == ([] if is_read else [1])


def read(properties: Properties, *texts: bytes) -> tuple[Columns, list[Unreadable]]:
    return properties.read(texts, np.array([len(text) for text in texts], np.int64))

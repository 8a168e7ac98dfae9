"""Properties read by columns, and those read as Python values, say what each JSON value says."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.aggregate import parse_decimals
from operators.plain_readings import UNIQUE_BYTES_MAX, PlainReadings
from operators.properties import Properties
from operators.texts import Texts
from schemas.meters import JsonNumber, canonical_text
from schemas.usage import I64
from tests.operators.batches import token
from tests.operators.event_meters import a_meter

INTEGER_BYTES_MAX = 4300
"""Of a longer integer, Python reads none."""

read_value = msgspec.json.Decoder(float_hook=JsonNumber).decode

DIGITS = st.text("0123456789", min_size=1, max_size=20)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    DIGITS.map(lambda digits: digits.lstrip("0") or "0"),
    st.just("") | DIGITS.map(".{}".format),
    st.sampled_from(["", "", "", "e3", "E-2", "e0"]),
)
OTHERS = st.sampled_from(
    [
        "null",
        "true",
        "false",
        '"5"',
        '"-0.5"',
        '"+5.5"',
        '"05"',
        '"5."',
        '".5"',
        '"-"',
        '"1e3"',
        '""',
        '"e"',
        '"a\\n"',
        '"\u00fc"',
        "[1e3]",
    ]
)
MORE = st.sampled_from(['{"e": 1}', "-0", "-0.0", '"true"', f'"{"u" * UNIQUE_BYTES_MAX}"', f'"{"u" * 1025}"'])
VALUES = st.lists(NUMBERS | OTHERS | MORE, min_size=1, max_size=8)


@settings(deadline=None)
@given(VALUES)
@example(["0.123456789012", "-0.12345678901", "99999999999999", "-9999999999999", "0.1234567890123"])
@example(["1", "1e3", "2E1", "5E18", "1E-13", "1.", "-", ".5", "-.5", "--1", "0.0", "-0.5"])
@example(["999999999999999999", "1000000000000000000"])
def test_plain_numbers_are_those_of_their_values(texts: list[str]) -> None:
    (readings,), odd = PlainReadings([(0, a_meter("SUM"))]).read(*objects(texts))
    rows = readings.row.tolist()
    parsed = parse_decimals([read_value(texts[row]) for row in rows])
    assert (readings.lo.tolist(), readings.hi.tolist(), parsed.errors) == (
        parsed.lo.tolist(),
        parsed.hi.tolist(),
        [],
    )
    assert sorted(rows + np.flatnonzero(odd).tolist()) == list(range(len(texts)))


@settings(deadline=None)
@given(VALUES)
def test_plain_texts_are_the_canonical_ones(texts: list[str]) -> None:
    (readings,), odd = PlainReadings([(0, a_meter("COUNT_UNIQUE"))]).read(*objects(texts))
    rows = readings.row.tolist()
    canonical = [canonical_text(read_value(text)) for text in texts]
    assert readings.token.tolist() == [token(str(canonical[row])) for row in rows]
    nothing = {row for row, text in enumerate(texts) if text == "null"}
    assert sorted([*rows, *np.flatnonzero(odd).tolist(), *nothing]) == list(range(len(texts)))


@settings(deadline=None)
@given(VALUES)
def test_plain_values_pass_the_filters_that_their_texts_pass(texts: list[str]) -> None:
    wanted = ["5", "true", "-0.5", "0", "e"]
    (readings,), odd = PlainReadings([(0, a_meter("COUNT", filters={"v": wanted}))]).read(*objects(texts))
    passing = [row for row, text in enumerate(texts) if canonical_text(read_value(text)) in wanted]
    assert readings.row.tolist() == [row for row in passing if not odd[row]]


def objects(texts: list[str]) -> tuple[Texts, I64]:
    """JSON objects with these values of `v`, and their rows."""
    return Texts.of([b'{"u": [], "v" : ' + text.encode() + b"}" for text in texts]), np.arange(len(texts))


def test_most_values_are_plain() -> None:
    for kind, texts in (("SUM", ["1", "-2.5", '"3"', "0"]), ("COUNT_UNIQUE", ['"a"', "1", "true", '"ü"'])):
        _, odd = PlainReadings([(0, a_meter(kind))]).read(*objects(texts))
        assert not odd.any()


def test_a_property_that_is_missing_is_odd_unless_the_meter_skips_it() -> None:
    for on_missing, expected in (("reject", [True, True, False]), ("skip", [False, False, False])):
        meter = a_meter("SUM").model_copy(update={"on_missing": on_missing})
        _, odd = PlainReadings([(0, meter)]).read(
            Texts.of([b"{}", b'{"v": null}', b'{"v": 1}']), np.arange(3)
        )
        assert odd.tolist() == expected


@pytest.mark.parametrize("value", [b"%s", b"-%s", b"[%s]", b'%s, "v": 1'])
def test_an_integer_that_python_does_not_read_is_found_wherever_it_stands(value: bytes) -> None:
    for digits, is_read in ((INTEGER_BYTES_MAX - 1, True), (INTEGER_BYTES_MAX + 1, False)):
        text = b'{"v": ' + value.replace(b"%s", b"9" * digits) + b"}"
        _, unreadable = Properties([a_meter("SUM")]).read([b'{"v": 1}', text])
        assert [one.at for one in unreadable] == ([] if is_read else [1])

"""Canonical texts, durations, and which meters make sense."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.meters import PLAIN_DIGITS_MAX, Filter, JsonNumber, Meter, canonical_text, duration_s
from schemas.money import UNBOUNDED
from tests.builders import meter

JSON = msgspec.json.Decoder(float_hook=JsonNumber)


@pytest.mark.parametrize(
    ("json", "text"),
    [
        ("1000000", "1000000"),
        ("1e6", "1000000"),
        ("1000000.0", "1000000"),
        ("1.5", "1.5"),
        ("1.50", "1.5"),
        ("200.0", "200"),
        ("1E-5", "0.00001"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e9", "0"),
        ("-1.10", "-1.1"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1e22", "10000000000000000000000"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("true", "true"),
        ("false", "false"),
        ('"1.50"', "1.50"),  # a string is itself
        ('"True"', "True"),
        ('""', ""),
        ("null", None),
        ("{}", None),
        ("[1]", None),
    ],
)
def test_the_canonical_text_of_a_json_value(json: str, text: str | None) -> None:
    assert canonical_text(JSON.decode(json)) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30), st.data())
def test_every_spelling_of_a_number_has_one_text(number: Decimal, data: st.DataObject) -> None:
    shift = data.draw(st.integers(-30, 30))
    padded = format(number, "f") + ("000" if "." in format(number, "f") else ".000")
    shifted = f"{format(UNBOUNDED.scaleb(number, -shift), 'f')}e{shift}"
    texts = {canonical_text(JsonNumber(spelling)) for spelling in (padded, shifted)}
    if number == number.to_integral_value():
        texts.add(canonical_text(int(number)))
    assert len(texts) == 1
    (text,) = texts
    assert text is not None
    assert Decimal(text) == number


@pytest.mark.parametrize(
    "exponent", ["999999999", "-999999999", "99999999999999999999999", f"{PLAIN_DIGITS_MAX + 1}"]
)
def test_a_huge_exponent_stays_a_short_text(exponent: str) -> None:
    text = canonical_text(JSON.decode(f"1e{exponent}"))
    assert text is not None
    assert len(text) < 60
    assert text != canonical_text(JSON.decode(f"2e{exponent}"))


def test_big_integers_and_big_floats_are_one_value() -> None:
    for exponent in (17, 18, 19, PLAIN_DIGITS_MAX - 1, PLAIN_DIGITS_MAX, PLAIN_DIGITS_MAX + 1, 5000):
        assert canonical_text(10**exponent) == canonical_text(JsonNumber(f"1e{exponent}"))
        assert canonical_text(JsonNumber(f"1e-{exponent}")) == canonical_text(
            JsonNumber("0." + "0" * (exponent - 1) + "1")
        )


def test_a_float_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="float"):
        canonical_text(1.5)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("30m", 1800), ("1h", 3600), ("7d", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1.5h", "-1h", "1 h", "1w", "1h30m", "٣h", "9999999999s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number and a unit"):
        duration_s(text)


def test_filter_values_are_kept_as_canonical_texts() -> None:
    kept = Filter.model_validate({"key": "k", "values": [JsonNumber("1e3"), 7, True, "1.50"]})
    assert kept.values == ("1000", "7", "true", "1.50")


def test_a_meter_knows_its_seconds() -> None:
    one = meter(window="15m", allowed_lateness="2d")
    assert (one.window_s, one.allowed_lateness_s) == (900, 172_800)
    assert meter().window_s == 60


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"aggregation": {"type": "SUM"}}, "SUM needs a field"),
        ({"aggregation": {"type": "COUNT", "field": "tokens"}}, "takes no field"),
        ({"aggregation": {"type": "MAX", "field": "tokens"}}, "'COUNT', 'SUM', 'AVG' or 'COUNT_UNIQUE'"),
        ({"aggregation": {"type": "COUNT"}, "on_missing": "skip"}, "on_missing is for SUM and AVG"),
        ({"window": "2m"}, "'1m', '5m', '15m', '1h' or '1d'"),
        ({"allowed_lateness": "401d"}, "over 400d"),
        ({"allowed_lateness": "soon"}, "whole number and a unit"),
        ({"reset_usage": "DAILY"}, "'BILLING_PERIOD' or 'NEVER'"),
        ({"id": "a b"}, "pattern"),
        ({"id": "a=b"}, "pattern"),
        ({"event_name": ""}, "at least 1 character"),
        ({"event_name": "é" * 129}, "over 256 bytes"),
        ({"filters": [{"key": "k", "values": []}]}, "at least 1 item"),
        ({"filters": [{"key": "k", "values": [None]}]}, "must be a string"),
        ({"filters": [{"key": "k", "values": [1.5]}]}, "must be a string"),
        ({"filters": [{"key": "k", "values": ["x"], "op": "in"}]}, "not permitted"),
        ({"colour": "red"}, "not permitted"),
    ],
)
def test_meters_that_make_no_sense_are_refused(fields: dict[str, Any], why: str) -> None:
    sound = {"id": "m", "event_name": "e", "aggregation": {"type": "SUM", "field": "tokens"}}
    Meter.model_validate(sound)
    with pytest.raises(ValidationError, match=why):
        Meter.model_validate({**sound, **fields})

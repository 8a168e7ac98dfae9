"""Rounding, texts and what is accepted as a number or a currency."""

from __future__ import annotations

from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.money import (
    EXACT,
    MINOR_UNITS,
    Currency,
    Number,
    Positive,
    decimal_text,
    quantize_quantity,
    round_money,
)

D = Decimal
NUMBER: TypeAdapter[Decimal] = TypeAdapter(Number)
AMOUNTS = st.decimals(min_value=-(10**17), max_value=10**17, places=12)
QUANTITIES = st.decimals(min_value=-(10**25), max_value=10**25, places=12)


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.005", "USD", "0.01"),
        ("-0.005", "USD", "-0.01"),  # away from zero, not up
        ("0.0049999", "USD", "0.00"),
        ("-0.004", "USD", "0.00"),  # and no "-0.00"
        ("0.5", "JPY", "1"),
        ("1.0005", "KWD", "1.001"),
        ("1.00005", "CLF", "1.0001"),
        ("123456789012345678901234567890.125", "EUR", "123456789012345678901234567890.13"),
    ],
)
def test_money_is_rounded_half_away_from_zero(amount: str, currency: str, rounded: str) -> None:
    assert str(round_money(D(amount), currency)) == rounded


@given(AMOUNTS, st.sampled_from(sorted(MINOR_UNITS)))
def test_rounding_moves_money_by_half_a_minor_unit_at_most(amount: Decimal, currency: str) -> None:
    rounded = round_money(amount, currency)
    assert abs(rounded - amount) <= D(1).scaleb(-MINOR_UNITS[currency]) / 2
    assert round_money(rounded, currency) == rounded == -round_money(-amount, currency)


def test_currencies_have_the_decimals_of_iso_4217() -> None:
    some = {
        "USD": 2,
        "EUR": 2,
        "JPY": 0,
        "KRW": 0,
        "ISK": 0,
        "KWD": 3,
        "TND": 3,
        "CLF": 4,
        "HUF": 2,
        "XAF": 0,
    }
    assert {code: MINOR_UNITS[code] for code in some} == some
    assert len(MINOR_UNITS) == 165  # List One of 2026-01-01, less 13 codes without minor units


@pytest.mark.parametrize("code", ["XXX", "XAU", "EURO", "", "E"])
def test_what_is_no_currency_is_refused(code: str) -> None:
    with pytest.raises(ValidationError, match="ISO 4217"):
        TypeAdapter(Currency).validate_python(code)


def test_a_currency_has_one_spelling() -> None:
    assert TypeAdapter(Currency).validate_python("usd") == "USD"


@pytest.mark.parametrize(
    ("quantity", "rounded"),
    [
        ("0.0000000000005", "0.000000000000"),  # half to even: down
        ("0.0000000000015", "0.000000000002"),  # and up
        ("99999999999999999999999999.1234567890125", "99999999999999999999999999.123456789012"),
    ],
)
def test_quantities_are_rounded_half_to_even_at_12_decimals(quantity: str, rounded: str) -> None:
    assert format(quantize_quantity(D(quantity)), "f") == rounded


@given(QUANTITIES, AMOUNTS)
def test_a_quantity_times_a_price_is_exact(quantity: Decimal, amount: Decimal) -> None:
    scaled = int(EXACT.scaleb(quantity, 12)) * int(EXACT.scaleb(amount, 12))  # Python's integers are exact
    assert int(EXACT.scaleb(EXACT.multiply(quantity, amount), 24)) == scaled


def test_exact_arithmetic_raises_rather_than_lose_a_digit() -> None:
    with pytest.raises(Inexact):
        EXACT.divide(D(1), D(3))
    with pytest.raises(Inexact):
        EXACT.add(D(10) ** 60, D("1e-24"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1E+3", "1000"),
        ("1.500", "1.5"),
        ("-0.00", "0"),
        ("0", "0"),
        ("1E-12", "0.000000000001"),
        ("100", "100"),
    ],
)
def test_decimals_are_written_plainly(value: str, text: str) -> None:
    assert decimal_text(D(value)) == text


@given(QUANTITIES)
def test_the_text_of_a_decimal_is_the_decimal(quantity: Decimal) -> None:
    text = decimal_text(quantity)
    assert D(text) == quantity
    assert decimal_text(D(text)) == text
    assert "E" not in text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0.002", "0.002"),
        (5, "5"),
        ("1e3", "1000"),
        ("+5", "5"),
        ("-0", "0"),
        ("1.50", "1.5"),
        (D("1E+2"), "100"),
    ],
)
def test_numbers_are_read_as_they_are_written(value: object, number: str) -> None:
    assert str(NUMBER.validate_python(value)) == number


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (0.002, "float"),
        (True, "number as text"),
        ("NaN", "must be a number"),
        ("Infinity", "must be a number"),
        (D("NaN"), "finite"),
        (" 1", "must be a number"),
        ("1_000", "must be a number"),
        ("1,5", "must be a number"),
        ("\u0661", "must be a number"),  # a digit in Arabic, which Decimal() reads
        ("", "must be a number"),
        ("1" * 65, "at most 64 characters"),
        ("1e18", "below 1e18"),
        ("-1e18", "below 1e18"),
        ("1e999999999", "below 1e18"),
        ("1e-13", "at most 12 decimals"),
        ("1e-999999999", "at most 12 decimals"),
        (D("0.5") + D("1e-25"), "at most 12 decimals"),
        (D("0." + "5" + "0" * 90 + "1"), "at most 12 decimals"),  # beyond the digits of EXACT
        ([], "decimal|Decimal"),
    ],
)
def test_what_is_no_exact_number_is_refused(value: object, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        NUMBER.validate_python(value)


def test_a_positive_number_is_above_zero() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        TypeAdapter(Positive).validate_python("0.000")

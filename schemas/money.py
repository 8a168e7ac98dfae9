"""Money and quantities are exact decimals; this is where they are rounded, written and read.

A quantity has at most 12 decimals and is below 1e18; a unit price likewise; their product has at most
36 digits before the point and 24 behind it. `EXACT` has 76 digits, as wide as `schemas.arrow.AMOUNT`,
and raises `decimal.Inexact` rather than lose one: sums of 1e16 such products still fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import (
    MAX_EMAX,
    MAX_PREC,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    Inexact,
    InvalidOperation,
    Overflow,
)
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

PRECISION_DIGITS = 76
DECIMALS_MAX = 12
"""Decimals of a quantity, of a unit price and of an amount that somebody writes."""

VALUE_MAX = Decimal(10) ** 18
"""Quantities, unit prices and amounts are below this in magnitude."""

TEXT_LENGTH_MAX = 64
"""A number's text in a catalog or an account event is not longer than this."""

_TRAPS = [InvalidOperation, Overflow]
EXACT = Context(prec=PRECISION_DIGITS, traps=[Inexact, *_TRAPS])
"""Arithmetic that is right or raises."""

exact_add, exact_subtract, exact_multiply = EXACT.add, EXACT.subtract, EXACT.multiply
"""For where millions are priced: to look the method up takes nearly as long as to add."""

UNBOUNDED = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=_TRAPS)
"""To normalize or compare a number of any length without rounding it; not for division."""

_ROUNDING = Context(prec=PRECISION_DIGITS, traps=_TRAPS)
_quantize_up = Context(prec=PRECISION_DIGITS, rounding=ROUND_HALF_UP, traps=_TRAPS).quantize
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_QUANTITY_STEP = Decimal(1).scaleb(-DECIMALS_MAX)

MINOR_UNITS: dict[str, int] = {
    code: digits
    for digits, codes in {
        0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
        2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF "
        "CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
        "GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL "
        "MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR "
        "PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP "
        "TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG",
        3: "BHD IQD JOD KWD LYD OMR TND",
        4: "CLF UYW",
    }.items()
    for code in codes.split()
}
"""Decimals of every ISO 4217 currency (List One of 2026-01-01), metals and test codes aside."""

_MINOR_STEP = {code: Decimal(1).scaleb(-digits) for code, digits in MINOR_UNITS.items()}


def round_money(amount: Decimal, currency: str) -> Decimal:
    """The amount at its currency's precision, half away from zero: what is owed.

    Zero is never negative: no bill says "-0.00". `KeyError` for a currency that is not in `MINOR_UNITS`.
    """
    rounded = _quantize_up(amount, _MINOR_STEP[currency])
    return rounded or abs(rounded)


def quantize_quantity(quantity: Decimal) -> Decimal:
    """The quantity at 12 decimals, half to even: no bias over many readings, and idempotent."""
    return quantity.quantize(_QUANTITY_STEP, ROUND_HALF_EVEN, _ROUNDING)


def exact_sum(values: Iterable[Decimal]) -> Decimal:
    """The sum, exactly; the built-in one rounds to the 28 digits of the default context."""
    total = Decimal(0)
    for value in values:
        total = EXACT.add(total, value)
    return total


def decimal_text(value: Decimal) -> str:
    """The shortest plain text: no exponent, no trailing zeros, no "-0".

    For amounts and quantities; a value with a huge exponent gives as many zeros
    (`schemas.meters.canonical_text` is for numbers that strangers write).
    """
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _read_number(value: object) -> object:
    """Refuse all but integers and a number's own text: a float has lost digits, `Decimal(" 1_0")` is 10."""
    if isinstance(value, bool | float):
        raise ValueError("must be a number as text or an integer: a float has lost the number's own digits")
    if isinstance(value, str) and not (len(value) <= TEXT_LENGTH_MAX and _NUMBER.fullmatch(value)):
        raise ValueError(f"must be a number of at most {TEXT_LENGTH_MAX} characters")
    return value


def _check_number(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("must be a finite number")
    if not -VALUE_MAX < value < VALUE_MAX:
        raise ValueError("must be below 1e18")
    if not value:
        return Decimal(0)
    exponent = value.normalize(UNBOUNDED).as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DECIMALS_MAX:
        raise ValueError(f"must have at most {DECIMALS_MAX} decimals")
    return Decimal(decimal_text(value))


def _check_currency(value: str) -> str:
    code = value.upper()  # one spelling, or a customer has two wallets
    if code not in MINOR_UNITS:
        raise ValueError("must be an ISO 4217 currency code")
    return code


Number = Annotated[Decimal, BeforeValidator(_read_number), AfterValidator(_check_number)]
"""A decimal from text or an integer: at most 12 decimals, below 1e18, exactly as it was written."""

NonNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Currency = Annotated[str, AfterValidator(_check_currency)]
"""An ISO 4217 code in capitals; "usd" is read as "USD"."""

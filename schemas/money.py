"""Money and quantities are exact decimals; this is where they are rounded, written and read.

A quantity has at most 12 decimals and is below 1e18; a unit price likewise; their product has at most
36 digits before the point and 24 behind it. `EXACT` has 76 digits, as wide as `schemas.arrow.AMOUNT`,
and raises `decimal.Inexact` rather than lose one: sums of 1e16 such products still fit.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation, Overflow
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

_ROUNDING = Context(prec=PRECISION_DIGITS, traps=_TRAPS)
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
    rounded = amount.quantize(_MINOR_STEP[currency], ROUND_HALF_UP, _ROUNDING)
    return rounded or abs(rounded)


def quantize_quantity(quantity: Decimal) -> Decimal:
    """The quantity at 12 decimals, half to even: no bias over many readings, and idempotent."""
    return quantity.quantize(_QUANTITY_STEP, ROUND_HALF_EVEN, _ROUNDING)


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
    """Refuse what is not text or an integer; a float has already lost what was written."""
    if isinstance(value, float | bool):
        raise ValueError("not a number as text or an integer; a float has lost the number's own digits")
    if isinstance(value, str) and len(value) > TEXT_LENGTH_MAX:
        raise ValueError(f"a number of over {TEXT_LENGTH_MAX} characters")
    return value


def _check_number(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("not a finite number")
    if not -VALUE_MAX < value < VALUE_MAX:
        raise ValueError("not below 1e18")
    # In this order: an exponent of billions must not become as many digits.
    exponent = value.normalize(_ROUNDING).as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DECIMALS_MAX:
        raise ValueError(f"over {DECIMALS_MAX} decimals")
    return Decimal(decimal_text(value)) if value else Decimal(0)


def _check_currency(value: str) -> str:
    code = value.upper()  # one spelling, or a customer has two wallets
    if code not in MINOR_UNITS:
        raise ValueError("not an ISO 4217 currency code")
    return code


Number = Annotated[Decimal, BeforeValidator(_read_number), AfterValidator(_check_number)]
"""A decimal from text or an integer: at most 12 decimals, below 1e18, exactly as it was written."""

NonNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Currency = Annotated[str, AfterValidator(_check_currency)]
"""An ISO 4217 code in capitals; "usd" is read as "USD"."""

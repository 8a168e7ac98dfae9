"""A meter says which events count, and how much: an event name, filters, an aggregation, a window.

Filters and COUNT_UNIQUE compare JSON values by their canonical text, so `1000000`, `1e6` and `1000000.0`
are one value, and the same as the string "1000000". JSON numbers with a point or an exponent come in as
`JsonNumber`, their own text (`msgspec.json.Decoder(float_hook=JsonNumber)`): no value passes through a float.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from schemas.money import UNBOUNDED

NAME_BYTES_MAX = 256
"""As for the names in events (`Reason.FIELD_TOO_LONG`): a longer one could never match."""

FILTERS_MAX = 32
FILTER_VALUES_MAX = 1000
LATENESS_MAX_S = 400 * 86_400
PLAIN_DIGITS_MAX = 400
"""Beyond this exponent a canonical number is written as `1E+999`, so that text can't explode."""


class JsonNumber(str):
    """The text of a JSON number that has a point or an exponent."""

    __slots__ = ()


def canonical_text(value: object) -> str | None:
    """The text by which a JSON value is compared; None if it matches nothing (null, object, list).

    Strings stand for themselves: "1.50" is not 1.5, as a version or an account number must not be. A float is
    a `TypeError`: the caller decoded JSON without `float_hook=JsonNumber`.
    """
    if isinstance(value, str):
        return _number_text(value) if isinstance(value, JsonNumber) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Big ones go by value, the way of 1e19, so that both spellings give one text.
        return str(value) if -(10**18) < value < 10**18 else _decimal_text(Decimal(value))
    if value is None or isinstance(value, dict | list):
        return None
    raise TypeError(f"not a JSON value with exact numbers: {type(value).__name__}")


def _number_text(text: str) -> str:
    if "e" in text or "E" in text or len(text) > PLAIN_DIGITS_MAX:
        try:
            return _decimal_text(Decimal(text))
        except InvalidOperation:  # an exponent over 1e18: no two spellings of it are worth joining
            return str(text)
    # JSON allows no leading zeros, so only trailing ones can differ.
    text = text.rstrip("0").rstrip(".") if "." in text else str(text)
    return "0" if text == "-0" else text


def _decimal_text(number: Decimal) -> str:
    if not number:
        return "0"
    number = number.normalize(UNBOUNDED)
    return format(number, "f" if abs(number.adjusted()) <= PLAIN_DIGITS_MAX else "E")


_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration_s(text: str) -> int:
    """Seconds of a duration such as "30m", "1h" or "7d"; `ValueError` for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('must be a whole number and a unit (s, m, h, d), such as "30m", "1h", "7d"')
    return int(match[1]) * _UNIT_S[match[2]]


def _check_duration(text: str) -> str:
    duration_s(text)
    return text


def _check_bytes(text: str) -> str:
    if len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"over {NAME_BYTES_MAX} bytes")
    return text


def _read_filter_value(value: object) -> object:
    text = None if isinstance(value, float) else canonical_text(value)
    if text is None:
        raise ValueError("must be a string, a number as text, an integer, true or false")
    return text


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$")]
"""Of a meter or a plan: no spaces, no `=`, so that it can be a command-line argument."""

Name = Annotated[str, StringConstraints(min_length=1), AfterValidator(_check_bytes)]
Duration = Annotated[str, AfterValidator(_check_duration)]
FilterValue = Annotated[str, BeforeValidator(_read_filter_value)]


class AggregationType(StrEnum):
    """How readings of a window or a period become one quantity."""

    COUNT = "COUNT"
    SUM = "SUM"
    AVG = "AVG"
    COUNT_UNIQUE = "COUNT_UNIQUE"


class Aggregation(BaseModel):
    """What is read from an event: `field` is a first-level property, for all but COUNT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: AggregationType
    field: Name | None = None

    @model_validator(mode="after")
    def _check_field(self) -> Self:
        if self.type is AggregationType.COUNT and self.field is not None:
            raise ValueError("COUNT counts events: it takes no field")
        if self.type is not AggregationType.COUNT and self.field is None:
            raise ValueError(f"{self.type} needs a field: the first-level property it reads")
        return self


class Filter(BaseModel):
    """One condition: the first-level property `key` has one of these canonical texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Name
    values: tuple[FilterValue, ...] = Field(min_length=1, max_length=FILTER_VALUES_MAX)


class Meter(BaseModel):
    """Filters are joined by AND, the values of one filter by OR; no filter takes every event of the name.

    `on_missing` is for SUM and AVG: an event without the field is a dead letter ("reject") or counts
    nothing ("skip"). COUNT_UNIQUE ignores such events.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    event_name: Name
    aggregation: Aggregation
    filters: tuple[Filter, ...] = Field(default=(), max_length=FILTERS_MAX)
    window: Literal["1m", "5m", "15m", "1h", "1d"] = "1m"
    allowed_lateness: Duration = "1h"
    reset_usage: Literal["BILLING_PERIOD", "NEVER"] = "BILLING_PERIOD"
    on_missing: Literal["reject", "skip"] = "reject"

    @cached_property
    def window_s(self) -> int:
        """Length of a window in seconds; windows start at multiples of it, UTC."""
        return duration_s(self.window)

    @cached_property
    def allowed_lateness_s(self) -> int:
        """How long after a window's end an event may be appended and still count in the window."""
        return duration_s(self.allowed_lateness)

    @model_validator(mode="after")
    def _check_meter(self) -> Self:
        if duration_s(self.allowed_lateness) > LATENESS_MAX_S:
            raise ValueError(f"allowed_lateness is over {LATENESS_MAX_S // 86_400}d")
        summed = self.aggregation.type in {AggregationType.SUM, AggregationType.AVG}
        if "on_missing" in self.model_fields_set and not summed:
            raise ValueError(
                "on_missing is for SUM and AVG: COUNT reads no field, COUNT_UNIQUE skips a missing one"
            )
        return self

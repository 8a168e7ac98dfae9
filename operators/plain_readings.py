"""What the meters of one event name read from plain values. JSON objects -> Readings, and which are odd.

A value is plain if it stands in the JSON text as it is read: a text without escapes, true, false, an integer,
a short number without an exponent. Such values become columns without ever being Python objects, in half the
time. An event with another one that a meter wants is odd and left to operators/properties.py, as is each that
might be refused: this may find too many odd, but never too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operators.cityhash import city_hash64
from operators.json_scan import Members, scan
from operators.json_text import ABSENT, ESCAPED, FALSE, LIST, NULL, NUMBER, OBJECT, TEXT, TRUE
from operators.plain_numbers import PLAIN_BYTES_MAX, plain_numbers, plain_quantities
from operators.properties import wanted
from operators.texts import Texts
from schemas.meters import AggregationType, Meter
from schemas.usage import I64, Mask, Readings

UNIQUE_BYTES_MAX = 1_024
"""Of a COUNT_UNIQUE value's canonical text; an event with a longer one is a reject."""


@dataclass(frozen=True, slots=True)
class _Values:
    """A property's values: which of them can be taken, and which are odd for who asks."""

    texts: Texts
    is_taken: Mask
    is_odd: Mask


class _Properties:
    """The members of a batch's properties, as texts to compare and as numbers to add up."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._numbers: dict[int, tuple[Mask, Mask]] = {}

    def odd(self) -> Mask:
        """Which objects are odd whoever asks: a long number or one within a list may be one that Python does
        not read, and then no meter reads the event, even if its filters don't let it pass."""
        members, kind = self._members, self._members.kind
        is_long = (kind == NUMBER) & (members.end - members.start > PLAIN_BYTES_MAX)
        is_odd = is_long | (kind == OBJECT) | (kind == LIST) | (kind == ESCAPED)
        odd: Mask = ~members.is_read | is_odd.any(axis=0)
        return odd

    def compared(self, name: int) -> _Values:
        """By their canonical texts (`schemas.meters.canonical_text`)."""
        kind, texts = self._members.kind[name], self._members.texts(name)
        is_taken = (kind == TEXT) | (kind == TRUE) | (kind == FALSE)
        is_number = kind == NUMBER
        if not is_number.any():
            return _Values(texts, is_taken, is_number)
        _, is_integer = self._plain_numbers(name)
        return _Values(texts, is_taken | (is_number & is_integer), is_number & ~is_integer)

    def _plain_numbers(self, name: int) -> tuple[Mask, Mask]:
        """Looked for once, however many meters ask."""
        if name not in self._numbers:
            self._numbers[name] = plain_numbers(self._members.texts(name))
        return self._numbers[name]

    def hashed(self, name: int) -> _Values:
        """As compared, for COUNT_UNIQUE, which refuses what is too long."""
        values = self.compared(name)
        is_long = values.is_taken & (values.texts.sizes > UNIQUE_BYTES_MAX)
        return _Values(values.texts, values.is_taken, values.is_odd | is_long)

    def added(self, name: int, *, may_be_missing: bool) -> _Values:
        """As numbers."""
        kind, texts = self._members.kind[name], self._members.texts(name)
        is_plain, _ = self._plain_numbers(name)
        is_taken = is_plain & ((kind == NUMBER) | (kind == TEXT))
        is_missing = (kind == ABSENT) | (kind == NULL)
        return _Values(texts, is_taken, ~is_taken & ~is_missing if may_be_missing else ~is_taken)


class PlainReadings:
    """The meters of one event name, by their numbers."""

    def __init__(self, meters: Sequence[tuple[int, Meter]]) -> None:
        self._meters = meters
        self._names = {name: at for at, name in enumerate(wanted(meter for _, meter in meters))}
        self._wanted = Texts.of([name.encode() for name in self._names])
        self._filters = [
            [
                (self._names[one.key], Texts.of([value.encode() for value in one.values]))
                for one in meter.filters
            ]
            for _, meter in meters
        ]
        self.read(Texts.of([]), np.empty(0, np.int64))  # compiled now, and not while the first event waits

    def read(self, objects: Texts, rows: I64) -> tuple[list[Readings], Mask]:
        """Readings of events with these properties, and which of them are odd: these have none.

        :arg rows: The events' rows in their batch.
        """
        if not self._names:
            return [counted(rows, number) for number, _ in self._meters], np.zeros(len(rows), np.bool_)
        members = scan(objects, self._wanted)
        properties = _Properties(members)
        odd = properties.odd()
        taken: list[tuple[int, Meter, _Values | None, Mask]] = []
        for (number, meter), filters in zip(self._meters, self._filters, strict=True):
            passing = np.ones(len(rows), np.bool_)
            for name, texts in filters:
                values = properties.compared(name)
                odd |= values.is_odd
                passing &= values.is_taken & values.texts.are(texts)
            found = self._values(meter, properties)
            if found is not None:
                odd |= passing & found.is_odd
                passing &= found.is_taken
            taken.append((number, meter, found, passing))
        return [
            _read(number, meter, values, np.flatnonzero(passing & ~odd), rows)
            for number, meter, values, passing in taken
        ], odd

    def _values(self, meter: Meter, properties: _Properties) -> _Values | None:
        """What the meter reads; None if it only counts."""
        field = meter.aggregation.field
        if field is None or meter.aggregation.type is AggregationType.COUNT:
            return None
        name = self._names[field]
        if meter.aggregation.type is AggregationType.COUNT_UNIQUE:
            return properties.hashed(name)
        return properties.added(name, may_be_missing=meter.on_missing == "skip")


def _read(number: int, meter: Meter, values: _Values | None, at: I64, rows: I64) -> Readings:
    readings = counted(rows[at], number)
    if values is None:
        return readings
    texts = values.texts.select(at)
    if meter.aggregation.type is AggregationType.COUNT_UNIQUE:
        return Readings(readings.row, readings.meter, readings.lo, readings.hi, city_hash64(texts))
    return Readings(readings.row, readings.meter, *plain_quantities(texts), readings.token)


def counted(rows: I64, number: int) -> Readings:
    """Readings of a meter that only counts."""
    zeros = np.zeros(len(rows), np.uint64)
    meter = np.full(len(rows), number, np.uint16)
    return Readings(rows.astype(np.uint32), meter, zeros, zeros.view(np.int64), zeros)

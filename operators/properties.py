"""The properties that the meters of one event name read, as Python values. JSON objects -> columns.

Of the events that operators/plain_readings.py finds odd. Only properties that some meter names are decoded,
all of an event at once. Stateless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, methodcaller
from typing import Any

import msgspec

from operators.aggregate import ParsedColumn, parse_decimals
from schemas.meters import JsonNumber, Meter, canonical_text

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
"""Characters in a property's name that a msgspec Struct refuses to have in a field's name."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The properties at this position can't be read, in msgspec's words."""

    at: int
    detail: str


class ValueColumn:
    """One property of a group of events as Python values; `canonical_text`s and numbers where asked for."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def value(self, at: int) -> Any:
        return self._values[at]

    @cached_property
    def texts(self) -> list[str | None]:
        if set(map(type, self._values)) == {str}:
            return self._values
        return [v if type(v) is str else canonical_text(v) for v in self._values]

    @cached_property
    def numbers(self) -> ParsedColumn:
        return parse_decimals(self._values)


class Properties:
    """Reads the properties that `meters`, all of one event name, ask for."""

    def __init__(self, meters: Iterable[Meter]) -> None:
        keys = wanted(meters)
        self._getters: dict[str, Callable[[Any], Any]]
        if any(map(_ESCAPED.search, keys)):
            self._getters = {key: methodcaller("get", key) for key in keys}
            self._decode = msgspec.json.Decoder(dict[str, Any], float_hook=JsonNumber).decode
        else:
            # Property names are the users': they become attributes f0, f1, ... of a struct.
            names = {key: f"f{i}" for i, key in enumerate(keys)}
            self._getters = {key: attrgetter(name) for key, name in names.items()}
            self._decode = _decoder(names)

    def read(self, properties: Sequence[bytes]) -> tuple[dict[str, ValueColumn], list[Unreadable]]:
        """The columns that the meters read. Events that can't be read are in none, so that rows move up."""
        decoded, unreadable = [], []
        for at, text in enumerate(properties):
            try:
                decoded.append(self._decode(text))
            except _UNREADABLE as error:
                unreadable.append(Unreadable(at, f"`properties`: {error}"))
        return {key: ValueColumn(list(map(get, decoded))) for key, get in self._getters.items()}, unreadable


def wanted(meters: Iterable[Meter]) -> list[str]:
    """The properties that are compared or added up, each once."""
    found: set[str] = set()
    for meter in meters:
        found.update(condition.key for condition in meter.filters)
        if meter.aggregation.field is not None:
            found.add(meter.aggregation.field)
    return sorted(found)


def _decoder(names: dict[str, str]) -> Callable[[Any], Any]:
    """Of a struct with a field for each key."""
    fields: list[tuple[str, Any, Any]] = [(name, Any, None) for name in names.values()]
    rename = {name: key for key, name in names.items()}
    kind = msgspec.defstruct("Properties", fields, rename=rename, gc=False)
    return msgspec.json.Decoder(kind, float_hook=JsonNumber).decode

"""How a good event of the workload is broken: a dead letter for each reason that a producer can cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from schemas.events import Reason

Break = Callable[[dict[str, Any]], dict[str, Any] | bytes]
"""An event -> what is sent for it."""


def _set(**fields: Any) -> Break:
    return lambda event: event | fields


def _set_property(**properties: Any) -> Break:
    return lambda event: event | {"properties": event["properties"] | properties}


def _without_property(name: str) -> Break:
    return lambda event: event | {"properties": {k: v for k, v in event["properties"].items() if k != name}}


BREAKS: dict[Reason, Break] = {
    Reason.TOO_LARGE: lambda event: event,
    Reason.NOT_JSON: lambda event: orjson.dumps(event)[:-20],
    Reason.NOT_AN_OBJECT: lambda event: orjson.dumps([event]),
    Reason.MISSING_ID: _set(id=""),
    Reason.MISSING_EVENT_NAME: _set(event_name=None),
    Reason.MISSING_CUSTOMER: _set(external_customer_id=None),
    Reason.FIELD_INVALID: _set(source=7),
    Reason.FIELD_TOO_LONG: _set(source="s" * 300),
    Reason.PROPERTIES_INVALID: _set(properties=[1, 2]),
    Reason.TIMESTAMP_INVALID: _set(timestamp="yesterday"),
    Reason.TIMESTAMP_AHEAD: _set(timestamp="2299-01-01T00:00:00Z"),
    Reason.TIMESTAMP_TOO_OLD: _set(timestamp="1999-12-31T23:59:59Z"),
    Reason.VALUE_MISSING: _without_property("gb_hours"),
    Reason.VALUE_NOT_NUMERIC: _set_property(gb_hours="plenty"),
    Reason.VALUE_OUT_OF_RANGE: _set_property(gb_hours=10**18),
    Reason.VALUE_NOT_SCALAR: _set_property(user_id=["u1"]),
    Reason.VALUE_TOO_LONG: _set_property(user_id="u" * 1025),
}
"""Of a storage event, or of an LLM one for `UNIQUE_REASONS`. The caller makes an event too large."""

UNIQUE_REASONS = {Reason.VALUE_NOT_SCALAR, Reason.VALUE_TOO_LONG}
"""Of these, the ones that only a COUNT_UNIQUE meter has."""

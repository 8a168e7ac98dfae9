"""Meters of events named "e", and what they read from properties given as JSON text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from operators.meter import Measure
from schemas.events import Reason
from schemas.meters import Meter
from tests.builders import meter
from tests.operators.batches import Read, decoded, readings_of
from tests.operators.records import record

HUGE = b"9" * 4301
"""An integer that msgspec skips over but does not read."""


def read(meters: Sequence[Meter], *properties: bytes) -> tuple[list[Read], dict[int, Reason]]:
    """Readings and rejects of events with these properties, as text."""
    records = [record(event(text), offset) for offset, text in enumerate(properties)]
    metered, rejects = Measure(meters).measure(decoded(records))
    return readings_of(metered, meters), {one.offset: one.reason for one in rejects}


def event(properties: bytes, event_name: bytes = b"e") -> bytes:
    return b'{"id":"x","event_name":"%s","customer_id":"c","properties":%s}' % (event_name, properties)


def a_meter(type: str, id: str = "m", **more: Any) -> Meter:  # noqa: A002 - the builder's names
    field = None if type == "COUNT" else more.pop("field", "v")
    return meter(id, event_name="e", type=type, field=field, **more)

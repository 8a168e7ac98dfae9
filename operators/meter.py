"""Read what each matching meter wants from each event. EventBatch -> MeteredBatch, rejects.

An event is read by every meter of its event name whose filters it passes. If one of them can't read
its value, the event is rejected as a whole, before anyone takes its id: a repaired event with the same
id still counts, and no meter counts what another refused.

Stateless. Most events are read by columns (operators/plain_readings.py). The odd ones are decoded here, once
for each event name, and only the properties that some meter names. What `decode` let through unread may still
be unreadable, as is an integer of over 4,300 characters: that costs its own event only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import bytewax.operators as op
import numpy as np
import pyarrow as pa
from bytewax.dataflow import Stream, operator

from operators.cityhash import city_hash64
from operators.plain_readings import UNIQUE_BYTES_MAX, PlainReadings, counted
from operators.properties import Properties, ValueColumn
from operators.texts import Texts
from schemas.events import REASONS, EventBatch, Reason, Reject
from schemas.meters import AggregationType, Meter
from schemas.usage import I64, MeteredBatch, Readings

VALUE_SHOWN_MAX = 80


Columns: TypeAlias = dict[str, ValueColumn]
"""Properties by key."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """A value that a meter can't read: at which position of its column, why, in which words."""

    at: int
    reason: Reason
    detail: str


def _passing(meter: Meter, columns: Columns, count: int) -> I64:
    """Positions of the events that pass all filters."""
    passing = np.ones(count, np.bool_)
    for condition in meter.filters:
        wanted = frozenset(condition.values)
        passing &= np.fromiter(map(wanted.__contains__, columns[condition.key].texts), np.bool_, count)
    return np.flatnonzero(passing)


def _read(number: int, meter: Meter, columns: Columns, at: I64) -> tuple[Readings, list[_Refused]]:
    """Readings of the events at `at` (`row` counts positions), and the values that can't be read."""
    kind = meter.aggregation.type
    if kind is AggregationType.COUNT:
        return counted(at, number), []
    field = str(meter.aggregation.field)
    if kind is AggregationType.COUNT_UNIQUE:
        return _read_tokens(number, meter.id, field, columns[field], at)
    column = columns[field]
    refused = []
    if column.numbers.errors:
        reasons = dict(column.numbers.errors)
        bad = np.isin(at, list(reasons))
        for i in at[bad].tolist():
            if reasons[i] is not Reason.VALUE_MISSING or meter.on_missing != "skip":
                shown, why = _shown(column.value(i)), REASONS[reasons[i]]
                detail = f"meter {meter.id}: properties.{field} = {shown}: {why}"
                refused.append(_Refused(i, reasons[i], detail))
        at = at[~bad]
    lo, hi = column.numbers.lo[at], column.numbers.hi[at]
    return replace(counted(at, number), lo=lo, hi=hi), refused


def _read_tokens(
    number: int, meter_id: str, field: str, column: ValueColumn, at: I64
) -> tuple[Readings, list[_Refused]]:
    texts = column.texts
    if len(at) < len(texts):
        texts = [texts[i] for i in at.tolist()]
    refused = []
    if None in texts:
        for i, text in zip(at.tolist(), texts, strict=True):
            if text is None and column.value(i) is not None:
                detail = f"meter {meter_id}: properties.{field} is an object or a list, so it has no one text"
                refused.append(_Refused(i, Reason.VALUE_NOT_SCALAR, detail))
        at = at[np.fromiter((text is not None for text in texts), np.bool_, len(texts))]
    values = Texts.of([text.encode() for text in texts if text is not None])
    fits = values.sizes <= UNIQUE_BYTES_MAX
    if not fits.all():
        for i, length in zip(at[~fits].tolist(), values.sizes[~fits].tolist(), strict=True):
            detail = (
                f"meter {meter_id}: properties.{field} = {_shown(column.value(i))}: {length} bytes are"
                f" over the limit of {UNIQUE_BYTES_MAX}"
            )
            refused.append(_Refused(i, Reason.VALUE_TOO_LONG, detail))
        at, values = at[fits], values.select(fits)
    return replace(counted(at, number), token=city_hash64(values)), refused


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= VALUE_SHOWN_MAX else f"{text[:VALUE_SHOWN_MAX]}... ({len(text)} characters)"


class EventMeters:
    """The meters of one event name, by their numbers."""

    def __init__(self, meters: Sequence[tuple[int, Meter]]) -> None:
        self._meters = meters
        self._plain = PlainReadings(meters)
        self._properties = Properties(meter for _, meter in meters)

    def measure(self, rows: I64, properties: Texts) -> tuple[list[Readings], dict[int, _Refused]]:
        """Readings of the events in `rows`, which have these `properties`; rows with an unreadable value."""
        parts, odd = self._plain.read(properties, rows)
        refused: dict[int, _Refused] = {}
        if odd.any():
            parts += self._measure_odd(rows[odd], properties.select(odd), refused)
        return parts, refused

    def _measure_odd(self, rows: I64, properties: Texts, refused: dict[int, _Refused]) -> list[Readings]:
        columns, unreadable = self._properties.read(list(properties))
        if unreadable:
            for one in unreadable:
                refused[int(rows[one.at])] = _Refused(one.at, Reason.PROPERTIES_INVALID, one.detail)
            rows = np.delete(rows, [one.at for one in unreadable])
        parts = []
        for index, meter in self._meters:
            readings, bad = _read(index, meter, columns, _passing(meter, columns, len(rows)))
            for why in bad:
                refused.setdefault(int(rows[why.at]), why)
            parts.append(replace(readings, row=rows[readings.row].astype(np.uint32)))
        return parts


class Measure:
    """All meters of a catalog; `meter` numbers in readings are positions in `meters`."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        by_name: dict[str, list[tuple[int, Meter]]] = {}
        for index, meter in enumerate(meters):
            by_name.setdefault(meter.event_name, []).append((index, meter))
        self._by_name = {name: EventMeters(found) for name, found in by_name.items()}

    def measure(self, batch: EventBatch) -> tuple[MeteredBatch, list[Reject]]:
        """Readings of every event of the batch; events with an unreadable value leave as rejects."""
        parts: list[Readings] = []
        refused: dict[int, _Refused] = {}
        names = batch.events.column("event_name")
        codes = names.indices.to_numpy(zero_copy_only=False)
        properties = Texts.of_column(batch.events.column("properties"))
        for code, name in enumerate(names.dictionary.to_pylist()):
            meters = self._by_name.get(name)
            if meters is not None:
                rows = np.flatnonzero(codes == code)
                found, bad = meters.measure(rows, properties.select(rows))
                parts += found
                refused |= bad
        readings = _by_row(parts)
        events, rejects = batch.events, []
        if refused:
            partitions = events.column("partition")
            rejects = [
                Reject.of(batch.records[row], batch.topic, partitions[row].as_py(), why.reason, why.detail)
                for row, why in sorted(refused.items())
            ]
            events, readings = _without(events, readings, np.array(list(refused), np.int64))
        return MeteredBatch(events, readings, batch.progress), rejects


def _by_row(parts: list[Readings]) -> Readings:
    if not parts:
        return Readings.empty()
    readings = Readings.concat(parts)
    return readings.select(np.argsort(readings.row, kind="stable"))


def _without(events: pa.RecordBatch, readings: Readings, rows: I64) -> tuple[pa.RecordBatch, Readings]:
    keep = np.ones(events.num_rows, np.bool_)
    keep[rows] = False
    readings = readings.select(keep[readings.row])
    number = np.cumsum(keep, dtype=np.uint32) - np.uint32(1)
    moved = Readings(number[readings.row], readings.meter, readings.lo, readings.hi, readings.token)
    return events.filter(pa.array(keep)), moved


@dataclass(frozen=True)
class MeterOut:
    """What metering sends."""

    metered: Stream[MeteredBatch]
    """Events whose every matching meter could read them, with the readings."""
    rejects: Stream[Reject]
    """Events that some matching meter could not read."""


@operator
def meter(step_id: str, up: Stream[EventBatch], *, meters: Sequence[Meter]) -> MeterOut:
    """Read every event by every meter that matches it."""
    measure = Measure(meters)

    def read(batches: list[EventBatch]) -> Iterable[MeteredBatch | Reject]:
        for batch in batches:
            metered, rejects = measure.measure(batch)
            yield metered
            yield from rejects

    read_out = op.flat_map_batch("read", up, read)
    return MeterOut(
        metered=op.filter_map(
            "metered", read_out, lambda item: item if isinstance(item, MeteredBatch) else None
        ),
        rejects=op.filter_map("rejects", read_out, lambda item: item if isinstance(item, Reject) else None),
    )

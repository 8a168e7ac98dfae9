"""Usage on its way through the stream: readings of events, slices of batches, how far a source has come.

A reading is what one meter makes of one event. Readings are columns (numpy), never objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.accounts import AccountEvent
from schemas.events import Progress, Reject

RUNS_MAX = 4
"""Runs of rows that are cut and joined, 12 us each, where one gather of few rows takes 80 us."""

MINUTE_MS = 60_000
"""Usage is kept by the minute; windows and billing periods begin on whole ones."""

GENERATION_SHIFT = 40
"""A row's version is `generation << 40 |` the inputs folded in: up to a million million of them."""

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of the events of one batch, sorted by row.

    `row` uint32: the event's row; `meter` uint16: index into the catalog's meters;
    `lo` uint64 and `hi` int64: the halves of the value times 10^12 as a 128-bit integer, which is
    Arrow's own decimal128 layout (0 for COUNT and COUNT_UNIQUE); `token` uint64: cityHash64 of a
    COUNT_UNIQUE value's canonical text, else 0.
    """

    row: U32
    meter: U16
    lo: U64
    hi: I64
    token: U64

    def __len__(self) -> int:
        return len(self.row)

    def select(self, rows: Mask | I64) -> Readings:
        """The readings at these positions (a mask or an index array)."""
        return Readings(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def empty() -> Readings:
        return Readings(
            np.empty(0, np.uint32),
            np.empty(0, np.uint16),
            np.empty(0, np.uint64),
            np.empty(0, np.int64),
            np.empty(0, np.uint64),
        )

    @staticmethod
    def concat(parts: list[Readings]) -> Readings:
        return Readings(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Readings)))


@dataclass(frozen=True, slots=True)
class MeteredBatch:
    """Good events of one or more polls and their readings. `events`: `schemas.arrow.USAGE_EVENTS`."""

    events: pa.RecordBatch
    readings: Readings
    progress: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """One shard's part of a `MeteredBatch`; row i of each column is the same event, `events[rows[i]]`.

    `rows` int64; `account`, `identity` uint64: hashes of (tenant, customer) and of (tenant, customer, id);
    `at_ms`, `append_ms` int64: when it happened, when Kafka stored it. `readings.row` counts in `rows`.
    Slices of a batch share its `events`: gathering them (0.4 us an event) is left to the one who needs
    them whole. `rows` ascend. Empty slices carry progress only.
    """

    events: pa.RecordBatch
    rows: I64
    account: U64
    identity: U64
    at_ms: I64
    append_ms: I64
    readings: Readings
    progress: tuple[Progress, ...]
    shard: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def taken(self) -> pa.RecordBatch:
        """The slice's own events: a view where they lie side by side, else a copy."""
        if not len(self.rows):
            return self.events.slice(0, 0)
        first, end = int(self.rows[0]), int(self.rows[-1]) + 1
        gaps = end - first - len(self.rows)
        if gaps >= RUNS_MAX:
            return self.events.take(pa.array(self.rows))
        if not gaps:
            return self.events.slice(first, len(self.rows))
        runs = np.split(self.rows, np.flatnonzero(np.diff(self.rows) > 1) + 1)
        return pa.concat_batches([self.events.slice(int(run[0]), len(run)) for run in runs])

    def select(self, keep: Mask) -> Slice:
        """Only the rows that `keep` marks, with their readings renumbered."""
        readings = self.readings.select(keep[self.readings.row])
        number = np.cumsum(keep, dtype=np.uint32) - np.uint32(1)
        return Slice(
            self.events,
            self.rows[keep],
            self.account[keep],
            self.identity[keep],
            self.at_ms[keep],
            self.append_ms[keep],
            Readings(number[readings.row], readings.meter, readings.lo, readings.hi, readings.token),
            self.progress,
            self.shard,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Crossing processes: Arrow IPC of the slice's own events (a pickled RecordBatch would carry the
        # whole batch) is also twice as fast as pickling (facts/bytewax.md: 9.5 against 4.3 M events/s).
        sink, events = pa.BufferOutputStream(), self.taken()
        with pa.ipc.new_stream(sink, events.schema) as writer:
            writer.write_batch(events)
        rest = [getattr(self, f.name) for f in fields(self)[2:]]
        return _slice_from_wire, (sink.getvalue().to_pybytes(), *rest)


def _slice_from_wire(wire: bytes, *rest: Any) -> Slice:
    with pa.ipc.open_stream(wire) as reader:
        events = reader.read_next_batch()
    return Slice(events, np.arange(events.num_rows), *rest)


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """An account event on its way to its shard. `account`: hash as in `Slice`; `origin`: its record, as a
    reject without a reason yet, should the event contradict the account."""

    account: int
    event: AccountEvent
    origin: Reject


@dataclass(frozen=True, slots=True)
class AccountSlice:
    """One shard's account events of one poll; empty ones carry progress only."""

    entries: tuple[AccountEntry, ...]
    progress: tuple[Progress, ...]


@dataclass(slots=True)
class Watermark:
    """The append time that every source has passed: min over sources, once all have been heard of."""

    at_ms: int = -1
    sources: dict[str, int] = field(default_factory=dict)

    def advance(self, progress: tuple[Progress, ...]) -> None:
        for one in progress:
            self.sources[one.source] = max(one.at_ms, self.sources.get(one.source, -1))
            if len(self.sources) >= one.sources:
                self.at_ms = max(self.at_ms, min(self.sources.values()))

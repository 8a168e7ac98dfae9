"""Rolling pre-aggregates of every (tenant, customer, meter, window). Slice -> upserts, late readings.

Windows tumble in UTC. A changed window is sent again at most `flush_interval_ms` later, as an absolute
row whose version is `generation << 40 | readings folded in`: sending it twice changes nothing.
A reading is late if its record was appended after its window's end plus the meter's allowed lateness.
That depends on the record alone, so an outage or a backlog makes nothing late.

State, a shard: the accounts' names, the cells (operators/cells.py), which a snapshot has whole or, with an
archive, but for a file (operators/cell_log.py), and the watermark. A window leaves when every source has
passed its end plus its lateness: from then on all its readings are late.
A flush costs what changed, not what is held: 1.2 us an event with a thousand cells and with a million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import bytewax.operators as op
import numpy as np
import pyarrow as pa
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from typing_extensions import override

from operators.aggregate import from_limbs
from operators.archive import Archive
from operators.cell_log import CellLog
from operators.folds import Part, fold, pack, part_of, unpack
from operators.levels import Level
from operators.shard import shard_key
from operators.snapshot_files import SnapshotFiles
from operators.window_state import WindowedMeter, WindowState, dump, restore
from schemas import arrow
from schemas.usage import GENERATION_SHIFT, I64, MINUTE_MS, U64, Mask, Slice

READINGS_MAX = 16_384
"""Readings that wait to be folded together: an epoch's end folds them, and would take longer with more."""


@dataclass(frozen=True, slots=True)
class WindowConfig:
    meters: Sequence[WindowedMeter]
    flush_interval_ms: int = 1_000
    generation: int = 0


class Windows:
    """The windows of one shard: what to fold, what is late, what to send, what to forget."""

    def __init__(self, state: WindowState, generation: int) -> None:
        self.state = state
        self._generation = generation
        self._meter_ids = pa.array([m.id for m in state.meters], pa.string())
        self._window_ms: I64 = np.array([m.window_ms for m in state.meters], np.int64)
        self._window_minutes = (self._window_ms // MINUTE_MS).astype(np.uint64)
        self._lateness_ms: I64 = np.array([m.lateness_ms for m in state.meters], np.int64)
        self._lateness_min_ms = min((m.lateness_ms for m in state.meters), default=0)
        self._unique: Mask = np.array([m.unique for m in state.meters], np.bool_)
        self._forgotten_ms: I64 = np.array([m.forgotten_ms for m in state.meters], np.int64)
        passed_ms = np.maximum(state.watermark.at_ms - self._lateness_ms, 0)
        self._is_reopened = bool((self._forgotten_ms > passed_ms).any())
        """Whether a meter was given more lateness, after windows had been forgotten that it would allow."""
        self._buffer: list[Part] = []
        self._buffered = 0
        """Readings of it."""
        self._forget_at_ms = 0

    def take(self, piece: Slice) -> pa.RecordBatch | None:
        """Buffer a slice's readings; the late ones come back (`schemas.arrow.LATE_READINGS`)."""
        readings, late_rows = piece.readings, None
        if len(readings) and self._may_be_late(piece):
            late = self._late(piece)
            if late.any():
                late_rows = self._late_readings(piece, late)
                readings = readings.select(~late)
        if len(readings):
            self.state.accounts.learn(piece)
            self._buffer.append(part_of(piece, readings))
            self._buffered += len(readings)
            if self._buffered >= READINGS_MAX:
                self.fold()
        self.state.watermark.advance(piece.progress)
        return late_rows

    def _may_be_late(self, piece: Slice) -> bool:
        """Whether one of the events may be too late for some meter; what takes a fifth of asking each."""
        passed_ms = max(int(piece.append_ms.max()), self.state.watermark.at_ms)
        return self._is_reopened or int(piece.at_ms.min()) + self._lateness_min_ms < passed_ms

    def _late(self, piece: Slice) -> Mask:
        """Which readings are too late for their window."""
        meter = piece.readings.meter
        start_ms = self._start_ms(piece)
        closes_ms = start_ms + self._window_ms[meter] + self._lateness_ms[meter]
        # The second half is for CreateTime topics, whose records may be older than their
        # partition's progress: a forgotten window must not be begun anew with a lower version.
        late: Mask = piece.append_ms[piece.readings.row] > closes_ms
        late |= closes_ms < self.state.watermark.at_ms
        if self._is_reopened:
            late |= start_ms + self._window_ms[meter] < self._forgotten_ms[meter]
        return late

    def _start_ms(self, piece: Slice) -> I64:
        """Of each reading's window."""
        at_ms = piece.at_ms[piece.readings.row]
        return at_ms - at_ms % self._window_ms[piece.readings.meter]

    def fold(self) -> None:
        """Fold what is buffered into the cells."""
        if self._buffer:
            folded = fold(self._buffer, self.state.accounts, self._window_minutes)
            self._buffer.clear()
            self._buffered = 0
            self.state.cells.add(folded, self._unique)
            self._forget_at_ms = min(self._forget_at_ms, int(self._closes_ms(folded.key).min()))

    def _closes_ms(self, key: U64) -> I64:
        """When cells take no more readings."""
        _, meter, minute = unpack(key)
        return minute * MINUTE_MS + self._window_ms[meter] + self._lateness_ms[meter]

    @property
    def is_dirty(self) -> bool:
        return bool(self._buffer) or self.state.cells.is_dirty

    @property
    def is_forgetful(self) -> bool:
        """Whether some window can be forgotten by now."""
        return len(self.state.cells) > 0 and self.state.watermark.at_ms > self._forget_at_ms

    def flush(self) -> pa.RecordBatch | None:
        """The changed windows (`schemas.arrow.USAGE_WINDOWS`), after which closed ones are forgotten."""
        self.fold()
        cells, upserts = self.state.cells, None
        if cells.is_dirty:
            upserts = self._upserts(cells.take_dirty())
        if self.is_forgetful:
            self._forget()
        return upserts

    def _upserts(self, changed: Level) -> pa.RecordBatch:
        account, meter, minute = unpack(changed.key)
        tenants, customers = self.state.accounts.columns(account)
        version = (self._generation << GENERATION_SHIFT) | changed.events
        return pa.RecordBatch.from_arrays(
            [
                tenants,
                self._meter_ids.take(pa.array(meter)),
                customers,
                pa.array(minute * 60).view(arrow.TIMESTAMP_S),
                pa.array((self._window_ms[meter] // 1000).astype(np.uint32)),
                pa.array(changed.events.astype(np.uint64)),
                from_limbs(changed.lo, changed.hi),
                self.state.cells.states(changed),
                pa.array(version.astype(np.uint64)),
            ],
            schema=arrow.USAGE_WINDOWS,
        )

    def _forget(self) -> None:
        cells, state = self.state.cells, self.state
        closes_ms = self._closes_ms(cells.key)
        open_ = closes_ms >= state.watermark.at_ms
        if not open_.all():
            cells.select(open_)
        self._forget_at_ms = int(closes_ms[open_].min()) if len(cells) else 0
        account, meter, minute = unpack(cells.key)
        used = np.unique(account)
        if len(state.accounts) > 2 * len(used) + 1024:
            state.accounts, renumbered = state.accounts.keep(used.astype(np.uint64))
            cells.rekey(pack(renumbered[account], meter.astype(np.uint64), minute.astype(np.uint64)))

    def _late_readings(self, piece: Slice, late: Mask) -> pa.RecordBatch:
        readings = piece.readings.select(late)
        events = piece.events.take(pa.array(piece.rows[readings.row]))
        meter = readings.meter.astype(np.int64)
        return pa.RecordBatch.from_arrays(
            [
                events.column("tenant_id").cast(pa.string()),
                self._meter_ids.take(pa.array(meter)),
                events.column("external_customer_id"),
                pa.array(self._start_ms(piece)[late] // 1000).view(arrow.TIMESTAMP_S),
                pa.array((self._window_ms[meter] // 1000).astype(np.uint32)),
                events.column("id"),
                events.column("timestamp"),
                events.column("ingested_at"),
                from_limbs(readings.lo, readings.hi),
                pa.array(readings.token),
                events.column("partition"),
                events.column("offset"),
            ],
            schema=arrow.LATE_READINGS,
        )


@dataclass(frozen=True, slots=True)
class LateRows:
    """Late readings on their way out of the logic: `schemas.arrow.LATE_READINGS`."""

    rows: pa.RecordBatch


OnHeld: TypeAlias = Callable[[int], None]
"""Told by how many the windows of a shard have become more or, negative, fewer."""


def _ignore(_: int) -> None:
    pass


class WindowLogic(StatefulBatchLogic[Slice, "pa.RecordBatch | LateRows", bytes]):
    """The windows of one shard on Bytewax's clock: one timer, rebuilt from the state on resume."""

    def __init__(
        self,
        resume: bytes | None,
        config: WindowConfig,
        now: Callable[[], datetime],
        on_held: OnHeld = _ignore,
        archive: Archive | None = None,
    ) -> None:
        self._files = SnapshotFiles(archive)
        if resume:
            state = restore(self._files.found(resume), config.meters, archive)
        else:
            state = WindowState(list(config.meters), log=CellLog(archive))
        self._windows = Windows(state, config.generation)
        self._interval = timedelta(milliseconds=config.flush_interval_ms)
        self._now = now
        self._due: datetime | None = now() if self._windows.is_dirty else None
        self._is_last = False
        """Whether the next snapshot is the flow's last."""
        self._held = len(state.cells)
        self._on_held = on_held
        on_held(self._held)

    @override
    def on_batch(self, values: list[Slice]) -> tuple[Iterable[LateRows], bool]:
        for piece in values:
            self._windows.state.log.open(f"window-{shard_key(piece.shard)}")
            self._files.open(f"snapshot-window-{shard_key(piece.shard)}")
        late = [LateRows(rows) for piece in values if (rows := self._windows.take(piece)) is not None]
        if self._due is None and (self._windows.is_dirty or self._windows.is_forgetful):
            self._due = self._now() + self._interval
        return late, self.RETAIN

    @override
    def on_notify(self) -> tuple[Iterable[pa.RecordBatch], bool]:
        # A timer that was replaced still fires once (facts/bytewax.md 3.4): look at the clock again.
        if self._due is None or self._now() < self._due:
            return (), self.RETAIN
        return self._flush()

    @override
    def on_eof(self) -> tuple[Iterable[pa.RecordBatch], bool]:
        self._is_last = True
        return self._flush()  # drain: send what changed, but RETAIN, so that the next run goes on

    def _flush(self) -> tuple[Iterable[pa.RecordBatch], bool]:
        self._due = None
        upserts = self._windows.flush()
        held = len(self._windows.state.cells)
        self._on_held(held - self._held)
        self._held = held
        return (() if upserts is None else (upserts,)), self.RETAIN

    @override
    def notify_at(self) -> datetime | None:
        return self._due

    @override
    def snapshot(self) -> bytes:
        self._windows.fold()
        state = self._windows.state
        state.log.renew(state.cells, is_last=self._is_last)
        return self._files.stored(dump(state))


@dataclass(frozen=True)
class WindowOut:
    """What windows send."""

    upserts: KeyedStream[pa.RecordBatch]
    """Changed windows: `schemas.arrow.USAGE_WINDOWS`."""
    late: KeyedStream[pa.RecordBatch]
    """Readings that came too late for their window: `schemas.arrow.LATE_READINGS`."""


@operator
def window(
    step_id: str,
    up: KeyedStream[Slice],
    *,
    config: WindowConfig,
    now: Callable[[], datetime],
    on_held: OnHeld = _ignore,
    archive: Archive | None = None,
) -> WindowOut:
    """Keep rolling windows of every customer and meter.

    :arg on_held: Called at each flush with the change of the number of windows held.
    :arg archive: Files beside the recovery store; without them every snapshot has all windows.
    """
    sent = op.stateful_batch("logic", up, lambda resume: WindowLogic(resume, config, now, on_held, archive))
    return WindowOut(
        upserts=op.filter_map_value("upserts", sent, lambda x: None if isinstance(x, LateRows) else x),
        late=op.filter_map_value("late", sent, lambda x: x.rows if isinstance(x, LateRows) else None),
    )

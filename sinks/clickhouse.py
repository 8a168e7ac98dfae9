"""Batches into ClickHouse tables, overlapping the stream, acknowledged or kept before an epoch commits.

(shard key, RecordBatch) -> one table, column by column by name, through one buffer and one thread a process.
State of a part: its rows that ClickHouse has not acknowledged (sinks/kept_rows.py). A resumed part sends them
again, so that a replay can repeat rows but never lose one, and the stream does not stand still for an insert.
Without files for them `snapshot()` returns only when every row of the epoch is acknowledged.
A repeated row is harmless because each table is a ReplacingMergeTree whose rows are absolute: the module of
each table says by which key and version.

Past the limits: more rows than can be kept (`kept_bytes_max`) hold up the epoch's end, a full buffer
(`buffer_bytes_max`) the stream; a store that stays away (`retry_deadline_s`) or that refuses more rows than
can be bad (`rejected_rows_max`) ends the process.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

import pyarrow as pa

from sinks import metrics
from sinks.inserts import ClickHouseConfig, Inserter, Rejected
from sinks.kept_rows import KeptRows, MakeFiles, Room, Rows
from sinks.shards import ShardSink

__all__ = ["ClickHouseConfig", "ClickHouseSink", "Writer"]

_LOG = logging.getLogger(__name__)

BEGUN_S = 0.25
"""So long before the next snapshot of a part its rows are begun to be written; sources stand still for most
of the last 0.1 s."""
BEGUN_BYTES_MIN = 1 << 19
"""Of a part whose rows are; fewer take a millisecond either way."""


class Writer:
    """A table's buffer and the one thread of this process that inserts from it, in order of arrival.

    The thread starts with the first batch. What kills it is raised by the next `add` or `flush`.
    """

    _open: ClassVar[weakref.WeakSet[Writer]] = weakref.WeakSet()
    """Those of this process. An epoch's end flushes one after the other; all begin when the first one does,
    so that the stream stands still for the slowest insert and not for the sum of them."""

    def __init__(
        self,
        config: ClickHouseConfig,
        table: str,
        schema: pa.Schema,
        rejected: Rejected | None = None,
        *,
        files: MakeFiles | None = None,
    ) -> None:
        """`files`: where the unacknowledged rows of a part are kept."""
        self._config, self._table, self._schema, self._files = config, table, schema, files
        self._room = Room()
        self._timer: threading.Timer | None = None
        self._stop = threading.Event()
        self._inserter = Inserter(config, table, rejected, self._stop)
        self._changed = threading.Condition()
        # All below is guarded by `_changed`. Batches are counted: the buffer's first is `_acknowledged + 1`.
        self._buffer: deque[Rows] = deque()
        self._under_way: list[Rows] = []
        self._kept: dict[str, KeptRows] = {}
        self._rows = 0
        self._bytes = 0  # of the insert under way, too
        self._added = self._acknowledged = self._flush_to = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def restore(self, part: str, state: bytes | None) -> None:
        for batch in self._kept_rows(part).found(state) if state else ():
            self.add(batch, part)

    def write(self, part: str, values: Sequence[pa.RecordBatch]) -> None:
        for batch in values:
            self.add(batch, part)

    def snapshot(self, part: str) -> bytes | None:
        if self._files is None:
            self.flush()
            return None
        with self._changed:
            self._raise_error()
            if self._bytes > self._config.kept_bytes_max:
                self.hurry()
                most = self._config.kept_bytes_max
                self._changed.wait_for(lambda: self._error or self._bytes <= most)
                self._raise_error()
            left = self._left(part)
            if self._bytes >= BEGUN_BYTES_MIN:
                self._begin_later()
        return self._kept_rows(part).stored(left)

    def _left(self, part: str) -> list[Rows]:
        """Rows of a part that are not acknowledged."""
        return [rows for rows in (*self._under_way, *self._buffer) if rows.part == part]

    def _begin_later(self) -> None:
        """As many rows will wait at the end of the next epoch: begin to write them before it."""
        is_set = self._timer is not None and self._timer.is_alive()
        if self._config.epoch_s > BEGUN_S and not is_set:
            self._timer = threading.Timer(self._config.epoch_s - BEGUN_S, self._begin)
            self._timer.daemon = True
            self._timer.start()

    def _begin(self) -> None:
        """Write the rows of parts that have many, so that the epoch's end need not. If it can't be done, the
        epoch's end tries it again, and says why."""
        for part, kept in list(self._kept.items()):
            with self._changed:
                left = self._left(part)
            if sum(rows.size for rows in left) >= BEGUN_BYTES_MIN:
                with suppress(OSError):
                    kept.begin(left)

    def _kept_rows(self, part: str) -> KeptRows:
        if part not in self._kept:
            if self._files is None:
                raise ValueError(f"the recovery store has rows of {self._table}, and there are no files")
            self._kept[part] = KeptRows(self._files, self._table, part, self._room)
        return self._kept[part]

    def add(self, batch: pa.RecordBatch, part: str = "") -> None:
        """Buffer rows of the table's schema; blocks while the buffer is full."""
        if not batch.schema.equals(self._schema):
            raise TypeError(f"{self._table} takes {self._schema}, not {batch.schema}")
        if batch.num_rows == 0:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._bytes < self._config.buffer_bytes_max)
            self._raise_error()
            self._added += 1
            rows = Rows(self._added, part, batch, text_bytes(batch))
            self._buffer.append(rows)
            self._rows += batch.num_rows
            self._bytes += rows.size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"insert-{self._table}", daemon=True)
                self._thread.start()
                self._open.add(self)
            # Waking the thread costs more than adding a batch: only where it has a reason to look.
            if len(self._buffer) == 1 or self._is_full():
                self._changed.notify_all()

    def flush(self) -> None:
        """Return when all rows added so far are acknowledged (or stored as rejected), or raise."""
        for writer in list(self._open):
            writer.hurry()
        with self._changed:
            target = self._flush_to
            self._changed.wait_for(lambda: self._error or self._acknowledged >= target)
            self._raise_error()

    def hurry(self) -> None:
        """Insert what was added so far without waiting for more."""
        with self._changed:
            if self._flush_to < self._added:
                self._flush_to = self._added
                self._changed.notify_all()

    def close(self) -> None:
        """Stop the thread. Rows that are kept get `drain_s` to be acknowledged; the rest stays in the last
        snapshots. Others that were not flushed are dropped: their epoch has not committed."""
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        with self._changed:
            if self._files is not None and self._error is None:
                self.hurry()
                self._changed.wait_for(
                    lambda: self._error or self._acknowledged == self._added, self._config.drain_s
                )
                left = sum(rows.batch.num_rows for rows in (*self._under_way, *self._buffer))
                if left:
                    _LOG.warning(
                        "%d rows of %s are not in ClickHouse yet; the next start sends them",
                        left,
                        self._table,
                    )
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._inserter.close()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while batches := self._take():
                self._inserter.insert(one_chunk(batches))
                with self._changed:
                    self._acknowledged += len(batches)
                    self._bytes -= sum(rows.size for rows in self._under_way)
                    self._under_way = []
                    metrics.BUFFERED_BYTES.labels(self._table).set(self._bytes)
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _take(self) -> list[pa.RecordBatch]:
        """The batches of the next insert, when it is due; none when the writer is closed."""
        due = time.monotonic() + self._config.insert_interval_ms / 1000
        taken: list[Rows] = []
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or self._is_full(), due - time.monotonic())
            self._changed.wait_for(lambda: self._stop.is_set() or self._buffer)
            rows = 0
            while self._buffer and not self._stop.is_set():
                if taken and rows + self._buffer[0].batch.num_rows > self._config.insert_rows_max:
                    break
                rows += self._buffer[0].batch.num_rows
                taken.append(self._buffer.popleft())
            self._rows -= rows
            self._under_way = taken
        return [one.batch for one in taken]

    def _is_full(self) -> bool:
        """Whether the next insert should not wait for its interval: a flush waits, or the rows are enough."""
        return (
            self._acknowledged < self._flush_to
            or self._bytes >= self._config.buffer_bytes_max
            or self._rows >= self._config.insert_rows_max
        )


def one_chunk(batches: list[pa.RecordBatch]) -> pa.Table:
    """One table of one chunk: ClickHouse then makes one part, and Arrow's file format, which the client
    sends, allows one dictionary a column, while each batch comes with its own."""
    return pa.Table.from_batches(batches).combine_chunks()


def text_bytes(batch: pa.RecordBatch) -> int:
    """About how many bytes a batch holds: of its texts, and 128 a row for the rest.

    Exact would be `batch.nbytes`, but of a slice with dictionaries that takes 90 us (measured), this 6.
    """
    size: int = 128 * batch.num_rows
    for column in batch.columns:
        if column.type in _TEXTS:
            _, offsets, _ = column.buffers()
            bounds = memoryview(offsets).cast("i")
            size += bounds[column.offset + len(column)] - bounds[column.offset]
    return size


_TEXTS = (pa.string(), pa.binary())


class ClickHouseSink(ShardSink[pa.RecordBatch, "bytes | None"]):
    """A table as a Bytewax sink."""

    def __init__(
        self,
        config: ClickHouseConfig,
        table: str,
        schema: pa.Schema,
        shards: int,
        rejected: Rejected | None = None,
        *,
        files: MakeFiles | None = None,
    ) -> None:
        super().__init__(shards, lambda: Writer(config, table, schema, rejected, files=files))

"""Rows that ClickHouse has not acknowledged yet, as the state of a part: an epoch need not wait for them.

rows of a table -> `KeptRows.stored` -> bytes for the recovery store; back: `KeptRows.found`

Layout: a msgpack array, `_Stored`, of two Arrow IPC streams. In a backlog those are tens of megabytes, which
`RowFiles` take out of the store, and most of what an epoch's end writes. So most is written a moment before
it, while sources are still read (`KeptRows.begin`), and the epoch's end writes what came since.

Rows are put together first: 32 MB and their checksum take 8 ms then, and a file takes them in 3. Piece by
piece from where they lie, in three thousand of them, those are 13 and 14.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import pyarrow as pa
from typing_extensions import Buffer

FORMAT: Final = 2
ROOM_BYTES_MAX: Final = 24 << 20
"""Of memory that is kept for rows; larger states are of large events, or of an outage, and few."""


class RowFiles(Protocol):
    """Where large states are kept; see `operators.snapshot_files.SnapshotFiles`."""

    def open(self, name: str) -> None:
        """Name the state."""

    def stored(self, snapshot: Buffer) -> bytes:
        """What to store of it."""

    def found(self, stored: bytes) -> bytes:
        """The state of which that was stored."""


MakeFiles = Callable[[], RowFiles]
"""Files of another state."""


class Rows(NamedTuple):
    """Rows that came for a part."""

    number: int
    """How many came for the table until then, these included."""
    part: str
    batch: pa.RecordBatch
    size: int
    """About how many bytes; to ask a batch takes 6 us."""


class Room:
    """Memory that is used again for the next state: of 32 MB of new memory the page faults take 20 ms.

    Of all parts of a table, one after the other: whoever uses it holds `lock`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._memory = pa.allocate_buffer(0)

    def encoded(self, rows: Sequence[Rows]) -> memoryview:
        """Rows as a stream, until the room is used again."""
        counted = pa.MockOutputStream()
        _write(counted, rows)
        size = counted.size()
        memory = self._memory
        if memory.size < size:
            memory = pa.allocate_buffer(size + size // 4)
            if size <= ROOM_BYTES_MAX:
                self._memory = memory
        _write(pa.FixedSizeBufferWriter(memory), rows)
        return memoryview(memory)[:size]


class _Stored(msgspec.Struct, array_like=True):
    """What the recovery store has; either may be empty."""

    format: int
    begun: bytes
    rest: bytes


class _Begun(NamedTuple):
    """What is written before the epoch's end."""

    number: int
    """Of the last rows;"""
    stored: bytes
    """what to store of them."""


class KeptRows:
    """The rows of one part of a table."""

    def __init__(self, files: MakeFiles, table: str, part: str, room: Room) -> None:
        self._table, self._room = table, room
        self._begun_files, self._files = files(), files()
        self._begun_files.open(f"rows-{table}-{part}-begun")
        self._files.open(f"rows-{table}-{part}")
        self._begun: _Begun | None = None

    def begin(self, rows: Sequence[Rows]) -> None:
        """Write these, all so far, before the epoch's end. On any thread."""
        with self._room.lock:
            # Once an epoch: of three files in turn, the last two snapshots may name the other two.
            if self._begun is None:
                self._begun = _Begun(rows[-1].number, self._begun_files.stored(self._room.encoded(rows)))

    def stored(self, rows: Sequence[Rows]) -> bytes | None:
        """What to store of rows, if there are any: durable when this returns."""
        with self._room.lock:
            begun, self._begun = self._begun, None
            stored = _Stored(FORMAT, b"", b"")
            if begun is not None and rows and rows[0].number <= begun.number:
                stored.begun, rows = begun.stored, [one for one in rows if one.number > begun.number]
            if rows:
                stored.rest = self._files.stored(self._room.encoded(rows))
        return msgspec.msgpack.encode(stored) if stored.begun or stored.rest else None

    def found(self, state: bytes) -> list[pa.RecordBatch]:
        """The rows of which that was stored, and perhaps some before them.

        :raises ValueError: if they are of another format, or their file is lost or damaged.
        """
        try:
            stored = msgspec.msgpack.decode(state, type=_Stored)
        except msgspec.DecodeError:
            stored = _Stored(-1, b"", b"")
        if stored.format != FORMAT:
            raise ValueError(
                f"the recovery store has rows of {self._table} in another format than {FORMAT}, which this"
                " version reads: go on with the version that wrote it"
            )
        begun = _read(self._begun_files.found(stored.begun)) if stored.begun else []
        return begun + (_read(self._files.found(stored.rest)) if stored.rest else [])


def _write(out: pa.NativeFile, rows: Sequence[Rows]) -> None:
    with pa.ipc.new_stream(out, rows[0].batch.schema) as writer:
        for one in rows:
            writer.write_batch(one.batch)


def _read(stream: bytes) -> list[pa.RecordBatch]:
    with pa.ipc.open_stream(stream) as reader:
        return list(reader)

"""Rows that ClickHouse has not acknowledged yet, as the state of a part: an epoch need not wait for them.

record batches -> `KeptRows.stored` -> bytes for the recovery store; back: `KeptRows.found`

Layout: the format's byte, then an Arrow IPC stream. In a backlog that are tens of megabytes, which `RowFiles`
take out of the store. They are put together first: 32 MB and their checksum take 8 ms then, and a file takes
them in 3. Piece by piece from where they lie, in three thousand of them, those are 13 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import pyarrow as pa
from typing_extensions import Buffer

FORMAT: Final = b"\x01"


class RowFiles(Protocol):
    """Where large states are kept; see `operators.snapshot_files.SnapshotFiles`."""

    def open(self, name: str) -> None:
        """Name the state."""

    def stored(self, snapshot: Buffer) -> bytes:
        """What to store of it."""

    def found(self, stored: bytes) -> bytes:
        """The state of which that was stored."""


MakeFiles = Callable[[], RowFiles]
"""Files of another part."""


class Room:
    """Memory that is used again for the next state: of 32 MB of new memory the page faults take 20 ms."""

    def __init__(self) -> None:
        self._memory = pa.allocate_buffer(0)

    def of(self, size: int) -> pa.Buffer:
        """So many bytes or more, whatever they are. What was there before is lost."""
        if self._memory.size < size:
            self._memory = pa.allocate_buffer(size + size // 4)
        return self._memory


class KeptRows:
    """The rows of one part of a table."""

    def __init__(self, files: RowFiles, table: str, part: str, room: Room) -> None:
        self._files, self._table, self._room = files, table, room
        files.open(f"rows-{table}-{part}")

    def stored(self, batches: Sequence[pa.RecordBatch]) -> bytes:
        """What to store of rows: durable when this returns."""
        counted = pa.MockOutputStream()
        _write(counted, batches)
        size = counted.size()
        room = self._room.of(size)
        _write(pa.FixedSizeBufferWriter(room), batches)
        return self._files.stored(memoryview(room)[:size])

    def found(self, stored: bytes) -> list[pa.RecordBatch]:
        """The rows of which that was stored.

        :raises ValueError: if they are of another format, or their file is lost or damaged.
        """
        state = self._files.found(stored)
        if state[:1] != FORMAT:
            raise ValueError(
                f"the recovery store has rows of {self._table} in format {state[0]}, this version reads"
                f" {FORMAT[0]}: go on with the version that wrote it"
            )
        with pa.ipc.open_stream(pa.py_buffer(state).slice(len(FORMAT))) as reader:
            return list(reader)


def _write(out: pa.NativeFile, batches: Sequence[pa.RecordBatch]) -> None:
    out.write(FORMAT)
    with pa.ipc.new_stream(out, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)

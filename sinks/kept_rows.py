"""Rows that ClickHouse has not acknowledged yet, as the state of a part: an epoch need not wait for them.

record batches -> `KeptRows.stored` -> bytes for the recovery store; back: `KeptRows.found`

Layout: the format's byte, then an Arrow IPC stream. In a backlog that are tens of megabytes, which `RowFiles`
take out of the store, and from where the rows lie: to copy 32 MB takes 20 ms, to write them 4.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import pyarrow as pa
from typing_extensions import Buffer, override

FORMAT: Final = b"\x01"


class RowFiles(Protocol):
    """Where large states are kept; see `operators.snapshot_files.SnapshotFiles`."""

    def open(self, name: str) -> None:
        """Name the state."""

    def stored(self, *pieces: Buffer) -> bytes:
        """What to store of it, which are these one after the other."""

    def found(self, stored: bytes) -> bytes:
        """The state of which that was stored."""


MakeFiles = Callable[[], RowFiles]
"""Files of another part."""


class _Pieces(io.RawIOBase):
    """A file that keeps what is written to it, and does not copy it: Arrow gives its own buffers."""

    def __init__(self) -> None:
        self.written: list[Buffer] = []
        self._size = 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, piece: Buffer) -> int:
        size = memoryview(piece).nbytes
        self.written.append(piece)
        self._size += size
        return size

    @override
    def tell(self) -> int:
        return self._size


class KeptRows:
    """The rows of one part of a table."""

    def __init__(self, files: RowFiles, table: str, part: str) -> None:
        self._files, self._table = files, table
        files.open(f"rows-{table}-{part}")

    def stored(self, batches: Sequence[pa.RecordBatch]) -> bytes:
        """What to store of rows: durable when this returns."""
        pieces = _Pieces()
        with pa.ipc.new_stream(pa.PythonFile(pieces, "w"), batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return self._files.stored(FORMAT, *pieces.written)

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

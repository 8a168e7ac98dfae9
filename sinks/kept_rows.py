"""Rows that ClickHouse has not acknowledged yet, as the state of a part: an epoch need not wait for them.

record batches -> `KeptRows.stored` -> bytes for the recovery store; back: `KeptRows.found`

Layout: the format's byte, then an Arrow IPC stream. In a backlog that are tens of megabytes, which `RowFiles`
take out of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import pyarrow as pa

FORMAT: Final = b"\x01"


class RowFiles(Protocol):
    """Where large states are kept; see `operators.snapshot_files.SnapshotFiles`."""

    def open(self, name: str) -> None:
        """Name the state."""

    def stored(self, snapshot: bytes) -> bytes:
        """What to store of it."""

    def found(self, stored: bytes) -> bytes:
        """The state of which that was stored."""


MakeFiles = Callable[[], RowFiles]
"""Files of another part."""


class KeptRows:
    """The rows of one part of a table."""

    def __init__(self, files: RowFiles, table: str, part: str) -> None:
        self._files, self._table = files, table
        files.open(f"rows-{table}-{part}")

    def stored(self, batches: Sequence[pa.RecordBatch]) -> bytes:
        """What to store of rows: durable when this returns."""
        sink = pa.BufferOutputStream()
        sink.write(FORMAT)
        with pa.ipc.new_stream(sink, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return self._files.stored(sink.getvalue().to_pybytes())

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

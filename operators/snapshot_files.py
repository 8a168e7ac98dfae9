"""Snapshots that are files: of what is large, Bytewax's store learns only the file's name.

bytes -> `SnapshotFiles.stored` -> bytes to be stored; back: `SnapshotFiles.found`

The store is SQLite: it copies a state into its log, then its tables, and deletes the one before. 5 MB of
eight states took 9 to 17 ms while sources stood still; in files that are written over, so that there is
nothing to note but the bytes, 3. Without an archive, or below `BYTES_MIN`, a snapshot stays as it is.

A state has three files in turn. A crash resumes from the last snapshot or the one before; so when one is half
written it is not needed, and the other two are whole.
"""

from __future__ import annotations

from typing import Final

import msgspec
from typing_extensions import Buffer

from operators.archive import Archive, checked, checksum

BYTES_MIN = 1 << 17
"""Of a snapshot that is a file; below, the store takes as little."""
FILES: Final = 3
_FORMAT: Final = -1
"""Of no other snapshot. In format 0, checksums were CRC-32."""


class _Stored(msgspec.Struct, array_like=True):
    """A file in place of what it begins with."""

    format: int
    name: str
    turn: int
    size: int
    checksum: int


_HEAD: Final = msgspec.msgpack.encode(_Stored(_FORMAT, "", 0, 0, 0))[:2]
"""Its first bytes: the array's length, and the format."""


class SnapshotFiles:
    """The snapshots of one state, of which each replaces the one before."""

    def __init__(self, archive: Archive | None) -> None:
        self._archive = archive
        self._name = ""
        self._turn = 0
        """Whose the next file is."""

    def open(self, name: str) -> None:
        """Name the state: no other state's files begin so. Without a name there are no files."""
        self._name = self._name or name

    def stored(self, snapshot: Buffer) -> bytes:
        """What to store of a snapshot. What is in a file is durable when this returns."""
        size = memoryview(snapshot).nbytes
        if self._archive is None or not self._name or size < BYTES_MIN:
            return bytes(snapshot)
        named = _Stored(_FORMAT, self._name, self._turn, size, checksum(snapshot))
        self._archive.write_over(_file(named), snapshot)
        self._turn = (self._turn + 1) % FILES
        return msgspec.msgpack.encode(named)

    def found(self, stored: bytes) -> bytes:
        """The snapshot of which this was stored.

        :raises ValueError: if the file is lost or damaged.
        """
        if not stored.startswith(_HEAD):
            return stored
        named = msgspec.msgpack.decode(stored, type=_Stored)
        file = _file(named)
        self._name, self._turn = named.name, (named.turn + 1) % FILES
        if self._archive is None:
            raise ValueError(f"a state is the file {file}, and there are no files")
        return checked(self._archive, file, named.checksum, named.size)


def _file(named: _Stored) -> str:
    return f"{named.name}.{named.turn}"

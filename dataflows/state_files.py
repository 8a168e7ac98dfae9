"""Files beside the recovery store, for what its databases would be slow with: `operators.archive.Archive`.

`<recovery store>/state/<name>`: the process that has a shard writes its files; after a rescale another one
reads and deletes them.
"""

from __future__ import annotations

import os
from pathlib import Path

from typing_extensions import Buffer

DIRECTORY = "state"


def write_durably(file: Path, data: bytes) -> None:
    """The old file or the new one, never half of it, whatever dies."""
    new = file.with_name(f".{file.name}.new")
    with new.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    _note_durably(file.parent)


def _note_durably(directory: Path) -> None:
    """What files there are."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StateFiles:
    """The files of one recovery store."""

    def __init__(self, recovery_directory: Path) -> None:
        self._directory = recovery_directory / DIRECTORY

    def put(self, name: str, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        write_durably(self._directory / name, data)

    def write_over(self, name: str, data: Buffer) -> None:
        file = self._directory / name
        is_new = not file.exists()
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            left = memoryview(data).cast("B")
            while left:
                left = left[os.write(descriptor, left) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            _note_durably(self._directory)

    def get(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def delete(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        return sorted(file.name for file in self._directory.glob(f"{prefix}*"))

"""One holder a file: a lock that ends with its process, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LockHeldError(RuntimeError):
    """Another process, or another lock of this one, holds the file."""


class FileLock:
    """An flock. `exclusive` or `shared`; released by `close`, or by the end of the process.

    The file stays, and holds what its last exclusive holder wrote into it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def exclusive(self, *, wait: bool = False) -> None:
        self._lock(fcntl.LOCK_EX, wait=wait)

    def shared(self, *, wait: bool = False) -> None:
        self._lock(fcntl.LOCK_SH, wait=wait)

    def read(self) -> str:
        size = os.fstat(self._file).st_size
        return os.pread(self._file, size, 0).decode(errors="replace")

    def write(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self, kind: int, *, wait: bool) -> None:
        try:
            fcntl.flock(self._file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeldError(str(self._path)) from None

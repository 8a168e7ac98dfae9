"""One file of a partition's log: whole record batches, one after another, in the order of their offsets.

(stored header, records) -> append ; offset -> bytes of whole batches

State: the file, named by its first offset, and its index in memory: 24 bytes a batch, rebuilt from the
batches' headers when the file is opened.
Durability: what `append` returned from is in the page cache, so it survives `kill -9`; only `sync` survives
a power cut. A torn or corrupt tail is cut off when the file is opened as the last one of its log.
"""

import mmap
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path

from dataflows.embedded.kafka_batch import HEADER_BYTES, LAYOUT, Header, has_right_crc, read_header

SUFFIX = ".log"


class Segment:
    """A file of batches; only the last one of a log is written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base_offset = int(path.stem)
        self.next_offset = self.base_offset
        self.size_bytes = 0
        self._file = -1
        self._offsets = array("q")
        self._positions = array("q")
        self._timestamps_max_ms = array(
            "q"
        )  # the largest up to and with this batch, so that it can be bisected

    @classmethod
    def named(cls, directory: Path, base_offset: int) -> "Segment":
        return cls(directory / f"{base_offset:020d}{SUFFIX}")

    @property
    def timestamp_max_ms(self) -> int:
        return self._timestamps_max_ms[-1] if self._timestamps_max_ms else -1

    def load(self, *, check_end: bool) -> Iterator[Header]:
        """Rebuilds the index, giving every batch's header; stops where a batch is torn or out of place.

        `check_end` reads the last batch whole, to see whether all of it was written.
        """
        file_bytes = self.path.stat().st_size
        if file_bytes < HEADER_BYTES:
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            while self.size_bytes + HEADER_BYTES <= file_bytes:
                header = Header._make(LAYOUT.unpack_from(data, self.size_bytes))
                if (
                    header.magic != 2
                    or header.base_offset < self.next_offset
                    or header.size_bytes < HEADER_BYTES
                    or self.size_bytes + header.size_bytes > file_bytes
                ):
                    return
                end = self.size_bytes + header.size_bytes
                is_last = end + HEADER_BYTES > file_bytes
                if check_end and is_last and not has_right_crc(data[self.size_bytes : end]):
                    return
                self._note(header)
                yield header

    def open_for_append(self) -> None:
        """Makes this the segment that is written to, and cuts off what `load` did not accept."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._file, self.size_bytes)

    def append(self, header: Header, stored_header: bytes | bytearray, records: memoryview) -> None:
        """Writes one batch or nothing: after an OSError the file is as before."""
        parts: list[bytes | bytearray | memoryview] = [stored_header, records[HEADER_BYTES:]]
        try:
            written = os.pwritev(self._file, parts, self.size_bytes)
            if written < len(records):  # a full disk writes what fits, and fails on the rest
                os.pwrite(self._file, b"".join(parts)[written:], self.size_bytes + written)
                if os.fstat(self._file).st_size < self.size_bytes + len(records):
                    raise OSError(f"short write to {self.path}")
        except OSError:
            os.ftruncate(self._file, self.size_bytes)
            raise
        self._note(header)

    def sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def delete(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def bytes_from(self, offset: int) -> int:
        """How much there is to read from the batch that holds `offset` to the end."""
        return self.size_bytes - self._positions[self._batch_of(offset)] if self._positions else 0

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Whole batches from the one that holds `offset`, up to `bytes_max`, but at least one."""
        first = self._batch_of(offset)
        start = self._positions[first]
        if start + bytes_max >= self.size_bytes:
            return self._read(start, self.size_bytes)
        after = max(bisect_right(self._positions, start + bytes_max) - 1, first + 1)
        return self._read(start, self._positions[after] if after < len(self._positions) else self.size_bytes)

    def batches(self, offset: int) -> Iterator[tuple[Header, int]]:
        """Headers and positions from the batch that holds `offset` on."""
        for index in range(self._batch_of(offset), len(self._positions)):
            position = self._positions[index]
            yield read_header(self._read(position, position + HEADER_BYTES)), position

    def batch_at(self, position: int) -> bytes:
        size_bytes = read_header(self._read(position, position + HEADER_BYTES)).size_bytes
        return self._read(position, position + size_bytes)

    def offset_at_or_after(self, timestamp_ms: int) -> int:
        """The offset of the first batch with a timestamp so large. The caller checks that there is one."""
        return self._offsets[bisect_left(self._timestamps_max_ms, timestamp_ms)]

    def _batch_of(self, offset: int) -> int:
        return max(bisect_right(self._offsets, offset) - 1, 0)

    def _read(self, start: int, end: int) -> bytes:
        if self._file >= 0:
            return os.pread(self._file, end - start, start)
        file = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(file, end - start, start)
        finally:
            os.close(file)

    def _note(self, header: Header) -> None:
        self._offsets.append(header.base_offset)
        self._positions.append(self.size_bytes)
        self._timestamps_max_ms.append(max(self.timestamp_max_ms, header.max_timestamp_ms))
        self.size_bytes += header.size_bytes
        self.next_offset = header.next_offset

"""The append-only log of one partition.

record batch -> append -> (offset, append time) ; offset -> read -> batches ; time -> offset

State: a directory with the segments and, once records were deleted by request, a file `start-offset`.
Append times never go back within a partition, not even when the clock does or after a restart.
Limits: retention by age and size drops whole segments, so `segment.bytes` is its grain.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataflows.embedded.kafka_batch import checked_header, record_times, stamped_header
from dataflows.embedded.kafka_producers import Producers
from dataflows.embedded.kafka_segment import SUFFIX, Segment
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError

_START = "start-offset"


@dataclass(frozen=True)
class LogConfig:
    """What a topic's configs mean to its logs. A negative retention is no limit."""

    append_time: bool = True
    retention_ms: int = 7 * 24 * 3600 * 1000
    retention_bytes: int = -1
    message_bytes_max: int = 1_048_588  # Kafka's default: 1 MiB and the 12 bytes before a batch's length ends
    segment_bytes: int = 64 * 1024 * 1024
    fsync: bool = False


class Appended(NamedTuple):
    """Where a batch stands; `timestamp_ms` is -1 unless the log stamps append times."""

    base_offset: int
    timestamp_ms: int


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file, so that a killed process leaves the old or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


class PartitionLog:
    """Segments in order of their offsets, the last one open for writing."""

    def __init__(self, directory: Path, config: LogConfig) -> None:
        self.directory = directory
        self.config = config
        self.start_offset = 0
        self.watchers: set[Callable[[], None]] = set()  # called after every append and when the log goes away
        self._segments: list[Segment] = []
        self._producers = Producers()
        self._timestamp_ms = -1

    def open(self) -> None:
        """Loads what is there, or begins an empty log."""
        self.directory.mkdir(parents=True, exist_ok=True)
        paths = sorted(self.directory.glob(f"*{SUFFIX}"))
        for path in paths:
            segment = Segment(path)
            for header in segment.load(check_end=path == paths[-1]):
                self._producers.note(header, header.base_offset)
                self._timestamp_ms = max(self._timestamp_ms, header.max_timestamp_ms)
            self._segments.append(segment)
        if not self._segments:
            self._segments.append(Segment.named(self.directory, 0))
        self._segments[-1].open_for_append()
        self.start_offset = self._segments[0].base_offset
        start = self.directory / _START
        if start.exists():
            self.start_offset = min(max(self.start_offset, int(start.read_text())), self.end_offset)

    @property
    def end_offset(self) -> int:
        return self._segments[-1].next_offset

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._segments)

    def append(self, records: memoryview, now_ms: int) -> Appended:
        """Stores one batch, or finds that an idempotent producer's retry is stored already.

        Raises RefusedError as `checked_header` and `Producers` do, and KAFKA_STORAGE_ERROR for the disk.
        """
        header = checked_header(records, self.config.message_bytes_max)
        duplicate_offset = self._producers.duplicate_of(header)
        if duplicate_offset is not None:
            return Appended(duplicate_offset, -1)
        append_time_ms = max(now_ms, self._timestamp_ms) if self.config.append_time else None
        timestamp_ms = header.max_timestamp_ms if append_time_ms is None else append_time_ms
        stored = stamped_header(records, header, self.end_offset, append_time_ms)
        header = header._replace(base_offset=self.end_offset, max_timestamp_ms=timestamp_ms)
        try:
            self._roll_if_full(len(records))
            self._segments[-1].append(header, stored, records)
            if self.config.fsync:
                self._segments[-1].sync()
        except OSError as error:
            raise RefusedError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        self._producers.note(header, header.base_offset)
        self._timestamp_ms = max(self._timestamp_ms, timestamp_ms)
        self._wake()
        return Appended(header.base_offset, -1 if append_time_ms is None else append_time_ms)

    def bytes_from(self, offset: int) -> int:
        """How much a fetch from `offset` could return. Raises OFFSET_OUT_OF_RANGE."""
        if not self.start_offset <= offset <= self.end_offset:
            raise RefusedError(ErrorCode.OFFSET_OUT_OF_RANGE)
        if offset == self.end_offset:
            return 0
        at = self._segment_of(offset)
        later = sum(segment.size_bytes for segment in self._segments[at + 1 :])
        return self._segments[at].bytes_from(offset) + later

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Whole batches of one segment, at least one; nothing at the end. `offset` must be in range."""
        if offset >= self.end_offset:
            return b""
        return self._segments[self._segment_of(offset)].read(offset, bytes_max)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """The first (offset, timestamp) with a timestamp so large, or None if all are older.

        Within a CreateTime batch that is compressed by other than gzip it is the batch's first offset:
        never too late, at most a batch too early.
        """
        for segment in self._segments:
            if segment.timestamp_max_ms < timestamp_ms or segment.next_offset <= self.start_offset:
                continue
            first = max(segment.offset_at_or_after(timestamp_ms), self.start_offset)
            for header, position in segment.batches(first):
                if header.max_timestamp_ms < timestamp_ms:
                    continue
                for offset, record_ms in record_times(segment.batch_at(position)):
                    whole_batch = record_ms == header.max_timestamp_ms and offset == header.base_offset
                    if record_ms >= timestamp_ms and (offset >= self.start_offset or whole_batch):
                        return max(offset, self.start_offset), record_ms
        return None

    def latest_time(self) -> tuple[int, int] | None:
        """The (offset, timestamp) of the first record with the largest timestamp."""
        newest = max(segment.timestamp_max_ms for segment in self._segments)
        return self.offset_for_time(newest) if self.end_offset > self.start_offset else None

    def delete_before(self, offset: int) -> int:
        """Moves the start to `offset` (-1: the end) and gives the new start. Raises OFFSET_OUT_OF_RANGE."""
        if offset == -1:
            offset = self.end_offset
        if not 0 <= offset <= self.end_offset:
            raise RefusedError(ErrorCode.OFFSET_OUT_OF_RANGE)
        if offset > self.start_offset:
            write_atomically(self.directory / _START, str(offset))
            self.start_offset = offset
            self._drop_before(offset)
        return self.start_offset

    def retain(self, now_ms: int) -> None:
        """Drops the segments that the topic's retention doesn't keep."""
        config = self.config
        while self.end_offset > self._segments[0].base_offset:
            oldest = self._segments[0]
            has_time = oldest.timestamp_max_ms >= 0
            expired = has_time and 0 <= config.retention_ms < now_ms - oldest.timestamp_max_ms
            excess = (
                0 <= config.retention_bytes <= self.size_bytes - oldest.size_bytes and len(self._segments) > 1
            )
            if not expired and not excess:
                return
            if len(self._segments) == 1:
                self._roll()
            self._drop_before(self._segments[1].base_offset)

    def close(self) -> None:
        for segment in self._segments:
            segment.close()
        self._wake()

    def delete(self) -> None:
        self.close()
        shutil.rmtree(self.directory)

    def _segment_of(self, offset: int) -> int:
        at = len(self._segments) - 1
        while at > 0 and self._segments[at].base_offset > offset:
            at -= 1
        return at

    def _roll_if_full(self, added_bytes: int) -> None:
        size_bytes = self._segments[-1].size_bytes
        if size_bytes and size_bytes + added_bytes > self.config.segment_bytes:
            self._roll()

    def _roll(self) -> None:
        new = Segment.named(self.directory, self.end_offset)
        new.open_for_append()
        self._segments[-1].close()
        self._segments.append(new)

    def _drop_before(self, offset: int) -> None:
        while len(self._segments) > 1 and self._segments[0].next_offset <= offset:
            self._segments.pop(0).delete()
        self.start_offset = max(self.start_offset, self._segments[0].base_offset)

    def _wake(self) -> None:
        for watcher in self.watchers:
            watcher()

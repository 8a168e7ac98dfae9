"""Where a partition is read from: the position kept in the recovery store, checked against the broker's log.

A position that the log no longer has, or that belongs to another log, is a `SourceError`: what lies between
was not metered, and going on without it would be a silent skip. Nothing here does I/O.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT = 1

Start = Literal["earliest", "latest"]


class SourceError(RuntimeError):
    """The source can't go on; the text is a sentence that names what is wrong and what to do."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """State of one partition: `encode()` is its snapshot, MessagePack with the format version first."""

    next_offset: int
    """The first offset not emitted yet."""
    cluster_id: str
    topic_id: str
    """Tells a topic from one of the same name made later; "" where the broker has no topic ids."""
    progress_ms: int
    """`RawBatch.progress_ms` so far."""

    def encode(self) -> bytes:
        return msgspec.msgpack.encode([FORMAT, *msgspec.structs.astuple(self)])

    @classmethod
    def decode(cls, snapshot: bytes) -> Position:
        """Raises `SourceError` for a snapshot of another format."""
        version, *fields = msgspec.msgpack.decode(snapshot, type=list)
        if version != FORMAT:
            raise SourceError(
                f"the recovery store's offset has format {version}, this version of Meterline reads {FORMAT}:"
                " run the version that wrote it"
            )
        return msgspec.convert(fields, cls)


class Log(msgspec.Struct, frozen=True):
    """What the broker says of a partition at start: offsets `low` up to, and without, `high`."""

    name: str
    cluster_id: str
    topic_id: str
    low: int
    high: int


def first_position(log: Log, start: Start) -> Position:
    """Where a partition without a stored position is read from."""
    offset = log.low if start == "earliest" else log.high
    return Position(offset, log.cluster_id, log.topic_id, 0)


def resumed_position(log: Log, stored: Position) -> Position:
    """`stored`, if the log still goes on from there; else raises `SourceError`."""
    if stored.cluster_id and log.cluster_id and stored.cluster_id != log.cluster_id:
        raise SourceError(
            f"{log.name}: the recovery store is of Kafka cluster {stored.cluster_id}, the brokers are of"
            f" {log.cluster_id}: offsets of one mean nothing in the other. Point METERLINE_KAFKA_BROKERS at"
            " the first, or start with an empty METERLINE_RECOVERY_DIR"
        )
    if stored.topic_id and log.topic_id and stored.topic_id != log.topic_id:
        raise SourceError(
            f"{log.name}: the topic was deleted and made anew since the recovery store was written."
            " Start with an empty METERLINE_RECOVERY_DIR to read the new topic"
        )
    if stored.next_offset < log.low:
        raise SourceError(
            f"{log.name}: records {stored.next_offset} to {log.low - 1} were not metered and are gone from"
            f" Kafka: its oldest record is {log.low}. Lengthen the topic's retention; to go on without them,"
            " start with an empty METERLINE_RECOVERY_DIR"
        )
    if stored.next_offset > log.high:
        raise SourceError(
            f"{log.name}: the recovery store is at offset {stored.next_offset}, but the partition ends at"
            f" {log.high}: it lost records or is another one. Restore it, or start with an empty"
            " METERLINE_RECOVERY_DIR"
        )
    return stored

"""A Kafka record batch (magic 2), as far as a broker must understand it.

bytes of a produce request -> Header -> the same batch with its offset and append time stamped on it

Records stay opaque, so every codec works. The stamp changes the CRC-32C without reading the records: a CRC
is linear, so `crc(new) = crc(old) ^ crc0(new ^ old)`, and the difference is 21 bytes followed by zeros,
which are skipped with a table for each power of two (zlib's crc32_combine does the same). A batch that
arrives corrupt stays detectably corrupt.
Layout: https://kafka.apache.org/documentation/#recordbatch
"""

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from dataflows.embedded.kafka_wire import ErrorCode, RefusedError

# baseOffset batchLength partitionLeaderEpoch magic crc attributes lastOffsetDelta baseTimestamp maxTimestamp
# producerId producerEpoch baseSequence recordsCount
LAYOUT = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = LAYOUT.size
_LENGTH_FROM = 12  # batchLength counts what follows it
_CRC_FROM = 21  # the CRC covers attributes and all that follows
_STAMPED = slice(22, 43)  # the low byte of attributes up to maxTimestamp

_CODEC_MASK = 0b111
_CODEC_GZIP = 1
_LOG_APPEND_TIME = 0b1000
_TRANSACTIONAL_OR_CONTROL = 0b110000


class Header(NamedTuple):
    """The first 61 bytes of a batch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def size_bytes(self) -> int:
        return _LENGTH_FROM + self.length

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        return (self.base_sequence + self.records - 1) & 0x7FFFFFFF  # sequences wrap to 0

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & _LOG_APPEND_TIME)


def read_header(data: bytes | memoryview, at: int = 0) -> Header:
    return Header._make(LAYOUT.unpack_from(data, at))


def checked_header(records: memoryview, message_bytes_max: int) -> Header:
    """The header of a produced batch.

    Raises RefusedError for what a Kafka broker refuses: not exactly one batch of magic 2, a batch over the
    limit, counts that don't agree, a transactional or control batch. The CRC is not verified: see the
    module's docstring.
    """
    if len(records) < HEADER_BYTES:
        raise RefusedError(ErrorCode.CORRUPT_MESSAGE)
    header = read_header(records)
    if header.magic != 2:
        raise RefusedError(ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT)
    if len(records) > message_bytes_max:
        raise RefusedError(ErrorCode.MESSAGE_TOO_LARGE)
    if (
        header.size_bytes != len(records)
        or header.records < 1
        or header.last_offset_delta + 1 != header.records
    ):
        raise RefusedError(ErrorCode.INVALID_RECORD)
    if header.attributes & _TRANSACTIONAL_OR_CONTROL:
        raise RefusedError(ErrorCode.INVALID_RECORD)
    return header


def stamped_header(
    records: memoryview, header: Header, base_offset: int, append_time_ms: int | None
) -> bytearray:
    """The header bytes to store: the offset given, leader epoch 0, and LogAppendTime if a time is given."""
    stored = bytearray(records[:HEADER_BYTES])
    struct.pack_into(">q", stored, 0, base_offset)
    struct.pack_into(">i", stored, 12, 0)
    attributes = header.attributes & ~_LOG_APPEND_TIME
    max_timestamp_ms = header.max_timestamp_ms
    if append_time_ms is not None:
        attributes |= _LOG_APPEND_TIME
        max_timestamp_ms = append_time_ms
    struct.pack_into(">h", stored, 21, attributes)
    struct.pack_into(">q", stored, 35, max_timestamp_ms)
    difference = int.from_bytes(records[_STAMPED], "big") ^ int.from_bytes(stored[_STAMPED], "big")
    if difference:
        shifted = _skip_zeros(_crc32c_raw(difference.to_bytes(21, "big"), 0), len(records) - _STAMPED.stop)
        struct.pack_into(">I", stored, 17, header.crc ^ shifted)
    return stored


def has_right_crc(batch: bytes | memoryview) -> bool:
    """Computes the whole CRC, about 10 MB/s: for the last batch after a crash, and for tests."""
    return _crc32c_raw(batch[_CRC_FROM:], 0xFFFFFFFF) ^ 0xFFFFFFFF == read_header(batch).crc


def record_times(batch: bytes) -> Iterator[tuple[int, int]]:
    """(offset, timestamp in ms) of each record, in order.

    A batch that carries its append time, or whose codec the standard library can't read (snappy, lz4,
    zstd), gives one pair for the whole batch: its first offset and its largest timestamp.
    """
    header = read_header(batch)
    codec = header.attributes & _CODEC_MASK
    if header.is_log_append_time or codec > _CODEC_GZIP:
        yield header.base_offset, header.max_timestamp_ms
        return
    data = batch[HEADER_BYTES:]
    if codec == _CODEC_GZIP:
        data = zlib.decompress(data, wbits=31)
    at = 0
    for _ in range(header.records):
        size, body = _varint(data, at)
        timestamp_delta, after = _varint(data, body + 1)  # one byte of attributes
        offset_delta, _ = _varint(data, after)
        yield header.base_offset + offset_delta, header.base_timestamp_ms + timestamp_delta
        at = body + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7


def _byte_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(crc)
    return table


_BYTE = _byte_table()


def _crc32c_raw(data: bytes | memoryview, crc: int) -> int:
    table = _BYTE
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc


_Operator = tuple[list[int], list[int], list[int], list[int]]


@cache
def _zeros_operator(power: int) -> _Operator:
    """What 2**power zero bytes do to a CRC, as one table for each of its four bytes."""
    bits = [1 << bit for bit in range(32)]
    if power == 0:
        columns = [_crc32c_raw(b"\0", bit) for bit in bits]
    else:
        half = _zeros_operator(power - 1)
        columns = [_apply(half, _apply(half, bit)) for bit in bits]
    tables: list[list[int]] = []
    for byte in range(4):
        table = [0] * 256
        for value in range(1, 256):
            low = value & -value
            table[value] = table[value ^ low] ^ columns[8 * byte + low.bit_length() - 1]
        tables.append(table)
    return tables[0], tables[1], tables[2], tables[3]


def _apply(operator: _Operator, crc: int) -> int:
    a, b, c, d = operator
    return a[crc & 0xFF] ^ b[crc >> 8 & 0xFF] ^ c[crc >> 16 & 0xFF] ^ d[crc >> 24]


def _skip_zeros(crc: int, count: int) -> int:
    power = 0
    while count:
        if count & 1:
            crc = _apply(_zeros_operator(power), crc)
        count >>= 1
        power += 1
    return crc

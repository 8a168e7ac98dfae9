"""Record batches: the CRC after a stamp, and the times of records."""

import gzip
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.embedded.kafka_batch import (
    HEADER_BYTES,
    LAYOUT,
    checked_header,
    has_right_crc,
    read_header,
    record_times,
    stamped_header,
)
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError

LOG_APPEND_TIME = 0b1000
START_MS = 1_700_000_000_000


def crc32c(data: bytes) -> int:
    """Bit by bit, straight from the definition: the oracle."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def batch(
    body: bytes,
    *,
    records: int = 1,
    attributes: int = 0,
    max_timestamp_ms: int = START_MS,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """A batch with a right CRC; `producer` is (id, epoch, base sequence)."""
    delta = records - 1
    covered = (
        struct.pack(">hiqqqhii", attributes, delta, START_MS, max_timestamp_ms, *producer, records) + body
    )
    return struct.pack(">qiibI", 0, 9 + len(covered), -1, 2, crc32c(covered)) + covered


def zigzag(value: int) -> bytes:
    rest = value << 1 ^ value >> 63
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*encoded, rest])


def record(timestamp_delta_ms: int, offset_delta: int) -> bytes:
    body = (
        b"\0" + zigzag(timestamp_delta_ms) + zigzag(offset_delta) + zigzag(-1) + zigzag(1) + b"v" + zigzag(0)
    )
    return zigzag(len(body)) + body


def test_the_crc_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720
    assert has_right_crc(batch(b"body"))


@given(
    body=st.binary(max_size=300),
    attributes=st.integers(0, 15),
    max_timestamp_ms=st.integers(-1, 2**63 - 1),
    append_time_ms=st.none() | st.integers(0, 2**63 - 1),
    base_offset=st.integers(0, 2**63 - 1),
)
def test_a_stamped_batch_has_the_right_crc(
    body: bytes, attributes: int, max_timestamp_ms: int, append_time_ms: int | None, base_offset: int
) -> None:
    sent = memoryview(batch(body, attributes=attributes, max_timestamp_ms=max_timestamp_ms))
    stored = bytes(stamped_header(sent, read_header(sent), base_offset, append_time_ms)) + sent[HEADER_BYTES:]
    header = read_header(stored)
    assert header.crc == crc32c(stored[21:])
    assert has_right_crc(stored)
    assert (header.base_offset, header.is_log_append_time) == (base_offset, append_time_ms is not None)
    assert header.max_timestamp_ms == (max_timestamp_ms if append_time_ms is None else append_time_ms)


def test_a_large_batch_has_the_right_crc_after_a_stamp() -> None:
    sent = memoryview(batch(bytes(range(256)) * 4096))
    stored = bytes(stamped_header(sent, read_header(sent), 7, START_MS + 1)) + sent[HEADER_BYTES:]
    assert has_right_crc(stored)


def test_a_corrupt_batch_is_still_corrupt_after_a_stamp() -> None:
    corrupt = bytearray(batch(b"body"))
    corrupt[-1] ^= 1
    sent = memoryview(bytes(corrupt))
    stored = bytes(stamped_header(sent, read_header(sent), 0, START_MS + 1)) + sent[HEADER_BYTES:]
    assert not has_right_crc(stored)


@given(deltas_ms=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=30), zipped=st.booleans())
def test_record_times_are_read_from_the_records(deltas_ms: list[int], zipped: bool) -> None:
    body = b"".join(record(delta_ms, index) for index, delta_ms in enumerate(deltas_ms))
    sent = batch(gzip.compress(body) if zipped else body, records=len(deltas_ms), attributes=int(zipped))
    assert list(record_times(sent)) == [(index, START_MS + delta) for index, delta in enumerate(deltas_ms)]


@pytest.mark.parametrize("attributes", [2, 3, 4, LOG_APPEND_TIME, LOG_APPEND_TIME | 1])
def test_an_opaque_batch_has_one_time(attributes: int) -> None:
    assert list(record_times(batch(b"?", records=9, attributes=attributes))) == [(0, START_MS)]


def changed(data: bytes, field: int, value: int) -> bytes:
    """The batch with one field of its header set."""
    values = list(LAYOUT.unpack_from(data))
    values[field] = value
    return LAYOUT.pack(*values) + data[HEADER_BYTES:]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ErrorCode.CORRUPT_MESSAGE),
        (batch(b"")[:60], ErrorCode.CORRUPT_MESSAGE),
        (changed(batch(b""), 3, 1), ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT),
        (batch(bytes(1000)), ErrorCode.MESSAGE_TOO_LARGE),
        (batch(b"") + b"?", ErrorCode.INVALID_RECORD),
        (batch(b"") * 2, ErrorCode.INVALID_RECORD),
        (batch(b"", records=0), ErrorCode.INVALID_RECORD),
        (changed(batch(b"", records=3), 6, 1), ErrorCode.INVALID_RECORD),
        (batch(b"", attributes=0b10000), ErrorCode.INVALID_RECORD),
        (batch(b"", attributes=0b100000), ErrorCode.INVALID_RECORD),
    ],
)
def test_what_is_not_one_good_batch_is_refused(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(RefusedError) as raised:
        checked_header(memoryview(data), message_bytes_max=1000)
    assert raised.value.code is code

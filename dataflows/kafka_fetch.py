"""Records of a partition out of librdkafka's queue, into columns. Compiled.

consumer of one partition -> `Fetcher.fetch` -> `Fetched`: `Records`, and what librdkafka reports among them

confluent-kafka makes a Python object of each record: to make it, take it apart and free it took 1 us, a fifth
of all that an event cost. So options, assignment, commits and callbacks are confluent-kafka's, but records
leave the partition's own queue by librdkafka's C functions, as events, which run no callback: rdkafka.h
documents them, and the layout of `rd_kafka_message_t`. librdkafka's handle is the first member of
confluent-kafka's object, which nobody promises: of a version that is not in `KNOWN_VERSIONS`, records come as
objects.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from importlib import metadata
from typing import Final, NamedTuple, cast

import numpy as np
from confluent_kafka import Consumer, Message
from llvmlite import binding
from numba import types

from operators.compiled import compiled
from operators.texts import Bytes
from schemas.records import NO_VALUE, Record, Records
from schemas.usage import I32, I64, Mask

_LOG = logging.getLogger(__name__)

KNOWN_VERSIONS: Final = frozenset({"2.16.1"})
"""Of confluent-kafka, whose objects begin with librdkafka's handle (tests/dataflows/test_kafka_fetch.py)."""

CALL_MAX: Final = 500
"""Messages of one call to confluent-kafka: 0.26 us each then, 0.55 in calls for 5,000 (facts/kafka.md)."""

Queue = int
"""librdkafka's address of one."""

_WORD: Final = 8
_VALUE, _VALUE_BYTES, _KEY, _KEY_BYTES, _OFFSET, _MESSAGE_WORDS = 3, 4, 5, 6, 7, 9
"""Members of rd_kafka_message_t, in words of 8 bytes."""
_HEADER_WORDS: Final = 5
"""What `_put_headers` writes down, behind them."""
_PARTITION_OFFSET, _PARTITION_WORDS = 2, 3
"""Of rd_kafka_topic_partition_t, whose first members are these."""
_LENGTH_BYTES: Final = 4

_int, _size = types.int32, types.intp
"""C's int; size_t, ssize_t and pointers."""


def _c_function(name: str, result: types.Type, *arguments: types.Type) -> Callable[..., int]:
    """A function that compiled code finds by its name."""
    return cast("Callable[..., int]", types.ExternalFunction(name, result(*arguments)))


_memcpy = _c_function("memcpy", _size, _size, _size, _size)
_strlen = _c_function("strlen", _size, _size)
_next_event = _c_function("rd_kafka_queue_poll", _size, _size, _int)
_destroy_event = _c_function("rd_kafka_event_destroy", types.void, _size)
_message_of = _c_function("rd_kafka_event_message_next", _size, _size)
_error_of = _c_function("rd_kafka_event_error", _int, _size)
_error_text = _c_function("rd_kafka_event_error_string", _size, _size)
_error_partition = _c_function("rd_kafka_event_topic_partition", _size, _size)
_destroy_partition = _c_function("rd_kafka_topic_partition_destroy", types.void, _size)
_timestamp = _c_function("rd_kafka_message_timestamp", types.int64, _size, _size)
_headers = _c_function("rd_kafka_message_headers", _int, _size, _size)
_header = _c_function("rd_kafka_header_get_all", _int, _size, _size, _size, _size, _size)


class Report(NamedTuple):
    """What librdkafka says of the partition instead of a record."""

    code: int
    """Of `KafkaError`."""
    text: str
    offset: int
    is_last: bool
    """No record came after it."""


class Fetched(NamedTuple):
    """What had been fetched."""

    records: Records
    reports: list[Report]
    is_full: bool
    """There may be more."""


class Fetcher:
    """Takes the records of one partition. Made before the consumer is assigned to it."""

    def __init__(self, consumer: Consumer, topic: str, partition: int) -> None:
        self._consumer = consumer
        self._library = library(KNOWN_VERSIONS)
        self._queue: Queue | None = None
        if self._library is not None:
            handle = ctypes.c_void_p.from_address(id(consumer) + object.__basicsize__).value
            self._queue = self._library.rd_kafka_queue_get_partition(handle, topic.encode(), partition)
            # Its records would go on to the consumer's queue, beside the callbacks; now they stay.
            self._library.rd_kafka_queue_forward(self._queue, None)

    def fetch(self, records_max: int, bytes_max: int) -> Fetched:
        """What librdkafka has fetched, until there are so many records, or so many bytes or more. Runs the
        consumer's callbacks."""
        if self._queue is None:
            return self._fetch_objects(records_max, bytes_max)
        reports = []
        while (message := self._consumer.poll(0)) is not None:
            reports.append(_report(message, is_last=False))
        events, messages = np.empty(records_max, np.int64), np.empty(records_max, np.int64)
        found = np.zeros(_MESSAGE_WORDS + _HEADER_WORDS, np.int64)
        count, size = _poll(self._queue, events, messages, found, bytes_max)
        errors, data, has_value, *numbers = _unpack(events[:count], messages[:count], found, size)
        data.flags.writeable = False
        records = Records(data, has_value, *numbers)
        if errors.any():
            for row in np.flatnonzero(errors).tolist():
                text = (records[row].value() or b"").decode("utf-8", "replace")
                offset = int(records.offset[row])
                reports.append(Report(int(errors[row]), text, offset, is_last=row == count - 1))
            records = records.select(errors == 0)
        return Fetched(records, reports, is_full=count == records_max or size >= bytes_max)

    def _fetch_objects(self, records_max: int, bytes_max: int) -> Fetched:
        messages: list[Message] = []
        size = 0
        is_full = True
        while (room := min(CALL_MAX, records_max - len(messages))) > 0 and size < bytes_max:
            more = self._consumer.consume(room, 0)
            messages += more
            size += sum(map(len, more))
            if len(more) < room:
                is_full = False
                break
        reports = [_report(one, is_last=one is messages[-1]) for one in messages if one.error() is not None]
        records: list[Record] = [one for one in messages if one.error() is None]  # type: ignore[misc]
        return Fetched(Records.of(records), reports, is_full)

    def close(self) -> None:
        """Before the consumer is closed."""
        if self._queue is not None and self._library is not None:
            self._library.rd_kafka_queue_destroy(self._queue)
            self._queue = None


@functools.cache  # each partition asks
def library(known: frozenset[str]) -> ctypes.CDLL | None:
    """librdkafka as confluent-kafka has it, for compiled code too; None if its version is not known."""
    version = metadata.version("confluent-kafka")
    if version not in known:
        names = ", ".join(sorted(known))
        _LOG.warning("confluent-kafka %s is not known (%s): records are read as objects", version, names)
        return None
    files = [file for file in metadata.files("confluent-kafka") or () if file.name.startswith("librdkafka-")]
    if len(files) != 1:
        _LOG.warning("confluent-kafka comes without librdkafka: records are read as objects")
        return None
    path = str(files[0].locate())
    binding.load_library_permanently(path)
    loaded = ctypes.CDLL(path)
    loaded.rd_kafka_queue_get_partition.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32]
    loaded.rd_kafka_queue_get_partition.restype = ctypes.c_void_p
    loaded.rd_kafka_queue_forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    loaded.rd_kafka_queue_forward.restype = None
    loaded.rd_kafka_queue_destroy.argtypes = [ctypes.c_void_p]
    loaded.rd_kafka_queue_destroy.restype = None
    return loaded


def _report(message: Message, *, is_last: bool) -> Report:
    error = message.error()
    assert error is not None  # noqa: S101 - only messages with one come here
    return Report(error.code(), error.str(), message.offset() or 0, is_last)


@compiled
def _poll(queue: Queue, events: I64, messages: I64, found: I64, bytes_max: int) -> tuple[int, int]:
    """Fill in the addresses of events, and of their messages, 0 of an error: how many there are, and how many
    bytes `_unpack` will lay out."""
    count, size = 0, 0
    while count < len(events) and size < bytes_max:
        event = _next_event(queue, 0)
        if event == 0:
            break
        message = _message_of(event)
        if message != 0:
            _memcpy(found.ctypes.data, message, _MESSAGE_WORDS * _WORD)
            size += found[_VALUE_BYTES] + found[_KEY_BYTES] + _put_headers(message, found, 0)
        elif _error_of(event) != 0:
            size += _strlen(_error_text(event))
        else:
            _destroy_event(event)
            continue
        events[count], messages[count] = event, message
        count += 1
    return count, size


@compiled
def _unpack(
    events: I64, messages: I64, found: I64, size: int
) -> tuple[I32, Bytes, Mask, I64, I64, I64, I64, I64, I64]:
    """Errors, and the columns of `Records`; the value of an error is its text. The events are gone then."""
    count, data = len(events), np.empty(size, np.uint8)
    errors, has_value = np.zeros(count, np.int32), np.empty(count, np.bool_)
    offset, append_ms = np.empty(count, np.int64), np.zeros(count, np.int64)
    start, value_end = np.empty(count, np.int64), np.empty(count, np.int64)
    key_end, end = np.empty(count, np.int64), np.empty(count, np.int64)
    kind, to, at = np.empty(1, np.int64), data.ctypes.data, 0
    for row in range(count):
        message = messages[row]
        if message != 0:
            _memcpy(found.ctypes.data, message, _MESSAGE_WORDS * _WORD)
            append_ms[row] = _timestamp(message, kind.ctypes.data)
        else:
            errors[row] = _error_of(events[row])
            _put_error(events[row], found)
        offset[row], has_value[row] = found[_OFFSET], found[_VALUE] != 0
        start[row] = at
        _memcpy(to + at, found[_VALUE], found[_VALUE_BYTES])
        at += found[_VALUE_BYTES]
        value_end[row] = at
        _memcpy(to + at, found[_KEY], found[_KEY_BYTES])
        at += found[_KEY_BYTES]
        key_end[row] = at
        if message != 0:
            at += _put_headers(message, found, to + at)
        end[row] = at
        _destroy_event(events[row])
    return errors, data, has_value, offset, append_ms, start, value_end, key_end, end


@compiled
def _put_error(event: int, found: I64) -> None:
    """Put an error in a message's place."""
    found[_KEY_BYTES], found[_OFFSET] = 0, 0
    partition = _error_partition(event)
    if partition != 0:
        _memcpy(found.ctypes.data, partition, _PARTITION_WORDS * _WORD)
        found[_OFFSET] = found[_PARTITION_OFFSET]
        _destroy_partition(partition)
    found[_VALUE] = _error_text(event)
    found[_VALUE_BYTES] = _strlen(found[_VALUE])


@compiled
def _put_headers(message: int, found: I64, to: int) -> int:
    """Lay the headers of a message out there, or nowhere if that is 0: how many bytes they take.

    :arg found: Behind a message's words, room for the addresses of the headers, of a name and of its value,
        for the value's size, and for a length.
    """
    place = found.ctypes.data + _MESSAGE_WORDS * _WORD
    if _headers(message, place) != 0:
        return 0
    noted = found[_MESSAGE_WORDS:]
    size, number = 0, 0
    while _header(noted[0], number, place + _WORD, place + 2 * _WORD, place + 3 * _WORD) == 0:
        name_bytes, value_bytes = _strlen(noted[1]), noted[3] if noted[2] != 0 else 0
        if to != 0:
            noted[4] = name_bytes
            _memcpy(to + size, place + 4 * _WORD, _LENGTH_BYTES)
            _memcpy(to + size + _LENGTH_BYTES, noted[1], name_bytes)
            noted[4] = value_bytes if noted[2] != 0 else NO_VALUE
            _memcpy(to + size + _LENGTH_BYTES + name_bytes, place + 4 * _WORD, _LENGTH_BYTES)
            _memcpy(to + size + 2 * _LENGTH_BYTES + name_bytes, noted[2], value_bytes)
        size += 2 * _LENGTH_BYTES + name_bytes + value_bytes
        number += 1
    return size

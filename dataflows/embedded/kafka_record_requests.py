"""The requests that move records: Produce, Fetch, ListOffsets, DeleteRecords, InitProducerId.

(broker, request, version) -> response

Limits: a fetch answers with `FETCH_BYTES_MAX` (and the batch that passes it), whatever the client would take,
and after `FETCH_WAIT_MS_MAX`, whatever it would wait.
"""

import asyncio
import time
from typing import NamedTuple

from dataflows.embedded.kafka_broker import Broker
from dataflows.embedded.kafka_log import Appended, PartitionLog
from dataflows.embedded.kafka_wire import (
    NO_TRANSACTIONS,
    Api,
    ApiKey,
    ErrorCode,
    Reader,
    RefusedError,
    Writer,
)

FETCH_BYTES_MAX = 8 * 1024 * 1024
FETCH_WAIT_MS_MAX = 60_000
_LATEST, _EARLIEST, _MAX_TIMESTAMP = -1, -2, -3
_LEADER_EPOCH = 0


class _Produced(NamedTuple):
    """What became of the records for one partition."""

    partition: int
    code: ErrorCode
    appended: Appended = Appended(-1, -1)
    start_offset: int = -1


async def produce(broker: Broker, request: Reader, version: int) -> Writer | None:
    request.nullable_string()  # transactional id: its batches are refused one by one
    acks = request.int16()
    request.int32()  # time to wait for replicas
    now_ms = time.time_ns() // 1_000_000

    def partition(topic: str) -> _Produced:
        index = request.int32()
        records = request.nullable_bytes()
        try:
            log = broker.topics.log(topic, index)
            appended = log.append(memoryview(b"") if records is None else records, now_ms)
        except RefusedError as error:
            return _Produced(index, error.code)
        return _Produced(index, ErrorCode.NONE, appended, log.start_offset)

    def topic() -> tuple[str, list[_Produced]]:
        name = request.string()
        return name, request.array(lambda: partition(name))

    response = _produce_response(request.array(topic), version)
    return None if acks == 0 else response


def _produce_response(topics: list[tuple[str, list[_Produced]]], version: int) -> Writer:
    response = Writer()

    def write_partition(produced: _Produced) -> None:
        response.int32(produced.partition)
        response.int16(produced.code)
        response.int64(produced.appended.base_offset)
        response.int64(produced.appended.timestamp_ms)
        if version >= 5:
            response.int64(produced.start_offset)

    def write_topic(item: tuple[str, list[_Produced]]) -> None:
        response.string(item[0])
        response.array(item[1], write_partition)

    response.array(topics, write_topic)
    response.int32(0)
    return response


def too_large_produce(head: Reader, version: int) -> Writer:
    """The answer to a produce request that is too large to be read, from its first bytes.

    It names the first partition only, and librdkafka sends no more than one.
    """
    head.nullable_string()
    head.int16()
    head.int32()
    head.int32()
    topic = head.string()
    head.int32()
    return _produce_response([(topic, [_Produced(head.int32(), ErrorCode.MESSAGE_TOO_LARGE)])], version)


class _Wanted(NamedTuple):
    """One partition of a fetch."""

    partition: int
    offset: int
    bytes_max: int


async def fetch(broker: Broker, request: Reader, version: int) -> Writer:
    request.int32()  # replica id
    wait_ms = min(request.int32(), FETCH_WAIT_MS_MAX)
    bytes_min = request.int32()
    bytes_max = min(request.int32(), FETCH_BYTES_MAX)
    request.int8()  # isolation level: there are no transactions
    if version >= 7:
        request.int32()  # session id and epoch: every fetch is a full one
        request.int32()

    def partition() -> _Wanted:
        index = request.int32()
        if version >= 9:
            request.int32()  # leader epoch
        offset = request.int64()
        if version >= 5:
            request.int64()  # a follower's log start
        return _Wanted(index, offset, request.int32())

    topics = request.array(lambda: (request.string(), request.array(partition)))
    await _wait_for_bytes(broker, topics, bytes_min, wait_ms / 1000)
    response = Writer()
    response.int32(0)
    if version >= 7:
        response.int16(ErrorCode.NONE)
        response.int32(0)
    left = bytes_max

    def write_partition(topic: str, wanted: _Wanted) -> None:
        nonlocal left
        code, start_offset, end_offset, records = ErrorCode.NONE, -1, -1, b""
        try:
            log = broker.topics.log(topic, wanted.partition)
            start_offset, end_offset = log.start_offset, log.end_offset
            if log.bytes_from(wanted.offset) and left > 0:
                records = log.read(wanted.offset, min(wanted.bytes_max, left))
        except RefusedError as error:
            code = error.code
        left -= len(records)
        response.int32(wanted.partition)
        response.int16(code)
        response.int64(end_offset)
        response.int64(end_offset)  # last stable offset
        if version >= 5:
            response.int64(start_offset)
        response.int32(0)  # aborted transactions
        if version >= 11:
            response.int32(-1)  # preferred read replica
        response.records(records)

    def write_topic(item: tuple[str, list[_Wanted]]) -> None:
        response.string(item[0])
        response.array(item[1], lambda wanted: write_partition(item[0], wanted))

    response.array(topics, write_topic)
    return response


async def _wait_for_bytes(
    broker: Broker, topics: list[tuple[str, list[_Wanted]]], bytes_min: int, wait_s: float
) -> None:
    """The long poll: returns when there is enough to answer, an error to report, or no time left."""
    changed = asyncio.Event()
    watched: set[PartitionLog] = set()
    try:
        async with asyncio.timeout(wait_s):
            while True:
                changed.clear()
                available = 0
                for topic, partitions in topics:
                    for wanted in partitions:
                        log = broker.topics.log(topic, wanted.partition)
                        available += log.bytes_from(wanted.offset)
                        if available < bytes_min and log not in watched:
                            log.watchers.add(changed.set)
                            watched.add(log)
                if available >= bytes_min:
                    return
                await changed.wait()
    except (TimeoutError, RefusedError):
        return
    finally:
        for log in watched:
            log.watchers.discard(changed.set)


async def list_offsets(broker: Broker, request: Reader, version: int) -> Writer:
    request.int32()  # replica id
    if version >= 2:
        request.int8()  # isolation level
    response = Writer()
    if version >= 2:
        response.int32(0)

    def partition(topic: str) -> tuple[int, ErrorCode, int, int]:
        index = request.int32()
        if version >= 4:
            request.int32()  # leader epoch
        timestamp_ms = request.int64()
        try:
            offset, found_ms = _offset_at(broker.topics.log(topic, index), timestamp_ms)
        except RefusedError as error:
            return index, error.code, -1, -1
        return index, ErrorCode.NONE, found_ms, offset

    def write(answer: tuple[int, ErrorCode, int, int]) -> None:
        index, code, found_ms, offset = answer
        response.int32(index)
        response.int16(code)
        response.int64(found_ms)
        response.int64(offset)
        if version >= 4:
            response.int32(_LEADER_EPOCH)

    def topic() -> None:
        name = request.string()
        response.string(name)
        response.array(request.array(lambda: partition(name)), write)

    response.int32(topics := request.int32())
    for _ in range(topics):
        topic()
    return response


def _offset_at(log: PartitionLog, timestamp_ms: int) -> tuple[int, int]:
    if timestamp_ms == _LATEST:
        return log.end_offset, -1
    if timestamp_ms == _EARLIEST:
        return log.start_offset, -1
    found = log.latest_time() if timestamp_ms == _MAX_TIMESTAMP else log.offset_for_time(timestamp_ms)
    return found or (-1, -1)


async def delete_records(broker: Broker, request: Reader, version: int) -> Writer:
    response = Writer()
    response.int32(0)

    def partition(topic: str) -> tuple[int, int, ErrorCode]:
        index, offset = request.int32(), request.int64()
        try:
            return index, broker.topics.log(topic, index).delete_before(offset), ErrorCode.NONE
        except RefusedError as error:
            return index, -1, error.code

    def write(answer: tuple[int, int, ErrorCode]) -> None:
        index, start_offset, code = answer
        response.int32(index)
        response.int64(start_offset)
        response.int16(code)

    def topic() -> None:
        name = request.string()
        response.string(name)
        response.array(request.array(lambda: partition(name)), write)

    response.int32(topics := request.int32())
    for _ in range(topics):
        topic()
    return response


async def init_producer_id(broker: Broker, request: Reader, version: int) -> Writer:
    transactional_id = request.nullable_string()
    response = Writer()
    response.int32(0)
    response.int16(ErrorCode.NONE if transactional_id is None else NO_TRANSACTIONS)
    response.int64(broker.topics.new_producer_id() if transactional_id is None else -1)
    response.int16(0 if transactional_id is None else -1)
    return response


APIS = {
    ApiKey.PRODUCE: Api(3, 7, produce),
    ApiKey.FETCH: Api(4, 11, fetch),
    ApiKey.LIST_OFFSETS: Api(1, 5, list_offsets),
    ApiKey.DELETE_RECORDS: Api(0, 1, delete_records),
    ApiKey.INIT_PRODUCER_ID: Api(0, 1, init_producer_id),
}

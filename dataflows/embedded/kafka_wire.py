"""Kafka's wire types and error codes.

request bytes -> Reader -> values; values -> Writer -> response chunks

Only the "non-flexible" encoding: every API is offered up to its last version before compact strings and
tagged fields (KIP-482), which every client still speaks. Layouts: the Kafka protocol guide.
Limits: a Reader never allocates more than the request holds: a count larger than the bytes left is
malformed.
"""

import struct
from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

INT8 = struct.Struct(">b")
INT16 = struct.Struct(">h")
INT32 = struct.Struct(">i")
INT64 = struct.Struct(">q")


class ErrorCode(IntEnum):
    """The protocol's error codes that this broker answers with."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    INVALID_TOPIC_EXCEPTION = 17
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_CONFIG = 40
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    INVALID_PRODUCER_EPOCH = 47
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    KAFKA_STORAGE_ERROR = 56
    GROUP_ID_NOT_FOUND = 69
    INVALID_RECORD = 87


# A producer with a transactional id gives up on this one; others it would retry for ever.
NO_TRANSACTIONS = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


class ApiKey(IntEnum):
    """The requests that this broker answers."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    INCREMENTAL_ALTER_CONFIGS = 44


class RefusedError(Exception):
    """A request, or the part of it for one topic or partition, that gets an error code as its answer."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.code = code
        self.message = message


class MalformedError(Exception):
    """Bytes that aren't a request: the connection is closed, as Kafka does."""


class Reader:
    """Reads one request's values in order."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def _take(self, size: int) -> memoryview:
        if size < 0 or size > len(self._data) - self._at:
            raise MalformedError(f"{size} bytes wanted, {len(self._data) - self._at} left")
        at = self._at
        self._at = at + size
        return self._data[at : at + size]

    def _number(self, layout: struct.Struct) -> int:
        try:
            value: int = layout.unpack_from(self._data, self._at)[0]
        except struct.error as error:
            raise MalformedError(str(error)) from None
        self._at += layout.size
        return value

    def int8(self) -> int:
        return self._number(INT8)

    def int16(self) -> int:
        return self._number(INT16)

    def int32(self) -> int:
        return self._number(INT32)

    def int64(self) -> int:
        return self._number(INT64)

    def boolean(self) -> bool:
        return self._number(INT8) != 0

    def nullable_string(self) -> str | None:
        size = self._number(INT16)
        if size < 0:
            return None
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(str(error)) from None

    def string(self) -> str:
        return self.nullable_string() or ""

    def nullable_bytes(self) -> memoryview | None:
        size = self._number(INT32)
        return None if size < 0 else self._take(size)

    def nullable_array(self, element: Callable[[], T]) -> list[T] | None:
        count = self._number(INT32)
        if count > len(self._data) - self._at:
            raise MalformedError(f"an array of {count} elements in {len(self._data) - self._at} bytes")
        return None if count < 0 else [element() for _ in range(count)]

    def array(self, element: Callable[[], T]) -> list[T]:
        return self.nullable_array(element) or []


class Writer:
    """Collects one response's values. `chunks` go to the socket as they are: records aren't copied here."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def int8(self, value: int) -> None:
        self.chunks.append(INT8.pack(value))

    def int16(self, value: int) -> None:
        self.chunks.append(INT16.pack(value))

    def int32(self, value: int) -> None:
        self.chunks.append(INT32.pack(value))

    def int64(self, value: int) -> None:
        self.chunks.append(INT64.pack(value))

    def boolean(self, value: bool) -> None:
        self.chunks.append(b"\x01" if value else b"\x00")

    def string(self, value: str | None) -> None:
        if value is None:
            self.chunks.append(b"\xff\xff")
            return
        data = value.encode()
        self.chunks.append(INT16.pack(len(data)) + data)

    def records(self, value: bytes) -> None:
        self.chunks.append(INT32.pack(len(value)))
        self.chunks.append(value)

    def array(self, values: Iterable[T], element: Callable[[T], Any]) -> None:
        items = list(values)
        self.chunks.append(INT32.pack(len(items)))
        for item in items:
            element(item)


class Api(NamedTuple):
    """One request kind: the versions offered, and its handler `(broker, request, version) -> response`.

    The handler answers None when the client waits for no answer (a produce with acks=0).
    """

    version_min: int
    version_max: int
    handler: Callable[[Any, Reader, int], Awaitable[Writer | None]]


# Where requests that this broker doesn't know begin to use the flexible encoding, of those that clients send:
# JoinGroup, Heartbeat, LeaveGroup, SyncGroup, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit.
_FLEXIBLE_FROM = {11: 6, 12: 4, 13: 4, 14: 4, 24: 3, 25: 3, 26: 3, 28: 3}
_JOIN_GROUP = 11


def unsupported_version(api_key: int, version: int, apis: dict[ApiKey, Api]) -> Writer:
    """The answer to a request, or a version of it, that isn't offered: UNSUPPORTED_VERSION.

    Most responses begin with `throttle_time_ms error_code`, the oldest with `error_code`. Zeros follow, so
    that a client's parser reads empty fields and reports the code, not a short response.
    """
    known = next((api for key, api in apis.items() if key == api_key), None)
    flexible_from = known.version_max + 1 if known else _FLEXIBLE_FROM.get(api_key, 0 if api_key >= 50 else 2)
    response = Writer()
    if version >= flexible_from:
        response.int8(0)  # the response header's tagged fields
    if version > (1 if api_key == _JOIN_GROUP else 0) or api_key >= 50:
        response.int32(0)
    response.int16(ErrorCode.UNSUPPORTED_VERSION)
    response.chunks.append(bytes(64))
    return response

"""Connections: frames in, frames out, one request at a time a connection, as Kafka answers them.

Limits, and what happens past them:
- `connections_max`: the next one waits in the listening socket's backlog.
- `request_bytes_max`: the request is skipped; a produce is answered with MESSAGE_TOO_LARGE, others are
  cut off.
- `buffered_bytes_max`, over all connections: a request waits unread in its socket until others were
  answered.
- `stalled_s`: a connection that neither finishes a request nor takes its answer for so long is closed.
- `idle_s`: a connection without a request for so long is closed.
"""

import asyncio
import socket
import sys
import time
import traceback
from dataclasses import dataclass

from dataflows.embedded import (
    kafka_config_requests,
    kafka_group_requests,
    kafka_record_requests,
    kafka_topic_requests,
)
from dataflows.embedded.kafka_broker import Broker
from dataflows.embedded.kafka_wire import (
    INT32,
    Api,
    ApiKey,
    ErrorCode,
    MalformedError,
    Reader,
    Writer,
    unsupported_version,
)

_HEAD_BYTES = 4096  # of a request too large to read: enough for its header and a topic's name
_READ_BYTES = 1024 * 1024
_ACCEPT_AGAIN_S = 0.05


async def _api_versions(broker: Broker, request: Reader, version: int) -> Writer:
    return _offered(ErrorCode.NONE, version)


APIS: dict[ApiKey, Api] = {
    **kafka_record_requests.APIS,
    **kafka_topic_requests.APIS,
    **kafka_config_requests.APIS,
    **kafka_group_requests.APIS,
    ApiKey.API_VERSIONS: Api(0, 2, _api_versions),
}


def _offered(code: ErrorCode, version: int) -> Writer:
    response = Writer()
    response.int16(code)

    def write(item: tuple[ApiKey, Api]) -> None:
        key, api = item
        response.int16(key)
        response.int16(api.version_min)
        response.int16(api.version_max)

    response.array(APIS.items(), write)
    if version >= 1:
        response.int32(0)
    return response


@dataclass(frozen=True)
class Limits:
    """See the module's docstring."""

    connections_max: int = 512
    request_bytes_max: int = 16 * 1024 * 1024
    buffered_bytes_max: int = 64 * 1024 * 1024
    stalled_s: float = 30.0
    idle_s: float = 600.0


class _Buffered:
    """The bytes of requests that are being read or answered, over all connections."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_left = bytes_max
        self._freed = asyncio.Event()

    async def take(self, count: int) -> None:
        while self._bytes_left < count:
            self._freed.clear()
            await self._freed.wait()
        self._bytes_left -= count

    def give(self, count: int) -> None:
        self._bytes_left += count
        self._freed.set()


class _Connection:
    """One client; `since` is when it began what it is doing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.since = time.monotonic()
        self.is_moving_bytes = False


class Server:
    """Accepts connections on a listening socket and answers with a broker, until it is cancelled."""

    def __init__(self, broker: Broker, limits: Limits) -> None:
        self._broker = broker
        self._limits = limits
        self._buffered = _Buffered(limits.buffered_bytes_max)
        self._slots = asyncio.Semaphore(limits.connections_max)
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._slots.acquire()
                try:
                    accepted, _ = await loop.sock_accept(listening)
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection = _Connection(*await asyncio.open_connection(sock=accepted, limit=_READ_BYTES))
                except OSError:  # the client is gone already, or all files are open
                    self._slots.release()
                    await asyncio.sleep(_ACCEPT_AGAIN_S)
                    continue
                task = loop.create_task(self._converse(connection))
                self._connections[task] = connection
                task.add_done_callback(self._forget)
        finally:
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def close_overdue(self) -> None:
        """Closes the connections that passed a time limit."""
        now = time.monotonic()
        for connection in self._connections.values():
            limit_s = self._limits.stalled_s if connection.is_moving_bytes else self._limits.idle_s
            if now - connection.since > limit_s:
                connection.writer.transport.abort()

    def _forget(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        connection.writer.transport.abort()
        self._slots.release()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, MalformedError):
            sys.stderr.write(f"kafka: connection closed: {error}\n")
        elif error is not None:
            traceback.print_exception(error)

    async def _converse(self, connection: _Connection) -> None:
        try:
            while True:
                connection.since = time.monotonic()
                size = INT32.unpack(await connection.reader.readexactly(4))[0]
                if not 8 <= size <= self._limits.request_bytes_max:
                    await self._skip(connection, size)
                    continue
                await self._buffered.take(size)
                try:
                    connection.since, connection.is_moving_bytes = time.monotonic(), True
                    frame = await connection.reader.readexactly(size)
                    connection.is_moving_bytes = False
                    await self._answer(connection, frame)
                finally:
                    self._buffered.give(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client went away

    async def _answer(self, connection: _Connection, frame: bytes) -> None:
        request = Reader(frame)
        key, version, correlation_id = request.int16(), request.int16(), request.int32()
        api = APIS.get(key)  # type: ignore[call-overload]  # an IntEnum's member is found by its number
        response: Writer | None
        if api is not None and api.version_min <= version <= api.version_max:
            request.nullable_string()  # client id
            response = await api.handler(self._broker, request, version)
        elif key == ApiKey.API_VERSIONS:
            response = _offered(
                ErrorCode.UNSUPPORTED_VERSION, 0
            )  # in version 0, as clients expect of old brokers
        else:
            response = unsupported_version(key, version, APIS)
        if response is not None:
            await self._send(connection, correlation_id, response)

    async def _send(self, connection: _Connection, correlation_id: int, response: Writer) -> None:
        size = 4 + sum(map(len, response.chunks))
        connection.writer.writelines([INT32.pack(size), INT32.pack(correlation_id), *response.chunks])
        connection.since, connection.is_moving_bytes = time.monotonic(), True
        await connection.writer.drain()
        connection.is_moving_bytes = False

    async def _skip(self, connection: _Connection, size: int) -> None:
        """Reads past a produce request that is too large and answers it. Raises MalformedError for others."""
        if size < 8:
            raise MalformedError(f"a request of {size} bytes")
        connection.since, connection.is_moving_bytes = time.monotonic(), True
        head = await connection.reader.readexactly(_HEAD_BYTES)
        request = Reader(head)
        key, version, correlation_id = request.int16(), request.int16(), request.int32()
        api = APIS[ApiKey.PRODUCE]
        if key != ApiKey.PRODUCE or not api.version_min <= version <= api.version_max:
            raise MalformedError(f"a request of {size} bytes, {self._limits.request_bytes_max} at most")
        request.nullable_string()  # client id
        left = size - _HEAD_BYTES
        while left:
            left -= len(data := await connection.reader.read(min(left, _READ_BYTES)))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
        connection.is_moving_bytes = False
        await self._send(
            connection, correlation_id, kafka_record_requests.too_large_produce(request, version)
        )

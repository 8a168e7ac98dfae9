"""The limits on what clients may hold of the broker, with limits small enough to reach."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.embedded.kafka_broker import Broker, BrokerConfig
from dataflows.embedded.kafka_server import APIS, Limits, Server
from dataflows.embedded.kafka_wire import ApiKey, MalformedError, Reader

API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 77, -1)
WAIT_S = 0.3

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connected]]


@asynccontextmanager
async def serving(directory: Path, limits: Limits) -> AsyncIterator[tuple[Server, Connect]]:
    """A server in this process, and how to connect to it; connections are closed at the end."""
    broker = Broker(BrokerConfig(directory))
    broker.open()
    server = Server(broker, limits)
    writers: list[asyncio.StreamWriter] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        task = asyncio.create_task(server.serve(listening))

        async def connect() -> Connected:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writers.append(writer)
            return reader, writer

        yield server, connect
        for writer in writers:
            writer.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    broker.close()


async def answers(connected: Connected) -> bool:
    """Whether a request is answered within WAIT_S."""
    reader, writer = connected
    writer.write(API_VERSIONS)
    return await has_answered(reader)


async def has_answered(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(WAIT_S):
            size = struct.unpack(">i", await reader.readexactly(4))[0]
            await reader.readexactly(size)
    except TimeoutError:
        return False
    return True


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    ("sent", "limits"),
    [(b"", Limits(idle_s=0.2)), (API_VERSIONS[:10], Limits(stalled_s=0.2))],
    ids=["idle", "in the middle of a request"],
)
def test_a_connection_that_does_nothing_is_closed(tmp_path: Path, sent: bytes, limits: Limits) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, limits) as (server, connect):
            reader, writer = await connect()
            writer.write(sent)
            server.close_overdue()
            assert not await is_closed(reader)
            server.close_overdue()
            assert await is_closed(reader)
            assert await answers(await connect())

    asyncio.run(scenario())


def test_a_client_that_does_not_take_its_answers_is_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, Limits(stalled_s=0.2)) as (server, connect):
            _, writer = await connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
            while (
                not writer.is_closing()
            ):  # the broker's answers fill all buffers on the way, then it hangs up
                writer.write(API_VERSIONS * 1000)
                await asyncio.sleep(0.01)
                server.close_overdue()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_requests_wait_while_others_hold_all_buffers(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(request_bytes_max=1000, buffered_bytes_max=1000)
        async with serving(tmp_path, limits) as (_, connect):
            _, holder = await connect()
            holder.write(struct.pack(">i", 1000) + API_VERSIONS[4:])  # the rest is yet to come
            await asyncio.sleep(WAIT_S)
            waiting = await connect()
            assert not await answers(waiting)
            holder.write(bytes(1000 - len(API_VERSIONS) + 4))
            assert await has_answered(waiting[0])

    asyncio.run(scenario())


def test_connections_over_the_limit_wait_for_one_to_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, Limits(connections_max=2)) as (_, connect):
            first, second, third = await connect(), await connect(), await connect()
            assert await answers(first)
            assert await answers(second)
            assert not await answers(third)
            first[1].close()
            assert await has_answered(third[0])

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    opened = Broker(BrokerConfig(tmp_path_factory.mktemp("broker")))
    opened.open()
    opened.topics.create("t", 2, {})
    yield opened
    opened.close()


# Pieces of requests: small numbers of every width, strings, and anything.
PIECES = st.sampled_from([b"\0", b"\1", b"\0\1t", b"\0\0\0\1", b"\0\0\0\2", b"\xff" * 4, b"\0" * 8])
BODIES = st.lists(PIECES | st.binary(max_size=9), max_size=30).map(b"".join)
REQUESTS = st.sampled_from(sorted(APIS)).flatmap(
    lambda key: st.tuples(st.just(key), st.integers(APIS[key].version_min, APIS[key].version_max), BODIES)
)


@settings(max_examples=300, deadline=None)
@given(request=REQUESTS)
def test_any_bytes_are_answered_or_malformed(broker: Broker, request: tuple[ApiKey, int, bytes]) -> None:
    key, version, body = request

    async def answered() -> None:
        async with asyncio.timeout(0.01):  # a fetch may wait
            await APIS[key].handler(broker, Reader(body), version)

    with contextlib.suppress(MalformedError, TimeoutError):
        asyncio.run(answered())

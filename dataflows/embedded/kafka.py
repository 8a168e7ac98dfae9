"""A single-node broker that speaks Kafka's protocol, for laptops and tests.

`python -m dataflows.embedded.kafka --directory D --port P` -> "127.0.0.1:P" on stdout once it answers

Serves confluent-kafka's producers (idempotent too), consumers that `assign()`, committed offsets, and
AdminClient's calls on topics, partitions, records, configs and groups, in every codec. An acknowledged
record survives `kill -9`; a power cut may lose it, unless `--fsync` writes every batch to the disk. SIGTERM
and SIGINT stop it, quietly; with `--exit-with-parent` so does the end of the process that started it.

What it lacks: groups by `subscribe()`, transactions, compaction, replication, TLS, SASL and quotas. Batches
are stored without verifying their CRC. One process, one core: some 30,000 produce requests a second.
One broker a directory: a lock refuses a second.
"""

import argparse
import asyncio
import fcntl
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO

from dataflows.embedded.kafka_broker import Broker, BrokerConfig
from dataflows.embedded.kafka_log import LogConfig
from dataflows.embedded.kafka_server import Limits, Server

_HOUSEKEEPING_S = 1.0
_PARENT_CHECK_S = 0.2


async def run(config: BrokerConfig, host: str, port: int, *, exit_with_parent: bool) -> None:
    """Serves until SIGTERM, SIGINT or the parent's end."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    parent_id = os.getppid()
    broker = Broker(config)
    broker.open()
    with socket.create_server((host, port), backlog=1024) as listening:
        listening.setblocking(False)
        broker.host, broker.port = host, listening.getsockname()[1]
        server = Server(broker, Limits())
        tasks: list[asyncio.Task[None]] = [
            loop.create_task(server.serve(listening)),
            loop.create_task(_keep_house(broker, server)),
        ]
        if exit_with_parent:
            tasks.append(loop.create_task(_until_orphaned(parent_id)))
        sys.stdout.write(f"{host}:{broker.port}\n")
        sys.stdout.flush()
        tasks.append(loop.create_task(_until(stopped)))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        broker.close()
        for task in done:
            task.result()  # raises what ended the task


async def _keep_house(broker: Broker, server: Server) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        server.close_overdue()
        broker.topics.retain(time.time_ns() // 1_000_000)


async def _until(stopped: asyncio.Event) -> None:
    await stopped.wait()


async def _until_orphaned(parent_id: int) -> None:
    while os.getppid() == parent_id:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(_PARENT_CHECK_S)


def _locked(directory: Path) -> IO[str]:
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{directory} is in use by another broker")
    return lock


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dataflows.embedded.kafka", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--directory", type=Path, required=True, help="where the logs are kept")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--partitions", type=int, default=1, help="of a topic that doesn't say")
    parser.add_argument(
        "--message-timestamp-type", choices=["LogAppendTime", "CreateTime"], default="LogAppendTime"
    )
    parser.add_argument("--retention-ms", type=int, default=LogConfig.retention_ms)
    parser.add_argument(
        "--retention-bytes", type=int, default=LogConfig.retention_bytes, help="of a partition"
    )
    parser.add_argument("--segment-bytes", type=int, default=LogConfig.segment_bytes)
    parser.add_argument("--auto-create", action="store_true", help="make topics that clients name")
    parser.add_argument("--fsync", action="store_true", help="survive a power cut, slowly")
    parser.add_argument("--exit-with-parent", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Runs the broker that the command line describes."""
    arguments = _arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a file a partition, a socket a client
    log = LogConfig(
        append_time=arguments.message_timestamp_type == "LogAppendTime",
        retention_ms=arguments.retention_ms,
        retention_bytes=arguments.retention_bytes,
        segment_bytes=arguments.segment_bytes,
        fsync=arguments.fsync,
    )
    config = BrokerConfig(arguments.directory, arguments.partitions, arguments.auto_create, log)
    with _locked(arguments.directory):
        run_broker = run(config, arguments.host, arguments.port, exit_with_parent=arguments.exit_with_parent)
        asyncio.run(run_broker)


if __name__ == "__main__":
    main()

"""Real engines on this machine: a Kafka-protocol broker, ClickHouse's engine and Redis, from wheels alone.

    with engines(Path(".meterline")) as e:
        e.kafka_brokers, e.clickhouse_url, e.redis_url     addresses, as of production engines
        e.redis.kill(); e.redis.start()                    crash one; it continues on its port and files

State: one directory per engine, with its data, log and passwords: the same directory and ports give the same
addresses again. The engines end with the process that started them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataflows.embedded.credentials import password
from dataflows.embedded.processes import EngineError, EngineProcess, python_engine
from dataflows.embedded.redis import Redis

__all__ = ["ClickHouse", "EngineError", "EngineProcess", "Engines", "Kafka", "Redis", "engines"]


class Kafka(EngineProcess):
    """The broker of dataflows/embedded/kafka.py; `address` is the bootstrap server."""

    def __init__(self, directory: Path, port: int = 0, *, partitions: int = 1) -> None:
        command = python_engine("dataflows.embedded.kafka", directory, "--partitions", str(partitions))
        super().__init__("kafka", directory, port, command)


class ClickHouse(EngineProcess):
    """The server of dataflows/embedded/clickhouse.py; URLs name user, password and database."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(
            "clickhouse", directory, port, python_engine("dataflows.embedded.clickhouse", directory)
        )

    @property
    def url(self) -> str:
        return self.database_url("meterline")

    def database_url(self, database: str) -> str:
        return f"http://meterline:{password(self.directory)}@{self.address}/{database}"

    @property
    def readonly_url(self) -> str:
        """For analysts: readonly=1, so that neither data nor settings nor files can be touched."""
        return f"http://analyst:{password(self.directory, 'readonly-password')}@{self.address}/meterline"


@dataclass(frozen=True)
class Engines:
    """Three running engines."""

    kafka: Kafka
    clickhouse: ClickHouse
    redis: Redis

    @property
    def kafka_brokers(self) -> str:
        return self.kafka.address

    @property
    def clickhouse_url(self) -> str:
        return self.clickhouse.url

    @property
    def clickhouse_readonly_url(self) -> str:
        return self.clickhouse.readonly_url

    @property
    def redis_url(self) -> str:
        return self.redis.url


@contextmanager
def engines(
    directory: Path,
    *,
    kafka_port: int = 0,
    clickhouse_port: int = 0,
    redis_port: int = 0,
    partitions: int = 1,
) -> Iterator[Engines]:
    """Start all three at once, each in a directory of its own below `directory`; port 0 is any free one.

    `partitions` is what a topic gets that is made without saying how many.
    """
    started = Engines(
        Kafka(directory / "kafka", kafka_port, partitions=partitions),
        ClickHouse(directory / "clickhouse", clickhouse_port),
        Redis(directory / "redis", redis_port),
    )
    handles = (started.kafka, started.clickhouse, started.redis)
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.stop)
        with ThreadPoolExecutor(len(handles)) as pool:
            for waiting in [pool.submit(handle.start) for handle in handles]:
                waiting.result()
        yield started

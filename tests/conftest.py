"""Engines for tests: started when first asked for, once a run; a database of its own for each test module.

clickhouse_url   a database with every table and view, of the test module alone
clickhouse       a client on it
redis_url        a Redis that was empty when the module began
engines          all three, to be crashed and restarted; the database of its URL has no tables
kafka_broker     the embedded broker and, where Java and Maven are there, Apache Kafka: a test runs on each
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import clickhouse_connect
import pytest
import redis
from clickhouse_connect.driver.client import Client
from hypothesis import settings

from dataflows.embedded import ClickHouse, Engines, Kafka, Redis
from sinks.migrate import migrate
from tests.kafka_brokers import kafka_broker

__all__ = ["kafka_broker"]

TABLES_WITH_TTL = """
SELECT name FROM system.tables WHERE database = currentDatabase() AND create_table_query LIKE '% TTL %'
"""

databases = count(1)

# The first example of a fresh clone compiles what it calls (operators/compiled.py), which takes seconds.
settings.register_profile("meterline", deadline=None)
settings.load_profile("meterline")

# What a shell runs in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("meterline", "crash tests of tests/e2e")
    group.addoption("--seed", type=int, default=1, help="Seed of faults and events.")
    group.addoption("--crashes", type=int, default=8, help="kill -9s of one test.")
    group.addoption("--hostile", type=int, default=20_000, help="Hostile payloads; the promise is 200000.")


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--seed"))


@pytest.fixture
def crashes(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--crashes"))


@pytest.fixture
def hostile(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--hostile"))


@pytest.fixture(scope="session")
def engines_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def clickhouse_server(engines_directory: Path) -> Iterator[ClickHouse]:
    with ClickHouse(engines_directory / "clickhouse") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(engines_directory: Path) -> Iterator[Redis]:
    with Redis(engines_directory / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server(engines_directory: Path) -> Iterator[Kafka]:
    with Kafka(engines_directory / "kafka") as server:
        yield server


@pytest.fixture(scope="session")
def engines(kafka_server: Kafka, clickhouse_server: ClickHouse, redis_server: Redis) -> Engines:
    return Engines(kafka_server, clickhouse_server, redis_server)


@pytest.fixture(scope="module")
def clickhouse_url(clickhouse_server: ClickHouse) -> Iterator[str]:
    """A database that `sinks.migrate` has made, without its TTLs, so that a test's dates don't age."""
    name = f"test_{next(databases)}"
    with clickhouse_connect.get_client(dsn=clickhouse_server.url) as client:
        client.command(f"CREATE DATABASE {name} ENGINE = Atomic")
        url = clickhouse_server.database_url(name)
        with clickhouse_connect.get_client(dsn=url) as on_database:
            migrate(on_database)
            for (table,) in on_database.query(TABLES_WITH_TTL).result_rows:
                on_database.command(f"ALTER TABLE {table} REMOVE TTL")
        yield url
        client.command(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def clickhouse(clickhouse_url: str) -> Iterator[Client]:
    with clickhouse_connect.get_client(dsn=clickhouse_url, autogenerate_session_id=False) as client:
        yield client


@pytest.fixture(scope="module")
def redis_url(redis_server: Redis) -> str:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url

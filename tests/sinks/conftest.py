"""Engines that a test of a sink may kill: each is started again after the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis as redis_py
from clickhouse_connect.driver.client import Client

from dataflows.embedded import ClickHouse, EngineProcess, Kafka, Redis
from sinks.clickhouse import ClickHouseConfig
from sinks.wallet_store import RedisConfig, WalletStore
from tests.sinks.wallets import NOW_MS


@pytest.fixture
def clickhouse_engine(clickhouse_server: ClickHouse) -> Iterator[ClickHouse]:
    yield clickhouse_server
    up(clickhouse_server)


@pytest.fixture
def redis_engine(redis_server: Redis) -> Iterator[Redis]:
    yield redis_server
    up(redis_server)


@pytest.fixture
def kafka_engine(kafka_server: Kafka) -> Iterator[Kafka]:
    yield kafka_server
    up(kafka_server)


@pytest.fixture
def config(clickhouse_engine: ClickHouse, clickhouse_url: str) -> ClickHouseConfig:
    """Of a sink that is soon done with its patience."""
    return ClickHouseConfig(url=clickhouse_url, retry_deadline_s=1.0, insert_interval_ms=20)


@pytest.fixture
def patient(config: ClickHouseConfig) -> ClickHouseConfig:
    return replace(config, retry_deadline_s=30.0)


@pytest.fixture
def client(config: ClickHouseConfig) -> Iterator[Client]:
    client = config.connect()
    yield client
    client.close()


@pytest.fixture
def redis_config(redis_engine: Redis) -> RedisConfig:
    return RedisConfig(url=redis_engine.url, timeout_s=2.0, check_interval_s=0.05, drain_s=2.0)


@pytest.fixture
def redis(redis_config: RedisConfig) -> Iterator[redis_py.Redis]:
    with redis_config.connect() as client:
        yield client


@pytest.fixture
def store(redis_config: RedisConfig) -> Iterator[WalletStore]:
    store = WalletStore(redis_config, lambda: NOW_MS)
    yield store
    store.close()


def up(engine: EngineProcess) -> None:
    if not engine.running:
        engine.start()

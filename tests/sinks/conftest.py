"""Engines that a test of a sink may kill: each is started again after the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from clickhouse_connect.driver.client import Client

from dataflows.embedded import ClickHouse, EngineProcess, Kafka, Redis
from sinks.clickhouse import ClickHouseConfig
from sinks.wallets import RedisConfig


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


def up(engine: EngineProcess) -> None:
    if not engine.running:
        engine.start()

"""Settings for commands: the engines of this run, and everything else of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import clickhouse_connect
import pytest
import redis

from dataflows.embedded import Engines
from dataflows.embedded.processes import free_port
from tests.dataflows.commands import CATALOG, Settings, meterline

numbers = count(1)


@pytest.fixture
def fresh(engines: Engines, tmp_path: Path) -> Iterator[Settings]:
    """Topics, databases and a recovery store of a test's own; none is there yet."""
    number = next(numbers)
    redis_url = engines.redis_url.removesuffix("/0") + f"/{1 + number % 15}"
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG)
    yield {
        "METERLINE_KAFKA_BROKERS": engines.kafka_brokers,
        "METERLINE_USAGE_TOPIC": f"cli-usage-{number}",
        "METERLINE_ACCOUNT_TOPIC": f"cli-account-{number}",
        "METERLINE_DEAD_LETTER_TOPIC": f"cli-dead-{number}",
        "METERLINE_ALERT_TOPIC": f"cli-alerts-{number}",
        "METERLINE_CLICKHOUSE_URL": engines.clickhouse.database_url(f"cli_{number}"),
        "METERLINE_REDIS_URL": redis_url,
        "METERLINE_CATALOG": str(catalog),
        "METERLINE_RECOVERY_DIR": str(tmp_path / "recovery"),
        "METERLINE_METRICS_PORT": str(free_port()),
        "METERLINE_EPOCH_S": "0.5",
        "METERLINE_KAFKA_TIMEOUT_S": "5",
    }
    with clickhouse_connect.get_client(dsn=engines.clickhouse_url) as client:
        client.command(f"DROP DATABASE IF EXISTS cli_{number}")


@pytest.fixture
def ready(fresh: Settings) -> Settings:
    """With topics and tables."""
    assert meterline(fresh, "topics").code == 0
    assert meterline(fresh, "migrate").code == 0
    return fresh

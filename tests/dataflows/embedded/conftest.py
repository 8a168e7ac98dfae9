"""A table to try things on."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.client import Client


@pytest.fixture
def numbered(clickhouse: Client) -> Client:
    clickhouse.command(
        "CREATE OR REPLACE TABLE numbered (number UInt64, name String) ENGINE = MergeTree ORDER BY number"
    )
    return clickhouse

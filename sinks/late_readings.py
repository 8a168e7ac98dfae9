"""Readings that came after their window was closed: the table `late_readings`.

Batches of `schemas.arrow.LATE_READINGS`.
Harmless to replay: a row is a function of its record and its meter, and both are in the table's key.
"""

from __future__ import annotations

from schemas.arrow import LATE_READINGS
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from sinks.dead_letters import StoreRejects
from sinks.kept_rows import MakeFiles

TABLE = "late_readings"


def late_readings(config: ClickHouseConfig, shards: int, files: MakeFiles | None = None) -> ClickHouseSink:
    return ClickHouseSink(config, TABLE, LATE_READINGS, shards, StoreRejects(config, TABLE), files=files)

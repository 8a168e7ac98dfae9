"""Windows as they roll, one row a (tenant, meter, customer, window): the table `usage_windows`.

Batches of `schemas.arrow.USAGE_WINDOWS`.
Harmless to replay: a row is the whole window so far, and ReplacingMergeTree keeps the highest `version`,
which is generation and readings folded in, never the clock.
"""

from __future__ import annotations

from schemas.arrow import USAGE_WINDOWS
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from sinks.dead_letters import StoreRejects
from sinks.kept_rows import MakeFiles

TABLE = "usage_windows"


def usage_windows(config: ClickHouseConfig, shards: int, files: MakeFiles | None = None) -> ClickHouseSink:
    return ClickHouseSink(config, TABLE, USAGE_WINDOWS, shards, StoreRejects(config, TABLE), files=files)

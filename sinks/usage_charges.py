"""Charges as they grow, one row a (tenant, customer, period, meter): the table `usage_charges`.

Batches of `schemas.arrow.USAGE_CHARGES`.
Harmless to replay: a row is the whole charge so far, and ReplacingMergeTree keeps the highest `version`,
which is generation and readings folded in, never the clock.
"""

from __future__ import annotations

from schemas.arrow import USAGE_CHARGES
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from sinks.dead_letters import StoreRejects
from sinks.kept_rows import MakeFiles

TABLE = "usage_charges"


def usage_charges(config: ClickHouseConfig, shards: int, files: MakeFiles | None = None) -> ClickHouseSink:
    return ClickHouseSink(config, TABLE, USAGE_CHARGES, shards, StoreRejects(config, TABLE), files=files)

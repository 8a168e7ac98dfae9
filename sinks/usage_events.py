"""Every counted event as it was sent: the table `usage_events`.

Batches of `schemas.arrow.USAGE_EVENTS`.
Harmless to replay: a row is a function of its Kafka record (`ingested_at` is the append time), so a
repeated row is the same row, and ReplacingMergeTree keeps one.
"""

from __future__ import annotations

from schemas.arrow import USAGE_EVENTS
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from sinks.dead_letters import StoreRejects
from sinks.kept_rows import MakeFiles

TABLE = "usage_events"


def usage_events(
    config: ClickHouseConfig, shards: int, topic: str, files: MakeFiles | None = None
) -> ClickHouseSink:
    """`topic`: where the events come from; it names the dead letter of a row that ClickHouse refuses."""
    return ClickHouseSink(
        config, TABLE, USAGE_EVENTS, shards, StoreRejects(config, TABLE, topic), files=files
    )

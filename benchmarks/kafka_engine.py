"""ClickHouse's own Kafka engine: raw rows, and one materialized view that aggregates them by the minute.

    .venv-chdb/bin/python benchmarks/kafka_engine.py BROKERS TOPIC EVENTS DIRECTORY

Runs in a virtual environment of its own, with chdb 3.7.2 (ClickHouse 25.8), and imports nothing of ours:
chdb 4 can't run the Kafka engine. Prints one JSON object with what it took; DIRECTORY/usage.json has what
it counted. The clock runs from the first rows that can be queried to 95 % of all: neither joining the group
nor the wait for the last, half-filled block is what is compared.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from chdb.session import Session

POLL_S = 0.05
TIMEOUT_S = 900
MEASURED_PART = 0.95
CONFIG = """<clickhouse>
  <background_message_broker_schedule_pool_size>8</background_message_broker_schedule_pool_size>
</clickhouse>"""

TABLES = """
CREATE DATABASE app ENGINE = Atomic;
CREATE TABLE app.events (id String, tenant_id LowCardinality(String), event_name LowCardinality(String),
  external_customer_id String, timestamp DateTime64(3, 'UTC'), source LowCardinality(String),
  properties String)
ENGINE = MergeTree ORDER BY (tenant_id, event_name, external_customer_id, timestamp);
CREATE TABLE app.usage_minute (tenant_id LowCardinality(String), event_name LowCardinality(String),
  external_customer_id String, minute DateTime('UTC'), events SimpleAggregateFunction(sum, UInt64),
  summed SimpleAggregateFunction(sum, UInt64), tokens SimpleAggregateFunction(sum, UInt64),
  latency_ms SimpleAggregateFunction(sum, Float64), gb_hours SimpleAggregateFunction(sum, Float64),
  users AggregateFunction(uniqCombined64, String))
ENGINE = AggregatingMergeTree ORDER BY (tenant_id, event_name, external_customer_id, minute);
CREATE MATERIALIZED VIEW app.usage_minute_view TO app.usage_minute AS
SELECT tenant_id, event_name, external_customer_id, toStartOfMinute(timestamp) AS minute, count() AS events,
  countIf(is_summed) AS summed, sumIf(JSONExtractUInt(properties, 'tokens'), is_summed) AS tokens,
  sum(JSONExtractFloat(properties, 'latency_ms')) AS latency_ms,
  sum(JSONExtractFloat(properties, 'gb_hours')) AS gb_hours,
  uniqCombined64State(JSONExtractString(properties, 'user_id')) AS users
FROM (SELECT *, JSONExtractString(properties, 'model') IN ('gpt-l', 'gpt-m')
  AND JSONExtractString(properties, 'region') IN ('eu-1', 'us-1') AS is_summed FROM app.events)
GROUP BY tenant_id, event_name, external_customer_id, minute;
CREATE TABLE app.queue (id String, tenant_id String, event_name String, external_customer_id String,
  timestamp DateTime64(3, 'UTC'), source String, properties String)
ENGINE = Kafka SETTINGS kafka_broker_list = '{brokers}', kafka_topic_list = '{topic}',
  kafka_group_name = 'benchmark-{topic}-{moment}', kafka_format = 'JSONEachRow', kafka_num_consumers = 2,
  kafka_thread_per_consumer = 1, kafka_flush_interval_ms = 2000,
  input_format_json_read_objects_as_strings = 1, date_time_input_format = 'best_effort';
CREATE MATERIALIZED VIEW app.queue_view TO app.events AS SELECT * FROM app.queue;
"""
USAGE = """
SELECT event_name, external_customer_id, toUnixTimestamp(minute) AS start, sum(events) AS events,
  sum(summed) AS summed, sum(tokens) AS tokens, sum(latency_ms) AS latency_ms, sum(gb_hours) AS gb_hours,
  uniqCombined64Merge(users) AS users
FROM app.usage_minute GROUP BY event_name, external_customer_id, minute
"""


def main() -> None:
    brokers, topic, events, directory = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    (directory / "config.xml").write_text(CONFIG)
    session: Any = Session(f"{directory / 'data'}?config-file={directory / 'config.xml'}")  # type: ignore[no-untyped-call]
    moment = time.time_ns()
    for statement in TABLES.split(";\n"):
        if statement.strip():
            named = statement.replace("{brokers}", brokers).replace("{topic}", topic)
            session.query(named.replace("{moment}", str(moment)))
    first, began, cpu_before = 0, 0.0, 0.0
    counted, deadline = 0, time.monotonic() + TIMEOUT_S
    result: dict[str, float] = {}
    while counted < events:
        counted = int(str(session.query("SELECT count() FROM app.events", "TSV")))
        if counted and not first:
            first, began, cpu_before = counted, time.perf_counter(), time.process_time()
        if first and not result and counted > first and counted >= MEASURED_PART * events:
            result = {
                "events": counted - first,
                "seconds": time.perf_counter() - began,
                "cpu_s": time.process_time() - cpu_before,
            }
        if time.monotonic() > deadline:
            sys.exit(f"{counted} of {events} events after {TIMEOUT_S} s")
        time.sleep(POLL_S)
    while int(str(session.query("SELECT sum(events) FROM app.usage_minute", "TSV"))) < counted:
        time.sleep(POLL_S)  # the view's rows of a block are there a moment later
    (directory / "usage.json").write_text(str(session.query(USAGE, "JSONCompactEachRow")))
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**result, "rss_mb": rss_mb}), flush=True)


if __name__ == "__main__":
    main()

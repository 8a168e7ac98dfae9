"""The same five meters as Bytewax's documentation teaches them: an event is an item, a window is an operator.

    python -m benchmarks.bytewax_flow BROKERS TOPIC CLICKHOUSE_URL RECOVERY_DIR

KafkaSource -> map -> raw rows; filter, key_on, fold_window a meter -> rows of closed windows. Recovery is on.
In its best form that stays idiomatic: orjson, batches of 10,000 from Kafka and to ClickHouse, unordered
windows (sums don't mind), an hour's wait so that no backlog is late, and no wake-ups for it, which would
visit each key at each activation. No dedupe, no bills, no wallets, no dead letters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow, Stream
from bytewax.operators import KeyedStream
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from typing_extensions import override

from benchmarks.catalog import API, LLM, STORAGE, SUMMED_MODELS, SUMMED_REGIONS
from benchmarks.processes import BEGINS, ENDS
from sinks.clickhouse import ClickHouseConfig

BATCH = 10_000
MINUTE = timedelta(minutes=1)
EPOCH = timedelta(seconds=2)
NO_VALUES: frozenset[str] = frozenset()
ALIGN_TO = datetime(2026, 1, 1, tzinfo=UTC)

EVENTS_DDL = """
CREATE TABLE bytewax_events (id String, tenant_id LowCardinality(String), event_name LowCardinality(String),
  external_customer_id String, timestamp DateTime64(3, 'UTC'), source LowCardinality(String),
  properties String)
ENGINE = MergeTree ORDER BY (tenant_id, event_name, external_customer_id, timestamp)
"""
WINDOWS_DDL = """
CREATE TABLE bytewax_windows (meter_id LowCardinality(String), external_customer_id String,
  window_start DateTime('UTC'), events UInt64, total Float64, uniques UInt64)
ENGINE = MergeTree ORDER BY (meter_id, external_customer_id, window_start)
"""
EVENT_COLUMNS = (
    *("id", "tenant_id", "event_name", "external_customer_id"),
    *("timestamp", "source", "properties"),
)
WINDOW_COLUMNS = ("meter_id", "external_customer_id", "window_start", "events", "total", "uniques")


@dataclass(slots=True)
class Event:
    """A parsed event."""

    id: str
    tenant_id: str
    event_name: str
    external_customer_id: str
    timestamp: datetime
    source: str
    properties: dict[str, Any]


Usage = tuple[int, float, frozenset[str] | set[str]]
"""What a window has of one customer: events, total, distinct values. A tuple, since each epoch copies the
state of every key that it touched, and copying an object costs three times as much."""


def nothing() -> Usage:
    return 0, 0.0, NO_VALUES


def no_values() -> Usage:
    return 0, 0.0, set()


def merge(one: Usage, other: Usage) -> Usage:
    return one[0] + other[0], one[1] + other[1], one[2] | other[2]


def parse(message: Any) -> Event:
    """A `KafkaSourceMessage`; the source raises at an error, so that none arrives."""
    said = orjson.loads(message.value or b"")
    return Event(
        said["id"],
        said["tenant_id"],
        said["event_name"],
        said["external_customer_id"],
        datetime.fromisoformat(said["timestamp"]),
        said["source"],
        said["properties"],
    )


def count(usage: Usage, _event: Event) -> Usage:
    return usage[0] + 1, 0.0, NO_VALUES


def add(name: str) -> Callable[[Usage, Event], Usage]:
    def folder(usage: Usage, event: Event) -> Usage:
        return usage[0] + 1, usage[1] + event.properties[name], NO_VALUES

    return folder


def distinct(usage: Usage, event: Event) -> Usage:
    usage[2].add(event.properties["user_id"])  # type: ignore[union-attr]  # built by no_values
    return usage[0] + 1, 0.0, usage[2]


def is_summed(event: Event) -> bool:
    properties = event.properties
    return (
        event.event_name == LLM
        and properties["model"] in SUMMED_MODELS
        and properties["region"] in SUMMED_REGIONS
    )


METERS: dict[str, tuple[Callable[[Event], bool], Callable[[Usage, Event], Usage]]] = {
    "api-requests": (lambda event: event.event_name == API, count),
    "llm-tokens": (is_summed, add("tokens")),
    "api-latency": (lambda event: event.event_name == API, add("latency_ms")),
    "active-users": (lambda event: event.event_name == LLM, distinct),
    "storage": (lambda event: event.event_name == STORAGE, add("gb_hours")),
}


class RowsPartition(StatelessSinkPartition[tuple[Any, ...]]):
    """Inserts what comes, a batch an insert."""

    def __init__(self, config: ClickHouseConfig, table: str, columns: tuple[str, ...]) -> None:
        self._client, self._table, self._columns = config.connect(), table, columns

    @override
    def write_batch(self, items: list[tuple[Any, ...]]) -> None:
        self._client.insert(self._table, items, column_names=self._columns)

    @override
    def close(self) -> None:
        self._client.close()


class RowsSink(DynamicSink[tuple[Any, ...]]):
    """A table of ClickHouse."""

    def __init__(self, url: str, table: str, columns: tuple[str, ...]) -> None:
        self._config, self._table, self._columns = ClickHouseConfig(url=url), table, columns

    @override
    def build(self, step_id: str, worker_index: int, worker_count: int) -> RowsPartition:
        return RowsPartition(self._config, self._table, self._columns)


def event_row(event: Event) -> tuple[Any, ...]:
    return (
        event.id,
        event.tenant_id,
        event.event_name,
        event.external_customer_id,
        event.timestamp,
        event.source,
        orjson.dumps(event.properties).decode(),
    )


def metered(meter: str, events: Stream[Event]) -> Stream[tuple[Any, ...]]:
    """The closed windows of one meter, as rows."""
    matches, folder = METERS[meter]
    clock: win.EventClock[Event] = win.EventClock(
        lambda event: event.timestamp,
        wait_for_system_duration=timedelta(hours=1),
        to_system_utc=lambda _: None,
    )
    matched = op.filter(f"{meter}-filter", events, matches)
    keyed: KeyedStream[Event] = op.key_on(f"{meter}-key", matched, lambda event: event.external_customer_id)
    windows = win.fold_window(
        f"{meter}-window",
        keyed,
        clock,
        win.TumblingWindower(length=MINUTE, align_to=ALIGN_TO),
        no_values if folder is distinct else nothing,
        folder,
        merge,
        ordered=False,
    )

    def row(closed: tuple[str, tuple[int, Usage]]) -> tuple[Any, ...]:
        customer, (window_id, usage) = closed
        start = ALIGN_TO + window_id * MINUTE
        events, total, uniques = usage
        return meter, customer, start, events, total, len(uniques)

    return op.map(f"{meter}-row", windows.down, row)


def flow(brokers: str, topic: str, clickhouse_url: str) -> Dataflow:
    flow = Dataflow("usage")
    messages = op.input("kafka", flow, KafkaSource([brokers], [topic], tail=False, batch_size=BATCH))
    events = op.map("parse", messages, parse)
    rows = op.map("row", events, event_row)
    op.output("events", rows, RowsSink(clickhouse_url, "bytewax_events", EVENT_COLUMNS))
    windows = op.merge("windows", *(metered(meter, events) for meter in METERS))
    op.output("usage", windows, RowsSink(clickhouse_url, "bytewax_windows", WINDOW_COLUMNS))
    return flow


def main() -> None:
    brokers, topic, clickhouse_url, directory = sys.argv[1:]
    with ClickHouseConfig(url=clickhouse_url).connect() as client:
        for statement in (EVENTS_DDL, WINDOWS_DDL):
            client.command(statement)
    Path(directory).mkdir(parents=True)
    init_db_dir(Path(directory), 1)  # type: ignore[no-untyped-call]
    print(BEGINS, flush=True)
    cli_main(  # type: ignore[no-untyped-call]
        flow(brokers, topic, clickhouse_url),
        epoch_interval=EPOCH,
        recovery_config=RecoveryConfig(directory),  # type: ignore[no-untyped-call]
    )
    print(ENDS, flush=True)


if __name__ == "__main__":
    main()

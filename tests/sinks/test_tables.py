"""What makes a replay into each table harmless: usage_events, usage_windows, usage_charges, late_readings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from schemas.arrow import LATE_READINGS, USAGE_CHARGES
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from sinks.late_readings import late_readings
from sinks.shards import shard_keys
from sinks.usage_charges import usage_charges
from sinks.usage_events import usage_events
from sinks.usage_windows import usage_windows
from tests.sinks.batches import AT, events, windows


def write(sink: ClickHouseSink, batches: Sequence[pa.RecordBatch]) -> None:
    """One epoch a batch, on two shards in turn."""
    parts = [sink.build_part("step", key, None) for key in sink.list_parts()[:2]]
    for number, batch in enumerate(batches):
        parts[number % 2].write_batch([batch])
        parts[number % 2].snapshot()
    for part in parts:
        part.close()


def charge(events: int, version: int) -> pa.RecordBatch:
    row = {
        "tenant_id": "acme",
        "external_customer_id": "c",
        "period_start": AT,
        "period_end": AT,
        "meter_id": "m",
        "plan_id": "p",
        "currency": "USD",
        "events": events,
        "quantity": Decimal(events),
        "amount_unrounded": Decimal(events) / 1000,
        "amount": Decimal(events),
        "tiers": "[]",
        "version": version,
    }
    return pa.RecordBatch.from_pylist([row], schema=USAGE_CHARGES)


def late(meter: str) -> pa.RecordBatch:
    row = {
        "tenant_id": "acme",
        "meter_id": meter,
        "external_customer_id": "c",
        "window_start": AT,
        "window_s": 60,
        "id": "evt",
        "timestamp": AT,
        "ingested_at": AT,
        "value": Decimal("0.000000000001"),
        "token": 2**64 - 1,
        "partition": 1,
        "offset": 7,
    }
    return pa.RecordBatch.from_pylist([row], schema=LATE_READINGS)


CASES: dict[
    str, tuple[Callable[[ClickHouseConfig], ClickHouseSink], list[pa.RecordBatch], str, list[Any]]
] = {
    "usage_windows": (
        lambda config: usage_windows(config, 4),
        [
            windows("acme", ["c"], total=total, version=v)
            for total, v in [("1", 1), ("3", 3), ("2", 2), ("3", 3)]
        ],
        "total, version",
        [(Decimal(3), 3)],
    ),
    "usage_charges": (
        lambda config: usage_charges(config, 4),
        [charge(1, 1), charge(5, 1 << 40), charge(9, 9)],
        "amount, amount_unrounded, version",
        [(Decimal(5), Decimal("0.005"), 1 << 40)],
    ),
    "late_readings": (
        lambda config: late_readings(config, 4),
        [late("one"), late("two"), late("one")],
        "meter_id, value, token",
        [("one", Decimal("0.000000000001"), 2**64 - 1), ("two", Decimal("0.000000000001"), 2**64 - 1)],
    ),
    "usage_events": (
        lambda config: usage_events(config, 4, "usage-events"),
        [events("acme", ["a", "b"]), events("acme", ["a"])],
        "id, properties, offset",
        [("a", '{"n": 1}', 0), ("b", '{"n": 1}', 1)],
    ),
}


@pytest.mark.parametrize("table", CASES)
def test_a_replay_changes_nothing(table: str, config: ClickHouseConfig, client: Client) -> None:
    sink, batches, columns, expected = CASES[table]
    write(sink(config), batches)
    write(sink(config), batches)
    rows = client.query(
        f"SELECT {columns} FROM {table} FINAL WHERE tenant_id = 'acme' ORDER BY ALL"
    ).result_rows
    assert rows == expected


def test_keys_are_the_shards(config: ClickHouseConfig) -> None:
    sink = usage_windows(config, 12)
    assert sink.list_parts() == shard_keys(12) == [f"{shard:03d}" for shard in range(12)]
    assert [sink.part_fn(key) for key in sink.list_parts()] == list(range(12))
    assert shard_keys(999) == sorted(shard_keys(999))  # Bytewax indexes the sorted parts by `part_fn`

"""A charge that a crash repeats with other records read first must still overtake what was sent before it."""

from __future__ import annotations

import orjson

from tests.operators.test_pipeline import CATALOG, PARTITIONS, START, START_MS, Log, Run
from tests.oracle import LogRecord, expected


def usage(partition: int, offset: int, name: str) -> LogRecord:
    event = {
        "id": f"{partition}-{offset}",
        "event_name": name,
        "external_customer_id": "c",
        "timestamp": START.isoformat(),
        "properties": {"gb_hours": 1},
    }
    return LogRecord("usage-events", partition, offset, START_MS + offset, b"c", orjson.dumps(event))


def credit(offset: int) -> LogRecord:
    event = {
        "id": f"credit-{offset}",
        "tenant_id": "default",
        "external_customer_id": "c",
        "timestamp": START.isoformat(),
        "type": "credit_granted",
        "amount": "1.00",
        "currency": "USD",
    }
    return LogRecord("account-events", 0, offset, START_MS + offset, b"c", orjson.dumps(event))


def log_of(requests: int, storage: int, grants: int) -> Log:
    parts = (
        tuple(usage(0, offset, "api_request") for offset in range(requests)),
        tuple(usage(1, offset, "storage") for offset in range(storage)),
        *(() for _ in range(PARTITIONS - 2)),
    )
    accounts = tuple(credit(offset) for offset in range(grants))
    return Log(parts, accounts, expected([*accounts, *parts[0], *parts[1]], CATALOG))


def requests_charged(run: Run) -> int:
    run.finish()
    (row,) = (row for row in run.pipeline.stores.charges.values() if row["meter_id"] == "api-requests")
    return int(row["events"])


def test_a_charge_is_right_when_a_replay_reads_usage_before_credits() -> None:
    run = Run(log_of(requests=8, storage=0, grants=3))
    run.poll(0, 1)
    run.snapshot()
    run.poll(PARTITIONS, 3)
    run.poll(0, 6)
    run.pipeline.tick(1.5)
    run.crash()
    run.poll(0, 7)
    run.pipeline.tick(1.5)
    run.poll(PARTITIONS, 3)
    run.pipeline.tick(1.5)
    assert requests_charged(run) == 8


def test_a_charge_is_right_when_a_replay_reads_partitions_in_another_order() -> None:
    run = Run(log_of(requests=8, storage=6, grants=0))
    run.poll(0, 1)
    run.poll(1, 1)
    run.snapshot()
    run.poll(1, 5)
    run.poll(0, 6)
    run.pipeline.tick(1.5)
    run.crash()
    run.poll(0, 7)
    run.pipeline.tick(1.5)
    run.poll(1, 5)
    run.pipeline.tick(1.5)
    assert requests_charged(run) == 8

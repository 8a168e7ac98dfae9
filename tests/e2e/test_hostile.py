"""Hostile payloads among good events: no crash, no good event lost, every bad one dead-lettered once.

20,000 of them here; `pytest tests/e2e/test_hostile.py --hostile 200000` for what is promised.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer

from dataflows.embedded import Engines
from dataflows.workload import Workload
from dataflows.workload_catalog import CURRENCY, workload_catalog
from sinks.clickhouse import ClickHouseConfig
from tests.e2e.hostile import LARGE_ONE_IN, MEGABYTE, NAMES
from tests.e2e.hostile import hostile as hostile_payloads
from tests.e2e.job import Job
from tests.e2e.stores import compare, read_log
from tests.oracle import Rules

EVENT_BYTES_MAX = 700_000
"""Between the two sizes of large payloads: one is stored, the other is a dead letter."""
BURST = 60
"""Large payloads in a row, which a poll would take together."""
RSS_BYTES_MAX = 800 << 20
"""300 MiB before the first event, then what two tables buffer, at most 64 MiB each, in up to four forms at
once: as it came, in one piece, as the insert's body, and as an epoch keeps it. Measured: 560 to 680 MiB."""


def produce(brokers: str, seed: int, count: int) -> int:
    """Hostile payloads and as many good events, in turns; and credits for every strange name."""
    producer = Producer({"bootstrap.servers": brokers, "message.max.bytes": 2 * MEGABYTE, "acks": "all"})
    start = datetime.now(UTC)
    good = Workload(seed, start=start, rate=5000, bad=0, late=0.01).events()
    # Of other ids, and on one partition: two of them that get the same id have an order then.
    bad = hostile_payloads(seed, Workload(seed + 1000, start=start, rate=5000, bad=0).events())
    for number in range(count):
        event, payload = next(good), next(bad)
        send(producer, "usage-events", event.key, event.value, list(event.headers))
        send(
            producer,
            "usage-events",
            b"hostile",
            payload,
            [("tenant-id", NAMES[number % len(NAMES)].encode())],
        )
    for name in NAMES:
        credit = {
            "id": name,
            "tenant_id": name,
            "external_customer_id": name,
            "timestamp": start.isoformat(timespec="milliseconds"),
            "type": "credit_granted",
            "amount": "10.00",
            "currency": CURRENCY,
        }
        send(producer, "account-events", name.encode(), orjson.dumps(credit), [])
    note = b'{"id":"%d","event_name":"x","external_customer_id":"c","properties":{"note":"%b"}}'
    for number in range(BURST):
        send(producer, "usage-events", b"burst", note % (number, b"x" * (EVENT_BYTES_MAX - 100)), [])
    assert producer.flush(60) == 0
    return 2 * count + BURST


def send(
    producer: Producer, topic: str, key: bytes, value: bytes, headers: list[tuple[str, str | bytes | None]]
) -> None:
    while True:
        try:
            producer.produce(topic, value, key, headers=headers)
        except BufferError:
            producer.poll(0.1)
        else:
            producer.poll(0)
            return


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(3600)
def test_hostile_payloads_cost_only_themselves(
    started: Engines, tmp_path: Path, hostile: int, seed: int
) -> None:
    settings = {
        "METERLINE_EVENT_BYTES_MAX": str(EVENT_BYTES_MAX),
        "METERLINE_DEAD_LETTER_RATIO_MAX": "1",
    }
    job = Job(started, tmp_path, workload_catalog(), settings)
    written = produce(started.kafka_brokers, seed, hostile)
    job.start("--until-end")
    job.wait_until_reading()
    time.sleep(2)
    job.kill()  # in the middle: what is dead-lettered again is still there once
    job.start("--until-end")
    highest = 0
    while job.is_running():
        highest = max(highest, rss_bytes(job.processes[0].pid))
        time.sleep(0.05)
    assert job.wait() == [0], job.log()
    truth, found = compare(started, workload_catalog(), Rules(event_bytes_max=EVENT_BYTES_MAX))
    assert not found, str(found)
    assert len(truth.events) + len(truth.rejects) + len(truth.duplicates) == written
    assert len(truth.events) > hostile, "good events, and some of the hostile ones"
    assert len(truth.rejects) > hostile / 2, "most hostile ones are bad"
    assert "too_large" in truth.rejects.values() or hostile < 4 * LARGE_ONE_IN
    assert highest < RSS_BYTES_MAX, f"{highest >> 20} MiB"
    assert_payloads_are_kept(started)


def assert_payloads_are_kept(started: Engines) -> None:
    """Dead letters have the original bytes and the original key."""
    log = {(r.topic, r.partition, r.offset): r for r in read_log(started.kafka_brokers, ["usage-events"])}
    config = ClickHouseConfig(url=started.clickhouse_url)
    columns = "topic, partition, offset, hex(MD5(payload)), hex(MD5(key))"
    with closing(config.connect()) as client:
        rows = client.query(f"SELECT {columns} FROM dead_letters FINAL").result_rows
    for topic, partition, offset, payload, key in rows:
        record = log[topic, partition, offset]
        assert payload == md5(record.value or b""), record
        assert key == md5(record.key or b""), record


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest().upper()

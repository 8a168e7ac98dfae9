"""What the flow left in ClickHouse and Redis, and how that differs from what the oracle expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, TopicPartition
from redis import Redis

from dataflows.embedded import Engines
from sinks.clickhouse import ClickHouseConfig
from sinks.wallet_store import wallet_key
from tests.oracle import Expected, LogRecord, Rules
from tests.oracle import expected as expected_of

SHOWN_MAX = 5
STREAM_KEPT_MIN = 1000
"""A stream of fewer entries has not been cut (`RedisConfig.deltas_max`)."""


@dataclass
class Differences:
    """What is not as expected, by table; empty is right."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def compare(self, table: str, expected: Mapping[Any, Any], actual: Mapping[Any, Any]) -> None:
        """Both as key -> plain values; equal as a whole, to the last digit."""
        wrong = [f"{key} is missing, expected {expected[key]}" for key in expected.keys() - actual.keys()]
        wrong += [f"{key} is not expected: {actual[key]}" for key in actual.keys() - expected.keys()]
        wrong += [
            f"{key} is {actual[key]}, expected {expected[key]}"
            for key in expected.keys() & actual.keys()
            if actual[key] != expected[key]
        ]
        if wrong:
            self.found[table] = sorted(wrong)

    def __bool__(self) -> bool:
        return bool(self.found)

    def __str__(self) -> str:
        lines = []
        for table, wrong in self.found.items():
            lines.append(f"{table}: {len(wrong)} differences")
            lines += [f"  {sentence}" for sentence in wrong[:SHOWN_MAX]]
        return "\n".join(lines) or "no differences"


def compare(engines: Engines, catalog: str, rules: Rules | None = None) -> tuple[Expected, Differences]:
    """The stores of a finished flow against the oracle's reading of its log."""
    truth = expected_of(read_log(engines.kafka_brokers, ["usage-events", "account-events"]), catalog, rules)
    with (
        closing(ClickHouseConfig(url=engines.clickhouse_url).connect()) as clickhouse,
        closing(Redis.from_url(engines.redis_url)) as redis,
    ):
        found = differences(truth, clickhouse, redis)
    sent = {record.key: "sent" for record in read_log(engines.kafka_brokers, ["dead-letters"])}
    wanted = {f"{topic}/{partition}/{offset}".encode(): "sent" for topic, partition, offset in truth.rejects}
    found.compare("dead-letters topic", wanted, sent)
    return truth, found


def differences(expected: Expected, clickhouse: Client, redis: Redis) -> Differences:
    """Every raw row, window, late reading, charge, dead letter and wallet against the oracle."""
    found = Differences()
    found.compare("usage_events", _expected_events(expected), _events(clickhouse))
    found.compare("usage_windows", _expected_windows(expected), _windows(clickhouse))
    found.compare("late_readings", _expected_late(expected), _late(clickhouse))
    charges = _expected_charges(expected)
    found.compare("usage_charges", charges, _without_leftovers(_charges(clickhouse), charges))
    found.compare("dead_letters", expected.rejects, _dead_letters(clickhouse))
    wallets = {
        key: (w.balance, w.unpaid_invoices, w.usage, w.available) for key, w in expected.wallets.items()
    }
    stored = read_wallets(redis)
    found.compare("wallets", wallets, _without_leftovers(stored, wallets))
    streams = {key: stored[key][3] for key in stored.keys() & wallets.keys()}
    found.compare("wallet deltas", streams, {key: followed_deltas(redis, *key) for key in streams})
    return found


def _without_leftovers(actual: dict[Any, Any], expected: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without what is of nothing and not expected: usage that is read before the plan change that moves it
    leaves a charge of 0, and maybe a wallet of 0, of the plan that turned out not to hold then."""
    return {
        key: row
        for key, row in actual.items()
        if key in expected or any(value for value in row if not isinstance(value, str))
    }


def _rows(clickhouse: Client, columns: str, table: str) -> Iterator[Any]:
    yield from clickhouse.query(
        f"SELECT {columns} FROM {table} FINAL", settings={"max_threads": 2}
    ).result_rows


def _expected_events(expected: Expected) -> dict[Any, Any]:
    return {
        event.position: (
            event.tenant_id,
            event.event_name,
            event.external_customer_id,
            event.id,
            event.timestamp,
        )
        for event in expected.events.values()
    }


def _events(clickhouse: Client) -> dict[Any, Any]:
    columns = "partition, offset, tenant_id, event_name, external_customer_id, id, timestamp"
    rows = _rows(clickhouse, columns, "usage_events")
    return {("usage-events", *row[:2]): (*row[2:6], _utc(row[6])) for row in rows}


def _expected_windows(expected: Expected) -> dict[Any, Any]:
    # The version is the readings of the window, whatever was sent how often.
    return {key: (w.events, w.total, len(w.uniques), w.events) for key, w in expected.windows.items()}


def _windows(clickhouse: Client) -> dict[Any, Any]:
    columns = (
        "tenant_id, meter_id, external_customer_id, window_start, window_s, events, total, "
        "finalizeAggregation(uniques), version"
    )
    return {(*row[:3], _utc(row[3]), row[4]): row[5:9] for row in _rows(clickhouse, columns, "usage_windows")}


def _expected_late(expected: Expected) -> dict[Any, Any]:
    return {(*position[1:], meter_id): r.value for (position, meter_id), r in expected.late.items()}


def _late(clickhouse: Client) -> dict[Any, Any]:
    return {
        row[:3]: row[3] for row in _rows(clickhouse, "partition, offset, meter_id, value", "late_readings")
    }


def _expected_charges(expected: Expected) -> dict[Any, Any]:
    return {
        key: (c.currency, c.events, c.quantity, c.amount_unrounded, c.amount)
        for key, c in expected.charges.items()
    }


def _charges(clickhouse: Client) -> dict[Any, Any]:
    columns = (
        "tenant_id, external_customer_id, meter_id, period_start, plan_id, "
        "currency, events, quantity, amount_unrounded, amount"
    )
    return {(*row[:3], _utc(row[3]), row[4]): row[5:] for row in _rows(clickhouse, columns, "usage_charges")}


def _dead_letters(clickhouse: Client) -> dict[Any, Any]:
    return {row[:3]: row[3] for row in _rows(clickhouse, "topic, partition, offset, reason", "dead_letters")}


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def read_wallets(redis: Redis) -> dict[tuple[str, str, str], tuple[Decimal, Decimal, Decimal, Decimal]]:
    """(tenant, customer, currency) -> (balance, unpaid_invoices, usage, available)."""
    wallets = {}
    for key in redis.scan_iter("wallet:*", count=1000):
        if redis.type(key) == b"hash":
            stored: Any = redis.hgetall(key)
            fields = {name.decode(): value.decode() for name, value in stored.items()}
            account = re.fullmatch(r"wallet:\{(.*):(.*)\}:.*", key.decode(), re.DOTALL)
            assert account is not None, key
            place = (unquote(account[1]), unquote(account[2]), fields["currency"])
            balance, unpaid, usage, available = (
                Decimal(fields[name]) for name in ("balance", "unpaid_invoices", "usage", "available")
            )
            wallets[place] = (balance, unpaid, usage, available)
    return wallets


def followed_deltas(redis: Redis, tenant_id: str, customer: str, currency: str) -> Decimal | str:
    """Where a wallet's delta stream leads, which must be its `available`; or where it breaks.

    Each delta must lead from the amount before it to its own, with a version that is not lower: one that is
    published twice, or not at all, or of a state that was overtaken, breaks it.
    """
    available: Decimal | None = None
    version = 0
    entries: Any = redis.xrange(wallet_key(tenant_id, customer, "deltas"))
    for number, entry in entries:
        if entry[b"currency"].decode() != currency:
            continue
        delta, after = Decimal(entry[b"delta"].decode()), Decimal(entry[b"available"].decode())
        if available is None:  # the first, or the first that the stream still has
            available = after - delta if len(entries) >= STREAM_KEPT_MIN else Decimal(0)
        if available + delta != after:
            return f"{available} and {delta} make {after} at {number}"
        if int(entry[b"version"]) < version:
            return f"version {int(entry[b'version'])} after {version} at {number}"
        available, version = after, int(entry[b"version"])
    return available or Decimal(0)


def read_log(brokers: str, topics: list[str]) -> list[LogRecord]:
    """Every record that the topics have now, as the broker has them: what the oracle judges.

    All partitions at once: the broker keeps a fetch waiting that finds nothing, half a second for each.
    """
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "oracle", "enable.auto.commit": False, "check.crcs": True}
    )
    starts, ends = list[TopicPartition](), dict[tuple[str, int], int]()
    for topic in topics:
        for partition in consumer.list_topics(topic, 10).topics[topic].partitions:
            low, ends[topic, partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            starts.append(TopicPartition(topic, partition, low))
    left = sum(ends.values()) - sum(start.offset for start in starts)
    consumer.assign(starts)
    log = list[LogRecord]()
    while len(log) < left:
        for message in consumer.consume(min(1000, left - len(log)), 1.0):
            assert message.error() is None, message.error()
            record = _log_record(message)
            if record.offset < ends[record.topic, record.partition]:
                log.append(record)
    consumer.close()
    return log


def _log_record(message: Any) -> LogRecord:
    place = message.topic(), message.partition(), message.offset()
    content = message.key(), message.value(), tuple(message.headers() or ())
    return LogRecord(*place, message.timestamp()[1], *content)

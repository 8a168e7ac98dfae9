"""A day of usage and account events, replayed from Kafka twice into empty stores: the same content twice.

The second replay is cut otherwise (two processes, other shards, small fetches, short epochs), so that what is
the same does not follow from the same timing. What may differ, and why:

- `updated_at` of a wallet is the clock's;
- the entries of a stream of deltas are as many as wallets were sent, and only where they lead is the log's;
- a charge of nothing may be left of a plan that turned out not to hold: usage that was read before the event
  that changes the plan was charged to the old one, and ClickHouse keeps the row that takes it back;
- which crossings of a threshold were seen, and so which alerts were told. What must be equal of them is where
  they end (tests/oracle_thresholds.py), and each is told once, in Kafka and in Redis, with the same content.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from redis import Redis

from dataflows.embedded import Engines, engines
from sinks.clickhouse import ClickHouseConfig
from sinks.wallet_store import MARKER
from tests.e2e.alerts import alerts_in_kafka, alerts_in_redis, threshold_of, wrong_alerts
from tests.e2e.day import Day, DayRecord
from tests.e2e.day_catalog import CATALOG
from tests.e2e.job import TOPICS, Job
from tests.e2e.stores import differences, read_log
from tests.oracle import Charge, ChargeKey, Expected, expected

TABLES = ("usage_events", "usage_windows", "late_readings", "usage_charges", "dead_letters")
READ = ["usage-events", "account-events"]
WRITTEN = ["dead-letters", "wallet-alerts"]
CREATE_TIME = {"message.timestamp.type": "CreateTime"}
TIMEOUT_S = 100
FETCHED_MAX = 60
"""Records of a batch, and so of a fetch that asks for little."""
OTHERWISE = {
    "METERLINE_SHARDS": "5",
    "METERLINE_EPOCH_S": "0.2",
    "METERLINE_WALLET_FLUSH_MS": "10",
    "METERLINE_POLL_INTERVAL_MS": "100",
    "METERLINE_KAFKA_OPTIONS": '{"fetch.message.max.bytes": 1000, "queued.min.messages": 1}',
}
"""The log in small pieces, with epochs and flushes in between: some seconds for what takes a poll or two."""
ZERO = Decimal(0)
Row = dict[str, Any]
Content = dict[str, Any]


@dataclass(frozen=True)
class Replay:
    """Where one run over the log left its results; all of it was empty before."""

    clickhouse_url: str
    redis_url: str
    dead_letter_topic: str
    alert_topic: str
    processes: int

    def run(self, started: Engines, directory: Path, **settings: str) -> None:
        directory.mkdir()
        places = {
            "METERLINE_CLICKHOUSE_URL": self.clickhouse_url,
            "METERLINE_REDIS_URL": self.redis_url,
            "METERLINE_DEAD_LETTER_TOPIC": self.dead_letter_topic,
            "METERLINE_ALERT_TOPIC": self.alert_topic,
        }
        job = Job(started, directory, CATALOG, places | settings)
        job.start("--until-end", "--migrate", processes=self.processes)
        assert job.wait(TIMEOUT_S) == [0] * self.processes, job.log()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Engines whose broker has the log of yesterday, and nothing else."""
    with engines(tmp_path_factory.mktemp("day") / "engines") as started:
        admin = AdminClient({"bootstrap.servers": started.kafka_brokers})
        counts = TOPICS | {f"{topic}-{number}": 1 for topic in WRITTEN for number in (1, 2)}
        topics = [
            NewTopic(topic, partitions, 1, config=CREATE_TIME if topic in READ else {})
            for topic, partitions in counts.items()
        ]
        for created in admin.create_topics(topics).values():
            created.result()
        write(started.kafka_brokers, Day(datetime.now(UTC).date() - timedelta(days=1)).records())
        yield started


@pytest.fixture(scope="module")
def truth(written: Engines) -> Expected:
    return expected(read_log(written.kafka_brokers, READ), CATALOG)


@pytest.fixture(scope="module")
def replays(written: Engines, tmp_path_factory: pytest.TempPathFactory) -> list[Replay]:
    found = []
    for number, processes in enumerate((1, 2), 1):
        database = written.clickhouse.database_url(f"day_{number}")
        redis_url = written.redis_url.removesuffix("/0") + f"/{number}"
        dead_letters, alerts = (f"{topic}-{number}" for topic in WRITTEN)
        found.append(Replay(database, redis_url, dead_letters, alerts, processes))
    directory = tmp_path_factory.mktemp("replays")
    found[0].run(written, directory / "first")
    found[1].run(written, directory / "second", **OTHERWISE)
    return found


def write(brokers: str, records: list[DayRecord]) -> None:
    producer = Producer(
        {"bootstrap.servers": brokers, "enable.idempotence": True, "batch.num.messages": FETCHED_MAX}
    )
    failures: list[str] = []
    for record in records:
        producer.produce(
            record.topic,
            record.value,
            record.key,
            timestamp=record.append_ms,
            on_delivery=lambda error, _: failures.append(str(error)) if error else None,
        )
    assert producer.flush(30) == 0, "the broker did not acknowledge all"
    assert not failures, failures[:3]


def test_the_day_has_everything(truth: Expected) -> None:
    charged = {plan for (*_, plan), charge in truth.charges.items() if charge.amount}
    assert charged == {"free", "starter", "business", "yen", "dinar"}
    assert {currency for _, _, currency in truth.wallets} == {"USD", "EUR", "JPY", "BHD"}
    assert {plan for (_, customer, *_, plan) in truth.charges if customer == "ana"} >= {"starter", "business"}
    ana = truth.wallets["acme", "ana", "USD"]
    # 60.25 + 50 + 25 - 70.255, of which 39.995 expired; 1000 were more than the 25 left, and 10 came after.
    assert (ana.balance, ana.unpaid_invoices) == (Decimal(-965), Decimal(0))
    assert ana.usage < 1  # of the first minutes, on the default plan; the rest is invoiced and paid
    assert truth.wallets["acme", "bob", "USD"].unpaid_invoices == Decimal("6.5")
    assert truth.wallets["acme", "cho", "JPY"].unpaid_invoices == Decimal(4000)
    assert truth.wallets["acme", "eve", "EUR"].unpaid_invoices == Decimal("187.2")
    reasons = list(truth.rejects.values())
    assert (reasons.count("account_event_impossible"), reasons.count("account_event_invalid")) == (4, 1)
    assert "value_not_numeric" in reasons
    assert truth.late
    assert truth.duplicates
    told = {(*key[1:],) for key, standing in truth.thresholds.items() if standing.is_told}
    assert told == {
        ("ana", "EUR", "tenth-used"),
        ("bob", "USD", "quarter-used"),
        *(
            (customer, "JPY", name)
            for customer in ("ana", "cho")
            for name in ("spend:1000", "low_balance:80pct")
        ),
        ("dan", "BHD", "in-debt"),
    }


@pytest.mark.parametrize("number", [0, 1])
def test_a_replay_equals_the_oracle(
    written: Engines, truth: Expected, replays: list[Replay], number: int
) -> None:
    with opened(replays[number]) as (clickhouse, redis):
        left_over = {
            key_of(row): Charge(row["currency"], 0, ZERO, ZERO, ZERO)
            for row in charges_left_over(clickhouse, truth)
        }
        found = differences(replace(truth, charges=truth.charges | left_over), clickhouse, redis)
    sent = {record.key for record in read_log(written.kafka_brokers, [replays[number].dead_letter_topic])}
    assert not found, str(found)
    assert sent == {f"{topic}/{partition}/{offset}".encode() for topic, partition, offset in truth.rejects}


def test_two_replays_leave_the_same_rows_in_clickhouse(truth: Expected, replays: list[Replay]) -> None:
    """Every column of every table, versions and sketches to the byte."""
    first, second = (clickhouse_content(replay, truth) for replay in replays)
    for table in TABLES:
        assert first[table], table
        assert first[table] == second[table], table


def test_two_replays_leave_the_same_wallets_in_redis(replays: list[Replay]) -> None:
    first, second = (redis_content(replay) for replay in replays)
    assert len(first) > 12
    assert first == second


@pytest.mark.parametrize("number", [0, 1])
def test_alerts_end_where_the_oracle_does_and_are_told_once(
    written: Engines, truth: Expected, replays: list[Replay], number: int
) -> None:
    replay = replays[number]
    with opened(replay) as (_, redis):
        published = alerts_in_redis(redis, {key[:2] for key in truth.wallets})
        marks = list(redis.scan_iter("*:alert%3A*"))
    sent = alerts_in_kafka(written.kafka_brokers, replay.alert_topic)
    assert list(wrong_alerts(published, truth)) == []
    by_id = {alert["id"]: alert for alert in sent}
    assert {alert["id"]: alert for alert in published} == by_id
    assert len(published) == len(marks) == len(by_id) == len(sent), "nothing was repeated: nothing crashed"
    assert not {threshold_of(alert)[3] for alert in sent} & {"never", "never-low"}
    assert ("acme", "eve", "EUR", "tenth-used") not in map(threshold_of, sent), "a percentage of no credit"


def test_the_views_add_up_to_the_bills_of_the_day(truth: Expected, replays: list[Replay]) -> None:
    owed: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for (tenant, *_, plan), charge in truth.charges.items():
        if tenant == "acme":
            owed[plan, charge.currency] += charge.amount
    revenue = (
        "SELECT plan_id, currency, sum(amount) AS total FROM revenue(tenant='acme', "
        "since='2020-01-01 00:00:00', until='2100-01-01 00:00:00') GROUP BY ALL"
    )
    with opened(replays[0]) as (clickhouse, _):
        rows = clickhouse.query(revenue).result_rows
    assert {(plan, currency): total for plan, currency, total in rows} == owed


class opened:  # noqa: N801 - a context manager
    """A replay's stores."""

    def __init__(self, replay: Replay) -> None:
        self._clickhouse = ClickHouseConfig(url=replay.clickhouse_url).connect()
        self._redis = Redis.from_url(replay.redis_url)

    def __enter__(self) -> tuple[Client, Redis]:
        return self._clickhouse, self._redis

    def __exit__(self, *_: object) -> None:
        self._clickhouse.close()
        self._redis.close()


def clickhouse_content(replay: Replay, truth: Expected) -> Content:
    with opened(replay) as (clickhouse, _):
        content: Content = {table: rows(clickhouse, table) for table in TABLES}
    content["usage_charges"] = [row for row in content["usage_charges"] if not is_left_over(row, truth)]
    return content


def rows(clickhouse: Client, table: str) -> list[Row]:
    named = (
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
        "ORDER BY position"
    )
    names = [name for (name,) in clickhouse.query(named, parameters={"table": table}).result_rows]
    columns = ["hex(CAST(uniques AS String))" if name == "uniques" else f"`{name}`" for name in names]
    found = clickhouse.query(f"SELECT {', '.join(columns)} FROM {table} FINAL ORDER BY ALL").result_rows
    return [dict(zip(names, row, strict=True)) for row in found]


def charges_left_over(clickhouse: Client, truth: Expected) -> list[Row]:
    return [row for row in rows(clickhouse, "usage_charges") if is_left_over(row, truth)]


def is_left_over(charge: Row, truth: Expected) -> bool:
    """Whether it is of a segment that never was, and of nothing."""
    is_something = any(charge[name] for name in ("events", "quantity", "amount_unrounded", "amount"))
    return key_of(charge) not in truth.charges and not is_something


def key_of(charge: Row) -> ChargeKey:
    start = charge["period_start"].replace(tzinfo=UTC)
    account = charge["tenant_id"], charge["external_customer_id"]
    return (*account, charge["meter_id"], start, charge["plan_id"])


def redis_content(replay: Replay) -> Content:
    """Every key but alerts and the writers' markers, which are named for their process."""
    content: Content = {}
    with opened(replay) as (_, redis):
        for key in redis.scan_iter("*"):
            kind = redis.type(key)
            if b":alert" in key:
                continue
            if kind == b"hash":
                stored: Any = redis.hgetall(key)
                content[key.decode()] = {n: value for n, value in stored.items() if n != b"updated_at"}
            elif kind == b"set":
                content[key.decode()] = redis.smembers(key)
            elif kind == b"stream":
                entries: Any = redis.xrange(key)
                content[key.decode()] = {entry[b"currency"]: entry[b"available"] for _, entry in entries}
            else:
                assert key.decode().startswith(MARKER), key
    return content

"""Where the contestants run: one broker with preloaded logs, and for each run stores that are empty.

    with bed("embedded", directory) as b:
        log = b.preload(Shape(3_000_000))       produced once, read by every contestant
        with b.stores("ours") as stores: ...    ClickHouse and Redis of this run alone

Stores and broker run on the cores of `engine_cores`, so that a contestant has the other one for itself.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import KafkaError, Producer

from benchmarks.catalog import CREDIT, CURRENCY, TENANT, catalog_yaml
from benchmarks.events import Events, Shape, draw
from benchmarks.machine import pin
from benchmarks.truth import customer_name
from dataflows.embedded import ClickHouse, EngineProcess, Kafka, Redis
from dataflows.settings import Settings
from dataflows.stores import migrate_clickhouse
from dataflows.topics import create_topics
from tests.kafka_brokers import apache_kafka

PARTITIONS = 4
BLOCK_EVENTS = 20_000
BROKER_NAMES = {"embedded": "embedded broker", "apache": "Apache Kafka 4.1"}
PRODUCER_OPTIONS = {
    "linger.ms": 50,
    "batch.size": 1_000_000,
    "compression.type": "lz4",
    "enable.idempotence": True,
    "queue.buffering.max.messages": 1_000_000,
}


@dataclass(frozen=True)
class Log:
    """A topic that holds all of `events`, and the credits of its customers."""

    topic: str
    account_topic: str
    shape: Shape
    events: Events


@dataclass(frozen=True)
class Stores:
    """One run's stores and files."""

    directory: Path
    clickhouse: ClickHouse
    redis: Redis


@dataclass
class Bed:
    """A running broker and the directory that everything is in."""

    kind: str
    directory: Path
    broker: EngineProcess
    engine_cores: Sequence[int]
    logs: dict[str, Log] = field(default_factory=dict)

    def preload(self, shape: Shape, topic: str | None = None) -> Log:
        """Produce a log, its last event's timestamp being now; of the same shape only once."""
        topic = topic or f"usage-{shape.events}-{shape.customers}"
        if topic not in self.logs:
            accounts = f"accounts-of-{topic}"
            self.create_topics(topic, accounts)
            start_ms = round(time.time() * 1000) - round(shape.events / shape.rate * 1000)
            events = draw(shape, start_ms)
            self.produce(topic, events)
            self._grant(accounts, shape.customers, start_ms)
            self.logs[topic] = Log(topic, accounts, shape, events)
        return self.logs[topic]

    def create_topics(self, topic: str, account_topic: str) -> None:
        settings = Settings(
            kafka_brokers=self.broker.address,
            usage_topic=topic,
            account_topic=account_topic,
            dead_letter_topic="dead-letters",
        )
        create_topics(settings, PARTITIONS)

    def produce(self, topic: str, events: Events) -> None:
        """Write events in their order, a customer's all to one partition; return when the broker has them."""
        if not len(events):
            return
        producer, failures = self._producer()
        names = np.array([customer_name(n).encode() for n in range(int(events.customer.max()) + 1)], object)
        for start in range(0, len(events), BLOCK_EVENTS):
            block = events.select(slice(start, start + BLOCK_EVENTS))
            values, keys, partition = block.payloads(), names[block.customer], block.customer % PARTITIONS
            for number in range(PARTITIONS):
                rows = np.flatnonzero(partition == number)
                pairs = zip(keys[rows].tolist(), values[rows].tolist(), strict=True)
                messages = [{"key": key, "value": value} for key, value in pairs]
                while producer.produce_batch(topic, messages, partition=number) < len(messages):
                    messages = [message for message in messages if message.pop("_error", None)]
                    producer.poll(0.05)
            producer.poll(0)
        _flush(producer, failures)

    def _grant(self, topic: str, customers: int, start_ms: int) -> None:
        producer, failures = self._producer()
        for number in range(customers):
            customer = customer_name(number)
            value = credit_event(customer, start_ms)
            producer.produce(topic, value, customer.encode(), partition=number % PARTITIONS)
        _flush(producer, failures)

    def _producer(self) -> tuple[Producer, list[str]]:
        failures: list[str] = []

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failures.append(error.str())

        options = {
            **PRODUCER_OPTIONS,
            "bootstrap.servers": self.broker.address,
            "on_delivery": delivered,
            "delivery.report.only.error": True,
        }
        return Producer(options), failures

    @contextmanager
    def stores(self, name: str) -> Iterator[Stores]:
        """Empty stores with this version's tables; their files are gone afterwards."""
        directory = self.directory / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / "catalog.yaml").write_text(catalog_yaml())
        with ExitStack() as stack:
            clickhouse = stack.enter_context(ClickHouse(directory / "clickhouse"))
            redis = stack.enter_context(Redis(directory / "redis"))
            for engine in (clickhouse, redis):
                pin(engine.pid, self.engine_cores)
            migrate_clickhouse(clickhouse.url)
            yield Stores(directory, clickhouse, redis)
        shutil.rmtree(directory, ignore_errors=True)

    def engines(self, stores: Stores) -> dict[str, int]:
        """Broker and stores by name, with their process ids."""
        return {"Kafka": self.broker.pid, "ClickHouse": stores.clickhouse.pid, "Redis": stores.redis.pid}

    def environment(self, log: Log, stores: Stores) -> dict[str, str]:
        """Settings of `meterline run` on this log and these stores; all others are the defaults."""
        return {
            "METERLINE_KAFKA_BROKERS": self.broker.address,
            "METERLINE_USAGE_TOPIC": log.topic,
            "METERLINE_ACCOUNT_TOPIC": log.account_topic,
            "METERLINE_DEAD_LETTER_TOPIC": "dead-letters",
            "METERLINE_CLICKHOUSE_URL": stores.clickhouse.url,
            "METERLINE_REDIS_URL": stores.redis.url,
            "METERLINE_CATALOG": str(stores.directory / "catalog.yaml"),
            "METERLINE_RECOVERY_DIR": str(stores.directory / "recovery"),
            "METERLINE_EPOCH_S": "2",
        }


@contextmanager
def bed(kind: str, directory: Path, engine_cores: Sequence[int]) -> Iterator[Bed]:
    """Start a broker, `embedded` or `apache`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    broker = apache_kafka(directory / "kafka") if kind == "apache" else Kafka(directory / "kafka")
    (directory / "kafka").mkdir(exist_ok=True)
    try:
        with broker:
            pin(broker.pid, engine_cores)
            yield Bed(kind, directory, broker, engine_cores)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def credit_event(customer: str, at_ms: int) -> bytes:
    """What gives a customer something to spend."""
    event = {
        "id": f"credit-{customer}",
        "tenant_id": TENANT,
        "external_customer_id": customer,
        "timestamp": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "type": "credit_granted",
        "amount": str(CREDIT),
        "currency": CURRENCY,
    }
    return orjson.dumps(event)


def _flush(producer: Producer, failures: list[str]) -> None:
    if producer.flush(120) or failures:
        raise RuntimeError(f"the broker did not take all: {failures[:3]}")

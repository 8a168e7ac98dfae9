"""A shop with dead letters: topics, tables and a flow of a test's own, worked by `meterline`'s commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from traceback import format_exception
from typing import Any

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.embedded import Engines
from dataflows.embedded.processes import free_port
from dataflows.exits import known_exit
from schemas.events import Reason, Reject
from sinks.dead_letters import reject_rows
from tests.dataflows.commands import Ran, meterline

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: {type: COUNT}, allowed_lateness: 1h}
  - {id: tokens, event_name: call, aggregation: {type: SUM, field: tokens}, allowed_lateness: 1h}
"""
REPAIRED = CATALOG.replace("field: tokens}", "field: tokens}, on_missing: skip")
numbers = count(1)


def invoke(settings: Mapping[str, str], *arguments: str) -> Ran:
    """A command as `dataflows.cli.main` runs it."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **settings})
    if isinstance(result.exception, Exception):
        known = known_exit(result.exception)
        assert known is not None, "".join(format_exception(result.exception))
        return Ran(known[0], result.stdout, known[1])
    return Ran(result.exit_code, result.stdout, result.stderr)


class Shop:
    """Topics, tables and a flow of a test's own, worked by the commands."""

    def __init__(self, engines: Engines, directory: Path) -> None:
        self.name = f"letters-{next(numbers)}"
        self.topic = f"{self.name}-usage"
        self.directory = directory
        self.url = engines.clickhouse.database_url(self.name)
        self.settings = {
            "METERLINE_KAFKA_BROKERS": engines.kafka_brokers,
            "METERLINE_USAGE_TOPIC": self.topic,
            "METERLINE_ACCOUNT_TOPIC": f"{self.name}-account",
            "METERLINE_DEAD_LETTER_TOPIC": f"{self.name}-dead",
            "METERLINE_CLICKHOUSE_URL": self.url,
            "METERLINE_REDIS_URL": engines.redis_url,
            "METERLINE_CATALOG": str(directory / "catalog.yaml"),
            "METERLINE_RECOVERY_DIR": str(directory / "recovery"),
            "METERLINE_METRICS_PORT": str(free_port()),
            "METERLINE_EPOCH_S": "0.2",
        }
        self.catalog(CATALOG)
        self.do("migrate")
        self.do("topics", "--partitions", "2")

    def catalog(self, text: str) -> None:
        (self.directory / "catalog.yaml").write_text(text)

    def do(self, *arguments: str, code: int = 0, **changes: str) -> Ran:
        """Run a command in this process, which is faster, but for the flow."""
        ran = (meterline if arguments[0] == "run" else invoke)(self.settings | changes, *arguments)
        assert ran.code == code, ran
        return ran

    def run(self) -> None:
        self.do("run", "--until-end")

    def replay(self, *arguments: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.do("dead-letters", "replay", "--json", *arguments).out)
        return report

    def found(self, *arguments: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.do("dead-letters", "list", "--json", *arguments).out)
        return report

    def produce(self, payloads: Sequence[bytes], **options: Any) -> None:
        producer = Producer({"bootstrap.servers": self.settings["METERLINE_KAFKA_BROKERS"]})
        for payload in payloads:
            producer.produce(self.topic, payload, **options)
        assert producer.flush(30) == 0

    def counted(self) -> int:
        """How many calls are counted, by the windows."""
        since = datetime.now(UTC) - timedelta(days=2)
        until = since + timedelta(days=4)
        period = ("--since", f"{since:%Y-%m-%d}", "--until", f"{until:%Y-%m-%d}", "--json")
        ran = self.do("usage", "--tenant", self.name, "--meter", "calls", *period)
        events: int = json.loads(ran.out)["total"]["events"]
        return events

    def event(self, event_id: str, **properties: Any) -> bytes:
        return json.dumps(
            {
                "id": event_id,
                "tenant_id": self.name,
                "event_name": "call",
                "external_customer_id": "bob",
                "timestamp": datetime.now(UTC).isoformat(),
                "properties": properties,
            }
        ).encode()

    def store(self, *rejects: Reject) -> None:
        """Dead letters as a flow of another time has left them."""
        with self.clickhouse() as client:
            client.insert_arrow("dead_letters", pa.Table.from_batches([reject_rows(rejects)]))

    def clickhouse(self) -> Client:
        return clickhouse_connect.get_client(dsn=self.url)


def reject(shop: Shop, payload: bytes, offset: int, **changes: Any) -> Reject:
    fields: dict[str, Any] = {
        "reason": Reason.VALUE_MISSING,
        "detail": "why",
        "topic": shop.topic,
        "partition": 0,
        "offset": offset,
        "append_ms": int(datetime.now(UTC).timestamp() * 1000),
        "key": b"",
        "payload": payload,
        "headers": (),
    }
    return Reject(**(fields | changes))


def read(shop: Shop, partition: int) -> list[Any]:
    """All records of a partition of the usage topic."""
    consumer = Consumer(
        {"bootstrap.servers": shop.settings["METERLINE_KAFKA_BROKERS"], "group.id": "test_dead_letters"}
    )
    place = TopicPartition(shop.topic, partition, 0)
    _, end = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    records: list[Any] = []
    while len(records) < end:
        records += consumer.consume(end - len(records), 5.0)
    consumer.close()
    return records

"""The flow as its own process, and topics and tables as an operator would make them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dataflows.embedded import Engines
from dataflows.workload import Produced
from sinks.clickhouse import ClickHouseConfig
from sinks.migrate import migrate

PARTITIONS = 4
TOPICS = {"usage-events": PARTITIONS, "account-events": 1, "dead-letters": 1}


def prepare(engines: Engines) -> None:
    """Topics and tables."""
    admin = AdminClient({"bootstrap.servers": engines.kafka_brokers})
    new = [NewTopic(topic, partitions, 1) for topic, partitions in TOPICS.items()]
    for created in admin.create_topics(new).values():
        created.result()
    with closing(ClickHouseConfig(url=engines.clickhouse_url).connect()) as client:
        migrate(client)


def produce(brokers: str, topic: str, events: Iterable[Produced]) -> int:
    """Write events and return how many the broker acknowledged: all, or it raises."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 5, "enable.idempotence": True})
    failures: list[str] = []
    count = 0
    for count, event in enumerate(events, 1):  # noqa: B007 - the count is the result
        while True:
            try:
                producer.produce(
                    topic,
                    event.value,
                    event.key,
                    headers=list(event.headers),
                    on_delivery=lambda error, _: failures.append(str(error)) if error else None,
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(30) == 0, "the broker did not acknowledge all"
    assert not failures, failures[:3]
    return count


@dataclass
class Job:
    """One `meterline run` at a time, restarted at will over the same recovery store."""

    engines: Engines
    directory: Path
    catalog: str
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    starts: int = 0

    def environment(self) -> dict[str, str]:
        catalog = self.directory / "catalog.yaml"
        catalog.write_text(self.catalog)
        ours = {
            "METERLINE_KAFKA_BROKERS": self.engines.kafka_brokers,
            "METERLINE_CLICKHOUSE_URL": self.engines.clickhouse_url,
            "METERLINE_REDIS_URL": self.engines.redis_url,
            "METERLINE_CATALOG": str(catalog),
            "METERLINE_RECOVERY_DIR": str(self.directory / "recovery"),
            "METERLINE_EPOCH_S": "0.5",
            **self.settings,
        }
        return {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")} | ours

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `meterline run` with these arguments; its output goes to a log of its own."""
        self.starts += 1
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dataflows.cli", "run", *arguments],
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self.process

    @property
    def log(self) -> Path:
        return self.directory / f"run-{self.starts}.log"

    def wait(self, timeout_s: float = 120) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def run_until_end(self, timeout_s: float = 120) -> None:
        """Run over all that is in the topics now; it must end well."""
        self.start("--until-end")
        code = self.wait(timeout_s)
        assert code == 0, f"exit {code}:\n{self.log.read_text()[-4000:]}"

    def kill(self) -> None:
        """As a machine that loses power: nothing is told, nothing is finished."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def drain(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

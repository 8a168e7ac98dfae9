"""The flow as its own process, and topics and tables as an operator would make them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dataflows.embedded import Engines
from dataflows.embedded.processes import free_port
from dataflows.workload import Produced
from sinks.clickhouse import ClickHouseConfig
from sinks.migrate import migrate

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
TOPICS = {"usage-events": PARTITIONS, "account-events": 1, "dead-letters": 1, "wallet-alerts": 1}

RUNNING: list[subprocess.Popen[bytes]] = []
"""Every process that a job of this test has started, ended or not."""


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


@dataclass(frozen=True)
class KillPoint:
    """Where a process ends itself: the `count`-th time at a place of tests/e2e/kill_points.py."""

    place: str
    count: int = 1


@dataclass
class Job:
    """One `meterline run`, of one or more processes, restarted at will over the same recovery store."""

    engines: Engines
    directory: Path
    catalog: str
    settings: Mapping[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    """Of the processes started last."""
    ports: list[int] = field(default_factory=list)
    """Of their /metrics."""
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

    def start(self, *arguments: str, processes: int = 1, kill_point: KillPoint | None = None) -> None:
        """Start `meterline run` with these arguments; each process has a log of its own."""
        self.kill()
        self.starts += 1
        command = [sys.executable, "-m", "tests.e2e.small_files"]
        if kill_point is not None:
            command = [
                *(sys.executable, "-m", "tests.e2e.kill_points"),
                *(kill_point.place, str(kill_point.count)),
            ]
        addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))
        self.processes, self.logs, self.ports = [], [], []
        for number in range(processes):
            cluster = ["--process-id", str(number), "--addresses", addresses] if processes > 1 else []
            self.logs.append(self.directory / f"run-{self.starts:03d}-{number}.log")
            self.ports.append(free_port())
            with self.logs[-1].open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [*command, "run", *arguments, *cluster],
                        env=self.environment() | {"METERLINE_METRICS_PORT": str(self.ports[-1])},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=ROOT,
                    )
                )
        RUNNING.extend(self.processes)

    def log(self) -> str:
        """What the processes started last have said, the end of it."""
        return "\n".join(log.read_text(errors="replace")[-4000:] for log in self.logs)

    def wait_until_said(self, text: str, timeout_s: float = 60) -> None:
        """Return when the log has this text; fail if the flow ends before, or it takes longer."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log():
            assert any(process.poll() is None for process in self.processes), self.log()
            assert time.monotonic() < deadline, f"never said {text!r}:\n{self.log()}"
            time.sleep(0.02)

    def wait_until_reading(self) -> None:
        """Return when a process has opened its partitions: the state is loaded, records come next."""
        self.wait_until_said("is read from offset")

    def is_running(self) -> bool:
        return bool(self.processes) and all(process.poll() is None for process in self.processes)

    def wait(self, timeout_s: float = 120) -> list[int]:
        """The exit codes of all processes."""
        deadline = time.monotonic() + timeout_s
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]

    def run_until_end(self, timeout_s: float = 120) -> None:
        """Run over all that is in the topics now; it must end well."""
        self.start("--until-end")
        codes = self.wait(timeout_s)
        assert codes == [0], f"exit {codes}:\n{self.log()}"

    def kill(self) -> None:
        """As a machine that loses power: nothing is told, nothing is finished."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def drain(self, timeout_s: float = 60) -> list[int]:
        """SIGTERM to all; their exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

"""Parts of the Kafka source polled by hand, and topics with numbered records for them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Producer, TopicPartition

from dataflows.offsets import Position
from dataflows.sources import KafkaConfig, KafkaPartition, KafkaSource, SourceConfig
from schemas.events import RawBatch
from tests.dataflows.embedded.kafka_clients import admin, settled

TIMEOUT_S = 20.0
Offsets = list[tuple[int, bytes | None]]


def produce(brokers: str, topic: str, values: list[str], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1, "log_level": 2})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(TIMEOUT_S) == 0


def delete_records(brokers: str, topic: str, before: int) -> None:
    settled(admin(brokers).delete_records([TopicPartition(topic, 0, before)]))


def config(brokers: str, *topics: str, group: str = "lag") -> SourceConfig:
    kafka = KafkaConfig(brokers, group, {"log_level": "0"}, timeout_s=TIMEOUT_S)
    return SourceConfig(kafka=kafka, topics=topics, batch_messages_max=100, epoch_s=3600)


class Part:
    """A part polled by hand, as Bytewax polls it."""

    def __init__(
        self,
        source_config: SourceConfig,
        part: str,
        state: bytes | None = None,
        now_getter: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.partition: KafkaPartition = KafkaSource(source_config, now_getter).build_part(
            "usage", part, state
        )

    def poll_until(
        self, done: Callable[[list[RawBatch]], bool], timeout_s: float = TIMEOUT_S
    ) -> list[RawBatch]:
        batches: list[RawBatch] = []
        deadline = time.monotonic() + timeout_s
        while not done(batches):
            assert time.monotonic() < deadline, f"timed out with {len(batches)} batches"
            batches += self.partition.next_batch()
            time.sleep(0.002)
        return batches

    def read(self, count: int) -> Offsets:
        """Offsets and values of the next records, exactly `count` of them."""
        read = contents(self.poll_until(lambda batches: len(contents(batches)) >= count))
        assert len(read) == count
        return read

    def read_to_stop(self) -> Offsets:
        batches: list[RawBatch] = []
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                batches += self.partition.next_batch()
            except StopIteration:
                return contents(batches)
            time.sleep(0.002)
        raise AssertionError(f"not stopped after {len(contents(batches))} records")


def contents(batches: list[RawBatch]) -> Offsets:
    return [(record.offset(), record.value()) for batch in batches for record in batch.records]


def numbered(start: int, end: int) -> tuple[list[str], Offsets]:
    """Values to produce, and what reads as them."""
    return [f"v{n}" for n in range(start, end)], [(n, f"v{n}".encode()) for n in range(start, end)]


def replaced(state: bytes, **changes: object) -> bytes:
    position = Position.decode(state)
    fields = {name: getattr(position, name) for name in Position.__struct_fields__}
    return Position(**{**fields, **changes}).encode()


def start_flow(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The flow of `source_flow.py` from a topic to the file `out`."""
    with (directory / "log").open("ab") as log:
        command = [sys.executable, "-m", "tests.dataflows.source_flow", *arguments]
        return subprocess.Popen(command, stdout=log, stderr=log)

"""The Kafka source against real brokers: nothing skipped or read twice, and clear words when it can't be."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dataflows.embedded import Kafka
from dataflows.offsets import Position, Start
from dataflows.sources import KafkaConfig, KafkaPartition, KafkaSource, SourceConfig, SourceError, drain
from schemas.events import RawBatch
from tests.dataflows.embedded.kafka_clients import new_topic
from tests.kafka_brokers import KafkaBroker

pytestmark = pytest.mark.kafka

TIMEOUT_S = 20.0
Offsets = list[tuple[int, bytes | None]]


@pytest.fixture(autouse=True)
def _not_draining() -> Iterator[None]:
    drain.clear()
    yield
    drain.clear()


def produce(brokers: str, topic: str, values: list[str], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1, "log_level": 2})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(TIMEOUT_S) == 0


def delete_records(brokers: str, topic: str, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.delete_records([TopicPartition(topic, 0, before)]).values():
        future.result(TIMEOUT_S)


def config(brokers: str, *topics: str, group: str = "lag") -> SourceConfig:
    kafka = KafkaConfig(brokers, group, {"log_level": "0"}, timeout_s=TIMEOUT_S)
    return SourceConfig(kafka=kafka, topics=topics, batch_messages_max=100)


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


def test_batches_hold_every_record_once_in_order_and_at_most_their_limit(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    values, expected = numbered(0, 1050)
    produce(brokers, topic, values)
    part = Part(config(brokers, topic), f"{topic}/0")
    batches = part.poll_until(lambda batches: len(contents(batches)) >= len(expected))
    assert contents(batches) == expected
    filled = [batch for batch in batches if batch.records]
    assert max(len(batch.records) for batch in filled) == 100
    assert {(batch.topic, batch.partition, batch.partitions) for batch in batches} == {(topic, 0, 1)}
    assert [batch.progress_ms for batch in filled] == [batch.records[-1].timestamp()[1] for batch in filled]


def test_one_source_reads_the_partitions_of_all_its_topics(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    usage, accounts = new_topic(brokers, 2), new_topic(brokers, 1)
    source = KafkaSource(config(brokers, usage, accounts))
    assert source.list_parts() == [f"{usage}/0", f"{usage}/1", f"{accounts}/0"]
    produce(brokers, usage, ["second"], partition=1)
    part = Part(config(brokers, usage, accounts), f"{usage}/1")
    batch = part.poll_until(bool)[0]
    assert (batch.partition, batch.partitions, batch.records[0].value()) == (1, 3, b"second")


def test_a_part_resumes_after_the_last_record_of_its_snapshot(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    values, expected = numbered(0, 40)
    produce(brokers, topic, values)
    part = Part(config(brokers, topic), f"{topic}/0")
    assert part.read(40) == expected
    state = part.partition.snapshot()
    assert state == part.partition.snapshot()
    more, expected_more = numbered(40, 60)
    produce(brokers, topic, more)
    assert Part(config(brokers, topic), f"{topic}/0", state).read(20) == expected_more


@pytest.mark.parametrize(
    ("start", "expected"), [("earliest", [(2, b"v2"), (3, b"v3"), (4, b"v4")]), ("latest", [(4, b"v4")])]
)
def test_the_first_start_is_at_the_oldest_record_or_the_end(
    kafka_broker: KafkaBroker, start: Start, expected: Offsets
) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    produce(brokers, topic, numbered(0, 4)[0])
    delete_records(brokers, topic, 2)
    part = Part(replace(config(brokers, topic), start=start), f"{topic}/0")
    produce(brokers, topic, ["v4"])
    assert part.read(len(expected)) == expected


def test_records_that_expired_unread_are_an_error(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    produce(brokers, topic, numbered(0, 4)[0])
    part = Part(config(brokers, topic), f"{topic}/0")
    part.read(4)
    state = part.partition.snapshot()
    produce(brokers, topic, numbered(4, 10)[0])
    delete_records(brokers, topic, 4)
    assert Part(config(brokers, topic), f"{topic}/0", state).read(6) == numbered(4, 10)[1]
    delete_records(brokers, topic, 7)
    with pytest.raises(SourceError, match=rf"{topic}/0: records 4 to 6 were not metered and are gone"):
        Part(config(brokers, topic), f"{topic}/0", state)


def test_an_offset_past_the_end_is_an_error(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    produce(brokers, topic, numbered(0, 4)[0])
    part = Part(config(brokers, topic), f"{topic}/0")
    state = replaced(part.partition.snapshot(), next_offset=5)
    with pytest.raises(SourceError, match="is at offset 5, but the partition ends at 4"):
        Part(config(brokers, topic), f"{topic}/0", state)


def test_a_snapshot_of_another_cluster_is_an_error(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    state = Part(config(brokers, topic), f"{topic}/0").partition.snapshot()
    with pytest.raises(SourceError, match="is of Kafka cluster elsewhere, the brokers are of"):
        Part(config(brokers, topic), f"{topic}/0", replaced(state, cluster_id="elsewhere"))


def replaced(state: bytes, **changes: object) -> bytes:
    position = Position.decode(state)
    fields = {name: getattr(position, name) for name in Position.__struct_fields__}
    return Position(**{**fields, **changes}).encode()


def test_an_unknown_topic_and_an_unreachable_broker_are_named(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    with pytest.raises(SourceError, match=r"no topic 'nowhere'.*METERLINE_USAGE_TOPIC"):
        KafkaSource(config(brokers, "nowhere")).list_parts()
    away = config("127.0.0.1:1", "usage")
    away = replace(away, kafka=replace(away.kafka, timeout_s=1))
    started_s = time.monotonic()
    with pytest.raises(SourceError, match=r"no Kafka broker at 127\.0\.0\.1:1 answered within 1 s.*refused"):
        KafkaSource(away).list_parts()
    assert time.monotonic() - started_s < 5


def test_until_end_stops_at_the_end_seen_at_start(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers, 2)
    values, expected = numbered(0, 250)
    produce(brokers, topic, values)
    once = replace(config(brokers, topic), until_end=True)
    part, empty = Part(once, f"{topic}/0"), Part(once, f"{topic}/1")
    produce(brokers, topic, ["after the start"])
    assert part.read_to_stop() == expected
    assert Position.decode(part.partition.snapshot()).next_offset == 250
    assert empty.read_to_stop() == []
    assert Part(once, f"{topic}/0", part.partition.snapshot()).read_to_stop() == [(250, b"after the start")]


def test_until_end_passes_the_markers_that_transactions_leave(kafka_broker: KafkaBroker) -> None:
    if kafka_broker.kind == "embedded":
        pytest.skip("the embedded broker has no transactions")
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": topic})
    producer.init_transactions(TIMEOUT_S)
    for value, finish in (("kept", producer.commit_transaction), ("aborted", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(TIMEOUT_S)
        finish(TIMEOUT_S)
    part = Part(replace(config(brokers, topic), until_end=True), f"{topic}/0")
    assert part.read_to_stop() == [(0, b"kept")]
    assert Position.decode(part.partition.snapshot()).next_offset == 4


def test_a_drain_ends_the_part(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    part = Part(config(brokers, topic), f"{topic}/0")
    assert part.partition.next_batch() == []
    drain.set()
    with pytest.raises(StopIteration):
        part.partition.next_batch()


def test_an_idle_part_tells_how_far_it_has_been_read(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    produce(brokers, topic, ["v0"])
    clock = [datetime.now(UTC)]
    part = Part(config(brokers, topic), f"{topic}/0", now_getter=lambda: clock[0])
    appended_ms = part.poll_until(bool)[0].records[0].timestamp()[1]
    clock[0] += timedelta(seconds=4)
    assert [part.partition.next_batch() for _ in range(3)] == [[], [], []]
    clock[0] += timedelta(seconds=2)
    beat = part.poll_until(bool)[0]
    assert (list(beat.records), beat.progress_ms) == ([], appended_ms)  # never back to 54 s before it
    clock[0] += timedelta(seconds=600)
    beats = part.poll_until(bool)
    assert [beat.progress_ms for beat in beats] == [int((clock[0].timestamp() - 60) * 1000)]
    assert part.partition.next_batch() == []
    assert Position.decode(part.partition.snapshot()).progress_ms == beats[0].progress_ms


def test_the_group_has_the_offset_of_the_snapshot_before(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    part = Part(config(brokers, topic, group=topic), f"{topic}/0")
    tool = Consumer({"bootstrap.servers": brokers, "group.id": topic})

    def committed() -> int:
        return tool.committed([TopicPartition(topic, 0)], timeout=TIMEOUT_S)[0].offset

    def wait_for(offset: int) -> None:
        part.poll_until(lambda _: committed() == offset)

    for number in range(3):
        produce(brokers, topic, [f"v{number}"])
        part.read(1)
        part.partition.snapshot()
        if number:
            wait_for(number)
    part.partition.close()
    assert committed() == 3
    tool.close()


def test_a_crashed_broker_is_waited_for_and_read_on_without_a_gap(tmp_path: Path) -> None:
    with Kafka(tmp_path) as broker:
        topic = new_topic(broker.address)
        values, expected = numbered(0, 500)
        produce(broker.address, topic, values)
        clock = [datetime.now(UTC)]
        part = Part(config(broker.address, topic), f"{topic}/0", now_getter=lambda: clock[0])
        assert part.read(500) == expected
        broker.kill()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            clock[0] += timedelta(seconds=1)
            late = part.partition.next_batch()
            time.sleep(0.01)
        assert late == []  # no heartbeat: nobody knows what is appended now
        broker.start()
        values, expected = numbered(500, 900)
        produce(broker.address, topic, values)
        assert part.read(400) == expected
        assert Position.decode(part.partition.snapshot()).next_offset == 900
        broker.kill()
        part.partition.snapshot()
        closed_s = time.monotonic()
        part.partition.close()
        assert time.monotonic() - closed_s < 10  # it waits for a commit that nobody answers


def start_flow(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The flow of `source_flow.py` from a topic to the file `out`."""
    with (directory / "log").open("ab") as log:
        command = [sys.executable, "-m", "tests.dataflows.source_flow", *arguments]
        return subprocess.Popen(command, stdout=log, stderr=log)


def wait_for_lines(path: Path, count: int, flow: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists() or len(path.read_text().split()) < count:
        assert flow.poll() is None, "the flow ended"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_sigterm_drains_a_flow_and_nothing_is_read_twice(tmp_path: Path) -> None:
    with Kafka(tmp_path / "kafka") as broker:
        topic = new_topic(broker.address, 2)
        (tmp_path / "recovery").mkdir()
        subprocess.run([sys.executable, "-m", "bytewax.recovery", tmp_path / "recovery", "1"], check=True)
        total = 0
        for _ in range(2):
            for partition in range(2):
                produce(broker.address, topic, [str(total + n) for n in range(100)], partition)
                total += 100
            flow = start_flow(
                tmp_path, broker.address, topic, str(tmp_path / "out"), str(tmp_path / "recovery")
            )
            wait_for_lines(tmp_path / "out", total, flow)
            flow.send_signal(signal.SIGTERM)
            assert flow.wait(TIMEOUT_S) == 0
        assert sorted(map(int, (tmp_path / "out").read_text().split())) == list(range(total))


def test_a_flow_that_cannot_read_exits_non_zero_and_says_why(tmp_path: Path) -> None:
    flow = start_flow(tmp_path, "127.0.0.1:1", "usage", str(tmp_path / "out"))
    assert flow.wait(TIMEOUT_S) != 0
    assert "no Kafka broker at 127.0.0.1:1 answered" in (tmp_path / "log").read_text()

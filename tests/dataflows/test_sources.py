"""The Kafka source against real brokers: what it reads, from where, and when it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from dataflows.embedded import Kafka
from dataflows.offsets import Position, Start
from dataflows.sources import KafkaSource, drain
from tests.dataflows.embedded.kafka_clients import new_topic
from tests.dataflows.source_parts import (
    TIMEOUT_S,
    Offsets,
    Part,
    config,
    contents,
    delete_records,
    numbered,
    produce,
    start_flow,
)
from tests.kafka_brokers import KafkaBroker

pytestmark = pytest.mark.kafka


@pytest.fixture(autouse=True)
def _not_draining() -> Iterator[None]:
    drain.clear()
    yield
    drain.clear()


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


def test_a_batch_ends_with_the_record_that_reaches_its_bytes(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    values, expected = numbered(1000, 2000)  # 5 bytes each
    produce(brokers, topic, values)
    limited = replace(config(brokers, topic), batch_messages_max=1000, batch_bytes_max=120)
    batches = Part(limited, f"{topic}/0").poll_until(lambda batches: len(contents(batches)) >= len(expected))
    assert [value for _, value in contents(batches)] == [value for _, value in expected]
    assert max(len(batch.records) for batch in batches) == 24


def test_the_last_poll_of_an_epoch_takes_a_part_of_a_batch(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    values, expected = numbered(0, 1050)
    produce(brokers, topic, values)
    part = Part(replace(config(brokers, topic), epoch_s=0.5), f"{topic}/0")
    sizes, read = list[int](), contents(part.poll_until(bool))
    for _ in range(2):
        time.sleep(0.5)
        read += contents(part.partition.next_batch())
        part.partition.snapshot()
        sizes.append(len(read))
        read += contents(part.partition.next_batch())
        sizes.append(len(read))
    first = sizes[0] - 7  # 100 / 16, rounded up
    assert sizes == [first + 7, first + 107, first + 114, first + 214]
    assert read == expected[: len(read)]


def test_one_source_reads_the_partitions_of_all_its_topics(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    usage, accounts = new_topic(brokers, 2), new_topic(brokers, 1)
    source = KafkaSource(config(brokers, usage, accounts))
    assert source.list_parts() == [f"{usage}/0", f"{usage}/1", f"{accounts}/0"]
    produce(brokers, usage, ["second"], partition=1)
    part = Part(config(brokers, usage, accounts), f"{usage}/1")
    batch = part.poll_until(bool)[0]
    assert (batch.partition, batch.partitions, batch.records[0].value()) == (1, 2, b"second")


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

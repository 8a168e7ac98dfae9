"""The Kafka source when records, topics or brokers are not there: waiting or clear words, no skip."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # re-exported unsaid

from dataflows.embedded import Kafka
from dataflows.kafka_client import RECEIVE_IDLE_MAX_S
from dataflows.offsets import Position
from dataflows.sources import KafkaSource, SourceError
from tests.dataflows.embedded.kafka_clients import admin, new_topic, settled
from tests.dataflows.source_parts import (
    TIMEOUT_S,
    Part,
    config,
    contents,
    delete_records,
    numbered,
    produce,
    replaced,
    start_flow,
)
from tests.kafka_brokers import KafkaBroker

pytestmark = pytest.mark.kafka


def test_records_that_expire_while_the_flow_is_behind_are_an_error(kafka_broker: KafkaBroker) -> None:
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    produce(brokers, topic, ["x" * 100_000] * 100)
    narrow = {"log_level": "0", "fetch.message.max.bytes": "150000", "queued.max.messages.kbytes": "200"}
    behind = config(brokers, topic)
    behind = replace(behind, kafka=replace(behind.kafka, options=narrow), batch_messages_max=1)
    part = Part(behind, f"{topic}/0")
    part.read(1)
    delete_records(brokers, topic, 99)
    with pytest.raises(SourceError, match=rf"{topic}/0: offset \d+ is gone from Kafka"):
        part.read(99)


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


def test_a_topic_made_anew_is_not_read_on(kafka_broker: KafkaBroker) -> None:
    if kafka_broker.kind == "embedded":
        pytest.skip("the embedded broker has no topic ids")
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    produce(brokers, topic, numbered(0, 4)[0])
    part = Part(config(brokers, topic), f"{topic}/0")
    part.read(4)
    state = part.partition.snapshot()
    part.partition.close()
    settled(admin(brokers).delete_topics([topic]))
    retried(lambda: settled(admin(brokers).create_topics([NewTopic(topic, 1)])))
    produce(brokers, topic, numbered(0, 9)[0])
    with pytest.raises(SourceError, match="deleted and made anew"):
        Part(config(brokers, topic), f"{topic}/0", state)


def retried(call: Callable[[], object]) -> None:
    """A deleted topic's name is free a moment later."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            call()
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


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


def test_a_hung_broker_is_waited_for_and_read_on_without_a_gap(tmp_path: Path) -> None:
    with Kafka(tmp_path) as broker:
        topic = new_topic(broker.address)
        clock = [datetime.now(UTC)]
        part = Part(config(broker.address, topic), f"{topic}/0", now_getter=lambda: clock[0])
        part.poll_until(bool)  # the first heartbeat
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            time.sleep(RECEIVE_IDLE_MAX_S + 2)
            for _ in range(10):
                clock[0] += timedelta(seconds=60)
                assert part.partition.next_batch() == []  # no heartbeat: it can't say what is appended
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        values, expected = numbered(0, 300)
        produce(broker.address, topic, values)
        assert contents(part.poll_until(lambda batches: len(contents(batches)) >= 300)) == expected
        part.partition.close()


def test_a_flow_that_cannot_read_exits_non_zero_and_says_why(tmp_path: Path) -> None:
    flow = start_flow(tmp_path, "127.0.0.1:1", "usage", str(tmp_path / "out"))
    assert flow.wait(TIMEOUT_S) != 0
    assert "no Kafka broker at 127.0.0.1:1 answered" in (tmp_path / "log").read_text()

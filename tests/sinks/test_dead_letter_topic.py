from __future__ import annotations

from dataclasses import replace

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from dataflows.embedded import Kafka
from sinks import metrics
from sinks.dead_letter_topic import DeadLetterTopicSink, record_key
from sinks.failures import StoreUnavailable
from tests.sinks.test_dead_letters import REJECT


def topic(kafka: Kafka, name: str, **config: str) -> str:
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(10)
    return name


def read(kafka: Kafka, name: str, count: int) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": kafka.address, "group.id": "none", "auto.offset.reset": "error"}
    )
    consumer.assign([TopicPartition(name, 0, 0)])
    messages = consumer.consume(count, 10)
    consumer.close()
    assert [message.error() for message in messages] == [None] * count
    return messages


def test_a_dead_letter_is_the_original_record_and_why(kafka_engine: Kafka) -> None:
    name = topic(kafka_engine, "dead-letters")
    before = metrics.DEAD_LETTERS.labels("not_json")._value.get()
    part = DeadLetterTopicSink({"bootstrap.servers": kafka_engine.address}, name, 1).build_part(
        "s", "000", None
    )
    part.write_batch([[REJECT], [replace(REJECT, offset=42, detail="größer")]])
    part.snapshot()
    first, second = read(kafka_engine, name, 2)
    assert first.key() == b"usage-events/3/41"
    assert first.value() == REJECT.payload
    assert first.headers() == [
        ("tenant-id", b"\xfe"),
        ("tenant-id", b""),
        ("meterline-reason", b"not_json"),
        ("meterline-detail", b"byte 3 is not JSON"),
        ("meterline-topic", b"usage-events"),
        ("meterline-partition", b"3"),
        ("meterline-offset", b"41"),
        ("meterline-key", REJECT.key),
    ]
    assert dict(second.headers() or [])["meterline-detail"] == "größer".encode()
    assert metrics.DEAD_LETTERS.labels("not_json")._value.get() == before + 2


def test_a_payload_that_is_too_large_for_the_topic_is_told_by_its_size(kafka_engine: Kafka) -> None:
    name = topic(kafka_engine, "small-dead-letters", **{"max.message.bytes": "2000"})
    options = {"bootstrap.servers": kafka_engine.address, "compression.type": "none"}
    part = DeadLetterTopicSink(options, name, 1).build_part("s", "000", None)
    large = replace(REJECT, payload=bytes(5000))
    part.write_batch([[large, replace(REJECT, offset=42)]])
    part.snapshot()
    by_key = {message.key(): message for message in read(kafka_engine, name, 2)}
    assert by_key[record_key(large)].value() == b""
    assert dict(by_key[record_key(large)].headers() or [])["meterline-omitted-bytes"] == b"5000"
    assert by_key[b"usage-events/3/42"].value() == REJECT.payload


def test_a_payload_that_is_too_large_for_the_producer_is_told_by_its_size(kafka_engine: Kafka) -> None:
    name = topic(kafka_engine, "dead-letters-2")
    options = {"bootstrap.servers": kafka_engine.address, "message.max.bytes": 2000}
    part = DeadLetterTopicSink(options, name, 1).build_part("s", "000", None)
    part.write_batch([[replace(REJECT, payload=bytes(5000))]])
    part.snapshot()
    (message,) = read(kafka_engine, name, 1)
    assert (message.value(), dict(message.headers() or [])["meterline-omitted-bytes"]) == (b"", b"5000")


def test_an_epoch_is_not_committed_without_the_broker(kafka_engine: Kafka) -> None:
    name = topic(kafka_engine, "dead-letters-3")
    options = {"bootstrap.servers": kafka_engine.address, "delivery.timeout.ms": "1000", "linger.ms": 0}
    part = DeadLetterTopicSink(options, name, 1).build_part("s", "000", None)
    part.write_batch([[REJECT]])
    part.snapshot()
    kafka_engine.kill()
    part.write_batch([[replace(REJECT, offset=42)]])
    with pytest.raises(StoreUnavailable, match="Kafka does not take dead letters"):
        part.snapshot()

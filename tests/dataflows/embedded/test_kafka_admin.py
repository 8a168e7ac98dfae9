"""Topics, configs, offsets and groups, held against the embedded broker and Apache Kafka alike."""

import time

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported unsaid
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from tests.dataflows.embedded.kafka_clients import (
    CREATE_TIME,
    LOG_APPEND_TIME,
    TIMEOUT_S,
    admin,
    consume,
    consuming,
    new_topic,
    produce,
    produce_values,
    refusal,
    settled,
    take,
    wait_for_leaders,
    watermarks,
)
from tests.kafka_brokers import KafkaBroker

pytestmark = pytest.mark.kafka


def test_topics_stamp_append_times_by_default(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"v"])
    assert consume(kafka_broker.bootstrap, topic, 1)[0].timestamp()[0] == LOG_APPEND_TIME


def test_watermarks_are_the_first_and_the_next_offset(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    assert watermarks(kafka_broker.bootstrap, topic) == (0, 0)
    produce_values(kafka_broker.bootstrap, topic, [b"v"] * 1000)
    assert watermarks(kafka_broker.bootstrap, topic) == (0, 1000)


def test_the_record_with_the_largest_timestamp_is_found(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, message_timestamp_type="CreateTime", retention_ms="-1")
    start_ms = 1_700_000_000_000
    sent = [{"value": b"v", "timestamp": start_ms + delta} for delta in (0, 7, 3)]
    produce(kafka_broker.bootstrap, topic, sent)
    wanted = {TopicPartition(topic, 0): OffsetSpec.max_timestamp()}  # type: ignore[no-untyped-call]  # confluent-kafka's
    found = settled(admin(kafka_broker.bootstrap).list_offsets(wanted))
    assert (found.offset, found.timestamp) == (1, start_ms + 7)


def test_a_commit_is_there_for_the_next_consumer(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, partitions=2)
    produce_values(kafka_broker.bootstrap, topic, [b"v"] * 10)
    group = f"group-of-{topic}"
    with consuming(kafka_broker.bootstrap, group_id=group) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        assert consumer.committed([TopicPartition(topic, 0)], TIMEOUT_S)[0].offset == -1001
        consumer.commit(offsets=[TopicPartition(topic, 0, 7, "note")], asynchronous=False)
        consumer.commit(offsets=[TopicPartition(topic, 0, 8, "later")], asynchronous=False)
    with consuming(kafka_broker.bootstrap, group_id=group) as consumer:
        first, second = consumer.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], TIMEOUT_S)
        assert (first.offset, first.metadata, second.offset) == (8, "later", -1001)
        consumer.assign([TopicPartition(topic, 0)])
        assert take(consumer, 1)[0].offset() == 8


def test_groups_with_offsets_are_listed_described_and_deleted(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    group = f"group-of-{topic}"
    with consuming(kafka_broker.bootstrap, group_id=group) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    client = admin(kafka_broker.bootstrap)
    listed = client.list_consumer_groups(request_timeout=TIMEOUT_S).result()
    assert group in {listing.group_id for listing in listed.valid}
    description = settled(client.describe_consumer_groups([group]))
    assert (description.group_id, description.state.name, description.members) == (group, "EMPTY", [])
    settled(client.delete_consumer_groups([group]))
    with consuming(kafka_broker.bootstrap, group_id=group) as consumer:
        assert consumer.committed([TopicPartition(topic, 0)], TIMEOUT_S)[0].offset == -1001


def test_a_topic_has_the_partitions_and_configs_it_was_made_with(kafka_broker: KafkaBroker) -> None:
    configs = {"retention.ms": "86400000", "retention.bytes": "1048576", "max.message.bytes": "2097152"}
    topic = new_topic(kafka_broker.bootstrap, partitions=3, **configs)
    client = admin(kafka_broker.bootstrap)
    assert len(client.list_topics(topic, TIMEOUT_S).topics[topic].partitions) == 3
    resource = ConfigResource(ResourceType.TOPIC, topic)
    described = settled(client.describe_configs([resource]))
    assert {name: described[name].value for name in configs} == configs
    assert described["message.timestamp.type"].value == "LogAppendTime"
    assert not described["retention.ms"].is_default


def test_altered_configs_take_effect(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, retention_ms="-1")
    entry = ConfigEntry("message.timestamp.type", "CreateTime", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    settled(admin(kafka_broker.bootstrap).incremental_alter_configs([resource]))
    produce(kafka_broker.bootstrap, topic, [{"value": b"v", "timestamp": 1_700_000_000_000}])
    assert consume(kafka_broker.bootstrap, topic, 1)[0].timestamp() == (CREATE_TIME, 1_700_000_000_000)


@pytest.mark.parametrize(
    ("name", "partitions", "configs", "code"),
    [
        ("a b", 1, {}, KafkaError.TOPIC_EXCEPTION),
        ("..", 1, {}, KafkaError.TOPIC_EXCEPTION),
        ("valid", 0, {}, KafkaError.INVALID_PARTITIONS),
        ("valid", 1, {"retention.ms": "soon"}, KafkaError.INVALID_CONFIG),
        ("valid", 1, {"no.such.config": "1"}, KafkaError.INVALID_CONFIG),
    ],
)
def test_a_topic_that_makes_no_sense_is_refused(
    kafka_broker: KafkaBroker, name: str, partitions: int, configs: dict[str, str], code: int
) -> None:
    topic = NewTopic(name, partitions, replication_factor=1, config=configs)
    assert refusal(admin(kafka_broker.bootstrap).create_topics([topic])) == code


def test_a_topic_is_made_once(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    again = admin(kafka_broker.bootstrap).create_topics([NewTopic(topic, 1)])
    assert refusal(again) == KafkaError.TOPIC_ALREADY_EXISTS


def test_partitions_are_added(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, partitions=2)
    client = admin(kafka_broker.bootstrap)
    settled(client.create_partitions([NewPartitions(topic, 4)]))
    wait_for_leaders(kafka_broker.bootstrap, topic, 4)
    produce(kafka_broker.bootstrap, topic, [{"value": b"v", "partition": 3}])
    assert len(consume(kafka_broker.bootstrap, topic, 1, partition=3)) == 1
    assert refusal(client.create_partitions([NewPartitions(topic, 4)])) == KafkaError.INVALID_PARTITIONS


def test_deleted_records_are_gone(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"%d" % index for index in range(10)], linger_ms=200)
    client = admin(kafka_broker.bootstrap)
    assert settled(client.delete_records([TopicPartition(topic, 0, 4)])).low_watermark == 4
    assert watermarks(kafka_broker.bootstrap, topic) == (4, 10)
    with consuming(kafka_broker.bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        assert take(consumer, 1)[0].value() == b"4"
    assert refusal(client.delete_records([TopicPartition(topic, 0, 11)])) == KafkaError.OFFSET_OUT_OF_RANGE
    assert settled(client.delete_records([TopicPartition(topic, 0, OFFSET_END)])).low_watermark == 10


def test_a_deleted_topic_is_gone_and_its_consumer_lives(kafka_broker: KafkaBroker) -> None:
    topic, other = new_topic(kafka_broker.bootstrap), new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"v"])
    client = admin(kafka_broker.bootstrap)
    with consuming(kafka_broker.bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0), TopicPartition(other, 0, 0)])
        assert take(consumer, 1)[0].value() == b"v"
        settled(client.delete_topics([topic]))
        produce_values(kafka_broker.bootstrap, other, [b"still here"])
        seen = {message.value() for message in take(consumer, 1) if message.error() is None}
        deadline = time.monotonic() + TIMEOUT_S
        while b"still here" not in seen and time.monotonic() < deadline:
            seen |= {message.value() for message in consumer.consume(10, 0.1) if message.error() is None}
        assert b"still here" in seen
    assert topic not in client.list_topics(timeout=TIMEOUT_S).topics
    assert refusal(client.delete_topics([topic])) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_topic_made_again_begins_anew(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"old"] * 3)
    client = admin(kafka_broker.bootstrap)
    settled(client.delete_topics([topic]))
    deadline = time.monotonic() + TIMEOUT_S
    while topic in client.list_topics(timeout=TIMEOUT_S).topics and time.monotonic() < deadline:
        time.sleep(0.05)
    settled(client.create_topics([NewTopic(topic, 1)]))
    wait_for_leaders(kafka_broker.bootstrap, topic, 1)
    produce_values(kafka_broker.bootstrap, topic, [b"new"])
    assert consume(kafka_broker.bootstrap, topic, 1)[0].value() == b"new"
    assert watermarks(kafka_broker.bootstrap, topic) == (0, 1)

"""What a client may expect of a broker, held against the embedded broker and Apache Kafka alike."""

import threading
import time
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, Message, TopicPartition

from tests.dataflows.embedded.kafka_clients import (
    CREATE_TIME,
    LOG_APPEND_TIME,
    TIMEOUT_S,
    admin,
    code_of,
    consume,
    consuming,
    error_of,
    new_topic,
    produce,
    produce_values,
    producing,
    reported,
    settled,
    take,
    watermarks,
)
from tests.kafka_brokers import KafkaBroker

pytestmark = pytest.mark.kafka

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def offset_for_time(bootstrap: str, topic: str, timestamp_ms: int) -> int:
    with consuming(bootstrap) as consumer:
        found: list[TopicPartition] = consumer.offsets_for_times(
            [TopicPartition(topic, 0, timestamp_ms)], TIMEOUT_S
        )
        offset: int = found[0].offset
        return offset


@pytest.mark.parametrize("timestamp_type", ["LogAppendTime", "CreateTime"])
@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_as_they_were_sent(
    kafka_broker: KafkaBroker, codec: str, timestamp_type: str
) -> None:
    topic = new_topic(kafka_broker.bootstrap, message_timestamp_type=timestamp_type)
    values = [b"x" * size + b"%d" % size for size in range(200)]
    produce_values(kafka_broker.bootstrap, topic, values, compression_type=codec)
    messages = consume(kafka_broker.bootstrap, topic, 200)
    assert [message.value() for message in messages] == values
    assert [message.offset() for message in messages] == list(range(200))


def test_keys_null_values_and_headers_are_kept(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    headers = [("tenant-id", b"acme"), ("empty", b""), ("none", None), ("tenant-id", b"again")]
    sent: list[dict[str, Any]] = [
        {"key": b"k", "value": None},
        {"key": None, "value": b""},
        {"value": b"v", "headers": headers},
    ]
    produce(kafka_broker.bootstrap, topic, sent)
    messages = consume(kafka_broker.bootstrap, topic, 3)
    assert [(message.key(), message.value()) for message in messages] == [
        (b"k", None),
        (None, b""),
        (None, b"v"),
    ]
    assert messages[2].headers() == headers


def test_create_time_is_the_producers(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, message_timestamp_type="CreateTime", retention_ms="-1")
    times_ms = [1_700_000_000_000, 1_700_000_005_000, 1_699_999_999_000]
    produce(kafka_broker.bootstrap, topic, [{"value": b"v", "timestamp": time_ms} for time_ms in times_ms])
    messages = consume(kafka_broker.bootstrap, topic, 3)
    assert [message.timestamp() for message in messages] == [(CREATE_TIME, time_ms) for time_ms in times_ms]


def test_append_time_is_the_brokers_and_never_goes_back(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, message_timestamp_type="LogAppendTime")
    before_ms = time.time_ns() // 1_000_000
    delivered = []
    for _ in range(5):
        delivered += produce(
            kafka_broker.bootstrap, topic, [{"value": b"v", "timestamp": 1_700_000_000_000}] * 3
        )
    after_ms = time.time_ns() // 1_000_000
    times = [message.timestamp() for message in consume(kafka_broker.bootstrap, topic, 15)]
    assert times == [message.timestamp() for message in delivered]
    assert {kind for kind, _ in times} == {LOG_APPEND_TIME}
    assert sorted(times) == times
    assert before_ms <= times[0][1] <= times[-1][1] <= after_ms


def test_consuming_from_the_end_sees_only_what_comes_after(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"before"] * 10)
    with consuming(kafka_broker.bootstrap, enable_partition_eof=True) as consumer:
        consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
        (end,) = take(consumer, 1)
        assert (error_of(end).code(), end.offset()) == (KafkaError._PARTITION_EOF, 10)
        produce_values(kafka_broker.bootstrap, topic, [b"after"])
        (message,) = take(consumer, 1)
        assert (message.value(), message.offset()) == (b"after", 10)


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_offset_for_time_is_exact_within_a_batch(kafka_broker: KafkaBroker, codec: str) -> None:
    topic = new_topic(kafka_broker.bootstrap, message_timestamp_type="CreateTime", retention_ms="-1")
    start_ms = 1_700_000_000_000
    sent = [{"value": b"v", "timestamp": start_ms + 10 * index} for index in range(100)]
    produce(kafka_broker.bootstrap, topic, sent, compression_type=codec, linger_ms=200)
    produce(kafka_broker.bootstrap, topic, [{"value": b"v", "timestamp": start_ms + 5000}])
    times = {start_ms - 1: 0, start_ms: 0, start_ms + 331: 34, start_ms + 990: 99, start_ms + 991: 100}
    found = {time_ms: offset_for_time(kafka_broker.bootstrap, topic, time_ms) for time_ms in times}
    assert found == times
    # None so late: librdkafka gives the end.
    assert offset_for_time(kafka_broker.bootstrap, topic, start_ms + 5001) in {-1, 101}


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_offset_for_append_time_is_the_first_of_its_batch(kafka_broker: KafkaBroker, codec: str) -> None:
    topic = new_topic(kafka_broker.bootstrap, message_timestamp_type="LogAppendTime")
    times_ms = []
    for _ in range(3):
        times_ms.append(
            produce_values(kafka_broker.bootstrap, topic, [b"v"] * 10, compression_type=codec)[0].timestamp()[
                1
            ]
        )
        time.sleep(0.01)
    assert times_ms[0] < times_ms[1] < times_ms[2]
    found = [offset_for_time(kafka_broker.bootstrap, topic, time_ms) for time_ms in times_ms]
    assert found == [0, 10, 20]
    assert offset_for_time(kafka_broker.bootstrap, topic, times_ms[0] + 1) == 10


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_seek_goes_into_the_middle_of_a_batch(kafka_broker: KafkaBroker, codec: str) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    values = [b"%d" % index for index in range(500)]
    produce_values(kafka_broker.bootstrap, topic, values, compression_type=codec, linger_ms=200)
    with consuming(kafka_broker.bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, 0, 123)])
        assert take(consumer, 1)[0].value() == b"123"
        consumer.seek(TopicPartition(topic, 0, 321))
        assert take(consumer, 1)[0].value() == b"321"


def test_the_end_of_a_partition_is_an_event(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"v"] * 3)
    with consuming(kafka_broker.bootstrap, enable_partition_eof=True) as consumer:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        messages = take(consumer, 4)
    assert [message.error() for message in messages[:3]] == [None] * 3
    assert (error_of(messages[3]).code(), messages[3].offset()) == (KafkaError._PARTITION_EOF, 3)


@pytest.mark.parametrize("offset", [4, 1000])
def test_an_offset_out_of_range_is_reported(kafka_broker: KafkaBroker, offset: int) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    produce_values(kafka_broker.bootstrap, topic, [b"v"] * 10)
    settled(admin(kafka_broker.bootstrap).delete_records([TopicPartition(topic, 0, 5)]))
    with consuming(kafka_broker.bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, 0, offset)])
        (message,) = take(consumer, 1)
    assert error_of(message).code() == KafkaError._AUTO_OFFSET_RESET
    assert "out of range" in error_of(message).str()


def test_an_unknown_topic_is_reported(kafka_broker: KafkaBroker) -> None:
    errors: list[int] = []
    with producing(kafka_broker.bootstrap, topic_metadata_propagation_max_ms=100) as producer:
        producer.produce("no-such-topic", b"v", on_delivery=reported(errors))
    assert errors == [KafkaError.UNKNOWN_TOPIC_OR_PART]
    with consuming(kafka_broker.bootstrap) as consumer, pytest.raises(KafkaException) as raised:
        consumer.get_watermark_offsets(TopicPartition("no-such-topic", 0), 5.0)
    assert code_of(raised.value) in {KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART}


@pytest.mark.parametrize("codec", CODECS)
def test_an_idempotent_producer_writes_everything_once_in_order(
    kafka_broker: KafkaBroker, codec: str
) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    values = [b"%d" % index for index in range(3000)]
    options = {"enable_idempotence": True, "batch_num_messages": 50, "compression_type": codec}
    produce_values(kafka_broker.bootstrap, topic, values, **options)
    assert [message.value() for message in consume(kafka_broker.bootstrap, topic, 3000)] == values
    assert watermarks(kafka_broker.bootstrap, topic) == (0, 3000)


def test_a_large_message_passes_where_it_is_allowed(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, max_message_bytes="10000000")
    value = bytes(range(256)) * 23_000
    produce_values(kafka_broker.bootstrap, topic, [value, b"small"], message_max_bytes=10_000_000)
    assert [message.value() for message in consume(kafka_broker.bootstrap, topic, 2)] == [value, b"small"]


def test_a_message_over_the_topics_limit_is_refused(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    codes: list[int] = []
    with producing(kafka_broker.bootstrap, message_max_bytes=10_000_000) as producer:
        producer.produce(topic, bytes(2_000_000), on_delivery=reported(codes))
    assert codes == [KafkaError.MSG_SIZE_TOO_LARGE]
    produce_values(kafka_broker.bootstrap, topic, [b"small"])
    assert watermarks(kafka_broker.bootstrap, topic) == (0, 1)


def test_64_partitions_are_read_by_one_consumer(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap, partitions=64)
    sent = [{"value": b"%d" % (index // 64), "partition": index % 64} for index in range(6400)]
    produce(kafka_broker.bootstrap, topic, sent, enable_idempotence=True)  # else retries reorder
    with consuming(kafka_broker.bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(64)])
        messages = take(consumer, 6400)
    of_partition: dict[int | None, list[bytes | None]] = {}
    for message in messages:
        of_partition.setdefault(message.partition(), []).append(message.value())
    assert of_partition == {partition: [b"%d" % index for index in range(100)] for partition in range(64)}


def test_a_waiting_fetch_is_woken_by_new_records(kafka_broker: KafkaBroker) -> None:
    """A broker that only polls would answer when `fetch.wait.max.ms` is over: `take` has given up by then."""
    topic = new_topic(kafka_broker.bootstrap)
    wait_ms = round(2 * TIMEOUT_S * 1000)
    with (
        consuming(kafka_broker.bootstrap, fetch_wait_max_ms=wait_ms) as consumer,
        producing(kafka_broker.bootstrap, linger_ms=0) as producer,
    ):
        consumer.assign([TopicPartition(topic, 0, 0)])
        for number in range(6):
            time.sleep(0.1)
            producer.produce(topic, b"%d" % number, partition=0)
            assert [(message.error(), message.value()) for message in take(consumer, 1)] == [
                (None, b"%d" % number)
            ]


def test_many_producers_leave_no_gap_for_a_consumer_at_the_end(kafka_broker: KafkaBroker) -> None:
    topic = new_topic(kafka_broker.bootstrap)
    values = [b"%d" % index for index in range(2000)]
    writers = [
        threading.Thread(
            target=produce_values, args=(kafka_broker.bootstrap, topic, values), kwargs={"linger_ms": 1}
        )
        for _ in range(4)
    ]
    with consuming(kafka_broker.bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        for writer in writers:
            writer.start()
        messages: list[Message] = take(consumer, 8000)
        for writer in writers:
            writer.join()
    assert [message.offset() for message in messages] == list(range(8000))

"""What the tests of the broker do with it: make topics, produce and consume."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # re-exported unsaid

TIMEOUT_S = 15.0
CREATE_TIME, LOG_APPEND_TIME = 1, 2  # what message.timestamp()[0] may be


@cache
def admin(bootstrap: str) -> AdminClient:
    """One for all calls: a client that is collected cancels them."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def settled(futures: dict[Any, Future[Any]]) -> Any:
    """The one result of an AdminClient call."""
    (future,) = futures.values()
    return future.result(TIMEOUT_S)


def refusal(futures: dict[Any, Future[Any]]) -> int:
    """The error code of an AdminClient call that must fail."""
    (future,) = futures.values()
    error = future.exception(TIMEOUT_S)
    assert isinstance(error, KafkaException)
    return code_of(error)


def code_of(error: KafkaException) -> int:
    code: int = error.args[0].code()
    return code


def error_of(message: Message) -> KafkaError:
    """The error that a message must be."""
    error = message.error()
    assert error is not None, message.value()
    return error


def new_topic(bootstrap: str, partitions: int = 1, **configs: str) -> str:
    """Makes a topic with a name of its own; config names are given with _ for their dots."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    config = {key.replace("_", "."): value for key, value in configs.items()}
    settled(admin(bootstrap).create_topics([NewTopic(name, partitions, config=config)]))
    wait_for_leaders(bootstrap, name, partitions)
    return name


def wait_for_leaders(bootstrap: str, topic: str, partitions: int) -> None:
    """Until every partition answers: Apache Kafka makes them after it has said so."""
    latest = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(partitions)}  # type: ignore[no-untyped-call]  # confluent-kafka's
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        known = (
            admin(bootstrap).list_topics(topic, TIMEOUT_S).topics[topic].partitions
        )  # and renews its cache
        answers = admin(bootstrap).list_offsets(latest).values() if len(known) == partitions else []
        if answers and not any(answer.exception(TIMEOUT_S) for answer in answers):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{topic} has no leaders")


@contextmanager
def producing(bootstrap: str, **options: Any) -> Iterator[Producer]:
    """A producer whose messages are all delivered at the end."""
    config = {"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 0}
    producer = Producer(config | {key.replace("_", "."): value for key, value in options.items()})
    yield producer
    assert producer.flush(TIMEOUT_S) == 0, "not all was delivered"


def produce(bootstrap: str, topic: str, messages: Sequence[dict[str, Any]], **options: Any) -> list[Message]:
    """Produces to partition 0 unless a message says otherwise; gives the messages as they were delivered."""
    delivered: list[Message] = []

    def report(error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        delivered.append(message)

    with producing(bootstrap, **options) as producer:
        for message in messages:
            producer.produce(topic, on_delivery=report, **({"partition": 0} | message))
    assert len(delivered) == len(messages)
    return delivered


def produce_values(bootstrap: str, topic: str, values: Sequence[bytes], **options: Any) -> list[Message]:
    return produce(bootstrap, topic, [{"value": value} for value in values], **options)


@contextmanager
def consuming(bootstrap: str, **options: Any) -> Iterator[Consumer]:
    """A consumer that checks CRCs, as Apache's clients do, and reports a lost offset instead of jumping."""
    config = {
        "bootstrap.servers": bootstrap,
        "group.id": f"g-{uuid.uuid4().hex[:8]}",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "check.crcs": True,
        "fetch.wait.max.ms": 100,
        "log_level": 0,
    }
    consumer = Consumer(config | {key.replace("_", "."): value for key, value in options.items()})
    try:
        yield consumer
    finally:
        consumer.close()


def take(consumer: Consumer, count: int) -> list[Message]:
    """The next `count` messages, or fewer if they don't come in time; an error is a message, too."""
    messages: list[Message] = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(messages) < count and time.monotonic() < deadline:
        messages += consumer.consume(min(count - len(messages), 1000), 0.05)
    return messages


def consume(bootstrap: str, topic: str, count: int, *, offset: int = 0, partition: int = 0) -> list[Message]:
    with consuming(bootstrap) as consumer:
        consumer.assign([TopicPartition(topic, partition, offset)])
        messages = take(consumer, count)
    assert [message.error() for message in messages] == [None] * count
    return messages


def watermarks(bootstrap: str, topic: str) -> tuple[int, int]:
    with consuming(bootstrap) as consumer:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), TIMEOUT_S)
        return low, high


def reported(codes: list[int]) -> Callable[[KafkaError | None, Message], None]:
    """A delivery report that keeps the error's code, 0 for none."""
    return lambda error, _: codes.append(error.code() if error else KafkaError.NO_ERROR)

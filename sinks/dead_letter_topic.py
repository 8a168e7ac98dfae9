"""Records that are not metered, to the dead-letter topic of Kafka: at least once.

`Reject`s -> records with key `topic/partition/offset` of the original, its bytes as value, its headers and
`meterline-reason -detail -topic -partition -offset -key`, acknowledged by all replicas before an epoch
commits. A replay sends a record again, with the same key: a reader that must not see it twice drops
repeated keys, or reads the table `dead_letters`, where each is once.
A payload that the topic refuses as too large is sent empty with its size in `meterline-omitted-bytes`;
the table has the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from typing_extensions import override

from schemas.events import Reject
from sinks import metrics
from sinks.shards import ShardSink
from sinks.topic import Header, RecordWriter, TopicProducer, producer_options

STEP = "dead_letter_topic"


def record_key(reject: Reject) -> bytes:
    return f"{reject.topic}/{reject.partition}/{reject.offset}".encode()


def record_headers(reject: Reject) -> list[Header]:
    """The original headers, then ours."""
    return [
        *reject.headers,
        ("meterline-reason", str(reject.reason).encode()),
        ("meterline-detail", reject.detail.encode()),
        ("meterline-topic", reject.topic.encode()),
        ("meterline-partition", str(reject.partition).encode()),
        ("meterline-offset", str(reject.offset).encode()),
        ("meterline-key", reject.key),
    ]


class TopicWriter(RecordWriter[Reject]):
    """Sends dead letters, and the size of those that the topic finds too large."""

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._producer = TopicProducer(options, topic, STEP, "dead letters")
        self._too_large: list[Reject] = []

    @override
    def send(self, item: Reject) -> None:
        """Queue a reject's record."""
        self._produce(item)
        metrics.DEAD_LETTERS.labels(str(item.reason)).inc()

    @override
    def flush(self) -> None:
        """Return when the topic has acknowledged all that was sent, or raise."""
        self._producer.flush()
        while self._too_large:
            reject = self._too_large.pop()
            self._produce(reject)  # a broker refuses a whole batch as too large; alone, a record may do
            self._producer.flush()
            if self._too_large and self._too_large[-1] is reject:
                self._omit(self._too_large.pop())
                self._producer.flush()

    def _produce(self, reject: Reject) -> None:
        try:
            self._queue(reject)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            self._omit(reject)

    def _queue(self, reject: Reject) -> None:
        # An empty payload has nothing left to omit: too large even so, it is an error.
        too_large = (lambda: self._too_large.append(reject)) if reject.payload else None
        self._producer.send(record_key(reject), reject.payload, record_headers(reject), too_large)

    def _omit(self, reject: Reject) -> None:
        size = str(len(reject.payload)).encode()
        headers = [*record_headers(reject), ("meterline-omitted-bytes", size)]
        self._producer.send(record_key(reject), b"", headers)


class DeadLetterTopicSink(ShardSink[Sequence[Reject], None]):
    """The dead-letter topic as a Bytewax sink."""

    def __init__(self, options: Mapping[str, Any], topic: str, shards: int) -> None:
        """`options`: librdkafka's, at least `bootstrap.servers`."""
        super().__init__(shards, lambda: TopicWriter(producer_options(options), topic))

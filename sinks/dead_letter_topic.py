"""Records that are not metered, to the dead-letter topic of Kafka: at least once.

`Reject`s -> records with key `topic/partition/offset` of the original, its bytes as value, its headers and
`meterline-reason -detail -topic -partition -offset -key`, acknowledged by all replicas before an epoch
commits. A replay sends a record again, with the same key: a reader that must not see it twice drops
repeated keys, or reads the table `dead_letters`, where each is once.
A payload that the topic refuses as too large is sent empty with its size in `meterline-omitted-bytes`;
the table has the bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from typing_extensions import override

from schemas.events import Reject
from sinks import metrics
from sinks.clickhouse import shard_keys
from sinks.failures import StoreUnavailable, logged_failures

STEP = "dead_letter_topic"

PRODUCER_OPTIONS: dict[str, Any] = {
    "linger.ms": 20,
    "compression.type": "lz4",
    "message.max.bytes": 64 << 20,  # ours: the topic's own limit decides what is too large
    "queue.buffering.max.kbytes": 64 << 10,  # then `send` waits
    "delivery.timeout.ms": 60_000,  # then the process ends
}
"""librdkafka's options where ours differ from its defaults; the caller's win, but for idempotence."""

Header = tuple[str, str | bytes | None]


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


class TopicWriter:
    """The process's idempotent producer. What the topic does not take is raised by `send` or `flush`."""

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._timeout_s = options["delivery.timeout.ms"] / 1000
        self._producer = Producer(dict(options))
        self._too_large: list[Reject] = []
        self._error: KafkaError | None = None

    def send(self, reject: Reject) -> None:
        self._produce(reject)
        metrics.DEAD_LETTERS.labels(str(reject.reason)).inc()

    def flush(self) -> None:
        """Return when the topic has acknowledged all that was sent, or raise."""
        self._wait()
        while self._too_large:
            reject = self._too_large.pop()
            self._produce(reject)  # a broker refuses a whole batch as too large; alone, a record may do
            self._wait()
            if self._too_large and self._too_large[-1] is reject:
                self._omit(self._too_large.pop())
                self._wait()

    def _wait(self) -> None:
        # A little longer than librdkafka itself waits, so that its own error is the one that is raised.
        waiting = self._producer.flush(self._timeout_s + 5)
        self._raise_error()
        if waiting:
            raise StoreUnavailable(f"Kafka has not taken {waiting} dead letters for {self._timeout_s:g} s")

    def _produce(self, reject: Reject) -> None:
        try:
            self._queue(reject, reject.payload, record_headers(reject))
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            self._omit(reject)

    def _omit(self, reject: Reject) -> None:
        size = str(len(reject.payload)).encode()
        self._queue(reject, b"", [*record_headers(reject), ("meterline-omitted-bytes", size)])

    def _queue(self, reject: Reject, payload: bytes, headers: list[Header]) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                metrics.ROWS.labels(STEP).inc()
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and payload:
                self._too_large.append(reject)  # sent by `flush`: a callback must not call the producer
            else:
                self._error = self._error or error

        while True:
            self._raise_error()
            try:
                self._producer.produce(
                    self._topic, payload, record_key(reject), headers=headers, on_delivery=delivered
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _raise_error(self) -> None:
        if self._error is not None:
            raise StoreUnavailable(f"Kafka does not take dead letters: {self._error.str()}")


class DeadLetterTopicSink(FixedPartitionedSink[Sequence[Reject], None]):
    """The dead-letter topic as a Bytewax sink; its parts are the shards, which share one producer."""

    def __init__(self, options: Mapping[str, Any], topic: str, shards: int) -> None:
        """`options`: librdkafka's, at least `bootstrap.servers`."""
        self._options = {**PRODUCER_OPTIONS, **options, "enable.idempotence": True}
        self._options["delivery.timeout.ms"] = int(self._options["delivery.timeout.ms"])
        self._topic, self._shards = topic, shards
        self._lock = threading.Lock()
        self._writer: TopicWriter | None = None

    @override
    def list_parts(self) -> list[str]:
        return shard_keys(self._shards)

    @override
    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> DeadLetterTopicPart:
        with self._lock:
            if self._writer is None:
                self._writer = TopicWriter(self._options, self._topic)
            return DeadLetterTopicPart(step_id, self._writer)


class DeadLetterTopicPart(StatefulSinkPartition[Sequence[Reject], None]):
    """One shard's end of the producer. It has no state: what is committed is in the topic."""

    def __init__(self, step_id: str, writer: TopicWriter) -> None:
        self._step_id, self._writer = step_id, writer

    @override
    def write_batch(self, values: list[Sequence[Reject]]) -> None:
        with logged_failures(self._step_id):
            for rejects in values:
                for reject in rejects:
                    self._writer.send(reject)

    @override
    def snapshot(self) -> None:
        with logged_failures(self._step_id):
            self._writer.flush()

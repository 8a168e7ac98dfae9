"""Write to a Kafka topic: at least once, acknowledged by all replicas before an epoch commits.

A sink of a topic has a writer a process, which its parts, the shards, share. `TopicProducer` is the way into
Kafka; what a record looks like is the writer's (`sinks.dead_letter_topic`, `sinks.wallet_alerts`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError, Message, Producer
from typing_extensions import override

from sinks import metrics
from sinks.clickhouse import shard_keys
from sinks.failures import StoreUnavailable, logged_failures

PRODUCER_OPTIONS: dict[str, Any] = {
    "linger.ms": 20,
    "compression.type": "lz4",
    "message.max.bytes": 64 << 20,  # ours: the topic's own limit decides what is too large
    "queue.buffering.max.kbytes": 64 << 10,  # then `send` waits
    "delivery.timeout.ms": 60_000,  # then the process ends
}
"""librdkafka's options where ours differ from its defaults; the caller's win, but for idempotence."""

Header = tuple[str, str | bytes | None]
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


def producer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options, at least `bootstrap.servers`, over ours."""
    merged = {**PRODUCER_OPTIONS, **options, "enable.idempotence": True}
    merged["delivery.timeout.ms"] = int(merged["delivery.timeout.ms"])
    return merged


class TopicProducer:
    """The process's idempotent producer. What the topic does not take is raised by `send` or `flush`."""

    def __init__(self, options: Mapping[str, Any], topic: str, step: str, what: str) -> None:
        """`step`: the step's id, for metrics; `what`: what it sends, for errors."""
        self._topic, self._step, self._what = topic, step, what
        self._timeout_s = options["delivery.timeout.ms"] / 1000
        self._producer = Producer(dict(options))
        self._error: KafkaError | None = None

    def send(
        self, key: bytes, value: bytes, headers: list[Header], too_large: Callable[[], None] | None = None
    ) -> None:
        """Queue a record; `too_large` is called instead of failing if the broker finds it so."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                metrics.ROWS.labels(self._step).inc()
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and too_large is not None:
                too_large()  # a callback must not call the producer
            else:
                self._error = self._error or error

        while True:
            self._raise_error()
            try:
                self._producer.produce(self._topic, value, key, headers=headers, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def flush(self) -> None:
        """Return when the topic has acknowledged all that was sent, or raise."""
        # A little longer than librdkafka itself waits, so that its own error is the one that is raised.
        waiting = self._producer.flush(self._timeout_s + 5)
        self._raise_error()
        if waiting:
            raise StoreUnavailable(f"Kafka has not taken {waiting} {self._what} for {self._timeout_s:g} s")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise StoreUnavailable(f"Kafka does not take {self._what}: {self._error.str()}")


class Writer(Protocol[T_contra]):
    """Makes records of items."""

    def send(self, item: T_contra) -> None:
        """Queue an item's record."""

    def flush(self) -> None:
        """Return when all is acknowledged, or raise."""


class TopicSink(FixedPartitionedSink[Sequence[T], None], Generic[T]):
    """A topic as a Bytewax sink; its parts are the shards, which share one writer."""

    def __init__(self, open_writer: Callable[[], Writer[T]], shards: int) -> None:
        self._open_writer, self._shards = open_writer, shards
        self._lock = threading.Lock()
        self._writer: Writer[T] | None = None

    @override
    def list_parts(self) -> list[str]:
        return shard_keys(self._shards)

    @override
    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> TopicPart[T]:
        with self._lock:
            if self._writer is None:
                self._writer = self._open_writer()
            return TopicPart(step_id, self._writer)


class TopicPart(StatefulSinkPartition[Sequence[T], None], Generic[T]):
    """One shard's end of the writer. It has no state: what is committed is in the topic."""

    def __init__(self, step_id: str, writer: Writer[T]) -> None:
        self._step_id, self._writer = step_id, writer

    @override
    def write_batch(self, values: list[Sequence[T]]) -> None:
        with logged_failures(self._step_id):
            for items in values:
                for item in items:
                    self._writer.send(item)

    @override
    def snapshot(self) -> None:
        with logged_failures(self._step_id):
            self._writer.flush()

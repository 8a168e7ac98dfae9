"""Write to a Kafka topic: at least once, acknowledged by all replicas before an epoch commits.

A sink of a topic is a `ShardSink` over one `RecordWriter` a process. `TopicProducer` is the way into Kafka;
what a record looks like is the writer's (`sinks.dead_letter_topic`, `sinks.wallet_alerts`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from confluent_kafka import KafkaError, Message, Producer

from sinks import metrics
from sinks.failures import StoreUnavailable

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


class RecordWriter(ABC, Generic[T]):
    """Makes records of items: what the parts of a topic's sink share."""

    @abstractmethod
    def send(self, item: T) -> None:
        """Queue an item's record."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all is acknowledged, or raise."""

    def restore(self, part: str, state: None) -> None:
        """There is no state: what is committed is in the topic."""

    def write(self, part: str, values: Sequence[Sequence[T]]) -> None:
        for items in values:
            for item in items:
                self.send(item)

    def snapshot(self, part: str) -> None:
        self.flush()

    def close(self) -> None:
        """What was not flushed is dropped with the producer: its epoch has not committed."""

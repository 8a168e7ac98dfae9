"""Produces a workload live, in a thread, and keeps the truth about what it has produced."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from dataflows.settings import Settings
from dataflows.truth import Truth
from dataflows.workload import Produced, Workload

TICK_S = 0.01
FLUSH_TIMEOUT_S = 30.0
OPTIONS: dict[str, Any] = {
    "linger.ms": 5,
    "compression.type": "lz4",
    "enable.idempotence": True,
    "queue.buffering.max.messages": 200_000,
    "log_level": 2,
}


class LiveProducer:
    """Account events at once, then usage events at `rate` a second for `seconds`, or until `stop`."""

    def __init__(self, settings: Settings, *, seconds: float, rate: float, seed: int = 1) -> None:
        self._settings, self._seconds, self._rate, self._seed = settings, seconds, rate, seed
        self.truth = Truth()
        """Only its thread writes it: read it when that has ended."""
        self.events = self.acknowledged = self.account_events = 0
        self.error = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._producer = Producer(
            {**OPTIONS, **settings.kafka_options, "bootstrap.servers": settings.kafka_brokers}
        )

    @property
    def records(self) -> int:
        """Of both topics."""
        return self.events + self.account_events

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Produce no more, and wait for what is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._produce_all()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            raise

    def _produce_all(self) -> None:
        workload = Workload(self._seed, start=datetime.now(UTC), rate=self._rate)
        for event in workload.account_events():
            self._produce(self._settings.account_topic, event)
            self.truth.add_account(event)
            self.account_events += 1
        self._producer.flush(FLUSH_TIMEOUT_S)
        started = time.monotonic()
        events = workload.events()
        while not self._stop.wait(TICK_S):
            elapsed = time.monotonic() - started
            due = int(min(elapsed, self._seconds) * self._rate)
            for _ in range(self.events, due):
                event = next(events)
                self._produce(self._settings.usage_topic, event)
                self.truth.add(event)
                self.events += 1
            self._producer.poll(0)
            if elapsed >= self._seconds:
                break
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        if not self.error and (left or self.acknowledged != self.records):
            self.error = f"Kafka acknowledged {self.acknowledged} of {self.records} records"

    def _produce(self, topic: str, event: Produced) -> None:
        while True:
            try:
                return self._producer.produce(
                    topic,
                    event.value,
                    event.key,
                    headers=list(event.headers),
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.error = self.error or f"Kafka refused a record: {error.str()}"

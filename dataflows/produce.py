"""`meterline produce`: JSON lines into a topic, keyed by customer, counted when the broker has them.

A line is sent as it is, a bad one too: it becomes a dead letter with its reason. Blank lines are skipped.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dataflows.reports import print_json
from dataflows.settings import Settings
from dataflows.topics import require_topics

OPTIONS: dict[str, Any] = {
    "linger.ms": 20,
    "compression.type": "lz4",
    "enable.idempotence": True,
    "delivery.timeout.ms": 60_000,
    "log_level": 2,
}
ERRORS_SHOWN = 5
SHOW_EVERY_LINES = 500


class _Customer(msgspec.Struct):
    """The members of an event that can name its customer."""

    external_customer_id: Any = None
    customer_id: Any = None
    subject: Any = None


_CUSTOMER = msgspec.json.Decoder(_Customer)


class Delivery:
    """What became of the lines."""

    def __init__(self) -> None:
        self.sent = self.acknowledged = 0
        self.errors: Counter[str] = Counter()

    def delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.errors[error.str()] += 1


def produce(settings: Settings, file: str, topic: str | None, *, as_json: bool) -> bool:
    """Send all lines; whether the broker acknowledged every one."""
    topic = topic or settings.usage_topic
    require_topics(settings, (topic,))
    delivery = Delivery()
    with _lines(file) as (lines, size):
        _send(settings, topic, lines, size, delivery)
    report = {"topic": topic, "sent": delivery.sent, "acknowledged": delivery.acknowledged}
    if as_json:
        print_json({**report, "errors": dict(delivery.errors)})
    else:
        print(f"{topic}: {delivery.acknowledged:,} of {delivery.sent:,} events acknowledged")
        for text, count in delivery.errors.most_common(ERRORS_SHOWN):
            print(f"{count:,} times: {text}")
    return delivery.acknowledged == delivery.sent


def customer_key(line: bytes) -> bytes | None:
    """The customer whose events must stay in order; None if the line names none."""
    try:
        event = _CUSTOMER.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return None
    for name in (event.external_customer_id, event.customer_id, event.subject):
        if isinstance(name, str) and name:
            return name.encode()
    return None


@contextmanager
def _lines(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == "-":
        yield sys.stdin.buffer, None
        return
    with Path(file).open("rb") as lines:
        yield lines, Path(file).stat().st_size


def _send(settings: Settings, topic: str, lines: BinaryIO, size: int | None, delivery: Delivery) -> None:
    options = {**OPTIONS, **settings.kafka_options, "bootstrap.servers": settings.kafka_brokers}
    producer = Producer(options)
    with _progress() as progress:
        task = progress.add_task("", total=size, acknowledged=0)
        read = 0
        for number, line in enumerate(lines):
            read += len(line)
            if event := line.strip():
                _send_one(producer, topic, event, delivery)
            if number % SHOW_EVERY_LINES == 0:
                _show(progress, task, read, delivery)
        while producer.flush(0.2):
            _show(progress, task, read, delivery)
        _show(progress, task, read, delivery)


def _send_one(producer: Producer, topic: str, event: bytes, delivery: Delivery) -> None:
    delivery.sent += 1
    while True:
        try:
            producer.produce(topic, event, customer_key(event), on_delivery=delivery.delivered)
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:  # too large for any topic, before it is sent
            delivery.errors[error.args[0].str()] += 1
            return
        else:
            producer.poll(0)
            return


def _progress() -> Progress:
    return Progress(
        BarColumn(),
        TextColumn("{task.fields[acknowledged]:,} acknowledged"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _show(progress: Progress, task: TaskID, read_bytes: int, delivery: Delivery) -> None:
    progress.update(task, completed=read_bytes, acknowledged=delivery.acknowledged)

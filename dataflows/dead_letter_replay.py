"""`meterline dead-letters replay`: the original bytes again, to the topic and partition they came from.

Dead letters -> records with the original key and headers, and `meterline-replayed-from:
topic/partition/offset`, each marked in the table `dead_letter_replays` when Kafka has acknowledged it. What
is rejected again is a new dead letter, at the place of the copy.

Nothing is counted twice, by three rules: what is marked is not sent again, except with `again`; an event
whose id stands in `usage_events` is not sent at all; and `dedupe` drops an id that comes twice within its
horizon. What is left: copies sent twice, more than METERLINE_DEDUPE_HORIZON_S apart, before the flow has read
the first: only `again` does so, or a replay that was killed before it had marked its last page.

A copy is a new record: its append time is now. So an event older than METERLINE_EVENT_AGE_MAX_D is rejected
again, one whose window is closed becomes a late reading, which still counts in its bill, and one without a
timestamp of its own counts at the time of its copy.
Kafka's null key and empty key are one in the table; copies have the null key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from clickhouse_connect.driver.client import Client
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from dataflows.dead_letters import BINARY, DeadLetter, Selection
from dataflows.reports import print_json
from dataflows.settings import Settings
from dataflows.stores import clickhouse
from dataflows.topics import find_topics, require_topics
from operators.examine import DecodeConfig, RefusedError, examine
from sql import query

PAGE_ROWS = 500
"""Dead letters in memory at once, and what a killed replay may send again."""

REPLAYED_FROM = "meterline-replayed-from"
MARK_COLUMNS = ("topic", "partition", "offset", "replayed_at", "copy_partition", "copy_offset")
OPTIONS: dict[str, Any] = {
    "linger.ms": 20,
    "compression.type": "lz4",
    "enable.idempotence": True,
    "message.max.bytes": 64 << 20,  # the topic's own limit decides
    "delivery.timeout.ms": 60_000,
    "log_level": 2,
}
LENIENT = DecodeConfig(event_bytes_max=1 << 30, ahead_max_s=1 << 40, age_max_d=1 << 40)
"""Reads the id of an event whatever it was rejected for, as long as it has one."""


Delivered: TypeAlias = Callable[[DeadLetter, KafkaError | None, Message], None]


@dataclass
class Outcome:
    """What became of the dead letters that were selected."""

    found: int = 0
    sent: int = 0
    acknowledged: int = 0
    replayed_already: int = 0
    counted_already: int = 0
    refused_rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class _Place(NamedTuple):
    """The dead letters of a partition, as a query found them when the replay began."""

    topic: str
    partition: int
    last_offset: int
    refused_rows: int
    replayed: int
    records: int


def replay(settings: Settings, selection: Selection, *, again: bool, dry_run: bool, as_json: bool) -> bool:
    """Send what is selected; whether Kafka acknowledged all that was sent."""
    outcome = Outcome()
    with clickhouse(settings.clickhouse_url) as client:
        found = client.query(query("dead_letters_places"), parameters=selection.parameters).result_rows
        places = [_Place(*row) for row in found]
        outcome.found = sum(place.records + place.refused_rows for place in places)
        outcome.refused_rows = sum(place.refused_rows for place in places)
        outcome.replayed_already = 0 if again else sum(place.replayed for place in places)
        places = [place for place in places if place.records]
        sender = None if dry_run or not places else _sender(settings, places)
        counted = _counted(client, settings, selection, places)
        for place in places:
            for page in _pages(client, selection, place, again=again):
                fresh = [letter for letter in page if _identity(letter, settings) not in counted]
                outcome.counted_already += len(page) - len(fresh)
                outcome.sent += len(fresh)
                if sender is not None and fresh:
                    _mark(client, sender.send(fresh))
    if sender is not None:
        outcome.acknowledged, outcome.errors = sender.acknowledged, sender.errors
    _print(outcome, dry_run=dry_run, as_json=as_json)
    return dry_run or outcome.acknowledged == outcome.sent


class Sender:
    """Sends dead letters back to where they came from."""

    def __init__(self, producer: Producer, partitions: dict[str, int]) -> None:
        """`partitions`: how many each topic has now."""
        self.acknowledged = 0
        self.errors: Counter[str] = Counter()
        self._producer, self._partitions = producer, partitions

    def send(self, letters: list[DeadLetter]) -> list[tuple[Any, ...]]:
        """Return when Kafka has answered for all: the rows that mark those it has, by MARK_COLUMNS."""
        marks: list[tuple[Any, ...]] = []
        refused = self._send(letters, marks)
        alone = [letter for letter, error in refused if error.code() == KafkaError.MSG_SIZE_TOO_LARGE]
        failed = [error for _, error in refused if error.code() != KafkaError.MSG_SIZE_TOO_LARGE]
        for letter in alone:  # a broker refuses a whole batch as too large; alone, a record may do
            failed += [error for _, error in self._send([letter], marks)]
        self.acknowledged += len(marks)
        self.errors.update(error.str() for error in failed)
        return marks

    def _send(
        self, letters: list[DeadLetter], marks: list[tuple[Any, ...]]
    ) -> list[tuple[DeadLetter, KafkaError]]:
        """What Kafka refused of these, and why; the others are added to `marks`."""
        refused: list[tuple[DeadLetter, KafkaError]] = []
        now = datetime.now(UTC)

        def delivered(letter: DeadLetter, error: KafkaError | None, copy: Message) -> None:
            if error is not None:
                refused.append((letter, error))
            else:
                mark = (letter.topic, letter.partition, letter.offset, now)
                marks.append((*mark, copy.partition(), copy.offset()))

        for letter in letters:
            try:
                self._produce(letter, delivered)
            except KafkaException as error:  # too large for any topic
                refused.append((letter, error.args[0]))
        self._producer.flush()
        return refused

    def _produce(self, letter: DeadLetter, delivered: Delivered) -> None:
        # The partition it came from, if there still is one: the customer's other events are there.
        there = letter.partition < self._partitions[letter.topic]
        while True:
            try:
                self._producer.produce(
                    letter.topic,
                    letter.payload,
                    letter.key or None,
                    partition=letter.partition if there else -1,
                    headers=[*letter.headers, (REPLAYED_FROM, letter.place.encode())],
                    on_delivery=lambda error, copy: delivered(letter, error, copy),
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return


def _sender(settings: Settings, places: list[_Place]) -> Sender:
    names = sorted({place.topic for place in places})
    require_topics(settings, names)
    partitions = {topic.name: topic.partitions for topic in find_topics(settings, names=names)}
    options = {**OPTIONS, **settings.kafka_options, "bootstrap.servers": settings.kafka_brokers}
    return Sender(Producer(options), partitions)


def _pages(client: Client, selection: Selection, place: _Place, *, again: bool) -> Iterator[list[DeadLetter]]:
    """The partition's dead letters in their order; those that the replay itself makes lie behind the last."""
    after = -1
    while True:
        page = {
            "topic": place.topic,
            "partition": place.partition,
            "after": after,
            "last_offset": place.last_offset,
            "again": int(again),
            "limit": PAGE_ROWS,
        }
        rows = client.query(
            query("dead_letters_page"), parameters=selection.parameters | page, column_formats=BINARY
        ).result_rows
        if not rows:
            return
        letters = [DeadLetter.of_row(tuple(row)) for row in rows]
        yield letters
        after = letters[-1].offset


def _counted(
    client: Client, settings: Settings, selection: Selection, places: list[_Place]
) -> frozenset[tuple[str, str, str]]:
    """(tenant, customer, id) of the selected usage events that are counted by now: sent again by their
    producer, or read again by a flow that had stopped before it committed their rejection."""
    if all(place.topic != settings.usage_topic for place in places):
        return frozenset()
    wanted = selection.parameters | {"topic": settings.usage_topic}
    rows = client.query(query("dead_letters_counted"), parameters=wanted).result_rows
    return frozenset((tenant, customer, event_id) for tenant, customer, event_id in rows)


def _identity(letter: DeadLetter, settings: Settings) -> tuple[str, str, str] | None:
    """(tenant, customer, id) of a usage event; None of one that says neither, and of an account event."""
    if letter.topic != settings.usage_topic:
        return None
    try:
        event = examine(_Record(letter), LENIENT)
    except RefusedError:
        return None
    return str(event.tenant_id), str(event.external_customer_id or event.customer_id), str(event.id)


class _Record:
    """A dead letter as the Kafka record that it was: `schemas.events.Record`."""

    def __init__(self, letter: DeadLetter) -> None:
        self._letter = letter

    def value(self) -> bytes:
        return self._letter.payload

    def key(self) -> bytes:
        return self._letter.key

    def offset(self) -> int:
        return self._letter.offset

    def headers(self) -> list[tuple[str, bytes | None]]:
        return list(self._letter.headers)

    def timestamp(self) -> tuple[int, int]:
        return 1, int(self._letter.appended_at.timestamp() * 1000)


def _mark(client: Client, marks: list[tuple[Any, ...]]) -> None:
    if marks:
        client.insert("dead_letter_replays", marks, column_names=MARK_COLUMNS)


def _print(outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        counts = {name: value for name, value in vars(outcome).items() if name != "errors"}
        print_json({"dry_run": dry_run, **counts, "errors": dict(outcome.errors)})
        return
    if dry_run:
        print(f"would replay {outcome.sent:,} of {outcome.found:,} dead letters")
    else:
        print(
            f"replayed {outcome.acknowledged:,} of {outcome.found:,} dead letters"
            + f"; {outcome.sent - outcome.acknowledged:,} were not acknowledged" * bool(outcome.errors)
        )
    if outcome.replayed_already:
        print(f"{outcome.replayed_already:,} were replayed before; --again sends them once more")
    if outcome.counted_already:
        print(f"{outcome.counted_already:,} are counted already: an event of their id is in usage_events")
    if outcome.refused_rows:
        print(
            f"{outcome.refused_rows:,} are rows that ClickHouse refused, not records: their events are"
            " counted, and there is nothing to send"
        )
    for text, count in outcome.errors.most_common(5):
        print(f"{count:,} times: {text}")

"""Records out of librdkafka's own queue against confluent-kafka's objects of the same ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from dataflows import kafka_fetch
from dataflows.kafka_client import OURS, TUNING
from dataflows.kafka_fetch import KNOWN_VERSIONS, Fetched, Fetcher, Report
from schemas.records import Headers, Record
from tests.dataflows.embedded.kafka_clients import new_topic
from tests.kafka_brokers import KafkaBroker

pytestmark = pytest.mark.kafka

TIMEOUT_S = 20.0
SENT: list[tuple[bytes | None, bytes | None, Headers]] = [
    (b"value", b"key", []),
    (b"", b"", []),
    (None, b"a tombstone", []),
    (b"no key", None, [("tenant-id", b"acme"), ("tenant-id", b"zeta"), ("none", None), ("empty", b"")]),
    ("größer, 大".encode(), b"\xff\x00\xfe", [("ключ", bytes(range(256)))]),
    (bytes(100_000), bytes(1000), [("x" * 300, bytes(5000))]),
    *((b"%d" % number, b"", []) for number in range(1500)),
]


@contextmanager
def fetching(brokers: str, topic: str) -> Iterator[Fetcher]:
    at_once = {"topic.metadata.propagation.max.ms": 100}  # that a topic is not there
    consumer = Consumer({**TUNING, **OURS, **at_once, "bootstrap.servers": brokers, "group.id": "g"})
    fetcher = Fetcher(consumer, topic, 0)
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        yield fetcher
    finally:
        fetcher.close()
        consumer.close()


def everything(fetcher: Fetcher, records_max: int = 10_000, bytes_max: int = 1 << 20) -> list[Fetched]:
    """All there is, up to the report of the partition's end."""
    found: list[Fetched] = []
    deadline = time.monotonic() + TIMEOUT_S
    while not any(
        report.code == KafkaError._PARTITION_EOF for fetched in found for report in fetched.reports
    ):
        assert time.monotonic() < deadline
        found.append(fetcher.fetch(records_max, bytes_max))
        time.sleep(0.002)
    return found


def content(record: Record) -> tuple[object, ...]:
    return record.value(), record.key() or b"", record.headers() or [], record.offset(), record.timestamp()[1]


@pytest.fixture(scope="module")
def sent(kafka_broker: KafkaBroker) -> tuple[str, str]:
    """A broker and a topic with `SENT`."""
    brokers = kafka_broker.bootstrap
    topic = new_topic(brokers)
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1})
    for value, key, headers in SENT:
        producer.produce(topic, value, key, partition=0, headers=list(headers))
    assert producer.flush(TIMEOUT_S) == 0
    return brokers, topic


def test_the_installed_client_is_known() -> None:
    assert kafka_fetch.library(KNOWN_VERSIONS) is not None


def test_records_are_what_was_sent_and_what_objects_say(
    sent: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fetching(*sent) as fetcher:
        records = [content(record) for fetched in everything(fetcher) for record in fetched.records]
    assert [(value, key, headers) for value, key, headers, _, _ in records] == [
        (value, key or b"", headers) for value, key, headers in SENT
    ]
    assert [offset for *_, offset, _ in records] == list(range(len(SENT)))
    monkeypatch.setattr(kafka_fetch, "KNOWN_VERSIONS", frozenset({"another"}))
    with fetching(*sent) as fetcher:
        found = everything(fetcher)
    assert [content(record) for fetched in found for record in fetched.records] == records
    assert [report[0] for fetched in found for report in fetched.reports] == [KafkaError._PARTITION_EOF]


@pytest.mark.parametrize("versions", [KNOWN_VERSIONS, frozenset({"another"})])
def test_the_end_is_reported_at_its_offset_after_all_records(
    sent: tuple[str, str], versions: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_fetch, "KNOWN_VERSIONS", versions)
    with fetching(*sent) as fetcher:
        found = everything(fetcher)
    (report,) = found[-1].reports
    assert (report.code, report.offset, report.is_last) == (KafkaError._PARTITION_EOF, len(SENT), True)


@pytest.mark.parametrize("versions", [KNOWN_VERSIONS, frozenset({"another"})])
def test_a_fetch_keeps_its_limits(
    sent: tuple[str, str], versions: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_fetch, "KNOWN_VERSIONS", versions)
    with fetching(*sent) as fetcher:
        by_count = everything(fetcher, records_max=700)
    assert max(len(fetched.records) for fetched in by_count) == 700
    assert all(fetched.is_full for fetched in by_count if len(fetched.records) == 700)
    monkeypatch.setattr(kafka_fetch, "CALL_MAX", 2)
    with fetching(*sent) as fetcher:
        by_bytes = everything(fetcher, bytes_max=100_000)
    first = next(fetched for fetched in by_bytes if len(fetched.records))
    assert (len(first.records), first.is_full) == (6, True)  # the sixth is the one that reaches them


def test_what_was_fetched_outlives_its_consumer(sent: tuple[str, str]) -> None:
    with fetching(*sent) as fetcher:
        found = everything(fetcher)
    kept = [record for fetched in found for record in fetched.records]
    assert [record.value() for record in kept] == [value for value, _, _ in SENT]


def test_a_partition_that_is_not_there_is_reported(kafka_broker: KafkaBroker) -> None:
    with fetching(kafka_broker.bootstrap, "no-such-topic") as fetcher:
        deadline = time.monotonic() + TIMEOUT_S
        reports: list[Report] = []
        while not reports:
            assert time.monotonic() < deadline
            reports = fetcher.fetch(10, 1000).reports
    assert reports[0].code == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert reports[0].text

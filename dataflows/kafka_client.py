"""librdkafka as the sources use it: options, what the brokers have, and what its callbacks tell.

`KafkaConfig` -> `Cluster` (topics and ids) or `SourceError`; `BrokerWatch` collects one consumer's callbacks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from dataflows.offsets import SourceError
from dataflows.source_metrics import CONNECTED, LAG_MESSAGES

_LOG = logging.getLogger(__name__)

STATISTICS_INTERVAL_S = 1
RECEIVE_IDLE_MAX_S = 5
"""A leader that has sent nothing for longer does not answer; fetches are answered within 0.1 s."""

HEARD_MIN = 2
"""As many good statistics in a row say that fetches are answered again after an outage."""

TUNING: Mapping[str, str | int] = {
    # A fetch waits for this much or this long. Answered for each append, as by default, fetches took a tenth
    # of the flow's CPU at 10,000 events/s, and a quarter of a core of the broker's.
    "fetch.min.bytes": 65_536,
    "fetch.wait.max.ms": 40,
    "fetch.queue.backoff.ms": 10,  # the default 1000 stops fetching for a second whenever the queue is full
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,  # a partition: bounds memory
    "reconnect.backoff.max.ms": 1000,
    "log_level": 2,  # lost connections are logged once an outage, by BrokerWatch
}
"""What `METERLINE_KAFKA_OPTIONS` may override."""

OURS: Mapping[str, str | int | bool] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # any other value skips records silently when an offset is gone
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "statistics.interval.ms": STATISTICS_INTERVAL_S * 1000,
    # Nobody subscribes; this is what close() waits for a commit of a broker that is away (45 s by default).
    "session.timeout.ms": 2000,
    "heartbeat.interval.ms": 1000,
}
"""What it may not: exactness rests on it, or this module."""

PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # what a broker says that has just started
    }
)
"""Errors that librdkafka gets over by itself, on the same broker or the next leader."""

_NO_TOPIC_ID = "A" * 22


@dataclass(frozen=True)
class KafkaConfig:
    """How the brokers are reached."""

    brokers: str
    """`host:port`, by commas."""
    group: str = "meterline"
    """Offsets are committed to this group for lag tools. Nobody subscribes with it; they are never read."""
    options: Mapping[str, str] = field(default_factory=dict)
    """librdkafka's own, such as TLS and SASL."""
    timeout_s: float = 30
    """How long the brokers are waited for at start."""


@dataclass(frozen=True)
class Cluster:
    """What the brokers have."""

    id: str
    partitions: Mapping[str, int]
    """How many partitions each topic has."""
    topic_ids: Mapping[str, str]


class BrokerWatch:
    """What librdkafka tells about the consumer of one partition, in callbacks that `consume` runs."""

    def __init__(self, topic: str, partition: int) -> None:
        self.next_offset = 0
        """What the lag is counted from; the consumer's owner keeps it up to date."""
        self.last_error = ""
        self.fatal = ""
        self._topic, self._partition = topic, str(partition)
        self._heard = 0
        self._heard_at_s = 0.0
        self._outage = self._commits_fail = False

    def callbacks(self) -> dict[str, object]:
        return {"error_cb": self._on_error, "stats_cb": self._on_statistics, "on_commit": self._on_commit}

    def is_heard(self) -> bool:
        """Whether the partition's leader answers fetches, so that no news means no records."""
        return self._heard >= HEARD_MIN and time.monotonic() - self._heard_at_s < RECEIVE_IDLE_MAX_S

    def note_error(self, text: str) -> None:
        """Note an error that passes; it is logged once an outage."""
        self.last_error = text
        if not self._outage:
            self._outage = True
            _LOG.warning("%s/%s waits for its broker: %s", self._topic, self._partition, text)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.last_error = self.fatal = error.str()
        else:
            self.note_error(error.str())

    def _on_statistics(self, text: str) -> None:
        statistics = _statistics(text.encode())
        partition = statistics.topics.get(self._topic, _TopicStatistics()).partitions.get(self._partition)
        heard = partition is not None and any(
            broker.nodeid == partition.leader
            and broker.state == "UP"
            and 0 <= broker.rxidle < RECEIVE_IDLE_MAX_S * 1_000_000
            for broker in statistics.brokers.values()
        )
        self._heard, self._heard_at_s = self._heard + 1 if heard else 0, time.monotonic()
        CONNECTED.labels(self._topic, self._partition).set(heard)
        if partition is not None and partition.hi_offset >= 0:
            LAG_MESSAGES.labels(self._topic, self._partition).set(
                max(0, partition.hi_offset - self.next_offset)
            )
        if self._outage and self._heard >= HEARD_MIN:
            self._outage = False
            _LOG.info("%s/%s is read again", self._topic, self._partition)

    def _on_commit(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        if error is not None and not self._commits_fail:
            _LOG.warning("%s/%s: lag tools lag, no commit: %s", self._topic, self._partition, error.str())
        self._commits_fail = error is not None


def consumer(config: KafkaConfig, callbacks: Mapping[str, object]) -> Consumer:
    """A consumer that has no partition yet."""
    connection = {"bootstrap.servers": config.brokers, "group.id": config.group}
    return Consumer({**TUNING, **config.options, **OURS, **connection, **callbacks})


def describe(config: KafkaConfig, topics: tuple[str, ...]) -> Cluster:
    """Partitions and ids of `topics`; raises `SourceError` when a broker or a topic is not there."""
    errors: list[KafkaError] = []
    client = consumer(config, {"error_cb": errors.append})
    partitions: dict[str, int] = {}
    cluster_id = ""
    try:
        for topic in topics:
            metadata = client.list_topics(topic, timeout=config.timeout_s)
            found = metadata.topics[topic]
            if found.error is not None:
                raise SourceError(
                    f"the Kafka brokers at {config.brokers} show no topic {topic!r}: {found.error.str()}."
                    " Create it, or correct METERLINE_USAGE_TOPIC or METERLINE_ACCOUNT_TOPIC"
                )
            cluster_id = metadata.cluster_id or ""
            partitions[topic] = len(found.partitions)
    except KafkaException as error:
        client.poll(0)
        raise unreachable(config, errors[0].str() if errors else str(error)) from None
    finally:
        client.close()
    return Cluster(cluster_id, partitions, _topic_ids(config, topics))


def unreachable(config: KafkaConfig, reason: str) -> SourceError:
    return SourceError(
        f"no Kafka broker at {config.brokers} answered within {config.timeout_s:g} s: {reason}."
        " Start it, or correct METERLINE_KAFKA_BROKERS and METERLINE_KAFKA_OPTIONS"
    )


def _topic_ids(config: KafkaConfig, topics: tuple[str, ...]) -> dict[str, str]:
    """Ids of topics, "" where the brokers give none (before 3.1) or may not tell."""
    admin = AdminClient({"log_level": 2, **config.options, "bootstrap.servers": config.brokers})
    ids = dict.fromkeys(topics, "")
    described = admin.describe_topics(TopicCollection(list(topics)), request_timeout=config.timeout_s)
    for topic, future in described.items():
        try:
            topic_id = str(future.result().topic_id)
        except KafkaException as error:
            _LOG.warning("no id of topic %s: %s", topic, error)
        else:
            ids[topic] = "" if topic_id == _NO_TOPIC_ID else topic_id
    return ids


class _BrokerStatistics(msgspec.Struct):
    nodeid: int = -1
    state: str = ""
    rxidle: int = -1
    """Microseconds since something was received."""


class _PartitionStatistics(msgspec.Struct):
    leader: int = -1
    hi_offset: int = -1


class _TopicStatistics(msgspec.Struct):
    partitions: dict[str, _PartitionStatistics] = {}


class _Statistics(msgspec.Struct):
    brokers: dict[str, _BrokerStatistics] = {}
    topics: dict[str, _TopicStatistics] = {}


_statistics = msgspec.json.Decoder(_Statistics).decode

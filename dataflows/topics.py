"""The topics of the flow: made, or missed with a sentence that says so.

Usage and account topics have LogAppendTime: a record is late by the broker's clock, not by a producer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from dataflows.settings import Settings

PARTITIONS = 4
APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}


class TopicError(RuntimeError):
    """Topics or brokers are not as the flow needs them; the text says what to do."""


@dataclass(frozen=True)
class Topic:
    """A topic as the cluster has it; `partitions` is 0 of one that is missing."""

    name: str
    partitions: int
    created: bool = False


def create_topics(
    settings: Settings, partitions: int = PARTITIONS, replication_factor: int = 1
) -> list[Topic]:
    """Create what is missing; a topic that is there stays as it is."""
    admin = _admin(settings)
    topics = find_topics(settings, admin)
    missing = [topic.name for topic in topics if not topic.partitions]
    if not missing:
        return topics
    wanted = [
        NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=replication_factor,
            config=APPEND_TIME if name in {settings.usage_topic, settings.account_topic} else {},
        )
        for name in missing
    ]
    for name, creation in admin.create_topics(wanted, request_timeout=settings.kafka_timeout_s).items():
        try:
            creation.result()
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # made by another at the same time
                raise TopicError(f"topic {name!r} can't be created: {reason.str()}") from None
    return [
        Topic(topic.name, topic.partitions or partitions, created=not topic.partitions) for topic in topics
    ]


def find_topics(
    settings: Settings, admin: AdminClient | None = None, names: Sequence[str] = ()
) -> list[Topic]:
    """Topics as they are; without names, the four of the flow."""
    admin = admin or _admin(settings)
    try:
        known = admin.list_topics(timeout=settings.kafka_timeout_s).topics
    except KafkaException as error:
        raise TopicError(
            f"no Kafka broker at {settings.kafka_brokers} answered within {settings.kafka_timeout_s:g} s:"
            f" {error.args[0].str()}. Start it (`meterline up`), or correct METERLINE_KAFKA_BROKERS"
        ) from None
    written = (settings.dead_letter_topic, settings.alert_topic)
    names = names or (settings.usage_topic, settings.account_topic, *written)
    return [Topic(name, len(known[name].partitions) if name in known else 0) for name in names]


def require_topics(settings: Settings, names: Sequence[str] = ()) -> None:
    """Raise TopicError unless all are there; without names, the four of the flow."""
    missing = [topic.name for topic in find_topics(settings, names=names) if not topic.partitions]
    if missing:
        raise TopicError(
            f"Kafka at {settings.kafka_brokers} has no topic {', '.join(missing)}:"
            " create what is missing with `meterline topics`"
        )


def _admin(settings: Settings) -> AdminClient:
    return AdminClient(
        {"log_level": 2, **settings.kafka_options, "bootstrap.servers": settings.kafka_brokers}
    )

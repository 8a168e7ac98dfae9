"""The topics of the broker: their configs and partition logs.

State: `broker.json` (cluster id, producer ids given out, topics with partitions and configs), replaced
atomically, and a directory `topics/NAME-PARTITION` a log. A directory that no topic owns is what a kill
left of a deletion: it is removed on opening.
Limits: `PARTITIONS_MAX` partitions in all, each an open file.
"""

import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataflows.embedded.kafka_log import LogConfig, PartitionLog, write_atomically
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError

PARTITIONS_MAX = 4096
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_FORMAT = 1
_PRODUCER_IDS_RESERVED = 1000  # so that a new producer rarely costs a write


def _append_time(value: str) -> bool:
    return {"LogAppendTime": True, "CreateTime": False}[value]


def _limit(low: int) -> Callable[[str], int]:
    def parsed(value: str) -> int:
        number = int(value)
        if number < low:
            raise ValueError(value)
        return number

    return parsed


# Kafka's name of a topic config -> the field of LogConfig, and how its text is read.
CONFIGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "message.timestamp.type": ("append_time", _append_time),
    "retention.ms": ("retention_ms", _limit(-1)),
    "retention.bytes": ("retention_bytes", _limit(-1)),
    "max.message.bytes": ("message_bytes_max", _limit(0)),
    "segment.bytes": ("segment_bytes", _limit(1024)),
}
# Accepted, since clients send them, and shown back, but nothing acts on them.
IGNORED_CONFIGS = frozenset(
    {"compression.type", "min.insync.replicas", "segment.ms", "flush.messages", "flush.ms"}
)


def config_text(name: str, config: LogConfig) -> str:
    value = getattr(config, CONFIGS[name][0])
    if isinstance(value, bool):
        return "LogAppendTime" if value else "CreateTime"
    return str(value)


def _with_configs(defaults: LogConfig, configs: Mapping[str, str]) -> LogConfig:
    fields: dict[str, Any] = {}
    for name, value in configs.items():
        if name in IGNORED_CONFIGS or (name, value) == ("cleanup.policy", "delete"):
            continue
        try:
            attribute, parsed = CONFIGS[name]
            fields[attribute] = parsed(value)
        except (KeyError, ValueError):
            raise RefusedError(ErrorCode.INVALID_CONFIG, f"{name}={value} is not supported") from None
    return replace(defaults, **fields)


@dataclass
class Topic:
    """A topic's own configs, and a log a partition."""

    configs: dict[str, str] = field(default_factory=dict)
    logs: list[PartitionLog] = field(default_factory=list)


class Topics:
    """All topics, by name, and what else the broker remembers of itself."""

    def __init__(self, directory: Path, defaults: LogConfig, partitions: int) -> None:
        self.defaults = defaults
        self.partitions = partitions
        self.cluster_id = uuid.uuid4().hex[:22]
        self.topics: dict[str, Topic] = {}
        self._directory = directory
        self._state = directory / "broker.json"
        self._next_producer_id = 0
        self._reserved_producer_id = 0

    def open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._state.exists():
            state = json.loads(self._state.read_text())
            if state["format"] != _FORMAT:
                raise ValueError(f"{self._state} has format {state['format']}, this broker reads {_FORMAT}")
            self.cluster_id = state["cluster_id"]
            self._next_producer_id = self._reserved_producer_id = state["next_producer_id"]
            for name, kept in state["topics"].items():
                self.topics[name] = Topic(kept["configs"])
                self._add_logs(name, self.topics[name], kept["partitions"])
        owned = {log.directory for topic in self.topics.values() for log in topic.logs}
        for directory in (self._directory / "topics").glob("*"):
            if directory not in owned:
                shutil.rmtree(directory)
        self._save()

    def log(self, name: str, partition: int) -> PartitionLog:
        """Raises UNKNOWN_TOPIC_OR_PARTITION."""
        topic = self.topics.get(name)
        if topic is None or not 0 <= partition < len(topic.logs):
            raise RefusedError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        return topic.logs[partition]

    def topic(self, name: str) -> Topic:
        """Raises UNKNOWN_TOPIC_OR_PARTITION."""
        if name not in self.topics:
            raise RefusedError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        return self.topics[name]

    def create(
        self, name: str, partitions: int, configs: Mapping[str, str], *, validate_only: bool = False
    ) -> None:
        """Makes a topic; -1 partitions are the broker's default. Raises RefusedError with the reason."""
        if not _NAME.fullmatch(name) or name in {".", ".."}:
            raise RefusedError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{name!r} is not a topic's name")
        if name in self.topics:
            raise RefusedError(ErrorCode.TOPIC_ALREADY_EXISTS, f"topic {name} exists")
        count = self.partitions if partitions == -1 else partitions
        self._check_partitions(count, count)
        _with_configs(self.defaults, configs)
        if validate_only:
            return
        topic = Topic(dict(configs))
        self._add_logs(name, topic, count)
        self.topics[name] = topic
        self._save()

    def add_partitions(self, name: str, count: int, *, validate_only: bool = False) -> None:
        """Grows a topic to `count` partitions."""
        topic = self.topic(name)
        if count <= len(topic.logs):
            raise RefusedError(ErrorCode.INVALID_PARTITIONS, f"topic {name} has {len(topic.logs)} partitions")
        self._check_partitions(count, count - len(topic.logs))
        if not validate_only:
            self._add_logs(name, topic, count)
            self._save()

    def configure(self, name: str, configs: Mapping[str, str], *, validate_only: bool = False) -> None:
        """Replaces a topic's own configs."""
        topic = self.topic(name)
        config = _with_configs(self.defaults, configs)
        if validate_only:
            return
        topic.configs = dict(configs)
        for log in topic.logs:
            log.config = config
        self._save()

    def config(self, name: str) -> LogConfig:
        return _with_configs(self.defaults, self.topic(name).configs)

    def delete(self, name: str) -> None:
        topic = self.topic(name)
        del self.topics[name]
        self._save()
        for log in topic.logs:
            log.delete()

    def new_producer_id(self) -> int:
        """An id never given out before, restarts included."""
        producer_id = self._next_producer_id
        self._next_producer_id += 1
        if producer_id >= self._reserved_producer_id:
            self._reserved_producer_id = producer_id + _PRODUCER_IDS_RESERVED
            self._save()
        return producer_id

    def retain(self, now_ms: int) -> None:
        for topic in self.topics.values():
            for log in topic.logs:
                log.retain(now_ms)

    def close(self) -> None:
        for topic in self.topics.values():
            for log in topic.logs:
                log.close()

    def _check_partitions(self, count: int, added: int) -> None:
        existing = sum(len(topic.logs) for topic in self.topics.values())
        if count < 1 or existing + added > PARTITIONS_MAX:
            raise RefusedError(ErrorCode.INVALID_PARTITIONS, f"1 to {PARTITIONS_MAX - existing} partitions")

    def _add_logs(self, name: str, topic: Topic, count: int) -> None:
        config = _with_configs(self.defaults, topic.configs)
        added = []
        try:
            for partition in range(len(topic.logs), count):
                log = PartitionLog(self._directory / "topics" / f"{name}-{partition}", config)
                added.append(log)
                log.open()
        except OSError as error:
            for log in added:
                log.close()
            raise RefusedError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        topic.logs += added

    def _save(self) -> None:
        state = {
            "format": _FORMAT,
            "cluster_id": self.cluster_id,
            "next_producer_id": self._reserved_producer_id,
            "topics": {
                name: {"partitions": len(topic.logs), "configs": topic.configs}
                for name, topic in self.topics.items()
            },
        }
        write_atomically(self._state, json.dumps(state))

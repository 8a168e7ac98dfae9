"""Topics on disk: what a restart finds, and what is refused."""

from pathlib import Path

import pytest

from dataflows.embedded import kafka_topics
from dataflows.embedded.kafka_log import LogConfig
from dataflows.embedded.kafka_topics import Topics
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError
from tests.dataflows.embedded.test_kafka_log import NOW_MS, sent


def opened(directory: Path) -> Topics:
    topics = Topics(directory, LogConfig(), partitions=2)
    topics.open()
    return topics


def code_of_create(topics: Topics, name: str, partitions: int, **configs: str) -> ErrorCode:
    try:
        topics.create(name, partitions, {key.replace("_", "."): value for key, value in configs.items()})
    except RefusedError as error:
        return error.code
    return ErrorCode.NONE


def test_topics_come_back_with_records_and_configs(tmp_path: Path) -> None:
    topics = opened(tmp_path)
    topics.create("t", -1, {"retention.ms": "5"})
    topics.add_partitions("t", 3)
    topics.log("t", 2).append(sent(), NOW_MS)
    topics.close()
    again = opened(tmp_path)
    assert again.cluster_id == topics.cluster_id
    assert [log.end_offset for log in again.topics["t"].logs] == [0, 0, 1]
    assert again.config("t").retention_ms == again.log("t", 0).config.retention_ms == 5
    again.close()


def test_configs_are_replaced_and_fall_back_to_the_brokers(tmp_path: Path) -> None:
    topics = opened(tmp_path)
    topics.create("t", 1, {"message.timestamp.type": "CreateTime", "max.message.bytes": "10"})
    topics.configure("t", {"max.message.bytes": "2000"})
    assert topics.log("t", 0).config == LogConfig(message_bytes_max=2000)
    topics.configure("t", {"max.message.bytes": "3000"}, validate_only=True)
    assert topics.config("t").message_bytes_max == 2000
    topics.close()


def test_what_a_kill_left_of_a_deletion_is_removed(tmp_path: Path) -> None:
    topics = opened(tmp_path)
    topics.create("kept", 1, {})
    topics.close()
    left = tmp_path / "topics" / "deleted-0"
    left.mkdir()
    (left / f"{0:020d}.log").write_bytes(b"old records")
    again = opened(tmp_path)
    assert [path.name for path in (tmp_path / "topics").iterdir()] == ["kept-0"]
    again.create("deleted", 1, {})
    assert again.log("deleted", 0).end_offset == 0
    again.close()


def test_a_producer_id_is_never_given_out_twice(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        topics = opened(tmp_path)  # and never closed in order: a kill
        seen += [topics.new_producer_id() for _ in range(1500)]
        topics.close()
    assert len(set(seen)) == len(seen)


def test_partitions_are_limited_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topics, "PARTITIONS_MAX", 5)
    topics = opened(tmp_path)
    assert code_of_create(topics, "a", 6) is ErrorCode.INVALID_PARTITIONS
    assert code_of_create(topics, "a", 4) is ErrorCode.NONE
    assert code_of_create(topics, "b", 2) is ErrorCode.INVALID_PARTITIONS
    with pytest.raises(RefusedError):
        topics.add_partitions("a", 6)
    topics.delete("a")
    assert code_of_create(topics, "b", 5) is ErrorCode.NONE
    topics.close()


def test_compaction_is_refused_and_unneeded_configs_are_not(tmp_path: Path) -> None:
    topics = opened(tmp_path)
    assert code_of_create(topics, "a", 1, cleanup_policy="compact") is ErrorCode.INVALID_CONFIG
    assert code_of_create(topics, "a", 1, cleanup_policy="compact,delete") is ErrorCode.INVALID_CONFIG
    assert code_of_create(topics, "a", 1, cleanup_policy="delete", segment_ms="1000") is ErrorCode.NONE
    topics.close()


def test_a_directory_of_another_format_is_not_touched(tmp_path: Path) -> None:
    opened(tmp_path).close()
    state = tmp_path / "broker.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="format 2"):
        opened(tmp_path)

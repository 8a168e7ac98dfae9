"""A stored position is only read on from when the log still goes on there."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.offsets import Log, Position, SourceError, first_position, resumed_position

LOG = Log("usage/0", "cluster", "topic", low=10, high=20)
NUMBERS = st.integers(0, 2**63 - 1)


@given(NUMBERS, st.text(), st.text(), NUMBERS)
def test_a_position_survives_its_snapshot(next_offset: int, cluster_id: str, topic_id: str, ms: int) -> None:
    position = Position(next_offset, cluster_id, topic_id, ms)
    assert Position.decode(position.encode()) == position


@given(st.integers(0, 40))
def test_a_position_inside_the_log_or_at_its_end_is_resumed_and_no_other(next_offset: int) -> None:
    stored = Position(next_offset, "cluster", "topic", 5)
    if 10 <= next_offset <= 20:
        assert resumed_position(LOG, stored) == stored
    else:
        with pytest.raises(SourceError, match="METERLINE_RECOVERY_DIR"):
            resumed_position(LOG, stored)


def test_a_position_of_another_cluster_or_topic_is_refused() -> None:
    with pytest.raises(SourceError, match="is of Kafka cluster other, the brokers are of cluster"):
        resumed_position(LOG, Position(15, "other", "topic", 0))
    with pytest.raises(SourceError, match="deleted and made anew"):
        resumed_position(LOG, Position(15, "cluster", "other", 0))


def test_brokers_that_tell_no_ids_are_not_held_against_a_position() -> None:
    stored = Position(15, "cluster", "topic", 0)
    assert resumed_position(msgspec.structs.replace(LOG, cluster_id="", topic_id=""), stored) == stored
    assert resumed_position(LOG, Position(15, "", "", 0)).next_offset == 15


def test_the_first_start_is_at_the_oldest_record_or_the_end() -> None:
    assert first_position(LOG, "earliest") == Position(10, "cluster", "topic", 0)
    assert first_position(LOG, "latest") == Position(20, "cluster", "topic", 0)


def test_a_snapshot_of_a_later_version_is_refused() -> None:
    with pytest.raises(SourceError, match="format 9"):
        Position.decode(msgspec.msgpack.encode([9, "whatever"]))

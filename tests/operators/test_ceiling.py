"""The ceiling of the dead-letter ratio, against the whole list of what was read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.ceiling import Ceiling, CeilingConfig, CeilingExceeded
from schemas.events import RawBatch, Reason, Reject
from tests.operators.records import batch, record


class Reader:
    """Reads one partition, poll by poll, and rejects of each what it is told to."""

    def __init__(self, ratio_max: float = 0.5, records: int = 10) -> None:
        self.ceiling = Ceiling(CeilingConfig(ratio_max, records))
        self.offset = 0

    def poll(self, good: int, bad: int = 0, reason: Reason = Reason.NOT_JSON) -> list[Reject]:
        """Count a poll; its rejects are still to be judged."""
        records = [record(b"", self.offset + i) for i in range(good + bad)]
        self.offset += len(records)
        polled = self.ceiling.count(batch(records))
        return [Reject.of(each, polled.topic, polled.partition, reason, "") for each in polled.records[:bad]]

    def read(self, good: int, bad: int = 0, reason: Reason = Reason.NOT_JSON) -> None:
        rejects = self.poll(good, bad, reason)
        assert self.ceiling.judge(rejects) == rejects


def test_nothing_is_judged_before_enough_records_were_read() -> None:
    reader = Reader(records=10)
    reader.read(good=0, bad=9)
    with pytest.raises(CeilingExceeded):
        reader.read(good=0, bad=1)


def test_as_many_rejects_as_the_ratio_allows_are_no_reason_to_stop() -> None:
    reader = Reader(ratio_max=0.5, records=10)
    reader.read(good=5, bad=5)
    with pytest.raises(CeilingExceeded):
        reader.read(good=4, bad=6)


def test_a_ratio_of_one_never_stops_and_of_zero_stops_at_the_first() -> None:
    Reader(ratio_max=1, records=1).read(good=0, bad=100)
    clean = Reader(ratio_max=0, records=1)
    clean.read(good=100)
    with pytest.raises(CeilingExceeded):
        clean.read(good=99, bad=1)


def test_old_polls_are_forgotten() -> None:
    reader = Reader(records=10)
    reader.read(good=4, bad=5)
    for _ in range(3):
        reader.read(good=5, bad=4)
    with pytest.raises(CeilingExceeded):
        reader.read(good=1, bad=8)


def test_a_reject_that_is_heard_of_late_counts_in_its_own_poll() -> None:
    reader = Reader(records=10)
    late = reader.poll(good=0, bad=10)
    reader.read(good=6, bad=4)
    reader.read(good=6, bad=4)
    assert reader.ceiling.judge(late) == late, "its poll is forgotten: no reason to stop"


def test_polls_of_another_partition_or_topic_are_told_apart() -> None:
    ceiling = Ceiling(CeilingConfig(0.5, 10))
    polls = {
        (topic, partition): ceiling.count(
            RawBatch(topic, partition, [record(b"", offset) for offset in range(5)], 0, 4)
        )
        for topic in ("usage-events", "others")
        for partition in (0, 1)
    }
    # The polls of usage-events are forgotten by now; those of the others, with the same offsets, are not.
    rejects = [
        Reject.of(each, topic, partition, Reason.NOT_JSON, "")
        for (topic, partition), polled in polls.items()
        for each in polled.records
        if topic == "usage-events"
    ]
    assert ceiling.judge(rejects) == rejects


def test_the_sentence_says_how_many_why_and_what_to_do() -> None:
    reader = Reader(records=10)
    rejects = reader.poll(2, 5, Reason.VALUE_MISSING) + reader.poll(0, 3, Reason.NOT_JSON)
    with pytest.raises(CeilingExceeded) as stopped:
        reader.ceiling.judge(rejects)
    text = str(stopped.value)
    assert "8 of the last 10 records (80.0%)" in text
    assert "(5 value_missing, 3 not_json)" in text
    assert "METERLINE_DEAD_LETTER_RATIO_MAX = 0.5" in text
    assert "dead-letters list" in text
    assert "\n" not in text


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=40),
    st.integers(1, 30),
    st.floats(0, 1),
)
def test_it_stops_exactly_when_the_last_polls_say_so(
    polls: list[tuple[int, int]], records: int, ratio_max: float
) -> None:
    reader = Reader(ratio_max, records)
    for number, (good, bad) in enumerate(polls):
        expected = is_over(polls[: number + 1], records, ratio_max)
        rejects = reader.poll(good, bad)
        if expected:
            with pytest.raises(CeilingExceeded):
                reader.ceiling.judge(rejects)
            return
        assert reader.ceiling.judge(rejects) == rejects


def is_over(polls: list[tuple[int, int]], records: int, ratio_max: float) -> bool:
    """Whether the fewest last polls that have so many records have too many rejects."""
    all_read = all_bad = 0
    for good, bad in reversed(polls):
        all_read, all_bad = all_read + good + bad, all_bad + bad
        if all_read >= records:
            return all_bad / all_read > ratio_max
    return False

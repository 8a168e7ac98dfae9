"""Dedupe against a list of what was let through, by the rule of the records' own append times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import dedupe, seen_ids
from operators.dedupe import DedupeLogic
from operators.seen_ids import DedupeConfig, SeenIds
from schemas.events import Progress
from schemas.usage import Readings, Slice

HORIZON_S = 600
START_S = 1_800_000_000
CONFIG = DedupeConfig(HORIZON_S, ids_max=1_000_000)


@dataclass(frozen=True)
class Poll:
    """Rows (id, append second after START_S) of one partition, and how far it is then."""

    source: str
    rows: tuple[tuple[int, int], ...]
    progress_s: int


def piece(poll: Poll, sources: int = 2) -> Slice:
    ids = np.array([row[0] for row in poll.rows], np.uint64)
    append_ms = np.array([(START_S + row[1]) * 1000 for row in poll.rows], np.int64)
    readings = Readings.empty()
    return Slice(
        pa.record_batch({"row": pa.array(range(len(ids)), pa.int64())}),
        np.arange(len(ids)),
        ids,
        ids,
        append_ms,
        append_ms,
        readings,
        (Progress(poll.source, (START_S + poll.progress_s) * 1000, sources),),
    )


def verdicts(logic: DedupeLogic, poll: Poll) -> list[bool]:
    """Of each row whether it came through."""
    (out,) = logic.on_batch([piece(poll)])[0]
    passed = set(out.taken().column("row").to_pylist())
    assert out.progress == piece(poll).progress
    return [row in passed for row in range(len(poll.rows))]


def brute_force(polls: Sequence[Poll]) -> list[bool]:
    through: dict[int, list[int]] = {}
    found = []
    for poll in polls:
        for identity, second in poll.rows:
            is_new = all(abs(second - other) > HORIZON_S for other in through.get(identity, []))
            if is_new:
                through.setdefault(identity, []).append(second)
            found.append(is_new)
    return found


@st.composite
def streams(draw: st.DrawFn) -> list[Poll]:
    """Two partitions, each in order of append, read in turns, one of them any time behind the other."""
    steps = st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([0, 0, 0, 1, 299, 300, 301, 600, 601])), max_size=40
    )
    left: dict[str, list[tuple[int, int]]] = {}
    for source in ("a", "b"):
        second, left[source] = 0, []
        for identity, wait_s in draw(steps):
            second += wait_s
            left[source].append((identity, second))
    polls: list[Poll] = []
    while left["a"] or left["b"]:
        source = draw(st.sampled_from([name for name in left if left[name]]))
        count = draw(st.integers(0, 7))
        rows, left[source] = left[source][:count], left[source][count:]
        newest = max((row[1] for row in rows), default=-1)
        if not rows and any(poll.source == source for poll in polls):
            continue
        polls.append(Poll(source, tuple(rows), newest))
    return polls


def split(polls: list[Poll], sizes: Iterator[int]) -> Iterator[Poll]:
    """The same rows in the same order, in other polls."""
    for poll in polls:
        rows = poll.rows
        while rows:
            size = next(sizes)
            yield Poll(poll.source, rows[:size], rows[:size][-1][1])
            rows = rows[size:]
        yield Poll(poll.source, (), poll.progress_s)


TABLE: list[tuple[str, list[tuple[int, int]], list[bool]]] = [
    ("a repeat", [(1, 0), (1, 0)], [True, False]),
    ("another id", [(1, 0), (2, 0)], [True, True]),
    ("at the horizon", [(1, 0), (1, HORIZON_S)], [True, False]),
    ("past it", [(1, 0), (1, HORIZON_S + 1)], [True, True]),
    ("counted from the one let through", [(1, 0), (1, 599), (1, 601)], [True, False, True]),
    ("and from the second", [(1, 0), (1, 601), (1, 1201), (1, 1202)], [True, True, False, True]),
    ("older than the one let through", [(1, 700), (1, 100), (1, 99)], [True, False, True]),
    ("between two", [(1, 0), (1, 601), (1, 300)], [True, True, False]),
    ("near the first of two", [(1, 0), (1, 1300), (1, 1), (1, 650)], [True, True, False, True]),
]


@pytest.mark.parametrize("in_one_slice", [True, False])
@pytest.mark.parametrize(("rows", "expected"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_an_id_comes_through_once_in_a_horizon(
    rows: list[tuple[int, int]], expected: list[bool], in_one_slice: bool
) -> None:
    logic = DedupeLogic(None, CONFIG)
    polls = [Poll("a", tuple(rows), 0)] if in_one_slice else [Poll("a", (row,), 0) for row in rows]
    assert [new for poll in polls for new in verdicts(logic, poll)] == expected == brute_force(polls)


@settings(max_examples=80, deadline=None)
@given(streams(), st.lists(st.integers(1, 5), min_size=1), st.sets(st.integers(0, 80)))
def test_chunks_merges_and_crashes_change_no_verdict(
    polls: list[Poll], sizes: list[int], snapshots: set[int]
) -> None:
    expected = brute_force(polls)
    chunks = list(split(polls, (sizes[i % len(sizes)] for i in range(10**9))))
    for recent_max, turns in ((8_192, polls), (0, polls), (3, chunks)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(seen_ids, "RECENT_MAX", recent_max)
            logic, found = DedupeLogic(None, CONFIG), []
            for number, poll in enumerate(turns):
                found += verdicts(logic, poll)
                if number in snapshots:
                    state = logic.snapshot()
                    verdicts(logic, Poll("a", ((77, 9_000),), 9_000))  # lost with the process
                    logic = DedupeLogic(state, CONFIG)
        assert found == expected


def test_a_crash_repeats_verdicts_since_the_snapshot() -> None:
    logic = DedupeLogic(None, CONFIG)
    before = Poll("a", ((1, 0), (2, 0)), 0)
    after = Poll("a", ((1, 5), (3, 5), (3, 6)), 6)
    verdicts(logic, before)
    state = logic.snapshot()
    first = verdicts(logic, after)
    assert verdicts(DedupeLogic(state, CONFIG), after) == first == [False, True, False]


def test_copies_on_two_partitions_count_once_whichever_is_read_first() -> None:
    here, there = Poll("a", ((1, 10),), 10), Poll("b", ((1, 20),), 20)
    for turns in ((here, there), (there, here)):
        logic = DedupeLogic(None, CONFIG)
        assert [verdicts(logic, poll) for poll in turns] == [[True], [False]]


def test_a_lagging_partition_keeps_ids_that_it_may_repeat() -> None:
    logic = DedupeLogic(None, CONFIG)
    verdicts(logic, Poll("b", (), 0))
    verdicts(logic, Poll("a", ((1, 0),), 0))
    verdicts(logic, Poll("a", ((2, 100_000),), 100_000))
    assert held(logic.snapshot()) == [1, 2]
    assert verdicts(logic, Poll("b", ((1, 300),), 300)) == [False]
    verdicts(logic, Poll("b", (), HORIZON_S))
    assert held(logic.snapshot()) == [1, 2], "a copy appended now would still be within the horizon"
    verdicts(logic, Poll("b", (), HORIZON_S + 1))
    assert held(logic.snapshot()) == [2]


def test_nothing_is_forgotten_before_every_source_was_heard_of() -> None:
    logic = DedupeLogic(None, CONFIG)
    verdicts(logic, Poll("a", ((1, 0),), 0))
    verdicts(logic, Poll("a", (), 1_000_000))
    assert held(logic.snapshot()) == [1]


def held(snapshot: bytes) -> list[int]:
    """The ids that a snapshot holds, which was made without an archive."""
    _, (_, _, runs, (hashes, _)), *_ = msgspec.msgpack.decode(snapshot)
    assert runs == []
    return sorted(np.frombuffer(hashes, np.uint64).tolist())


@pytest.mark.parametrize("ids_max", [1, 2, 3, 4])
def test_the_limit_evicts_the_oldest_and_says_so(ids_max: int) -> None:
    evicted: list[int] = []
    logic = DedupeLogic(None, DedupeConfig(HORIZON_S, ids_max), evicted.append)
    verdicts(logic, Poll("a", ((9, 5), (1, 0), (4, 3), (7, 1)), 5))
    ids = held(logic.snapshot())
    assert ids == sorted([9, 4, 7, 1][:ids_max])
    assert evicted == ([4 - ids_max] if ids_max < 4 else [])
    assert verdicts(logic, Poll("a", ((9, 6), (4, 6), (7, 6), (1, 6)), 6)) == [
        number >= ids_max for number in range(4)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5)), unique_by=lambda row: row[0], max_size=60),
    st.integers(1, 20),
)
def test_the_limit_holds_among_ids_of_one_second(rows: list[tuple[int, int]], ids_max: int) -> None:
    evicted: list[int] = []
    seen = SeenIds(DedupeConfig(HORIZON_S, ids_max), evicted.append)
    ids = np.array([row[0] for row in rows], np.uint64)
    seen.admit(ids, np.array([row[1] * 1000 for row in rows], np.int64), 0)
    seen.compact(0)
    assert len(seen) == min(len(rows), ids_max)
    assert sum(evicted) == len(rows) - len(seen)
    kept = sorted((second for _, second in rows), reverse=True)[:ids_max]
    hashes, append_s = seen.ids()
    assert sorted(append_s.tolist(), reverse=True) == kept
    assert len(np.unique(hashes)) == len(seen)


def test_ids_leave_the_table_after_the_horizon_and_it_is_made_anew_only_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seen_ids, "RECENT_MAX", 8)
    compacted: list[int] = []
    compact = SeenIds.compact

    def noted(seen: SeenIds, at_s: int) -> None:
        compacted.append(at_s)
        compact(seen, at_s)

    monkeypatch.setattr(SeenIds, "compact", noted)
    seen, most = SeenIds(DedupeConfig(HORIZON_S, 1000)), 0
    for second in range(0, 20 * HORIZON_S, HORIZON_S // 10):
        ids = np.arange(10 * second, 10 * second + 10, dtype=np.uint64)
        assert seen.admit(ids, np.full(10, second * 1000, np.int64), second).all()
        most = max(most, len(seen))
    assert min(compacted) > HORIZON_S
    assert most < 3 * 10 * 10


def test_the_horizon_evicts_without_a_word() -> None:
    evicted: list[int] = []
    logic = DedupeLogic(None, DedupeConfig(HORIZON_S, 2), evicted.append)
    for second in range(0, 10_000, 700):
        verdicts(logic, Poll("b", (), second))
        verdicts(logic, Poll("a", ((second, second), (second + 1, second)), second))
        logic.snapshot()
    assert evicted == []


def test_dropped_repeats_are_counted() -> None:
    repeated: list[int] = []
    logic = DedupeLogic(None, CONFIG, on_repeated=repeated.append)
    for rows in (((1, 0), (2, 0)), ((1, 1), (2, 1), (3, 1)), ((3, 900),)):
        verdicts(logic, Poll("a", rows, 0))
    assert repeated == [2]


def test_memory_between_snapshots_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_ids, "RECENT_MAX", 100)
    seen = SeenIds(DedupeConfig(HORIZON_S, ids_max=1_000))
    for start in range(0, 20_000, 50):
        seen.admit(np.arange(start, start + 50, dtype=np.uint64), np.zeros(50, np.int64), 0)
        assert len(seen) <= 1_000 + 1_000 // 8 + 50


def test_a_flood_of_one_id_is_judged_row_by_row() -> None:
    rows = tuple((1, second // 10) for second in range(20_000))
    found = verdicts(DedupeLogic(None, CONFIG), Poll("a", rows, 2_000))
    assert [rows[i][1] for i, new in enumerate(found) if new] == [0, 601, 1202, 1803]


def test_an_id_that_comes_back_every_quarter_hour_for_months_is_let_through_each_time() -> None:
    rows = tuple((1, 900 * number + again) for number in range(8_000) for again in (0, 600))
    logic = DedupeLogic(None, CONFIG)
    assert verdicts(logic, Poll("a", rows, 0)) == [True, False] * 8_000
    assert held(logic.snapshot()) == [1] * 8_000
    assert not any(verdicts(DedupeLogic(logic.snapshot(), CONFIG), Poll("b", rows[::999], 0)))


def test_append_times_beyond_the_columns_are_one_second() -> None:
    """A CreateTime topic's producer may write any time up to 2299."""
    far_s = 10_413_791_999 - START_S
    rows = ((1, far_s), (1, far_s - 5_000), (2, far_s))
    logic = DedupeLogic(None, CONFIG)
    assert verdicts(logic, Poll("a", rows, 0)) == [True, False, True]
    logic = DedupeLogic(logic.snapshot(), CONFIG)
    assert verdicts(logic, Poll("a", ((2, far_s), (3, 0)), 0)) == [False, True]


def test_a_snapshot_is_bytes_with_its_format_first() -> None:
    logic = DedupeLogic(None, CONFIG)
    verdicts(logic, Poll("a", tuple((number, 0) for number in range(1_000)), 0))
    state = logic.snapshot()
    assert type(state) is bytes
    assert msgspec.msgpack.decode(state)[0] == dedupe.FORMAT
    assert len(state) < 12 * 1_000 + 100, "12 bytes an id"
    assert logic.snapshot() == state == DedupeLogic(state, CONFIG).snapshot()


def test_another_format_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match=r"dedupe state .* has format 1, this version reads 4: go on with"):
        DedupeLogic(msgspec.msgpack.encode([1, {"another": "layout"}]), CONFIG)


def test_the_end_of_a_run_is_not_the_end_of_the_state() -> None:
    logic = DedupeLogic(None, CONFIG)
    assert logic.on_eof() == ((), DedupeLogic.RETAIN)
    assert logic.on_batch([])[1] is DedupeLogic.RETAIN

"""Ids that are kept in files: what a crash at any moment resumes from is what the last snapshot had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.state_files import DIRECTORY, StateFiles
from operators import id_log, seen_ids, snapshot_files
from operators.dedupe import DedupeLogic
from operators.seen_ids import DedupeConfig
from schemas.usage import U64
from tests.operators.test_dedupe import START_S, Poll, brute_force, piece, streams, verdicts

CONFIG = DedupeConfig(600, ids_max=1_000_000)
FEW = DedupeConfig(600, ids_max=7)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_files, "BYTES_MIN", 1 << 40)  # no snapshot is one
    monkeypatch.setattr(id_log, "RUN_IDS", 3)
    monkeypatch.setattr(seen_ids, "RECENT_MAX", 2)


def files(directory: Path) -> set[str]:
    return {file.name for file in (directory / DIRECTORY).glob("*")}


def held(logic: DedupeLogic) -> list[tuple[int, int]]:
    """All that it knows: hashes and append seconds."""
    hashes, append_s = logic._seen.ids()
    return sorted(zip(hashes.tolist(), append_s.tolist(), strict=True))


def poll_of(*rows: tuple[int, int]) -> Poll:
    return Poll("a", rows, rows[-1][1])


@pytest.mark.parametrize("config", [CONFIG, FEW], ids=["all", "few"])
@settings(max_examples=60, deadline=None)
@given(streams(), st.lists(st.sampled_from(["", "snapshot", "crash"]), min_size=1))
def test_a_resumed_log_has_the_ids_that_the_snapshot_had(
    tmp_path_factory: pytest.TempPathFactory, config: DedupeConfig, polls: list[Poll], turns: list[str]
) -> None:
    archive = StateFiles(tmp_path_factory.mktemp("store"))
    logic, found = DedupeLogic(None, config, archive=archive), list[bool]()
    for number, poll in enumerate(polls):
        found += verdicts(logic, poll)
        if turns[number % len(turns)]:
            state, known = logic.snapshot(), held(logic)
            if turns[number % len(turns)] == "crash":
                for lost in range(5):  # files that no snapshot names
                    verdicts(logic, Poll("a", ((1_000 + lost, 9_000), (2_000 + lost, 9_000)), 9_000))
                logic = DedupeLogic(state, config, archive=archive)
            else:
                assert held(DedupeLogic(state, config, archive=archive)) == known
            assert held(logic) == known
    if config is CONFIG:
        assert found == brute_force(polls)


def test_a_crash_may_resume_from_the_snapshot_before_the_last(tmp_path: Path) -> None:
    archive = StateFiles(tmp_path)
    logic, states = DedupeLogic(None, CONFIG, archive=archive), list[tuple[bytes, Any]]()
    for second in range(0, 20_000, 100):
        verdicts(logic, Poll("b", (), second))
        verdicts(logic, poll_of((second, second), (second + 1, second)))
        states = [*states[-1:], (logic.snapshot(), held(logic))]
        for state, known in states:  # the older one first: a resume deletes what it does not need
            copy = StateFiles(_copied(tmp_path))
            assert held(DedupeLogic(state, CONFIG, archive=copy)) == known
    assert 3 <= len(files(tmp_path)) <= 3 + 2 * 600 // 100


def _copied(directory: Path) -> Path:
    copy = directory / "copy"
    (copy / DIRECTORY).mkdir(parents=True, exist_ok=True)
    for file in (copy / DIRECTORY).glob("*"):
        file.unlink()
    for file in (directory / DIRECTORY).glob("*"):
        (copy / DIRECTORY / file.name).write_bytes(file.read_bytes())
    return copy


def test_files_are_written_once_and_a_snapshot_has_few_ids(tmp_path: Path) -> None:
    logic, written = DedupeLogic(None, CONFIG, archive=StateFiles(tmp_path)), dict[str, float]()
    for number in range(200):
        verdicts(logic, poll_of((number, 0)))
        assert len(logic.snapshot()) < 200 + 30 * number // 3
        for file in (tmp_path / DIRECTORY).glob("*"):
            assert written.setdefault(file.name, file.stat().st_mtime_ns) == file.stat().st_mtime_ns
    assert len(written) == 200 // 3


def test_what_a_crash_left_is_deleted_at_the_next_start(tmp_path: Path) -> None:
    archive = StateFiles(tmp_path)
    logic = DedupeLogic(None, CONFIG, archive=archive)
    verdicts(logic, poll_of((1, 0), (2, 0), (3, 0)))
    state, named = logic.snapshot(), files(tmp_path)
    verdicts(logic, poll_of((4, 0), (5, 0), (6, 0)))
    other = DedupeLogic(None, CONFIG, archive=archive)  # of another shard, whose files are its own
    other._seen.log.open("ids-001")
    archive.put("ids-001-0", b"")
    assert len(files(tmp_path)) == 3
    DedupeLogic(state, CONFIG, archive=archive)
    assert files(tmp_path) == named | {"ids-001-0"}
    begun = DedupeLogic(None, CONFIG, archive=archive)
    begun.on_batch([piece(poll_of((1, 0)))])
    assert files(tmp_path) == {"ids-001-0"}, "before the first snapshot nothing is named"


def test_ids_of_the_far_future_do_not_keep_all_that_came_with_them(tmp_path: Path) -> None:
    archive = StateFiles(tmp_path)
    logic = DedupeLogic(None, CONFIG, archive=archive)
    for second in range(0, 100_000, 500):
        verdicts(logic, Poll("b", (), second))
        ids = (second, second + 1, second + 2)
        rows = ((ids[0], second), (ids[1], second), (ids[2], 10**8))  # as one file
        verdicts(logic, Poll("a", rows, second))
        logic.snapshot()
    assert len(files(tmp_path)) < 100, "200 were written"
    assert sum(file.stat().st_size for file in (tmp_path / DIRECTORY).glob("*")) < 200 * 50
    known = held(logic)
    assert len([second for _, second in known if second == START_S + 10**8]) == 200
    assert held(DedupeLogic(logic.snapshot(), CONFIG, archive=archive)) == known


def test_a_lost_or_damaged_file_stops_the_flow(tmp_path: Path) -> None:
    logic = DedupeLogic(None, CONFIG, archive=StateFiles(tmp_path))
    verdicts(logic, poll_of((1, 0), (2, 0), (3, 0)))
    state = logic.snapshot()
    (file,) = (tmp_path / DIRECTORY).glob("*")
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"file ids-000-0 is damaged: restore the store whole"):
        DedupeLogic(state, CONFIG, archive=StateFiles(tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match=r"lacks its file ids-000-0: restore the store whole"):
        DedupeLogic(state, CONFIG, archive=StateFiles(tmp_path))
    with pytest.raises(ValueError, match=r"names the file ids-000-0"):
        DedupeLogic(state, CONFIG)


def test_state_that_was_kept_whole_goes_on_in_files(tmp_path: Path) -> None:
    logic = DedupeLogic(None, CONFIG)
    verdicts(logic, poll_of(*((number, 0) for number in range(10))))
    logic = DedupeLogic(logic.snapshot(), CONFIG, archive=StateFiles(tmp_path))
    verdicts(logic, poll_of((10, 0)))
    assert files(tmp_path) == {"ids-000-0"}
    again = DedupeLogic(logic.snapshot(), CONFIG, archive=StateFiles(tmp_path))
    assert [hash_ for hash_, _ in held(again)] == list(range(11))


def test_a_floor_parts_ids_by_second_then_hash() -> None:
    hashes: U64 = np.array([1, 2, 3, 4], np.uint64)
    append_s = np.array([9, 5, 5, 4], np.uint32)
    assert id_log.Floor(5, 3).is_below(hashes, append_s).tolist() == [True, False, True, False]
    assert id_log.NO_FLOOR.is_below(hashes, append_s).all()

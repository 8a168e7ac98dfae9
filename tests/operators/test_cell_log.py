"""Cells that are kept in files: what a crash at any moment resumes from is what the snapshot had."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.state_files import DIRECTORY, StateFiles
from operators import cell_log, cells, token_sets
from operators.archive import Archive
from operators.cell_log import CellLog, StoredCellLog
from operators.cells import Cells
from operators.folds import Added, unpack
from schemas.usage import U64
from tests.operators.mortal_files import DeadError, MortalFiles
from tests.operators.test_cells import UNIQUE, Row, folded, rows_of_any_kind

PREFIX = "cells-000"
TURNS = [
    "snapshot",
    "snapshot",
    "crash",
    "crash before commit",
    "drain",
    "die",
    "take",
    "forget",
    "rekey",
    "none left",
]
turns = st.lists(
    st.one_of(
        st.tuples(rows_of_any_kind, st.booleans()), st.tuples(st.sampled_from(TURNS), st.integers(0, 5))
    ),
    min_size=6,
    max_size=24,
)


def content(held: Cells) -> list[Any]:
    """All that cells are, to the last bit; what is filed is no matter of theirs."""
    level = held._merged()
    columns = (*level.columns()[:-1], level.sets >= 0)
    return [*(column.tolist() for column in columns), held.states(level).to_pylist()]


def add(held: Cells, rows: list[Row], *, later: bool) -> None:
    found = folded(rows)
    if later:
        held.add_later(Added.of(found, UNIQUE[unpack(found.key)[1]]))
    else:
        held.add(found, UNIQUE)


class Shard:
    """Cells and their log, beside the same cells that never leave memory."""

    def __init__(self, archive: Archive | None) -> None:
        self.archive = archive
        self.log, self.cells, self.model = CellLog(archive), Cells(), Cells()
        self.log.open(PREFIX)
        self.states: list[tuple[bytes, Cells]] = []
        """The last two snapshots, and the cells then."""
        self.snapshot()

    def snapshot(self, *, is_last: bool = False) -> bytes:
        self.log.renew(self.cells, is_last=is_last)
        state = msgspec.msgpack.encode(self.log.dump(self.cells))
        assert msgspec.msgpack.encode(self.log.dump(self.cells)) == state, "it changes nothing"
        self.states = [*self.states[-1:], (state, deepcopy(self.model))]
        return state

    def resume(self, state: bytes, model: Cells) -> None:
        self.log = CellLog(self.archive)
        self.cells = self.log.restore(msgspec.msgpack.decode(state, type=StoredCellLog))
        self.log.open(PREFIX)
        self.states, self.model = [(state, model)], deepcopy(model)
        assert content(self.cells) == content(self.model)

    def turn(self, what: str, number: int) -> None:
        for held in (self.cells, self.model):
            if what == "take":
                held.take_dirty()
            elif what == "forget":
                held.select(held.key % np.uint64(3) != number % 3)
            elif what == "none left":
                held.select(held.key < 0)
            elif what == "rekey":
                held.rekey(held.key ^ np.uint64(1 << (40 + number)))


def restored(state: bytes, archive: MortalFiles) -> Cells:
    """The cells of a snapshot; the files stay as they are."""
    copy = MortalFiles()
    copy.files = dict(archive.files)
    return CellLog(copy).restore(msgspec.msgpack.decode(state, type=StoredCellLog))


def named(state: bytes) -> set[str]:
    base = msgspec.msgpack.decode(state, type=StoredCellLog).base
    return set() if base is None else {base.part.name}


def changed(state: bytes) -> int:
    """Cells that a snapshot has itself."""
    return len(msgspec.msgpack.decode(state, type=StoredCellLog).fresh.key) // 8


def tell(shard: Shard, archive: MortalFiles, story: list[tuple[Any, Any]]) -> None:
    for what, number in story:
        if isinstance(what, list):
            add(shard.cells, what, later=number)
            add(shard.model, what, later=number)
        elif what in ("snapshot", "die", "drain"):
            archive.lives = number if what == "die" else None
            try:
                shard.snapshot(is_last=what == "drain")
                assert set(archive.files) <= set.union(*(named(state) for state, _ in shard.states))
                for state, model in shard.states:
                    assert content(restored(state, archive)) == content(model)
            except DeadError:
                shard.resume(*shard.states[-1])
            archive.lives = None
        elif what in ("crash", "crash before commit"):
            # the epoch of the last snapshot may not have been committed
            state, model = shard.states[-1 if what == "crash" else 0]
            archive.die_in(number, partial(shard.resume, state, model))
            assert set(archive.files) == named(state)
        else:
            shard.turn(what, number)
    assert content(shard.cells) == content(shard.model)


@pytest.mark.parametrize("cells_min", [1, 6, 1_000])
@pytest.mark.parametrize("small", [0, 2_048])
def test_a_crash_at_any_moment_resumes_with_the_cells_that_the_snapshot_had(
    cells_min: int, small: int
) -> None:
    @settings(max_examples=100, deadline=None)
    @given(turns, st.sampled_from([1, 3, 256]))
    def holds(story: list[tuple[Any, Any]], small_max: int) -> None:
        patch.setattr(token_sets, "SMALL_MAX", small_max)
        archive = MortalFiles()
        tell(Shard(archive), archive, story)
        assert cells_min < 1_000 or not archive.written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_log, "CELLS_MIN", cells_min)
        patch.setattr(cells, "SMALL", small)
        holds()


def many(first: int, count: int, token: int = 1) -> list[Row]:
    """A row for each of so many accounts; every other meter counts tokens."""
    return [((account, account % 2, 5), account + 1, token) for account in range(first, first + count)]


@pytest.fixture
def shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shard:
    """100 cells, in a file."""
    monkeypatch.setattr(cell_log, "CELLS_MIN", 50)
    shard = Shard(StateFiles(tmp_path))
    use(shard, many(0, 100))
    shard.snapshot()
    assert files(tmp_path) == {f"{PREFIX}-0"}
    return shard


def use(shard: Shard, rows: list[Row]) -> None:
    add(shard.cells, rows, later=False)
    add(shard.model, rows, later=False)


def files(directory: Path) -> set[str]:
    return {file.name for file in (directory / DIRECTORY).glob("*")}


def test_a_snapshot_has_what_changed_and_not_all_that_is_held(shard: Shard, tmp_path: Path) -> None:
    written = (tmp_path / DIRECTORY / f"{PREFIX}-0").stat().st_mtime_ns
    assert changed(shard.snapshot()) == 0
    assert len(shard.snapshot()) < 200
    use(shard, many(98, 4, token=2))  # two that were there, two that are new
    shard.turn("take", 0)
    assert changed(shard.snapshot()) == 4
    shard.turn("forget", 1)
    assert changed(shard.snapshot()) == int((unpack(shard.cells.key)[0] >= 98).sum()) in (2, 3)
    assert files(tmp_path) == {f"{PREFIX}-0"}
    assert (tmp_path / DIRECTORY / f"{PREFIX}-0").stat().st_mtime_ns == written
    shard.resume(*shard.states[-1])
    assert not shard.cells.is_dirty


def test_only_what_was_taken_is_clean_after_a_resume(shard: Shard) -> None:
    shard.turn("take", 0)
    use(shard, many(0, 2))
    shard.snapshot()
    shard.resume(*shard.states[-1])
    assert shard.cells.dirty.tolist() == [True] * 2 + [False] * 98


def test_a_small_shard_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", 50)
    shard = Shard(StateFiles(tmp_path))
    use(shard, many(0, 49))
    assert changed(shard.snapshot()) == 49
    assert files(tmp_path) == set()
    use(shard, many(49, 1))
    assert changed(shard.snapshot()) == 0
    assert files(tmp_path) == {f"{PREFIX}-0"}


def test_a_file_is_left_when_the_cells_are_and_deleted_two_snapshots_later(
    shard: Shard, tmp_path: Path
) -> None:
    few = shard.cells.key >= shard.cells.key[-49]
    for held in (shard.cells, shard.model):
        held.select(few)
    assert changed(shard.snapshot()) == 49, "fewer than half of the base, and too few for one"
    assert files(tmp_path) == {f"{PREFIX}-0"}, "the snapshot before may be resumed from"
    shard.snapshot()
    assert files(tmp_path) == set()
    shard.resume(*shard.states[-1])
    use(shard, many(0, 51))
    shard.snapshot()
    assert files(tmp_path) == {f"{PREFIX}-1"}, "no name is used twice"


def test_a_base_of_which_much_is_gone_is_written_anew(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", 10)
    use(shard, many(100, 20))
    for left, count in ((50, 20), (49, 0)):
        keep = shard.cells.key >= shard.cells.key[-left]
        for held in (shard.cells, shard.model):
            held.select(keep)
        assert changed(shard.snapshot()) == count
    assert files(tmp_path) == {f"{PREFIX}-0", f"{PREFIX}-1"}


def test_renumbered_cells_are_written_anew_at_the_next_snapshot(shard: Shard, tmp_path: Path) -> None:
    shard.resume(*shard.states[-1])
    shard.turn("rekey", 0)
    assert changed(shard.snapshot()) in (0, 100)
    shard.snapshot()
    assert changed(shard.snapshot()) == 0
    assert files(tmp_path) == {f"{PREFIX}-1"}
    shard.resume(*shard.states[-1])


def written_rows(monkeypatch: pytest.MonkeyPatch, changes: int, epochs: int = 300) -> tuple[float, int, int]:
    """Of 1,000 cells of which so many change in an epoch: cells in snapshots and in files, of all that whole
    snapshots would have had; the most in one of the later snapshots; files."""
    monkeypatch.setattr(cell_log, "CELLS_MIN", 50)
    archive, chance = MortalFiles(), np.random.default_rng(changes)
    shard = Shard(archive)
    use(shard, many(0, 1_000))
    sizes = []
    for _ in range(epochs):
        picked = chance.choice(1_000, changes, replace=False)
        add(shard.cells, [((account, account % 2, 5), 1, 1) for account in picked.tolist()], later=False)
        shard.log.renew(shard.cells)
        sizes.append(changed(msgspec.msgpack.encode(shard.log.dump(shard.cells))))
    rows = sum(sizes) + 1_000 * len(archive.written)
    return rows / (1_000 * epochs), max(sizes[epochs // 2 :]), len(archive.written)


@pytest.mark.parametrize(
    ("changes", "least_part", "most_part"),
    [(1, 0, 0.06), (20, 0, 0.25), (100, 0.1, 0.55), (500, 0.5, 1.1), (1_000, 1, 1.15)],
)
def test_files_are_worth_their_writing_whatever_share_of_the_cells_changes(
    monkeypatch: pytest.MonkeyPatch, changes: int, least_part: float, most_part: float
) -> None:
    part, _, _ = written_rows(monkeypatch, changes)
    assert least_part <= part <= most_part


def test_the_changed_part_stays_small_where_little_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, most, count = written_rows(monkeypatch, 1)
    assert most <= 70
    assert 3 <= count <= 8


def test_a_shard_that_calms_down_is_written_anew(shard: Shard) -> None:
    for _ in range(30):
        use(shard, many(0, 100))
        state = shard.snapshot()
    for _ in range(20):
        state = shard.snapshot()
    assert changed(state) == 0


def test_the_last_snapshot_of_a_process_leaves_little_to_repeat_to_the_next(
    shard: Shard, tmp_path: Path
) -> None:
    use(shard, many(0, 7, token=2))
    assert changed(shard.snapshot()) == 7
    assert changed(shard.snapshot(is_last=True)) == 0
    assert files(tmp_path) == {f"{PREFIX}-0", f"{PREFIX}-1"}, "the snapshot before may be resumed from"
    shard.resume(*shard.states[-1])
    use(shard, many(0, 6, token=3))
    assert changed(shard.snapshot(is_last=True)) == 6, "so few are not worth it"
    assert files(tmp_path) == {f"{PREFIX}-1"}


def test_shards_that_are_alike_are_not_all_written_in_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", 50)
    archive, epochs = MortalFiles(), list[int]()
    shards = [(CellLog(archive), Cells()) for _ in range(8)]
    for number, (log, held) in enumerate(shards):
        log.open(f"cells-{number:03d}")
        add(held, many(0, 1_000, token=number), later=False)
    for epoch in range(400):
        for log, held in shards:
            add(held, many(epoch, 1), later=False)
            before = len(archive.written)
            log.renew(held)
            epochs += [epoch] * (len(archive.written) - before)
    later = [epoch for epoch in epochs if epoch]
    assert len(later) > 4 * 8
    assert max(later.count(epoch) for epoch in later) <= 3


def test_a_crash_may_resume_from_the_snapshot_before_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", 10)
    archive, chance = MortalFiles(), np.random.default_rng(1)
    shard = Shard(archive)
    for turn in range(200):
        use(shard, many(int(chance.integers(0, 60)), 10, token=turn))
        if turn % 3 == 0:
            shard.turn("forget", turn)
        shard.snapshot()
        for state, model in shard.states:
            assert content(restored(state, archive)) == content(model)
    assert len(archive.written) > 20


def test_what_a_crash_left_is_deleted_at_the_next_start(shard: Shard, tmp_path: Path) -> None:
    archive = StateFiles(tmp_path)
    for name in (f"{PREFIX}-1", f"{PREFIX}-17", "cells-001-0", "ids-000-0"):
        archive.put(name, b"")
    shard.resume(*shard.states[-1])
    assert files(tmp_path) == {f"{PREFIX}-0", "cells-001-0", "ids-000-0"}
    CellLog(archive).open(PREFIX)
    assert files(tmp_path) == {"cells-001-0", "ids-000-0"}, "before the first snapshot nothing is named"


def test_a_lost_or_damaged_file_stops_the_flow(shard: Shard, tmp_path: Path) -> None:
    stored = msgspec.msgpack.decode(shard.snapshot(), type=StoredCellLog)
    (file,) = (tmp_path / DIRECTORY).glob("*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"file cells-000-0 is damaged: restore the store whole"):
        CellLog(StateFiles(tmp_path)).restore(stored)
    file.unlink()
    with pytest.raises(ValueError, match=r"lacks its file cells-000-0: restore the store whole"):
        CellLog(StateFiles(tmp_path)).restore(stored)
    with pytest.raises(ValueError, match=r"names the file cells-000-0, and there are no files"):
        CellLog().restore(stored)


def test_state_that_was_kept_whole_goes_on_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", 50)
    shard = Shard(None)
    use(shard, many(0, 100))
    assert changed(shard.snapshot()) == 100
    shard.archive = StateFiles(tmp_path)
    shard.resume(*shard.states[-1])
    assert changed(shard.snapshot()) == 0
    assert files(tmp_path) == {f"{PREFIX}-0"}
    shard.resume(*shard.states[-1])


def test_before_its_prefix_is_known_a_log_writes_no_file() -> None:
    archive, held = MortalFiles(), Cells()
    log = CellLog(archive)
    add(held, many(0, 5_000), later=False)
    log.renew(held)
    stored = log.dump(held)
    assert (stored.prefix, stored.base, archive.written) == ("", None, [])
    keys: U64 = np.frombuffer(stored.fresh.key, np.uint64)
    assert keys.tolist() == held.key.tolist()

"""Accounts that are kept in files: what a crash at any moment resumes from is what the snapshot had."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.state_files import DIRECTORY, StateFiles
from operators import account_log
from operators.account_log import AccountLog, StoredAccountLog
from operators.archive import Archive
from tests.operators.mortal_files import DeadError, MortalFiles
from tests.operators.test_cell_log import files

PREFIX = "accounts-000"
TURNS = ["add", "replace", "replace", "snapshot", "snapshot", "drain", "die", "crash", "crash before commit"]


def blob(number: int) -> bytes:
    """An account that is like no other."""
    return msgspec.msgpack.encode([number, "x" * 10])


class Shard:
    """A log, beside the accounts that it should have."""

    def __init__(self, archive: Archive | None) -> None:
        self.archive, self.log, self.model = archive, AccountLog(archive), list[bytes]()
        self.log.open(PREFIX)
        self.made = 0
        self.states: list[tuple[bytes, list[bytes]]] = []
        """The last two snapshots, and the accounts then."""
        self.snapshot()

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            self.made += 1
            self.log.add(blob(self.made))
            self.model.append(blob(self.made))

    def replace(self, *numbers: int) -> None:
        for number in numbers:
            self.made += 1
            self.log.replace(number, blob(self.made))
            self.model[number] = blob(self.made)

    def snapshot(self, *, is_last: bool = False, changing: tuple[int, ...] = ()) -> bytes:
        self.log.renew(changing, is_last=is_last)
        self.replace(*changing)
        state = msgspec.msgpack.encode(self.log.dump())
        self.states = [*self.states[-1:], (state, list(self.model))]
        return state

    def resume(self, state: bytes, model: list[bytes]) -> None:
        self.log = AccountLog.restore(msgspec.msgpack.decode(state, type=StoredAccountLog), self.archive)
        self.log.open(PREFIX)
        self.states, self.model = [(state, model)], list(model)
        assert self.log.blobs == model


def named(state: bytes) -> set[str]:
    base = msgspec.msgpack.decode(state, type=StoredAccountLog).base
    return set() if base is None else {base.name}


def changed(state: bytes) -> int:
    """Accounts that a snapshot has itself."""
    return len(msgspec.msgpack.decode(state, type=StoredAccountLog).fresh) // 4


def restored(state: bytes, archive: MortalFiles) -> list[bytes]:
    """The accounts of a snapshot; the files stay as they are."""
    copy = MortalFiles()
    copy.files = dict(archive.files)
    return AccountLog.restore(msgspec.msgpack.decode(state, type=StoredAccountLog), copy).blobs


def tell(shard: Shard, archive: MortalFiles, story: list[tuple[str, int]]) -> None:
    for what, number in story:
        if what == "add":
            shard.add(number)
        elif what == "replace" and shard.model:
            shard.replace(number % len(shard.model))
        elif what in ("snapshot", "die", "drain"):
            archive.lives = number if what == "die" else None
            changing = (number % len(shard.model),) if shard.model and number % 2 else ()
            try:
                shard.snapshot(is_last=what == "drain", changing=changing)
                assert set(archive.files) <= set.union(*(named(state) for state, _ in shard.states))
                for state, model in shard.states:
                    assert restored(state, archive) == model
            except DeadError:
                shard.resume(*shard.states[-1])
            archive.lives = None
        elif what.startswith("crash"):
            state, model = shard.states[-1 if what == "crash" else 0]
            archive.die_in(number, partial(shard.resume, state, model))
            assert set(archive.files) == named(state)
    assert shard.log.blobs == shard.model


@pytest.mark.parametrize("bytes_min", [1, 60, 100_000])
def test_a_crash_at_any_moment_resumes_with_the_accounts_that_the_snapshot_had(
    bytes_min: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_log, "BYTES_MIN", bytes_min)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(TURNS), st.integers(0, 5)), min_size=6, max_size=40))
    def holds(story: list[tuple[str, int]]) -> None:
        archive = MortalFiles()
        tell(Shard(archive), archive, story)
        assert bytes_min < 100_000 or not archive.written

    holds()


@pytest.fixture
def shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shard:
    """100 accounts, in a file."""
    monkeypatch.setattr(account_log, "BYTES_MIN", 1_000)
    shard = Shard(StateFiles(tmp_path))
    shard.add(100)
    assert changed(shard.snapshot()) == 0
    assert files(tmp_path) == {f"{PREFIX}-0"}
    return shard


def test_a_snapshot_has_what_changed_and_not_all_that_there_are(shard: Shard, tmp_path: Path) -> None:
    assert len(shard.snapshot()) < 100
    shard.replace(3, 99)
    shard.add(2)
    assert changed(shard.snapshot(changing=(7,))) == 5
    assert files(tmp_path) == {f"{PREFIX}-0"}
    shard.resume(*shard.states[-1])
    assert changed(shard.snapshot()) == 5


def test_a_file_is_written_anew_when_as_much_has_been_repeated(shard: Shard, tmp_path: Path) -> None:
    shard.replace(*range(50))
    epochs = 1
    while changed(shard.snapshot()):
        epochs += 1
    assert 2 <= epochs <= 4, "once or twice all of them, half of them in each epoch"
    assert files(tmp_path) == {f"{PREFIX}-0", f"{PREFIX}-1"}, "the snapshot before may be resumed from"
    shard.snapshot()
    shard.snapshot()
    assert files(tmp_path) == {f"{PREFIX}-1"}


def test_accounts_that_change_in_every_epoch_are_no_reason_for_a_file(shard: Shard, tmp_path: Path) -> None:
    for _ in range(100):
        assert changed(shard.snapshot(changing=tuple(range(60)))) == 60
    assert files(tmp_path) == {f"{PREFIX}-0"}


def test_the_last_snapshot_of_a_process_leaves_little_to_repeat_to_the_next(
    shard: Shard, tmp_path: Path
) -> None:
    shard.replace(*range(7))
    assert changed(shard.snapshot()) == 7
    assert changed(shard.snapshot(is_last=True)) == 0
    shard.resume(*shard.states[-1])
    shard.replace(*range(6))
    assert changed(shard.snapshot(is_last=True)) == 6, "so few are not worth it"
    assert files(tmp_path) == {f"{PREFIX}-1"}


def test_without_an_archive_or_a_name_a_snapshot_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_log, "BYTES_MIN", 1)
    shard, archive = Shard(None), MortalFiles()
    shard.add(100)
    assert changed(shard.snapshot()) == changed(shard.snapshot()) == 100
    nameless = AccountLog(archive)
    nameless.add(blob(1))
    nameless.renew(())
    assert (nameless.dump().base, archive.written) == (None, [])


def test_a_lost_or_damaged_file_stops_the_flow(shard: Shard, tmp_path: Path) -> None:
    stored: Any = msgspec.msgpack.decode(shard.snapshot(), type=StoredAccountLog)
    (file,) = (tmp_path / DIRECTORY).glob("*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"file accounts-000-0 is damaged: restore the store whole"):
        AccountLog.restore(stored, StateFiles(tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match=r"lacks its file accounts-000-0: restore the store whole"):
        AccountLog.restore(stored, StateFiles(tmp_path))
    with pytest.raises(ValueError, match=r"names the file accounts-000-0, and there are no files"):
        AccountLog.restore(stored)

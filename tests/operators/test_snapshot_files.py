"""Snapshots in files: what a crash at any moment resumes from is what was stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.state_files import DIRECTORY, StateFiles
from operators import snapshot_files
from operators.snapshot_files import SnapshotFiles
from tests.operators.mortal_files import DeadError, MortalFiles

NAME = "snapshot-x-000"
turns = st.lists(
    st.tuples(st.sampled_from(["snapshot", "crash", "crash before commit", "die"]), st.integers(0, 40)),
    max_size=30,
)


def snapshot(number: int, size: int) -> bytes:
    """As snapshots are: a msgpack array, its format first."""
    return msgspec.msgpack.encode([7, number, "x" * size])


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_files, "BYTES_MIN", 20)
        yield


@settings(deadline=None)
@given(turns)
def test_a_crash_at_any_moment_resumes_from_what_was_stored(story: list[tuple[str, int]]) -> None:
    archive = MortalFiles()
    files = SnapshotFiles(archive)
    files.open(NAME)
    committed = [(files.stored(snapshot(-1, 30)), snapshot(-1, 30))]
    for number, (turn, size) in enumerate(story):
        if turn in ("snapshot", "die"):
            archive.lives = size % 4 if turn == "die" else None
            try:
                made = files.stored(snapshot(number, size))
            except DeadError:
                turn = "crash"  # noqa: PLW2901 - of its own kind
            else:
                committed = [*committed[-1:], (made, snapshot(number, size))]
            archive.lives = None
        if turn.startswith("crash"):
            if turn == "crash before commit" and len(committed) > 1:
                committed.pop()
            del committed[:-1]  # what was resumed from is committed
            stored, whole = committed[-1]
            files = SnapshotFiles(archive)
            assert files.found(stored) == whole
            files.open(NAME)
    assert len(archive.files) <= snapshot_files.FILES


def test_small_ones_and_those_without_files_or_a_name_stay_what_they_are() -> None:
    archive = MortalFiles()
    files = SnapshotFiles(archive)
    large, small = snapshot(1, 100), snapshot(2, 1)
    assert files.stored(large) == large
    files.open(NAME)
    assert files.stored(small) == small
    assert SnapshotFiles(None).stored(large) == large
    assert SnapshotFiles(archive).found(large) == large
    assert archive.files == {}


def test_a_resumed_state_goes_on_under_its_name_before_it_is_opened() -> None:
    archive = MortalFiles()
    files = SnapshotFiles(archive)
    files.open(NAME)
    first = files.stored(snapshot(1, 100))
    resumed = SnapshotFiles(archive)
    resumed.found(first)
    resumed.stored(snapshot(2, 100))
    assert archive.written == [f"{NAME}.0", f"{NAME}.1"]


def test_a_file_that_is_lost_or_damaged_is_named() -> None:
    archive = MortalFiles()
    files = SnapshotFiles(archive)
    files.open(NAME)
    stored = files.stored(snapshot(1, 100))
    archive.files[f"{NAME}.0"] = archive.files[f"{NAME}.0"].replace(b"xx", b"xy", 1)
    with pytest.raises(ValueError, match=rf"file {NAME}\.0 is damaged: restore"):
        SnapshotFiles(archive).found(stored)
    del archive.files[f"{NAME}.0"]
    with pytest.raises(ValueError, match=rf"lacks its file {NAME}\.0: restore"):
        SnapshotFiles(archive).found(stored)
    with pytest.raises(ValueError, match="and there are no files"):
        SnapshotFiles(None).found(stored)


def test_files_on_disk_are_written_over_and_keep_what_they_have_behind(tmp_path: Path) -> None:
    archive = StateFiles(tmp_path)
    files = SnapshotFiles(archive)
    files.open(NAME)
    for number, size in enumerate((5000, 50, 500, 40, 4000)):
        stored = files.stored(snapshot(number, size))
        assert SnapshotFiles(archive).found(stored) == snapshot(number, size)
    assert sorted(file.name for file in (tmp_path / DIRECTORY).iterdir()) == [f"{NAME}.{n}" for n in range(3)]
    assert (tmp_path / DIRECTORY / f"{NAME}.0").stat().st_size > 5000

"""Rows that an epoch's end does not wait for: kept, sent by the next process, gone when they are stored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main
from clickhouse_connect.driver.client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.embedded import ClickHouse
from dataflows.state_files import DIRECTORY, StateFiles
from operators import snapshot_files
from operators.snapshot_files import SnapshotFiles
from schemas.arrow import USAGE_EVENTS, USAGE_WINDOWS
from sinks import clickhouse, kept_rows
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink, Writer
from sinks.failures import StoreUnavailable
from sinks.kept_rows import KeptRows, Room, Rows
from sinks.shards import shard_keys
from tests.operators.mortal_files import DeadError, MortalFiles
from tests.sinks.batches import events, eventually, windows
from tests.sinks.test_clickhouse import count, flow_into


@pytest.fixture(autouse=True)
def _in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_files, "BYTES_MIN", 1_000)


@contextmanager
def keeping(config: ClickHouseConfig, archive: MortalFiles) -> Iterator[Writer]:
    files = partial(SnapshotFiles, archive)
    writer = Writer(config, "usage_windows", USAGE_WINDOWS, files=files)
    try:
        yield writer
    finally:
        writer.close()


PART = "003"


def kept_in(archive: MortalFiles | None) -> KeptRows:
    return KeptRows(partial(SnapshotFiles, archive), "usage_events", PART, Room())


def numbered(batches: list[pa.RecordBatch], first: int = 1) -> list[Rows]:
    return [Rows(number, PART, batch, batch.nbytes) for number, batch in enumerate(batches, first)]


def named(number: int) -> pa.RecordBatch:
    """Rows that differ by a number, enough for a file."""
    return events("kept", [f"{number}-{n}" for n in range(9)], event_name=f"name{number}")


def rows_of(batches: list[pa.RecordBatch]) -> list[list[dict[str, object]]]:
    return [batch.to_pylist() for batch in batches]


def test_rows_are_kept_as_they_came_each_with_its_dictionaries() -> None:
    archive = MortalFiles()
    batches = [*map(named, range(3)), named(0).slice(2, 3)]
    stored = kept_in(archive).stored(numbered(batches))
    assert list(archive.files) == ["rows-usage_events-003.0"]
    found = kept_in(archive).found(stored or b"")
    assert rows_of(found) == rows_of(batches)
    assert all(batch.schema.equals(USAGE_EVENTS) for batch in found)


@pytest.mark.parametrize(
    "state", [b"\x01...", b"\x95\xff\xa1x\x00\x00\x00", msgspec.msgpack.encode([3, b"", b""])]
)
def test_rows_of_another_format_are_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="has rows of usage_events in another format than 2"):
        kept_in(None).found(state)


def test_an_epochs_end_writes_only_the_rows_that_came_since_they_were_begun() -> None:
    archive = MortalFiles()
    kept, rows = kept_in(archive), numbered(list(map(named, range(5))))
    kept.begin(rows[:3])
    assert archive.written == ["rows-usage_events-003-begun.0"]
    state = kept.stored(rows[1:])  # the first ones were acknowledged meanwhile
    assert rows_of(kept_in(archive).found(state or b"")) == rows_of([one.batch for one in rows])
    kept.begin(rows[3:])
    assert kept.stored([]) is None  # all were
    assert rows_of(kept_in(archive).found(state or b"")) == rows_of([one.batch for one in rows])
    later = kept.stored(rows[3:])
    assert rows_of(kept_in(archive).found(later or b"")) == rows_of([one.batch for one in rows[3:]])


def test_what_a_snapshot_names_stays_however_often_the_next_epochs_rows_are_begun() -> None:
    archive = MortalFiles()
    kept, rows = kept_in(archive), numbered(list(map(named, range(5))))
    kept.begin(rows[:1])
    state = kept.stored(rows[:1])
    for upto in range(2, 6):
        kept.begin(rows[:upto])
    assert rows_of(kept_in(archive).found(state or b"")) == rows_of([rows[0].batch])


def test_much_memory_is_not_held_for_the_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    room, few, many = Room(), numbered([named(0)]), numbered(list(map(named, range(5))))
    size = len(room.encoded(few))
    monkeypatch.setattr(kept_rows, "ROOM_BYTES_MAX", 2 * size)
    held = room._memory
    assert len(room.encoded(many)) > 3 * size
    assert room._memory is held
    room.encoded(numbered([named(0), named(1).slice(0, 1)]))
    assert room._memory is not held, "it is used again from now on"


kept_turns = st.lists(st.sampled_from(["add", "begin", "acknowledge", "snapshot", "resume"]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(kept_turns, st.integers(0, 30), st.booleans())
def test_whoever_dies_at_any_moment_resumes_with_all_rows_of_the_last_two_snapshots(
    turns: list[str], lives: int, is_last: bool
) -> None:
    archive = MortalFiles()
    archive.lives = lives
    kept, rows = kept_in(archive), list[Rows]()
    states: list[tuple[bytes | None, list[Rows]]] = [(None, [])]
    number = 0

    def resume(state: bytes | None, of_then: list[Rows]) -> None:
        nonlocal kept, rows, states
        kept, states = kept_in(archive), [(state, of_then)]
        found = kept.found(state) if state else []
        missing = [one for one in of_then if one.batch.to_pylist() not in rows_of(found)]
        assert not missing
        rows = list(of_then)

    for turn in turns:
        try:
            if turn in ("add", "begin"):
                number += 1
                rows = [*rows, *numbered([named(number)], number)]
            if turn == "begin":
                kept.begin(rows)
            elif turn == "acknowledge":
                rows = rows[1:]
            elif turn == "snapshot":
                states = [states[-1], (kept.stored(rows), rows)]
            elif turn == "resume":
                resume(*states[-1 if is_last else 0])
        except DeadError:
            resume(*states[-1 if is_last else 0])


def test_an_epoch_ends_without_the_store_and_the_next_process_sends_its_rows(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, client: Client
) -> None:
    archive = MortalFiles()
    clickhouse_engine.kill()
    with keeping(replace(patient, drain_s=0.1), archive) as writer:
        writer.write("001", [windows("kept", ["a", "b"]), windows("kept", ["c"])])
        writer.write("002", [windows("kept", [f"d{n}" for n in range(40)])])
        first, second = writer.snapshot("001"), writer.snapshot("002")
        assert writer.snapshot("003") is None
    clickhouse_engine.start()
    with keeping(patient, archive) as writer:
        writer.restore("001", first)
        writer.restore("003", None)
        eventually(lambda: count(client, "kept") == 3)
        writer.restore("002", second)
    assert count(client, "kept") == 43  # the end of the flow waits for them


def test_a_part_has_no_state_when_its_rows_are_stored(config: ClickHouseConfig, client: Client) -> None:
    with keeping(config, MortalFiles()) as writer:
        writer.write("001", [windows("stored-kept", ["a"])])
        eventually(lambda: count(client, "stored-kept") == 1)
        eventually(lambda: writer.snapshot("001") is None)


def test_rows_that_wait_for_long_are_begun_to_be_written_before_the_next_snapshot(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse, "BEGUN_BYTES_MIN", 1)
    archive = MortalFiles()
    clickhouse_engine.kill()
    with keeping(replace(patient, drain_s=0.1, epoch_s=clickhouse.BEGUN_S + 0.1), archive) as writer:
        writer.write("001", [windows("begun", [f"a{n}" for n in range(40)])])
        writer.snapshot("001")
        eventually(lambda: archive.written[1:] == ["rows-usage_windows-001-begun.0"])
        writer.write("001", [windows("begun", ["b"])])
        state = writer.snapshot("001")
    found = kept_in(archive).found(state or b"")
    assert [batch.num_rows for batch in found] == [40, 1]
    begun, rest = (len(archive.files[f"rows-usage_windows-001{file}"]) for file in ("-begun.0", ".1"))
    assert rest < begun / 2, "the epoch's end has written what was begun"


def test_rows_under_way_are_kept(patient: ClickHouseConfig, clickhouse_engine: ClickHouse) -> None:
    archive = MortalFiles()
    clickhouse_engine.kill()
    with keeping(replace(patient, drain_s=0.1), archive) as writer:
        writer.write("001", [windows("under-way", ["a"])])
        eventually(lambda: not writer._buffer)
        state = writer.snapshot("001")
        writer.write("001", [windows("under-way", ["b"])])
        both = writer.snapshot("001")
    kept = kept_in(archive)
    assert [batch.column("external_customer_id").to_pylist() for batch in kept.found(state or b"")] == [["a"]]
    assert len(kept.found(both or b"")) == 2


def test_more_rows_than_can_be_kept_hold_up_the_end_of_the_epoch(
    config: ClickHouseConfig, clickhouse_engine: ClickHouse, client: Client
) -> None:
    few = replace(config, kept_bytes_max=10, insert_interval_ms=60_000)
    with keeping(few, MortalFiles()) as writer:
        writer.write("001", [windows("many-kept", ["a"])])
        assert writer.snapshot("001") is None
        assert count(client, "many-kept") == 1
        clickhouse_engine.kill()
        writer.write("001", [windows("many-kept", ["b"])])
        with pytest.raises(StoreUnavailable):
            writer.snapshot("001")


def test_what_the_end_of_the_flow_did_not_wait_for_is_told(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, caplog: pytest.LogCaptureFixture
) -> None:
    clickhouse_engine.kill()
    with caplog.at_level(logging.WARNING), keeping(replace(patient, drain_s=0.05), MortalFiles()) as writer:
        writer.write("001", [windows("told", ["a", "b"])])
    assert "2 rows of usage_windows are not in ClickHouse yet; the next start sends them" in caplog.messages


def test_rows_without_files_are_no_state_that_can_be_read(config: ClickHouseConfig) -> None:
    writer = Writer(config, "usage_windows", USAGE_WINDOWS)
    with pytest.raises(ValueError, match="has rows of usage_windows, and there are no files"):
        writer.restore("001", b"\x01")
    writer.close()


def test_epochs_commit_while_the_store_is_away_and_the_next_run_sends_them(
    patient: ClickHouseConfig, clickhouse_engine: ClickHouse, client: Client, tmp_path: Path
) -> None:
    batches = [(key, windows("away-kept", [f"{key}-{i}" for i in range(20)])) for key in shard_keys(8)]
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]

    def run(batches: list[tuple[str, pa.RecordBatch]]) -> None:
        files = partial(SnapshotFiles, StateFiles(tmp_path))
        impatient = replace(patient, drain_s=0.1)
        sink = ClickHouseSink(impatient, "usage_windows", USAGE_WINDOWS, 8, files=files)
        run_main(  # type: ignore[no-untyped-call]
            flow_into(sink, batches),
            epoch_interval=timedelta(seconds=0),
            recovery_config=RecoveryConfig(tmp_path),  # type: ignore[no-untyped-call]
        )

    clickhouse_engine.kill()
    run(batches)
    assert len(list((tmp_path / DIRECTORY).iterdir())) == 8
    clickhouse_engine.start()
    run(batches)  # of which the source knows that it has sent them
    eventually(lambda: count(client, "away-kept") == 160)

"""Rows that an epoch's end does not wait for: kept, sent by the next process, gone when they are stored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main
from clickhouse_connect.driver.client import Client

from dataflows.embedded import ClickHouse
from dataflows.state_files import DIRECTORY, StateFiles
from operators import snapshot_files
from operators.snapshot_files import SnapshotFiles
from schemas.arrow import USAGE_EVENTS, USAGE_WINDOWS
from sinks.clickhouse import ClickHouseConfig, ClickHouseSink, Writer
from sinks.failures import StoreUnavailable
from sinks.kept_rows import KeptRows, Room
from sinks.shards import shard_keys
from tests.operators.mortal_files import MortalFiles
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


def test_rows_are_kept_as_they_came_each_with_its_dictionaries() -> None:
    archive = MortalFiles()
    batches = [events("kept", [f"{name}{n}" for n in range(9)], event_name=name) for name in "abc"]
    stored = KeptRows(SnapshotFiles(archive), "usage_events", "003", Room()).stored(
        [*batches, batches[0].slice(2, 3)]
    )
    assert list(archive.files) == ["rows-usage_events-003.0"]
    found = KeptRows(SnapshotFiles(archive), "usage_events", "003", Room()).found(stored)
    assert [batch.to_pylist() for batch in found] == [
        batch.to_pylist() for batch in [*batches, batches[0].slice(2, 3)]
    ]
    assert all(batch.schema.equals(USAGE_EVENTS) for batch in found)


def test_rows_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of usage_events in format 9, this version reads 1"):
        KeptRows(SnapshotFiles(None), "usage_events", "000", Room()).found(b"\x09...")


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


def test_rows_under_way_are_kept(patient: ClickHouseConfig, clickhouse_engine: ClickHouse) -> None:
    archive = MortalFiles()
    clickhouse_engine.kill()
    with keeping(replace(patient, drain_s=0.1), archive) as writer:
        writer.write("001", [windows("under-way", ["a"])])
        eventually(lambda: not writer._buffer)
        state = writer.snapshot("001")
        writer.write("001", [windows("under-way", ["b"])])
        both = writer.snapshot("001")
    kept = KeptRows(SnapshotFiles(archive), "usage_windows", "001", Room())
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
        settings = replace(patient, drain_s=0.1)
        sink = ClickHouseSink(settings, "usage_windows", USAGE_WINDOWS, 8, files=files)
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

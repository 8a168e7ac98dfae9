"""The recovery store: created once, opened by one cluster at a time, and read by `recovery inspect`."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from typing_extensions import override

from dataflows.offsets import Position
from dataflows.recovery import (
    PAGE_BYTES,
    PART,
    Metadata,
    RecoveryError,
    RecoveryStore,
    Slot,
    open_store,
)
from dataflows.recovery_report import inspect_store
from dataflows.state_files import StateFiles

TWO = ("a:1", "b:1")


def test_the_first_start_creates_the_store_and_the_next_finds_it(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "on the way"
    with open_store(directory, 32) as store:
        made = store.metadata
    assert len(list(directory.glob("part-*.sqlite3"))) == 1
    with open_store(directory, 32) as store:
        assert store.metadata == made


def test_a_cluster_begins_a_store_with_a_partition_for_two_processes(tmp_path: Path) -> None:
    for processes, partitions in ((1, 1), (2, 1), (3, 2), (4, 2), (9, 5)):
        addresses = [f"host:{number}" for number in range(processes)]
        with open_store(tmp_path / str(processes), 32, Slot(0, addresses)) as store:
            assert store.metadata.partitions == partitions
        assert len(list((tmp_path / str(processes)).glob("part-*.sqlite3"))) == partitions
    with open_store(tmp_path / "9", 32) as store:
        assert store.metadata.partitions == 5, "one process goes on with all of them"


def test_another_number_of_shards_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    with pytest.raises(RecoveryError, match="created with METERLINE_SHARDS=32, not 16"):
        open_store(tmp_path, 16)
    open_store(tmp_path, 32).close()  # a refusal holds no lock


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    (tmp_path / "meterline.json").write_bytes(
        msgspec.json.encode(Metadata(format=2, shards=32, partitions=1))
    )
    with pytest.raises(RecoveryError, match="has format 2, this version of Meterline reads 1"):
        open_store(tmp_path, 32)


def test_damaged_metadata_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    (tmp_path / "meterline.json").write_text('{"format": 1, "shar')
    with pytest.raises(RecoveryError, match="is damaged"):
        open_store(tmp_path, 32)


def test_partitions_of_someone_else_are_refused(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    with pytest.raises(RecoveryError, match="not of `meterline run`"):
        open_store(tmp_path, 32)


def test_a_lost_partition_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    (tmp_path / "part-0.sqlite3").unlink()
    with pytest.raises(RecoveryError, match=r"lacks part-0\.sqlite3"):
        open_store(tmp_path, 32)


def test_a_creation_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    begun = Metadata(format=1, shards=8, partitions=2, complete=False)
    (tmp_path / "meterline.json").write_bytes(msgspec.json.encode(begun))
    (tmp_path / "part-1.sqlite3").write_text("half of it")
    with open_store(tmp_path, 32) as store:
        assert (store.metadata.shards, store.metadata.complete) == (32, True)
    assert inspect_store(tmp_path).shards == 32


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecoveryError, match="can't be written"):
        open_store(tmp_path / "file", 32)


def test_a_second_runner_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = open_store(tmp_path, 32)
    with pytest.raises(RecoveryError, match="process 0 of this flow runs already, with pid"):
        open_store(tmp_path, 32)
    first.close()
    open_store(tmp_path, 32).close()


def test_processes_of_one_cluster_share_the_store(tmp_path: Path) -> None:
    with open_store(tmp_path, 32, Slot(0, TWO)), open_store(tmp_path, 32, Slot(1, TWO)) as second:
        assert second.slot_directory == tmp_path / "process-1"
        with pytest.raises(RecoveryError, match="process 1 of this flow runs already"):
            open_store(tmp_path, 32, Slot(1, TWO))


@pytest.mark.parametrize("slot", [Slot(), Slot(1, ("a:1", "b:1", "c:1"))])
def test_another_cluster_is_refused_while_one_process_is_left(tmp_path: Path, slot: Slot) -> None:
    first, left = open_store(tmp_path, 32, Slot(0, TWO)), open_store(tmp_path, 32, Slot(1, TWO))
    first.close()
    with pytest.raises(RecoveryError, match=r"in use by another flow \(a:1;b:1\)"):
        open_store(tmp_path, 32, slot)
    left.close()
    open_store(tmp_path, 32, slot).close()


def test_processes_that_start_together_create_one_store(tmp_path: Path) -> None:
    addresses = tuple(f"host-{number}:1" for number in range(8))

    def start(number: int) -> RecoveryStore:
        return open_store(tmp_path, 32, Slot(number, addresses))

    with ThreadPoolExecutor(len(addresses)) as pool:
        stores = list(pool.map(start, range(len(addresses))))
    assert len({store.metadata for store in stores}) == 1
    for store in stores:
        store.close()


HOLD = """
import sys, time
from pathlib import Path
from dataflows.recovery import open_store
open_store(Path(sys.argv[1]), 32)
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_runner_leaves_nothing_locked(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RecoveryError, match=f"with pid {holder.pid}"):
            open_store(tmp_path, 32)
        holder.send_signal(signal.SIGKILL)
    open_store(tmp_path, 32).close()


class Numbers(FixedPartitionedSource[int, bytes]):
    """Two partitions of ten records; partition 1 aborts at `abort_at`. Remembers what it resumed from."""

    def __init__(self, abort_at: int = -1) -> None:
        self.abort_at = abort_at
        self.resumed: dict[str, int] = {}

    @override
    def list_parts(self) -> list[str]:
        return ["numbers/0", "numbers/1"]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> NumbersPart:
        offset = Position.decode(resume_state).next_offset if resume_state else 0
        self.resumed[for_part] = offset
        return NumbersPart(offset, self.abort_at if for_part == "numbers/1" else -1)


class NumbersPart(StatefulSourcePartition[int, bytes]):
    def __init__(self, offset: int, abort_at: int) -> None:
        self.offset, self.abort_at = offset, abort_at

    @override
    def next_batch(self) -> list[int]:
        if self.offset == self.abort_at:
            raise AbortExecution
        if self.offset == 10:
            raise StopIteration
        self.offset += 1
        return [self.offset]

    @override
    def snapshot(self) -> bytes:
        return Position(self.offset, "cluster", "topic", 0).encode()


def run_numbers(directory: Path, source: Numbers) -> None:
    flow = Dataflow("numbers")
    numbers = op.input("read", flow, source)
    sums = op.stateful_map(
        "sum", op.key_on("key", numbers, str), lambda state, value: ((state or 0) + value,) * 2
    )
    out: list[tuple[str, int]] = []
    op.output("out", sums, TestingSink(out))
    config = RecoveryConfig(str(directory))  # type: ignore[no-untyped-call]
    run_main(flow, epoch_interval=timedelta(0), recovery_config=config)  # type: ignore[no-untyped-call]


def test_inspect_names_the_offsets_that_the_next_start_resumes_from(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    before = inspect_store(tmp_path)
    assert (before.starts, before.resume_epoch, before.offsets, before.steps) == (0, None, [], [])
    run_numbers(tmp_path, Numbers(abort_at=6))
    report = inspect_store(tmp_path)
    resumed = Numbers()
    run_numbers(tmp_path, resumed)
    assert {f"{each.topic}/{each.partition}": each.next_offset for each in report.offsets} == resumed.resumed
    assert 0 < resumed.resumed["numbers/1"] <= 6
    assert (report.starts, report.workers) == (1, 1)
    after = inspect_store(tmp_path)
    assert [each.next_offset for each in after.offsets] == [10, 10]
    assert after.starts == 2


def test_state_is_written_in_large_pages_to_a_write_ahead_log(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    run_numbers(tmp_path, Numbers())
    with closing(sqlite3.connect(tmp_path / PART.format(0))) as part:
        assert part.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
        assert part.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_inspect_sizes_each_step(tmp_path: Path) -> None:
    open_store(tmp_path, 32).close()
    run_numbers(tmp_path, Numbers())
    report = inspect_store(tmp_path)
    by_step = {step.step: step for step in report.steps}
    assert by_step["numbers.read"].keys == 2
    assert report.snapshots_bytes == sum(step.size_bytes for step in report.steps)
    assert report.files_bytes > report.snapshots_bytes > 0
    StateFiles(tmp_path).put("ids-000-0", bytes(1_000))
    assert inspect_store(tmp_path).files_bytes == report.files_bytes + 1_000


def test_a_new_store_has_no_files_of_an_earlier_one(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    files.put("ids-000-0", b"earlier")
    open_store(tmp_path, 32).close()
    assert files.names("") == []
    files.put("ids-000-0", b"later")
    open_store(tmp_path, 32).close()
    assert files.get("ids-000-0") == b"later"


def test_inspect_of_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match="has no recovery store"):
        inspect_store(tmp_path)
    assert list(tmp_path.iterdir()) == []

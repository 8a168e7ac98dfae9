"""What a recovery store holds: `meterline recovery inspect`. It reads only, also beside a running flow.

The layout is Bytewax 0.21's: tables exs (executions), fronts (how far each worker is), snaps (state by step,
key and epoch). The offsets are the snapshots of the sources, `dataflows.offsets.Position`.
"""

from __future__ import annotations

import io
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from dataflows.offsets import Position
from dataflows.recovery import PART, RecoveryError, read_metadata
from dataflows.reports import print_json, print_table
from dataflows.state_files import DIRECTORY as STATE_FILES

RUNS = "SELECT ex_num, worker_count, resume_epoch, created_at FROM exs"
FRONTS = "SELECT ex_num, worker_index, worker_frontier, created_at FROM fronts"
SNAPSHOTS = "SELECT step_id, state_key, snap_epoch, length(ser_change) FROM snaps"
SOURCE_SNAPSHOTS = "SELECT state_key, snap_epoch, ser_change FROM snaps WHERE state_key LIKE '%/%'"
STEP_COLUMNS: dict[str, Literal["left", "right"]] = {
    "step": "left",
    "keys": "right",
    "rows": "right",
    "bytes": "right",
}


@dataclass(frozen=True)
class StepSize:
    """What one step keeps; `rows` also has the epochs before the newest that are not collected yet."""

    step: str
    keys: int
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Offset:
    """Where a partition is read from at the next start."""

    topic: str
    partition: int
    next_offset: int
    cluster_id: str


@dataclass(frozen=True)
class RecoveryReport:
    """A store as it is at one moment."""

    directory: str
    format: int
    shards: int
    partitions: int
    created_at: str
    starts: int
    """How often a flow has started on it."""
    workers: int
    """Of the last start."""
    resume_epoch: int | None
    """Where the next start resumes; None before the first."""
    snapshots_bytes: int
    files_bytes: int
    offsets: list[Offset] = field(default_factory=list)
    steps: list[StepSize] = field(default_factory=list)


def inspect_store(directory: Path) -> RecoveryReport:
    """Raises RecoveryError if there is no store to read."""
    metadata = read_metadata(directory)
    if metadata is None:
        raise RecoveryError(f"{directory} has no recovery store; `meterline run` creates one")
    files = [directory / PART.format(number) for number in range(metadata.partitions)]
    try:
        starts, fronts, snapshots, sources = (
            [row for file in files for row in _rows(file, query)]
            for query in (RUNS, FRONTS, SNAPSHOTS, SOURCE_SNAPSHOTS)
        )
    except sqlite3.Error as error:
        raise RecoveryError(f"the recovery store {directory} can't be read: {error}") from None
    last = max(starts, default=None)
    resume_epoch = None if last is None else _resume_epoch(last, fronts)
    steps = _steps(snapshots)
    return RecoveryReport(
        directory=str(directory),
        format=metadata.format,
        shards=metadata.shards,
        partitions=metadata.partitions,
        created_at=metadata.created_at,
        starts=len(starts),
        workers=last[1] if last else 0,
        resume_epoch=resume_epoch,
        snapshots_bytes=sum(step.size_bytes for step in steps),
        files_bytes=sum(
            file.stat().st_size for files in ("part-*", f"{STATE_FILES}/*") for file in directory.glob(files)
        ),
        offsets=[] if resume_epoch is None else _offsets(sources, resume_epoch),
        steps=steps,
    )


def print_recovery(directory: Path, *, as_json: bool) -> None:
    """Print a report on a store."""
    report = inspect_store(directory)
    if as_json:
        print_json(asdict(report))
        return
    print(
        f"{report.directory}: format {report.format}, {report.shards} shards, {report.partitions} partitions,"
        f" created {report.created_at}"
    )
    print(
        f"starts: {report.starts}, workers at the last: {report.workers};"
        f" the next resumes at epoch {report.resume_epoch or '-'}"
    )
    offsets = [(f"{each.topic}/{each.partition}", each.next_offset) for each in report.offsets]
    print_table(None, {"partition": "left", "next offset": "right"}, offsets)
    steps = [(step.step, step.keys, step.rows, f"{step.size_bytes:,}") for step in report.steps]
    total = ("total", "", sum(step.rows for step in report.steps), f"{report.snapshots_bytes:,}")
    print_table(None, STEP_COLUMNS, [*steps, total], total=1)
    print(f"files: {report.files_bytes:,} bytes")


def _rows(file: Path, query: str) -> Iterator[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield from connection.execute(query)


def _resume_epoch(start: tuple[int, int, int, str], fronts: list[tuple[int, int, int, str]]) -> int:
    """The least that a worker of the last start has reached: where it resumed, if it has told nothing."""
    number, workers, resumed, _ = start
    reached = {worker: front for ex_num, worker, front, _ in fronts if ex_num == number}
    return min(reached.get(worker, resumed) for worker in range(workers))


def _steps(snapshots: list[tuple[str, str, int, int | None]]) -> list[StepSize]:
    steps: dict[str, list[tuple[str, int]]] = {}
    for step, key, _, size in snapshots:
        steps.setdefault(step, []).append((key, size or 0))
    sizes = [
        StepSize(step, len({key for key, _ in rows}), len(rows), sum(size for _, size in rows))
        for step, rows in steps.items()
    ]
    return sorted(sizes, key=lambda step: (-step.size_bytes, step.step))


def _offsets(snapshots: list[tuple[str, int, bytes]], resume_epoch: int) -> list[Offset]:
    """The newest snapshot of each partition before the epoch that is resumed."""
    newest: dict[str, tuple[int, bytes]] = {}
    for key, epoch, change in snapshots:
        if change is not None and epoch < resume_epoch:
            newest[key] = max(newest.get(key, (-1, b"")), (epoch, change))
    offsets = []
    for key, (_, change) in newest.items():
        topic, _, number = key.rpartition("/")
        position = Position.decode(_BytesOnly(io.BytesIO(change)).load())
        offsets.append(Offset(topic, int(number), position.next_offset, position.cluster_id))
    return sorted(offsets, key=lambda offset: (offset.topic, offset.partition))


class _BytesOnly(pickle.Unpickler):
    """Bytewax pickles what a step returns; of ours that is bytes, and nothing else shall run from a file."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise RecoveryError(f"a snapshot names {module}.{name}: the store is not of Meterline")

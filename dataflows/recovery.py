"""The recovery store: offsets and state, opened by one cluster at a time.

`open_store(directory, shards, slot)` -> `RecoveryStore`, or `RecoveryError`, a sentence that says what to do.

    part-0.sqlite3 ...                  Bytewax's own, written by it alone
    state/                              what state is written once (state_files.py)
    meterline.json                      what may never change: format, shards, partitions
    opening.lock                        held while a process opens the store
    cluster.lock                        shared by the processes of one cluster; says which cluster
    process-0/lock, process-1/lock ...  held by the process of that id; its files are beside it

Bytewax fences nothing: a second runner resumes from the first one's epoch, and both write. The locks refuse
it. They end with their process, so a crash leaves nothing to clean up.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dataflows.locks import FileLock, LockHeldError
from dataflows.state_files import DIRECTORY as STATE_FILES
from dataflows.state_files import write_durably

FORMAT = 1
PROCESSES_A_PARTITION = 2
"""Of the cluster that begins a store. Its partitions are SQLite files, written by as many processes, and each
commits some ten times an epoch: writing to four instead of one, the flow stood still for 107 ms at an epoch's
end instead of 50, and metered 0.8 times as fast in one process and 0.87 times in two."""
PAGE_BYTES = 1 << 16
"""Of its files. Bytewax writes and deletes megabytes of state an epoch, in chains of pages: with SQLite's
4 KiB that took 100 ms for 10 MB, with these 50 (55 and 31 ms of CPU)."""
METADATA = "meterline.json"
PART = "part-{}.sqlite3"


class RecoveryError(RuntimeError):
    """The store can't be used; the text is a sentence that says what to do."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed when a store is created."""

    format: int
    shards: int
    partitions: int
    """Bytewax can't divide a state anew."""
    created_at: str = ""
    complete: bool = True
    """False while its partitions are made: nothing has ever run on it."""


@dataclass(frozen=True)
class Slot:
    """Which process of which cluster opens the store."""

    process_id: int = 0
    addresses: Sequence[str] = ()
    """Of all processes; none for a flow of one process."""

    @property
    def cluster(self) -> str:
        return ";".join(self.addresses) or "one process"


class RecoveryStore:
    """An open store: nobody else runs on it until it is closed."""

    def __init__(self, directory: Path, metadata: Metadata, slot_directory: Path, locks: ExitStack) -> None:
        self.directory = directory
        self.metadata = metadata
        self.slot_directory = slot_directory
        """Where this process may keep files of its own."""
        self._locks = locks

    def close(self) -> None:
        self._locks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_store(directory: Path, shards: int, slot: Slot | None = None) -> RecoveryStore:
    """Lock the store of `directory`, and create it first if there is none."""
    slot = slot or Slot()
    try:
        slot_directory = directory / f"process-{slot.process_id}"
        slot_directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            opening = FileLock(directory / "opening.lock")
            try:
                opening.exclusive(wait=True)
                _hold_cluster(locks, directory, slot)
                _hold_slot(locks, slot_directory, slot)
                metadata = _metadata(directory, shards, slot)
            finally:
                opening.close()
            return RecoveryStore(directory, metadata, slot_directory, locks.pop_all())
    except OSError as error:
        raise RecoveryError(
            f"the recovery store {directory} can't be written: {error.strerror}."
            " Make it writable, or name another directory in METERLINE_RECOVERY_DIR"
        ) from None


def read_metadata(directory: Path) -> Metadata | None:
    """What a store says of itself; None if there is none. Raises RecoveryError if it can't be read."""
    file = directory / METADATA
    try:
        metadata = msgspec.json.decode(file.read_bytes(), type=Metadata)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise RecoveryError(f"{file} is damaged ({error}): restore it from a backup") from None
    if metadata.format > FORMAT:
        raise RecoveryError(
            f"the recovery store {directory} has format {metadata.format}, this version of Meterline reads"
            f" {FORMAT}: run the version that wrote it, or a newer one"
        )
    return metadata


def _hold_cluster(locks: ExitStack, directory: Path, slot: Slot) -> None:
    cluster = FileLock(directory / "cluster.lock")
    locks.callback(cluster.close)
    try:
        cluster.exclusive()
    except LockHeldError:
        cluster.shared()  # the others hold it shared: a holder of `opening.lock` alone has it exclusive
        holder = cluster.read()
        if holder != slot.cluster:
            raise RecoveryError(
                f"the recovery store {directory} is in use by another flow ({holder}): stop all of its"
                " processes, then start again. Two on one store would count everything twice"
            ) from None
    else:
        cluster.write(slot.cluster)
        cluster.shared()


def _hold_slot(locks: ExitStack, slot_directory: Path, slot: Slot) -> None:
    held = FileLock(slot_directory / "lock")
    locks.callback(held.close)
    try:
        held.exclusive()
    except LockHeldError:
        raise RecoveryError(
            f"the recovery store {slot_directory.parent} is in use: process {slot.process_id} of this flow"
            f" runs already, with pid {held.read()}. Stop it, or give this one --process-id and --addresses"
        ) from None
    held.write(str(os.getpid()))


def _metadata(directory: Path, shards: int, slot: Slot) -> Metadata:
    """What is stored, checked; of a new store what is stored from now on."""
    stored = read_metadata(directory)
    if stored is None or not stored.complete:
        if stored is not None:
            _clear(directory, stored)
        return _create(directory, shards, -(-max(1, len(slot.addresses)) // PROCESSES_A_PARTITION))
    if stored.shards != shards:
        raise RecoveryError(
            f"the recovery store {directory} was created with METERLINE_SHARDS={stored.shards}, not {shards}:"
            f" its state can't be divided anew. Set METERLINE_SHARDS={stored.shards}"
        )
    missing = [
        PART.format(number)
        for number in range(stored.partitions)
        if not (directory / PART.format(number)).exists()
    ]
    if missing:
        raise RecoveryError(
            f"the recovery store {directory} lacks {', '.join(missing)}: restore it whole from a backup;"
            " without it, what was metered is not known"
        )
    return stored


def _clear(directory: Path, begun: Metadata) -> None:
    """Delete the partitions of a store that was not completed."""
    for number in range(begun.partitions):
        for file in directory.glob(PART.format(number) + "*"):
            file.unlink()


def _create(directory: Path, shards: int, partitions: int) -> Metadata:
    from bytewax.recovery import init_db_dir  # noqa: PLC0415 - 0.2 s that `recovery inspect` needs not

    if any(directory.glob("*.sqlite3")):
        raise RecoveryError(
            f"{directory} has recovery partitions but no {METADATA}: they are not of `meterline run`."
            " Name another directory in METERLINE_RECOVERY_DIR"
        )
    shutil.rmtree(directory / STATE_FILES, ignore_errors=True)
    metadata = Metadata(
        format=FORMAT,
        shards=shards,
        partitions=partitions,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=False,
    )
    _write(directory, metadata)
    init_db_dir(directory, partitions)  # type: ignore[no-untyped-call]
    for number in range(partitions):
        _enlarge_pages(directory / PART.format(number))
    metadata = msgspec.structs.replace(metadata, complete=True)
    _write(directory, metadata)
    return metadata


def _enlarge_pages(file: Path) -> None:
    with closing(sqlite3.connect(file)) as store:
        store.execute("PRAGMA journal_mode = DELETE")  # with a write-ahead log the size stays as it is
        store.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        store.execute("VACUUM")
        store.execute("PRAGMA journal_mode = WAL")  # as Bytewax made it


def _write(directory: Path, metadata: Metadata) -> None:
    write_durably(directory / METADATA, msgspec.json.format(msgspec.json.encode(metadata), indent=2) + b"\n")

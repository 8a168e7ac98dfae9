"""The ids that were let through, as snapshots keep them: in the order in which they came.

Ids that are new are in the snapshot itself. When there are `RUN_IDS` of them they become a file (`Archive`)
that is written once: with half a million ids in each of 8 shards, every epoch's end wrote 49 MB of them
before, in 470 ms, and writes 1 MB now, in 8. Without an archive all are in the snapshot.

A file is never changed. What has left since is known by its floor: ids below it are not there any more. A
file of which nothing is left is deleted.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from operators.archive import Archive, Part, Parts
from operators.snapshot_format import StoredIntegers
from schemas.usage import U32, U64, Mask

RUN_IDS = 32_768
"""Of a file: 300 KB."""
LEFT_MAX = 2
"""How many times the ids that are left the files may hold: one id of the far future keeps its whole file."""


class Floor(NamedTuple):
    """Ids of an earlier second are gone, and of this second those of a lower hash."""

    second: int
    hash: int

    def is_below(self, hashes: U64, append_s: U32) -> Mask:
        """Of which ids it is below: those that are there."""
        at_floor = (append_s == self.second) & (hashes >= np.uint64(self.hash))
        below: Mask = (append_s > self.second) | at_floor
        return below


NO_FLOOR = Floor(0, 0)


class Run(msgspec.Struct, array_like=True):
    """A file of ids, which is `StoredIds`, and what a snapshot knows of it."""

    part: Part
    ids: int
    newest_s: int
    floor: Floor = NO_FLOOR


class StoredIds(msgspec.Struct, array_like=True):
    """Ids in a file or in a snapshot, in no order."""

    hashes: memoryview
    """uint64;"""
    append_s: StoredIntegers
    """when each was appended."""

    @staticmethod
    def of(hashes: U64, append_s: U32) -> StoredIds:
        return StoredIds(hashes.data, StoredIntegers.of(append_s))

    def read(self) -> tuple[U64, U32]:
        return np.frombuffer(self.hashes, np.uint64), self.append_s.read().astype(np.uint32)


class StoredLog(msgspec.Struct, array_like=True):
    """A log in a snapshot."""

    prefix: str
    numbered: int
    """How many files there have been."""
    runs: list[Run]
    fresh: StoredIds


class IdLog:
    """The ids of one shard."""

    def __init__(self, archive: Archive | None = None, stored: StoredLog | None = None) -> None:
        self._archive = archive
        self._parts: Parts | None = None
        self._runs: list[Run] = []
        self._fresh: list[tuple[U64, U32]] = []
        self._fresh_ids = 0
        if stored is not None:
            self._restore(stored)

    def _restore(self, stored: StoredLog) -> None:
        self._runs = stored.runs
        if stored.prefix:
            self.open(stored.prefix, stored.numbered)
        self._note(*stored.fresh.read())

    def open(self, prefix: str, numbered: int = 0) -> None:
        """Name files from now on: their names begin with the prefix, which no other log has."""
        if self._archive is not None and self._parts is None:
            self._parts = Parts(self._archive, prefix, numbered)
            self._parts.keep([run.part for run in self._runs])

    def add(self, hashes: U64, append_s: U32) -> None:
        """Ids that were let through."""
        self._note(hashes, append_s)
        if self._parts is not None and self._fresh_ids >= RUN_IDS:
            self._seal(self._parts, *self._take_fresh())

    def raise_floor(self, floor: Floor, left: int) -> None:
        """All ids that are not above the floor are gone, and this many are left."""
        hashes, append_s = self._take_fresh()
        above = floor.is_below(hashes, append_s)
        self._note(hashes[above], append_s[above])
        if self._parts is None:
            return  # there are no files
        runs, self._runs = self._runs, []
        for run in runs:
            if run.newest_s < floor.second:
                self._parts.leave(run.part)
            else:
                run.floor = max(run.floor, floor)
                self._runs.append(run)
        if sum(run.ids for run in self._runs) > LEFT_MAX * left + RUN_IDS:
            self._rewrite(self._parts)

    def read(self) -> tuple[U64, U32]:
        """All ids."""
        return _joined([*map(self._read_run, self._runs), *self._fresh])

    def dump(self) -> StoredLog:
        """For a snapshot."""
        fresh = self._take_fresh()
        self._note(*fresh)
        if self._parts is None:
            return StoredLog("", 0, [], StoredIds.of(*fresh))
        self._parts.note_snapshot()
        return StoredLog(self._parts.prefix, self._parts.numbered, self._runs, StoredIds.of(*fresh))

    def _note(self, hashes: U64, append_s: U32) -> None:
        self._fresh.append((hashes, append_s))
        self._fresh_ids += len(hashes)

    def _take_fresh(self) -> tuple[U64, U32]:
        taken, self._fresh, self._fresh_ids = _joined(self._fresh), [], 0
        return taken

    def _seal(self, parts: Parts, hashes: U64, append_s: U32) -> None:
        """Make these ids a file."""
        data = msgspec.msgpack.encode(StoredIds.of(hashes, append_s))
        self._runs.append(Run(parts.put(data), len(hashes), int(append_s.max())))

    def _rewrite(self, parts: Parts) -> None:
        """Make one file of what is left in all."""
        hashes, append_s = _joined(list(map(self._read_run, self._runs)))
        for run in self._runs:
            parts.leave(run.part)
        self._runs = []
        if len(hashes):
            self._seal(parts, hashes, append_s)

    def _read_run(self, run: Run) -> tuple[U64, U32]:
        if self._parts is None:
            raise ValueError(f"the dedupe state names the file {run.part.name}, and there are no files")
        stored = msgspec.msgpack.decode(self._parts.get(run.part), type=StoredIds)
        hashes, append_s = stored.read()
        there = run.floor.is_below(hashes, append_s)
        return hashes[there], append_s[there]


def _joined(pieces: list[tuple[U64, U32]]) -> tuple[U64, U32]:
    if not pieces:
        return np.empty(0, np.uint64), np.empty(0, np.uint32)
    hashes, append_s = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return hashes, append_s

"""Which identities were let through, and when they were appended: in memory, and as a snapshot keeps them.

An identity is a 64-bit hash: with 10 million ids in the horizon, the chance that any two different ones meet
is 3e-6 a horizon.

In memory: two sorted numpy columns, identity hash (uint64) and append second (uint32), and a dict of the ids
that came since they were last merged into these, at most an eighth of them or `RECENT_MAX`. An id takes 12
bytes, 4 to 8 for a table of low bits, and 150 while it is in the dict. Admitting takes 0.5 us an id in slices
of 125, a merge 0.2 us more.

In a snapshot: `IdLog`.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np

from operators.aggregate import locate
from operators.id_log import NO_FLOOR, Floor, IdLog
from operators.levels import interleave
from schemas.usage import I64, U32, U64, Mask

RECENT_MAX = 8_192
"""Ids that wait in the dict before they are merged into the columns."""

SLOTS = 4
"""Bytes an id, at least, of the table that says which hashes can't be in the columns: 6 to 22 in 100 may."""

APPEND_S_MAX = (1 << 32) - 1
"""2106: what a CreateTime topic's producer writes beyond it counts as this second."""


@dataclass(frozen=True, slots=True)
class DedupeConfig:
    horizon_s: int = 600
    ids_max: int = 250_000


OnEvicted: TypeAlias = Callable[[int], None]
"""Told how many ids the limit has evicted; operators count nothing themselves."""


def ignore(_: int) -> None:
    """For who counts nothing."""


class SeenIds:
    """The ids of one shard.

    The newest wait in a dict (0.1 us an id to ask and add, where numpy pays 60 us a slice), the rest in
    columns sorted by hash. An id that was let through again after the horizon stands in the columns again,
    until the watermark has passed it: a partition that lags may still bring copies of either.
    """

    def __init__(
        self, config: DedupeConfig, on_evicted: OnEvicted = ignore, log: IdLog | None = None
    ) -> None:
        self.log = log or IdLog()
        self._config = config
        self._on_evicted = on_evicted
        self.hashes: U64 = np.empty(0, np.uint64)
        self.append_s: U32 = np.empty(0, np.uint32)
        self._slots: Mask = np.zeros(1, np.bool_)
        """Whether a hash with these low bits stands in the columns. To look there for every id, most of which
        are new, would be half the cost of admitting it."""
        self._slot_mask = np.uint64(0)
        self._recent: dict[int, int] = {}
        self._older: dict[int, list[int]] = {}
        """Of ids in `_recent` that were let through before, when that was, in order."""
        self._merge(*self.log.read())

    def __len__(self) -> int:
        return len(self.hashes) + len(self._recent) + sum(map(len, self._older.values()))

    def admit(self, identity: U64, append_ms: I64, watermark_s: int) -> Mask:
        """Which rows are new, in their order; they are remembered."""
        append_s = np.minimum(append_ms // 1000, APPEND_S_MAX)
        keep = ~self._seen(identity, append_s)
        recent, horizon_s, rows = self._recent, self._config.horizon_s, np.flatnonzero(keep)
        columns = (column.tolist() for column in (rows, identity[rows], append_s[rows]))
        for row, identity_hash, second in zip(*columns, strict=True):
            before = recent.get(identity_hash)
            if before is None:
                recent[identity_hash] = second
            elif abs(second - before) <= horizon_s or self._is_repeat_of_older(identity_hash, second):
                keep[row] = False
            else:
                insort(self._older.setdefault(identity_hash, []), before)
                recent[identity_hash] = second
        self.log.add(identity[keep], append_s[keep].astype(np.uint32))
        # A merge copies the columns; waiting for an eighth of them keeps that at some 30 ns an id.
        if len(recent) > max(RECENT_MAX, len(self.hashes) // 8):
            self.compact(watermark_s)
        return keep

    def _is_repeat_of_older(self, identity_hash: int, second: int) -> bool:
        older = self._older.get(identity_hash, [])
        at = bisect(older, second)
        return any(abs(second - other) <= self._config.horizon_s for other in older[max(at - 1, 0) : at + 1])

    def _seen(self, ids: U64, append_s: I64) -> Mask:
        """Which ids stand in the columns with a second at most the horizon away."""
        seen = np.zeros(len(ids), np.bool_)
        rows = np.flatnonzero(self._slots[ids & self._slot_mask])
        at, found = locate(self.hashes, ids[rows])
        at, rows = at[found], rows[found]
        while len(rows):
            apart = np.abs(self.append_s[at].astype(np.int64) - append_s[rows])
            seen[rows[apart <= self._config.horizon_s]] = True
            at += 1  # the same id, let through another time
            again = at < len(self.hashes)
            again[again] = self.hashes[at[again]] == ids[rows[again]]
            at, rows = at[again], rows[again]
        return seen

    def _merge_recent(self) -> None:
        ids = np.fromiter(self._recent, np.uint64, len(self._recent))
        times = np.fromiter(self._recent.values(), np.uint32, len(self._recent))
        if self._older:
            lengths = [len(older) for older in self._older.values()]
            ids = np.concatenate((ids, np.fromiter(self._older, np.uint64).repeat(lengths)))
            older = np.fromiter(chain.from_iterable(self._older.values()), np.uint32)
            times = np.concatenate((times, older))
        self._merge(ids, times)
        self._recent.clear()
        self._older.clear()

    def _merge(self, ids: U64, seconds: U32) -> None:
        """Put ids into the columns."""
        order = np.argsort(ids, kind="stable")
        at = np.searchsorted(self.hashes, ids[order])
        pairs = (self.hashes, ids[order]), (self.append_s, seconds[order])
        self.hashes, self.append_s = interleave(at, pairs)
        slots = 1 << (SLOTS * len(self.hashes)).bit_length()
        self._slots, self._slot_mask = np.zeros(slots, np.bool_), np.uint64(slots - 1)
        self._slots[self.hashes & self._slot_mask] = True

    def compact(self, watermark_s: int) -> None:
        """Merge the recent ids into the columns and drop those that can't repeat any more."""
        self._merge_recent()
        floor = Floor(max(watermark_s - self._config.horizon_s, 0), 0)
        live = floor.is_below(self.hashes, self.append_s)
        excess = int(live.sum()) - self._config.ids_max
        if excess > 0:
            self._on_evicted(excess)
            floor = self._evicted_floor(live, excess)
            live = floor.is_below(self.hashes, self.append_s)
        if floor != NO_FLOOR:
            self.hashes, self.append_s = self.hashes[live], self.append_s[live]
            self.log.raise_floor(floor, len(self.hashes))

    def _evicted_floor(self, live: Mask, excess: int) -> Floor:
        """The floor on which the newest stand that the limit allows; of one second, those of high hashes."""
        oldest_kept = int(np.partition(self.append_s[live], excess)[excess])
        ties = self.hashes[live & (self.append_s == oldest_kept)]
        kept = self._config.ids_max - int((self.append_s[live] > oldest_kept).sum())
        return Floor(oldest_kept, int(ties[len(ties) - kept]))

"""Which identities were let through, and when they were appended: in memory, and as a snapshot keeps them.

An identity is a 64-bit hash: with 10 million ids in the horizon, the chance that any two different ones meet
is 3e-6 a horizon.

In memory: a hash table with open addressing, at most two thirds full, of identity (uint64) and append second
(uint32): 18 to 48 bytes an id, 0.1 us to ask for one and add it. An identity is a good hash itself: its low
bits say where it begins to look.

In a snapshot: `IdLog`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from operators.compiled import compiled
from operators.id_log import NO_FLOOR, Floor, IdLog
from schemas.usage import I64, U32, U64, Mask

RECENT_MAX = 8_192
"""Ids that come before the table is made anew without those that have left; or an eighth of all."""

SLOTS_MIN = 1_024

_EMPTY: Final = np.uint32((1 << 32) - 1)
"""The second of a slot without an id."""
APPEND_S_MAX: Final = (1 << 32) - 2
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

    One that was let through again after the horizon has a slot for each time, until the watermark has passed
    it: a partition that lags may still bring copies of either.
    """

    def __init__(
        self, config: DedupeConfig, on_evicted: OnEvicted = ignore, log: IdLog | None = None
    ) -> None:
        self.log = log or IdLog()
        self._config = config
        self._on_evicted = on_evicted
        self._make(*self.log.read())
        self._held_before = self._held

    def _make(self, hashes: U64, append_s: U32, room: int = 0) -> None:
        """Make the table of these ids, with room for so many more."""
        slots = max(SLOTS_MIN, 1 << (2 * (len(hashes) + room)).bit_length())
        self._hashes: U64 = np.zeros(slots, np.uint64)
        self._append_s: U32 = np.full(slots, _EMPTY, np.uint32)
        self._held = len(hashes)
        self._oldest_s = int(append_s.min(initial=APPEND_S_MAX))
        _insert(self._hashes, self._append_s, hashes, np.minimum(append_s, np.uint32(APPEND_S_MAX)))

    def __len__(self) -> int:
        return self._held

    def ids(self) -> tuple[U64, U32]:
        """Hashes and seconds of all, in no order."""
        at = np.flatnonzero(self._append_s != _EMPTY)
        return self._hashes[at], self._append_s[at]

    def admit(self, identity: U64, append_ms: I64, watermark_s: int) -> Mask:
        """Which rows are new, in their order; they are remembered."""
        if 3 * (self._held + len(identity)) > 2 * len(self._hashes):
            self._make(*self.ids(), room=len(identity))
        append_s = np.minimum(append_ms // 1000, APPEND_S_MAX).astype(np.uint32)
        keep = _admit(self._hashes, self._append_s, identity, append_s, self._config.horizon_s)
        self._held += int(keep.sum())
        self._oldest_s = min(self._oldest_s, int(append_s.min(initial=APPEND_S_MAX)))
        self.log.add(identity[keep], append_s[keep])
        # To make the table anew copies it; waiting for an eighth keeps that at some 0.1 us an id.
        if self._held - self._held_before > max(RECENT_MAX, self._held_before // 8):
            if self._held > self._config.ids_max or self._oldest_s < watermark_s - self._config.horizon_s:
                self.compact(watermark_s)
            else:  # none of them can leave yet
                self._held_before = self._held
        return keep

    def compact(self, watermark_s: int) -> None:
        """Drop the ids that can't repeat any more, and those that the limit evicts."""
        hashes, append_s = self.ids()
        floor = Floor(max(watermark_s - self._config.horizon_s, 0), 0)
        live = floor.is_below(hashes, append_s)
        excess = int(live.sum()) - self._config.ids_max
        if excess > 0:
            self._on_evicted(excess)
            floor = self._evicted_floor(hashes[live], append_s[live], excess)
            live = floor.is_below(hashes, append_s)
        if floor != NO_FLOOR:
            hashes, append_s = hashes[live], append_s[live]
            self.log.raise_floor(floor, len(hashes))
        self._make(hashes, append_s)
        self._held_before = self._held

    def _evicted_floor(self, hashes: U64, append_s: U32, excess: int) -> Floor:
        """The floor on which the newest stand that the limit allows; of one second, those of high hashes."""
        oldest_kept = int(np.partition(append_s, excess)[excess])
        ties = np.sort(hashes[append_s == oldest_kept])
        kept = self._config.ids_max - int((append_s > oldest_kept).sum())
        return Floor(oldest_kept, int(ties[len(ties) - kept]))


@compiled
def _admit(hashes: U64, seconds: U32, identity: U64, append_s: U32, horizon_s: int) -> Mask:
    """Which rows stand in no slot with a second at most the horizon away; they get one."""
    keep, mask = np.zeros(len(identity), np.bool_), len(hashes) - 1
    for row in range(len(identity)):
        at, second = np.int64(identity[row]) & mask, np.int64(append_s[row])
        while seconds[at] != _EMPTY:
            if hashes[at] == identity[row] and abs(np.int64(seconds[at]) - second) <= horizon_s:
                break
            at = (at + 1) & mask
        else:
            hashes[at], seconds[at], keep[row] = identity[row], append_s[row], True
    return keep


@compiled
def _insert(hashes: U64, seconds: U32, identity: U64, append_s: U32) -> None:
    mask = len(hashes) - 1
    for row in range(len(identity)):
        at = np.int64(identity[row]) & mask
        while seconds[at] != _EMPTY:
            at = (at + 1) & mask
        hashes[at], seconds[at] = identity[row], append_s[row]

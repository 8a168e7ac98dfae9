"""Readings that wait to be added to a shard's ledgers, summed by account, meter and minute.

Slices -> `ReadingBuffer` -> `Folded`, and when the newest reading of each cell was appended

While a backlog is read they wait for longer than an epoch, so that a customer who comes again and again is
added to his ledger and priced once. Every `FRESH_MAX` they are summed, and all of them for a snapshot: of a
hundred thousand readings some five thousand cells remain.
"""

from __future__ import annotations

import msgspec
import numpy as np

from operators.accounts import Accounts
from operators.aggregate import group
from operators.folds import Added, Folded, Part, fold, part_of, sum_added, unpack
from operators.snapshot_format import StoredIntegers
from schemas.usage import I64, Mask, Slice

FRESH_MAX = 8_192
"""Readings that wait as they came."""
READINGS_MAX = 262_144
"""Readings that wait: those of a shard that is flushed every 10 s at 25,000 readings a second."""


class StoredReadings(msgspec.Struct, array_like=True):
    """Cells in a snapshot, in columns as in `Added`."""

    key: memoryview
    events: StoredIntegers
    lo: memoryview
    hi: StoredIntegers
    newest_ms: StoredIntegers
    """When the newest reading of each was appended."""
    counts: StoredIntegers
    """How many tokens each has;"""
    tokens: memoryview
    """these, one after the other."""


class ReadingBuffer:
    """What waits in one shard.

    :arg unique: Meters whose tokens count.
    """

    def __init__(self, accounts: Accounts, unique: Mask) -> None:
        self._accounts, self._unique = accounts, unique
        self._parts: list[Part] = []
        self._append_ms: list[I64] = []
        self._fresh = 0
        self._summed: list[tuple[Added, I64]] = []
        self._readings = 0

    def __len__(self) -> int:
        return self._readings

    def add(self, piece: Slice) -> None:
        """Let the readings of a slice wait, whose accounts are numbered."""
        self._parts.append(part_of(piece, piece.readings))
        self._append_ms.append(piece.append_ms[piece.readings.row])
        self._fresh += len(piece.readings)
        self._readings += len(piece.readings)
        if self._fresh >= FRESH_MAX:
            self._sum_fresh()

    def take(self) -> tuple[Folded, I64]:
        """All, of which there are some, and when the newest reading of each cell was appended; they leave."""
        if not self._summed:
            taken = self._fold_fresh()
        else:
            if self._parts:
                self._sum_fresh()
            added = [one for one, _ in self._summed]
            order, starts, _ = group(np.concatenate([one.key for one in added]))
            newest_ms = np.concatenate([newest for _, newest in self._summed])[order]
            taken = sum_added(added), np.maximum.reduceat(newest_ms, starts)
            self._summed = []
        self._readings = 0
        return taken

    def _fold_fresh(self) -> tuple[Folded, I64]:
        folded, append_ms = fold(self._parts, self._accounts), np.concatenate(self._append_ms)
        self._parts, self._append_ms, self._fresh = [], [], 0
        return folded, np.maximum.reduceat(append_ms[folded.order], folded.starts)

    def _sum_fresh(self) -> None:
        self._keep(*self._fold_fresh())

    def _keep(self, folded: Folded, newest_ms: I64) -> None:
        self._summed.append((Added.of(folded, self._unique[unpack(folded.key)[1]]), newest_ms))

    def dump(self) -> StoredReadings | None:
        """For a snapshot; None without any."""
        if not self._readings:
            return None
        readings, (folded, newest_ms) = self._readings, self.take()
        self._keep(folded, newest_ms)
        self._readings = readings
        added, _ = self._summed[0]
        counts = np.searchsorted(added.owner, added.key, "right") - np.searchsorted(added.owner, added.key)
        return StoredReadings(
            added.key.data,
            StoredIntegers.of(added.events),
            added.lo.data,
            StoredIntegers.of(added.hi),
            StoredIntegers.of(newest_ms),
            StoredIntegers.of(counts),
            added.tokens.data,
        )

    @staticmethod
    def restore(stored: StoredReadings | None, accounts: Accounts, unique: Mask) -> ReadingBuffer:
        """What `dump` gave."""
        buffer = ReadingBuffer(accounts, unique)
        if stored is not None:
            key, lo, tokens = (np.frombuffer(c, np.uint64) for c in (stored.key, stored.lo, stored.tokens))
            events = stored.events.read()
            owner = np.repeat(key, stored.counts.read())
            added = Added(key, events, lo, stored.hi.read(), owner, tokens)
            buffer._summed.append((added, stored.newest_ms.read()))
            buffer._readings = int(events.sum())
        return buffer

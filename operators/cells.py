"""The cells of a shard: exact totals by (account, meter, minute), in sorted numpy columns.

in: readings, buffered as they come. out: the cells they changed, when asked. Folding a buffer at once,
and not slice by slice, divides the fixed cost of a dozen numpy calls by thousands of readings.

A cell's key is one uint64: account number (24 bits), meter index (12), minute since 1970 (28), so that
sorting by key sorts by account, then meter, then time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.accounts import Accounts
from operators.aggregate import add, group, locate, sum_by_group
from operators.hyperloglog import UniqueSketch
from schemas.usage import I64, MINUTE_MS, U16, U64, Mask

MINUTE_BITS, METER_BITS = 28, 12
METERS_MAX = 1 << METER_BITS
_MINUTE_MASK = np.uint64((1 << MINUTE_BITS) - 1)
_METER_MASK = np.uint64(METERS_MAX - 1)
_METER_SHIFT = np.uint64(MINUTE_BITS)
_ACCOUNT_SHIFT = np.uint64(MINUTE_BITS + METER_BITS)


def pack(account: U64, meter: U64, minute: U64) -> U64:
    """The keys of cells."""
    return (account << _ACCOUNT_SHIFT) | (meter << _METER_SHIFT) | minute


def unpack(key: U64) -> tuple[I64, I64, I64]:
    """(account number, meter index, minute since 1970) of keys."""
    return (
        (key >> _ACCOUNT_SHIFT).astype(np.int64),
        ((key >> _METER_SHIFT) & _METER_MASK).astype(np.int64),
        (key & _MINUTE_MASK).astype(np.int64),
    )


@dataclass(frozen=True, slots=True)
class Folded:
    """Readings summed by key, sorted. `order[starts[i]:ends[i]]` are the readings of `key[i]`."""

    key: U64
    lo: U64
    hi: I64
    starts: I64
    ends: I64
    order: I64
    tokens: U64
    """Of the readings in `order`."""

    @property
    def events(self) -> I64:
        return self.ends - self.starts

    def select(self, keep: Mask) -> Folded:
        return Folded(
            self.key[keep],
            self.lo[keep],
            self.hi[keep],
            self.starts[keep],
            self.ends[keep],
            self.order,
            self.tokens,
        )


Part = tuple[U64, U16, I64, U64, I64, U64]
"""Buffered readings: account hash, meter, the cell's start in ms, and lo, hi, token as in `Readings`."""


def fold(parts: list[Part], accounts: Accounts) -> Folded:
    """Sum buffered readings by cell."""
    hashes, meter, at_ms, lo, hi, token = (np.concatenate(column) for column in zip(*parts, strict=True))
    minute = (at_ms // MINUTE_MS).astype(np.uint64)
    return sum_by_key(pack(accounts.numbers(hashes), meter.astype(np.uint64), minute), lo, hi, token)


def sum_by_key(key: U64, lo: U64, hi: I64, token: U64) -> Folded:
    """Sum readings by the keys of their cells."""
    order, starts, unique = group(key)
    sum_lo, sum_hi = sum_by_group(lo[order], hi[order], starts)
    ends = np.append(starts[1:], len(key))
    return Folded(unique, sum_lo, sum_hi, starts, ends, order, token[order])


class Cells:
    """Totals by key. Columns, sorted by `key`: key uint64, events int64, lo uint64, hi int64, dirty bool."""

    def __init__(self) -> None:
        self.key: U64 = np.empty(0, np.uint64)
        self.events: I64 = np.empty(0, np.int64)
        self.lo: U64 = np.empty(0, np.uint64)
        self.hi: I64 = np.empty(0, np.int64)
        self.dirty: Mask = np.empty(0, np.bool_)
        self.sketches: dict[int, UniqueSketch] = {}

    def __len__(self) -> int:
        return len(self.key)

    def add(self, folded: Folded, unique_meters: Mask) -> None:
        """Add folded readings; meters marked in `unique_meters` also keep their distinct tokens."""
        at, found = locate(self.key, folded.key)
        hit = at[found]
        self.events[hit] += folded.events[found]
        self.lo[hit], self.hi[hit] = add(self.lo[hit], self.hi[hit], folded.lo[found], folded.hi[found])
        self.dirty[hit] = True
        if not found.all():
            new = ~found
            at = np.searchsorted(self.key, folded.key[new])
            self.key = np.insert(self.key, at, folded.key[new])
            self.events = np.insert(self.events, at, folded.events[new])
            self.lo = np.insert(self.lo, at, folded.lo[new])
            self.hi = np.insert(self.hi, at, folded.hi[new])
            self.dirty = np.insert(self.dirty, at, True)
        _, meter, _ = unpack(folded.key)
        for i in np.flatnonzero(unique_meters[meter]).tolist():
            key = int(folded.key[i])
            sketch = self.sketches.get(key)
            if sketch is None:
                sketch = self.sketches[key] = UniqueSketch()
            sketch.add(folded.tokens[folded.starts[i] : folded.ends[i]])

    def select(self, keep: Mask) -> None:
        """Forget all cells but these."""
        for key in self.key[~keep].tolist():
            self.sketches.pop(key, None)
        self.key, self.events = self.key[keep], self.events[keep]
        self.lo, self.hi, self.dirty = self.lo[keep], self.hi[keep], self.dirty[keep]

    def rekey(self, key: U64) -> None:
        """Give the cells new keys, in their present order (accounts or meters were renumbered)."""
        moved = dict(zip(self.key.tolist(), key.tolist(), strict=True))
        self.sketches = {moved[old]: sketch for old, sketch in self.sketches.items()}
        order = np.argsort(key)
        self.key, self.events = key[order], self.events[order]
        self.lo, self.hi, self.dirty = self.lo[order], self.hi[order], self.dirty[order]

"""Readings summed by cell: buffered as they come, and folded at once.

Folding a buffer at once, and not slice by slice, divides the fixed cost of a dozen numpy calls by thousands
of readings.

A cell's key is one uint64: account number (24 bits), meter index (12), minute since 1970 (28), so that
sorting by key sorts by account, then meter, then time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.accounts import Accounts
from operators.groups import group, sum_by_group
from schemas.usage import I64, MINUTE_MS, U16, U64, Mask, Readings, Slice

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
    events: I64
    """How many readings; there may be more than `starts` and `ends` say, of which no token is kept."""

    def select(self, keep: Mask) -> Folded:
        return Folded(
            self.key[keep],
            self.lo[keep],
            self.hi[keep],
            self.starts[keep],
            self.ends[keep],
            self.order,
            self.tokens,
            self.events[keep],
        )


Part = tuple[U64, U16, I64, U64, I64, U64]
"""Buffered readings: account hash, meter, when in ms, and lo, hi, token as in `Readings`."""


def part_of(piece: Slice, readings: Readings) -> Part:
    """Readings of a slice, to be buffered."""
    row = readings.row
    values = readings.lo, readings.hi, readings.token
    return piece.account[row], readings.meter, piece.at_ms[row], *values


def fold(parts: list[Part], accounts: Accounts, window_minutes: U64 | None = None) -> Folded:
    """Sum buffered readings by cell.

    :arg window_minutes: Of each meter, if its cells are windows and not minutes.
    """
    hashes, meter, at_ms, lo, hi, token = (np.concatenate(column) for column in zip(*parts, strict=True))
    minute = (at_ms // MINUTE_MS).astype(np.uint64)
    if window_minutes is not None:
        minute -= minute % window_minutes[meter]
    return sum_by_key(pack(accounts.numbers(hashes), meter.astype(np.uint64), minute), lo, hi, token)


def sum_by_key(key: U64, lo: U64, hi: I64, token: U64) -> Folded:
    """Sum readings by the keys of their cells."""
    order, starts, unique = group(key)
    sum_lo, sum_hi = sum_by_group(lo[order], hi[order], starts)
    ends = np.append(starts[1:], len(key))
    return Folded(unique, sum_lo, sum_hi, starts, ends, order, token[order], ends - starts)


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to cells, in rows of which several may have one key; sums as in `Folded`."""

    key: U64
    events: I64
    lo: U64
    hi: I64
    owner: U64
    """The keys of `tokens`."""
    tokens: U64

    @staticmethod
    def of(folded: Folded, is_counting: Mask) -> Added:
        """The cells of a fold, and the tokens of some of them."""
        owner, tokens = tokens_of(np.flatnonzero(is_counting), folded.starts, folded.ends, folded.tokens)
        return Added(folded.key, folded.events, folded.lo, folded.hi, folded.key[owner], tokens)


def tokens_of(rows: I64, starts: I64, ends: I64, tokens: U64) -> tuple[I64, U64]:
    """The tokens `starts .. ends` of some rows, each with its row."""
    lengths = ends[rows] - starts[rows]
    owner = np.repeat(rows, lengths)
    return owner, tokens[np.arange(len(owner)) + np.repeat(ends[rows] - np.cumsum(lengths), lengths)]


def sum_added(added: list[Added]) -> Folded:
    """All that was added, summed by key; `order` is of no use."""
    key, events, lo, hi, owner, tokens = (
        np.concatenate([getattr(one, column) for one in added]) for column in Added.__slots__
    )
    order, starts, unique = group(key)
    by_owner = np.argsort(owner)
    owner, tokens = owner[by_owner], tokens[by_owner]
    first, last = np.searchsorted(owner, unique), np.searchsorted(owner, unique, "right")
    sums = sum_by_group(lo[order], hi[order], starts)
    return Folded(unique, *sums, first, last, by_owner, tokens, np.add.reduceat(events[order], starts))

"""Small numbers for 64-bit keys, in the order in which the keys came: for columns that are indexed by them.

keys, uint64 -> numbers, int64 from 0 on. A hash table with open addressing, at most half full: 10 ns a key.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.compiled import compiled
from schemas.usage import I64, U64

SLOTS_MIN: Final = 256
UNKNOWN: Final = -1
"""The number of a key that has none."""

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 by the golden ratio (Knuth, The Art of Computer Programming 6.4): keys that have bits in common, as
those of one shard or of one account have, are spread over the table."""
_MIXED: Final = np.uint64(32)


class Numbering:
    """Numbers of keys, which are never taken back."""

    def __init__(self, keys: U64 | None = None) -> None:
        self._make(np.empty(0, np.uint64) if keys is None else keys)

    def _make(self, keys: U64) -> None:
        """Make the table of these keys, with room for as many."""
        slots = max(SLOTS_MIN, 1 << (2 * len(keys)).bit_length())
        self._slots: U64 = np.zeros(slots, np.uint64)
        self._numbers: I64 = np.full(slots, UNKNOWN, np.int64)
        self.keys: U64 = keys
        """By number."""
        _insert(self._slots, self._numbers, keys, 0)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: U64) -> I64:
        """The number of each key, or `UNKNOWN`."""
        return _find(self._slots, self._numbers, keys)

    def add(self, keys: U64) -> None:
        """Number keys that have no number yet, each there once."""
        first, together = len(self.keys), np.concatenate((self.keys, keys))
        if 2 * len(together) > len(self._slots):
            self._make(together)
        else:
            _insert(self._slots, self._numbers, keys, first)
            self.keys = together


@compiled
def _find(slots: U64, numbers: I64, keys: U64) -> I64:
    found, mask = np.empty(len(keys), np.int64), len(slots) - 1
    for row in range(len(keys)):
        at = np.int64((keys[row] * _FACTOR) >> _MIXED) & mask
        while numbers[at] != UNKNOWN and slots[at] != keys[row]:
            at = (at + 1) & mask
        found[row] = numbers[at]
    return found


@compiled
def _insert(slots: U64, numbers: I64, keys: U64, first: int) -> None:
    """Number keys that are not there from `first` on."""
    mask = len(slots) - 1
    for row in range(len(keys)):
        at = np.int64((keys[row] * _FACTOR) >> _MIXED) & mask
        while numbers[at] != UNKNOWN:
            at = (at + 1) & mask
        slots[at], numbers[at] = keys[row], first + row

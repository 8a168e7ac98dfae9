"""The entries of sets of tokens: one hash table, and a chain a set. Compiled; see operators/token_sets.py.

Columns: of each entry its set and token, and the entry that its set had before it; of each set the entry that
it had last, and how many.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.compiled import compiled
from schemas.usage import I32, I64, U64, Mask

LARGE: Final = -1
"""The count of a set that has no entries any more."""
NONE: Final = -1
"""No entry, and no set."""
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 by the golden ratio, as in operators/numbering.py: it spreads a token's sets over the table."""
_INSERTED_MAX: Final = 16
"""Tokens of a run that are sorted by insertion."""

Entries = tuple[I32, U64, I32, I32, I64]
"""owner, token, next, head, count."""


@compiled
def _slot(owner: int, token: np.uint64, mask: int) -> int:
    """Where a token of a set begins to look."""
    mixed = (token ^ np.uint64(owner)) * _FACTOR
    return np.int64(mixed >> np.uint64(32)) & mask  # type: ignore[return-value]


@compiled
def insert(slots: I32, entries: Entries, used: int, numbers: I64, tokens: U64) -> tuple[Mask, int]:
    """Add tokens to sets; those of large ones are not added: which, and how many entries there are now."""
    owners, known, following, head, count = entries
    is_large, mask = np.zeros(len(numbers), np.bool_), len(slots) - 1
    for row in range(len(numbers)):
        owner, token = numbers[row], tokens[row]
        if count[owner] == LARGE:
            is_large[row] = True
            continue
        at = _slot(owner, token, mask)
        while slots[at] != NONE and (known[slots[at]] != token or owners[slots[at]] != owner):
            at = (at + 1) & mask
        if slots[at] == NONE:
            slots[at], owners[used], known[used], following[used] = used, owner, token, head[owner]
            head[owner] = used
            count[owner] += 1
            used += 1
    return is_large, used


@compiled
def index(slots: I32, owners: I32, tokens: U64) -> None:
    """Put entries into empty slots."""
    mask = len(slots) - 1
    for entry in range(len(owners)):
        at = _slot(owners[entry], tokens[entry], mask)
        while slots[at] != NONE:
            at = (at + 1) & mask
        slots[at] = entry


@compiled
def sort_out(owners: I32, tokens: U64, sets: int, numbers: I64, counts: I64) -> U64:
    """As `collect`, in one pass over all entries, without a branch: what is not wanted goes behind the end,
    and so does what has no owner, which is place 0. Unsigned, as in operators/texts.py."""
    place, step = np.full(sets + 1, counts.sum(), np.uint64), np.zeros(sets + 1, np.uint64)
    found, first = np.empty(counts.sum() + 1, np.uint64), 0
    for row in range(len(numbers)):
        first += counts[row]
        if counts[row]:
            place[numbers[row] + 1], step[numbers[row] + 1] = first - 1, 1
    for entry in range(len(owners)):
        owner = np.uint64(owners[entry] + 1)
        found[place[owner]] = tokens[entry]
        place[owner] -= step[owner]  # a chain begins with what came last
    return found[:-1]


@compiled
def collect(head: I32, following: I32, tokens: U64, numbers: I64, counts: I64) -> U64:
    """The tokens of sets, so many of each, one set after the other."""
    found, at = np.empty(counts.sum(), np.uint64), 0
    for row in range(len(numbers)):
        entry = head[numbers[row]]
        for _ in range(counts[row]):
            found[at], entry = tokens[entry], following[entry]
            at += 1
    return found


@compiled
def sort(tokens: U64, counts: I64) -> None:
    """Sort each of the runs that have so many tokens."""
    first = 0
    for count in counts:
        end = first + count
        if count > _INSERTED_MAX:
            tokens[first:end].sort()
        else:
            for at in range(first + 1, end):
                token, to = tokens[at], at
                while to > first and tokens[to - 1] > token:
                    tokens[to] = tokens[to - 1]
                    to -= 1
                tokens[to] = token
        first = end

"""Distinct tokens of many cells: exact sets in one numpy array, estimated ones as a `UniqueSketch` each.

numbers of sets, their new tokens -> `TokenSets` -> uniqCombined64 states, an Arrow column

A million windows with a few users each would be a million Python objects of 0.5 KB, at 2 us a touch.
Here a set is a run of ascending tokens in one array: 8 bytes a token and 16 a set, and one sort for all that
a fold touches. A set that grows is written again behind the others; the array is closed up when more than
half of it is what they left behind. A set of more than `SMALL_MAX` tokens becomes a sketch for good.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pyarrow as pa

from operators.hyperloglog import EXACT_MAX, UniqueSketch, heads
from schemas.usage import I64, U64

Column = TypeVar("Column", I64, U64)

SMALL_MAX = EXACT_MAX
"""Tokens of the largest set that stays in the array."""
WAITING_MAX = 1 << 16
"""Tokens that wait to be put into their sets, 1 MiB: the more at a time, the fewer rewrites of a hot set."""
_LARGE = -1
_STATE_BYTES_MAX = (1 << 31) - 1
"""Of one Arrow column, whose offsets are 32-bit."""


class TokenSets:
    """Sets by number: 0, 1, ... in the order they were begun."""

    def __init__(self) -> None:
        self._sets = 0
        self._count: I64 = np.empty(0, np.int64)
        """Tokens of each set, or `_LARGE`; it and the other two arrays have room behind their end."""
        self._start: I64 = np.empty(0, np.int64)
        self._heap: U64 = np.empty(0, np.uint64)
        self._used = 0
        self._left = 0
        """Tokens of `_heap[:_used]` that no set has any more."""
        self._large: dict[int, UniqueSketch] = {}
        self._waiting: list[tuple[I64, U64]] = []
        self._waiting_tokens = 0

    def begin(self, count: int) -> I64:
        """Begin so many sets; their numbers."""
        first, self._sets = self._sets, self._sets + count
        self._count, self._start = _with_room(self._count, self._sets), _with_room(self._start, self._sets)
        self._count[first : self._sets] = self._start[first : self._sets] = 0
        return np.arange(first, self._sets)

    def add(self, numbers: I64, tokens: U64) -> None:
        """Add each token to the set that has the number beside it. It waits for others, or for a reader."""
        self._waiting.append((numbers, tokens))
        self._waiting_tokens += len(tokens)
        if self._waiting_tokens > WAITING_MAX:
            self._settle()

    def sketch(self, number: int) -> UniqueSketch:
        """One set, to be read and not changed."""
        self._settle()
        large = self._large.get(number)
        return large or UniqueSketch.of_ascending(self._run(number))

    def states(self, numbers: I64) -> pa.BinaryArray:
        """The uniqCombined64 state of each set, byte for byte `sketch(number).state()`; -1 is an empty set.

        :raises OverflowError: if they have over 2 GiB, which a column can't hold.
        """
        self._settle()
        is_set = numbers >= 0
        counts = np.zeros(len(numbers), np.int64)
        counts[is_set] = self._count[numbers[is_set]]
        large = {i: self._large[int(numbers[i])].state() for i in np.flatnonzero(counts == _LARGE).tolist()}
        head, head_bytes = heads(np.maximum(counts, 0))
        sizes = head_bytes + 8 * counts
        sizes[list(large)] = [len(state) for state in large.values()]
        offsets = np.append(0, np.cumsum(sizes))
        if offsets[-1] > _STATE_BYTES_MAX:
            raise OverflowError(f"distinct values of {len(numbers)} changed cells take {offsets[-1]} bytes")
        data, is_token = np.empty(offsets[-1], np.uint8), np.ones(offsets[-1], np.bool_)
        for at in range(head.shape[1]):
            rows = head_bytes > at
            data[offsets[:-1][rows] + at] = head[rows, at]
            is_token[offsets[:-1][rows] + at] = False
        for i, state in large.items():
            data[offsets[i] : offsets[i + 1]] = np.frombuffer(state, np.uint8)
            is_token[offsets[i] : offsets[i + 1]] = False
        data[is_token] = self._tokens(numbers[is_set]).view(np.uint8)
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.binary(), len(numbers), buffers, null_count=0)

    def keep(self, numbers: I64) -> None:
        """Forget all sets but these, which become 0, 1, ... in this order."""
        self._settle()
        counts, tokens, large = self._count[numbers], self._tokens(numbers), self._large
        self._reset(counts, tokens)
        self._large = {i: large[int(numbers[i])] for i in np.flatnonzero(counts == _LARGE).tolist()}
        for sketch in self._large.values():
            sketch.compact()

    def extend(self, other: TokenSets) -> int:
        """Take another's sets, which are not its own any more, behind these; the number of the first."""
        other._settle()
        first, mine, more = self._sets, np.arange(self._sets), np.arange(other._sets)
        tokens = np.concatenate((self._tokens(mine), other._tokens(more)))
        self._reset(np.concatenate((self._count[mine], other._count[more])), tokens)
        self._large |= {first + number: sketch for number, sketch in other._large.items()}
        return first

    def dump(self, numbers: I64) -> tuple[I64, U64, list[bytes]]:
        """Of these sets, in this order: counts, all tokens, the states of the large ones."""
        self._settle()
        counts = self._count[numbers]
        large = [self._large[n].state() for n in numbers[counts == _LARGE].tolist()]
        return counts, self._tokens(numbers), large

    @staticmethod
    def restore(counts: I64, tokens: U64, large: list[bytes]) -> TokenSets:
        """What `dump` gave, as sets 0, 1, ...; it is not copied, nor checked, which takes registers 1 ms."""
        sets = TokenSets()
        sets._reset(counts, tokens)
        numbers = np.flatnonzero(counts == _LARGE).tolist()
        sets._large = {n: UniqueSketch.of_own_state(state) for n, state in zip(numbers, large, strict=True)}
        return sets

    def _settle(self) -> None:
        """Put the tokens that wait into their sets."""
        if not self._waiting:
            return
        waiting, tokens = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._waiting_tokens = 0
        numbers, owners = np.unique(waiting, return_inverse=True)
        before = self._count[numbers]
        tokens, counts = _distinct(
            np.concatenate((self._tokens(numbers), tokens)),
            np.concatenate((_owners(np.maximum(before, 0)), owners)),
            len(numbers),
        )
        large, ends = before == _LARGE, np.cumsum(counts)
        for i in np.flatnonzero(large).tolist():
            self._large[int(numbers[i])].add(tokens[ends[i] - counts[i] : ends[i]])
        grown = ~large & (counts > before)
        if grown.any():
            tokens, numbers, counts = tokens[np.repeat(grown, counts)], numbers[grown], counts[grown]
            self._write(numbers, tokens, counts)
            for number in numbers[counts > SMALL_MAX].tolist():
                self._enlarge(number)

    def _reset(self, counts: I64, tokens: U64) -> None:
        runs = np.maximum(counts, 0)
        self._sets, self._count, self._start = len(counts), counts, np.cumsum(runs) - runs
        self._heap, self._used, self._left = tokens, len(tokens), 0

    def _run(self, number: int) -> U64:
        start = int(self._start[number])
        return self._heap[start : start + int(self._count[number])]

    def _tokens(self, numbers: I64) -> U64:
        """The tokens of these sets, one set after the other; large ones have none here."""
        counts = np.maximum(self._count[numbers], 0)
        ends = np.cumsum(counts)
        shift = np.repeat(self._start[numbers] - ends + counts, counts)
        return self._heap[shift + np.arange(len(shift))]

    def _write(self, numbers: I64, tokens: U64, counts: I64) -> None:
        """Put runs that are longer than before behind all others."""
        self._left += int(self._count[numbers].sum())
        self._count[numbers] = 0
        if self._left > self._used // 2:
            every = np.arange(self._sets)
            self._reset(self._count[: self._sets], self._tokens(every))
        end = self._used + len(tokens)
        self._heap = _with_room(self._heap, end)
        self._heap[self._used : end] = tokens
        self._start[numbers], self._count[numbers] = self._used + np.cumsum(counts) - counts, counts
        self._used = end

    def _enlarge(self, number: int) -> None:
        sketch = self._large[number] = UniqueSketch()
        sketch.add(self._run(number))
        self._left += int(self._count[number])
        self._count[number] = _LARGE


def _owners(lengths: I64) -> I64:
    """0 as often as the first length says, then 1, ..."""
    return np.repeat(np.arange(len(lengths)), lengths)


def _distinct(tokens: U64, owners: I64, sets: int) -> tuple[U64, I64]:
    """Each owner's distinct tokens, ascending, one owner after the other; and how many each has.

    Two sorts of one column instead of `np.lexsort`: a quarter of its time, as owners sort by radix.
    """
    order = np.argsort(tokens)
    narrow = owners[order].astype(np.uint16 if sets <= 1 << 16 else np.int64)
    order = order[np.argsort(narrow, kind="stable")]
    tokens, owners = tokens[order], owners[order]
    first = np.ones(len(tokens), np.bool_)
    first[1:] = (tokens[1:] != tokens[:-1]) | (owners[1:] != owners[:-1])
    return tokens[first], np.bincount(owners[first], minlength=sets)


def _with_room(column: Column, size: int) -> Column:
    """The column, with room for `size` values; growing by half makes that a copy or two a value."""
    if size <= len(column):
        return column
    grown = np.empty(max(size, len(column) * 3 // 2), column.dtype)
    grown[: len(column)] = column
    return grown

"""Distinct tokens of many cells: exact sets in one hash table, estimated ones as a `UniqueSketch` each.

numbers of sets, their new tokens -> `TokenSets` -> uniqCombined64 states, an Arrow column

A million windows with a few users each would be a million Python objects of 0.5 KB, at 2 us a touch.
Here a token of a set is an entry: 16 bytes, and 8 to 16 of a table with open addressing, at most half full.
The entries of a set are a chain, so that a set is read without looking at the others. To add a token takes
30 ns, new or not; to sorted runs, 150. A set of more than `SMALL_MAX` tokens becomes a sketch for good.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import pyarrow as pa

from operators.hyperloglog import EXACT_MAX, UniqueSketch, heads
from operators.token_entries import LARGE, NONE, collect, index, insert, sort, sort_out
from schemas.usage import I32, I64, U64, Mask

Column = TypeVar("Column", I32, I64, U64)

SMALL_MAX = EXACT_MAX
"""Tokens of the largest set that stays in the table."""
WAITING_MAX = 1 << 13
"""Tokens that wait to be put into sketches, which take 12 us a call however few they are."""
SLOTS_MIN: Final = 256
PASS_PART: Final = 4
"""Tokens of sets with more than one in so many of all are found by a pass over all entries, and not along
their chains, which lead all over the memory: 6 ns a token instead of 13, and of an epoch's end 7 ms instead
of 27."""
_STATE_BYTES_MAX = (1 << 31) - 1
"""Of one Arrow column, whose offsets are 32-bit."""


class TokenSets:
    """Sets by number: 0, 1, ... in the order they were begun."""

    def __init__(self) -> None:
        self._reset(np.empty(0, np.int64), np.empty(0, np.uint64))
        self._large: dict[int, UniqueSketch] = {}
        self._waiting: list[tuple[I64, U64]] = []
        """What is to be added to these."""
        self._waiting_tokens = 0

    def _reset(self, counts: I64, tokens: U64) -> None:
        """Sets of so many tokens, one set's behind the other's, or `LARGE`; there are no others any more."""
        self._sets = len(counts)
        self._count: I64 = np.where(counts == LARGE, LARGE, 0)
        """Tokens of each set, or `LARGE`; it and all other arrays have room behind their end."""
        self._head: I32 = np.full(len(counts), NONE, np.int32)
        """Of each set, the entry that begins its chain;"""
        self._next: I32 = np.empty(len(tokens), np.int32)
        """of each entry, the one that follows;"""
        self._token: U64 = np.empty(len(tokens), np.uint64)
        self._owner: I32 = np.empty(len(tokens), np.int32)
        """and its set, or `NONE` of one that was left behind by a set that is large now."""
        self._used = self._left = 0
        self._slots: I32 = np.full(_slots_for(len(tokens)), NONE, np.int32)
        """Numbers of entries."""
        owners = np.repeat(np.arange(len(counts)), np.maximum(counts, 0))
        # The last one first: a chain begins with what came last, and is stored again as it was found.
        self._insert(owners[::-1].copy(), tokens[::-1].copy())

    def __len__(self) -> int:
        return self._sets

    def begin(self, count: int) -> I64:
        """Begin so many sets; their numbers."""
        first, self._sets = self._sets, self._sets + count
        self._count, self._head = _with_room(self._count, self._sets), _with_room(self._head, self._sets)
        self._count[first : self._sets], self._head[first : self._sets] = 0, NONE
        return np.arange(first, self._sets)

    def add(self, numbers: I64, tokens: U64) -> None:
        """Add each token to the set that has the number beside it."""
        is_large = self._insert(numbers, tokens)
        if is_large.any():
            self._waiting.append((numbers[is_large], tokens[is_large]))
            self._waiting_tokens += len(self._waiting[-1][1])
        if self._waiting_tokens > WAITING_MAX:
            self._settle()
        grown = numbers[self._count[numbers] > SMALL_MAX]
        if len(grown):
            self._enlarge(np.unique(grown))

    def _insert(self, numbers: I64, tokens: U64) -> Mask:
        """Add tokens to sets, but those of large ones: which they are."""
        room = self._used + len(tokens)
        self._next, self._owner = _with_room(self._next, room), _with_room(self._owner, room)
        self._token = _with_room(self._token, room)
        if 2 * room > len(self._slots):
            self._slots = np.full(_slots_for(room), NONE, np.int32)
            index(self._slots, self._owner[: self._used], self._token)
        is_large, self._used = insert(
            self._slots,
            (self._owner, self._token, self._next, self._head, self._count),
            self._used,
            numbers,
            tokens,
        )
        return is_large

    def adopt(self, number: int, sketch: UniqueSketch) -> None:
        """Let a set that has nothing yet be another's: a large one is not copied."""
        hashes = sketch.hashes()
        if hashes is None:
            self._count[number], self._large[number] = LARGE, sketch
        else:
            self.add(np.full(len(hashes), number), hashes)

    def counts(self, numbers: I64) -> I64:
        """How many tokens sets have: exact, or an estimate."""
        self._settle()
        counts = self._count[numbers]
        for place in np.flatnonzero(counts == LARGE).tolist():
            counts[place] = self._large[int(numbers[place])].count()
        return counts

    def sketch(self, number: int) -> UniqueSketch:
        """One set, to be read and not changed."""
        self._settle()
        large = self._large.get(number)
        return large or UniqueSketch.of_ascending(self._tokens(np.array([number])))

    def states(self, numbers: I64) -> pa.BinaryArray:
        """The uniqCombined64 state of each set, byte for byte `sketch(number).state()`; -1 is an empty set.

        :raises OverflowError: if they have over 2 GiB, which a column can't hold.
        """
        self._settle()
        is_set = numbers >= 0
        counts = np.zeros(len(numbers), np.int64)
        counts[is_set] = self._count[numbers[is_set]]
        large = {i: self._large[int(numbers[i])].state() for i in np.flatnonzero(counts == LARGE).tolist()}
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
        counts, tokens, large = *self._small(numbers), self._large
        self._reset(counts, tokens)
        self._large = {i: large[int(numbers[i])] for i in np.flatnonzero(counts == LARGE).tolist()}
        for sketch in self._large.values():
            sketch.compact()

    def extend(self, other: TokenSets) -> int:
        """Take another's sets, which are not its own any more, behind these; the number of the first."""
        counts, tokens = other._small(np.arange(other._sets))
        numbers = self.begin(len(counts))
        self._count[numbers] = np.where(counts == LARGE, LARGE, 0)
        self._insert(np.repeat(numbers, np.maximum(counts, 0)), tokens)
        first = self._sets - len(counts)
        self._large |= {first + number: sketch for number, sketch in other._large.items()}
        return first

    def dump(self, numbers: I64) -> tuple[I64, U64, list[bytes]]:
        """Of these sets, which are different ones, in this order: counts, tokens (of one set in no order),
        states of the large ones."""
        counts, tokens = self._small(numbers)
        large = [self._large[n].state() for n in numbers[counts == LARGE].tolist()]
        return counts, tokens, large

    def _small(self, numbers: I64) -> tuple[I64, U64]:
        self._settle()
        counts = self._count[numbers]
        small = np.maximum(counts, 0)
        if PASS_PART * small.sum() > self._used:
            return counts, sort_out(self._owner[: self._used], self._token, self._sets, numbers, small)
        return counts, collect(self._head, self._next, self._token, numbers, small)

    @staticmethod
    def restore(counts: I64, tokens: U64, large: list[bytes]) -> TokenSets:
        """What `dump` gave, as sets 0, 1, ...; large ones are not checked, which takes 1 ms."""
        sets = TokenSets()
        sets._reset(counts, tokens)
        numbers = np.flatnonzero(counts == LARGE).tolist()
        sets._large = {n: UniqueSketch.of_own_state(state) for n, state in zip(numbers, large, strict=True)}
        return sets

    def _settle(self) -> None:
        """Put the tokens that wait into their sketches."""
        if not self._waiting:
            return
        numbers, tokens = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._waiting_tokens = 0
        order = np.argsort(numbers, kind="stable")
        found, first = np.unique(numbers[order], return_index=True)
        for number, of_set in zip(found.tolist(), np.split(tokens[order], first[1:]), strict=True):
            self._large[number].add(of_set)

    def _tokens(self, numbers: I64) -> U64:
        """The tokens of these sets, one set after the other, ascending; large ones have none here."""
        counts = np.maximum(self._count[numbers], 0)
        tokens = collect(self._head, self._next, self._token, numbers, counts)
        sort(tokens, counts)
        return tokens

    def _enlarge(self, numbers: I64) -> None:
        """Let these sets be sketches."""
        for number in numbers.tolist():
            self._large[number] = UniqueSketch.of_ascending(self._tokens(np.array([number])))
            self._left += int(self._count[number])
        self._count[numbers], self._head[numbers] = LARGE, NONE
        self._owner[: self._used][np.isin(self._owner[: self._used], numbers)] = NONE
        if self._left > self._used // 2:
            every = np.arange(self._sets)
            self._reset(self._count[every], self._tokens(every))


def _slots_for(entries: int) -> int:
    return max(SLOTS_MIN, 1 << (2 * entries).bit_length())


def _with_room(column: Column, size: int) -> Column:
    """The column, with room for `size` values; growing by half makes that a copy or two a value."""
    if size <= len(column):
        return column
    grown = np.empty(max(size, len(column) * 3 // 2), column.dtype)
    grown[: len(column)] = column
    return grown

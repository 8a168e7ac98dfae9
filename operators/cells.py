"""The cells of a shard: exact totals by (account, meter, minute), in sorted numpy columns.

in: readings that were folded (operators/folds.py). out: the cells they changed, when asked.

A cell takes 41 bytes, in a snapshot some 21, and its distinct tokens what `operators.token_sets` says. A
million in 16 shards, a fifth of them with three tokens each, are encoded in 20 ms and restored in 60 ms
(measured); adding to them takes 0.4 us an event in buffers of 250, as with a thousand.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from operators.aggregate import add, locate
from operators.folds import Added, Folded, sum_added, tokens_of, unpack
from operators.hyperloglog import UniqueSketch
from operators.levels import Level
from operators.snapshot_format import StoredIntegers
from operators.token_sets import TokenSets
from schemas.usage import I32, I64, U64, Mask

WAITING_MAX = 1_024
TOKENS_WAITING_MAX = 4_096
"""Rows, or tokens, that wait to be added together: an epoch's end adds them, and would take longer with more.
Of few customers rows are few and tokens many: without a limit of theirs it took 120 ms."""
SMALL = 2_048
"""Cells of a level that is cheaper to copy, 40 us, than to keep another beside it."""


class StoredCells(msgspec.Struct, array_like=True):
    """Cells in a snapshot. Columns as in `Level`, as little-endian bytes; some 21 bytes a cell."""

    key: memoryview
    events: StoredIntegers
    lo: memoryview
    hi: StoredIntegers
    dirty: memoryview
    is_counting: memoryview
    """bool: which cells count distinct tokens. Of these, in order:"""
    counts: StoredIntegers
    """how many tokens, or -1 of a large set;"""
    tokens: memoryview
    """uint64, all small sets' tokens, one after the other;"""
    large: list[bytes]
    """the states of the large sets."""


class Cells:
    """Totals by key. Its columns: key uint64, events int64, lo uint64, hi int64, dirty bool; sorted by key.

    New cells of a large shard wait in a level of their own until that has an eighth of all: to put a few
    among a hundred thousand would copy those. Reading a column merges the levels first.
    """

    def __init__(self) -> None:
        self._old = self._new = Level.begun(np.empty(0, np.uint64))
        self._tokens = TokenSets()
        self._waiting: list[Added] = []
        self._waiting_rows = self._waiting_tokens = 0

    def __len__(self) -> int:
        self._add_waiting()
        return len(self._old) + len(self._new)

    @property
    def key(self) -> U64:
        return self._merged().key

    @property
    def events(self) -> I64:
        return self._merged().events

    @property
    def lo(self) -> U64:
        return self._merged().lo

    @property
    def hi(self) -> I64:
        return self._merged().hi

    @property
    def dirty(self) -> Mask:
        return self._merged().dirty

    @property
    def filed(self) -> I32:
        """Of each cell its row in the file that has it as it is, or -1."""
        level = self._merged()
        return np.full(len(level), -1, np.int32) if level.filed is None else level.filed

    def note_filed(self) -> None:
        """There is a file now that has all cells as they are, in their order."""
        level = self._merged()
        level.filed = np.arange(len(level), dtype=np.int32)

    @property
    def is_dirty(self) -> bool:
        """Whether any cell changed since `take_dirty`."""
        self._add_waiting()
        return bool(self._old.dirty.any() or self._new.dirty.any())

    def add(self, folded: Folded, unique_meters: Mask) -> None:
        """Add folded readings; meters marked in `unique_meters` also keep their distinct tokens."""
        self._add(folded, unique_meters[unpack(folded.key)[1]])

    def add_later(self, added: Added) -> None:
        """Add when something is read next, or many rows wait: together, many small additions take a tenth of
        the time."""
        self._waiting.append(added)
        self._waiting_rows += len(added.key)
        self._waiting_tokens += len(added.tokens)
        if self._waiting_rows >= WAITING_MAX or self._waiting_tokens >= TOKENS_WAITING_MAX:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if self._waiting:
            folded = sum_added(self._waiting)
            self._waiting.clear()
            self._waiting_rows = self._waiting_tokens = 0
            self._add(folded, folded.ends > folded.starts)

    def take_dirty(self) -> Level:
        """What changed since the last call, now clean."""
        self._add_waiting()
        changed = []
        for level in (self._old, self._new):
            at = np.flatnonzero(level.dirty)
            changed.append(level.rows(at))
            level.dirty[at] = False
        return changed[0].merged(changed[1])

    def clean(self, key: U64) -> None:
        """As if the cells of these keys had been taken, where there are any."""
        at, found = locate(self.key, key)
        self.dirty[at[found]] = False

    def states(self, level: Level) -> pa.BinaryArray:
        """The uniqCombined64 states of cells; that of no values where a meter does not count them."""
        return self._tokens.states(level.sets)

    def uniques(self, key: int) -> UniqueSketch:
        """The distinct tokens of a cell, not to be changed; none if its meter did not count them."""
        level = self._merged()
        number = int(level.sets[np.searchsorted(level.key, np.uint64(key))])
        return UniqueSketch() if number < 0 else self._tokens.sketch(number)

    def distinct(self, rows: I64) -> tuple[I64, U64]:
        """Of cells that count tokens, by their rows: how many each has, and all these; -1 for a large set."""
        counts, tokens, _ = self._tokens.dump(self._merged().sets[rows])
        return counts, tokens

    def select(self, keep: Mask) -> None:
        """Forget all cells but these."""
        self._replace(self._merged().rows(keep))

    def rekey(self, key: U64) -> None:
        """Give the cells new keys, in their present order (accounts or meters were renumbered)."""
        order = np.argsort(key)
        level = self._merged().rows(order)
        level.key = key[order]
        level.filed = None
        self._replace(level)

    def extend(self, other: Cells) -> None:
        """Take another's cells, which are of other keys, in no file, and not its own any more."""
        mine, more = self._merged(), other._merged()
        more.sets[more.sets >= 0] += self._tokens.extend(other._tokens)
        self._old = mine.merged(more)

    def _replace(self, level: Level) -> None:
        counting = np.flatnonzero(level.sets >= 0)
        if 2 * len(counting) < len(self._tokens):  # the others are left behind; to drop them copies these
            self._tokens.keep(level.sets[counting])
            level.sets[counting] = np.arange(len(counting))
        self._old = level

    def _merged(self) -> Level:
        self._add_waiting()
        self._merge()
        return self._old

    def _merge(self) -> None:
        if len(self._new):
            self._old, self._new = self._old.merged(self._new), Level.begun(np.empty(0, np.uint64))

    def _add(self, folded: Folded, is_counting: Mask) -> None:
        at, found = locate(self._old.key, folded.key)
        if found.all():
            self._add_to(self._old, at, folded, is_counting)
            return
        if found.any():
            self._add_to(self._old, at[found], folded.select(found), is_counting[found])
        rest = folded.select(~found)
        at, known = locate(self._new.key, rest.key)
        if not known.all():
            self._new = self._new.merged(Level.begun(rest.key[~known]))
            at = np.searchsorted(self._new.key, rest.key)
        self._add_to(self._new, at, rest, is_counting[~found])
        if len(self._old) <= SMALL or len(self._new) > len(self._old) // 8:
            self._merge()

    def _add_to(self, level: Level, at: I64, folded: Folded, is_counting: Mask) -> None:
        """Add to the cells at these rows."""
        level.events[at] += folded.events
        level.lo[at], level.hi[at] = add(level.lo[at], level.hi[at], folded.lo, folded.hi)
        level.dirty[at] = True
        if level.filed is not None:
            level.filed[at] = -1
        counting = np.flatnonzero(is_counting)
        if not len(counting):
            return
        rows = at[counting]
        fresh = rows[level.sets[rows] < 0]
        if len(fresh):
            level.sets[fresh] = self._tokens.begin(len(fresh))
        owner, tokens = tokens_of(counting, folded.starts, folded.ends, folded.tokens)
        self._tokens.add(level.sets[at[owner]], tokens)

    def dump(self, rows: I64 | None = None) -> StoredCells:
        """The cells, or these rows of them, as they go into a snapshot: views, to be encoded at once."""
        level = self._merged() if rows is None else self._merged().rows(rows)
        is_counting = level.sets >= 0
        counts, tokens, large = self._tokens.dump(level.sets[is_counting])
        return StoredCells(
            level.key.data,
            StoredIntegers.of(level.events),
            level.lo.data,
            StoredIntegers.of(level.hi),
            level.dirty.data,
            is_counting.data,
            StoredIntegers.of(counts),
            tokens.data,
            large,
        )

    @staticmethod
    def restore(stored: StoredCells) -> Cells:
        """What `dump` gave, copied."""
        is_counting = np.frombuffer(stored.is_counting, np.bool_)
        cells, sets = Cells(), np.full(len(is_counting), -1, np.int64)
        sets[is_counting] = np.arange(int(is_counting.sum()))
        cells._old = Level(
            np.frombuffer(stored.key, np.uint64).copy(),
            stored.events.read(),
            np.frombuffer(stored.lo, np.uint64).copy(),
            stored.hi.read(),
            np.frombuffer(stored.dirty, np.bool_).copy(),
            sets,
        )
        tokens = np.frombuffer(stored.tokens, np.uint64).copy()
        cells._tokens = TokenSets.restore(stored.counts.read(), tokens, stored.large)
        return cells

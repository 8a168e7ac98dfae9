"""Sorted columns of cells, and how two of them become one.

Nothing here knows what is a window or a bill; operators/cells.py keeps two levels, a large and a small one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from schemas.usage import I32, I64, U64, Mask

Column: TypeAlias = npt.NDArray[Any]


@dataclass(slots=True)
class Level:
    """Rows of cells, sorted by `key`.

    `sets` int64: a cell's number in `TokenSets`, or -1. `filed` int32: its row in the file that has it as it
    is (operators/cell_log.py), or -1; None if no cell has one.
    """

    key: U64
    events: I64
    lo: U64
    hi: I64
    dirty: Mask
    sets: I64
    filed: I32 | None = None

    @staticmethod
    def begun(key: U64) -> Level:
        """Cells of these keys that nothing was added to yet."""
        zeros = np.zeros((3, len(key)), np.int64)
        dirty, sets = np.zeros(len(key), np.bool_), np.full(len(key), -1, np.int64)
        return Level(key, zeros[0], zeros[1].view(np.uint64), zeros[2], dirty, sets)

    def __len__(self) -> int:
        return len(self.key)

    def columns(self) -> list[Column]:
        """All but `filed`."""
        return [self.key, self.events, self.lo, self.hi, self.dirty, self.sets]

    def rows(self, at: I64 | Mask) -> Level:
        level = Level(*(column[at] for column in self.columns()))
        if self.filed is not None:
            level.filed = self.filed[at]
        return level

    def merged(self, other: Level) -> Level:
        """Both, which have no key in common; no cell of the other is in a file."""
        if not len(self) or not len(other):
            return self if len(self) else other
        at = np.searchsorted(self.key, other.key)
        pairs = list(zip(self.columns(), other.columns(), strict=True))
        if self.filed is not None:
            pairs.append((self.filed, np.full(len(other), -1, np.int32)))
        return Level(*interleave(at, pairs))


def interleave(at: npt.NDArray[np.intp], pairs: Iterable[tuple[Column, Column]]) -> list[Column]:
    """Of each pair one column: the first, with row i of the second put before its row `at[i]`, ascending.

    What `np.insert` does, which finds the places anew for every column: half its time for six of them.
    """
    places, merged = at + np.arange(len(at)), []
    rest: Mask | None = None
    for column, more in pairs:
        if rest is None:
            rest = np.ones(len(column) + len(more), np.bool_)
            rest[places] = False
        both = np.empty(len(rest), column.dtype)
        both[places], both[rest] = more, column
        merged.append(both)
    return merged

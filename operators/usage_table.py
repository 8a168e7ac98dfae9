"""Rows of usage in columns: added to and priced together. A row is an account's usage of one meter.

A row has what `Usage` has that more usage changes; `copy_back` brings it there. All is in terms of rows'
numbers, which last: an account and meter that come again get their row again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from operators.account_state import Usage
from operators.aggregate import Limbs, add, from_integers
from operators.folds import pack, tokens_of
from operators.hyperloglog import UniqueSketch
from operators.numbering import UNKNOWN, Numbering
from operators.price_table import Priced, PriceTable, averages
from operators.token_sets import TokenSets
from operators.usage_rows import UsageRows
from schemas.catalog import Catalog
from schemas.meters import AggregationType
from schemas.money import DECIMALS_MAX, EXACT
from schemas.usage import I64, U64, Mask

Table: TypeAlias = npt.NDArray[Any]
"""Of a structured type: columns, all of one length."""

AVERAGED_MAX = 1 << 32
"""Readings, of which an average is made here."""

LEFT_MAX = 1_024
"""Sets of values that may be left behind; or half of all."""

_ROW = np.dtype(
    [
        *(
            (name, np.int64)
            for name in ("account", "meter", "price", "place", "set", "events", "hi", "minor")
        ),
        ("lo", np.uint64),
        *((name, np.bool_) for name in ("is_here", "is_stale", "is_unsent", "is_stored", "is_ahead")),
    ]
)
"""`price` is its number in the table of prices; `set`, that of its distinct values, or -1; `minor`, what was
owed when it was priced last, in minor units; `is_ahead`: it has more than its `Usage`. The other names are
those of `Usage`."""


class UsageTable:
    """Rows by number."""

    def __init__(self, catalog: Catalog) -> None:
        self.meters = {meter.id: index for index, meter in enumerate(catalog.meters)}
        self.prices = PriceTable(catalog)
        kinds = [meter.aggregation.type for meter in catalog.meters]
        self._averaged: Mask = np.array([kind is AggregationType.AVG for kind in kinds], np.bool_)
        self._counted: Mask = np.array([kind is AggregationType.COUNT for kind in kinds], np.bool_)
        self.unique: Mask = np.array([kind is AggregationType.COUNT_UNIQUE for kind in kinds], np.bool_)
        """Meters that count distinct values."""
        self._numbering = Numbering()
        self._values = TokenSets()
        self._left = 0
        """Sets of rows that are not here any more."""
        self.rows: Table = np.zeros(0, _ROW)
        self.usages: list[Usage] = []
        """Of each row."""
        self._stale: list[I64] = []
        self._unsent: list[I64] = []
        """Rows with these marks; one without may still be among them."""
        nothing = np.empty(0, np.int64)
        self.priced(nothing, self.quantities(nothing))  # compiled now, and not while the first wallet waits

    def find(self, account: I64, meter: I64) -> I64:
        """The row of each account and meter, or `UNKNOWN` if its usage is not here."""
        rows = self._numbering.find(_key(account, meter))
        at = np.flatnonzero(rows != UNKNOWN)
        rows[at[~self.rows["is_here"][rows[at]]]] = UNKNOWN
        return rows

    def put(self, found: Sequence[tuple[int, Usage]]) -> I64:
        """Put usages of accounts into rows, which are not stale then; their numbers."""
        account = np.array([number for number, _ in found], np.int64)
        meter = np.array([self.meters[usage.meter_id] for _, usage in found], np.int64)
        key = _key(account, meter)
        self._numbering.add(key[self._numbering.find(key) == UNKNOWN])
        rows = self._numbering.find(key)
        self.rows = grown(self.rows, len(self._numbering))
        usages = [usage for _, usage in found]
        self.usages += usages[:1] * (len(self._numbering) - len(self.usages))  # each is put in its place
        for row, usage in zip(rows.tolist(), usages, strict=True):
            self.usages[row] = usage
        numbers, totals = self.prices.numbers, [units(usage) for usage in usages]
        columns = {
            "account": account,
            "meter": meter,
            "price": [numbers.get((usage.plan_id, usage.meter_id), 0) for usage in usages],
            "place": [usage.place for usage in usages],
            "set": self._sets_of(usages, self.unique[meter]),
            "events": [usage.events for usage in usages],
            "lo": np.array([total & (1 << 64) - 1 for total in totals], np.uint64),
            "hi": [total >> 64 for total in totals],
            "is_here": True,
            "is_stale": False,
            "is_unsent": [usage.is_unsent for usage in usages],
            "is_stored": [usage.is_stored for usage in usages],
            "is_ahead": False,
        }
        for name, column in columns.items():
            self.rows[name][rows] = column
        self._unsent.append(rows[self.rows["is_unsent"][rows]])
        return rows

    def _sets_of(self, usages: Sequence[Usage], is_unique: Mask) -> I64:
        """Sets of the distinct values of usages; -1 of a usage that counts none."""
        numbers = np.full(len(usages), -1, np.int64)
        at = np.flatnonzero(is_unique)
        numbers[at] = self._values.begin(len(at))
        for place, number in zip(at.tolist(), numbers[at].tolist(), strict=True):
            uniques = usages[place].uniques
            if uniques is not None:
                self._values.adopt(number, uniques)
        return numbers

    def copy_back(self, rows: I64) -> None:
        """Bring the `Usage` of each row up to date, and whether its charge is unsent."""
        names = ("events", "lo", "hi", "set", "is_unsent", "is_ahead")
        columns = (self.rows[name][rows].tolist() for name in names)
        for row, events, lo, hi, number, is_unsent, is_ahead in zip(rows.tolist(), *columns, strict=True):
            usage = self.usages[row]
            usage.is_unsent = is_unsent
            if is_ahead:
                usage.events, usage.total = events, EXACT.scaleb(hi << 64 | lo, -DECIMALS_MAX)
                if number >= 0:
                    usage.uniques = self._values.sketch(number)
        self.rows["is_ahead"][rows] = False

    def drop(self, rows: list[int]) -> None:
        """Their usage is not here any more."""
        for mark in ("is_here", "is_stale", "is_unsent"):
            self.rows[mark][rows] = False
        self._left += int((self.rows["set"][rows] >= 0).sum())
        if self._left > max(LEFT_MAX, len(self._values) // 2):
            held = np.flatnonzero(self.rows["is_here"] & (self.rows["set"] >= 0))
            self._values.keep(self.rows["set"][held])
            self.rows["set"][held] = np.arange(len(held))
            self._left = 0

    def add(self, row: I64, added: UsageRows, tokens: U64, settled: int) -> None:
        """Add usage to rows, each to another.

        :arg settled: Minutes before this one are in their segment for good.
        """
        table = self.rows
        table["events"][row] += added.end - added.start
        table["lo"][row], table["hi"][row] = add(table["lo"][row], table["hi"][row], added.lo, added.hi)
        self._stale.append(row[~table["is_stale"][row]])
        self._unsent.append(row[~table["is_unsent"][row]])
        for mark in ("is_stale", "is_unsent", "is_ahead"):
            table[mark][row] = True
        at = np.flatnonzero(self.unique[added.meter])
        owner, values = tokens_of(at, added.start, added.end, tokens)
        self._values.add(table["set"][row[owner]], values)
        for late in at[added.first[at] < settled].tolist():
            usage = self.usages[row[late]]
            usage.settled = usage.settled or UniqueSketch()
            usage.settled.add(tokens[added.start[late] : added.end[late]])

    def take_stale(self) -> I64:
        """Rows that changed since the last call."""
        rows, self._stale = self._marked("is_stale", self._stale), []
        self.rows["is_stale"][rows] = False
        return rows

    def unsent(self) -> I64:
        """Rows whose charges are to be sent."""
        rows = self._marked("is_unsent", self._unsent)
        self._unsent = [rows]
        return rows

    def _marked(self, mark: str, parts: list[I64]) -> I64:
        rows = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        marked: I64 = rows[self.rows[mark][rows]]
        return marked

    def quantities(self, rows: I64) -> Limbs:
        """What the meters' aggregations make of rows, in units of 1e-12."""
        events, lo, hi = (self.rows[name][rows] for name in ("events", "lo", "hi"))
        meter = self.rows["meter"][rows]
        counted = np.flatnonzero(self._counted[meter])
        lo[counted], hi[counted] = from_integers(events[counted])
        unique = np.flatnonzero(self.unique[meter])
        lo[unique], hi[unique] = from_integers(self._values.counts(self.rows["set"][rows[unique]]))
        averaged = np.flatnonzero(self._averaged[meter])
        lo[averaged], hi[averaged] = averages(lo[averaged], hi[averaged], events[averaged])
        return lo, hi

    def priced(self, rows: I64, quantities: Limbs) -> Priced:
        """What quantities of rows cost."""
        priced = self.prices.price(self.rows["price"][rows], *quantities)
        beyond = self._averaged[self.rows["meter"][rows]] & (self.rows["events"][rows] >= AVERAGED_MAX)
        priced.is_exact[beyond] = False
        return priced


def units(usage: Usage) -> int:
    """A total in units of 1e-12."""
    return int(EXACT.scaleb(usage.total, DECIMALS_MAX))


def grown(table: Table, length: int) -> Table:
    """The table with room for so many rows, new ones 0, and some to spare."""
    if length <= len(table):
        return table
    return np.concatenate((table, np.zeros(max(length, 2 * len(table)) - len(table), table.dtype)))


def _key(account: I64, meter: I64) -> U64:
    return pack(account.astype(np.uint64), meter.astype(np.uint64), np.zeros(len(account), np.uint64))

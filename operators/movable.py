"""Usage that a subscription event may still move to another segment, by the minute, and the moving of it.

The order of the two topics does not matter: usage that was read before the event that changes its plan is
taken out of the segment it was put into and put where the new timeline has it. A subscription event is
appended at most `EVENT_LAG_MAX_MS` after its own timestamp, so that minutes which all sources have passed
by more than that are settled: they leave, as the segments have them already.

State, in `Shelf.recent`: a cell for each account, meter and movable minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from operators.account_events import EVENT_LAG_MAX_MS
from operators.account_state import Usage
from operators.aggregate import to_decimals
from operators.bill_state import Shelf
from operators.folds import Added, Folded, pack, unpack
from operators.hyperloglog import UniqueSketch
from operators.ledger import Ledger
from operators.timeline import Segment
from schemas.meters import AggregationType, Meter
from schemas.usage import MINUTE_MS, Mask


@dataclass(frozen=True, slots=True)
class _Row:
    """A minute's usage of one meter that may still change its segment; `key` is its cell's."""

    key: int
    meter: Meter
    at_ms: int
    events: int
    total: Decimal


Place = tuple[_Row, Segment | None]
"""A row and the segment that it is in."""


class Movable:
    """The movable usage of one shard."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._meters = shelf.catalog.meters
        unique = [m.aggregation.type is AggregationType.COUNT_UNIQUE for m in self._meters]
        self._unique: Mask = np.array(unique, np.bool_)
        self._settled = -1
        """Minutes before this one have left."""

    def add(self, folded: Folded, movable: Mask) -> None:
        """Remember those of the folded readings that are movable."""
        if movable.any():
            kept = folded if movable.all() else folded.select(movable)
            self._shelf.recent.add_later(Added.of(kept, self._unique[unpack(kept.key)[1]]))

    def settled_minute(self) -> int:
        """Minutes before this one are in their segment for good: all that could move them is in."""
        return max(0, (self._shelf.passed_ms - EVENT_LAG_MAX_MS) // MINUTE_MS)

    def places(self, number: int) -> list[Place]:
        """Where the movable usage of an account is now."""
        recent, ledger = self._shelf.recent, self._shelf.ledgers[number]
        zeros = np.zeros(2, np.uint64)
        bounds = pack(np.array([number, number + 1], np.uint64), zeros, zeros)
        first, last = np.searchsorted(recent.key, bounds).tolist()
        _, meter, minute = unpack(recent.key[first:last])
        totals = to_decimals(recent.lo[first:last], recent.hi[first:last])
        columns = (recent.key[first:last], meter, minute * MINUTE_MS, recent.events[first:last])
        rows = zip(*(c.tolist() for c in columns), totals, strict=True)
        found = [_Row(key, self._meters[m], at_ms, n, total) for key, m, at_ms, n, total in rows]
        return [(row, ledger.segment_at(row.at_ms)) for row in found]

    def move(self, number: int, before: list[Place]) -> None:
        """Put an account's movable usage where the new timeline has it."""
        ledger = self._shelf.ledgers[number]
        touched: dict[tuple[int, str, str], tuple[Meter, Usage]] = {}
        for row, old in before:
            new = ledger.segment_at(row.at_ms)
            if (old and old.key) != (new and new.key):
                for usage in ledger.move_usage(row.meter, old, new, row.events, row.total):
                    touched[usage.key] = (row.meter, usage)
        for meter, usage in touched.values():
            if meter.aggregation.type is AggregationType.COUNT_UNIQUE:
                self._recount(ledger, usage, [row for row, _ in before])

    def _recount(self, ledger: Ledger, usage: Usage, rows: list[_Row]) -> None:
        """Distinct values can't be subtracted: put a segment's together again."""
        usage.uniques = UniqueSketch()
        if usage.settled is not None:
            usage.uniques.merge(usage.settled)
        for row in rows:
            segment = ledger.segment_at(row.at_ms)
            if row.meter.id == usage.meter_id and segment is not None and segment.key == usage.key[:2]:
                usage.uniques.merge(self._shelf.recent.uniques(row.key))

    def settle(self) -> None:
        """Forget the minutes that nothing can move any more."""
        recent, settled = self._shelf.recent, self.settled_minute()
        if settled == self._settled:
            return  # what came since is of later minutes, or was settled as it came
        self._settled = settled
        account, meter, minute = unpack(recent.key)
        movable = minute >= settled
        if movable.all():
            return
        rows = np.flatnonzero(~movable & self._unique[meter])
        account, place = account[rows], np.full(len(rows), -1)
        columns = (recent.key[rows], account, meter[rows], minute[rows] * MINUTE_MS)
        for row, (key, number, index, at_ms) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            ledger = self._shelf.ledgers[number]  # which has the settled values also of usage that runs
            usages = len(ledger.usages)
            usage = ledger.settle_uniques(self._meters[index], at_ms, recent.uniques(key))
            if len(ledger.usages) > usages:  # another segment or meter: its wallet is to be made anew
                self._shelf.ledger(number)
            place[row] = -1 if usage is None else usage.place
            self._shelf.note_usage(number, ledger)
        counts, tokens = recent.distinct(rows)
        self._shelf.note_changed(account[counts < 0].tolist())
        owner = np.repeat(np.arange(len(rows)), np.maximum(counts, 0))
        known = place[owner] >= 0
        self._shelf.deltas.settle(account[owner][known], place[owner][known], tokens[known])
        recent.select(movable)

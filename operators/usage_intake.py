"""Readings of a shard on their way into its ledgers: buffered, summed, and added a row a meter.

Slices -> `UsageIntake` -> `Shelf.running` or ledgers (`Ledger.add_usage`), `Shelf.deltas`, `Movable`.
"""

from __future__ import annotations

import numpy as np

from operators.archive import Archive
from operators.bill_state import Shelf
from operators.folds import METER_BITS, MINUTE_BITS, Folded, fold, tokens_of, unpack
from operators.groups import first_of_runs
from operators.movable import Movable
from operators.running_usage import ELSEWHERE
from operators.usage_rows import UsageRows, by_meter, by_minute
from schemas.catalog import Catalog
from schemas.meters import AggregationType
from schemas.usage import I64, MINUTE_MS, U64, Mask, Slice

NOWHERE, APART = -1, -3
"""Usage of no segment; a row whose minutes are to be added one by one."""


def restored(snapshot: bytes, catalog: Catalog, archive: Archive | None = None) -> Shelf:
    """As `Shelf.restore`; readings that wait go to the segments of the catalog that they were read under."""
    before = Shelf.catalog_before(snapshot, catalog)
    if before is not None:
        shelf = Shelf.restore(snapshot, before, archive)
        shelf.unsent.update(UsageIntake(shelf, Movable(shelf)).fold())
        snapshot = shelf.dump()
    return Shelf.restore(snapshot, catalog, archive)


class UsageIntake:
    """What was not added to ledgers yet."""

    def __init__(self, shelf: Shelf, movable: Movable) -> None:
        self._shelf = shelf
        self._movable = movable
        self._meters = shelf.catalog.meters
        kinds = [meter.aggregation.type for meter in self._meters]
        self._summed: Mask = np.isin(kinds, [AggregationType.SUM, AggregationType.AVG])
        self._unique: Mask = np.isin(kinds, [AggregationType.COUNT_UNIQUE])

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to fold."""
        return len(self._shelf.buffer) > 0

    def take(self, piece: Slice) -> None:
        """Buffer the readings of a slice."""
        if len(piece.readings):
            self._shelf.accounts.learn(piece)
            self._shelf.open()
            self._shelf.buffer.add(piece)

    def fold(self) -> list[int]:
        """Add what is buffered; the numbers of the accounts that it belongs to."""
        if not self.is_waiting:
            return []
        parts, append_ms = self._shelf.buffer.take()
        folded = fold(parts, self._shelf.accounts)
        numbers = self._note_readings(folded, append_ms[folded.order])
        settled = self._movable.settled_minute()
        rows = by_meter(folded, self._summed)
        place = self._add(rows, folded.tokens, settled)
        apart = np.flatnonzero(place == APART)
        if len(apart):
            self._shelf.note_changed(rows.account[apart].tolist())
            keys = rows.account[apart] << METER_BITS | rows.meter[apart]
            rest = folded.select(np.isin(folded.key >> np.uint64(MINUTE_BITS), keys.astype(np.uint64)))
            self._add_to_ledgers(by_minute(rest, self._summed), rest.tokens, settled)
        self._note_deltas(rows, place, folded.tokens, settled)
        self._movable.add(folded, unpack(folded.key)[2] >= settled)
        return numbers

    def _note_readings(self, folded: Folded, append_ms: I64) -> list[int]:
        """Note how many readings each account has, and how new they are."""
        account, _, _ = unpack(folded.key)
        first = first_of_runs(account)
        newest_ms = np.maximum.reduceat(append_ms, folded.starts[first])
        owners, readings = account[first], np.add.reduceat(folded.events, first)
        self._shelf.deltas.note_readings(owners, readings, newest_ms)
        numbers: list[int] = owners.tolist()
        for number, count, at_ms in zip(numbers, readings.tolist(), newest_ms.tolist(), strict=True):
            state = self._shelf.ledgers[number].state
            state.inputs += count
            state.as_of_ms = max(state.as_of_ms, at_ms)
        return numbers

    def _add(self, rows: UsageRows, tokens: U64, settled: int) -> I64:
        """Add rows to the accounts' usage; where that stands in its account, `NOWHERE` or `APART`.

        :arg settled: Minutes before this one are in their segment for good.
        """
        place, begun, changed = self._shelf.running.add(rows, tokens, settled)
        self._shelf.note_begun(begun)
        self._shelf.note_changed(changed)
        rest = np.flatnonzero(place == ELSEWHERE)
        self._shelf.running.give_back(rows.account[rest].tolist())
        place[rest] = self._add_to_ledgers(rows.at(rest), tokens, settled)
        return place

    def _add_to_ledgers(self, rows: UsageRows, tokens: U64, settled: int) -> list[int]:
        ledgers, meters, note_usage = self._shelf.ledgers, self._meters, self._shelf.note_usage
        places: list[int] = []
        for number, index, first, last, start, end, total in rows:
            ledger, is_settled = ledgers[number], first < settled
            if first != last and (
                is_settled != (last < settled)
                or not ledger.is_one_segment(first * MINUTE_MS, last * MINUTE_MS)
            ):
                places.append(APART)
                continue
            usage = ledger.add_usage(
                meters[index], first * MINUTE_MS, end - start, total, tokens[start:end], is_settled=is_settled
            )
            places.append(NOWHERE if usage is None else usage.place)
            note_usage(number, ledger)
        return places

    def _note_deltas(self, rows: UsageRows, place: I64, tokens: U64, settled: int) -> None:
        self._shelf.deltas.add(rows, place, self._unique, tokens)
        late = np.flatnonzero((place >= 0) & (rows.first < settled) & self._unique[rows.meter])
        owner, found = tokens_of(late, rows.start, rows.end, tokens)
        self._shelf.deltas.settle(rows.account[owner], place[owner], found)

"""What every customer of a shard owes and has left. Slices, account events -> wallets, charges, rejects.

Wallets and charges are absolute rows with the version `generation << 40 |` the account's inputs
(readings, account events) and the transitions that time made (credits expired, fees begun). Another
catalog is a new generation.

State, a shard: operators/bill_state.py. On resume every wallet is sent again, so that Redis may have
lost anything; charges that had not been sent are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pyarrow as pa

from operators.account_events import ImpossibleError, apply, is_subscription
from operators.account_state import ZERO, Usage
from operators.aggregate import to_decimals
from operators.bill_state import Shelf
from operators.cells import Folded, Part, fold, pack, unpack
from operators.charges import UnsentCharge, charge_rows
from operators.hyperloglog import UniqueSketch
from operators.ledger import Ledger
from operators.timeline import Segment
from schemas.accounts import AccountEvent
from schemas.catalog import Catalog
from schemas.events import Reason, Reject
from schemas.meters import AggregationType, Meter
from schemas.usage import I64, MINUTE_MS, AccountSlice, Mask, Slice
from schemas.wallets import WalletRow

GENERATION_SHIFT = 40
NEVER_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class BillConfig:
    catalog: Catalog
    wallet_flush_ms: int = 100
    charge_flush_ms: int = 1_000
    catch_up_ms: int = 2_000
    shards: int = 32
    """How many of these share a process, at most."""
    event_lag_max_ms: int = 600_000
    """A subscription event that is appended later than this after its own timestamp is refused."""


@dataclass(frozen=True, slots=True)
class _RecentRow:
    """A minute's usage of one meter that may still change its segment; `key` is its cell's."""

    key: int
    meter: Meter
    at_ms: int
    events: int
    total: Decimal


class Bills:
    """The bills and wallets of one shard."""

    def __init__(self, config: BillConfig, shelf: Shelf) -> None:
        self.shelf = shelf
        self._config = config
        self._meters = config.catalog.meters
        unique = [m.aggregation.type is AggregationType.COUNT_UNIQUE for m in self._meters]
        self._unique = np.array(unique, np.bool_)
        summed = [m.aggregation.type in {AggregationType.SUM, AggregationType.AVG} for m in self._meters]
        self._summed = np.array(summed, np.bool_)
        self._buffer: list[Part] = []
        self._appended: list[I64] = []
        self._touched = set(range(len(shelf.ledgers)))
        """Accounts whose wallets changed since they were last sent; after a resume all."""
        self._transitions: list[tuple[int, int]] = []
        """Heap of (moment, account): when time alone changes a wallet."""
        self._awaited: dict[int, int] = {}
        for number in range(len(shelf.ledgers)):
            self._await_transition(number)

    # -- in

    def take(self, piece: Slice) -> None:
        """Buffer the readings of a slice."""
        readings = piece.readings
        if len(readings):
            self.shelf.accounts.learn(piece)
            self.shelf.open()
            row = readings.row
            part = (
                piece.account[row],
                readings.meter,
                piece.at_ms[row],
                readings.lo,
                readings.hi,
                readings.token,
            )
            self._buffer.append(part)
            self._appended.append(piece.append_ms[row])
        self.shelf.usage_watermark.advance(piece.progress)

    def take_accounts(self, piece: AccountSlice) -> Iterator[Reject]:
        """Apply account events; those that contradict their account come back."""
        self.fold()
        for entry in piece.entries:
            number = self.shelf.accounts.number_of(
                entry.account, (entry.event.tenant_id, entry.event.external_customer_id)
            )
            self.shelf.open()
            try:
                self._apply(number, entry.event, entry.origin.append_ms)
            except ImpossibleError as why:
                yield replace(entry.origin, reason=Reason.ACCOUNT_EVENT_IMPOSSIBLE, detail=str(why))
        self.shelf.account_watermark.advance(piece.progress)

    def _apply(self, number: int, event: AccountEvent, append_ms: int) -> None:
        moves = is_subscription(event)
        if moves and append_ms - event.at_ms > self._config.event_lag_max_ms:
            raise ImpossibleError(
                f"{event.type} at {event.timestamp.isoformat()}: appended over "
                f"{self._config.event_lag_max_ms // 1000} s later, when usage was settled"
            )
        ledger = self.shelf.changed(number)
        rows = self._recent_rows(number) if moves else []
        before = [ledger.segment_at(row.at_ms) for row in rows]
        if not apply(ledger, event, append_ms):
            return
        if moves:
            self._move(ledger, rows, before)
        self._touch(number)
        self._await_transition(number)

    def fold(self) -> None:
        """Fold what is buffered into the ledgers."""
        if not self._buffer:
            return
        folded = fold(self._buffer, self.shelf.accounts)
        newest = np.maximum.reduceat(np.concatenate(self._appended)[folded.order], folded.starts)
        self._buffer.clear()
        self._appended.clear()
        settled = self._settled_minute()
        account, meter, minute = unpack(folded.key)
        columns = (account, meter, minute, folded.starts, folded.ends, newest)
        rows = zip(*(c.tolist() for c in columns), self._totals(folded, meter), strict=True)
        before, ledger = -1, None
        for number, index, at, start, end, append_ms, total in rows:
            if ledger is None or number != before:
                before, ledger = number, self.shelf.changed(number)
                self._touch(number)
            ledger.add_usage(
                self._meters[index],
                at * MINUTE_MS,
                end - start,
                total,
                folded.tokens[start:end],
                is_settled=at < settled,
            )
            ledger.state.as_of_ms = max(ledger.state.as_of_ms, append_ms)
        self._remember(folded, minute >= settled)

    def _totals(self, folded: Folded, meter: I64) -> list[Decimal]:
        """Of each key; only meters that add values up have one (a decimal costs 1.7 us)."""
        totals = [ZERO] * len(folded.key)
        summed = np.flatnonzero(self._summed[meter])
        decimals = to_decimals(folded.lo[summed], folded.hi[summed])
        for at, total in zip(summed.tolist(), decimals, strict=True):
            totals[at] = total
        return totals

    def _remember(self, folded: Folded, movable: Mask) -> None:
        if movable.any():
            self.shelf.recent.add(folded if movable.all() else folded.select(movable), self._unique)

    def _touch(self, number: int) -> None:
        self._touched.add(number)
        self.shelf.unsent.add(number)

    # -- out

    @property
    def has_wallets(self) -> bool:
        return bool(self._buffer) or bool(self._touched)

    @property
    def has_charges(self) -> bool:
        return bool(self._buffer) or bool(self.shelf.unsent)

    @property
    def next_transition_ms(self) -> int | None:
        return self._transitions[0][0] if self._transitions else None

    def wallets(self, now_ms: int) -> list[WalletRow]:
        """The wallets that changed since they were last sent."""
        self.fold()
        self._pass_transitions(now_ms)
        rows: list[WalletRow] = []
        for number in self._touched:
            ledger = self.shelf.ledgers[number]
            state = ledger.state
            version = self._version(ledger)
            rows.extend(
                WalletRow(
                    tenant_id=state.tenant_id,
                    external_customer_id=state.customer_id,
                    currency=wallet.currency,
                    balance=wallet.balance,
                    unpaid_invoices=wallet.unpaid_invoices,
                    usage=wallet.usage,
                    available=wallet.available,
                    version=version,
                    as_of_ms=state.as_of_ms,
                )
                for wallet in ledger.wallets(now_ms)
            )
        self._touched.clear()
        return rows

    def charges(self) -> pa.RecordBatch | None:
        """The charges that changed since they were last sent (`schemas.arrow.USAGE_CHARGES`)."""
        self.fold()
        unsent: list[UnsentCharge] = []
        for number in sorted(self.shelf.unsent):
            ledger = self.shelf.changed(number)
            version = self._version(ledger)
            for usage in ledger.usages.values():
                if usage.is_unsent:
                    usage.is_unsent = False
                    unsent.append(UnsentCharge(ledger, usage, version))
        self.shelf.unsent.clear()
        self._settle()
        return charge_rows(unsent)

    def _version(self, ledger: Ledger) -> int:
        # Of the account, not of the one charge: usage that moves between segments makes a charge's own
        # count depend on the order of topics, and a replay could then never overtake what it replaced.
        return self.shelf.generation << GENERATION_SHIFT | (ledger.state.inputs + ledger.state.transitions)

    def dump(self) -> bytes:
        """The state as immutable bytes."""
        self.fold()
        return self.shelf.dump()

    # -- time

    def _await_transition(self, number: int) -> None:
        moment = self.shelf.ledgers[number].next_transition_ms()
        if moment is not None and moment < self._awaited.get(number, NEVER_MS):
            self._awaited[number] = moment
            heapq.heappush(self._transitions, (moment, number))

    def _pass_transitions(self, now_ms: int) -> None:
        while self._transitions and self._transitions[0][0] <= now_ms:
            _, number = heapq.heappop(self._transitions)
            self._awaited.pop(number, None)
            if self.shelf.changed(number).pass_transitions(now_ms):
                self._touched.add(number)
                self.shelf.unsent.add(number)
            self._await_transition(number)

    # -- usage that an account event can still move

    def _settled_minute(self) -> int:
        """Minutes before this one are in their segment for good: all that could move them is in."""
        shelf = self.shelf
        passed_ms = min(shelf.usage_watermark.at_ms, shelf.account_watermark.at_ms)
        return max(0, (passed_ms - self._config.event_lag_max_ms) // MINUTE_MS)

    def _recent_rows(self, number: int) -> list[_RecentRow]:
        recent = self.shelf.recent
        zeros = np.zeros(2, np.uint64)
        bounds = pack(np.array([number, number + 1], np.uint64), zeros, zeros)
        first, last = np.searchsorted(recent.key, bounds).tolist()
        _, meter, minute = unpack(recent.key[first:last])
        totals = to_decimals(recent.lo[first:last], recent.hi[first:last])
        columns = (recent.key[first:last], meter, minute * MINUTE_MS, recent.events[first:last])
        rows = zip(*(c.tolist() for c in columns), totals, strict=True)
        return [_RecentRow(key, self._meters[m], at_ms, n, total) for key, m, at_ms, n, total in rows]

    def _move(self, ledger: Ledger, rows: list[_RecentRow], before: list[Segment | None]) -> None:
        """Put movable usage where the new timeline has it."""
        touched: dict[tuple[int, str, str], tuple[Meter, Usage]] = {}
        for row, old in zip(rows, before, strict=True):
            new = ledger.segment_at(row.at_ms)
            if old is None or new is None or old.key != new.key:
                for usage in ledger.move_usage(row.meter, old, new, row.events, row.total):
                    touched[usage.key] = (row.meter, usage)
        for meter, usage in touched.values():
            if meter.aggregation.type is AggregationType.COUNT_UNIQUE:
                self._recount(ledger, usage, rows)

    def _recount(self, ledger: Ledger, usage: Usage, rows: list[_RecentRow]) -> None:
        """Distinct values can't be subtracted: put a segment's together again."""
        usage.uniques = UniqueSketch()
        if usage.settled is not None:
            usage.uniques.merge(usage.settled)
        for row in rows:
            segment = ledger.segment_at(row.at_ms)
            if row.meter.id == usage.meter_id and segment is not None and segment.key == usage.key[:2]:
                usage.uniques.merge(self.shelf.recent.sketches[row.key])

    def _settle(self) -> None:
        """Usage that nothing can move any more leaves the minutes; the segments have it already."""
        recent, settled = self.shelf.recent, self._settled_minute()
        account, meter, minute = unpack(recent.key)
        movable = minute >= settled
        if movable.all():
            return
        for at in np.flatnonzero(~movable & self._unique[meter]).tolist():
            ledger = self.shelf.changed(int(account[at]))
            ledger.settle_uniques(
                self._meters[int(meter[at])],
                int(minute[at]) * MINUTE_MS,
                recent.sketches[int(recent.key[at])],
            )
        recent.select(movable)

"""What every customer of a shard owes and has left. Slices, account events -> wallets, charges, rejects.

Wallets are absolute rows with the version `generation << 40 |` the account's inputs (readings, account
events) and the transitions that time made (credits expired, standing charges begun); charges, with
`generation << 52 |` what is folded into the charge (`Ledger.charge_version`). Another catalog is a new
generation.

State, a shard: operators/bill_state.py. On resume every wallet is sent again, so that Redis may have
lost anything; charges that had not been sent are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pyarrow as pa

from operators.account_events import ImpossibleError, apply, is_subscription
from operators.account_state import DAY_MS, KEPT_MS, ZERO
from operators.aggregate import to_decimals
from operators.aging import begin_standing, expire, forget, next_expiry_ms, next_standing_ms
from operators.bill_state import Shelf
from operators.cells import Folded, Part, fold, unpack
from operators.charges import UnsentCharge, charge_rows
from operators.ledger import MOVES_BITS, READINGS_BITS, Ledger
from operators.movable import Movable
from operators.schedule import Schedule
from operators.thresholds import judge
from schemas.accounts import AccountEvent
from schemas.catalog import Catalog
from schemas.events import Reason, Reject
from schemas.meters import AggregationType
from schemas.usage import I64, MINUTE_MS, AccountSlice, Slice
from schemas.wallets import WalletAlert, WalletRow

GENERATION_SHIFT = 40
CHARGE_GENERATION_SHIFT = MOVES_BITS + READINGS_BITS
SWEEP = 256
"""Accounts that are looked through for what can be forgotten, each time that charges are sent."""


@dataclass(frozen=True, slots=True)
class BillConfig:
    catalog: Catalog
    wallet_flush_ms: int = 100
    charge_flush_ms: int = 1_000
    catch_up_ms: int = 2_000
    shards: int = 32
    """How many of these share a process, at most."""
    event_age_max_ms: int = 35 * DAY_MS
    """No usage is older than this when it is appended: older ones are dead letters."""


class Bills:
    """The bills and wallets of one shard."""

    def __init__(self, config: BillConfig, shelf: Shelf) -> None:
        self.shelf = shelf
        self._config = config
        self._meters = config.catalog.meters
        self._movable = Movable(shelf)
        self._has_thresholds = any(plan.thresholds for plan in config.catalog.plans)
        summed = [m.aggregation.type in {AggregationType.SUM, AggregationType.AVG} for m in self._meters]
        self._summed = np.array(summed, np.bool_)
        self._buffer: list[Part] = []
        self._appended: list[I64] = []
        self._touched = set(range(len(shelf.ledgers)))
        """Accounts whose wallets changed since they were last sent; after a resume all."""
        self._expiries = Schedule()
        """When an account's next credit expires."""
        self._beginnings = Schedule()
        """When an account's next standing charge begins."""
        self._swept = 0
        for number in range(len(shelf.ledgers)):
            self._await(number)

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
        self._begin_standing()

    def _apply(self, number: int, event: AccountEvent, append_ms: int) -> None:
        ledger = self.shelf.changed(number)
        before = self._movable.places(number) if is_subscription(event) else []
        if not apply(ledger, event, append_ms):
            return
        if before:
            self._movable.move(number, before)
        self._touch(number)
        self._await(number)

    def fold(self) -> None:
        """Fold what is buffered into the ledgers."""
        if not self._buffer:
            return
        folded = fold(self._buffer, self.shelf.accounts)
        newest = np.maximum.reduceat(np.concatenate(self._appended)[folded.order], folded.starts)
        self._buffer.clear()
        self._appended.clear()
        settled = self._movable.settled_minute()
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
        self._movable.add(folded, minute >= settled)

    def _totals(self, folded: Folded, meter: I64) -> list[Decimal]:
        """Of each key; only meters that add values up have one (a decimal costs 1.7 us)."""
        totals = [ZERO] * len(folded.key)
        summed = np.flatnonzero(self._summed[meter])
        decimals = to_decimals(folded.lo[summed], folded.hi[summed])
        for at, total in zip(summed.tolist(), decimals, strict=True):
            totals[at] = total
        return totals

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
        """When time alone changes a wallet next."""
        return self._expiries.next_ms

    def wallets(self, now_ms: int) -> tuple[list[WalletRow], list[WalletAlert]]:
        """The wallets that changed since they were last sent, and the thresholds that they crossed."""
        self.fold()
        self._expire(now_ms)
        rows: list[WalletRow] = []
        alerts: list[WalletAlert] = []
        for number in self._touched:
            ledger = self.shelf.ledgers[number]
            state = ledger.state
            version = self._version(ledger)
            sent = [
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
            ]
            rows.extend(sent)
            if self._has_thresholds or state.thresholds:
                levels = dict(state.judged)
                alerts.extend(judge(ledger, sent, now_ms))
                if state.judged != levels:
                    self.shelf.changed(number)
        self._touched.clear()
        return rows, alerts

    def charges(self, *, is_last: bool = False) -> pa.RecordBatch | None:
        """The charges that changed since they were last sent (`schemas.arrow.USAGE_CHARGES`).

        A usage waits until a snapshot has it, an epoch at most. After a crash account events may be read
        before the usage that they move; a charge of which no state knew would then never be corrected.

        :arg is_last: Send those as well: what follows is a snapshot.
        """
        self.fold()
        unsent: list[UnsentCharge] = []
        waiting: set[int] = set()
        for number in sorted(self.shelf.unsent):
            ledger = self.shelf.changed(number)
            for usage in ledger.usages.values():
                if usage.is_unsent and (usage.is_stored or is_last):
                    usage.is_unsent = False
                    version = self.shelf.generation << CHARGE_GENERATION_SHIFT | ledger.charge_version(usage)
                    unsent.append(UnsentCharge(ledger, usage, version))
                elif usage.is_unsent:
                    waiting.add(number)
        self.shelf.unsent = waiting
        self._movable.settle()
        self._forget()
        return charge_rows(unsent)

    def _version(self, ledger: Ledger) -> int:
        return self.shelf.generation << GENERATION_SHIFT | (ledger.state.inputs + ledger.state.transitions)

    def dump(self) -> bytes:
        """The state as immutable bytes."""
        self.fold()
        return self.shelf.dump()

    # -- time

    def _await(self, number: int) -> None:
        ledger = self.shelf.ledgers[number]
        self._expiries.add(next_expiry_ms(ledger.state), number)
        self._beginnings.add(next_standing_ms(ledger), number)

    def _expire(self, now_ms: int) -> None:
        for number in self._expiries.pop(now_ms):
            if expire(self.shelf.changed(number).state, now_ms):
                self._touch(number)
            self._await(number)

    def _begin_standing(self) -> None:
        passed_ms = self.shelf.account_watermark.at_ms
        for number in self._beginnings.pop(passed_ms):
            if begin_standing(self.shelf.changed(number), passed_ms):
                self._touch(number)
            self._await(number)

    def _forget(self) -> None:
        """Look through a few accounts for what is settled."""
        self._begin_standing()
        passed_ms, ledgers = self.shelf.passed_ms, self.shelf.ledgers
        before_ms = passed_ms - KEPT_MS
        usage_before_ms = min(before_ms, passed_ms - self._config.event_age_max_ms - DAY_MS)
        for _ in range(min(SWEEP, len(ledgers))):
            self._swept = (self._swept + 1) % len(ledgers)
            if forget(ledgers[self._swept], before_ms, usage_before_ms):
                self.shelf.changed(self._swept)

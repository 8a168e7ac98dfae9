"""What every customer of a shard owes and has left. Slices, account events -> wallets, charges, rejects.

Wallets are absolute rows with the version `generation << 40 |` the account's inputs (readings, account
events) and the transitions that time made (credits expired, standing charges begun); charges, with
`generation << 52 |` what is folded into the charge (`charges.charge_version`). Another catalog is a new
generation.

Charges and alerts wait until a snapshot that has them is committed, an epoch or two: a crash repeats what
came after the last commit in other steps, and could not take back what it does not know to be told. A record
that comes after a snapshot says that it is committed, since sources wait for that, and so does the next one.

State, a shard: operators/bill_state.py. On resume every wallet is sent again, so that Redis may have
lost anything; charges and alerts that had not been sent are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from operators.account_events import ImpossibleError, apply, is_subscription
from operators.account_state import DAY_MS, KEPT_MS, Usage
from operators.aging import begin_standing, expire, forget, has_old, next_expiry_ms, next_standing_ms
from operators.bill_state import Shelf
from operators.charges import MOVES_BITS, READINGS_BITS, UnsentCharge, charge_rows, charge_version
from operators.ledger import Ledger
from operators.movable import Movable
from operators.reading_buffer import READINGS_MAX
from operators.running_charges import running_charge_rows
from operators.schedule import Schedule
from operators.thresholds import judge
from operators.usage_intake import UsageIntake
from schemas.accounts import AccountEvent
from schemas.catalog import Catalog
from schemas.events import Reason, Reject
from schemas.usage import GENERATION_SHIFT, AccountSlice, Slice
from schemas.wallets import WalletAlert, WalletRow

CHARGE_GENERATION_SHIFT = MOVES_BITS + READINGS_BITS
SWEEP = 16
"""Accounts that are looked through for what can be forgotten, each time that charges are sent: 100,000 in
half a day, and what they forget is months old."""


@dataclass(frozen=True, slots=True)
class BillConfig:
    catalog: Catalog
    wallet_flush_ms: int = 50
    charge_flush_ms: int = 1_000
    catch_up_ms: int = 2_000
    catch_up_max_ms: int = 10_000
    """While a backlog is read, wallets and charges wait so long at least and at most."""
    shards: int = 32
    """How many of these share a process, at most."""
    event_age_max_ms: int = 35 * DAY_MS
    """No usage is older than this when it is appended: older ones are dead letters."""


class Bills:
    """The bills and wallets of one shard."""

    def __init__(self, config: BillConfig, shelf: Shelf) -> None:
        self.shelf = shelf
        self._config = config
        self._movable = Movable(shelf)
        self._intake = UsageIntake(shelf, self._movable)
        self._has_thresholds = any(plan.thresholds for plan in config.catalog.plans)
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
        self.shelf.note_commit()
        self._intake.take(piece)
        if len(self.shelf.buffer) >= READINGS_MAX:
            self.fold()
        self.shelf.usage_watermark.advance(piece.progress)

    def take_accounts(self, piece: AccountSlice) -> Iterator[Reject]:
        """Apply account events; those that contradict their account come back."""
        self.shelf.note_commit()
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
        numbers = self._intake.fold()
        self._touched.update(numbers)
        self.shelf.unsent.update(numbers)

    def _touch(self, number: int) -> None:
        self._touched.add(number)
        self.shelf.unsent.add(number)

    # -- out

    @property
    def has_wallets(self) -> bool:
        return self._intake.is_waiting or bool(self._touched)

    @property
    def has_charges(self) -> bool:
        return self._intake.is_waiting or bool(self.shelf.unsent)

    @property
    def has_alerts(self) -> bool:
        """Whether alerts may be sent now."""
        return self.shelf.committed_alerts > 0

    @property
    def next_transition_ms(self) -> int | None:
        """When time alone changes a wallet next."""
        return self._expiries.next_ms

    def wallets(self, now_ms: int) -> list[WalletRow]:
        """The wallets that changed since they were last sent; notes the thresholds that they crossed."""
        self.fold()
        self._expire(now_ms)
        rows: list[WalletRow] = []
        shelf, numbers = self.shelf, sorted(self._touched)
        generation = shelf.generation << GENERATION_SHIFT
        shelf.running.price()
        for number, row in zip(numbers, shelf.running.wallets(numbers, now_ms, generation), strict=True):
            sent = [row] if row is not None else _wallet_rows(shelf.ledgers[number], now_ms, generation)
            rows.extend(sent)
            self._judge(number, sent, now_ms)
        self._touched.clear()
        return rows

    def _judge(self, number: int, sent: list[WalletRow], now_ms: int) -> None:
        ledger = self.shelf.ledgers[number]
        state = ledger.state
        if self._has_thresholds or state.thresholds:
            levels = dict(state.judged)
            self.shelf.alerts.extend(judge(ledger, sent, now_ms))
            if state.judged != levels:
                self.shelf.note_changed([number])

    def alerts(self, *, is_last: bool = False) -> list[WalletAlert]:
        """The alerts that may be sent now; they are not kept.

        :arg is_last: Those of no snapshot yet as well: what follows is one.
        """
        return self.shelf.take_alerts(everything=is_last)

    def charges(self, *, is_last: bool = False) -> pa.RecordBatch | None:
        """The charges that changed since they were last sent (`schemas.arrow.USAGE_CHARGES`).

        After a crash account events may be read before the usage that they move; a charge of which no state
        knew would then never be corrected.

        :arg is_last: Those of no snapshot yet as well: what follows is one.
        """
        self.fold()
        shelf = self.shelf
        shelf.running.price()
        running = shelf.running.take_unsent(is_last=is_last)
        shelf.deltas.note_sent(running.account, running.place, running.is_unique)
        found: list[UnsentCharge] = []
        sent: list[tuple[int, Usage]] = []
        generation = shelf.generation << CHARGE_GENERATION_SHIFT
        for number in sorted(shelf.unsent):
            ledger = shelf.ledgers[number]
            for usage in ledger.take_unsent(is_last=is_last):
                sent.append((number, usage))
                found.append(UnsentCharge(ledger, usage, generation | charge_version(ledger, usage)))
        shelf.note_sent(sent)
        shelf.unsent = {number for number in shelf.unsent if shelf.ledgers[number].unsent}
        shelf.unsent.update(shelf.running.unsent())
        self._movable.settle()
        self._forget()
        batches = [
            charge_rows(found),
            running_charge_rows(running, shelf.running.prices, generation, shelf.accounts),
        ]
        rows = [batch for batch in batches if batch is not None]
        return pa.Table.from_batches(rows).combine_chunks().to_batches()[0] if rows else None

    def dump(self) -> bytes:
        """The state as immutable bytes."""
        return self.shelf.dump()

    # -- time

    def _await(self, number: int) -> None:
        ledger = self.shelf.ledgers[number]
        if ledger.state.grants:
            self._expiries.add(next_expiry_ms(ledger.state), number)
        if ledger.state.phases:
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
        shelf, passed_ms = self.shelf, self.shelf.passed_ms
        before_ms = passed_ms - KEPT_MS
        usage_before_ms = min(before_ms, passed_ms - self._config.event_age_max_ms - DAY_MS)
        for _ in range(min(SWEEP, len(shelf.ledgers))):
            self._swept = number = (self._swept + 1) % len(shelf.ledgers)
            ledger = shelf.ledgers[number]
            if has_old(ledger.state, before_ms):
                ledger = shelf.ledger(number)
            if forget(ledger, before_ms, usage_before_ms):
                shelf.note_changed([number])


def _wallet_rows(ledger: Ledger, now_ms: int, generation: int) -> list[WalletRow]:
    state = ledger.state
    return [
        WalletRow(
            tenant_id=state.tenant_id,
            external_customer_id=state.customer_id,
            currency=wallet.currency,
            balance=wallet.balance,
            unpaid_invoices=wallet.unpaid_invoices,
            usage=wallet.usage,
            available=wallet.available,
            version=generation | (state.inputs + state.transitions),
            as_of_ms=state.as_of_ms,
        )
        for wallet in ledger.wallets(now_ms)
    ]

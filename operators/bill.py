"""Price usage as it comes, and keep every wallet, on Bytewax's clock. Slices -> wallets, charges, rejects.

What is owed is decided in operators/bills.py; here is when it is sent. Wallets leave at most
`wallet_flush_ms` after a change; charges at most `charge_flush_ms` after the commit that has them, alerts
with the next wallets after it. A flow that falls behind lets them wait as long as it is behind, unless they
take less than half the time: it is then not they that hold it up. While a backlog is read nobody waits for
them: they take 3 % of the time each, and are sent every `catch_up_ms` at most and every `catch_up_max_ms` at
least, so that no dashboard stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from typing_extensions import override

from operators.archive import Archive
from operators.bill_state import Shelf
from operators.bills import BillConfig, Bills
from operators.shard import shard_key
from operators.snapshot_files import SnapshotFiles
from operators.usage_intake import restored
from schemas.events import Reject
from schemas.usage import AccountSlice, Slice
from schemas.wallets import WalletAlert, WalletRow


@dataclass(frozen=True, slots=True)
class WalletRows:
    """Changed wallets, whole."""

    rows: list[WalletRow]


@dataclass(frozen=True, slots=True)
class ChargeRows:
    """Changed charges: `schemas.arrow.USAGE_CHARGES`."""

    rows: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Alerts:
    """Thresholds that wallets crossed."""

    alerts: list[WalletAlert]


Bill: TypeAlias = WalletRows | ChargeRows | Alerts | Reject
OnHeld: TypeAlias = Callable[[int], None]
"""Told how many accounts a shard holds more than when it was told last."""
BACKLOG = timedelta(seconds=5)
"""Records appended longer ago than this are a backlog."""

PAUSE = 1.5
"""So many waits after wallets were sent last, the next ones do not wait."""

LIVE_PART, BACKLOG_PART = 0.5, 0.03
"""Of the time, what sending wallets, or charges, may take in a flow that is behind. The cost alone must not
decide: it is measured by the clock, and so grows with all else that the machine does; and the longer a flush
waits the more it has to send. A wait that followed it alone came to 2 s at 10,000 events/s."""


def _ignore(_: int) -> None:
    pass


class BillLogic(StatefulBatchLogic[Slice | AccountSlice, Bill, bytes]):
    """The bills of one shard: two timers, rebuilt from the state on resume."""

    def __init__(
        self,
        resume: bytes | None,
        config: BillConfig,
        now: Callable[[], datetime],
        on_held: OnHeld = _ignore,
        archive: Archive | None = None,
    ) -> None:
        self._files = SnapshotFiles(archive)
        if resume is None:
            shelf = Shelf(config.catalog, archive)
        else:
            shelf = restored(self._files.found(resume), config.catalog, archive)
        self._bills = Bills(config, shelf)
        self._config = config
        self._now = now
        self._wallet_cost = self._charge_cost = timedelta()
        self._wallets_sent_at = now()
        self._behind = timedelta()
        """How long before now the newest record was appended when it came."""
        self._on_held = on_held
        self._held = 0
        self._is_last = False
        """Whether the next snapshot is the flow's last."""
        self._tell_held()
        to_tell = self._bills.has_wallets or self._bills.has_alerts
        self._wallets_due: datetime | None = now() if to_tell else None
        self._charges_due: datetime | None = now() if self._bills.has_charges else None

    @override
    def on_batch(self, values: list[Slice | AccountSlice]) -> tuple[Iterable[Bill], bool]:
        out: list[Bill] = []
        newest_ms = 0
        for piece in values:
            if isinstance(piece, AccountSlice):
                out.extend(self._bills.take_accounts(piece))
                records = len(piece.entries)
            else:
                self._bills.shelf.open_files(shard_key(piece.shard))
                self._files.open(f"snapshot-bill-{shard_key(piece.shard)}")
                self._bills.take(piece)
                records = len(piece)
            if records:  # what an idle source says is a minute old
                newest_ms = max(newest_ms, *(one.at_ms for one in piece.progress))
        now = self._now()
        if newest_ms:
            self._behind = now - datetime.fromtimestamp(newest_ms / 1000, UTC)
        if self._bills.has_wallets or self._bills.has_alerts:
            wait = self._wait(self._config.wallet_flush_ms, self._wallet_cost)
            if self._behind <= BACKLOG and now - self._wallets_sent_at > PAUSE * wait:
                wait = timedelta()  # the stream stood still for an epoch's end, or was silent
            self._wallets_due = _sooner(self._wallets_due, now + wait)
        if self._bills.has_charges:
            wait = self._wait(self._config.charge_flush_ms, self._charge_cost)
            self._charges_due = _sooner(self._charges_due, now + wait)
        return out, self.RETAIN

    def _wait(self, live_ms: int, cost: timedelta) -> timedelta:
        """How long changes may wait; see the top of this file."""
        live, all_shards = timedelta(milliseconds=live_ms), self._config.shards * cost
        if self._behind <= BACKLOG:
            return max(live, min(self._behind, all_shards / LIVE_PART))
        least, most = self._config.catch_up_ms, self._config.catch_up_max_ms
        wait = max(timedelta(milliseconds=least), all_shards / BACKLOG_PART)
        return max(live, min(wait, timedelta(milliseconds=most)))

    @override
    def on_notify(self) -> tuple[Iterable[Bill], bool]:
        # A timer that was replaced still fires once (facts/bytewax.md 3.4): look at the clock again.
        now, out = self._now(), list[Bill]()
        transition = self._transition()
        if _is_due(self._wallets_due, now) or _is_due(transition, now):
            out.extend(self._wallets(now))
        if _is_due(self._charges_due, now):
            out.extend(self._charges())
        if self._wallets_due is None and self._bills.shelf.alerts:  # though no record may come
            self._wallets_due = now + timedelta(milliseconds=self._config.charge_flush_ms)
        if self._charges_due is None and self._bills.has_charges:
            self._charges_due = now + self._wait(self._config.charge_flush_ms, self._charge_cost)
        return out, self.RETAIN

    @override
    def on_eof(self) -> tuple[Iterable[Bill], bool]:
        self._is_last = True
        # Drain: send what changed, but RETAIN, so that the next run goes on.
        return [*self._wallets(self._now(), is_last=True), *self._charges(is_last=True)], self.RETAIN

    def _wallets(self, now: datetime, *, is_last: bool = False) -> Iterable[Bill]:
        self._wallets_due, self._wallets_sent_at = None, now
        rows = self._bills.wallets(int(now.timestamp() * 1000))
        alerts = self._bills.alerts(is_last=is_last)
        self._wallet_cost = self._now() - now
        return [*([WalletRows(rows)] if rows else []), *([Alerts(alerts)] if alerts else [])]

    def _tell_held(self) -> None:
        held = len(self._bills.shelf.ledgers)
        self._on_held(held - self._held)
        self._held = held

    def _charges(self, *, is_last: bool = False) -> Iterable[Bill]:
        self._charges_due = None
        self._tell_held()
        before = self._now()
        rows = self._bills.charges(is_last=is_last)
        self._charge_cost = self._now() - before
        return [] if rows is None else [ChargeRows(rows)]

    def _transition(self) -> datetime | None:
        moment_ms = self._bills.next_transition_ms
        return None if moment_ms is None else datetime.fromtimestamp(moment_ms / 1000, UTC)

    @override
    def notify_at(self) -> datetime | None:
        due = (self._wallets_due, self._charges_due, self._transition())
        return min((moment for moment in due if moment is not None), default=None)

    @override
    def snapshot(self) -> bytes:
        self._bills.shelf.renew_files(is_last=self._is_last)
        return self._files.stored(self._bills.dump())


def _sooner(due: datetime | None, other: datetime) -> datetime:
    return other if due is None else min(due, other)


def _is_due(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment <= now


@dataclass(frozen=True)
class BillOut:
    """What billing sends."""

    wallets: KeyedStream[list[WalletRow]]
    """Changed wallets, whole."""
    alerts: KeyedStream[list[WalletAlert]]
    """Thresholds that wallets crossed."""
    charges: KeyedStream[pa.RecordBatch]
    """Changed charges: `schemas.arrow.USAGE_CHARGES`."""
    rejects: KeyedStream[Reject]
    """Account events that contradict their account."""


@operator
def bill(
    step_id: str,
    up: KeyedStream[Slice],
    accounts: KeyedStream[AccountSlice],
    *,
    config: BillConfig,
    now: Callable[[], datetime],
    on_held: OnHeld = _ignore,
    archive: Archive | None = None,
) -> BillOut:
    """Keep every customer's bill and wallet.

    :arg on_held: Called with the number of accounts that are new since it was called last.
    :arg archive: Files beside the recovery store; without them every snapshot has all of the state.
    """
    inputs: KeyedStream[Slice | AccountSlice] = op.merge("inputs", up, accounts)
    sent = op.stateful_batch("logic", inputs, lambda resume: BillLogic(resume, config, now, on_held, archive))
    return BillOut(
        wallets=op.filter_map_value("wallets", sent, lambda x: x.rows if isinstance(x, WalletRows) else None),
        alerts=op.filter_map_value("alerts", sent, lambda x: x.alerts if isinstance(x, Alerts) else None),
        charges=op.filter_map_value("charges", sent, lambda x: x.rows if isinstance(x, ChargeRows) else None),
        rejects=op.filter_map_value("rejects", sent, lambda x: x if isinstance(x, Reject) else None),
    )

"""The whole flow without Bytewax and stores: operators called one after the other, upserts kept by version.

A crash is `snapshot`, some more polls, then `resume` from the snapshot: what was sent in between stays sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from operators import snapshot_files
from operators.bill import Alerts, BillLogic, ChargeRows, WalletRows
from operators.bills import BillConfig
from operators.decode import DecodeConfig, decode_batch
from operators.decode_accounts import AccountDecoder, DecodeAccountsConfig
from operators.dedupe import DedupeConfig, DedupeLogic
from operators.meter import Measure
from operators.shard import Sharder
from operators.window import LateRows, WindowConfig, WindowLogic
from operators.window_state import WindowedMeter
from schemas.catalog import Catalog
from schemas.events import RawBatch, Reject
from schemas.usage import AccountSlice, Slice
from schemas.wallets import WalletAlert, WalletRow
from tests.operators.mortal_files import MortalFiles

snapshot_files.BYTES_MIN = 500  # so that the few accounts of a test have files, too

Key = tuple[Any, ...]
Snapshots = dict[str, tuple[bytes, bytes, bytes]]

WINDOW_KEY = ("tenant_id", "meter_id", "external_customer_id", "window_start", "window_s")
CHARGE_KEY = ("tenant_id", "external_customer_id", "period_start", "meter_id", "plan_id")


@dataclass
class Stores:
    """What the sinks would hold: newest version by key, later of equal ones."""

    events: dict[Key, dict[str, Any]] = field(default_factory=dict)
    windows: dict[Key, dict[str, Any]] = field(default_factory=dict)
    late: dict[Key, dict[str, Any]] = field(default_factory=dict)
    charges: dict[Key, dict[str, Any]] = field(default_factory=dict)
    wallets: dict[Key, WalletRow] = field(default_factory=dict)
    alerts: dict[str, WalletAlert] = field(default_factory=dict)
    rejects: dict[Key, Reject] = field(default_factory=dict)

    def upsert(self, table: dict[Key, dict[str, Any]], rows: pa.RecordBatch, key: Sequence[str]) -> None:
        for row in rows.to_pylist():
            place = tuple(row[name] for name in key)
            if place not in table or table[place]["version"] <= row["version"]:
                table[place] = row


class Pipeline:
    """One process of the flow; `now` is moved by the test."""

    def __init__(
        self, catalog: Catalog, now: datetime, shards: int = 4, dedupe: DedupeConfig | None = None
    ) -> None:
        self.stores = Stores()
        self.now = now
        self.archive = MortalFiles()
        self._catalog, self._shards = catalog, shards
        self._dedupe_config = dedupe or DedupeConfig()
        self._measure = Measure(catalog.meters)
        self.resume({})

    def resume(self, snapshots: Snapshots) -> None:
        """Begin anew from snapshots; the stores keep what they have."""
        self._sharder = Sharder(self._shards)
        self._decoder = AccountDecoder(DecodeAccountsConfig(self._shards))
        self._shard: dict[str, tuple[DedupeLogic, WindowLogic, BillLogic]] = {}
        for key in [f"{number:03d}" for number in range(self._shards)]:
            self._shard[key] = self._build(snapshots.get(key, (None, None, None)))

    def _build(self, states: tuple[bytes | None, ...]) -> tuple[DedupeLogic, WindowLogic, BillLogic]:
        windows = WindowConfig([WindowedMeter.of(meter) for meter in self._catalog.meters])
        bills = BillConfig(self._catalog)
        return (
            DedupeLogic(states[0], self._dedupe_config, archive=self.archive),
            WindowLogic(states[1], windows, lambda: self.now, archive=self.archive),
            BillLogic(states[2], bills, lambda: self.now, archive=self.archive),
        )

    def snapshot(self) -> Snapshots:
        return {
            key: (dedupe.snapshot(), window.snapshot(), bill.snapshot())
            for key, (dedupe, window, bill) in self._shard.items()
        }

    def poll(self, *batches: RawBatch) -> None:
        """Polls of the usage topic that come at once."""
        decoded, rejects = decode_batch(batches, DecodeConfig())
        metered, unread = self._measure.measure(decoded)
        self._reject([*rejects, *unread])
        for key, piece in self._sharder.split(metered):
            dedupe, window, bill = self._shard[key]
            for counted in dedupe.on_batch([piece])[0]:
                self._store_events(counted)
                self._store_windows(window.on_batch([counted])[0])
                self._store_bills(bill.on_batch([counted])[0])

    def poll_accounts(self, batch: RawBatch) -> None:
        """One poll of the account topic."""
        for item in self._decoder.decode(batch):
            if isinstance(item, Reject):
                self._reject([item])
            else:
                key, piece = item
                assert isinstance(piece, AccountSlice)
                self._store_bills(self._shard[key][2].on_batch([piece])[0])

    def tick(self, seconds: float) -> None:
        """Let time pass, so that timers fire."""
        self.now += timedelta(seconds=seconds)
        for _, window, bill in self._shard.values():
            self._store_windows(window.on_notify()[0])
            self._store_bills(bill.on_notify()[0])

    def drain(self) -> Stores:
        for _, window, bill in self._shard.values():
            self._store_windows(window.on_eof()[0])
            self._store_bills(bill.on_eof()[0])
        return self.stores

    def _reject(self, rejects: list[Reject]) -> None:
        for reject in rejects:
            self.stores.rejects[reject.topic, reject.partition, reject.offset] = reject

    def _store_events(self, piece: Slice) -> None:
        for row in piece.taken().to_pylist():
            self.stores.events[row["tenant_id"], row["id"], row["timestamp"]] = row

    def _store_windows(self, items: Any) -> None:
        for item in items:
            if isinstance(item, LateRows):
                for row in item.rows.to_pylist():
                    self.stores.late[row["partition"], row["offset"], row["meter_id"]] = row
            else:
                self.stores.upsert(self.stores.windows, item, WINDOW_KEY)

    def _store_bills(self, items: Any) -> None:
        for item in items:
            if isinstance(item, Reject):
                self._reject([item])
            elif isinstance(item, ChargeRows):
                self.stores.upsert(self.stores.charges, item.rows, CHARGE_KEY)
            elif isinstance(item, Alerts):
                self.stores.alerts.update((alert.id, alert) for alert in item.alerts)
            else:
                assert isinstance(item, WalletRows)
                for row in item.rows:
                    place = (row.tenant_id, row.external_customer_id, row.currency)
                    stored = self.stores.wallets.get(place)
                    if stored is None or stored.version <= row.version:
                        self.stores.wallets[place] = row


def utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)

"""A shard's accounts as bytes, and back: plain values, a format version first, no class names.

Layout: a msgpack array, `_Snapshot`. Each account is a blob (operators/stored_accounts.py) that is kept until
the account changes in other ways than by usage of which it had some before; that is kept in columns
(operators/usage_deltas.py). So a snapshot costs encoding few accounts. With an archive, the bytes of accounts
are in a file, but for those that changed lately (operators/account_log.py), and so are minutes that can still
move (operators/cell_log.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from operators.account_log import AccountLog, StoredAccountLog
from operators.account_state import AccountState, Usage
from operators.accounts import Accounts
from operators.archive import Archive
from operators.cell_log import CellLog, StoredCellLog
from operators.cells import Cells
from operators.folds import pack, unpack
from operators.ledger import Ledger
from operators.reading_buffer import ReadingBuffer, StoredReadings
from operators.running_usage import RunningUsage
from operators.snapshot_format import check_format
from operators.stored_accounts import AccountCodec
from operators.tariff import Tariff
from operators.usage_deltas import StoredDeltas, UsageDeltas
from schemas.catalog import Catalog
from schemas.usage import Watermark
from schemas.wallets import WalletAlert

FORMAT = 8


class _Snapshot(msgspec.Struct, array_like=True):
    format: int
    fingerprint: str
    generation: int
    meters: list[str]
    """Those that `recent` numbers: the catalog's."""
    account_meters: list[str]
    """Those that accounts number."""
    account_hashes: bytes
    accounts: StoredAccountLog
    """Those to which `deltas` are to be added."""
    deltas: StoredDeltas
    unsent: list[int]
    """Numbers of the accounts with charges that were not sent yet."""
    alerts: list[WalletAlert]
    """That were not sent yet."""
    buffer: StoredReadings | None
    """Not folded yet."""
    catalog: bytes
    """In which the readings of `buffer` were read, as JSON; empty without any."""
    recent: StoredCellLog
    usage_watermark: tuple[int, dict[str, int]]
    account_watermark: tuple[int, dict[str, int]]


_ENCODER = msgspec.msgpack.Encoder()
_SNAPSHOT = msgspec.msgpack.Decoder(_Snapshot)


class Shelf:
    """The accounts of a shard: numbered, each with its ledger, its bytes, and what usage added since."""

    def __init__(self, catalog: Catalog, archive: Archive | None = None) -> None:
        self.catalog = catalog
        self.accounts = Accounts()
        self.ledgers: list[Ledger] = []
        self._tariff = Tariff(catalog)
        self.running = RunningUsage(catalog, self.ledgers)
        """Usage that is ahead of `ledgers`."""
        self._codec = AccountCodec(meter.id for meter in catalog.meters)
        self._log = AccountLog(archive)
        self._changed: set[int] = set()
        """Accounts of which `_log` and `deltas` do not have all any more."""
        self.deltas = UsageDeltas()
        self.unsent: set[int] = set()
        """Accounts with charges that were not sent yet."""
        self.alerts: list[WalletAlert] = []
        """Those that were not sent yet, in their order."""
        self.committed_alerts = 0
        """How many of them a commit has."""
        self._stored_alerts = 0
        """How many of them the last snapshot has."""
        self._begun: list[Usage] = []
        """Usages of `deltas` that are in no snapshot yet."""
        self._stored: list[Usage] = []
        """Usages that are new in snapshots of which nobody knows yet whether they are committed."""
        self.buffer = ReadingBuffer()
        self.recent = Cells()
        """Usage by minute that an account event may still move to another segment."""
        self.recent_log = CellLog(archive)
        self.usage_watermark = Watermark()
        self.account_watermark = Watermark()
        self.generation = 0

    @property
    def passed_ms(self) -> int:
        """No source will send anything more that was appended before this moment."""
        return min(self.usage_watermark.at_ms, self.account_watermark.at_ms)

    def open(self) -> None:
        """Begin a ledger for every account that was numbered since the last call."""
        for tenant, customer in self.accounts.names[len(self.ledgers) :]:
            state = AccountState(tenant, customer)
            self._log.add(self._codec.encode(state))
            self.ledgers.append(Ledger(self.catalog, state, self._tariff))

    def ledger(self, number: int) -> Ledger:
        """The ledger, with all of its usage."""
        if number in self.running:
            self.running.give_back([number])
        return self.ledgers[number]

    def changed(self, number: int) -> Ledger:
        """The ledger with all of its usage, about to be changed."""
        self._changed.add(number)
        self.running.reconsider(number)
        return self.ledger(number)

    def note_changed(self, numbers: Iterable[int]) -> None:
        """Something other than usage changed, or usage that `deltas` do not have."""
        self._changed.update(numbers)

    def note_begun(self, begun: list[tuple[int, Usage]]) -> None:
        """These usages are new in their accounts, in which nothing else changed."""
        if begun:
            self._begun += [usage for _, usage in begun]
            self.deltas.begin(begun, self._codec)

    def note_usage(self, number: int, ledger: Ledger) -> None:
        """Usage was added to the ledger, and goes into `deltas`."""
        if ledger.has_changed:
            self._changed.add(number)

    def note_sent(self, usages: list[tuple[int, Usage]]) -> None:
        """Charges of these accounts' usages were sent."""
        if usages:
            account = np.array([number for number, _ in usages], np.int64)
            place = np.array([usage.place for _, usage in usages], np.int64)
            is_unique = np.array([usage.meter_id in self._tariff.unique for _, usage in usages], np.bool_)
            self.deltas.note_sent(account, place, is_unique)

    def take_alerts(self, *, everything: bool) -> list[WalletAlert]:
        """Alerts to send: those that a commit has, or all."""
        taken = self.alerts if everything else self.alerts[: self.committed_alerts]
        self.alerts, self.committed_alerts = self.alerts[len(taken) :], 0
        self._stored_alerts = max(0, self._stored_alerts - len(taken))
        return taken

    def note_commit(self) -> None:
        """The snapshots so far are committed."""
        self.committed_alerts = self._stored_alerts
        for usage in self._stored:
            usage.is_stored = True
        self._stored.clear()

    def open_files(self, shard: str) -> None:
        """Name the files that snapshots may name from now on."""
        self._log.open(f"accounts-{shard}")
        self.recent_log.open(f"bill-{shard}")

    def renew_files(self, *, is_last: bool) -> None:
        """Before a snapshot; the flow's last one or not."""
        self._log.renew(self._changed, is_last=is_last)
        self.recent_log.renew(self.recent, is_last=is_last)

    def dump(self) -> bytes:
        """The state as immutable bytes."""
        self.note_commit()  # an epoch ends after the one before is committed
        self._stored += self._begun
        self._begun = []
        self.running.copy_back(self._changed)
        for number in self._changed:
            ledger = self.ledgers[number]
            self._stored += [usage for usage in ledger.state.usages if not usage.is_stored]
            self._log.replace(number, self._codec.encode(ledger.state))
            ledger.has_changed = False
        self.deltas.drop(self._changed)
        self._changed.clear()
        self._stored_alerts = len(self.alerts)
        return _ENCODER.encode(
            _Snapshot(
                FORMAT,
                self.catalog.fingerprint,
                self.generation,
                [meter.id for meter in self.catalog.meters],
                self._codec.meters,
                self.accounts.hashes.tobytes(),
                self._log.dump(),
                self.deltas.dump(),
                sorted(self.unsent),
                self.alerts,
                self.buffer.dump(),
                self.catalog.as_json if len(self.buffer) else b"",
                self.recent_log.dump(self.recent),
                (self.usage_watermark.at_ms, dict(self.usage_watermark.sources)),
                (self.account_watermark.at_ms, dict(self.account_watermark.sources)),
            )
        )

    @staticmethod
    def restore(snapshot: bytes, catalog: Catalog, archive: Archive | None = None) -> Shelf:
        """The state under today's catalog; another catalog than yesterday's is a new generation.

        :raises ValueError: if the bytes are of another format, or a file that they name is lost or damaged.
        """
        check_format(snapshot, "bill", FORMAT)
        found = _SNAPSHOT.decode(snapshot)
        shelf = Shelf(catalog, archive)
        shelf._log = AccountLog.restore(found.accounts, archive)
        codec = AccountCodec(found.account_meters)
        states = codec.decode(shelf._log.blobs)
        shelf.deltas = UsageDeltas.restore(found.deltas)
        shelf.deltas.apply(states, found.account_meters)
        names = [(state.tenant_id, state.customer_id) for state in states]
        shelf.accounts = Accounts(names, np.frombuffer(found.account_hashes, np.uint64))
        shelf.ledgers += [Ledger(catalog, state, shelf._tariff) for state in states]
        shelf.unsent = set(found.unsent)
        shelf.alerts = found.alerts
        shelf.committed_alerts = shelf._stored_alerts = len(found.alerts)
        shelf.usage_watermark = Watermark(*found.usage_watermark)
        shelf.account_watermark = Watermark(*found.account_watermark)
        shelf.generation = found.generation
        shelf.buffer = ReadingBuffer.restore(found.buffer)
        shelf._restore_recent(found)
        if found.fingerprint == catalog.fingerprint:
            shelf._codec = codec
        else:
            shelf._begin_generation()
        return shelf

    @staticmethod
    def catalog_before(snapshot: bytes, catalog: Catalog) -> Catalog | None:
        """The catalog of a snapshot whose readings wait, if it is another one than this.

        :raises ValueError: if the bytes are of another format.
        """
        check_format(snapshot, "bill", FORMAT)
        found = _SNAPSHOT.decode(snapshot)
        is_same = found.fingerprint == catalog.fingerprint and found.meters == list(catalog.meters_by_id)
        if found.buffer is None or is_same:
            return None
        return Catalog.of_json(found.catalog)

    def _restore_recent(self, found: _Snapshot) -> None:
        recent = self.recent = self.recent_log.restore(found.recent)
        today = {meter.id: index for index, meter in enumerate(self.catalog.meters)}
        if list(today) != found.meters:
            account, meter, minute = unpack(recent.key)
            moved = np.array([today.get(meter_id, -1) for meter_id in found.meters], np.int64)[meter]
            known = moved >= 0  # usage of a meter that left the catalog stays where it is
            recent.select(known)
            key = pack(*(column[known].astype(np.uint64) for column in (account, moved, minute)))
            recent.rekey(key)

    def _begin_generation(self) -> None:
        # Each usage stays on the plan that it was metered under, at today's prices: another default plan, or
        # other billing periods, are for usage to come.
        self.generation += 1
        for number, ledger in enumerate(self.ledgers):
            self._changed.add(number)
            self.unsent.add(number)
            ledger.outdate()

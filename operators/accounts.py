"""Number the accounts of a shard, so that columns can name (tenant, customer) by a small integer.

An account is found by its 64-bit hash (schemas.usage.Slice.account): with a million customers the
chance that any two meet is 3e-8. A shard has at most `ACCOUNTS_MAX` at a time; one more stops the flow.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from operators.numbering import UNKNOWN, Numbering
from schemas.usage import I64, U64, Slice

ACCOUNT_BITS = 24
ACCOUNTS_MAX = 1 << ACCOUNT_BITS

FEW = 8
"""Rows whose names are read one by one, 2 us each, where taking any number takes 40 us."""

Account = tuple[str, str]
"""(tenant_id, external_customer_id)"""


class StoredAccounts(msgspec.Struct, array_like=True):
    """Accounts in a snapshot. Names as Arrow lays strings out: their bytes, and int32 where each ends."""

    hashes: memoryview
    tenant_ends: memoryview
    """The first is 0, where the first name begins."""
    tenants: memoryview
    customer_ends: memoryview
    customers: memoryview


class Accounts:
    """The accounts of one shard, in the order in which they were first seen."""

    def __init__(self, names: list[Account] | None = None, hashes: U64 | None = None) -> None:
        self.names: list[Account] = names or []
        self._numbering = Numbering(hashes)
        self._columns = (pa.array([], pa.string()), pa.array([], pa.string()))

    @property
    def hashes(self) -> U64:
        """Each account's, in the order of `names`."""
        return self._numbering.keys

    def __len__(self) -> int:
        return len(self.names)

    def learn(self, piece: Slice) -> None:
        """Number the accounts of a slice's readings that are not known yet, from their events."""
        is_unknown = self._numbering.find(piece.account) == UNKNOWN
        if not is_unknown.any():
            return
        rows = piece.readings.row[is_unknown[piece.readings.row]]
        unknown, first = np.unique(piece.account[rows], return_index=True)
        if len(unknown):
            self._extend(_names(piece.events, piece.rows[rows[first]]), unknown)

    def numbers(self, hashes: U64) -> U64:
        """The account number behind each hash, all of them known."""
        return self._numbering.find(hashes).astype(np.uint64)

    def number_of(self, account_hash: int, name: Account) -> int:
        """One account's number, next if it is new."""
        hashes = np.array([account_hash], np.uint64)
        number = int(self._numbering.find(hashes)[0])
        if number == UNKNOWN:
            number = len(self)
            self._extend([name], hashes)
        return number

    def columns(self, numbers: I64) -> tuple[pa.StringArray, pa.StringArray]:
        """(tenant_id, external_customer_id) of accounts, a row each."""
        rows, (tenants, customers) = pa.array(numbers), self._names()
        return tenants.take(rows), customers.take(rows)

    def _names(self) -> tuple[pa.StringArray, pa.StringArray]:
        """`names` as columns, to which those that are new are added."""
        tenants, customers = self._columns
        added = self.names[len(tenants) :]
        if added:
            tenants = pa.concat_arrays([tenants, pa.array([tenant for tenant, _ in added], pa.string())])
            customers = pa.concat_arrays([customers, pa.array([name for _, name in added], pa.string())])
            self._columns = tenants, customers
        return tenants, customers

    def _extend(self, names: list[Account], hashes: U64) -> None:
        """Number accounts that are not here yet.

        :raises OverflowError: past `ACCOUNTS_MAX`, when a cell's key could not tell them apart.
        """
        if len(self.names) + len(names) > ACCOUNTS_MAX:
            raise OverflowError(
                f"a shard has over {ACCOUNTS_MAX} customers with open windows or bills: it takes more shards"
            )
        self.names.extend(names)
        self._numbering.add(hashes)

    def dump(self) -> StoredAccounts:
        """The accounts for a snapshot, as views: names as Python strings would take 0.1 us each."""
        tenants, customers = self._names()
        return StoredAccounts(self.hashes.data, *_texts(tenants), *_texts(customers))

    @staticmethod
    def restore(stored: StoredAccounts) -> Accounts:
        """What `dump` gave."""
        hashes = np.frombuffer(stored.hashes, np.uint64)
        columns = (stored.tenant_ends, stored.tenants), (stored.customer_ends, stored.customers)
        names = (
            pa.StringArray.from_buffers(len(hashes), pa.py_buffer(ends), pa.py_buffer(texts)).to_pylist()
            for ends, texts in columns
        )
        return Accounts(list(zip(*names, strict=True)), hashes)

    def keep(self, numbers: U64) -> tuple[Accounts, U64]:
        """Only these accounts, and for each old number its new one (others: undefined)."""
        kept = np.unique(numbers).astype(np.int64)
        renumbered = np.zeros(len(self.names), np.uint64)
        renumbered[kept] = np.arange(len(kept), dtype=np.uint64)
        return Accounts([self.names[i] for i in kept.tolist()], self.hashes[kept]), renumbered


def _names(events: pa.RecordBatch, rows: I64) -> list[Account]:
    tenants, customers = events.column("tenant_id"), events.column("external_customer_id")
    if len(rows) <= FEW:
        return [(tenants[row].as_py(), customers[row].as_py()) for row in rows.tolist()]
    at = pa.array(rows)
    return list(zip(tenants.take(at).to_pylist(), customers.take(at).to_pylist(), strict=True))


def _texts(column: pa.StringArray) -> tuple[memoryview, memoryview]:
    """Where each text ends, and the texts."""
    _, ends, texts = column.buffers()
    if not len(column):
        return memoryview(bytes(4)), memoryview(b"")
    offsets = np.frombuffer(ends, np.int32)[: len(column) + 1]
    return offsets.data, memoryview(texts)[: offsets[-1]]

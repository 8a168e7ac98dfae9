"""Number the accounts of a shard, so that columns can name (tenant, customer) by a small integer.

An account is found by its 64-bit hash (schemas.usage.Slice.account): with a million customers the
chance that any two meet is 3e-8.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from operators.aggregate import locate
from schemas.usage import I64, U64

Account = tuple[str, str]
"""(tenant_id, external_customer_id)"""


class Accounts:
    """The accounts of one shard, in the order in which they were first seen."""

    def __init__(self, names: list[Account] | None = None, hashes: U64 | None = None) -> None:
        self.names: list[Account] = names if names is not None else []
        self.hashes: U64 = hashes if hashes is not None else np.empty(0, np.uint64)
        self._order: I64 = np.argsort(self.hashes)
        self._sorted: U64 = self.hashes[self._order]

    def __len__(self) -> int:
        return len(self.names)

    def number(self, hashes: U64, events: pa.RecordBatch) -> U64:
        """Each row's account number; accounts not seen before get the next ones.

        :arg hashes: Account hash of each row of `events` (`tenant_id`, `external_customer_id`).
        """
        at, found = locate(self._sorted, hashes)
        if not found.all():
            self._add(hashes, np.flatnonzero(~found), events)
            at, _ = locate(self._sorted, hashes)
        return self._order[at].astype(np.uint64)

    def _add(self, hashes: U64, rows: I64, events: pa.RecordBatch) -> None:
        new, first = np.unique(hashes[rows], return_index=True)
        wanted = pa.array(rows[first])
        tenants = events.column("tenant_id").take(wanted).to_pylist()
        customers = events.column("external_customer_id").take(wanted).to_pylist()
        self.names.extend(zip(tenants, customers, strict=True))
        self.hashes = np.concatenate([self.hashes, new])
        self._order = np.argsort(self.hashes)
        self._sorted = self.hashes[self._order]

    def keep(self, numbers: U64) -> tuple[Accounts, U64]:
        """Only these accounts, and for each old number its new one (others: undefined)."""
        kept = np.unique(numbers).astype(np.int64)
        renumbered = np.zeros(len(self.names), np.uint64)
        renumbered[kept] = np.arange(len(kept), dtype=np.uint64)
        return Accounts([self.names[i] for i in kept.tolist()], self.hashes[kept]), renumbered

"""What usage added to the accounts of a shard since each was encoded last, in columns. Rows -> columns, back.

Nearly all that an epoch changes are numbers of usage that was there before. To encode an account again for
them takes 5 to 13 us; a row here takes 0.2 us, and nothing at all to be stored. So an account is encoded
when it changes in any other way (operators/bill_state.py), and what it had here is dropped then. Usages that
are new are here too (operators/begun_usages.py).

A row's key is that of a cell (operators/folds.py): the account's number, a kind, and where the usage stands
in `AccountState.usages`. Its `dirty` says that the usage's charge is to be sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from operators.account_state import AccountState, Usage
from operators.aggregate import to_decimals
from operators.begun_usages import BegunUsages, StoredBegun
from operators.cells import Cells, StoredCells
from operators.folds import Added, pack, tokens_of, unpack
from operators.hyperloglog import UniqueSketch
from operators.snapshot_format import StoredIntegers
from operators.stored_accounts import AccountCodec
from operators.usage_rows import UsageRows
from schemas.money import EXACT
from schemas.usage import I64, U64, Mask

NUMBERS, UNIQUES, SETTLED = 0, 1, 2
"""Kinds of rows: usage without distinct values, usage with them, and values for `Usage.settled`."""


class StoredDeltas(msgspec.Struct, array_like=True):
    """Deltas in a snapshot."""

    begun: StoredBegun
    cells: StoredCells
    inputs: StoredIntegers
    """Readings of each account;"""
    as_of_ms: StoredIntegers
    """the newest append time of these."""


class UsageDeltas:
    """What usage added, by account and usage."""

    def __init__(self) -> None:
        self._begun = BegunUsages()
        self._cells = Cells()
        self._inputs: I64 = np.zeros(0, np.int64)
        self._as_of_ms: I64 = np.zeros(0, np.int64)
        """Both by account number; accounts past their end have none."""

    def begin(self, begun: Sequence[tuple[int, Usage]], codec: AccountCodec) -> None:
        """Note usages that are new, each with its account."""
        self._begun.add(begun, codec)

    def add(self, rows: UsageRows, place: I64, unique: Mask, tokens: U64) -> None:
        """Add what was added to usages.

        :arg place: Where each row's usage stands in its account; below 0 if it went nowhere.
        :arg unique: Meters that count distinct values.
        :arg tokens: Those of the rows' readings.
        """
        is_unique = unique[rows.meter]
        key = _key(rows.account, is_unique.astype(np.int64), place)
        keep = place >= 0
        owner, found = tokens_of(np.flatnonzero(keep & is_unique), rows.start, rows.end, tokens)
        sums = (key[keep], (rows.end - rows.start)[keep], rows.lo[keep], rows.hi[keep])
        self._cells.add_later(Added(*sums, key[owner], found))

    def settle(self, account: I64, place: I64, tokens: U64) -> None:
        """Note values that may be new among the settled ones of usages, each token with its usage."""
        if len(tokens):
            none = np.zeros(len(tokens), np.int64)
            key = _key(account, none + SETTLED, place)
            self._cells.add_later(Added(key, none, none.view(np.uint64), none, key, tokens))

    def note_readings(self, account: I64, readings: I64, newest_ms: I64) -> None:
        """Note each account's readings, and how new they are."""
        accounts = int(account[-1]) + 1  # ascending
        if accounts > len(self._inputs):
            room = np.zeros(accounts, np.int64)
            self._inputs = np.concatenate((self._inputs, room))
            self._as_of_ms = np.concatenate((self._as_of_ms, room))
        self._inputs[account] += readings
        self._as_of_ms[account] = np.maximum(self._as_of_ms[account], newest_ms)

    def note_sent(self, account: I64, place: I64, is_unique: Mask) -> None:
        """Note that charges of these accounts' usages were sent."""
        key, none = _key(account, is_unique.astype(np.int64), place), np.zeros(len(account), np.int64)
        no_tokens = np.empty(0, np.uint64)
        self._cells.add_later(
            Added(key, none, none.view(np.uint64), none, no_tokens, no_tokens)
        )  # for the mark
        self._cells.clean(key)

    def drop(self, accounts: Iterable[int]) -> None:
        """Forget what was added to these accounts: they are encoded with it."""
        numbers = np.fromiter(accounts, np.int64)
        if not len(numbers):
            return
        account, _, _ = unpack(self._cells.key)
        is_dropped = np.zeros(1 + max(int(numbers.max()), int(account.max(initial=0))), np.bool_)
        is_dropped[numbers] = True
        self._begun.drop(is_dropped)
        keep = ~is_dropped[account]
        if not keep.all():
            self._cells.select(keep)
        known = is_dropped[: len(self._inputs)]
        self._inputs[: len(known)][known] = 0

    def apply(self, states: Sequence[AccountState], meters: Sequence[str]) -> None:
        """Add all to accounts as they were encoded; `meters`: as their codec numbered them."""
        self._begun.apply(states, meters)
        for state, inputs, as_of_ms in zip(
            states, self._inputs.tolist(), self._as_of_ms.tolist(), strict=False
        ):
            state.inputs += inputs
            state.as_of_ms = max(state.as_of_ms, as_of_ms)
        cells = self._cells
        totals = to_decimals(cells.lo, cells.hi)
        columns = (cells.key, *unpack(cells.key), cells.events, cells.dirty)
        for (key, number, kind, place, events, is_unsent), total in zip(
            zip(*(column.tolist() for column in columns), strict=True), totals, strict=True
        ):
            usage = states[number].usages[place]
            if kind == SETTLED:
                usage.settled = usage.settled or UniqueSketch()
                usage.settled.merge(cells.uniques(key))
                continue
            usage.events += events
            usage.total = EXACT.add(usage.total, total)
            usage.is_stale, usage.is_unsent = True, is_unsent
            if kind == UNIQUES and events:
                usage.uniques = usage.uniques or UniqueSketch()
                usage.uniques.merge(cells.uniques(key))

    def dump(self) -> StoredDeltas:
        """All, as views of the columns, to be encoded at once."""
        inputs, as_of_ms = StoredIntegers.of(self._inputs), StoredIntegers.of(self._as_of_ms)
        return StoredDeltas(self._begun.dump(), self._cells.dump(), inputs, as_of_ms)

    @staticmethod
    def restore(stored: StoredDeltas) -> UsageDeltas:
        """What `dump` gave, copied."""
        deltas = UsageDeltas()
        deltas._begun = BegunUsages.restore(stored.begun)
        deltas._cells = Cells.restore(stored.cells)
        deltas._inputs = stored.inputs.read()
        deltas._as_of_ms = stored.as_of_ms.read()
        return deltas


def _key(account: I64, kind: I64, place: I64) -> U64:
    return pack(account.astype(np.uint64), kind.astype(np.uint64), place.astype(np.uint64))

"""Usages that are new in accounts that changed in no other way, in columns. Rows -> columns, back.

To encode an account again for one takes 5 to 13 us while sources stand still; a row here 0.1 us.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from operators.account_state import AccountState, Usage
from operators.snapshot_format import StoredIntegers
from operators.stored_accounts import AccountCodec, StoredSegment
from schemas.usage import I64, Mask

ACCOUNT, PLACE, METER, SEGMENT = range(4)
"""Columns: the account's number; where the usage stands in it; its meter and its segment, by number."""


class StoredBegun(msgspec.Struct, array_like=True):
    """Begun usages in a snapshot."""

    columns: list[StoredIntegers]
    segments: list[StoredSegment]
    """By number."""


class BegunUsages:
    """Usages in the order in which they began, without what was added to them."""

    def __init__(self) -> None:
        self._rows: I64 = np.zeros((0, 4), np.int64)
        self._new: list[tuple[int, int, int, int]] = []
        """Rows that are to be added to those."""
        self._segments: dict[StoredSegment, int] = {}

    def add(self, begun: Sequence[tuple[int, Usage]], codec: AccountCodec) -> None:
        """Note usages, each with its account; `codec` numbers their meters."""
        segments, numbers = self._segments, dict[tuple[int, int, int, str], int]()
        for account, usage in begun:
            # Most are of one segment, whose struct takes 2 us to make and to hash.
            brief = usage.start_ms, usage.end_ms, usage.period_ms, usage.plan_id
            number = numbers.get(brief)
            if number is None:
                number = numbers[brief] = segments.setdefault(StoredSegment.of(usage), len(segments))
            self._new.append((account, usage.place, codec.meter_number(usage.meter_id), number))

    def drop(self, is_dropped: Mask) -> None:
        """Forget the usages of accounts.

        :arg is_dropped: By account number; those past its end are not.
        """
        rows = self._all()
        account = rows[:, ACCOUNT]
        known = account < len(is_dropped)
        keep = ~(known & is_dropped[np.where(known, account, 0)])
        if not keep.all():
            self._rows = rows[keep]

    def _all(self) -> I64:
        if self._new:
            self._rows = np.concatenate((self._rows, np.array(self._new, np.int64)))
            self._new = []
        return self._rows

    def apply(self, states: Sequence[AccountState], meters: Sequence[str]) -> None:
        """Begin them in accounts as they were encoded; `meters`: by number."""
        segments = list(self._segments)
        for account, place, meter, segment in self._all().tolist():
            usage = segments[segment].usage(meters[meter], place)
            usage.is_stored = True
            states[account].usages.append(usage)

    def dump(self) -> StoredBegun:
        """All, to be encoded at once."""
        return StoredBegun([StoredIntegers.of(column) for column in self._all().T], list(self._segments))

    @staticmethod
    def restore(stored: StoredBegun) -> BegunUsages:
        """What `dump` gave."""
        begun = BegunUsages()
        begun._rows = np.stack([column.read() for column in stored.columns], axis=1)
        begun._segments = {segment: number for number, segment in enumerate(stored.segments)}
        return begun

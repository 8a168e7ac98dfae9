"""Readings that wait to be folded into a shard's ledgers; in a snapshot they are as they came.

While a backlog is read they wait for longer than an epoch. Folded at its end instead, a hundred thousand took
300 ms while sources stood still, and were folded in twice as many rows.
"""

from __future__ import annotations

import msgspec
import numpy as np

from operators.folds import Part, part_of
from operators.snapshot_format import StoredIntegers
from schemas.usage import I64, Slice

READINGS_MAX = 32_768
"""Of a shard: a megabyte in a snapshot."""


class StoredReadings(msgspec.Struct, array_like=True):
    """Columns of readings as in `Part`, and when each was appended."""

    account: memoryview
    meter: StoredIntegers
    at_ms: StoredIntegers
    lo: memoryview
    hi: StoredIntegers
    token: memoryview
    append_ms: StoredIntegers


class ReadingBuffer:
    """What `fold` will be given."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._append_ms: list[I64] = []
        self._readings = 0

    def __len__(self) -> int:
        return self._readings

    def add(self, piece: Slice) -> None:
        """Buffer the readings of a slice."""
        self._add(part_of(piece, piece.readings), piece.append_ms[piece.readings.row])

    def _add(self, part: Part, append_ms: I64) -> None:
        self._parts.append(part)
        self._append_ms.append(append_ms)
        self._readings += len(append_ms)

    def take(self) -> tuple[list[Part], I64]:
        """All readings, of which there are some, and when each was appended; they leave."""
        taken = self._parts, np.concatenate(self._append_ms)
        self._parts, self._append_ms, self._readings = [], [], 0
        return taken

    def dump(self) -> StoredReadings | None:
        """For a snapshot; None without any."""
        if not self._parts:
            return None
        account, meter, at_ms, lo, hi, token = (np.concatenate(c) for c in zip(*self._parts, strict=True))
        return StoredReadings(
            account.data,
            StoredIntegers.of(meter),
            StoredIntegers.of(at_ms),
            lo.data,
            StoredIntegers.of(hi),
            token.data,
            StoredIntegers.of(np.concatenate(self._append_ms)),
        )

    @staticmethod
    def restore(stored: StoredReadings | None) -> ReadingBuffer:
        """What `dump` gave."""
        buffer = ReadingBuffer()
        if stored is not None:
            words = stored.account, stored.lo, stored.token
            account, lo, token = (np.frombuffer(column, np.uint64) for column in words)
            meter = stored.meter.read().astype(np.uint16)
            part = (account, meter, stored.at_ms.read(), lo, stored.hi.read(), token)
            buffer._add(part, stored.append_ms.read())
        return buffer

"""An account as bytes, and back. Pure.

Layout: a msgpack array, `_Account`. A usage's meter is a number, and its segment a place among its account's,
which most usages share; amounts are left out, since pricing gives them again. So a usage takes 15 to 30 bytes
instead of 130: all of them are written at every epoch's end.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from operators.account_state import AccountState, Usage
from operators.hyperloglog import UniqueSketch

HOLDS, UNSENT = 1, 2
"""Of `_Usage.marks`."""


class StoredSegment(msgspec.Struct, array_like=True, frozen=True):
    """What usages of one segment have in common."""

    plan_id: str
    currency: str
    start_ms: int
    end_ms: int
    period_ms: int

    @staticmethod
    def of(usage: Usage) -> StoredSegment:
        return StoredSegment(usage.plan_id, usage.currency, usage.start_ms, usage.end_ms, usage.period_ms)

    def usage(self, meter_id: str, place: int) -> Usage:
        """A usage of the segment that has nothing yet."""
        return Usage(
            meter_id, self.plan_id, self.currency, self.start_ms, self.end_ms, self.period_ms, place=place
        )


class _Usage(msgspec.Struct, array_like=True):
    """`Usage`, but for what can be known without it."""

    segment: int
    meter: int
    marks: int
    events: int
    total: Decimal
    adjustments: dict[int, Decimal]
    uniques: UniqueSketch | None
    settled: UniqueSketch | None


class _Account(msgspec.Struct, array_like=True):
    state: AccountState
    """Without its usages:"""
    segments: list[StoredSegment]
    usages: list[_Usage]


def _to_wire(value: Any) -> bytes:
    if isinstance(value, UniqueSketch):
        return value.stored()
    raise TypeError(f"no wire form for {type(value).__name__}")


def _from_wire(kind: type, value: Any) -> UniqueSketch:
    return UniqueSketch.from_state(value)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_wire)
_DECODER = msgspec.msgpack.Decoder(_Account, dec_hook=_from_wire)


class AccountCodec:
    """Encodes accounts, with a number for each meter."""

    def __init__(self, meters: Iterable[str]) -> None:
        self._numbers = {meter_id: number for number, meter_id in enumerate(meters)}

    @property
    def meters(self) -> list[str]:
        """The meters by their numbers: those that it began with, and those that were met since."""
        return list(self._numbers)

    def meter_number(self, meter_id: str) -> int:
        return self._numbers.setdefault(meter_id, len(self._numbers))

    def encode(self, state: AccountState) -> bytes:
        places: dict[StoredSegment, int] = {}
        usages = [
            _Usage(
                places.setdefault(StoredSegment.of(one), len(places)),
                self.meter_number(one.meter_id),
                one.holds * HOLDS | one.is_unsent * UNSENT,
                one.events,
                one.total,
                one.adjustments,
                one.uniques,
                one.settled,
            )
            for one in state.usages
        ]
        segments = list(places)
        return _ENCODER.encode(_Account(msgspec.structs.replace(state, usages=[]), segments, usages))

    def decode(self, blobs: Iterable[bytes]) -> list[AccountState]:
        """What `encode` gave, of a codec with the same meters; every usage is to be priced."""
        meters = self.meters
        return [_account(_DECODER.decode(blob), meters) for blob in blobs]


def _account(found: _Account, meters: list[str]) -> AccountState:
    for place, one in enumerate(found.usages):
        usage = found.segments[one.segment].usage(meters[one.meter], place)
        usage.events, usage.total, usage.adjustments = one.events, one.total, one.adjustments
        usage.uniques, usage.settled = one.uniques, one.settled
        usage.holds, usage.is_unsent = bool(one.marks & HOLDS), bool(one.marks & UNSENT)
        usage.is_stored = True
        found.state.usages.append(usage)
    return found.state

"""Metered batches and slices of events that a test writes as dicts, by the real decode, meter and shard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from operators.aggregate import to_decimals
from operators.cityhash import city_hash64
from operators.decode import DecodeConfig, decode_batch
from operators.decode_accounts import AccountDecoder, DecodeAccountsConfig
from operators.meter import Measure
from operators.shard import Sharder
from operators.texts import Texts
from schemas.events import EventBatch, RawBatch, Reject
from schemas.meters import Meter
from schemas.records import Record
from schemas.usage import AccountSlice, MeteredBatch, Slice
from tests import builders
from tests.operators.records import record

NOON_MS = int(builders.NOON.timestamp() * 1000)
Read = tuple[int, str, Decimal, int]
"""offset, meter id, value, token"""


def token(text: str) -> int:
    return int(city_hash64(Texts.of([text.encode()]))[0])


def decoded(records: Sequence[Record], partition: int = 0, partitions: int = 1) -> EventBatch:
    newest = max((one.timestamp()[1] for one in records), default=NOON_MS)
    poll = RawBatch("usage-events", partition, records, newest, partitions)
    batch, rejects = decode_batch([poll], DecodeConfig())
    assert not rejects
    return batch


def account_slice_of(at: datetime, *events: dict[str, Any]) -> AccountSlice:
    """Account events of one shard, appended when they happened."""
    appended = round(at.timestamp() * 1000)
    records = [record(builders.payload(event), n, append_ms=appended) for n, event in enumerate(events)]
    poll = RawBatch("account-events", 0, records, appended, 1)
    ((_, piece),) = (
        i for i in AccountDecoder(DecodeAccountsConfig(1)).decode(poll) if not isinstance(i, Reject)
    )
    return piece


def measured(
    meters: Sequence[Meter], events: Sequence[dict[str, Any]], append_ms: int = NOON_MS
) -> tuple[MeteredBatch, list[Reject]]:
    """The events, at offsets 0, 1, ... of one partition, as the meters read them."""
    records = [record(builders.payload(event), i, append_ms=append_ms) for i, event in enumerate(events)]
    return Measure(meters).measure(decoded(records))


def readings_of(batch: MeteredBatch | Slice, meters: Sequence[Meter]) -> list[Read]:
    """The readings, each with the offset of its event."""
    found = batch.readings
    events = batch.taken() if isinstance(batch, Slice) else batch.events
    offsets = events.column("offset").to_pylist()
    return [
        (offsets[row], meters[index].id, value, hashed)
        for row, index, value, hashed in zip(
            found.row.tolist(),
            found.meter.tolist(),
            to_decimals(found.lo, found.hi),
            found.token.tolist(),
            strict=True,
        )
    ]


def one_slice(
    meters: Sequence[Meter],
    events: Sequence[dict[str, Any]],
    append_ms: Sequence[int] | int = NOON_MS,
    *,
    partition: int = 0,
    partitions: int = 1,
    offset: int = 0,
) -> Slice:
    """One poll of one partition, all of it in one shard."""
    appended = [append_ms] * len(events) if isinstance(append_ms, int) else append_ms
    records = [
        record(builders.payload(event), offset + i, append_ms=at_ms)
        for i, (event, at_ms) in enumerate(zip(events, appended, strict=True))
    ]
    metered, rejects = Measure(meters).measure(decoded(records, partition, partitions))
    assert not rejects
    ((_, piece),) = Sharder(1).split(metered)
    return piece

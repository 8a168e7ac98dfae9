"""Bytes of one poll to usage events, by columns; what is no event leaves with its reason.

Stream[RawBatch] -> events: Stream[EventBatch] (`schemas.arrow.USAGE_EVENTS`), rejects: Stream[Reject]

No state. Every record of a batch is in exactly one of the two, in its order, and a bad one costs only itself.
`operators.examine` says what an event is and why a record is refused. Here the batch is read assuming that
nothing is wrong: spans of all payloads (operators/event_fields.py), then columns and checks of the whole
batch. Only the records that a check flags are examined one by one, so a check may flag too much but never too
little. An empty batch (a heartbeat) stays one: windows learn from it how far the partition has been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import bytewax.operators as op
import numpy as np
import pyarrow as pa
from bytewax.dataflow import Stream, operator

from operators.event_fields import EventFields, Field, is_utf8
from operators.examine import DecodeConfig, RefusedError, examine, tenant_of_header
from operators.texts import Texts
from operators.timestamps import INVALID_MS, TIMESTAMP_MS_MAX, Milliseconds, parse_timestamp, parse_timestamps
from schemas.arrow import TIMESTAMP_MS, USAGE_EVENTS
from schemas.events import EventBatch, RawBatch, Reject
from schemas.records import Records
from schemas.usage import I32, I64, Mask

__all__ = ["DecodeConfig", "DecodeOut", "decode", "decode_batch"]


@dataclass(frozen=True)
class DecodeOut:
    """Streams of `decode`."""

    events: Stream[EventBatch]
    """One for all polls that came at once, empty ones too."""
    rejects: Stream[Reject]
    """Records that are no usage events."""


def decode_batch(polls: Sequence[RawBatch], config: DecodeConfig) -> tuple[EventBatch, list[Reject]]:
    """Usage events of one topic's polls, and the records that are none. Raises nothing, whatever the bytes.

    Polls are decoded together: the steps behind pay by the batch, and live polls are small.
    """
    topic, progress = polls[0].topic, tuple(poll.progress for poll in polls)
    records = Records.concat([Records.of(poll.records) for poll in polls])
    sizes = [len(poll.records) for poll in polls]
    partitions = np.repeat(np.array([poll.partition for poll in polls], np.int32), sizes)
    offsets, append_ms = records.offset, records.append_ms
    fields = _fields(records, config)
    timestamp_ms = _timestamps(fields.column(Field.timestamp), append_ms)
    flagged = _flagged(fields, append_ms, timestamp_ms, config)
    rejects: list[Reject] = []
    for row in np.flatnonzero(flagged).tolist():
        try:
            event = examine(records[row], config)
        except RefusedError as refused:
            partition = int(partitions[row])
            rejects.append(Reject.of(records[row], topic, partition, refused.reason, refused.detail))
            continue
        flagged[row] = False
        fields.put_event(row, event)
        timestamp_ms[row] = parse_timestamp(event.timestamp) if event.timestamp else append_ms[row]
    if rejects:
        kept = ~flagged
        fields.select(kept)
        records = records.select(kept)
        timestamp_ms, append_ms, offsets = timestamp_ms[kept], append_ms[kept], offsets[kept]
        partitions = partitions[kept]
    events = _events(fields, timestamp_ms, append_ms, partitions, offsets)
    return EventBatch(events, records, topic, progress), rejects


@operator
def decode(step_id: str, up: Stream[RawBatch], config: DecodeConfig) -> DecodeOut:
    """Usage events of each poll, and what is none.

    :arg step_id: Unique id.
    :arg up: Polls of a usage topic.
    :arg config: Limits of an event.
    :returns: Batches of events, and single rejects.
    """

    decode_batch([RawBatch("", 0, [], 0, 1)], config)  # compiled now, and not while the first event waits

    def decode_polls(polls: list[RawBatch]) -> Iterable[tuple[EventBatch, list[Reject]]]:
        yield decode_batch(polls, config)

    decoded = op.flat_map_batch("decode_batch", up, decode_polls)
    return DecodeOut(
        events=op.map("events", decoded, lambda both: both[0]),
        rejects=op.flat_map("rejects", decoded, lambda both: both[1]),
    )


def _fields(records: Records, config: DecodeConfig) -> EventFields:
    payloads = Texts(records.data, records.start, records.value_end)
    fields = EventFields(payloads, config.event_bytes_max)
    by_tenant: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(fields.column(Field.tenant_id).sizes == 0).tolist():
        tenant = tenant_of_header(records[row]) or config.default_tenant.encode()
        by_tenant.setdefault(tenant, []).append(row)
    for tenant, rows in by_tenant.items():
        if is_utf8(tenant):
            fields.put(Field.tenant_id, rows, tenant)
    return fields


def _timestamps(texts: Texts, append_ms: Milliseconds) -> Milliseconds:
    """When events happened: the append time of those that don't say."""
    return np.where(texts.sizes > 0, parse_timestamps(texts), append_ms)


def _flagged(
    fields: EventFields, append_ms: Milliseconds, timestamp_ms: Milliseconds, config: DecodeConfig
) -> Mask:
    """Which records are to be examined because a check failed."""
    flagged = fields.odd.copy()
    needed = [fields.account, *map(fields.column, (Field.id, Field.event_name, Field.tenant_id))]
    for texts in (
        *needed,
        *map(fields.column, (Field.customer_id, Field.external_customer_id, Field.source)),
    ):
        flagged |= texts.sizes > config.text_bytes_max
    for texts in needed:
        flagged |= texts.sizes == 0
    flagged |= (append_ms < 0) | (append_ms > TIMESTAMP_MS_MAX) | (timestamp_ms == INVALID_MS)
    flagged |= timestamp_ms - append_ms > config.ahead_max_s * 1000
    flagged |= append_ms - timestamp_ms > config.age_max_d * 86_400_000
    return flagged


def _events(
    fields: EventFields, timestamp_ms: I64, append_ms: I64, partitions: I32, offsets: I64
) -> pa.RecordBatch:
    columns = [
        fields.column(Field.tenant_id).names(),
        fields.column(Field.event_name).names(),
        fields.account.column(),
        fields.column(Field.customer_id).column(),
        fields.column(Field.id).column(),
        _instants(timestamp_ms),
        fields.column(Field.source).names(),
        fields.column(Field.properties).column(),
        _instants(append_ms),
        pa.array(partitions),
        pa.array(offsets),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=USAGE_EVENTS)


def _instants(ms: Milliseconds) -> pa.Array:
    return pa.array(ms).view(TIMESTAMP_MS)

"""A usage event as producers write it, and why one can be refused.

A record (Kafka) is bytes; an event is what it says; a reject is a record that says nothing we can bill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from schemas.records import Record, Records

APPEND_MS_MAX = 10_413_791_999_999
"""The end of 2299, as far as ClickHouse's DateTime64 goes."""


class Reason(StrEnum):
    """Why a record is in the dead letters: the code in `dead_letters.reason`."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_ID = "missing_id"
    MISSING_EVENT_NAME = "missing_event_name"
    MISSING_CUSTOMER = "missing_customer"
    FIELD_INVALID = "field_invalid"
    FIELD_TOO_LONG = "field_too_long"
    PROPERTIES_INVALID = "properties_invalid"
    TIMESTAMP_INVALID = "timestamp_invalid"
    TIMESTAMP_AHEAD = "timestamp_ahead"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    VALUE_MISSING = "value_missing"
    VALUE_NOT_NUMERIC = "value_not_numeric"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    VALUE_NOT_SCALAR = "value_not_scalar"
    VALUE_TOO_LONG = "value_too_long"
    ACCOUNT_EVENT_INVALID = "account_event_invalid"
    ACCOUNT_EVENT_IMPOSSIBLE = "account_event_impossible"
    STORE_REJECTED = "store_rejected"


REASONS: dict[Reason, str] = {
    Reason.TOO_LARGE: "the payload is over METERLINE_EVENT_BYTES_MAX",
    Reason.NOT_JSON: "the payload is not valid UTF-8 JSON",
    Reason.NOT_AN_OBJECT: "the payload is JSON but not an object",
    Reason.MISSING_ID: "`id` is missing or empty",
    Reason.MISSING_EVENT_NAME: "`event_name` (CloudEvents: `type`) is missing or empty",
    Reason.MISSING_CUSTOMER: "no `external_customer_id` (CloudEvents: `subject`) and no `customer_id`",
    Reason.FIELD_INVALID: "a field has the wrong JSON type",
    Reason.FIELD_TOO_LONG: "a name or an id is over 256 bytes",
    Reason.PROPERTIES_INVALID: "`properties` (CloudEvents: `data`) is not an object, or a meter reads"
    " an integer of over 4,300 characters in it",
    Reason.TIMESTAMP_INVALID: "`timestamp` is not RFC 3339 with a zone",
    Reason.TIMESTAMP_AHEAD: "`timestamp` is over METERLINE_EVENT_AHEAD_MAX_S after the append time",
    Reason.TIMESTAMP_TOO_OLD: "`timestamp` is over METERLINE_EVENT_AGE_MAX_D before the append time",
    Reason.VALUE_MISSING: "a matching meter's field is missing and the meter does not say `on_missing: skip`",
    Reason.VALUE_NOT_NUMERIC: "a matching SUM or AVG meter's field is not a number or a numeric string",
    Reason.VALUE_OUT_OF_RANGE: "a matching meter's value is not between -1e18 and 1e18",
    Reason.VALUE_NOT_SCALAR: "a matching COUNT_UNIQUE meter's field is an object or a list",
    Reason.VALUE_TOO_LONG: "a matching COUNT_UNIQUE meter's value is over 1,024 bytes",
    Reason.ACCOUNT_EVENT_INVALID: "the account event does not have the fields its type asks for",
    Reason.ACCOUNT_EVENT_IMPOSSIBLE: "the account event contradicts the account (an unknown invoice, say)",
    Reason.STORE_REJECTED: "ClickHouse refuses the row for good",
}
"""The one table of reasons; the README's copy is tested against it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`source` (a partition) will send nothing more that was appended before `at_ms`."""

    source: str
    at_ms: int
    sources: int
    """How many sources there are; the watermark waits until each has been heard of."""


@dataclass(frozen=True, slots=True)
class RawBatch:
    """What one poll of one partition returned.

    An empty batch is a heartbeat: it says how far an idle partition has been read (`progress_ms`).
    """

    topic: str
    partition: int
    records: Sequence[Record]
    progress_ms: int
    """No record of this partition that comes later was appended before this time."""
    partitions: int
    """How many partitions its topic has."""

    @property
    def progress(self) -> Progress:
        return Progress(f"{self.topic}/{self.partition}", self.progress_ms, self.partitions)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Decoded events of the polls of one topic; row i of each member is the same event.

    `events`: `schemas.arrow.USAGE_EVENTS`; `records`: what it was decoded from, for the dead letter of an
    event that a meter can't read.
    """

    events: pa.RecordBatch
    records: Records
    topic: str
    progress: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is not metered, with all that a dead letter keeps of it."""

    reason: Reason
    detail: str
    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes
    payload: bytes
    headers: tuple[tuple[str, bytes], ...]

    @staticmethod
    def of(record: Record, topic: str, partition: int, reason: Reason, detail: str) -> Reject:
        """The record refused, with all that a dead letter keeps of it."""
        return Reject(
            reason=reason,
            detail=detail,
            topic=topic,
            partition=partition,
            offset=record.offset(),
            # A producer's own timestamp may lie beyond any calendar; the column holds 0 to 2299.
            append_ms=min(max(record.timestamp()[1], 0), APPEND_MS_MAX),
            key=record.key() or b"",
            payload=record.value() or b"",
            headers=tuple((name, value or b"") for name, value in record.headers() or ()),
        )
